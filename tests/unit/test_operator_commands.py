"""What an operator can do with a device, decided and replayed; suspending stands in test_rounds."""

import math

import msgspec
import pytest
from hypothesis import settings as search
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.envelope import generate_signing_key, sign
from broker.messages import (
    DropReason,
    InstallState,
    OperatorAction,
    Participation,
    ProfileRequest,
    Release,
)
from broker.topics import DownTopic, ServerSays
from coordinator import inputs as i
from coordinator.changes import replace, with_device
from coordinator.duties import Export, SharedRelease, job, needed_blobs, shared
from coordinator.fleet import Phase
from coordinator.fleet_summary import summary
from coordinator.publications import publications
from coordinator.settings import Rewards, WidthPolicy
from journal import events as e
from tests.fakes.command_promises import CommandPromises
from tests.fakes.office import (
    OFFLINE,
    ONLINE,
    Office,
    blob,
    manifest,
    profile,
    settings,
    share_of,
)

KEY = generate_signing_key()
A, B, C = "press", "lathe", "mill"
EVERYBODY = (A, B, C)
EVERY_ROUND = {"release_every": 1, "budget": 6, "minimum": 6}


def office(*devices, rounds=None, **changes):
    waits = {"min_devices": max(2, len(devices))}
    return Office(settings(rounds=waits | (rounds or {}), **changes)).begin(*devices)


def kinds(events):
    return [type(event).__name__ for event in events]


def said(desk):
    """Everything that must stand on the broker."""
    shares = {wanted: share_of(wanted) for wanted in shared(desk.state)}
    return publications(desk.state, shares, lambda document, kind: sign(document, kind, KEY))


def standing(desk, device):
    return said(desk)[DownTopic(device, ServerSays.STANDING)]


def link_of(desk, device):
    lines = summary(desk.state, desk.settings).devices
    return next(line.link for line in lines if line.device == device)


# --- a cap on the training width ----------------------------------------------------------------


def test_a_cap_holds_from_the_next_round_on_and_says_whose_it_is():
    desk = office(A, B)
    acted, chosen = desk.command("cap-width", A, width=0.5, reason="runs hot")
    assert (acted.done, acted.width) == (True, 0.5)
    why = "held at 0.5 at most by ana: runs hot"
    assert (chosen.device, chosen.width, chosen.reason) == (A, 0.5, f"width 0.5: {why}")
    assert desk.state.round.tasks[A].task.width == 1.0, "the open round is as it was"
    desk.round_()
    assert desk.state.round.tasks[A].task.width == 0.5
    assert desk.state.round.tasks[B].task.width == 1.0
    told = standing(desk, A)
    assert (told.training_cap, told.width_reasons["cap"]) == (0.5, why)
    assert (told.training_width, told.reason) == (0.5, f"width 0.5: {why}")
    assert standing(desk, B).training_cap == 0.0
    assert "cap" not in standing(desk, B).width_reasons
    assert desk.replayed() == desk.state


def test_a_cap_that_is_lifted_gives_the_width_back_that_the_profile_allows():
    desk = office(A, B)
    desk.command("cap-width", A, "1", width=0.25)
    acted, chosen = desk.command("cap-width", A, "2", width=0.0)
    assert (acted.done, chosen.width) == (True, 1.0)
    assert standing(desk, A).training_cap == 0.0


def test_a_cap_outlives_a_new_profile_and_a_restart():
    desk = office(A, B)
    desk.command("cap-width", A, width=0.25)
    desk.start()
    desk.profiled(A, profile(samples=7))
    assert desk.device(A).width == 0.25
    assert desk.replayed() == desk.state


@pytest.mark.parametrize(("commanded", "holds"), [(0.25, 0.25), (1.0, 0.5)])
def test_of_the_settings_cap_and_an_operators_the_narrower_one_holds(commanded, holds):
    desk = office(A, B, width_policy=WidthPolicy(caps={A: 0.5}))
    assert desk.device(A).width == 0.5
    desk.command("cap-width", A, width=commanded, reason="runs hot")
    assert desk.device(A).width == holds
    whose = "by ana: runs hot" if commanded < 0.5 else "the operator lets it train 0.5 at most"
    assert whose in desk.device(A).reason
    assert standing(desk, A).training_cap == holds


