"""What a late update does to the model: against its definition, and against FedBuff written out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as search
from hypothesis import strategies as st

from coordinator import inputs as i
from coordinator.aggregation.rules import put_together, steps_of
from coordinator.aggregation.server_optimiser import move
from coordinator.aggregation.steps import Step
from coordinator.bench import RoundResult, UpdateFile
from coordinator.contribution.entries import entries
from coordinator.contribution.evidence import Scores
from coordinator.contribution.novelty import novel_steps
from coordinator.duties import Score, job
from coordinator.job_orders import score_job
from coordinator.settings import Aggregation, ServerOptimiser
from coordinator.update_file import read_update, stored_change
from journal import events as e
from journal.blobs import BlobFolder
from slimmable.slicing import slice_state
from slimmable.spec import AxisTerm, WidthSpec
from slimmable.state import encode_state
from slimmable.update_codec import UpdateEncoding, encode_update
from slimmable.width import Axis
from tests.fakes.office import LIMIT, Office, curve, settings

WIDE = WidthSpec(axes=(Axis(8, scales=True),), tensors={"w": (AxisTerm(0), AxisTerm(0))})


def state_of(seed, width=1.0, scale=1.0):
    rng = np.random.default_rng(seed)
    shape = WIDE.shape("w", width)
    return {"w": (scale * rng.standard_normal(shape)).astype(np.float32)}


@pytest.fixture
def blobs(tmp_path):
    return BlobFolder(tmp_path / "blobs")


def stored(blobs, own, base, *, width=1.0, factor=1.0, device="fan", **changes):
    """A late update that was trained on ``own``."""
    held = slice_state(own, WIDE, width)
    trained = {"w": held["w"] + state_of(7, width)["w"]}
    file = UpdateFile(
        device,
        width,
        blobs.put(encode_state(trained)),
        1.0,
        base=blobs.put(encode_state(own)),
        round=3,
        staleness=1,
        factor=factor,
    )
    return replace(file, **changes), trained


@pytest.mark.parametrize("width", [0.25, 1.0])
@pytest.mark.parametrize("factor", [1.0, 0.5, 3**-0.5])
def test_a_late_update_moves_the_model_by_its_change_times_its_weight(blobs, width, factor):
    own, base = state_of(1), state_of(2)
    file, trained = stored(blobs, own, base, width=width, factor=factor)
    update = read_update(blobs, WIDE, base, file)
    assert update.device == "fan@3"
    [step] = steps_of(base, WIDE, [update])
    expected = factor * (trained["w"] - slice_state(own, WIDE, width)["w"])
    np.testing.assert_allclose(step.change["w"], expected, atol=1e-6)


@pytest.mark.parametrize("encoding", list(UpdateEncoding))
def test_whatever_its_encoding_it_is_read_against_its_own_weights(blobs, encoding):
    own, base = state_of(1), state_of(2)
    change = {"w": np.round(state_of(7, 0.5)["w"] * 8) / 8}
    held = slice_state(own, WIDE, 0.5)
    trained = {"w": held["w"] + change["w"]}
    payload = encode_update(
        trained, held, WIDE.parameters, encoding, keep=1.0, rng=np.random.default_rng(0)
    ).payload
    file, _ = stored(blobs, own, base, width=0.5)
    file = replace(file, digest=blobs.put(payload))
    update = read_update(blobs, WIDE, base, file)
    moved = update.state["w"] - slice_state(base, WIDE, 0.5)["w"]
    np.testing.assert_allclose(moved, change["w"], atol=0.03)


def test_a_late_device_that_changed_nothing_changes_exactly_nothing(blobs):
    own, base = state_of(1), state_of(2)
    file, _ = stored(blobs, own, base, factor=0.3)
    file = replace(file, digest=blobs.put(encode_state(slice_state(own, WIDE, 1.0))))
    [step] = steps_of(base, WIDE, [read_update(blobs, WIDE, base, file)])
    assert not step.change["w"].any()


# --- FedBuff ------------------------------------------------------------------------------------

FLEET = ("fan", "lathe", "mill", "press", "saw")
FULL = WidthSpec(axes=(Axis(4, scales=False),), tensors={"w": (AxisTerm(0),)})


def trained_by(device, weights):
    """One step of gradient descent towards what the device's data wants."""
    wanted = np.random.default_rng(FLEET.index(device)).standard_normal(4)
    return weights + 0.3 * (wanted - weights)


