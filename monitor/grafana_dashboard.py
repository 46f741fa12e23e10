"""The Grafana dashboard: ``python -m monitor.grafana_dashboard > monitor/grafana/dashboard.json``.

For Grafana 10 and newer, with a Prometheus data source. It asks nothing but what `monitor.metrics`
offers; panels of single devices are empty above the limit of devices.
"""

import json
import sys
from dataclasses import dataclass, field
from typing import Any

COMMAND = "python -m monitor.grafana_dashboard > monitor/grafana/dashboard.json"
SCHEMA_VERSION = 38  # of Grafana 10.0
COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HERE = 'instance="$instance"'
SITE = f'{HERE},site=~"$site"'
OF_SITE = f"* on (instance, device) group_left (site) slimfleet_device_info{{{SITE}}}"


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: as it is shown.
        queries: (PromQL, legend), a line each.
        kind: of Grafana's panels.
        unit: of Grafana's units; width, height: in its grid of 24 columns.
        about: what it tells, for the corner of the panel.
        stacked: whether areas stand on each other.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 12
    height: int = 8
    about: str = ""
    stacked: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def _stat(title: str, query: str, unit: str = "short", about: str = "") -> Panel:
    return Panel(title, ((query, ""),), "stat", unit, 4, 4, about)


def _quantiles(histogram: str) -> tuple[tuple[str, str], ...]:
    bars = f"sum by (le) (increase({histogram}_bucket{{{HERE}}}[1h]))"
    return tuple(
        (f"histogram_quantile({share}, {bars})", f"p{round(100 * share)}") for share in (0.5, 0.95)
    )


STATS = (
    _stat("Devices there", f'sum(slimfleet_devices{{{SITE},link=~"online|late"}})'),
    _stat("Offline", f'sum(slimfleet_devices{{{SITE},link="offline"}})'),
    _stat(
        "Participation, 1 d",
        f"increase(slimfleet_aggregated_turns_total{{{HERE}}}[1d])"
        f" / increase(slimfleet_eligible_turns_total{{{HERE}}}[1d])",
        "percentunit",
        "Aggregated over eligible rounds of all devices.",
    ),
    _stat("Rounds aggregated", f'slimfleet_rounds_total{{{HERE},outcome="aggregated"}}'),
    _stat("Score of the widest width", f"slimfleet_score_widest{{{HERE}}}"),
    _stat("Journal intact", f"slimfleet_journal_intact{{{HERE}}}", about="0 is an alarm."),
)
FLEET = (
    Panel(
        "Devices by link",
        ((f"sum by (link) (slimfleet_devices{{{SITE}}})", "{{link}}"),),
        stacked=True,
    ),
    Panel(
        "Devices with something wrong",
        (
            (
                f"sum by (alarm) (slimfleet_alarmed_devices{{{SITE}}})",
                "{{alarm}}",
            ),
        ),
        about="Empty is good.",
    ),
    Panel(
        "Participation of each device",
        ((f"slimfleet_participation_ratio{{{HERE}}} {OF_SITE}", "{{device}}"),),
        unit="percentunit",
        about="Aggregated over eligible rounds, since the device joined.",
    ),
    Panel(
        "Straggler index",
        ((f"slimfleet_straggler_ratio{{{HERE}}} {OF_SITE}", "{{device}}"),),
        about="Duration over the median of devices of the same width. From 1.5 on it lags.",
    ),
)
ROUNDS = (
    Panel(
        "Funnel of the last round",
        ((f"slimfleet_round_stage_devices{{{HERE}}}", "{{stage}}"),),
        kind="bargauge",
    ),
    Panel(
        "Why devices missed rounds, in 1 h",
        (
            (
                f"increase(slimfleet_round_drops_total{{{HERE}}}[1h]) > 0",
                "{{reason}}",
            ),
        ),
        stacked=True,
    ),
    Panel(
        "Duration of rounds",
        _quantiles("slimfleet_round_duration_seconds"),
        unit="s",
        about="From the opening to the closing, of the rounds of the last hour.",
    ),
    Panel(
        "Time of devices until their update is in",
        _quantiles("slimfleet_update_duration_seconds"),
        unit="s",
    ),
    Panel("Score over width", ((f"slimfleet_score{{{HERE}}}", "width {{width}}"),)),
    Panel(
        "Traffic",
        ((f"rate(slimfleet_transfer_bytes_total{{{HERE}}}[$__rate_interval])", "{{direction}}"),),
        unit="Bps",
        about="Model bytes, up from the devices and down to them.",
    ),
)
MODELS = (
    Panel(
        "Releases: assigned, installed, confirmed",
        ((f"slimfleet_release_devices{{{HERE}}}", "{{state}}"),),
        about="The three lines should meet. A gap that stays is a device that does not confirm.",
    ),
    Panel(
        "Drift",
        ((f"slimfleet_drift_psi{{{HERE}}} {OF_SITE}", "{{device}}"),),
        about="Population stability index. Above 0.1 worth a look, above 0.2 an alarm.",
    ),
    Panel(
        "Answers of all models",
        ((f"rate(slimfleet_inferences_total{{{HERE}}}[$__rate_interval])", "answers"),),
        unit="reqps",
    ),
    Panel(
        "Memory of agents",
        ((f"slimfleet_device_memory_bytes{{{HERE}}} {OF_SITE}", "{{device}}"),),
        unit="bytes",
    ),
    Panel(
        "Widths",
        (
            (f"avg(slimfleet_width_training_ratio{{{HERE}}} > 0)", "trained"),
            (f"avg(slimfleet_width_reward_ratio{{{HERE}}} > 0)", "earned"),
            (f"avg(slimfleet_width_running_ratio{{{HERE}}} > 0)", "running"),
        ),
        about="Averages over the devices that have one.",
    ),
    Panel(
        "Clock of devices less the server's",
        ((f"slimfleet_device_clock_offset_seconds{{{HERE}}} {OF_SITE}", "{{device}}"),),
        unit="s",
    ),
)
ROWS = (("Fleet", (*STATS, *FLEET)), ("Rounds", ROUNDS), ("Models and devices", MODELS))


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "title": "Slimfleet",
        "uid": "slimfleet",
        "tags": ["slimfleet"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": _placed(),
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "source"},
        _variable("instance", "label_values(slimfleet_campaign_info, instance)"),
        _variable("site", f"label_values(slimfleet_devices{{{HERE}}}, site)")
        | {"includeAll": True, "allValue": ".*", "multi": True},
    ]


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "label": name,
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the time range changes
        "sort": 1,
    }


def _placed() -> list[dict[str, Any]]:
    """Return the panels with their places, row by row."""
    found: list[dict[str, Any]] = []
    x = y = below = 0
    for title, panels in ROWS:
        y, x = max(y, below), 0
        row = {"type": "row", "title": title, "collapsed": False, "panels": []}
        found.append(row | {"id": len(found) + 1, "gridPos": _place(0, y, COLUMNS, 1)})
        y = below = y + 1
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y = 0, below
            place = _place(x, y, panel.width, panel.height)
            found.append(_panel(panel) | {"id": len(found) + 1, "gridPos": place})
            x, below = x + panel.width, max(below, y + panel.height)
    return found


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + place), "expr": query, "datasource": SOURCE}
        | ({"legendFormat": legend} if legend else {})
        | ({"instant": True} if panel.kind != "timeseries" else {})
        for place, (query, legend) in enumerate(panel.queries)
    ]
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 40} if panel.stacked else {}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": panel.options,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=2) + "\n")