def test_a_cap_may_come_before_the_profile():
    desk = office(A, B, rounds={"min_devices": 4})
    desk.born(C)
    assert kinds(desk.command("cap-width", C, width=0.25)) == ["OperatorActed"]
    desk.lease(C)
    desk.profiled(C)
    assert desk.device(C).width == 0.25


def test_a_cap_leaves_the_pace_alone_that_rounds_have_shown():
    desk = office(A, B)
    desk.now += 8.0  # much longer than predicted
    desk.fetched(A)
    desk.fetched(B)
    desk.scored()
    before = desk.device(A)
    assert before.pace > 1.0
    desk.command("cap-width", A, width=0.5)
    after = desk.device(A)
    assert (after.pace, after.ratios) == (before.pace, before.ratios)


@pytest.mark.parametrize("width", [0.3, -1.0, 2.0, math.nan, math.inf])
def test_a_cap_that_is_no_training_width_is_refused_with_those_that_are(width):
    desk = office(A, B)
    [acted] = desk.command("cap-width", A, width=width)
    assert not acted.done
    assert "use one of 0.25, 0.5, 0.75, 1, or none" in acted.detail
    assert desk.device(A).width == 1.0
    assert desk.replayed() == desk.state


def test_a_device_too_weak_for_its_cap_is_still_out_and_told_why():
    desk = office(A, B, rounds={"min_devices": 3})
    desk.join(C, can_train=False, reason="no torch")
    desk.command("cap-width", C, width=0.5)
    assert standing(desk, C).participation is Participation.CANNOT
    assert "no torch" in standing(desk, C).reason


# --- the release before -------------------------------------------------------------------------


def releasing(*, rounds=2, widths=None, chosen=None, **changes):
    """A campaign with a release after each round; so many are made and confirmed."""
    desk = Office(chosen or settings(rounds=EVERY_ROUND | {"min_devices": 3}, **changes))
    desk.begin(*EVERYBODY)
    for _ in range(rounds):
        release(desk)
    return desk


def release(desk, *, confirm=EVERYBODY):
    desk.round_()
    desk.exported()
    for device in confirm:
        if desk.device(device).deployed:
            desk.confirm(device)


def runs(desk, device):
    """The round whose weights a device was sent last."""
    return desk.state.releases[desk.device(device).deployed.digest][0].manifest.round


def test_a_device_goes_back_to_the_release_that_it_ran_before():
    desk = releasing()
    before = desk.device(A)
    assert runs(desk, A) == 2
    phase, since = desk.state.phase, desk.state.since
    acted, deployed = desk.command("roll-back", A, reason="misses worn bearings")
    assert acted.done
    assert runs(desk, A) == 1
    assert deployed.counter == before.counter + 1
    assert deployed.commanded
    assert deployed.reason == "release 1 at width 1: rolled back by ana: misses worn bearings"
    assert standing(desk, A).width_reasons["deployed"] == deployed.reason
    assert (desk.state.phase, desk.state.since) == (phase, since), "training is not disturbed"
    assert SharedRelease(deployed.digest) in shared(desk.state)
    assert deployed.digest in needed_blobs(desk.state)
    assert runs(desk, B) == 2
    desk.confirm(A)
    assert SharedRelease(deployed.digest) not in shared(desk.state)
    assert desk.replayed() == desk.state


def test_the_next_new_release_reaches_a_device_that_was_rolled_back():
    desk = releasing()
    desk.command("roll-back", A)
    desk.confirm(A)
    release(desk)
    assert runs(desk, A) == 3
    assert desk.device(A).rolled_from == ()
    [acted] = desk.command("roll-forward", A, "2")
    assert not acted.done
    assert "was not rolled back" in acted.detail


def again(desk):
    """The same weights are exported once more, as where a device needs a narrower file."""
    desk.state = replace(desk.state, phase=Phase.EXPORTING)
    made = []
    for width in job(desk.state).widths:
        found = manifest(width, desk.state.weights_round)
        made.append((_release(desk, found), blob(found.digest, encrypted=True)))
    return desk.say(i.Exported(tuple(made)))


def _release(desk, found):
    return Release(
        fleet="plant",
        version=desk.state.release_version + 1,
        manifest=found,
        created_at=desk.now,
        expires_at=desk.now + 1e6,
    )