class FedBuff:
    """Algorithm 1 of Nguyen et al., AISTATS 2022, with the staleness function of section 5."""

    def __init__(self, weights, size, rate):
        self.weights, self.size, self.rate = weights, size, rate
        self.time, self.buffer, self.held = 0, [], {}

    def hand_out(self, device):
        self.held[device] = (self.time, self.weights)

    def arrives(self, device):
        then, received = self.held.pop(device)
        change = trained_by(device, received) - received
        self.buffer.append((then, change))
        return len(self.buffer) >= self.size

    def step(self):
        total = sum((1 + self.time - then) ** -0.5 * change for then, change in self.buffer)
        self.weights = self.weights + self.rate * total / len(self.buffer)
        self.buffer, self.time = [], self.time + 1


class Campaign:
    """The coordinator's decisions with weights of its own, each update really aggregated."""

    def __init__(self, blobs, size, rate):
        server = ServerOptimiser(rate=rate)
        rounds = {
            "mode": "buffered",
            "buffer": size,
            "quorum": 1,
            "budget": 100,
            "minimum": 100,
            "patience": 100,
            "staleness_limit": 100,
            "min_devices": len(FLEET),
        }
        self.blobs = blobs
        self.desk = Office(settings(rounds=rounds, aggregation=Aggregation(server=server)))
        self.desk.start()
        first = {"w": np.zeros(4, np.float32)}
        self.desk.say(i.Initialised(blobs.put(encode_state(first)), 0.2))
        for device in FLEET:
            self.desk.join(device)

    def weights(self, digest=""):
        from slimmable.state import decode_state

        return decode_state(self.blobs.get(digest or self.desk.state.weights))["w"]

    def busy(self):
        state = self.desk.state
        current = state.round
        open_ = current.tasks if current and not current.closed else {}
        return {*state.owed, *(name for name, task in open_.items() if not task.answered)}

    def arrives(self, device):
        state = self.desk.state
        owed = state.owed.get(device)
        opened = owed.opened if owed else state.round.opened
        own = trained_by(device, self.weights(opened.base).astype(np.float64))
        payload = self.blobs.put(encode_state({"w": own.astype(np.float32)}))
        update = self.desk.update_of(device)
        return self.desk.say(i.UpdateFetched(device, update, LIMIT, payload))

    def score(self):
        order = score_job(self.desk.state)
        base = {"w": self.weights(order.base)}
        changes = [stored_change(self.blobs, FULL, one) for one in order.updates]
        change = put_together(base, FULL, changes, order.aggregation).change
        places = {one.place for one in changes}
        state = move(order.aggregation.server, base, FULL, change, places, {}).state(change)
        scores = Scores({one.player: 0.1 for one in order.updates}, "m", 1)
        result = RoundResult(
            digest=self.blobs.put(encode_state(state)),
            curve=curve(),
            contributions=entries(order.updates, scores, {}),
            method="m",
            value_before=-1.0,
            value_after=-0.5,
            coalitions=1,
            seconds=0.1,
            better=True,
        )
        return self.desk.say(i.Scored(order.round, result))


