"""Who is drawn for a round, who is waited for, and that nobody loses by not being drawn."""

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.messages import DropReason, Stage
from coordinator.contribution.ledger import Ledger, Total, statement
from coordinator.round_schedule import eligible
from coordinator.selection import Candidate, balanced, drawn
from coordinator.settings import Rounds, Settings
from coordinator.settings_checks import SettingsError
from journal import events as e
from journal.events import Contribution
from tests.fakes.office import Office, settings

POLICIES = ("rotation", "random", "usefulness")
NAMES = [f"device-{n:02}" for n in range(12)]
candidates = st.lists(
    st.builds(
        Candidate,
        device=st.sampled_from(NAMES),
        last_drawn=st.integers(0, 5),
        worth=st.none() | st.floats(-1, 5),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda one: one.device,
)
policies = st.sampled_from(POLICIES)


@given(candidates, st.integers(1, 15), policies, st.integers(0, 99), st.integers(1, 99))
def test_as_many_as_there_are_places_are_drawn_and_the_order_does_not_matter(
    fleet, places, policy, seed, round_
):
    found = drawn(fleet, places, policy, seed, round_)
    assert found <= {one.device for one in fleet}
    assert len(found) == min(places, len(fleet))
    assert found == drawn(fleet[::-1], places, policy, seed, round_)


def play(policy, rounds, places, worth=None):
    """How often each of twelve devices is drawn, and the rounds of each."""
    last, taken = dict.fromkeys(NAMES, 0), {name: [] for name in NAMES}
    for number in range(1, rounds + 1):
        fleet = [
            Candidate(name, last[name], (worth or {}).get(name, 0.0) if last[name] else None)
            for name in NAMES
        ]
        for name in drawn(fleet, places, policy, 7, number):
            last[name] = number
            taken[name].append(number)
    return taken


def gaps(rounds):
    return [later - one for one, later in pairwise(rounds)]


def test_by_rotation_everybody_takes_its_turn():
    for rounds in play("rotation", 60, 5).values():
        assert rounds[0] <= 3
        assert max(gaps(rounds)) <= 3
        assert 23 <= len(rounds) <= 27


def test_at_random_all_are_drawn_about_equally_often():
    counts = [len(rounds) for rounds in play("random", 600, 4).values()]
    assert 160 < min(counts) <= max(counts) < 240


def test_by_usefulness_the_best_come_often_and_nobody_starves():
    taken = play("usefulness", 24, 4, {NAMES[0]: 9.0, NAMES[1]: 5.0})
    assert all(taken[name][0] <= 4 for name in NAMES), "everybody is tried soon"
    assert len(taken[NAMES[0]]) > 20
    for rounds in taken.values():
        assert max(gaps(rounds)) <= 6


# --- the ledger ---------------------------------------------------------------------------------


def entered(ledger, number, scores, not_drawn=()):
    given_scores = [
        Contribution(device=name, score=score, update="", blocks=(score, score))
        for name, score in scores.items()
    ]
    return ledger.entered(number, given_scores, not_drawn)


def test_equal_devices_that_take_turns_count_the_same():
    ledger = Ledger().with_devices(["a", "b", "c"])
    # Who came in the first round had the large one.
    ledger = entered(ledger, 1, {"a": 50.0, "b": 50.0}, ["c"])
    ledger = entered(ledger, 2, {"b": 5.0, "c": 5.0}, ["a"])
    ledger = entered(ledger, 3, {"a": 2.0, "c": 2.0}, ["b"])
    accounts = [ledger.account(name) for name in "abc"]
    assert [one.score for one in accounts] == pytest.approx([57.0] * 3)
    for one in accounts:
        assert one.blocks == pytest.approx((one.score, one.score))


def test_the_luck_of_one_small_round_is_not_the_measure_of_a_campaign():
    ledger = Ledger().with_devices(["a", "b", "lucky"])
    ledger = entered(ledger, 1, {"a": 50.0, "b": 50.0}, ["lucky"])
    ledger = entered(ledger, 2, {"a": 0.01, "lucky": 0.99}, ["b"])
    assert ledger.account("lucky").score == pytest.approx(0.99 + 50.0)
    assert ledger.account("a").score == pytest.approx(50.01)


def test_a_rider_gains_nothing_by_not_being_drawn_and_harm_stays_harm():
    ledger = Ledger().with_devices(["a", "zero", "vandal"])
    ledger = entered(ledger, 1, {"a": 4.0, "zero": 0.0, "vandal": -1.0})
    ledger = entered(ledger, 2, {"a": 4.0}, ["zero", "vandal"])
    assert ledger.account("zero").score == 0
    assert ledger.account("vandal").score < -1.0


def test_who_gives_more_still_counts_more():
    ledger = Ledger().with_devices(["a", "b", "c"])
    for number in range(1, 7):
        rests = "abc"[number % 3]
        scores = {"a": 3.0, "b": 2.0, "c": 1.0}
        ledger = entered(ledger, number, {n: s for n, s in scores.items() if n != rests}, [rests])
    a, b, c = (ledger.account(name).score for name in "abc")
    assert a > b > c
    assert c == pytest.approx(4 * (1 + 5 / 7))  # worth 4 of what a peer would have given 7


def test_who_stays_away_is_not_excused_and_who_was_never_drawn_has_nothing():
    ledger = Ledger().with_devices(["a", "b", "c"])
    ledger = entered(ledger, 1, {"a": 1.0, "b": 1.0}, ["c"])
    ledger = entered(ledger, 2, {"a": 1.0}, ["c"])
    assert ledger.account("b").score == 1.0
    assert ledger.account("c").score == 0.0
    assert ledger.excused("c") == 1.0


def test_where_everybody_is_drawn_the_account_is_what_was_entered():
    ledger = entered(Ledger(0.9).with_devices(["a", "b"]), 1, {"a": 1.0, "b": 2.0})
    assert ledger.account("a") is ledger.totals["a"]


SCORES = st.dictionaries(st.sampled_from("abcd"), st.floats(-2, 5), min_size=1)


@example([{"a": 1.0}, {"a": 0.0, "b": 8.9e-206}], 1.0)  # 1e205 times as much, squared
@example([{"a": 5e-324}, {"b": 5e-324}], 1.0)  # 1 / 5e-324 is infinite
@example([{"a": 1.0}, {"b": -2.0, "c": 1e-308}], 1.0)
@given(st.lists(SCORES, min_size=1, max_size=6), st.floats(0.3, 1.0))
def test_the_part_of_the_progress_that_is_excused_is_a_part(rounds, decay):
    ledger = Ledger(decay).with_devices("abcd")
    for number, scores in enumerate(rounds, start=1):
        ledger = entered(ledger, number, scores, [name for name in "abcd" if name not in scores])
    for name in "abcd":
        assert 0 <= ledger.excused(name) <= 1 + 1e-9
        account, total = ledger.account(name), ledger.totals[name]
        assert math.isfinite(account.score)
        assert account.score * total.score >= 0
        assert abs(account.score) >= abs(total.score) - 1e-12


def test_a_statement_still_says_what_each_round_added():
    assert statement("a", [], 1.0) == ()
    assert Total().scaled(2.0) == Total()


# --- a campaign ---------------------------------------------------------------------------------

FOUR = ("fan", "lathe", "mill", "press")


def desk_of(**rounds):
    known = {"cohort": 2, "min_devices": 4, "budget": 4, "minimum": 4}
    return Office(settings(rounds=known | rounds)).begin(*FOUR)


def test_a_cohort_is_invited_and_the_others_are_told_why_not():
    desk = desk_of()
    [opened] = desk.of(e.RoundOpened)
    invited = {task.device for task in opened.tasks}
    assert len(invited) == 2
    assert set(opened.not_drawn) == set(FOUR) - invited
    for device in opened.not_drawn:
        assert opened.not_invited[device] == "not drawn: 2 of 4 are, by rotation"
    assert opened.enough == 0


def test_everybody_takes_its_turn_and_equal_work_earns_equal_rewards():
    desk = desk_of()
    for size in (1.0, 0.6, 0.1, 0.3):
        desk._answer()
        desk.scored(dict.fromkeys(FOUR, size))
    counts = Counter(task.device for opened in desk.of(e.RoundOpened) for task in opened.tasks)
    assert set(counts.values()) == {2}
    assert {device.rounds_missed for device in desk.state.devices.values()} == {0}
    rewards = {one.device: one for one in desk.state.allocation.rewards}
    assert {round(one.contribution, 9) for one in rewards.values()} == {2.0}
    assert {one.width for one in rewards.values()} == {1.0}
    assert desk.replayed() == desk.state


def answered(desk, *devices):
    for device in devices:
        desk.progress(device)
        desk.announced(device)
        desk.fetched(device)


def test_with_more_drawn_than_needed_the_first_are_enough_and_nobody_is_waited_for():
    desk = desk_of(over_selection=2.0)
    [opened] = desk.of(e.RoundOpened)
    assert (len(opened.tasks), opened.enough, opened.not_drawn) == (4, 2, ())
    desk.progress("press")
    answered(desk, "fan")
    assert not desk.of(e.RoundClosed)
    answered(desk, "mill")
    [closed] = desk.of(e.RoundClosed)
    assert closed.aggregated == ("fan", "mill")
    dropped = {one.device: one for one in desk.of(e.DeviceDropped)}
    assert {name: str(one.reason) for name, one in dropped.items()} == dict.fromkeys(
        ("lathe", "press"), "surplus"
    )
    assert dropped["press"].detail == "2 other updates were enough, last stage: accepted"
    assert {device.rounds_missed for device in desk.state.devices.values()} == {0}
    # Whoever could excuse itself by being slow would work once and be paid for ever.
    desk.scored({"fan": 1.0, "mill": 1.0})
    assert desk.state.ledger.excused("press") == 0.0


def test_a_device_cannot_excuse_itself():
    desk = desk_of(cohort=4)
    desk.progress("press", Stage.FAILED, reason=DropReason.SURPLUS)
    [dropped] = desk.of(e.DeviceDropped)
    assert dropped.reason is DropReason.TRAINING_FAILED
    assert desk.state.devices["press"].rounds_missed == 1
    answered(desk, "fan", "lathe", "mill")
    desk.scored(dict.fromkeys(("fan", "lathe", "mill"), 1.0))
    assert desk.state.ledger.excused("press") == 0


def test_at_the_deadline_a_cohort_that_is_not_complete_closes_with_its_quorum():
    desk = desk_of(cohort=3, over_selection=1.3)
    answered(desk, "fan", "mill")
    desk.wait(10.0)
    [closed] = desk.of(e.RoundClosed)
    assert closed.aggregated == ("fan", "mill")
    assert {str(one.reason) for one in desk.of(e.DeviceDropped)} == {"late"}


def test_a_late_update_of_a_closed_round_is_refused_with_a_reason():
    desk = desk_of(over_selection=2.0)
    answered(desk, "fan", "mill")
    late = desk.announced("press")
    assert [type(event).__name__ for event in late] == ["UpdateRefused"]
    assert late[0].detail == "round 1 is closed"


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ({"cohort": 1, "quorum": 2}, "rounds.cohort = 1 is below rounds.quorum = 2"),
        ({"cohort": -1}, "rounds.cohort"),
        ({"over_selection": 0.9}, "over_selection = 0.9 must be at least 1"),
        ({"over_selection": math.nan}, "over_selection"),
    ],
)
def test_settings_that_make_no_sense_are_refused(rounds, said):
    with pytest.raises(SettingsError, match=said):
        Settings(fleet="plant", model="mlp", rounds=Rounds(**rounds)).check()


