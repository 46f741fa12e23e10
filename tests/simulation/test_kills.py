"""Processes killed at every step: nothing that was acknowledged is lost, and the campaign ends well."""

import itertools
import shutil

import pytest

from journal import events as e
from journal.crashpoints import CRASHPOINTS
from tests.fakes.small_fleet import (
    FLEET,
    SERVER,
    DeviceSettings,
    Kill,
    SmallFleet,
    toy_settings,
)
from tests.fakes.virtual_clock import run, simulated

PRESS, LATHE = "press", "lathe"
ROUNDS = 2


def small_campaign(folder, kill=None, **settings):
    devices = {PRESS: DeviceSettings(), LATHE: DeviceSettings(trainer={"widest": 0.5})}
    rounds = {"budget": ROUNDS, "minimum": ROUNDS, "quorum": 2, "deadline_s": 6.0}
    return SmallFleet(
        folder, devices, settings=toy_settings(rounds=rounds, **settings), kill=kill
    )


async def finish(fleet):
    """Run a campaign to its end and check what must hold however it went."""
    await fleet.until(lambda: fleet.finished() and set(fleet.confirmed()) == {PRESS, LATHE})
    await fleet.until(lambda: not fleet.retained_blocks())
    await fleet.until(lambda: not any(d.outbox.pending() for d in fleet.devices.values()))
    events = fleet.events()
    accepted = {(one.round, one.device) for one in events if isinstance(one, e.UpdateAccepted)}
    for closed in (one for one in events if isinstance(one, e.RoundClosed)):
        of_round = {device for number, device in accepted if number == closed.round}
        assert of_round == set(closed.aggregated) or not closed.aggregated
    scored = [one.round for one in events if isinstance(one, e.RoundScored)]
    assert scored == sorted(set(scored)), "a round was scored twice"
    assert scored[-1] == fleet.state.weights_round
    return events


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The events of a campaign in which nothing happens."""

    async def campaign():
        async with small_campaign(tmp_path_factory.mktemp("undisturbed")) as fleet:
            return await finish(fleet)

    return run(campaign())


@pytest.mark.parametrize("place", ["journal-before-commit", "journal-after-commit"])
def test_the_server_may_be_killed_at_any_commit(place, tmp_path, undisturbed):
    last_committed = set()

    async def campaign(nth):
        kill = Kill(SERVER, place, nth)
        async with small_campaign(tmp_path / str(nth), kill=kill) as fleet:
            await finish(fleet)
            return kill.fired

    for nth in itertools.count(1):
        (tmp_path / str(nth)).mkdir()
        try:
            fired = run(campaign(nth))
        except BaseException as error:
            raise AssertionError(f"killed at {place} number {nth}") from error
        shutil.rmtree(tmp_path / str(nth))
        if not fired:
            break
    print(nth)