@search(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.lists(st.integers(0, 4), min_size=5, max_size=40),
    size=st.integers(1, 4),
    rate=st.sampled_from([1.0, 0.5]),
    measuring=st.lists(st.integers(0, 2), min_size=40, max_size=40),
)
def test_buffered_rounds_are_fedbuff(blobs, order, size, rate, measuring):
    ours = Campaign(blobs, size, rate)
    reference = FedBuff(np.zeros(4), size, rate)
    told = 0

    def follow():
        nonlocal told
        opened = ours.desk.of(e.RoundOpened)
        for event in opened[told:]:
            for task in event.tasks:
                reference.hand_out(task.device)
        told = len(opened)

    follow()
    for which, meanwhile in zip(order, measuring, strict=False):
        busy = sorted(ours.busy())
        if not busy:
            break
        device = busy[which % len(busy)]
        full = reference.arrives(device)
        ours.arrives(device)
        coming = sorted(ours.busy())[:meanwhile]  # while the round is measured
        assert full == isinstance(job(ours.desk.state), Score)
        while isinstance(job(ours.desk.state), Score):
            reference.step()
            for other in coming:
                reference.arrives(other)
                ours.arrives(other)
            coming = []
            ours.score()
            np.testing.assert_allclose(ours.weights(), reference.weights, atol=2e-5)
            follow()
        follow()
    assert ours.desk.state.trained_rounds == reference.time
    assert ours.desk.replayed() == ours.desk.state


# --- nobody gains by being late -----------------------------------------------------------------


def test_of_two_equal_changes_the_late_one_is_the_smaller_step(blobs):
    base = state_of(2)
    change = state_of(7)["w"]
    late, _ = stored(blobs, base, base, factor=0.5)
    fresh = UpdateFile("saw", 1.0, blobs.put(encode_state({"w": base["w"] + change})), 1.0)
    updates = [read_update(blobs, WIDE, base, one) for one in (fresh, late)]
    steps = {step.device: step for step in steps_of(base, WIDE, updates)}
    np.testing.assert_allclose(
        steps["fan@3"].change["w"], 0.5 * steps["saw"].change["w"], atol=1e-6
    )


def test_who_sends_late_what_the_model_did_meanwhile_has_sent_no_news():
    spec = WidthSpec(
        axes=(Axis(64, scales=True), Axis(32, scales=False)),
        tensors={"w": (AxisTerm(0), AxisTerm(1))},
    )
    rng = np.random.default_rng(0)
    known = [{"w": rng.standard_normal((64, 32)).astype(np.float32)} for _ in range(4)]
    repeated = known[3]["w"] + 0.5 * known[1]["w"]
    rider = Step("rider@1", 1.0, {"w": repeated})
    honest = Step("saw", 1.0, {"w": rng.standard_normal((64, 32)).astype(np.float32)})
    found = novel_steps(spec, [rider, honest], known, back={"rider@1": 4, "saw": 1})
    assert found.shares["rider@1"] == pytest.approx(1.0, abs=1e-5)
    shallow = novel_steps(spec, [rider], known[:1])
    assert shallow.shares["rider@1"] < 0.5, "one step back would not have told"
    alone = novel_steps(spec, [honest], known[:1])
    np.testing.assert_array_equal(found.steps[1].change["w"], alone.steps[0].change["w"])


def test_a_device_with_two_updates_in_a_round_is_one_entry_that_is_worth_both():
    updates = (
        UpdateFile("fan", 1.0, "f" * 64, 1.0),
        UpdateFile("saw", 1.0, "5" * 64, 1.0),
        UpdateFile("fan", 1.0, "1" * 64, 1.0, base="b", round=2, staleness=1),
    )
    scores = Scores(
        {"fan": 0.3, "fan@2": 0.1, "saw": 0.2},
        "m",
        1,
        blocks={"fan": (0.2, 0.4), "fan@2": (0.1, 0.1), "saw": (0.2, 0.2)},
    )
    fan, saw = entries(updates, scores, {"fan": 0.0, "fan@2": 0.5, "saw": 0.25})
    assert (fan.device, fan.score, fan.update, fan.late) == (
        "fan",
        pytest.approx(0.4),
        "f" * 64,
        "1" * 64,
    )
    assert fan.blocks == pytest.approx((0.3, 0.5))
    assert (fan.known, saw.known, saw.late) == (0.25, 0.25, "")
