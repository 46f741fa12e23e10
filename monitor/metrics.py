"""Everything that a monitoring system can ask of a fleet, from one view. Pure.

Series of devices cost memory in whoever collects them: above a limit of devices there are none, and
`slimfleet_device_series_omitted` says how many are left out. Retired devices have none either.
"""

from monitor.device_data import Seen
from monitor.device_metrics import DEVICE_METRICS, device_families
from monitor.fleet_metrics import FLEET_METRICS, fleet_families
from monitor.fleet_view import FleetView
from monitor.metric import Family, Kind, Metric, family, tidy

DEVICE_LIMIT = 300
BUILD = Metric(
    "slimfleet_build_info", Kind.INFO, "Version of the monitor; the value is 1.", ("version",)
)
LIMIT = Metric(
    "slimfleet_device_series_limit", Kind.GAUGE, "Up to so many devices each has its own series."
)
OMITTED = Metric(
    "slimfleet_device_series_omitted",
    Kind.GAUGE,
    "Devices without series of their own, since there are more than the limit; else 0.",
)
METRICS = (BUILD, LIMIT, OMITTED, *FLEET_METRICS, *DEVICE_METRICS)


def families(
    view: FleetView, seen: Seen, *, device_limit: int = DEVICE_LIMIT, version: str = ""
) -> list[Family]:
    """Return all metrics with their values.

    Args:
        view: of the fleet.
        seen: what the view does not hold itself.
        device_limit: up to so many devices that are not retired each has its own series.
        version: of the software that serves the metrics; "" = it does not say.
    """
    present = sorted(
        (device for device in view.devices.values() if not device.retired),
        key=lambda device: device.name,
    )
    shown = present if len(present) <= device_limit else []
    return [
        family(BUILD, {(tidy(version),): 1.0} if version else {}),
        family(LIMIT, {(): float(device_limit)}),
        family(OMITTED, {(): float(len(present) - len(shown))}),
        *fleet_families(view, seen),
        *device_families(shown, view, seen),
    ]
