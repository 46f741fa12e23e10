"""The benchmark of watching: what it plays is a fleet, and what it prints are its goals."""

import json

import pytest

from benchmarks import monitor
from benchmarks.__main__ import parser_of
from benchmarks.monitored_fleet import LATE_ONE_IN, beginning, device_names, round_events, telemetry
from benchmarks.results import as_json
from journal.chain import canonical_bytes
from monitor.fleet_view import FleetView
from monitor.folding import fold


def test_the_rounds_that_it_plays_are_rounds_of_a_whole_fleet():
    names, view = device_names(LATE_ONE_IN), FleetView()
    for event in [*beginning(names), *round_events(1, names)]:
        canonical_bytes(event)  # a journal takes it as it is
        fold(view, 0.0, event)
    assert len(view.devices) == len(names)
    assert view.rounds[1].funnel == {
        "eligible": 25,
        "invited": 25,
        "accepted": 25,
        "started": 25,
        "uploaded": 24,
        "aggregated": 24,
    }
    assert view.rounds[1].drops == {"late": 1}
    assert view.scores[0][2][-1].width == 1.0


def test_devices_say_different_things_and_the_same_in_every_run():
    assert telemetry(1, 2) == telemetry(1, 2)
    assert telemetry(1, 2) != telemetry(2, 2)
    assert sum(telemetry(1, 2).confidence) == telemetry(1, 2).inferences


def test_it_measures_every_goal():
    given = ["--devices", "30", "--rounds", "2", "--live", "3", "--minutes", "6"]
    result = monitor.measure(parser_of("monitor").parse_args(given))
    assert len(result.ratios) == 6
    assert all(one.measured > 0 for one in result.ratios)
    assert all(one.met is not None for one in result.ratios)
    memory = next(one for one in result.ratios if "minutes of telemetry" in one.name)
    assert memory.ratio == pytest.approx(1.0, abs=0.2)
    assert json.loads(as_json(result, {}, "x"))["benchmark"] == "monitor"
