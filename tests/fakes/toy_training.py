"""A model so small that its worth is a formula, behind the real interfaces of trainer and jobs.

Two tensors share one scaling axis. Training moves the slice towards known values; the score of a
width is one minus the remaining distance, where what the width lacks counts as zero. So
aggregation, contributions and rewards are computed for real, and what must come out is known.
"""

import asyncio
import zlib

import numpy as np

from broker.messages import WidthEvaluation
from coordinator.aggregation.rules import steps_of
from coordinator.aggregation.steps import combine
from coordinator.bench import AssessResult, ExportResult, RoundResult
from coordinator.contribution.entries import entries
from coordinator.contribution.evidence import Evidence
from coordinator.contribution.flat_steps import FlatSteps
from coordinator.contribution.methods import estimate
from coordinator.curve import TrainedWidths, score_curve
from coordinator.jobs import JobError
from coordinator.update_file import read_update
from edge_agent.trainer_protocol import Trained
from edge_agent.training_failure import TrainingFailed
from journal.blobs import BlobFolder
from journal.events import AloneScore
from profiler.profile import Benchmark, WidthCost
from slimmable.slicing import slice_state
from slimmable.spec import AxisTerm, WidthSpec
from slimmable.state import decode_state, encode_state
from slimmable.width import Axis
from tests.fakes.toy_onnx import CLASSES, FEATURES, linear, manifest_of

MODEL = "toy"
HIDDEN = 256
GRID = (0.25, 0.5, 0.75, 1.0)
LADDER = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
SPEC = WidthSpec(
    axes=(
        Axis(HIDDEN, scales=True),
        Axis(FEATURES, scales=False),
        Axis(len(CLASSES), scales=False),
    ),
    tensors={"first": (AxisTerm(0), AxisTerm(1)), "second": (AxisTerm(2), AxisTerm(0))},
)
TARGET = {
    name: np.random.default_rng(7).standard_normal(SPEC.shape(name, 1.0)).astype(np.float32)
    for name in SPEC.parameters
}
FREE_RIDER = "free-rider"


def score_of(state, width):
    """Return 1 at the target, 0 for a model of zeros."""
    cut = {name: part(state, name, width) for name in TARGET}
    near = sum(float(np.sum(part(TARGET, name, width) ** 2)) for name in TARGET)
    left = sum(float(np.sum((cut[name] - part(TARGET, name, width)) ** 2)) for name in TARGET)
    return (near - left) / sum(float(np.sum(array**2)) for array in TARGET.values())


def part(state, name, width):
    return state[name][tuple(slice(0, length) for length in SPEC.shape(name, width))]


class ToyTrainer:
    """`edge_agent.agent.TrainerHandle` without torch or a process.

    Args:
        device: gives each device its own data, so to speak.
        widest: the widest width whose step is quick; a wider step takes the whole day.
        train_s: how long a training takes.
        spoil: turns the trained state dict into what is uploaded (state dict or bytes).
        fail: raised instead of an answer, for so many trainings.
        reports: turns the evaluations that a task asks for into what is reported.
    """

    def __init__(self, device, *, widest=1.0, train_s=0.3, spoil=None, fail=(), reports=None):
        self._seed = zlib.crc32(device.encode())
        self._widest = widest
        self._train_s = train_s
        self._spoil = spoil or (lambda state: state)
        self._fail = list(fail)
        self._reports = reports or (lambda evaluations: evaluations)
        self.trained = []

    async def profile(self, model, options, widths, batch_size, *, fresh=False):
        await asyncio.sleep(0.1)
        costs = tuple(
            WidthCost(width, 0.001 if width <= self._widest else 86400.0, 1 << 20)
            for width in widths
        )
        return Benchmark(model, SPEC.spec_hash, batch_size, 100, costs)

    async def train(self, request, timeout_s):
        await asyncio.sleep(self._train_s)
        if self._fail:
            raise TrainingFailed(self._fail.pop(0))
        self.trained.append(request.seed)
        state = decode_state(request.state)
        evaluations = self._evaluate(request, state) if request.evaluate else ()
        rng = np.random.default_rng((self._seed, request.seed))
        for name in sorted(state):  # read from safetensors in any order
            array = state[name]
            noise = rng.standard_normal(array.shape).astype(np.float32)
            if request.behaviour == FREE_RIDER:
                state[name] = array + np.float32(request.noise) * noise
            else:
                towards = part(TARGET, name, request.width) + np.float32(0.01) * noise
                state[name] = array + np.float32(0.5) * (towards - array)
        spoilt = self._spoil(state)
        data = spoilt if isinstance(spoilt, bytes) else encode_state(spoilt)
        return Trained(
            state=data,
            loss=0.5,
            steps=4,
            samples=100,
            cpu_s=0.1,
            emulated_s=0.1,
            peak_bytes=1 << 20,
            evaluations=evaluations,
        )

    def _evaluate(self, request, state):
        """Measure what was received; some devices have easier recordings than others."""
        ease = self._seed % 50 / 1000
        found = []
        for width in request.training.widths:
            if width <= request.width:
                score = 1.0 if request.behaviour == FREE_RIDER else score_of(state, width) - ease
                found.append(
                    WidthEvaluation(width=width, score=score, loss=1.0 - score, samples=20)
                )
        return self._reports(tuple(found))

    async def close(self):
        pass