def test_the_release_that_a_device_was_rolled_back_from_does_not_come_again_by_itself():
    desk = releasing()
    desk.command("roll-back", A)
    desk.confirm(A)
    issued = [event for event in again(desk) if isinstance(event, e.DeploymentIssued)]
    assert A not in {event.device for event in issued}
    assert runs(desk, A) == 1


def test_an_operator_rolls_a_device_forward_again():
    desk = releasing()
    newest = desk.device(A).deployed.digest
    desk.command("roll-back", A, "1")
    desk.confirm(A)
    acted, deployed = desk.command("roll-forward", A, "2", reason="it was the sensor")
    assert acted.done
    assert (deployed.digest, deployed.counter) == (newest, 4)
    assert "rolled forward by ana: it was the sensor" in deployed.reason
    desk.confirm(A)
    assert desk.device(A).ran[-1] == newest
    assert runs(desk, A) == 2
    assert desk.replayed() == desk.state


def test_two_steps_back_and_forward_again_to_the_newest():
    desk = releasing(rounds=3)
    newest = desk.device(A).deployed.digest
    for number, expected in enumerate((2, 1), start=1):
        desk.command("roll-back", A, str(number))
        desk.confirm(A)
        assert runs(desk, A) == expected
    [acted] = desk.command("roll-back", A, "3")
    assert acted.detail == "press has run no other release before: nothing to go back to"
    desk.command("roll-forward", A, "4")
    assert desk.device(A).deployed.digest == newest


def test_two_commands_before_the_device_answers_go_two_steps_back():
    desk = releasing(rounds=3)
    desk.command("roll-back", A, "1")
    desk.command("roll-back", A, "2")
    assert runs(desk, A) == 1


def test_a_device_that_could_not_run_the_new_release_goes_back_to_the_one_it_ran():
    desk = releasing(rounds=1)
    release(desk, confirm=(B, C))
    desk.confirm(A, InstallState.FAILED, running=desk.device(A).ran[-1])
    acted, _ = desk.command("roll-back", A)
    assert acted.done
    assert runs(desk, A) == 1


def test_a_device_that_says_once_more_what_it_ran_before_it_hears_of_the_roll_back():
    desk = releasing(rounds=3)
    stale = desk.device(A).report
    desk.command("roll-back", A, "1")
    desk.say(i.ReportReceived(A, msgspec.structs.replace(stale, seq=99, load_s=1.0)))
    desk.confirm(A)
    desk.command("roll-back", A, "2")
    assert runs(desk, A) == 1


def test_a_release_that_was_confirmed_after_the_next_one_was_sent_was_run_too():
    desk = releasing(rounds=1)
    release(desk, confirm=(B, C))
    second = desk.device(A).deployed
    release(desk, confirm=(B, C))
    desk.confirm(A, counter=second.counter, running=second.digest)
    desk.confirm(A)
    desk.command("roll-back", A)
    assert runs(desk, A) == 2


def test_a_device_that_claims_to_have_run_what_nobody_made_has_nothing_to_go_back_to():
    desk = releasing(rounds=1)
    desk.confirm(A, running="f" * 64)
    desk.confirm(A)
    assert not desk.command("roll-back", A)[0].done


def test_a_device_that_ran_one_release_or_none_has_nothing_to_go_back_to():
    desk = releasing(rounds=0)
    assert "nothing to go back to" in desk.command("roll-back", A, "1")[0].detail
    release(desk)
    [acted] = desk.command("roll-back", A, "2")
    assert not acted.done
    assert runs(desk, A) == 1


def test_a_release_that_has_expired_is_not_gone_back_to():
    desk = releasing()
    desk.now += 2e6
    acted, *_ = desk.command("roll-back", A)
    assert "release 1 at width 1 has expired" in acted.detail
    assert runs(desk, A) == 2


def earned(desk, device, width):
    """As if the last allocation had given a device so much."""
    reward = msgspec.structs.replace(desk.device(device).reward, width=width)
    desk.state = with_device(desk.state, device, reward=reward)


def test_nobody_goes_back_to_a_wider_model_than_it_has_earned_by_now():
    desk = releasing()
    earned(desk, A, 0.5)
    [acted] = desk.command("roll-back", A)
    assert acted.detail == "release 1 at width 1 is wider than the 0.5 that press may run by now"
    assert runs(desk, A) == 2


