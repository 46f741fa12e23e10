"""Processes killed at every step: nothing that was acknowledged is lost, the campaign ends well."""

import itertools
import shutil

import pytest

from broker.codec import decode_on
from broker.topics import DownTopic, ServerSays, parse_topic
from journal import events as e
from journal.crashpoints import CRASHPOINTS
from journal.reader import DATABASE, JournalReader
from tests.fakes.small_fleet import (
    FLEET,
    SERVER,
    DeviceSettings,
    Kill,
    SmallFleet,
    toy_settings,
)
from tests.fakes.virtual_clock import run

PRESS, LATHE = "press", "lathe"
ROUNDS = 2
# What a device does, in the words of `edge_agent.session`; a task has all of them but Install.
STEPS = (
    "Say Profile",
    "Say Progress accepted",
    "Say Progress started",
    "Say Progress uploaded",
    "MakeProfile",
    "FetchWeights",
    "Train",
    "KeepUpdate",
    "SendUpdate",
    "SettleUpdate",
    "Install",
    "KeepWitness",
)


def small_campaign(folder, kill=None, press=None, **rounds):
    devices = {
        PRESS: press or DeviceSettings(),
        LATHE: DeviceSettings(trainer={"widest": 0.5}),
    }
    wanted = {"budget": ROUNDS, "minimum": ROUNDS, "quorum": 2, "deadline_s": 6.0} | rounds
    return SmallFleet(folder, devices, settings=toy_settings(rounds=wanted), kill=kill)


async def finish(fleet, *, tidy=True):
    """Run a campaign to its end and check what must hold however it went."""
    await fleet.until(lambda: fleet.finished() and set(fleet.confirmed()) == {PRESS, LATHE})
    if tidy:
        await fleet.until(lambda: not fleet.retained_blocks())
    await fleet.until(lambda: not any(d.outbox.pending() for d in fleet.devices.values()))
    events = fleet.events()
    accepted = {(one.round, one.device) for one in events if isinstance(one, e.UpdateAccepted)}
    for closed in (one for one in events if isinstance(one, e.RoundClosed)):
        of_round = {device for number, device in accepted if number == closed.round}
        assert not closed.aggregated or of_round == set(closed.aggregated)
    scored = [one.round for one in events if isinstance(one, e.RoundScored)]
    assert scored == sorted(set(scored)), "a round was scored twice"
    assert len(scored) == fleet.settings.rounds.budget
    for name, device in fleet.devices.items():
        current = device.installer.installed()
        assert current.report.running == current.digest == fleet.confirmed()[name]
        # No kill may look like a changed journal.
        assert device.session.witness.state.kept
        assert device.session.witness.state.contradiction is None
    return events


def killed_campaign(folder, kill, before_start=None, *, tidy=True, **settings):
    """Return the events of a campaign with a kill in it, and whether it came to the kill."""

    async def campaign():
        async with small_campaign(folder, kill, **settings) as fleet:
            if before_start:
                before_start(fleet)
            events = await finish(fleet, tidy=tidy)
            check_history(fleet.server)
            return events, kill.fired

    folder.mkdir(exist_ok=True)
    try:
        return run(campaign())
    except BaseException as error:
        raise AssertionError(f"{kill.user} killed at {kill.place} number {kill.nth}") from error
    finally:
        shutil.rmtree(folder)


def check_history(server):
    """Each life of the server went on where the disk of the one before ended."""
    lives = sorted(server.folder.parent.glob("life-*"))
    journals = [records_of(life) for life in lives if (life / "journal" / DATABASE).exists()]
    for before, after in itertools.pairwise(journals):
        # The dying process may have added to its own copy on the way out, the disk never saw it.
        start = epoch_start(after)
        assert before[:start] == after[:start], "history was changed"


def records_of(life):
    return list(JournalReader(life / "journal").records())


def epoch_start(records):
    """Return how many records stand before the last start of the server."""
    return max(i for i, record in enumerate(records) if isinstance(record.event, e.ServerStarted))


