"""Why a device got its width: from the events of a campaign to what people read."""

import json

import msgspec
import pytest

from broker.messages import InstallState
from coordinator.claims import Claim
from coordinator.contribution.ledger import Total
from coordinator.counterfactual import Case, next_wider, still_enough
from coordinator.explanation import UnknownDeviceError, explain
from coordinator.settings import Contributions, Rewards
from journal import events as e
from journal.store import Journal
from slimfleet.cli import main
from slimfleet.commands.explain import explanation_lines
from slimfleet.exit_codes import ExitCode
from tests.fakes.finished_run import FinishedRun
from tests.fakes.office import MIB, WIDTHS, Office, curve, profile, risen, settings

LADDER = (0.125, *WIDTHS)
SCORES = {"press": 0.65, "lathe": 0.35, "mill": 0.4, "rider": 0.001}
FINE = {0.125: 0.3, 0.25: 0.4, 0.5: 0.6, 0.75: 0.7, 1.0: 0.8}


def campaign(*, points=None, contributions=None, alone=None, **rewards):
    """Three rounds, of which the mill missed the second, allocated, exported and confirmed."""
    chosen = settings(
        rounds={"min_devices": 4},
        rewards=Rewards(ladder=LADDER, **rewards),
        contributions=contributions or Contributions(),
    )
    desk = Office(chosen).begin(*SCORES)
    if chosen.contributions.alone_rounds:
        desk.assessed({"press": 0.45, "lathe": 0.41, "mill": 0.3, "rider": 0.2} | (alone or {}))
    made = 0.0
    for number in range(3):
        missing = {"mill"} if number == 1 else set()
        desk._answer(missing)
        made += sum(score for device, score in SCORES.items() if device not in missing)
        far = made / (3 * sum(SCORES.values()) - SCORES["mill"])
        desk.scored(SCORES, points=risen(far, points or FINE))
    desk.exported()
    for device in SCORES:
        if desk.device(device).deployed:
            desk.confirm(device)
    return desk


def history(desk):
    return [(at, event) for event, at in desk.log]


def explained(desk, device):
    return explain(history(desk), device)


def text_of(desk, device):
    return " ".join(" ".join(explanation_lines(explained(desk, device))).split())


def folder_of(desk, folder):
    with Journal.open(folder / "journal") as journal:
        for event, at in desk.log:
            journal.append([event], at)
    return folder


# --- what is gathered ---------------------------------------------------------------------------


def test_it_gathers_what_decided():
    desk = campaign()
    found = explained(desk, "mill")
    assert (found.basis, found.round, found.rule) == ("rewards", 3, "equal-gain")
    assert [taken.counted for taken in found.rounds] == [True, False, True]
    assert found.rounds[1].missed.startswith("late: no update within 10.0 s")
    assert [taken.entry.score for taken in found.rounds if taken.entry] == [0.4, 0.4]
    assert found.reward == desk.device("mill").reward
    assert found.devices == 4
    assert found.reward.share == pytest.approx(found.reward.contribution / found.average)
    assert found.capacity.running == found.capacity.deployed == found.reward.width
    assert found.same


@pytest.mark.parametrize("device", ["lathe", "mill", "rider"])
def test_what_would_have_changed_it_would_have(device):
    found = explained(campaign(), device)
    assert found.wider.width > found.reward.width
    assert found.wider.share > found.reward.share
    if device != "rider":
        assert found.enough.share < found.reward.share
        assert found.enough.width >= found.reward.width


def test_the_threshold_is_where_the_allocation_turns():
    claims = [Claim(name, Total(score, (), 1)) for name, score in SCORES.items()]
    case = Case(claims, curve(FINE), Rewards(ladder=LADDER), 0.2)
    for device in ("lathe", "mill"):
        now, enough = case.reward(device), still_enough(case, device)
        assert case.reward(device, enough.contribution * 0.98).width < now.width
        assert enough.width >= now.width
    now, wider = case.reward("mill"), next_wider(case, "mill")
    assert case.reward("mill", wider.contribution * 0.98).width == now.width < wider.width
    rider = next_wider(case, "rider")
    assert rider.share == pytest.approx(Rewards().cutoff, abs=1e-3)
    assert still_enough(case, "rider") is None
    assert next_wider(case, "press") is None


