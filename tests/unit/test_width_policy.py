"""The widest width that fits, the sentence that says why, and profiles that lie."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import Participation, Profile, WidthCost
from coordinator.settings import Rounds, Settings, Training, WidthPolicy
from coordinator.width_policy import choose_width

MIB = 2**20
WIDTHS = (0.25, 0.5, 0.75, 1.0)
SPEC = "5" * 64
SETTINGS = Settings(
    fleet="plant",
    model="cnn1d",
    widths=WIDTHS,
    training=Training(steps=10),
    rounds=Rounds(deadline_s=100.0),
    width_policy=WidthPolicy(time_share=0.8, memory_share=0.5),
)


def profile(steps=(0.1, 0.2, 0.3, 0.4), peaks=(10, 20, 30, 40), widths=WIDTHS, **changes):
    costs = tuple(
        WidthCost(width=width, step_s=step, peak_bytes=int(peak * MIB))
        for width, step, peak in zip(widths, steps, peaks, strict=False)
    )
    known = {
        "model": "cnn1d",
        "spec_hash": SPEC,
        "batch_size": 32,
        "costs": costs,
        "can_train": True,
        "memory_budget": 1000 * MIB,
        "link_bytes_per_s": 1e9,
    }
    return Profile(**(known | changes))


def choose(given_profile, settings=SETTINGS, size=1000):
    return choose_width(given_profile, settings, SPEC, lambda _: size)


def cannot(choice):
    return choice.width == 0 and choice.participation is Participation.CANNOT


def test_a_strong_device_trains_the_full_width():
    choice = choose(profile())
    assert choice.width == 1.0
    assert choice.participation is Participation.TAKES_PART
    assert "full width fits the deadline and the memory" in choice.reason
    assert 0 < choice.predicted_s <= 80
    assert choice.predicted_bytes == 40 * MIB


def test_memory_decides_and_the_reason_names_the_width_that_did_not_fit():
    choice = choose(profile(memory_budget=62 * MIB))  # half of it may be used
    assert choice.width == 0.75
    assert "1 would need 40 of the 31 MiB allowed" in choice.reason


def test_time_decides_and_the_reason_says_how_long_it_would_take():
    choice = choose(profile(steps=(0.1, 0.2, 0.3, 90.0)))
    assert choice.width == 0.75
    assert "1 would take" in choice.reason
    assert "of the 80.0 s allowed" in choice.reason


def test_a_slow_link_counts_both_ways():
    fast = choose(profile(link_bytes_per_s=1e6), size=1_000_000)
    slow = choose(profile(link_bytes_per_s=1e5), size=1_000_000)
    assert slow.predicted_s - fast.predicted_s == pytest.approx(18.0)
    assert cannot(choose(profile(link_bytes_per_s=1e3), size=1_000_000))


def test_a_correction_is_a_second_download():
    machine = profile(link_bytes_per_s=1e6)
    training = msgspec.structs.replace(SETTINGS.training, momentum=0.0, control="scaffold")
    corrected = msgspec.structs.replace(SETTINGS, training=training)
    more = (
        choose(machine, corrected, 1_000_000).predicted_s
        - choose(machine, size=1_000_000).predicted_s
    )
    assert more == pytest.approx(1.0)


def test_a_device_that_fits_nothing_is_told_so_and_stays_visible():
    choice = choose(profile(memory_budget=1 * MIB))
    assert cannot(choice)
    assert "no width fits: 0.25 would need 10 of the 0 MiB" in choice.reason
    assert "stays visible and can still infer" in choice.reason


def test_a_device_too_slow_for_the_narrowest_width_takes_fewer_steps():
    choice = choose(profile(steps=(15.9, 30.0, 40.0, 50.0)))
    assert (choice.width, choice.steps) == (0.25, 3)  # and two more to set up make 80 s
    assert choice.participation is Participation.TAKES_PART
    expected = "width 0.25 with 3 of 10 steps: 0.25 would take 190.8 s of the 80.0 s allowed"
    assert choice.reason == expected
    assert choice.predicted_s == pytest.approx(79.5, abs=0.01)


def test_below_the_least_number_of_steps_it_takes_no_part():
    slow = profile(steps=(16.0, 30.0, 40.0, 50.0))
    policy = WidthPolicy(time_share=0.8, memory_share=0.5, least_steps=4)
    assert cannot(choose(slow, msgspec.structs.replace(SETTINGS, width_policy=policy)))
    assert cannot(choose(profile(steps=(79.0, 90.0, 95.0, 99.0))))


def test_fewer_steps_do_not_help_where_memory_is_missing_or_the_link_is_too_slow():
    slow = (16.0, 30.0, 40.0, 50.0)
    assert cannot(choose(profile(steps=slow, memory_budget=1 * MIB)))
    assert cannot(choose(profile(steps=slow, link_bytes_per_s=1e4), size=1_000_000))


@given(
    st.lists(st.floats(0.01, 500), min_size=4, max_size=4).map(sorted),
    st.sampled_from([0.0, *WIDTHS]),
    st.floats(1e3, 1e9),
)
def test_whoever_takes_part_is_predicted_to_be_in_time(steps, held, rate):
    choice = choose_width(
        profile(steps=steps, link_bytes_per_s=rate), SETTINGS, SPEC, lambda _: 10_000, held=held
    )
    if choice.width:
        assert choice.predicted_s <= 80.0 + 1e-6
        assert 0 <= choice.steps < 10
        assert choice.width == 0.25 or not choice.steps


@pytest.mark.parametrize(("cap", "width"), [(1.0, 1.0), (0.75, 0.75), (0.6, 0.5), (0.25, 0.25)])
def test_the_operators_cap_binds_and_is_told(cap, width):
    choice = choose_width(profile(), SETTINGS, SPEC, lambda _: 1000, cap=cap)
    assert choice.width == width
    if cap < 1:
        assert choice.reason == f"width {width:g}: the operator lets it train {cap:g} at most"


def test_a_device_that_the_operator_lets_train_nothing_takes_no_part():
    for machine in (profile(), profile(steps=(15.9, 30.0, 40.0, 50.0))):
        choice = choose_width(machine, SETTINGS, SPEC, lambda _: 1000, cap=0.0)
        assert cannot(choice)
        assert "no width fits: the operator lets it train 0 at most" in choice.reason


# An average step at full width takes so long; with 10 and 2 to set up 6.1 s make 73.2 s.
@pytest.mark.parametrize(
    ("average", "held", "width"),
    [(6.1, 0.0, 1.0), (6.1, 1.0, 1.0), (6.1, 0.75, 0.75), (5.9, 0.75, 1.0), (6.7, 1.0, 0.75)],
)
def test_to_become_wider_takes_time_to_spare_and_to_stay_does_not(average, held, width):
    machine = profile(steps=(1.0, 2.0, 3.0, 4 * average - 6.0), link_bytes_per_s=0.0)
    choice = choose_width(machine, SETTINGS, SPEC, lambda _: 0, held=held)
    assert choice.width == width
    if (average, held) == (6.1, 0.75):
        assert "1 would take 73.2 s, and to become wider it must take no more than 72.0 s" in (
            choice.reason
        )


def test_why_the_wider_ones_are_missing_is_repeated_from_the_profile():
    weak = profile(widths=(0.25, 0.5), failures=("oom at width 0.75",))
    assert choose(weak).width == 0.5
    assert "oom at width 0.75" in choose(weak).reason


def test_widths_that_the_fleet_does_not_train_are_not_chosen():
    odd = profile(widths=(0.1, 0.33, 0.9, 0.99))
    assert cannot(choose(odd))
    assert "no offered width was measured" in choose(odd).reason


def test_a_device_without_training_says_why():
    choice = choose(profile(can_train=False, reason="torch is not installed"))
    assert cannot(choice)
    assert "torch is not installed" in choice.reason


@pytest.mark.parametrize("changes", [{"spec_hash": "6" * 64}, {"model": "mlp"}])
def test_a_profile_of_another_model_is_not_used(changes):
    choice = choose(profile(**changes))
    assert cannot(choice)
    assert "update the device" in choice.reason


@pytest.mark.parametrize("step", [0.0, -1.0, math.inf, -math.inf, math.nan])
def test_a_step_that_takes_no_time_or_for_ever_is_absurd(step):
    choice = choose(profile(steps=(step, 0.2, 0.3, 0.4)))
    assert cannot(choice)
    assert "absurd" in choice.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_budget": 0},
        {"memory_budget": -1},
        {"link_bytes_per_s": -5.0},
        {"link_bytes_per_s": math.nan},
        {"costs": (WidthCost(width=0.25, step_s=0.1, peak_bytes=-1),)},
    ],
)
def test_an_impossible_machine_takes_no_part(changes):
    choice = choose(profile(**changes))
    assert cannot(choice)
    assert "absurd" in choice.reason


any_cost = st.builds(
    WidthCost,
    width=st.one_of(st.sampled_from(WIDTHS), st.floats()),
    step_s=st.floats(),
    peak_bytes=st.integers(-(2**63), 2**64 - 1),
    timed_steps=st.integers(-(2**63), 2**63),
)


@given(
    st.lists(any_cost, max_size=8),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.lists(st.text(max_size=40), max_size=4),
)
def test_whatever_a_profile_claims_there_is_one_choice_within_the_limits(
    costs, budget, link, failures
):
    choice = choose(
        profile(
            costs=tuple(costs),
            memory_budget=budget,
            link_bytes_per_s=link,
            failures=tuple(failures),
        )
    )
    assert choice.reason
    if choice.width:
        assert choice.width in WIDTHS
        assert choice.participation is Participation.TAKES_PART
        assert 0 <= choice.predicted_s <= 80.0
        assert choice.predicted_bytes <= budget * 0.5
    else:
        assert cannot(choice)
        assert (choice.predicted_s, choice.predicted_bytes) == (0.0, 0)


sizes = st.lists(st.floats(0.01, 20), min_size=4, max_size=4).map(sorted)


@given(sizes, sizes, st.integers(1, 100), st.floats(1, 200))
def test_the_choice_is_the_widest_that_fits_on_its_own(steps, peaks, budget, deadline):
    """Whatever rule predicts, no wider width may pass that the policy then did not take."""
    settings = msgspec.structs.replace(SETTINGS, rounds=Rounds(deadline_s=deadline))
    whole = choose(profile(steps, peaks, memory_budget=budget * MIB), settings)
    for count in range(1, 5):
        fits = choose(
            profile(steps[:count], peaks[:count], memory_budget=budget * MIB), settings
        ).width
        assert fits <= whole.width


@given(sizes, sizes, st.integers(1, 100), st.floats(1, 200))
def test_a_better_machine_never_gets_a_narrower_width(steps, peaks, budget, deadline):
    settings = msgspec.structs.replace(SETTINGS, rounds=Rounds(deadline_s=deadline))
    known = profile(steps, peaks, memory_budget=budget * MIB)
    faster = profile([step / 2 for step in steps], peaks, memory_budget=2 * budget * MIB)
    assert choose(faster, settings).width >= choose(known, settings).width


def test_a_choice_foretells_the_round_at_each_width_that_may_be_trained_instead():
    choice = choose(profile(steps=(0.1, 0.2, 0.3, 90.0)))
    assert [one.width for one in choice.forecasts] == [0.25, 0.5, 0.75, 1.0]
    assert choice.forecasts[2].predicted_s == choice.predicted_s
    seconds = [one.predicted_s for one in choice.forecasts]
    assert seconds == sorted(seconds)
    assert choice.forecasts[1].step_s == pytest.approx(0.15)
    assert choose(profile(can_train=False)).forecasts == ()