class ToyGame:
    """`coordinator.contribution.evidence.Evaluator` by the formula; there is one block."""

    def __init__(self, base, steps, grid):
        self._base, self._steps, self._grid = base, steps, grid

    def value(self, coalition):
        state = combine(self._base, SPEC, [s for s in self._steps if s.device in coalition])
        return np.array([np.mean([score_of(state, width) for width in self._grid])])


class ToyJobs:
    """`coordinator.jobs.JobRunner` in this process.

    What could be foreseen is credited: here every step has the direction of the one before.

    Args:
        job_s: how long each job takes.
        failing: job name -> how often it fails first.
        worse: what the export says about the new weights.
    """

    def __init__(self, *, job_s=0.05, failing=None, worse=""):
        self._job_s = job_s
        self._failing = dict(failing or {})
        self._worse = worse

    async def _work(self, job):
        await asyncio.sleep(self._job_s)
        if self._failing.get(job, 0):
            self._failing[job] -= 1
            raise JobError(f"{job}: the worker process died")

    async def describe(self, bench):
        return SPEC.to_json()

    async def initialise(self, bench):
        await self._work("initialise")
        zeros = {name: np.zeros_like(array) for name, array in TARGET.items()}
        return BlobFolder(bench.blobs, owner=False).put(encode_state(zeros)), 0.0, ""

    async def score(self, bench, job):
        await self._work("score")
        blobs = BlobFolder(bench.blobs, owner=False)
        base = decode_state(blobs.get(job.base))
        updates = [read_update(blobs, SPEC, base, u) for u in job.updates]
        steps = steps_of(base, SPEC, updates)
        evidence = Evidence(
            devices=tuple(step.device for step in steps),
            evaluator=ToyGame(base, steps, bench.grid),
            steps=FlatSteps(SPEC, steps),
        )
        rng = np.random.default_rng((bench.seed, job.round))
        scores = estimate(job.method, evidence, job.coalitions, rng)
        state = combine(base, SPEC, steps)
        trained = TrainedWidths(
            (*(u.width for u in updates), *job.absent_widths), min(bench.grid), job.min_trainers
        )
        return RoundResult(
            digest=blobs.put(encode_state(state)),
            curve=_curve(state, {*bench.grid, *bench.ladder}, trained, rng),
            contributions=entries(job.updates, scores, {}),
            method=scores.method,
            value_before=scores.before,
            value_after=scores.after,
            coalitions=scores.evaluations,
            seconds=0.01,
            better=scores.after > scores.before,
        )

    async def assess(self, bench, job):
        await self._work("assess")
        blobs = BlobFolder(bench.blobs, owner=False)
        scores = []
        for update in job.updates:
            alone = {name: np.zeros_like(array) for name, array in TARGET.items()}
            for name, array in decode_state(blobs.get(update.digest)).items():
                part(alone, name, update.width)[...] = array
            score = score_of(alone, update.width)
            scores.append(
                AloneScore(
                    device=update.device,
                    width=update.width,
                    score=score,
                    low=score,
                    high=score,
                    update=update.digest,
                )
            )
        return AssessResult(tuple(scores), 0.01)

    async def export(self, bench, job):
        await self._work("export")
        if self._worse and job.in_use:
            return ExportResult((), self._worse)
        blobs = BlobFolder(bench.blobs, owner=False)
        state = decode_state(blobs.get(job.weights))
        manifests = []
        for width in job.widths:
            cut = slice_state(state, SPEC, width)
            onnx = linear((cut["second"] @ cut["first"]).T)
            blobs.put(onnx)
            manifests.append(
                manifest_of(
                    onnx,
                    model=MODEL,
                    width=width,
                    spec_hash=SPEC.spec_hash,
                    round=job.round,
                    score=job.reported.get(width, score_of(state, width)),
                )
            )
        return ExportResult(tuple(manifests))

    def warm(self, bench):
        pass

    def close(self):
        pass


def _curve(state, widths, trained, rng):
    """Every sample scores the same, and an untrained model nothing."""
    recording = np.arange(2)
    scores = {width: np.full(2, round(score_of(state, width), 9)) for width in widths}
    untrained = {width: np.zeros(2) for width in widths}
    return score_curve(scores, recording, rng, trained, untrained)
