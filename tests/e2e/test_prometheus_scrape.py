"""A running fleet as Prometheus sees it: who is there, who goes, and what training does."""

import pytest

from tests.fakes.prometheus import metrics_of, program, prometheus
from tests.fakes.real_fleet import SERVER, RealDevice, RealFleet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mqtt,
    pytest.mark.torch,
    pytest.mark.timeout(240),
]
PRESS, LATHE = "press", "lathe"
CAMPAIGN = {
    "rounds": {"budget": 2, "minimum": 1},
    "labels": {PRESS: {"site": "hall-1"}, LATHE: {"site": "hall-2"}},
}


def test_prometheus_sees_a_running_fleet_train_and_a_killed_device_go(tmp_path):
    program("prometheus")
    devices = [RealDevice(PRESS, person=1), RealDevice(LATHE, person=2)]
    with RealFleet(tmp_path / "fleet", devices, campaign=CAMPAIGN) as fleet:
        fleet.start_all()
        fleet.wait(lambda: fleet.state.devices, "the first device")
        place = ["--config", str(fleet.config(SERVER))]
        with metrics_of(place, tmp_path) as url, prometheus(url, tmp_path) as seen:
            seen.until("sum(slimfleet_device_up)", 2)
            seen.until('sum(slimfleet_devices{link="online"})', 2)
            fleet.until_finished()
            seen.until('slimfleet_campaign_phase{phase="finished"}', 1)
            seen.until('slimfleet_rounds_total{outcome="aggregated"}', fleet.state.trained_rounds)
            seen.until('sum(slimfleet_release_devices{state="confirmed"})', 2)
            assert seen.value('slimfleet_device_info{device="lathe",site="hall-2"}') == 1
            assert seen.value('slimfleet_participation_ratio{device="press"}') == 1
            assert (seen.value('slimfleet_transfer_bytes_total{direction="up"}') or 0) > 0
            seen.until("sum(slimfleet_device_last_telemetry_timestamp_seconds > bool 0)", 2)
            fleet.kill(LATHE)
            seen.until('slimfleet_device_up{device="lathe"}', 0)
            assert seen.value('slimfleet_devices{site="hall-2",link="offline"}') == 1
            assert seen.value('slimfleet_device_up{device="press"}') == 1
            fleet.kill(SERVER)
            seen.until("slimfleet_server_up", 0)
            seen.until('slimfleet_device_up{device="press"}', 0)
            assert seen.value('slimfleet_devices{site="hall-1",link="stale"}') == 1
