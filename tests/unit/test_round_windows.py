"""Which window a round has, and which width a device draws: decided, journalled, replayed."""

from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import WidthCost
from coordinator.duties import SharedWeights, shared
from coordinator.job_orders import assess_job, score_job
from coordinator.local_training import round_window
from coordinator.publications import publications
from coordinator.settings import (
    Contributions,
    Rewards,
    Settings,
    SettingsError,
    Training,
    Uploads,
    WidthPolicy,
)
from coordinator.sharing import Sealer
from journal import events as e
from journal.blobs import BlobFolder
from journal.chain import canonical_bytes
from slimmable.slicing import slice_state
from slimmable.state import decode_state, encode_state
from slimmable.training_rule import WidthRule
from slimmable.window import PREFIX, Window, WindowKind
from tests.fakes.office import WIDTHS, Office, settings, share_of
from tests.unit.test_aggregation import SPEC, random_state

MOVING = ("rolling", "random")


def campaign(window, **changes):
    training = Training(steps=2, window=WindowKind(window))
    return settings(**{"training": training, **changes})


def office(window="prefix", devices=("lathe", "press"), rounds=None, **changes):
    desk = Office(campaign(window, rounds=rounds, **changes)).begin()
    for name in devices:
        desk.join(name)
    return desk


def opened(desk):
    return [event for event, _ in desk.log if isinstance(event, e.RoundOpened)]


def played(window, rounds=3):
    desk = office(window, rounds={"budget": rounds + 1, "minimum": rounds + 1})
    for _ in range(rounds):
        desk.round_()
    return desk


def test_a_rolling_window_moves_by_one_with_every_aggregated_round():
    windows = [one.window for one in opened(played("rolling"))]
    assert windows == [Window(WindowKind.ROLLING, number) for number in range(4)]


def test_a_random_window_is_another_one_in_each_round_and_the_same_in_a_replay():
    windows = [one.window for one in opened(played("random"))]
    assert len(set(windows)) == 4
    assert {one.kind for one in windows} == {WindowKind.RANDOM}
    assert windows == [one.window for one in opened(played("random"))]
    other = round_window(campaign("random", seed=1), 1, 0)
    assert other != windows[0]


def test_the_window_of_a_journal_without_one_is_the_prefix():
    [first, *_] = opened(office())
    line = canonical_bytes(first)
    assert b"window" not in line
    assert msgspec.json.decode(line, type=e.AnyEvent).window == PREFIX


def test_a_window_comes_back_from_the_journal_and_the_state_that_follows_from_it():
    desk = played("rolling")
    last = opened(desk)[-1]
    assert msgspec.json.decode(canonical_bytes(last), type=e.AnyEvent) == last
    assert desk.state.round.opened.window == Window(WindowKind.ROLLING, 3)


def test_a_round_without_a_quorum_leaves_no_gap_in_a_rolling_window():
    desk = office("rolling")
    desk.wait(60.0)  # nobody answers
    desk.wait(60.0)
    numbers = [(one.round, one.window.number) for one in opened(desk)]
    assert numbers == [(1, 0), (2, 0)]


@pytest.mark.parametrize("window", MOVING)
def test_blobs_of_one_width_are_never_shared_across_windows(window):
    desk = office(window)
    before = shared(desk.state)
    desk.round_()
    after = shared(desk.state)
    assert before
    assert after
    assert {one.window for one in before}.isdisjoint({one.window for one in after})
    tasks = publications(desk.state, {one: share_of(one) for one in after}, lambda *_: None)
    said = [body for body in tasks.values() if type(body).__name__ == "Task"]
    assert len(said) == 2
    assert not [
        body
        for body in publications(
            desk.state, {one: share_of(one) for one in before}, lambda *_: None
        ).values()
        if type(body).__name__ == "Task"
    ]


