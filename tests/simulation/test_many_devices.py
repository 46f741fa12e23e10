"""A round of many devices must cost so much a device, however many there are."""

import sys
from collections import Counter

import pytest

import coordinator.server
from benchmarks.crowd import crowd_rounds
from broker.topics import ServerTells, ServerTopic
from coordinator.notices import Notices
from coordinator.publications import publications
from journal.platform import unflushed
from journal.store import Journal
from tests.fakes.small_fleet import DeviceSettings, SmallFleet, toy_settings
from tests.fakes.virtual_clock import simulated

SUMMARY = ServerTopic(ServerTells.SUMMARY)
ROOMS = ("/coordinator/", "/broker/", "/journal/", "/benchmarks/")
FEW, MORE, MANY = 30, 60, 90


def calls_of_rounds(devices, folder):
    """Return how many calls our own code makes in two rounds, and the rounds."""
    counted = Counter()

    def count(frame, event, _):
        if event in ("call", "c_call") and any(r in frame.f_code.co_filename for r in ROOMS):
            counted[event] += 1

    with unflushed():
        sys.setprofile(count)
        try:
            rounds = crowd_rounds(devices, 2, folder)
        finally:
            sys.setprofile(None)
    return counted.total(), rounds


def test_thirty_more_devices_make_as_much_more_work_however_many_there_are(tmp_path):
    few, _ = calls_of_rounds(FEW, tmp_path / "few")
    more, _ = calls_of_rounds(MORE, tmp_path / "more")
    many, rounds = calls_of_rounds(MANY, tmp_path / "many")
    # One look at every device for each message makes this 1.13, and nothing of the kind 1.03.
    assert many - more < 1.1 * (more - few)
    # Task, standing, receipt, task cleared; the rest is for all of them together.
    assert rounds[0].published <= 4 * MANY + 30
    assert rounds[0].events <= 3 * MANY + 10


def test_a_device_costs_one_commit_a_round_and_what_it_says_before_waits_for_that(tmp_path):
    def commits(devices):
        written = []
        with pytest.MonkeyPatch.context() as patched, unflushed():
            write = Journal._write
            patched.setattr(
                Journal, "_write", lambda self, some: (written.append(len(some)), write(self, some))
            )
            (found,) = crowd_rounds(devices, 1, tmp_path / str(devices))
        assert found.events > 3 * devices
        return sum(written), len(written)

    (fewer_events, fewer), (events, more) = commits(FEW), commits(MORE)
    # Two before the round: it came, and said what it can do; each with its presence or its width.
    assert events - fewer_events == 7 * (MORE - FEW)
    assert more - fewer == 4 * (MORE - FEW)


class CheckedNotices(Notices):
    """Compares what was said about single devices with what should stand on every topic."""

    checked = 0

    def due(self, state, shares):
        changed = super().due(state, shares)
        wanted = publications(state, shares, self._sign)
        said = {topic: message for topic, message in self._said.items() if message is not None}
        due = {topic: message for topic, message in wanted.items() if message is not None}
        said.pop(SUMMARY, None), due.pop(SUMMARY, None)
        assert said == due
        CheckedNotices.checked += 1
        return changed


@simulated
async def test_what_is_said_device_by_device_is_what_should_stand_on_every_topic(tmp_path):
    devices = {
        "press": DeviceSettings(),
        "lathe": DeviceSettings(),
        "gauge": DeviceSettings(trains=False),
    }
    settings = toy_settings(
        rounds={"budget": 2, "minimum": 2, "min_devices": 2, "release_every": 1}
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(coordinator.server, "Notices", CheckedNotices)
        async with SmallFleet(tmp_path, devices, settings=settings) as fleet:
            await fleet.until(lambda: fleet.broker.published > 40)
            fleet.broker.cut("press")
            await fleet.until(fleet.training(2))
            fleet.broker.heal("press")
            await fleet.until(fleet.finished)
            assert fleet.retained(SUMMARY).phase == "finished"
    assert CheckedNotices.checked > 10


@simulated
async def test_the_summary_shows_every_device_within_a_tick_of_its_arrival(tmp_path):
    async with SmallFleet(
        tmp_path, {"press": DeviceSettings(), "lathe": DeviceSettings()}
    ) as fleet:
        await fleet.until(fleet.finished)
        summary = fleet.retained(SUMMARY)
        assert {device.device for device in summary.devices} == {"press", "lathe"}
        assert summary.online == 2
