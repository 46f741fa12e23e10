"""A fleet view as plain data: what the page, the terminal and ``--json`` show. Pure.

Times stay as the server's seconds since the epoch: whoever shows them puts them into the viewer's
zone. Text may come from a device or an operator: whoever shows it escapes it.
"""

from collections import Counter

from monitor.device_data import Data, Seen, moments, release_name, reward_row, site_of
from monitor.device_view import Link
from monitor.fleet_view import FleetView
from monitor.round_data import round_row


def overview(view: FleetView, seen: Seen) -> Data:
    """Return the fleet at a glance."""
    links = Counter(
        str(device.link(server_online=seen.trusts_presence)) for device in view.devices.values()
    )
    taking = Counter(
        device.takes_part(server_online=seen.trusts_presence)[0] for device in view.devices.values()
    )
    current = view.current
    return {
        "fleet": view.fleet,
        "model": view.model,
        "software": view.software,
        "phase": view.phase,
        "phase_since": view.phase_since,
        "paused": view.paused,
        "held": view.held,
        "stopped": view.stopped,
        "withheld": view.withheld,
        "server_online": seen.server_online,
        "server_starts": view.epoch,
        "damage": seen.damage,
        "now": seen.now,
        "last_event_at": view.at,
        "devices": len(view.devices),
        "links": {str(link): links[str(link)] for link in Link},
        "participation": dict(taking),
        "rounds_opened": view.opened,
        "rounds_counted": view.counted,
        "budget": view.settings.get("rounds", {}).get("budget", 0),
        "round": round_row(current) if current else None,
        "score": view.score,
        "curve": [
            {"width": one.width, "score": one.score, "low": one.low, "high": one.high}
            for one in (view.scores[-1][2] if view.scores else ())
        ],
        "sent_bytes": view.sent,
        "received_bytes": view.received,
        "sites": sorted({site_of(device) for device in view.devices.values()} - {""}),
        "notes": moments(view.notes),
        "incidents": moments(view.incidents),
    }


def reward_rows(view: FleetView) -> list[Data]:
    """Return what the devices earned, the largest contribution first."""
    rows = [reward_row(device) for device in view.devices.values() if device.reward]
    return sorted(rows, key=lambda row: (-row["contribution"], row["device"]))


def version_shares(view: FleetView) -> list[Data]:
    """Return what the devices say they run, with how many run it; the unconfirmed never hidden."""
    running = Counter(
        (device.running, device.confirmed) for device in view.devices.values() if not device.retired
    )
    return [
        {
            "digest": digest,
            "release": release_name(view, digest) or "none",
            "confirmed": confirmed,
            "devices": count,
        }
        for (digest, confirmed), count in running.most_common()
    ]


def version_history(view: FleetView) -> list[Data]:
    """Return how many devices ran what, from each moment on, the oldest first."""
    return [
        {
            "at": at,
            "running": [
                {
                    "digest": digest,
                    "release": release_name(view, digest) or "none",
                    "confirmed": confirmed,
                    "devices": count,
                }
                for (digest, confirmed), count in sorted(counts.items())
            ],
        }
        for at, counts in view.versions.points
    ]