@pytest.mark.parametrize("own", [-1.0, 0.0])
def test_whoever_did_harm_is_told_what_would_have_been_enough(own):
    blocks = (own - 0.01, own + 0.01)
    claims = [Claim("a", Total(1.0, (0.99, 1.01), 1)), Claim("b", Total(own, blocks, 1))]
    case = Case(claims, curve(FINE), Rewards(ladder=LADDER), 0.2)
    found = next_wider(case, "b")
    assert found.width > 0
    # Its blocks are shifted, so they can be proven below that share, too.
    assert Rewards().cutoff < found.share < Rewards().proof
    assert found.low > 0


def test_a_small_contribution_that_is_not_proven_is_told_the_share_that_needs_no_proof():
    claims = [Claim("a", Total(1.0, (0.9, 1.1), 1)), Claim("b", Total(0.1, (-0.2, 0.4), 1))]
    case = Case(claims, curve(FINE), Rewards(ladder=LADDER), 0.2)
    assert case.reward("b").width == 0
    assert next_wider(case, "b").share == pytest.approx(Rewards().proof, abs=1e-3)


def test_where_nothing_would_help_nothing_is_promised():
    claims = [Claim("a", Total(1.0, (), 1)), Claim("b", Total(0.5, (), 1))]
    case = Case(claims, [], Rewards(), 0.2)
    assert next_wider(case, "b") is None
    assert still_enough(case, "b") is None
    alone = Case(claims[:1], curve(FINE), Rewards(), 0.2)
    assert next_wider(alone, "a") is None


def test_an_unknown_device_is_refused_with_near_names():
    desk = campaign()
    with pytest.raises(UnknownDeviceError, match="no device 'pres'; use one such as press"):
        explained(desk, "pres")
    with pytest.raises(UnknownDeviceError, match="lathe, mill, press, rider"):
        explained(desk, "xyz")
    with pytest.raises(UnknownDeviceError, match="no device has been heard from yet"):
        explain([], "press")


# --- what people read ---------------------------------------------------------------------------


def test_it_says_in_words_and_numbers_why():
    desk = campaign()
    text = text_of(desk, "mill")
    reward = desk.device("mill").reward
    assert f"mill of fleet plant: entitled {reward.width:g}, deployed {reward.width:g}" in text
    assert reward.reason in text
    assert "2 taken, 1 missed." in text
    assert "late: no update within 10.0 s, last stage: no answer" in text
    assert "In all 0.8, measured by permutation-shapley." in text
    assert "The average of the contributions above 0" in text
    assert "Below 0.02 there is no release, and below 0.25 only for a contribution that is" in text
    assert (
        "significantly above 0 (its 95 % interval does not reach 0) or larger than such a" in text
    )
    assert f"0.125 0.300 0.300 to 0.300 0.300 {'<- earned ' * (reward.width == 0.125)}" in text
    assert f"Width {reward.width:g}, all that it has earned." in text
    assert "times the average on, all else equal, it would have earned width" in text
    assert f"it would have kept width {reward.width:g}" in text


def test_who_was_not_drawn_is_told_how_its_rounds_count():
    rounds = {"cohort": 2, "min_devices": 4, "budget": 2, "minimum": 2}
    desk = Office(settings(rounds=rounds, rewards=Rewards(ladder=LADDER))).begin(*SCORES)
    for size in (3.0, 1.0):
        desk._answer()
        desk.scored(dict.fromkeys(SCORES, size))
    first, second = desk.of(e.RoundOpened)
    text = text_of(desk, first.tasks[0].device)
    assert "not drawn: 2 of 4 are, by rotation" in text
    assert (
        "rounds that made 25% of the progress, so what it gave in its own counts 1.33 times."
        in (text)
    )
    assert "In all 4" in text
    assert "made 75% of the progress" in text_of(desk, second.tasks[0].device)


def test_a_late_update_is_explained_where_it_was_trained():
    rounds = {"min_devices": 3, "late": "use", "budget": 3, "minimum": 3}
    desk = Office(settings(rounds=rounds, rewards=Rewards(ladder=LADDER))).begin(*SCORES)
    slow = min(SCORES)
    others = [name for name in SCORES if name != slow]

    def answered(*devices):
        for device in devices:
            desk.fetched(device)

    answered(*others)
    desk.wait(10.0)
    assert "not over yet" in text_of(desk, slow)
    answered(slow)
    assert "came late: it counts with" not in text_of(desk, slow), "not closed yet"
    desk.scored()
    answered(*SCORES)
    assert "came late: it counts with round 2" in text_of(desk, slow)
    desk.scored(dict.fromkeys(SCORES, 0.25))
    answered(*others)
    desk.wait(10.0)
    desk.scored()
    said = text_of(desk, slow)
    assert " 1 1 came late: it counts with round 2 2 1 0.25 " in said
    assert " 3 1 surplus: training is over " in said