@pytest.fixture(scope="module")
def weights_per_round(tmp_path_factory):
    """What the rounds of a campaign give in which nothing happens."""
    nobody = Kill("nobody", "nowhere")
    events, _ = killed_campaign(tmp_path_factory.mktemp("undisturbed"), nobody)
    return weights_of(events)


def weights_of(events):
    return [one.digest for one in events if isinstance(one, e.RoundScored)]


@pytest.mark.parametrize("place", ["journal-before-commit", "journal-after-commit"])
def test_the_server_may_be_killed_at_every_commit(place, tmp_path, weights_per_round):
    last_committed = set()
    for nth in itertools.count(1):
        events, fired = killed_campaign(tmp_path / str(nth), Kill(SERVER, place, nth))
        if not fired:
            break
        assert weights_of(events) == weights_per_round, f"killed at commit {nth}"
        starts = [i for i, event in enumerate(events) if isinstance(event, e.ServerStarted)]
        if len(starts) == 2:
            last_committed.add(type(events[starts[1] - 1]))
    if place == "journal-after-commit":
        assert last_committed >= {
            e.CampaignStarted,
            e.ModelInitialised,
            e.PresenceChanged,
            e.WidthChosen,
            e.RoundOpened,
            e.BlobShared,
            e.TaskProgressed,
            e.UpdateAccepted,
            e.RoundClosed,
            e.DeploymentIssued,
            e.InstallReported,
            e.CampaignFinished,
        }


OF_SERVER = ("journal-", "blob-", "checkpoints-", "file-")
OF_DEVICE = ("outbox-", "slots-", "witness-", "file-")
SERVER_PLACES = [name for name in sorted(CRASHPOINTS) if name.startswith(OF_SERVER)]
DEVICE_PLACES = [name for name in sorted(CRASHPOINTS) if name.startswith(OF_DEVICE)]


def test_every_crash_point_belongs_to_a_process_that_is_killed_there():
    elsewhere = set(CRASHPOINTS) - set(SERVER_PLACES) - set(DEVICE_PLACES)
    # A journal of an older version is brought up to date in tests/unit/test_journal_migration.py.
    assert not {name for name in elsewhere if not name.startswith("migration-")}


@pytest.mark.parametrize("place", SERVER_PLACES)
def test_the_server_may_be_killed_at_every_crash_point(place, tmp_path):
    _, fired = killed_campaign(tmp_path / "first", Kill(SERVER, place))
    assert fired
    if place not in {"journal-created", "journal-named"}:
        killed_campaign(tmp_path / "third", Kill(SERVER, place, 3))


@pytest.mark.parametrize("place", [p for p in DEVICE_PLACES if p != "outbox-put-half"])
def test_a_device_may_be_killed_at_every_crash_point(place, tmp_path):
    # A release after each round: models are replaced and collected.
    fired = [
        killed_campaign(tmp_path / str(nth), Kill(PRESS, place, nth), budget=3, release_every=1)[1]
        for nth in (1, 2)
    ]
    assert fired[0]


def test_a_device_may_be_killed_while_an_old_update_makes_room_for_a_new_one(tmp_path):
    def lose_the_first_receipt(fleet):
        lost = DownTopic(PRESS, ServerSays.RECEIPT)

        def fault(user, event):
            receipt = user == PRESS and event.payload and parse_topic(FLEET, event.topic) == lost
            if receipt and decode_on(lost, event.payload).round == 1:
                return ()
            return (event,)

        fleet.broker.fault = fault

    kill = Kill(PRESS, "outbox-put-half")
    press = DeviceSettings(kept=1)
    _, fired = killed_campaign(
        tmp_path / "x", kill, lose_the_first_receipt, press=press, tidy=False
    )
    assert fired


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_device_may_be_killed_before_and_after_each_thing_it_does(when, step, tmp_path):
    _, fired = killed_campaign(tmp_path / "x", Kill(PRESS, f"{when} {step}"))
    assert fired
