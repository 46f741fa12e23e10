"""SCAFFOLD's control variates against the paper's algorithm, over slices of different widths."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregation.changes import usual_length
from coordinator.aggregation.control_variates import (
    HOLDERS,
    TOTAL,
    Asked,
    believed,
    bounded,
    correction,
    mean_variate,
    own_work,
    packed,
    remembered,
    renewed,
    unknown_variate,
    unpacked,
)
from coordinator.aggregation.readers import WholeChanges, readers_of
from coordinator.aggregation.rules import admitted, aggregate
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.settings import Aggregation, Settings, Training, Uploads
from coordinator.settings_checks import SettingsError
from slimmable.evaluation import initial_state
from slimmable.model import load_model
from slimmable.samples import Samples
from slimmable.slicing import coverage, slice_state
from slimmable.spec import AxisTerm, SpecError, WidthSpec
from slimmable.training import DivergenceError, TrainingRule, train
from slimmable.width import Axis
from slimmable.window import PREFIX, Window, WindowKind
from tests.unit.test_aggregation import SPEC, WIDTHS, random_state

ASKED = Asked(steps=5, rate=0.1, corrected=True)


def changes_of(base, spec, updates):
    return list(WholeChanges(base, spec, admitted(base, spec, readers_of(spec, updates))))


class Server:
    """Plays rounds as `coordinator.controlling` does, without blobs."""

    def __init__(self, spec=SPEC):
        self.spec, self.memory, self.own = spec, {}, {}

    def told(self, device, place):
        own = self.own.get(device) or unknown_variate(self.spec)
        return correction(self.spec, self.mean, own, place)

    @property
    def mean(self):
        return mean_variate(self.spec, self.memory)

    def learns(self, base, updates, asked=ASKED):
        told = {one.device: self.told(one.device, one.place) for one in updates}
        changes, works = changes_of(base, self.spec, updates), []
        for one in changes:
            own = self.own.get(one.device) or unknown_variate(self.spec)
            order = believed(self.spec, self.mean, own, one, asked, usual_length(changes))
            works.append(own_work(one, told[one.device], order))
        for work in bounded(works):
            own = self.own.get(work.device) or unknown_variate(self.spec)
            after = renewed(self.spec, own, work, asked)
            self.memory = remembered(self.spec, self.memory, own, after)
            self.own[work.device] = unpacked(self.spec, packed(after))


def test_full_participation_at_one_width_is_the_algorithm_of_the_paper():
    rng = np.random.default_rng(0)
    server, x = Server(), random_state(rng)
    names, devices = SPEC.parameters, ["a", "b", "c"]
    c = {name: np.zeros(x[name].shape) for name in names}
    own = {device: {name: np.zeros(x[name].shape) for name in names} for device in devices}
    for _ in range(4):
        updates = [DeviceUpdate(device, 1.0, random_state(rng)) for device in devices]
        server.learns(x, updates)
        before = {device: own[device].copy() for device in devices}
        for update in updates:
            for name in names:
                moved = (x[name].astype(float) - update.state[name]) / (5 * 0.1)
                own[update.device][name] = before[update.device][name] - c[name] + moved
        for name in names:
            apart = [own[device][name] - before[device][name] for device in devices]
            c[name] = c[name] + np.mean(apart, axis=0)
        x = aggregate(x, SPEC, updates)
        for name in names:
            np.testing.assert_allclose(server.mean[name], c[name], rtol=1e-3, atol=1e-3)
            for device in devices:
                np.testing.assert_allclose(
                    server.own[device][name], own[device][name], rtol=1e-3, atol=1e-3
                )


PLACES = st.tuples(
    st.sampled_from(WIDTHS),
    st.one_of(
        st.just(PREFIX),
        st.builds(
            Window, st.sampled_from([WindowKind.ROLLING, WindowKind.RANDOM]), st.integers(0, 9)
        ),
    ),
)


@st.composite
def histories(draw):
    """Return rounds: device -> the place that it trained."""
    one = st.dictionaries(st.sampled_from("abc"), PLACES, min_size=1)
    return draw(st.lists(one, min_size=1, max_size=4)), draw(st.integers(0, 2**32 - 1))


@given(histories())
def test_the_mean_is_that_of_all_who_ever_held_a_coordinate(history):
    rounds, seed = history
    rng, server = np.random.default_rng(seed), Server()
    held = {}
    for places in rounds:
        base = random_state(rng)
        updates = [
            DeviceUpdate(device, width, random_state(rng, width), window=window)
            for device, (width, window) in places.items()
        ]
        before = {name: array.copy() for name, array in server.mean.items()}
        server.learns(base, updates)
        for device, place in places.items():
            for name in SPEC.parameters:
                mask = held.setdefault((device, name), np.zeros(SPEC.shape(name, 1.0), bool))
                mask[coverage(SPEC, name, *place)] = True
        for name in SPEC.parameters:
            known = np.stack([one[name] for one in server.own.values()])
            masks = np.stack([held[device, name] for device in server.own])
            assert (np.isnan(known) == ~masks).all()
            count = masks.sum(axis=0)
            mean = np.where(masks, known, 0).sum(axis=0) / np.maximum(count, 1)
            np.testing.assert_allclose(server.mean[name], mean, rtol=1e-3, atol=1e-3)
            assert (server.memory[HOLDERS + name] == count).all()
            outside = np.ones(base[name].shape, bool)
            for place in places.values():
                outside[coverage(SPEC, name, *place)] = False
            assert (server.mean[name][outside] == before[name][outside]).all()


def test_the_corrections_of_all_holders_add_up_to_nothing():
    rng, server = np.random.default_rng(1), Server()
    base = random_state(rng)
    updates = [DeviceUpdate(f"d{n}", 0.5, random_state(rng, 0.5)) for n in range(4)]
    server.learns(base, updates)
    for name in SPEC.parameters:
        total = sum(server.told(one.device, one.place)[name] for one in updates)
        np.testing.assert_allclose(total, 0, atol=1e-4)


def test_what_is_not_known_of_a_device_corrects_nothing():
    rng, server = np.random.default_rng(2), Server()
    base = random_state(rng)
    server.learns(base, [DeviceUpdate("wide", 1.0, random_state(rng))])
    server.learns(base, [DeviceUpdate("narrow", 0.5, random_state(rng, 0.5))])
    assert not any(array.any() for array in server.told("new", (1.0, PREFIX)).values())
    wider = server.told("narrow", (1.0, PREFIX))
    for name in SPEC.parameters:
        inside = np.zeros(wider[name].shape, bool)
        inside[coverage(SPEC, name, 0.5)] = True
        assert wider[name][inside].any()
        assert not wider[name][~inside].any()


def test_a_narrow_devices_variate_takes_the_room_of_its_slice():
    rng, server = np.random.default_rng(3), Server()
    server.learns(random_state(rng), [DeviceUpdate("narrow", 0.25, random_state(rng, 0.25))])
    stored = packed(server.own["narrow"])
    assert stored["first.weight"].shape == SPEC.shape("first.weight", 0.25)
    assert not np.isnan(stored["first.weight"]).any()
    empty = packed(unknown_variate(SPEC))
    again = unpacked(SPEC, empty)
    assert all(np.isnan(array).all() for array in again.values())


# --- what is a device's own ----------------------------------------------------------------------


def works(server, base, device, change_of, says=True, usual=1.0):
    """Return what of a change made of the correction counts as own work, and what is believed."""
    told = server.told(device, (1.0, PREFIX))
    state = {name: np.array(array) for name, array in base.items()}
    for name in SPEC.parameters:
        state[name] = base[name] + change_of(name, told[name]).astype(np.float32)
    [change] = changes_of(base, SPEC, [DeviceUpdate(device, 1.0, state)])
    order = believed(SPEC, server.mean, server.own[device], change, Asked(5, 0.1, says), usual)
    return own_work(change, told, order), order


def after_a_round():
    rng, server = np.random.default_rng(4), Server()
    base = random_state(rng)
    server.learns(base, [DeviceUpdate(name, 1.0, random_state(rng)) for name in "ab"])
    return server, base


def test_who_only_follows_its_correction_has_done_exactly_nothing():
    work, order = works(*after_a_round(), "a", lambda _, told: -0.5 * told)
    assert order.corrected
    assert not any(array.any() for array in work.change.values())


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_who_hardly_moves_is_not_believed_to_have_been_corrected(says, noise):
    work, order = works(*after_a_round(), "a", lambda _, told: 0 * told + noise, says)
    assert not order.corrected
    for array in work.change.values():
        np.testing.assert_allclose(array, noise, atol=1e-6)


def test_who_moves_as_its_own_data_pull_is_not_believed_either():
    server, base = after_a_round()
    own = server.own["a"]
    _, order = works(server, base, "a", lambda name, _: -0.5 * own[name])
    assert not order.corrected
    _, order = works(server, base, "a", lambda name, _: -0.5 * server.mean[name])
    assert order.corrected


def test_an_agent_that_knows_no_corrections_is_taken_for_what_it_did():
    server, base = after_a_round()
    work, order = works(server, base, "a", lambda _, told: 0 * told + 1, says=False)
    after = renewed(SPEC, server.own["a"], work, order)
    for name in SPEC.parameters:
        np.testing.assert_allclose(after[name], -1 / 0.5, rtol=1e-5)


def test_a_long_lie_makes_no_long_variate():
    server, base = Server(), random_state(np.random.default_rng(5))
    near = {name: base[name] + np.float32(0.1) for name in base}
    far = {name: base[name] + np.float32(1e6) for name in base}
    honest = [DeviceUpdate(f"d{n}", 1.0, near) for n in range(3)]
    server.learns(base, [*honest, DeviceUpdate("liar", 1.0, far)])
    for name in SPEC.parameters:
        assert np.abs(server.own["liar"][name]).max() < 3.1 * 0.1 / 0.5


# --- training ------------------------------------------------------------------------------------

CLASSES = ("a", "b", "c")
MODEL = load_model("mlp", {"input_shape": [4], "classes": CLASSES, "hidden": [8]})
GRID = (0.5, 1.0)


def clouds(seed, count=40):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = (np.eye(3, 4)[y] + rng.standard_normal((count, 4))).astype(np.float32)
    return Samples(x, y.astype(np.int64), np.arange(count))


def rule(**changes):
    plain = {
        "steps": 6,
        "batch_size": 8,
        "learning_rate": 0.1,
        "momentum": 0.0,
        "weight_decay": 0.01,
        "widths": GRID,
    }
    return TrainingRule(**{**plain, **changes})


@pytest.mark.torch
@pytest.mark.parametrize("limit", [0.0, 0.1], ids=["free", "limited"])
def test_what_the_server_works_out_is_the_mean_gradient_of_the_device(limit):
    """With ordered dropout a coordinate outside the slice of a step has gradient 0 in it."""
    state = initial_state(MODEL, 0)
    told = {
        name: np.random.default_rng(1).standard_normal(state[name].shape).astype(np.float32) / 10
        for name in MODEL.spec.parameters
    }
    how, gradients = rule(gradient_norm=limit), []
    trained, _ = train(MODEL, state, 1.0, clouds(0), how, np.random.default_rng(5), correction=told)
    # One step at a time, from the weights of the one before: what it moved is what it was told.
    weights = state
    for at in range(1, how.steps + 1):
        short = rule(gradient_norm=limit, steps=at)
        after, _ = train(
            MODEL, state, 1.0, clouds(0), short, np.random.default_rng(5), correction=told
        )
        gradients.append(
            {n: (weights[n] - after[n]) / 0.1 - told[n] for n in MODEL.spec.parameters}
        )
        weights = after
    [change] = changes_of(state, MODEL.spec, [DeviceUpdate("a", 1.0, trained)])
    asked = Asked(how.steps, how.learning_rate, corrected=True)
    work = own_work(change, told, asked)
    after = renewed(MODEL.spec, unknown_variate(MODEL.spec), work, asked)
    for name in MODEL.spec.parameters:
        mean = np.mean([one[name] for one in gradients], axis=0)
        np.testing.assert_allclose(after[name], mean, rtol=1e-3, atol=1e-4)


@pytest.mark.torch
def test_a_correction_is_added_outside_the_slice_of_a_step_too():
    state = initial_state(MODEL, 0)
    told = {name: np.ones(state[name].shape, np.float32) for name in MODEL.spec.parameters}
    narrow = rule(widths=(0.5,), weight_decay=0.0)  # every step draws half the width
    trained, _ = train(
        MODEL, state, 1.0, clouds(0), narrow, np.random.default_rng(0), correction=told
    )
    for name in MODEL.spec.parameters:
        outside = np.ones(state[name].shape, bool)
        outside[coverage(MODEL.spec, name, 0.5)] = False
        np.testing.assert_allclose(
            trained[name][outside], state[name][outside] - 6 * 0.1, rtol=1e-4, atol=1e-5
        )


@pytest.mark.torch
def test_a_correction_of_another_width_or_of_nonsense_is_refused():
    state = initial_state(MODEL, 0)
    parameters = {name: state[name] for name in MODEL.spec.parameters}
    cut = {n: slice_state(state, MODEL.spec, 0.5)[n] for n in MODEL.spec.parameters}
    with pytest.raises(SpecError):
        train(MODEL, state, 1.0, clouds(0), rule(), np.random.default_rng(0), correction=cut)
    nonsense = {name: np.full_like(array, np.nan) for name, array in parameters.items()}
    with pytest.raises(DivergenceError):
        train(MODEL, state, 1.0, clouds(0), rule(), np.random.default_rng(0), correction=nonsense)


# --- two unlike devices --------------------------------------------------------------------------

POINT = WidthSpec(axes=(Axis(4, scales=False),), tensors={"x": (AxisTerm(0),)})
PARABOLAS = {  # curvature and centre along each of four axes
    "one": (np.array([4.0, 0.5, 1.0, 2.0]), np.array([1.0, -3.0, 2.0, 0.5])),
    "other": (np.array([0.5, 2.5, 3.0, 1.0]), np.array([-3.0, 1.0, -1.0, 2.0])),
}
BEST = sum(a * b for a, b in PARABOLAS.values()) / sum(a for a, _ in PARABOLAS.values())


def descend(rounds, *, controlled, riders=(), steps=20, rate=0.02):
    """Let two devices with unlike bowls take many steps a round; return how far off they end."""
    server, state = Server(POINT), {"x": np.full(4, 5.0, np.float32)}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        updates = [
            DeviceUpdate(
                name, 1.0, {"x": state["x"] + noise * rng.standard_normal(4).astype(np.float32)}
            )
            for name, noise in riders
        ]
        for device, (curvature, centre) in PARABOLAS.items():
            told = server.told(device, (1.0, PREFIX))["x"] if controlled else 0.0
            x = state["x"].copy()
            for _ in range(steps):
                x = x - np.float32(rate) * (curvature * (x - centre) + told)
            updates.append(DeviceUpdate(device, 1.0, {"x": x.astype(np.float32)}))
        if controlled:
            server.learns(state, updates, Asked(steps, rate, corrected=True))
        state = aggregate(state, POINT, updates)
    return float(np.abs(state["x"] - BEST).max())


def test_scaffold_ends_at_the_optimum_of_both_where_averaging_does_not():
    assert descend(100, controlled=False) > 0.2
    assert descend(100, controlled=True) < 0.001


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_device_that_only_says_that_it_trained_does_not_stop_the_others(noise):
    """Believed, it would drive the mean variate to 0, and with it all steps."""
    riders = [(f"rider-{at}", noise) for at in range(2)]
    found = descend(300, controlled=True, riders=riders)
    assert found < descend(300, controlled=False, riders=riders)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("training.momentum", {"training": Training(control="scaffold")}),
        ("training.proximal", {"training": Training(control="scaffold", momentum=0, proximal=1)}),
        ("uploads.encoding", {"uploads": Uploads(encoding="top-k")}),
        ("uploads.encoding", {"uploads": Uploads(encoding="adaptive")}),
        ("aggregation.rule", {"aggregation": Aggregation(rule="median")}),
        ("aggregation.clip", {"aggregation": Aggregation(clip=2.0)}),
    ],
)
def test_what_would_hide_the_gradients_is_refused(name, changes):
    plain = {"training": Training(control="scaffold", momentum=0.0)}
    Settings(fleet="plant", model="mlp", **plain).check()
    with pytest.raises(SettingsError, match=f"set {name} = "):
        Settings(fleet="plant", model="mlp", **(plain | changes)).check()


def test_the_rule_of_one_training_knows_nothing_of_other_rounds():
    settings = Settings(
        fleet="plant", model="mlp", training=Training(control="scaffold", momentum=0.0)
    )
    assert settings.training_rule().momentum == 0
    assert not hasattr(settings.training_settings(), "control")


def test_memory_starts_with_nothing():
    mean = mean_variate(SPEC, {})
    assert not any(array.any() for array in mean.values())
    after = remembered(SPEC, {}, unknown_variate(SPEC), unknown_variate(SPEC))
    assert not any(after[TOTAL + name].any() for name in SPEC.parameters)
