"""Fair rewards without validation data: devices report, some of them lie, in virtual time."""

import msgspec
import pytest

from broker.messages import WidthEvaluation
from coordinator.fleet import Phase
from coordinator.reported_curve import NOT_MEASURED
from journal import events as e
from tests.fakes.small_fleet import DeviceSettings, SmallFleet, toy_settings
from tests.fakes.toy_training import FREE_RIDER, GRID
from tests.fakes.virtual_clock import run, simulated

HONEST = ("device-a", "device-b", "device-c")
OTHERS = ("device-d", "device-e")


def claims(score):
    """Return a report that claims one score everywhere."""
    return lambda told: tuple(
        msgspec.structs.replace(one, score=score, loss=1.0 - score) for one in told
    )


def silent(_told):
    return ()


def settings_of(devices, rewards=None, **rounds):
    known = {"budget": 4, "minimum": 4, "min_devices": len(devices), "quorum": len(devices)}
    return toy_settings(
        rounds=known | rounds, rewards=rewards or {}, contributions={"evaluator": "devices"}
    )


def play(folder, reports):
    """Return the state and events of a campaign where each device reports as told."""
    devices = {
        name: DeviceSettings(trainer={"reports": reports.get(name)}) for name in (*HONEST, *OTHERS)
    }

    async def campaign():
        async with SmallFleet(folder, devices, settings=settings_of(devices)) as fleet:
            await fleet.until(fleet.finished)
            return fleet.state, fleet.events(), fleet.confirmed()

    return run(campaign())