@given(st.sampled_from(WIDTHS), st.sampled_from(list(WindowKind)), st.integers(0, 40))
def test_what_is_sealed_for_the_devices_is_the_slice_of_that_window(width, kind, number):
    state = random_state(np.random.default_rng(5))
    with_blobs = _Blobs(encode_state(state))
    sealer = Sealer(Settings(fleet="plant", model="toy"), SPEC, bytes(32), with_blobs)
    sealed = []
    sealer._seal_bytes = lambda data, *_: sealed.append(data)
    sealer.seal(None, SharedWeights(1, width, "base", Window(kind, number)))
    found = decode_state(sealed[0])
    expected = slice_state(state, SPEC, width, Window(kind, number))
    assert all((found[name] == expected[name]).all() for name in SPEC.tensors)


class _Blobs(BlobFolder):
    def __init__(self, data):
        self._data = data

    def get(self, digest):
        return self._data


@pytest.mark.parametrize("window", ["prefix", *MOVING])
def test_updates_are_scored_in_the_window_of_their_round(window):
    desk = office(window)
    for name in ("lathe", "press"):
        desk.fetched(name)
    job = score_job(desk.state)
    assert {update.window for update in job.updates} == {desk.state.round.opened.window}
    assert job.updates[0].window.kind == window


@pytest.mark.parametrize("window", MOVING)
def test_whose_window_moves_comes_to_train_the_full_width(window):
    desk = office(window, devices=())
    desk.join("old", widest=0.25)
    desk.join("new")
    for name in ("old", "new"):
        desk.fetched(name)
    assert {update.reach for update in score_job(desk.state).updates} == {1.0}


@pytest.mark.parametrize("window", MOVING)
def test_an_assessment_is_of_the_prefix_whatever_the_rounds_are_of(window):
    desk = office(window, contributions=Contributions(alone_rounds=2))
    [assessment] = opened(desk)
    assert assessment.assessment
    assert assessment.window == PREFIX
    for name in ("lathe", "press"):
        desk.fetched(name)
    assert {update.window for update in assess_job(desk.state).updates} == {PREFIX}
    desk.assessed()
    assert opened(desk)[-1].window.kind == window


@pytest.mark.parametrize("window", MOVING)
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rewards": Rewards(mode="training-time")}, "rewards.mode"),
        ({"contributions": Contributions(evaluator="devices")}, "contributions.evaluator"),
        ({"uploads": Uploads(encoding="top-k")}, "uploads.encoding"),
        ({"uploads": Uploads(encoding="adaptive")}, "uploads.encoding"),
    ],
)
def test_what_cannot_hold_with_moving_windows_is_refused_by_name(window, changes, named):
    campaign("prefix", **changes)
    with pytest.raises(SettingsError, match=f'training.window = "{window}".*{named}'):
        campaign(window, **changes)


def test_distillation_needs_narrower_widths_in_a_step():
    with pytest.raises(SettingsError, match="own-width"):
        settings(training=Training(rule=WidthRule.OWN_WIDTH, distillation=0.5))


@pytest.mark.parametrize(
    ("rule", "expected", "step_s"),
    [
        # 2 steps, and 2 in which it starts; 8 of the deadline's 10 s may be used.
        (WidthRule.OWN_WIDTH, 1.0, 1.8),
        (WidthRule.ORDERED_DROPOUT, 1.0, (0.3 + 0.6 + 1.2 + 1.8) / 4),
        (WidthRule.SANDWICH, 0.5, 0.3 + 0.6),
        (WidthRule.ALL_WIDTHS, 0.5, 0.3 + 0.6),
    ],
)
def test_the_widest_width_that_fits_depends_on_what_a_step_trains(rule, expected, step_s):
    desk = Office(settings(training=Training(steps=2, rule=rule))).begin()
    costs = tuple(
        WidthCost(width=width, step_s=step, peak_bytes=1)
        for width, step in zip(WIDTHS, (0.3, 0.6, 1.2, 1.8), strict=True)
    )
    desk.join("old", costs=costs)
    assert desk.device("old").width == expected
    assert desk.device("old").predicted_s == pytest.approx(4 * step_s, abs=1e-3)


