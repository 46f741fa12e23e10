"""What becomes of odd fleets and odd data, from the first message to the releases.

One test or more for each row of "Odd cases" in docs/fairness.md.
"""

import itertools
import math

import msgspec
import numpy as np
import pytest

from coordinator.duties import Export, job
from coordinator.settings import Rewards, Settings
from journal import events as e
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from slimfleet.simulation.errors import SimulationError
from slimmable.samples import Samples, SamplesError
from tests.fakes.office import WIDTHS, Office, curve, digest, risen, settings

CLASSES = ("idle", "turning", "jammed")
CENTRES = np.random.default_rng(0).standard_normal((len(CLASSES), 6))
LADDER = (0.125, *WIDTHS)
A, B, C = "press", "lathe", "mill"
NO_BETTER = "scores no better than the untrained model"


# --- real training ------------------------------------------------------------------------------


def recorded(count, seed):
    """Return points around one centre for each class."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % len(CLASSES)
    x = CENTRES[y] + 0.5 * rng.standard_normal((count, 6))
    return Samples(x.astype(np.float32), y.astype(np.int64), np.arange(count))


def only(samples, *classes):
    return samples.take(np.flatnonzero(np.isin(samples.y, classes)))


def mislabelled(samples):
    return Samples(samples.x, (samples.y + 1) % len(CLASSES), samples.recording)


def broken(samples):
    x = samples.x.copy()
    x[3] = math.nan
    return Samples(x, samples.y, samples.recording)


def trained(folder, devices, validation, **changes):
    """Play three rounds; returns the state at the end."""
    plain = {
        "fleet": "odd",
        "model": "mlp",
        "options": {"input_shape": [6], "classes": CLASSES, "hidden": [16]},
        "widths": (0.5, 1.0),
        "training": {"steps": 6, "batch_size": 8, "learning_rate": 0.1},
        "rounds": {"budget": 3, "quorum": 1, "failures_limit": 2},
        "rewards": {"ladder": (0.25, 0.5, 1.0)},
    }
    chosen = msgspec.convert(plain | changes, Settings)
    return simulate(chosen, devices, validation, folder / "run").state


def honest(count=60):
    return [SimulatedDevice("press", recorded(count, 0)), SimulatedDevice("lathe", recorded(60, 1))]


def widths_of(state):
    return {reward.device: reward.width for reward in state.allocation.rewards}


@pytest.mark.torch
def test_without_validation_data_a_campaign_does_not_start_and_says_what_to_do(tmp_path):
    with pytest.raises(SimulationError, match="supply some, or set contributions.evaluator = 'dev"):
        trained(tmp_path, honest(), None)


@pytest.mark.torch
def test_without_validation_data_the_devices_measure_and_the_releases_follow(tmp_path):
    devices = [*honest(), SimulatedDevice("mill", recorded(60, 2))]
    state = trained(tmp_path, devices, None, contributions={"evaluator": "devices"})
    assert max(widths_of(state).values()) == 1.0
    assert state.scored.method == "cosine-to-aggregate"


@pytest.mark.torch
def test_a_device_of_a_class_that_the_validation_data_lack_is_worth_nothing_to_this_server(
    tmp_path,
):
    devices = [*honest(), SimulatedDevice("lonely", only(recorded(90, 2), 2))]
    known = only(recorded(120, 9), 0, 1)
    state = trained(tmp_path, devices, known)
    widths = widths_of(state)
    assert widths["lonely"] == 0.0 < min(widths["press"], widths["lathe"])
    assert state.scored.curve[-1].score > 0.9, "balanced over the two classes that are there"
    fair = trained(tmp_path / "all classes", devices, recorded(120, 9))
    assert fair.contribution("lonely") > state.contribution("lonely")


@pytest.mark.torch
def test_one_device_alone_gets_the_full_width_for_a_model_that_it_moved(tmp_path):
    state = trained(tmp_path, honest()[:1], recorded(120, 9))
    assert widths_of(state) == {"press": 1.0}
    [reward] = state.allocation.rewards
    assert reward.share == 1.0


@pytest.mark.torch
def test_one_device_alone_that_moved_nothing_gets_nothing(tmp_path):
    rider = SimulatedDevice("press", recorded(60, 0), rider="zero")
    state = trained(tmp_path, [rider], recorded(120, 9))
    assert widths_of(state) == {"press": 0.0}


@pytest.mark.torch
@pytest.mark.parametrize(
    "kinds", [("zero", "plain-fraboni"), ("replayed-delta", "scaled-delta", "disguised-fraboni")]
)
def test_a_fleet_of_riders_gets_no_release(kinds, tmp_path):
    devices = [
        SimulatedDevice(f"rider-{at}", recorded(60, at), rider=kind)
        for at, kind in enumerate(kinds)
    ]
    state = trained(tmp_path, devices, recorded(120, 9))
    assert set(widths_of(state).values()) == {0.0}


@pytest.mark.torch
def test_where_the_full_width_is_spoilt_the_widest_sound_one_takes_its_place(tmp_path):
    devices = [
        SimulatedDevice("press", recorded(60, 0), widest=0.5),
        SimulatedDevice("lathe", recorded(60, 1), widest=0.5),
        SimulatedDevice("vandal", mislabelled(recorded(60, 2))),
    ]
    state = trained(tmp_path, devices, recorded(200, 9))
    last = state.scored.curve[-1]
    assert (last.width, last.offered) == (1.0, False)
    assert last.why.startswith("significantly worse than width")
    widths = widths_of(state)
    assert max(widths.values()) == 0.5
    assert widths["vandal"] == 0.0
    assert state.contribution("vandal") < 0


@pytest.mark.torch
def test_a_method_whose_numbers_are_far_above_one_changes_nothing(tmp_path):
    devices = [*honest(), SimulatedDevice("fan", recorded(60, 2))]
    state = trained(tmp_path, devices, recorded(120, 9), contributions={"method": "data-size"})
    assert state.contribution("press") == pytest.approx(1.0)  # a third in each of three rounds
    assert set(widths_of(state).values()) == {1.0}


@pytest.mark.torch
def test_data_that_hold_no_numbers_are_refused_by_name(tmp_path):
    with pytest.raises(SamplesError, match="inputs hold NaN, infinity or no numbers"):
        trained(tmp_path, honest(), broken(recorded(120, 9)))


@pytest.mark.torch
def test_training_that_ends_in_nan_is_told_and_never_aggregated(tmp_path):
    training = {"steps": 6, "batch_size": 8, "learning_rate": 1e9}
    with pytest.raises(SimulationError, match=r"press: round 2: not-finite \(loss is nan"):
        trained(tmp_path, honest(), recorded(120, 9), training=training)


# --- hand-made scores ---------------------------------------------------------------------------


def begun(*devices, rewards=None, **rounds):
    chosen = settings(
        rounds={"min_devices": len(devices), "quorum": 1} | rounds,
        rewards=Rewards(ladder=LADDER, **(rewards or {})),
    )
    return Office(chosen).begin(*devices)


def finished(scores, points=None, **rewards):
    """Take three rounds of these contributions and of this curve to their releases."""
    desk = begun(*scores, rewards=rewards)
    for number in itertools.count(1):
        if isinstance(job(desk.state), Export):
            break
        desk._answer()
        desk.scored(scores, points=points or risen(number / 3))
    desk.exported()
    return desk


def curve_without(scores, why):
    """Return a curve some widths of which are not offered: width -> what speaks against it."""
    return tuple(
        msgspec.structs.replace(point, offered=point.width not in why, why=why.get(point.width, ""))
        for point in curve(scores)
    )


def released(desk):
    return {event.device: event.width for event in desk.of(e.DeploymentIssued)}


def test_equal_devices_all_get_the_full_width():
    equal = dict.fromkeys((A, B, C), 0.25)
    assert released(finished(equal)) == dict.fromkeys((A, B, C), 1.0)


@pytest.mark.parametrize("why", [NO_BETTER, "trained by 1 devices, at least 2 are needed"])
@pytest.mark.parametrize("mode", ["post-training", "training-time"])
def test_where_no_width_is_fit_to_be_given_there_is_no_release_whatever_was_contributed(why, mode):
    unfit = curve_without(None, dict.fromkeys(LADDER, why))
    desk = finished({A: 0.5, B: 0.4}, unfit, mode=mode)
    assert released(desk) == {}
    assert desk.state.allocation.rule == "none"
    assert {one.reason for one in desk.state.allocation.rewards} == {
        "no release: no width is offered"
    }
    # In training the largest contributor goes on to the full width all the same.
    entitled = [event.widths[A] for event in desk.of(e.EntitlementsRevised)]
    assert set(entitled) == ({1.0} if mode == "training-time" else set())


def test_a_score_that_falls_with_width_leaves_the_narrow_ones():
    worse = dict.fromkeys((0.5, 0.75, 1.0), "significantly worse than width 0.25")
    scores = {0.125: 0.6, 0.25: 0.8, 0.5: 0.7, 0.75: 0.6, 1.0: 0.5}
    desk = finished({A: 0.5, B: 0.49}, curve_without(scores, worse))
    assert released(desk) == {A: 0.25, B: 0.25}


def test_a_score_that_falls_within_its_noise_is_flat_and_the_widest_stands_for_it():
    flat = tuple(
        msgspec.structs.replace(point, fitted=0.7)
        for point in curve({0.25: 0.71, 0.5: 0.7, 1.0: 0.69})
    )
    assert released(finished({A: 0.5, B: 0.1}, flat)) == {A: 1.0, B: 1.0}


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_no_score_and_training_ends_at_the_limit(score):
    desk = begun(A, B, failures_limit=2)
    desk._answer()
    for _ in range(2):
        desk.scored({A: score})
    assert len(desk.of(e.WorkFailed)) == 2
    assert desk.of(e.RoundScored) == []
    assert "measuring round 1 failed 2 times" in desk.state.stopped
    assert desk.state.weights == digest("round 0")
    desk.exported()
    assert released(desk) == {}


def test_a_curve_that_holds_no_numbers_is_no_score_either():
    desk = begun(A, B)
    desk._answer()
    desk.scored(points=curve({0.25: math.nan, 1.0: 0.5}))
    assert desk.of(e.RoundScored) == []


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_unit_of_contributions_is_free(scale):
    desk = finished({A: 3.0 * scale, B: 2.4 * scale, C: -1.0 * scale})
    assert released(desk) == {A: 1.0, B: 0.75}


@pytest.mark.parametrize("harm", [-1.5, -2.5, -100.0])
def test_who_does_harm_gets_nothing_and_takes_nothing_from_the_others(harm):
    assert released(finished({A: 1.0, B: 1.0, C: harm})) == {A: 1.0, B: 1.0}