@pytest.fixture(scope="module")
def lied_to(tmp_path_factory):
    """A campaign of five devices, of which one claims the best and one the worst score."""
    return play(
        tmp_path_factory.mktemp("lied-to"),
        {OTHERS[0]: claims(1.0), OTHERS[1]: claims(-1000.0)},
    )


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The same campaign where those two report nothing."""
    return play(tmp_path_factory.mktemp("honest"), dict.fromkeys(OTHERS, silent))


def test_one_liar_in_five_on_either_side_changes_no_reward(lied_to, honest):
    state, _, confirmed = lied_to
    assert state.phase is Phase.FINISHED
    assert state.allocation.rewards == honest[0].allocation.rewards
    assert state.allocation.rule == honest[0].allocation.rule
    assert confirmed == honest[2]
    assert set(confirmed) == {*HONEST, *OTHERS}


def test_the_liars_do_not_move_the_curve(lied_to, honest):
    told, true = (
        [(p.width, p.score, p.fitted, p.offered) for p in state.scored.curve]
        for state, _, _ in (lied_to, honest)
    )
    assert told == true


@simulated
async def test_a_width_that_too_few_report_for_a_lie_to_be_cut_off_need_not_be_offered(tmp_path):
    devices = {name: DeviceSettings() for name in (*HONEST, OTHERS[0])}
    devices[OTHERS[0]].trainer["reports"] = claims(-1000.0)
    devices[OTHERS[1]] = DeviceSettings(trainer={"widest": 0.75})
    settings = settings_of(devices, rewards={"min_trainers": 5})
    async with SmallFleet(tmp_path, devices, settings=settings) as fleet:
        await fleet.until(fleet.finished)
        *_, below, full = fleet.state.scored.curve
        assert full.score < -200 < 0 < below.score
        assert (below.width, below.offered, full.offered) == (0.75, True, False)
        assert full.why == "reported by 4 devices, at least 5 are needed"
        assert max(one.width for one in fleet.state.allocation.rewards) == 0.75


def test_the_curve_of_a_round_is_about_the_weights_that_it_started_from(lied_to):
    _, events, _ = lied_to
    opened = {one.round: one.base for one in events if isinstance(one, e.RoundOpened)}
    scored = [one for one in events if isinstance(one, e.RoundScored)]
    assert [one.measured for one in scored] == [opened[one.round] for one in scored]
    full = [one.curve[-1].score for one in scored]
    assert full == sorted(full)
    assert [one.value_before for one in scored[1:]] == [one.value_after for one in scored[:-1]]


def test_what_is_released_are_the_newest_weights_that_were_measured(lied_to):
    state, events, _ = lied_to
    built = [one.release.manifest for one in events if isinstance(one, e.ReleaseBuilt)]
    assert state.weights_round == 4
    assert (state.measured_round, {one.round for one in built}) == (3, {3})
    assert state.released_weights == state.measured != state.weights
    reported = {point.width: point.score for point in state.scored.curve}
    assert {one.width: one.score for one in built} == {
        one.width: reported[one.width] for one in built
    }


def test_the_untrained_score_is_what_the_first_round_reports(lied_to):
    state, events, _ = lied_to
    first = next(one for one in events if isinstance(one, e.RoundScored))
    assert state.untrained == first.curve[-1].score < state.scored.curve[-1].score


def test_a_reward_width_outside_the_grid_is_never_given(lied_to):
    state, _, _ = lied_to
    outside = {p.width: p for p in state.scored.curve if p.width not in GRID}
    assert outside
    assert {(point.offered, point.why) for point in outside.values()} == {(False, NOT_MEASURED)}
    assert all(one.width in GRID for one in state.allocation.rewards)


def test_contributions_come_from_a_method_that_needs_no_validation_data(lied_to):
    _, events, _ = lied_to
    methods = {one.method for one in events if isinstance(one, e.RoundScored)}
    assert methods == {"cosine-to-aggregate"}


@simulated
async def test_a_free_rider_that_claims_perfection_is_trimmed_off(tmp_path):
    names = ("device-a", "device-b", "device-c", "device-d")
    devices = {name: DeviceSettings() for name in names}
    devices["rider"] = DeviceSettings(behaviour=FREE_RIDER)
    async with SmallFleet(tmp_path, devices, settings=settings_of(devices)) as fleet:
        await fleet.until(fleet.finished)
        for scored in fleet.events(e.RoundScored):
            assert scored.curve[-1].score < 0.95
        assert fleet.state.devices["rider"].reward.width == 0
        assert "rider" not in fleet.confirmed()


@simulated
async def test_where_nobody_can_measure_nothing_is_given_and_training_ends(tmp_path):
    devices = {
        name: DeviceSettings(trainer={"reports": silent}) for name in ("device-a", "device-b")
    }
    settings = settings_of(devices, budget=20, minimum=2, patience=2)
    async with SmallFleet(tmp_path, devices, settings=settings) as fleet:
        await fleet.until(fleet.finished)
        state = fleet.state
        assert state.stopped.startswith("plateau")
        assert (state.allocation.rule, state.allocation.rewards) == ("none", ())
        assert "no device has reported" in state.allocation.note
        assert (state.scored.curve, state.measured, state.releases) == ((), "", {})
        assert fleet.confirmed() == {}


@simulated
async def test_the_last_curve_stays_where_a_round_brings_no_report(tmp_path):
    rounds_told = {}

    def at_first(name):
        def reports(told):
            rounds_told[name] = rounds_told.get(name, 0) + 1
            return told if rounds_told[name] <= 2 else ()

        return reports

    names = ("device-a", "device-b")
    devices = {name: DeviceSettings(trainer={"reports": at_first(name)}) for name in names}
    async with SmallFleet(tmp_path, devices, settings=settings_of(devices)) as fleet:
        await fleet.until(fleet.finished)
        first, second, *later = fleet.events(e.RoundScored)
        assert first.measured != second.measured
        assert [(one.curve, one.measured) for one in later] == [(second.curve, second.measured)] * 2
        assert (fleet.state.measured, fleet.state.measured_round) == (second.measured, 1)
        assert set(fleet.confirmed()) == set(names)


@simulated
async def test_nonsense_in_a_report_is_noted_and_the_update_counts(tmp_path):
    nonsense = WidthEvaluation(width=0.3, score=7.0, loss=-1.0, samples=0)
    devices = {
        "device-a": DeviceSettings(trainer={"reports": lambda told: (*told, nonsense)}),
        "device-b": DeviceSettings(),
    }
    async with SmallFleet(tmp_path, devices, settings=settings_of(devices)) as fleet:
        await fleet.until(fleet.finished)
        refused = fleet.events(e.MessageRefused)
        assert {(one.sender, one.channel) for one in refused} == {("device-a", "update")}
        assert refused[0].reason == (
            "1 of 5 evaluations dropped: width 0.3 is none of the grid up to 1"
        )
        accepted = [one for one in fleet.events(e.UpdateAccepted) if one.device == "device-a"]
        assert len(accepted) == 4
        assert all(len(one.evaluations) == 4 for one in accepted)


@simulated
async def test_a_replayed_journal_gives_the_state_that_the_server_had(tmp_path):
    devices = {name: DeviceSettings() for name in ("device-a", "device-b")}
    settings = settings_of(devices)
    async with SmallFleet(tmp_path, devices, settings=settings) as fleet:
        await fleet.until(fleet.finished)
        before = fleet.state
        await fleet.server.kill()
        await fleet.server.start()
        await fleet.until(lambda: fleet.server.coordinator and fleet.state.epoch > before.epoch)
        assert fleet.state.reports == before.reports
        assert (fleet.state.measured, fleet.state.untrained) == (before.measured, before.untrained)