def test_nobody_goes_back_to_a_wider_model_than_the_operator_lets_it_run():
    desk = releasing(rewards=Rewards(caps={B: 0.5}))
    assert desk.device(B).deployed.width == 0.5
    assert desk.command("roll-back", B)[0].done
    assert desk.device(B).deployed.width == 0.5


def test_a_lower_reward_still_takes_effect_on_a_device_that_was_rolled_back():
    desk = releasing()
    desk.command("roll-back", A)
    desk.confirm(A)
    desk.round_()
    assert isinstance(job(desk.state), Export)
    earned(desk, A, 0.0)
    desk.exported("worse than the release in use")
    assert desk.device(A).deployed.digest == ""


def test_a_lower_reward_does_not_bring_back_the_weights_that_a_device_was_rolled_back_from():
    desk = releasing(rounds=0)
    for _ in range(2):
        desk.round_()
        desk.exported(widths=(0.5, 1.0))
        for device in EVERYBODY:
            desk.confirm(device)
    desk.command("roll-back", A)
    desk.confirm(A)
    desk.round_()
    earned(desk, A, 0.5)
    earned(desk, B, 0.5)
    desk.exported("worse than the release in use")
    assert [(desk.device(one).deployed.width, runs(desk, one)) for one in EVERYBODY] == [
        (0.5, 1),
        (0.5, 2),
        (1.0, 2),
    ]


def test_after_the_campaign_a_device_still_goes_back():
    desk = releasing(rounds=5)
    desk.round_()
    desk.exported()
    for device in EVERYBODY:
        desk.confirm(device)
    assert desk.state.phase is Phase.FINISHED
    acted, _ = desk.command("roll-back", A)
    assert acted.done
    assert desk.state.phase is Phase.FINISHED
    assert runs(desk, A) == 5
    desk.confirm(A)
    assert desk.replayed() == desk.state


# --- a new profile ------------------------------------------------------------------------------

REQUEST_A = DownTopic(A, ServerSays.PROFILE_REQUEST)


def test_a_device_is_asked_until_its_profile_names_the_request():
    desk = office(A, B)
    assert REQUEST_A not in said(desk)
    assert kinds(desk.command("re-profile", A)) == ["OperatorActed"]
    assert said(desk)[REQUEST_A] == ProfileRequest(request="ana/c1")
    desk.profiled(A, profile(samples=5))
    assert said(desk)[REQUEST_A] is not None, "that one came by itself"
    desk.start()
    desk.profiled(A, profile(samples=5, answers="ana/c1"))
    assert said(desk)[REQUEST_A] is None, "what stands on the broker is cleared"
    assert desk.replayed() == desk.state
    desk.command("re-profile", A, "c2")
    assert said(desk)[REQUEST_A] == ProfileRequest(request="ana/c2")
    desk.profiled(A, profile(samples=6, answers="ana/c1"))
    assert said(desk)[REQUEST_A] is not None, "an answer to an older request"


def test_an_answer_that_nobody_asked_for_changes_nothing():
    desk = office(A, B)
    desk.profiled(A, profile(samples=5, answers="ana/c1" * 100))
    desk.command("re-profile", A)
    assert said(desk)[REQUEST_A] is not None


# --- notes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [A, ""])
def test_a_note_is_kept_and_changes_nothing_else(device):
    desk = office(A, B)
    before = desk.state
    [acted] = desk.command("note", device, reason="new coolant")
    assert (acted.done, acted.device, acted.reason) == (True, device, "new coolant")
    kept = {"commands": desk.state.commands, "last_commands": desk.state.last_commands}
    assert replace(before, **kept) == desk.state


@pytest.mark.parametrize("text", ["", "  ", "n" * 501])
def test_a_note_has_1_to_500_characters(text):
    [acted] = office(A, B).command("note", A, reason=text)
    assert not acted.done
    assert "1 to 500 characters" in acted.detail


# --- a device that is gone for good -------------------------------------------------------------