# --- sites and other labels ---------------------------------------------------------------------

LABELS = {
    "fan": {"site": "hall-1", "line": "a"},
    "lathe": {"site": "hall-1"},
    "mill": {"site": "hall-2", "line": "a"},
}


def labelled(**rounds):
    known = {"min_devices": 4, "budget": 9, "minimum": 9, "patience": 9}
    return Office(settings(rounds=known | rounds, labels=LABELS)).begin(*FOUR)


def test_only_devices_with_the_label_take_part_and_the_others_are_told_so():
    desk = labelled(only="site:hall-1")
    [opened] = desk.of(e.RoundOpened)
    assert {task.device for task in opened.tasks} == {"fan", "lathe"}
    assert opened.not_invited == {"mill": "not of site:hall-1", "press": "not of site:hall-1"}
    assert opened.not_drawn == (), "the operator left them out: nothing is made up for"


def test_by_any_label():
    [opened] = labelled(only="line:a").of(e.RoundOpened)
    assert {task.device for task in opened.tasks} == {"fan", "mill"}


def test_a_device_cannot_give_itself_a_label():
    desk = labelled(only="site:hall-1")
    for name in ("hall-1", "site:hall-1", "site"):
        desk.join(name)
        assert eligible(desk.state)[1][name] == "not of site:hall-1"


