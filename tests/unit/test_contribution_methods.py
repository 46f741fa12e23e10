"""Every measure of a contribution: what all of them promise, and where they agree."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coordinator.aggregation.rules import steps_of
from coordinator.aggregation.steps import combine
from coordinator.aggregation.updates import DeviceUpdate
from coordinator.contribution.evidence import Evidence, EvidenceError
from coordinator.contribution.flat_steps import FlatSteps, class_rows, idle, output_layer
from coordinator.contribution.game import BROKEN
from coordinator.contribution.gtg import LEAST
from coordinator.contribution.methods import METHODS, estimate
from slimmable.model import load_model
from slimmable.slicing import slice_state
from slimmable.task import classification, regression

VALUED = [name for name, method in METHODS.items() if method.needs_validation]
CLAIMED = ["data-size", "participation"]
OF_UPDATES = [name for name in METHODS if name not in CLAIMED]
EXACT = [
    "stand-alone",
    "leave-one-out",
    "exact-shapley",
    "data-banzhaf",
    "first-order-loss",
    "second-order-loss",
]
SEEDS = st.integers(0, 2**32 - 1)
PLENTY = 4096
FEW = settings(max_examples=25)


class Quadratic:
    """A model of D weights whose value falls with the square of the distance to a goal a block.

    Steps are a_i * delta_i with a_i = 1 / N; curvature 0 makes the value linear.
    """

    def __init__(self, seed, steps, blocks=3, curvature=1.0):
        rng = np.random.default_rng(seed)
        dimension = len(next(iter(steps.values())))
        self.steps = {device: step.astype(np.float64) for device, step in steps.items()}
        self.slope = rng.normal(size=(blocks, dimension)) + 3.0
        root = rng.normal(size=(blocks, dimension, dimension))
        self.hessian = -curvature * np.einsum("bij,bkj->bik", root, root) / dimension
        self.asked = []

    def at(self, step):
        return self.slope @ step + 0.5 * np.einsum("i,bij,j->b", step, self.hessian, step)

    def total(self, devices):
        zero = np.zeros(self.slope.shape[1])
        return sum((self.steps[device] for device in sorted(devices)), zero)

    def value(self, coalition):
        self.asked.append(coalition)
        return self.at(self.total(coalition))

    def alone(self, device):
        self.asked.append(device)
        return self.at(self.steps[device] * len(self.steps))

    def slopes(self):
        self.asked.append("slopes")
        return {device: self.slope @ step for device, step in self.steps.items()}

    def bends(self):
        self.asked.append("bends")
        everybody = self.total(self.steps)
        return {device: step @ self.hessian @ everybody for device, step in self.steps.items()}


def names(count):
    return tuple(f"d{n}" for n in range(count))


def drawn_steps(seed, devices):
    rng = np.random.default_rng(seed)
    return {
        device: (rng.normal(size=6) * 0.1 + 0.2).astype(np.float32) / len(devices)
        for device in devices
    }


def evidence_of(steps, evaluator, **more):
    devices = tuple(steps)
    return Evidence(
        devices=devices,
        evaluator=evaluator,
        steps=steps,
        class_rows={device: step.reshape(2, -1) for device, step in steps.items()},
        samples=dict.fromkeys(devices, 10),
        rounds=dict.fromkeys(devices, 1),
        idle=frozenset(device for device, step in steps.items() if not step.any()),
        **more,
    )


def round_of(seed, count=4, riders=(), **shape):
    steps = drawn_steps(seed, names(count))
    steps = {device: step * (device not in riders) for device, step in steps.items()}
    return evidence_of(steps, Quadratic(seed, steps, **shape))


def scored(name, evidence, budget=PLENTY, seed=0):
    return estimate(name, evidence, budget, np.random.default_rng(seed))


# --- what all promise ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@FEW
@given(seed=SEEDS, count=st.integers(1, 5), budget=st.integers(1, 40))
def test_every_method_scores_every_device_in_their_order(name, seed, count, budget):
    result = scored(name, round_of(seed, count), budget)
    assert tuple(result.scores) == names(count)
    assert np.isfinite(list(result.scores.values())).all()
    assert result.evaluations >= 0


@pytest.mark.parametrize("name", OF_UPDATES)
@pytest.mark.parametrize("budget", [4, PLENTY])
@FEW
@given(seed=SEEDS, count=st.integers(2, 6))
def test_a_zero_step_scores_exactly_zero_in_all_that_look_at_updates(name, budget, seed, count):
    result = scored(name, round_of(seed, count, riders=["d1"]), budget)
    assert result.scores["d1"] == 0.0
    assert set(result.blocks.get("d1", ())) <= {0.0}


@pytest.mark.parametrize("name", VALUED)
@FEW
@given(seed=SEEDS)
def test_who_changes_no_model_scores_zero_even_where_its_step_does_not_show_it(name, seed):
    given_ = replace(round_of(seed, 4, riders=["d2"]), idle=frozenset())
    assert scored(name, given_).scores["d2"] == 0.0


@pytest.mark.parametrize("name", OF_UPDATES)
def test_where_nobody_moved_all_score_zero_and_the_blocks_remain(name):
    result = scored(name, round_of(1, 3, riders=names(3)))
    assert set(result.scores.values()) == {0.0}
    if name in VALUED:
        assert result.blocks == dict.fromkeys(names(3), (0.0, 0.0, 0.0))


@pytest.mark.parametrize("name", VALUED)
@FEW
@given(seed=SEEDS, budget=st.sampled_from([12, PLENTY]))
def test_a_score_is_the_mean_of_its_blocks(name, seed, budget):
    result = scored(name, round_of(seed, 4, riders=["d3"]), budget)
    for device, score in result.scores.items():
        assert len(result.blocks[device]) == 3
        assert score == pytest.approx(float(np.mean(result.blocks[device])), abs=1e-12)


@pytest.mark.parametrize("name", VALUED)
def test_one_block_says_nothing_about_how_sure_a_score_is(name):
    assert scored(name, round_of(0, 3, blocks=1)).blocks == {}


@pytest.mark.parametrize("name", EXACT)
@FEW
@given(seed=SEEDS)
def test_each_block_is_scored_as_if_it_were_all_the_data(name, seed):
    given_ = round_of(seed, 4)
    whole = scored(name, given_)
    for block in range(3):
        part = Quadratic(seed, given_.steps)
        part.slope, part.hessian = part.slope[[block]], part.hessian[[block]]
        alone = scored(name, replace(given_, evaluator=part))
        for device in given_.devices:
            assert whole.blocks[device][block] == pytest.approx(alone.scores[device], abs=1e-9)


@pytest.mark.parametrize("name", [*EXACT, "cosine-to-aggregate", "class-rows", *CLAIMED])
@FEW
@given(seed=SEEDS, data=st.data())
def test_the_order_of_the_devices_does_not_matter(name, seed, data):
    given_ = round_of(seed, 4)
    order = data.draw(st.permutations(given_.devices))
    other = scored(name, replace(given_, devices=tuple(order)))
    assert other.scores == pytest.approx(scored(name, given_).scores, abs=1e-9)


@pytest.mark.parametrize("name", METHODS)
@FEW
@given(seed=SEEDS)
def test_devices_that_sent_the_same_score_the_same(name, seed):
    step = drawn_steps(seed, ["one"])["one"]
    steps = dict.fromkeys(names(3), step)
    scores = list(scored(name, evidence_of(steps, Quadratic(seed, steps))).scores.values())
    # Permutations that stop before all orders were walked leave the noise of the order.
    slack = 0.3 if name == "gtg-shapley" else 1e-9
    assert scores == pytest.approx([scores[0]] * 3, rel=slack)


@pytest.mark.parametrize("name", METHODS)
@FEW
@given(seed=SEEDS, budget=st.integers(1, 60))
def test_the_cost_is_what_was_asked_of_the_evaluator(name, seed, budget):
    given_ = round_of(seed, 5)
    result = scored(name, given_, budget)
    asked = given_.evaluator.asked
    assert len(set(asked)) == len(asked), "a model was evaluated twice"
    assert result.evaluations == len(asked)
    if name in {"permutation-shapley", "gtg-shapley", "data-banzhaf"}:
        assert result.evaluations <= max(budget, 6)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_generator_gives_the_same_scores(name):
    assert scored(name, round_of(3, 6), 20) == scored(name, round_of(3, 6), 20)


def test_every_method_says_where_it_comes_from():
    assert all(method.paper for method in METHODS.values())
    assert set(METHODS) == {*VALUED, *CLAIMED, "cosine-to-aggregate", "class-rows"}


# --- where they agree ---------------------------------------------------------------------------

SHAPLEY = ["exact-shapley", "permutation-shapley", "gtg-shapley"]


@pytest.mark.parametrize("name", [*SHAPLEY, "leave-one-out", "data-banzhaf", "first-order-loss"])
@FEW
@given(seed=SEEDS, count=st.integers(1, 6))
def test_where_the_value_is_linear_each_is_worth_what_it_adds(name, seed, count):
    given_ = round_of(seed, count, curvature=0.0)
    adds = {d: float(given_.evaluator.value({d}).mean()) for d in given_.devices}
    # Truncation drops at most a hundredth of the gain: no device here is worth so little.
    assume(min(adds.values()) > 0.02 * sum(adds.values()))
    assert scored(name, given_).scores == pytest.approx(adds, abs=1e-9)


@FEW
@given(seed=SEEDS, count=st.integers(1, 6))
def test_a_guided_permutation_credits_the_device_at_that_place(seed, count):
    given_ = round_of(seed, count, curvature=0.0)
    turned = replace(given_, devices=given_.devices[::-1])
    assert scored("gtg-shapley", turned).scores == pytest.approx(
        scored("gtg-shapley", given_).scores, abs=1e-9
    )


@FEW
@given(seed=SEEDS, count=st.integers(1, 6))
def test_stand_alone_is_proportional_to_shapley_where_the_value_is_linear(seed, count):
    given_ = round_of(seed, count, curvature=0.0)
    exact = scored("exact-shapley", given_).scores
    alone = scored("stand-alone", given_).scores
    assert alone == pytest.approx({d: count * score for d, score in exact.items()}, abs=1e-9)


@FEW
@given(seed=SEEDS, count=st.integers(1, 6))
def test_second_order_is_shapley_where_the_value_is_quadratic(seed, count):
    given_ = round_of(seed, count)
    assert scored("second-order-loss", given_).scores == pytest.approx(
        scored("exact-shapley", given_).scores, abs=1e-9
    )


@pytest.mark.parametrize("name", ["exact-shapley", "permutation-shapley", "second-order-loss"])
@FEW
@given(seed=SEEDS, budget=st.integers(1, 40))
def test_what_was_gained_is_shared_out_exactly(name, seed, budget):
    result = scored(name, round_of(seed, 5), budget)
    assert sum(result.scores.values()) == pytest.approx(result.after - result.before, abs=1e-9)


@FEW
@given(seed=SEEDS, budget=st.integers(8, 60))
def test_guided_permutations_share_out_all_but_what_they_cut(seed, budget):
    result = scored("gtg-shapley", round_of(seed, 5), budget)
    gained = result.after - result.before
    assert sum(result.scores.values()) == pytest.approx(gained, abs=0.011 * abs(gained))


@FEW
@given(seed=SEEDS, count=st.integers(1, 5))
def test_banzhaf_is_the_mean_over_all_coalitions_of_the_others(seed, count):
    given_ = round_of(seed, count)
    found = scored("data-banzhaf", given_, 2**count).scores
    for device in given_.devices:
        others = [other for other in given_.devices if other != device]
        adds = [
            given_.evaluator.value({*members, device}) - given_.evaluator.value({*members})
            for size in range(count)
            for members in itertools.combinations(others, size)
        ]
        assert found[device] == pytest.approx(float(np.mean(adds)), abs=1e-9)


@pytest.mark.parametrize("name", ["data-banzhaf", "gtg-shapley"])
def test_the_more_may_be_evaluated_the_closer_the_estimate(name):
    given_ = round_of(5, 9, curvature=20.0)
    exact = {
        "data-banzhaf": scored("data-banzhaf", given_, 2**9),
        "gtg-shapley": scored("exact-shapley", given_),
    }[name].scores

    def error(budget):
        runs = [scored(name, given_, budget, seed).scores for seed in range(12)]
        return np.mean([abs(run[d] - exact[d]) for run in runs for d in given_.devices])

    assert error(400) < error(90) < error(20)


# --- GTG-Shapley's three savings ----------------------------------------------------------------


class Counting:
    """A game by size alone."""

    def __init__(self, by_size):
        self.by_size = by_size

    def value(self, coalition):
        return np.array([self.by_size[len(coalition)]])


def counted(by_size, budget=PLENTY):
    devices = names(len(by_size) - 1)
    return scored("gtg-shapley", Evidence(devices=devices, evaluator=Counting(by_size)), budget)


def test_a_round_that_changed_nothing_is_not_examined():
    result = counted([0.0, 5.0, 5.0, 1e-4])
    assert result.evaluations == 2
    assert set(result.scores.values()) == {0.0}


def test_a_permutation_is_left_where_the_rest_adds_nothing():
    result = counted([0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert result.evaluations == 2 + 5
    # Each device leads equally often, and the leader gets it all.
    assert result.scores == pytest.approx(dict.fromkeys(names(5), 0.2), rel=1e-9)


def test_permutations_end_when_their_means_have_settled():
    given_ = round_of(0, 4, curvature=0.0)
    calls = []

    class Watched(np.random.Generator):
        def permutation(self, *arguments):
            calls.append(arguments)
            return super().permutation(*arguments)

    estimate("gtg-shapley", given_, PLENTY, Watched(np.random.PCG64(0)))
    walks = sum(1 for (argument,) in calls if isinstance(argument, list))
    assert walks == 32, "the first whole turn of four leaders after LEAST permutations"
    assert LEAST <= walks < LEAST + 4


# --- bad input ----------------------------------------------------------------------------------


class Breaking(Quadratic):
    """Gives NaN for some coalitions."""

    def __init__(self, *arguments, breaks, **more):
        super().__init__(*arguments, **more)
        self.breaks = breaks

    def value(self, coalition):
        found = super().value(coalition)
        return np.where(self.breaks(coalition), np.nan, found)

    def alone(self, device):
        return super().alone(device) * (np.nan if device == "d1" else 1.0)


def breaking(breaks):
    steps = drawn_steps(0, names(4))
    return evidence_of(steps, Breaking(0, steps, breaks=breaks))


@pytest.mark.parametrize("name", ["exact-shapley", "permutation-shapley", "data-banzhaf"])
def test_a_device_that_breaks_models_is_worth_less_than_nothing_and_spoils_no_other(name):
    # The round as a whole held, because another step happened to cancel the broken one.
    found = scored(name, breaking(lambda c: "d1" in c and len(c) < 4)).scores
    assert np.isfinite(list(found.values())).all()
    assert found["d1"] < -BROKEN / 4
    assert min(found[device] for device in ("d0", "d2", "d3")) > 0


def test_a_model_of_its_own_that_breaks_is_worth_less_than_nothing():
    found = scored("stand-alone", breaking(lambda c: False)).scores
    assert found["d1"] == pytest.approx(-BROKEN, rel=0.1)
    assert min(found[device] for device in ("d0", "d2", "d3")) > 0


@pytest.mark.parametrize("name", VALUED)
@pytest.mark.parametrize(("size", "who"), [(0, "nobody"), (4, "everybody")])
def test_a_round_that_broke_is_an_error_that_says_so(name, size, who):
    with pytest.raises(EvidenceError, match=f"steps of {who} has no finite value"):
        scored(name, breaking(lambda c: len(c) == size))


@pytest.mark.parametrize("name", ["first-order-loss", "second-order-loss"])
def test_a_derivative_that_is_not_finite_is_an_error_that_names_the_device(name):
    given_ = round_of(0, 3)
    given_.evaluator.steps["d1"] = given_.evaluator.steps["d1"] * np.nan
    given_.evaluator.value = lambda _: np.zeros(3)
    with pytest.raises(EvidenceError, match="no finite derivative along the step of d"):
        scored(name, given_)


@pytest.mark.parametrize("name", METHODS)
def test_one_device_alone_gets_all_of_the_gain(name):
    result = scored(name, round_of(2, 1))
    if name in {"first-order-loss", *CLAIMED, "cosine-to-aggregate", "class-rows"}:
        assert result.scores["d0"] > 0
    else:
        assert result.scores["d0"] == pytest.approx(result.after - result.before)


@pytest.mark.parametrize("name", METHODS)
def test_nobody_took_part(name):
    nobody = Evidence((), evaluator=Counting([0.0]), class_rows={})
    nobody.evaluator.slopes = nobody.evaluator.bends = dict
    assert scored(name, nobody).scores == {}


@pytest.mark.parametrize("name", VALUED)
def test_without_validation_data_the_error_says_what_to_use(name):
    with pytest.raises(EvidenceError, match="needs validation data.*cosine-to-aggregate"):
        scored(name, replace(round_of(0), evaluator=None))


def test_an_unknown_method_is_an_error_that_lists_the_known_ones():
    with pytest.raises(EvidenceError, match="no method 'guess'.*stand-alone.*second-order-loss"):
        scored("guess", round_of(0))


def test_a_network_without_class_rows_is_told_what_to_use():
    with pytest.raises(EvidenceError, match="output layer.*cosine-to-aggregate"):
        scored("class-rows", replace(round_of(0), class_rows=None))


def test_a_missing_step_is_named():
    given_ = round_of(0)
    lacking = replace(given_, steps={d: given_.steps[d] for d in names(3)})
    with pytest.raises(EvidenceError, match="needs the step of d3"):
        scored("cosine-to-aggregate", lacking)


# --- what needs no validation data --------------------------------------------------------------


def compared(name, steps, **more):
    given_ = evidence_of({d: np.asarray(s, np.float32) for d, s in steps.items()}, None)
    return scored(name, replace(given_, **more)).scores


def test_the_cosine_counts_neither_length_nor_claims():
    steps = {"a": [1, 0, 0, 0], "b": [1, 1, 0, 0], "c": [0, 1, 0, 1]}
    found = compared("cosine-to-aggregate", steps)
    longer = {**steps, "a": [1000, 0, 0, 0]}
    assert compared("cosine-to-aggregate", longer, samples={"a": 10**9}) == pytest.approx(found)
    assert found["b"] == max(found.values())


def test_steps_that_cancel_score_zero_and_not_nan():
    opposite = {"a": [1.0, 2, 3, 4], "b": [-1.0, -2, -3, -4]}
    for name in ("cosine-to-aggregate", "class-rows"):
        assert compared(name, opposite) == {"a": 0.0, "b": 0.0}


def test_very_long_steps_do_not_overflow():
    found = compared("cosine-to-aggregate", {"a": [1e30, 0, 0, 0], "b": [1.0, 0, 0, 0]})
    assert found == pytest.approx({"a": 1.0, "b": 1.0})


def test_a_class_that_nobody_moved_says_nothing_and_contrary_rows_count_zero():
    found = compared(
        "class-rows", {"a": [1.0, 1, 0, 0], "b": [2.0, 2, 0, 0], "c": [-1.0, -1, 0, 0]}
    )
    assert found == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.0})


def test_a_share_of_the_data_is_a_share_of_what_is_claimed():
    steps = {device: [1.0, 0, 0, 0] for device in "abc"}
    assert compared("data-size", steps, samples={"a": 30, "b": 10}) == {
        "a": 0.75,
        "b": 0.25,
        "c": 0,
    }
    assert compared("data-size", steps, samples={"a": -5}) == {"a": 0, "b": 0, "c": 0}
    assert compared("participation", steps) == {"a": 1, "b": 1, "c": 1}


# --- steps as vectors ---------------------------------------------------------------------------

MODEL = load_model("mlp", {"input_shape": [6], "classes": ["x", "y", "z"], "hidden": [16, 8]})


@pytest.fixture
def moved():
    rng = np.random.default_rng(4)
    base = {
        name: rng.normal(size=MODEL.spec.shape(name, 1.0)).astype(np.float32)
        for name in MODEL.spec.tensors
    }
    updates = [
        DeviceUpdate(
            device,
            width,
            {
                name: array + rng.normal(size=array.shape).astype(np.float32)
                for name, array in slice_state(base, MODEL.spec, width).items()
            },
            weight,
        )
        for device, width, weight in (("a", 1.0, 1.0), ("b", 0.5, 3.0))
    ]
    updates.append(DeviceUpdate("idle", 1.0, base))
    return base, steps_of(base, MODEL.spec, updates)


def test_flat_steps_add_up_to_the_change_of_the_model(moved):
    base, steps = moved
    flat = FlatSteps(MODEL.spec, steps)
    after = combine(base, MODEL.spec, steps)
    change = np.concatenate([(after[n] - base[n]).ravel() for n in MODEL.spec.parameters])
    assert list(flat) == ["a", "b", "idle"]
    assert len(flat) == 3
    assert all(flat[device].dtype == np.float32 for device in flat)
    np.testing.assert_allclose(sum(flat.values()), change, atol=1e-5)
    assert not flat["idle"].any()
    assert (flat["b"] == 0).sum() > 0


def test_only_a_step_that_is_zero_throughout_is_idle(moved):
    assert idle(moved[1]) == {"idle"}


def test_class_rows_are_the_output_layer_and_its_bias(moved):
    base, steps = moved
    name = output_layer(MODEL.spec, MODEL.task)
    assert name is not None
    assert MODEL.spec.shape(name, 1.0) == (3, 8)
    rows = class_rows(MODEL.spec, MODEL.task, steps)
    after = combine(base, MODEL.spec, steps)
    bias = name.replace("weight", "bias")
    change = np.column_stack([after[name] - base[name], after[bias] - base[bias]])
    np.testing.assert_allclose(sum(rows.values()), change, atol=1e-5)
    assert (rows["b"][:, 4:8] == 0).all()


def test_no_output_layer_where_there_are_no_classes_or_none_fits(moved):
    assert class_rows(MODEL.spec, regression(), moved[1]) is None
    # 16 and 8 are hidden layers, which scale; no layer has 5 rows.
    for count in (5, 8, 16):
        task = classification([str(number) for number in range(count)])
        assert class_rows(MODEL.spec, task, moved[1]) is None