def test_a_retired_device_is_dropped_and_invited_no_more_until_it_is_resumed():
    desk = office(A, B, C, rounds={"budget": 9, "minimum": 9})
    acted, dropped = desk.command("retire", C, reason="scrapped")
    assert acted.done
    assert (dropped.device, dropped.reason) == (C, DropReason.SUSPENDED)
    assert dropped.detail == "retired by ana: scrapped"
    desk.round_()
    assert desk.state.round.opened.not_invited[C] == "retired by ana: scrapped"
    desk.lease(C, OFFLINE)
    desk.join(C, session=2)
    desk.round_()
    assert C not in desk.state.round.tasks, "it appeared again, and stays retired"
    told = standing(desk, C)
    assert told.retired
    assert (told.participation, told.reason) == (
        Participation.SUSPENDED,
        "retired by ana: scrapped",
    )
    assert link_of(desk, C) == "retired"
    assert summary(desk.state, desk.settings).online == 2
    assert desk.replayed() == desk.state
    desk.command("resume", C, "c2")
    assert link_of(desk, C) == ONLINE
    desk.round_()
    assert C in desk.state.round.tasks


def test_a_device_that_owes_an_update_owes_none_once_it_is_retired():
    desk = office(A, B, C, rounds={"late": "use", "quorum": 2})
    desk.fetched(A)
    desk.fetched(B)
    desk.wait(desk.state.round.opened.budget_s)
    assert C in desk.state.owed
    desk.command("retire", C)
    assert C not in desk.state.owed


def test_all_that_the_server_keeps_for_a_retired_device_is_cleared_but_its_standing():
    desk = releasing()
    desk.command("re-profile", C, "1")
    desk.command("retire", C, "2")
    kept = {t: m for t, m in said(desk).items() if isinstance(t, DownTopic) and t.device == C}
    assert set(kept) == {DownTopic(C, channel) for channel in ServerSays}
    assert [t.channel for t, message in kept.items() if message] == [ServerSays.STANDING]


def test_a_retired_device_gets_no_further_release_and_nobody_waits_for_it():
    desk = releasing(rounds=5)
    desk.round_()
    deployed = desk.device(C).deployed
    desk.command("retire", C, reason="scrapped")
    assert isinstance(job(desk.state), Export)
    issued = [event for event in desk.exported() if isinstance(event, e.DeploymentIssued)]
    assert {event.device for event in issued} == {A, B}
    assert desk.device(C).deployed == deployed
    desk.confirm(A)
    assert desk.state.phase is Phase.DELIVERING
    desk.confirm(B)
    assert desk.state.phase is Phase.FINISHED


def test_a_release_that_a_retired_device_has_not_fetched_is_shared_no_more():
    desk = releasing()
    desk.command("roll-back", C, "1")
    only = SharedRelease(desk.device(C).deployed.digest)
    assert only in shared(desk.state)
    desk.command("retire", C, "2")
    assert only not in shared(desk.state)


def test_contribution_and_reward_of_a_retired_device_stay_in_the_ledger():
    desk = releasing()
    contribution, reward = desk.state.contribution(C), desk.device(C).reward
    desk.command("retire", C, reason="scrapped")
    assert desk.state.contribution(C) == contribution > 0
    release(desk, confirm=(A, B))
    rewards = {one.device: one for one in desk.state.allocation.rewards}
    assert rewards[C].contribution == reward.contribution


@pytest.mark.parametrize(
    "action", ["suspend", "cap-width", "roll-back", "roll-forward", "re-profile"]
)
def test_a_retired_device_has_to_be_resumed_before_anything_else(action):
    desk = releasing()
    desk.command("retire", A, "1", reason="scrapped")
    [acted] = desk.command(action, A, "2", width=0.5 if action == "cap-width" else 0.0)
    assert acted.detail == "press is retired by ana: scrapped; resume it first"
    assert not acted.done


# --- who asked, and how often -------------------------------------------------------------------

ACTIONS = ["suspend", "cap-width", "roll-back", "re-profile", "note", "retire"]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_repeated_command_changes_nothing_more_even_after_a_restart(action):
    desk = releasing()
    width = 0.5 if action == "cap-width" else 0.0
    assert desk.command(action, A, width=width)[0].done
    desk.state = desk.replayed()
    before = desk.state
    assert desk.command(action, A, width=width) == []
    assert desk.state is before


@pytest.mark.parametrize("action", ACTIONS)
def test_a_command_for_a_device_that_nobody_knows_is_refused(action):
    [acted] = office(A, B).command(action, "nobody", width=0.5)
    assert acted.detail == "no device 'nobody' in this fleet"