def test_a_cohort_holds_as_many_of_each_site():
    desk = labelled(cohort=3, balance="site")
    for _ in range(6):
        sites = Counter(LABELS.get(d, {}).get("site", "") for d in desk.state.round.tasks)
        assert sites == {"hall-1": 1, "hall-2": 1, "": 1}
        desk.round_()


@given(
    st.lists(
        st.builds(
            Candidate,
            device=st.sampled_from(NAMES),
            last_drawn=st.integers(0, 5),
            group=st.sampled_from("abc"),
        ),
        min_size=1,
        unique_by=lambda one: one.device,
    ),
    st.integers(1, 15),
    policies,
    st.integers(1, 9),
)
def test_places_are_dealt_evenly_and_none_is_left_over(fleet, places, policy, round_):
    found = balanced(fleet, places, policy, 1, round_)
    assert len(found) == min(places, len(fleet))
    assert found == balanced(fleet[::-1], places, policy, 1, round_)
    size, got = Counter(one.group for one in fleet), Counter[str]()
    for one in fleet:
        got[one.group] += one.device in found
    most = max(got.values())
    for group, count in size.items():
        assert got[group] == count or got[group] >= most - 1
    if len(size) == 1:
        assert found == drawn(fleet, places, policy, 1, round_)


def test_where_there_are_fewer_places_than_sites_each_has_its_turn():
    last = dict.fromkeys(NAMES[:6], 0)
    for number in range(1, 13):
        fleet = [Candidate(name, last[name], None, name[-1]) for name in last]
        for name in balanced(fleet, 2, "rotation", 7, number):
            last[name] = number
        if number >= 3:
            assert min(last.values()) >= number - 2


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ({"only": "hall-1"}, 'rounds.only = "hall-1" is of no device'),
        ({"only": "site:hall-3"}, "is of no device"),
        ({"balance": "colour", "cohort": 2}, 'rounds.balance = "colour" is of no device'),
        ({"balance": "site"}, "set a cohort"),
    ],
)
def test_labels_that_nobody_has_are_refused(rounds, said):
    with pytest.raises(SettingsError, match=said):
        Settings(fleet="plant", model="mlp", labels=LABELS, rounds=Rounds(**rounds)).check()