def test_a_late_update_in_a_round_that_it_was_not_in_has_its_entry_in_its_own_line():
    rounds = {"min_devices": 3, "late": "use", "budget": 3, "minimum": 3}
    desk = Office(settings(rounds=rounds, rewards=Rewards(ladder=LADDER))).begin(*SCORES)
    slow = min(SCORES)
    others = [name for name in SCORES if name != slow]
    for device in others:
        desk.fetched(device)
    desk.wait(10.0)
    desk.scored()
    for device in (slow, *others):
        desk.fetched(device)
    desk.scored({slow: 0.125})
    said = text_of(desk, slow)
    assert " 1 1 0.125 " in said
    assert "late, in round 2 2 0 not invited: still at round 1" in said


def test_a_rider_is_told_what_it_lacks():
    text = text_of(campaign(), "rider")
    assert "no release: 0.00 times the average contribution is below the cut-off" in text
    assert "From 0.02 times the average on" in text
    assert "Nothing so far." in text


def test_without_a_share_to_be_proven_only_the_cut_off_is_told():
    text = text_of(campaign(proof=0.0), "rider")
    assert "Below 0.02 there is no release. " in text


def test_the_best_has_nothing_to_gain():
    text = text_of(campaign(), "press")
    assert "it has the widest width on offer" in text
    assert "it would have kept width 1" in text


def test_a_cap_and_the_memory_are_told_apart_from_what_was_earned():
    text = text_of(campaign(caps={"press": 0.25}), "press")
    assert "entitled 1, deployed 0.25, runs 0.25" in text
    assert "the operator allows this device at most 0.25" in text
    assert "Without the operator's cap it would be sent width 1." in text

    desk = Office(settings(rounds={"min_devices": 2})).begin("press")
    desk.born("small")
    desk.lease("small")
    desk.profiled("small", profile(memory_budget=25 * MIB, memory_total=25 * MIB))
    desk.finish_training({"press": 0.5, "small": 0.5})
    desk.exported()
    text = text_of(desk, "small")
    assert "Width 0.5 of the 1 it is entitled to: 1 would need at least 40 of its 25 MiB." in text
    assert "Without the limit of its memory it would be sent width 1." in text


def test_an_installation_that_failed_is_told():
    desk = campaign()
    desk.confirm("press", InstallState.FAILED, running="", width=0.0, code="probe", detail="slow")
    text = text_of(desk, "press")
    assert "It says that it runs no model (failed: slow)." in text


def test_what_each_device_has_alone_is_told():
    desk = campaign(contributions=Contributions(alone_rounds=5))
    text = text_of(desk, "lathe")
    assert "trained alone, to be measured by itself" in text
    assert "Its own model, trained alone at width 1, scored 0.410" in text
    assert "3 taken, 0 missed." in text
    assert "As a score its contribution is worth 0.410" in text


def test_rewards_by_assessment_are_explained_by_it():
    desk = campaign(contributions=Contributions(alone_rounds=5, decay=0.5), basis="assessment")
    found, text = explained(desk, "mill"), text_of(desk, "mill")
    # The untrained model scores 0.2, the press 0.45, the lathe 0.41 and the mill 0.3.
    assert found.average == pytest.approx((0.25 + 0.21 + 0.1) / 3)
    assert found.reward.contribution == pytest.approx(0.1)
    assert "measured by the score of its own model above the untrained one." in text
    wider = found.wider
    assert wider.width > found.reward.width
    better = campaign(
        contributions=Contributions(alone_rounds=5, decay=0.5),
        basis="assessment",
        alone={"mill": 0.2 + wider.contribution},
    )
    assert better.device("mill").reward.width == wider.width


def test_while_training_goes_on_the_entitlement_is_explained():
    desk = Office(
        settings(rounds={"min_devices": 3}, rewards=Rewards(ladder=LADDER, mode="training-time"))
    ).begin("press", "lathe", "mill")
    desk.round_({"press": 0.5, "lathe": 0.4, "mill": 0.3})
    found = explained(desk, "lathe")
    assert (found.basis, found.round) == ("entitlement", 1)
    assert "entitlement after round 1, training goes on" in text_of(desk, "lathe")
    assert "not over yet" in text_of(desk, "lathe")


def test_before_rewards_what_is_known_so_far_is_told():
    desk = Office(settings(rounds={"min_devices": 2})).begin("press", "lathe")
    empty = text_of(desk, "press")
    assert "no reward: no round was scored yet" in empty
    assert "No width was measured yet." in empty
    desk.round_({"press": 0.5, "lathe": 0.4})
    assert "so far, after round 1: not yet decided" in text_of(desk, "press")