# --- widths that are drawn ------------------------------------------------------------------------


def dynamic(devices, rounds=1, **changes):
    many = max(2, len(devices))
    limits = {"budget": rounds + 1, "minimum": rounds + 1, "min_devices": many}
    policy = WidthPolicy(dynamic=True)
    desk = Office(settings(rounds=limits, width_policy=policy, **changes)).begin()
    for name, widest in devices.items():
        desk.join(name, widest=widest)
    return desk


def test_each_device_draws_its_width_anew_from_those_that_it_could_train():
    fleet = {"a": 1.0, "b": 0.5, "c": 0.25}
    desk = dynamic(fleet, rounds=60)
    for _ in range(60):
        desk.round_()
    drawn = {name: Counter() for name in fleet}
    for one in opened(desk):
        for task in one.tasks:
            drawn[task.device][task.width] += 1
    assert set(drawn["a"]) == set(WIDTHS)
    assert set(drawn["b"]) == {0.25, 0.5}
    assert set(drawn["c"]) == {0.25}
    assert min(drawn["a"].values()) > 5


def test_the_draw_depends_on_the_seed_the_round_and_the_name_alone():
    def widths(seed, names):
        desk = dynamic(dict.fromkeys(names, 1.0), seed=seed)
        return {task.device: task.width for task in opened(desk)[0].tasks}

    many = [f"d{n}" for n in range(24)]
    whole, part = widths(3, many), widths(3, many[4:])
    assert all(whole[name] == width for name, width in part.items())
    assert widths(4, many) != whole
    assert len(set(whole.values())) == len(WIDTHS)


def test_the_reason_says_that_the_width_was_drawn_and_of_what():
    desk = dynamic({"a": 0.75, "b": 0.75})
    tasks = {task.device: task.width for task in opened(desk)[0].tasks}
    said = publications(desk.state, {}, lambda *_: None)
    for topic, standing in said.items():
        if type(standing).__name__ != "Standing":
            continue
        width = tasks[topic.device]
        assert standing.training_width == width
        reason = standing.width_reasons["training"]
        assert reason.startswith(f"width {width:g} of up to 0.75, drawn for round 1; width 0.75")


def test_without_the_setting_nobody_draws():
    desk = office()
    desk.round_()
    assert {task.width for one in opened(desk) for task in one.tasks} == {1.0}


def test_a_width_that_was_not_measured_is_not_drawn():
    costs = tuple(WidthCost(width=width, step_s=0.1, peak_bytes=1) for width in (0.25, 1.0))
    # Its own width alone: with ordered dropout the full width would draw those not measured.
    desk = Office(
        settings(
            rounds={"budget": 21, "minimum": 21},
            width_policy=WidthPolicy(dynamic=True),
            training=Training(steps=2, rule=WidthRule.OWN_WIDTH),
        )
    ).begin()
    desk.join("a", costs=costs)
    desk.join("b", costs=costs)
    for _ in range(20):
        desk.round_()
    assert {task.width for one in opened(desk) for task in one.tasks} == {0.25, 1.0}


def test_a_narrow_draw_does_not_take_the_wide_ones_off_the_ladder():
    desk = dynamic({f"d{n}": 1.0 for n in range(6)})
    for n in range(6):
        desk.fetched(f"d{n}")
    updates = score_job(desk.state).updates
    assert len({update.width for update in updates}) > 1
    assert {update.reach for update in updates} == {1.0}


def test_entitlements_cap_what_is_drawn():
    desk = dynamic(
        {f"d{n}": 1.0 for n in range(8)},
        rewards=Rewards(mode="training-time", first_entitlement=0.5, ladder=WIDTHS),
    )
    assert {task.width for task in opened(desk)[0].tasks} == {0.25, 0.5}
