"""Control variates inside the job that scores a round."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.bench import Bench, Control, ScoreJob, UpdateFile
from coordinator.scoring import score_round
from coordinator.work import initialise
from journal.blobs import BlobFolder
from slimmable.evaluation import initial_state
from slimmable.model import load_model
from slimmable.slicing import slice_state
from slimmable.state import decode_state, encode_state
from slimmable.training import TrainingRule, train
from tests.unit.test_distilling import BASE, CLASSES, GRID, MODEL, OPTIONS, clouds

pytestmark = pytest.mark.torch

RULE = TrainingRule(
    steps=10, batch_size=16, learning_rate=0.1, momentum=0.0, weight_decay=0.0, widths=GRID
)
WIDTHS = {"one": 1.0, "two": 1.0, "narrow": 0.5}


class Campaign:
    """Rounds of three devices, each of which lacks a class, and of those who lie."""

    def __init__(self, folder):
        samples = clouds(99, 120)
        np.savez(folder / "validation.npz", x=samples.x, y=samples.y, recording=samples.recording)
        self.blobs = BlobFolder(folder / "blobs")
        self.bench = Bench(
            model="mlp",
            options=OPTIONS,
            validation=folder / "validation.npz",
            reader="npz",
            blobs=folder / "blobs",
            templates=folder / "templates",
            grid=GRID,
            ladder=GRID,
            seed=1,
        )
        self.base = self.first = initialise(self.bench)[0]
        self.known, self.control, self.round = (), Control("", {}, RULE.learning_rate), 1

    def correction(self, device, width):
        from coordinator.aggregation.control_variates import (
            correction,
            mean_variate,
            unpacked,
        )
        from slimmable.window import PREFIX

        if device not in self.control.devices:
            return None
        mean = mean_variate(MODEL.spec, decode_state(self.blobs.get(self.control.fleet)))
        own = unpacked(MODEL.spec, decode_state(self.blobs.get(self.control.devices[device])))
        return correction(MODEL.spec, mean, own, (width, PREFIX))

    def honest(self, device, *, obeys=True):
        width, number = WIDTHS[device], list(WIDTHS).index(device)
        state = slice_state(decode_state(self.blobs.get(self.base)), MODEL.spec, width)
        told = self.correction(device, width) if obeys else None
        own = clouds(number, labels=[label for label in range(3) if label != number])
        rng = np.random.default_rng((number, self.round))
        trained, _ = train(MODEL, state, width, own, RULE, rng, correction=told)
        return self.file(device, width, trained, told is not None)

    def liar(self, device, factor, *, says):
        """Move where the correction leads, times ``factor``, without training."""
        state = decode_state(self.blobs.get(self.base))
        for name, array in (self.correction(device, 1.0) or {}).items():
            state[name] = state[name] - np.float32(factor * RULE.steps * 0.1) * array
        return self.file(device, 1.0, state, says)

    def file(self, device, width, state, corrected):
        digest = self.blobs.put(encode_state(state))
        return UpdateFile(
            device, width, digest, 1.0, steps=RULE.steps, corrected=corrected, rounds=self.round
        )

    def play(self, *files):
        job = ScoreJob(
            round=self.round,
            base=self.base,
            best=self.first,
            updates=tuple(sorted(files, key=lambda one: one.device)),
            method="permutation-shapley",
            coalitions=64,
            known=self.known,
            control=self.control,
        )
        result = score_round(self.bench, job)
        self.known, self.base = (self.base,), result.digest
        found = result.variates
        self.control = Control(
            found.fleet, {**self.control.devices, **found.devices}, RULE.learning_rate
        )
        self.round += 1
        return job, result


def scores(result):
    return {one.device: one.score for one in result.contributions}


@pytest.fixture
def campaign(tmp_path):
    assert (initial_state(MODEL, 1)["layer.0.weight"] == BASE["layer.0.weight"]).all()
    assert load_model("mlp", OPTIONS).task.classes == CLASSES
    return Campaign(tmp_path)


def test_variates_grow_with_the_rounds_and_a_replay_gives_the_same(campaign):
    _, first = campaign.play(*map(campaign.honest, WIDTHS))
    assert set(first.variates.devices) == set(WIDTHS)
    job, second = campaign.play(*map(campaign.honest, WIDTHS))
    assert second.variates != first.variates
    again = score_round(campaign.bench, job)
    assert (again.variates, again.digest) == (second.variates, second.digest)


def test_without_the_setting_there_are_none(campaign):
    job, _ = campaign.play(*map(campaign.honest, WIDTHS))
    assert score_round(campaign.bench, replace(job, control=None)).variates is None


@pytest.mark.parametrize(
    ("factor", "says"), [(0.0, True), (0.0, False), (1.0, True), (1.0, False), (2.0, False)]
)
def test_who_only_follows_the_server_is_worth_nothing(campaign, factor, says):
    """What it moved by is the others' knowledge, which the server had and sent."""
    for _ in range(4):
        files = [*map(campaign.honest, WIDTHS), campaign.liar("liar", factor, says=says)]
        _, result = campaign.play(*files)
        assert scores(result)["liar"] == 0
        assert max(scores(result).values()) > 0


def test_an_agent_that_knows_no_corrections_is_credited_for_what_it_did(campaign):
    for _ in range(3):
        _, result = campaign.play(
            campaign.honest("one", obeys=False), campaign.honest("two"), campaign.honest("narrow")
        )
    assert scores(result)["one"] != 0
    assert np.isfinite(list(scores(result).values())).all()


def test_own_work_and_corrections_are_the_whole_round(campaign):
    campaign.play(*map(campaign.honest, WIDTHS))
    job, result = campaign.play(*map(campaign.honest, WIDTHS))
    plain = score_round(campaign.bench, replace(job, control=None))
    ours, theirs = (decode_state(campaign.blobs.get(one.digest)) for one in (result, plain))
    for name in MODEL.spec.parameters:
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert result.value_after == pytest.approx(plain.value_after, abs=1e-6)