def test_a_device_that_was_never_invited_is_told_so():
    desk = Office(settings(rounds={"min_devices": 2})).begin("press", "lathe")
    desk.born("late")
    desk.finish_training({"press": 0.5, "lathe": 0.4})
    assert "no reward: it was never invited to a round" in text_of(desk, "late")
    assert "not invited to 3" in text_of(desk, "late")


def test_many_ties_and_a_fading_ledger_are_told():
    desk = Office(
        settings(rounds={"min_devices": 3}, contributions=Contributions(decay=0.5))
    ).begin("press", "lathe", "mill")
    desk.finish_training(dict.fromkeys(("press", "lathe", "mill"), 0.5))
    text = text_of(desk, "lathe")
    assert "no significant difference to mill and 1 more: the same width" in text
    assert "so they get the same width: mill, press." in text
    assert "a round counts 0.5 times as much a round later" in text


def test_what_an_earlier_version_decided_is_shown_and_not_judged():
    desk = campaign()
    log = []
    for event, at in desk.log:
        if isinstance(event, e.RewardsAllocated):
            changed = tuple(
                msgspec.structs.replace(one, width=0.125) if one.device == "press" else one
                for one in event.rewards
            )
            event = msgspec.structs.replace(event, rewards=changed)  # noqa: PLW2901
        log.append((at, event))
    found = explain(log, "press")
    assert (found.same, found.reward.width) == (False, 0.125)
    assert any("would decide differently" in line for line in explanation_lines(found))


def test_the_part_of_an_update_that_could_be_foreseen_is_told():
    desk = campaign()
    log = []
    for event, at in desk.log:
        if isinstance(event, e.RoundScored):
            parts = tuple(msgspec.structs.replace(c, known=0.9) for c in event.contributions)
            event = msgspec.structs.replace(event, contributions=parts)  # noqa: PLW2901
        log.append((at, event))
    text = "\n".join(explanation_lines(explain(log, "mill")))
    assert "90% of it could be foreseen and earned nothing" in text


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    return folder_of(campaign(), tmp_path_factory.mktemp("plant") / "server-data")


def test_the_command_prints_the_explanation(plant, capsys):
    assert main(["explain", "mill", "--folder", str(plant)]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert out.startswith("mill of fleet plant: entitled")
    assert max(map(len, out.splitlines())) <= 100


def test_the_command_speaks_json(plant, capsys):
    assert main(["explain", "lathe", "--folder", str(plant), "--json"]) == ExitCode.DONE
    data = json.loads(capsys.readouterr().out)
    assert data["device"] == "lathe"
    assert data["reward"]["width"] in LADDER
    assert {point["width"] for point in data["ladder"]} == set(LADDER)
    assert data["wider"]["width"] > data["reward"]["width"]
    assert [taken["round"] for taken in data["rounds"]] == [1, 2, 3]
    assert len(data["rounds"][0]["entry"]["update"]) == 64


def test_an_unknown_device_ends_in_one_line(plant, capsys):
    code = main(["explain", "mil", "--folder", str(plant)])
    error = capsys.readouterr().err
    assert code == ExitCode.BAD_CONFIGURATION
    assert error == "slimfleet: fleet plant has no device 'mil'; use one such as mill\n"


def test_a_folder_without_a_journal_ends_in_one_line(tmp_path, capsys):
    assert main(["explain", "mill", "--folder", str(tmp_path)]) == ExitCode.BAD_CONFIGURATION
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "holds no journal; name the data folder of a server" in error


def test_a_run_without_devices_has_none_to_explain(tmp_path, capsys):
    chosen = msgspec.to_builtins(settings())
    FinishedRun(tmp_path, settings=chosen).journal.close()
    assert main(["explain", "mill", "--folder", str(tmp_path)]) == ExitCode.BAD_CONFIGURATION
    assert "no device has been heard from yet" in capsys.readouterr().err


def test_a_campaign_without_rewards_says_what_is_known_and_that_it_is_early(tmp_path, capsys):
    desk = Office(settings(rounds={"min_devices": 2})).begin("press", "lathe")
    desk.round_({"press": 0.5, "lathe": 0.4})
    folder = folder_of(desk, tmp_path)
    assert main(["explain", "press", "--folder", str(folder)]) == ExitCode.BAD_CONFIGURATION
    captured = capsys.readouterr()
    assert "In all 0.5" in captured.out
    assert captured.err == (
        "slimfleet explain: rewards are allocated when training is over;"
        " this is what is known so far\n"
    )