def test_the_person_for_whom_a_tool_asks_stands_beside_its_name():
    desk = office(A, B)
    [acted, _] = desk.command(
        "cap-width", A, operator="monitor", on_behalf_of="anna", width=0.5, reason="hot"
    )
    assert (acted.operator, acted.on_behalf_of) == ("monitor", "anna")
    assert "held at 0.5 at most by anna via monitor: hot" in desk.device(A).reason
    desk.command("suspend", B, "2", "monitor", "oil", on_behalf_of="Žofie")
    assert desk.device(B).suspended == "suspended by Žofie via monitor: oil"


@pytest.mark.parametrize("name", ["n" * 65, "anna\n", "\x1b[31m", "\u202egnp"])
def test_a_name_that_cannot_be_shown_is_refused(name):
    desk = office(A, B)
    [refused] = desk.command("suspend", A, on_behalf_of=name)
    assert isinstance(refused, e.MessageRefused)
    assert not desk.device(A).suspended


# --- every order --------------------------------------------------------------------------------

someone = st.sampled_from(EVERYBODY)
WIDTH = st.sampled_from([0.0, 0.25, 0.5, 1.0, 0.3])


class Commands(RuleBasedStateMachine):
    """Releases come after every round, and operators do what they like."""

    @initialize(
        caps=st.dictionaries(someone, st.sampled_from([0.25, 0.5]), max_size=1),
        budget=st.sampled_from([2, 3, 40]),
    )
    def a_campaign_begins(self, caps, budget):
        often = {"budget": budget, "minimum": budget, "release_every": 1}
        rounds = often | {"min_devices": 3, "quorum": 1}
        policy = WidthPolicy(caps=caps)
        self.desk = Office(settings(rounds=rounds, width_policy=policy)).begin(*EVERYBODY)
        self.promises, self.checked, self.commands = CommandPromises(), 0, 0

    @rule(
        answering=st.sets(someone, min_size=1),
        earning=st.sampled_from([0.1, 0.3, -0.3]),
        worse=st.sampled_from(["", "", "it is worse"]),
    )
    def a_round_ends_in_a_release(self, answering, earning, worse):
        desk = self.desk
        if desk.state.phase is Phase.TRAINING:
            desk.round_({A: earning}, without=set(EVERYBODY) - answering)
        if isinstance(job(desk.state), Export):
            desk.exported(worse)

    # Once training is over, a device that lacks memory has the same weights exported once more.
    @rule(who=st.sets(someone, min_size=1), code=st.sampled_from(["", "", "try-again:killed"]))
    def devices_report(self, who, code):
        for device in who:
            deployed = self.desk.device(device).deployed
            if deployed:
                state = InstallState.FAILED if code else InstallState.CONFIRMED
                self.desk.confirm(device, state, code=code)

    @rule(device=someone, action=st.sampled_from(list(OperatorAction)), width=WIDTH)
    def an_operator_acts(self, device, action, width):
        self.commands += 1
        concerned = "" if action.endswith("rounds") else device
        self.desk.command(action, concerned, f"c{self.commands}", width=width)

    @rule()
    def the_server_is_killed_and_starts_again(self):
        self.desk.state = self.desk.replayed()
        self.desk.start()

    @rule(device=someone, answers=st.booleans(), samples=st.integers(1, 9))
    def a_device_measures_itself(self, device, answers, samples):
        request = self.desk.device(device).request if answers else ""
        self.desk.profiled(device, profile(samples=samples, answers=request))
        if answers and request:
            assert not self.desk.device(device).requested

    @invariant()
    def no_promise_is_broken(self):
        if hasattr(self, "desk"):
            for event, _ in self.desk.log[self.checked :]:
                self.promises.check(event, self.desk.state)
            self.checked = len(self.desk.log)

    @invariant()
    def what_a_device_may_go_back_to_is_kept(self):
        if hasattr(self, "desk"):
            needed = needed_blobs(self.desk.state)
            for device in self.desk.state.devices.values():
                assert {*device.ran, *device.rolled_from} <= needed & set(self.desk.state.releases)

    def teardown(self):
        if hasattr(self, "desk"):
            assert self.desk.replayed() == self.desk.state


Commands.TestCase.settings = search(max_examples=60, stateful_step_count=40)
TestCommands = Commands.TestCase
