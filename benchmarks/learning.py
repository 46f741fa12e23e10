"""The demo's learning without its processes: real decisions, training and jobs, nothing else.

The coordinator's pure core decides, its jobs are called as functions, and each device trains
through the code of the training process. What is left out are broker, processes, emulated time and
delivery, none of which can change a weight.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from broker import messages as m
from broker.blobs import digest_of, reference
from coordinator import inputs as i
from coordinator.bench import Bench, ExportJob, ScoreJob, UpdateFile
from coordinator.duties import Export, Initialise, Score, job
from coordinator.evolution import evolve
from coordinator.fleet import Campaign
from coordinator.release_files import export_widths
from coordinator.rounds import decide
from coordinator.scoring import score_round
from coordinator.work import initialise
from edge_agent.runtime import load_model as load_onnx
from edge_agent.trainer_protocol import DataSource, TrainCommand
from edge_agent.training_job import behave
from journal.blobs import BlobFolder
from journal.events import LinkState, RoundTask
from slimfleet import watch
from slimfleet.demo.scenario import Scenario
from slimmable.cost import payload_bytes
from slimmable.model import SlimmableModel, load_model
from slimmable.samples import Samples
from slimmable.slicing import slice_state
from slimmable.state import ModelState, decode_state, encode_state

MODEST_STEP_S = 1e-6
PLENTY = 1 << 40


@dataclass(frozen=True)
class Learned:
    """What a campaign came to.

    Attributes:
        state: of the campaign when training and rewards were done.
        delivered: the widths that some device earned, ascending.
        unseen: width of the ladder -> score of its ONNX file on the unseen person.
        cpu_s: CPU seconds of the whole campaign.
    """

    state: Campaign
    delivered: tuple[float, ...]
    unseen: Mapping[float, float]
    cpu_s: float


class CampaignRun:
    """One campaign, played from its start to its ONNX files."""

    def __init__(
        self, scenario: Scenario, widths: Mapping[str, float], noise: float, templates: Path
    ) -> None:
        """Prepare a campaign.

        Args:
            scenario: devices, people and settings; its folder takes blobs.
            widths: device -> training width.
            noise: standard deviation of what the free-rider adds to its unchanged upload.
            templates: folder of ONNX templates, which several runs may share.
        """
        settings = scenario.settings
        self._settings = settings
        self._members = {member.device: member for member in scenario.devices}
        self._widths = widths
        self._noise = noise
        self._bench = Bench(
            model=settings.model,
            options=settings.options,
            validation=scenario.folder / "server" / "validation.npz",
            reader="npz",
            blobs=scenario.folder / "blobs",
            templates=templates,
            grid=settings.widths,
            ladder=settings.rewards.ladder,
            seed=settings.seed,
        )
        self._blobs = BlobFolder(self._bench.blobs)
        self._model = load_model(settings.model, settings.options)
        self._own = {name: watch.person_samples(one.person) for name, one in self._members.items()}
        self._now = 0.0
        self.state = Campaign()

    def run(self) -> Learned:
        """Play the campaign and return what it came to.

        Raises:
            BenchmarkError: it ended without a release.
        """
        started = time.process_time()
        spec_hash = self._model.spec.spec_hash
        self._give(i.Started(self._settings, spec_hash, "benchmark"))
        for device in sorted(self._members):
            self._introduce(device)
        while not isinstance(due := job(self.state), Export):
            match due:
                case Initialise():
                    self._give(i.Initialised(*initialise(self._bench)))
                case Score(number):
                    self._give(i.Scored(number, score_round(self._bench, self._score_job())))
                case None:
                    self._train_round()
        unseen = self._score_files()
        return Learned(self.state, due.widths, unseen, time.process_time() - started)

    def _give(self, given: i.Input) -> None:
        self._now += 0.001
        for event in decide(self.state, given, self._now):
            self.state = evolve(self.state, event, self._now)

    def _introduce(self, device: str) -> None:
        """Let a device appear whose profile allows exactly its training width."""
        spec = self._model.spec
        widths = [width for width in self._settings.widths if width <= self._widths[device]]
        profile = m.Profile(
            model=self._settings.model,
            spec_hash=spec.spec_hash,
            batch_size=self._settings.training.batch_size,
            costs=tuple(m.WidthCost(width=w, step_s=MODEST_STEP_S, peak_bytes=1) for w in widths),
            can_train=True,
            memory_budget=PLENTY,
        )
        sizes = {width: payload_bytes(spec, width) for width in self._settings.widths}
        birth = m.Birth(status=m.LinkStatus.ONLINE, session=1, can_train=True)
        self._give(i.BirthReceived(device, birth))
        self._give(i.LeaseChanged(device, LinkState.ONLINE, "birth"))
        self._give(i.ProfileReceived(device, profile, sizes))

    def _train_round(self) -> None:
        current = self.state.round
        if current is None or current.closed:
            raise BenchmarkError(f"the campaign stands still: {self.state.phase}")
        full = decode_state(self._blobs.get(current.opened.base))
        for task in current.opened.tasks:
            cut = slice_state(full, self._model.spec, task.width)
            command = self._command(task, current.number)
            member = self._members[task.device]
            payload, loss = _train(self._model, command, cut, self._own[member.device])
            self._upload(task, current.number, payload, loss)

    def _command(self, task: RoundTask, number: int) -> TrainCommand:
        rides = self._members[task.device].free_rider
        return TrainCommand(
            model=self._settings.model,
            options=self._settings.options,
            spec_hash=self._model.spec.spec_hash,
            data=DataSource(path=f"round {number}", reader="npz"),
            width=task.width,
            state=b"",
            training=self._settings.training_settings(),
            seed=task.seed,
            behaviour="free-rider" if rides else "honest",
            noise=self._noise if rides else 0.0,
        )

    def _upload(self, task: RoundTask, number: int, payload: bytes, loss: float) -> None:
        update = m.Update(
            device=task.device,
            round=number,
            width=task.width,
            model=self._settings.model,
            spec_hash=self._model.spec.spec_hash,
            blob=reference(payload, self._settings.block_size, digest_of(payload), encrypted=False),
            samples=len(self._own[task.device]),
            steps=self._settings.training.steps,
            loss=loss,
        )
        self._give(i.UpdateFetched(task.device, update, PLENTY, self._blobs.put(payload)))

    def _score_job(self) -> ScoreJob:
        current = self.state.round
        assert current is not None
        accepted = [task.update for task in current.tasks.values() if task.update]
        return ScoreJob(
            round=current.number,
            base=current.opened.base,
            best=self.state.best,
            updates=tuple(
                UpdateFile(one.device, one.width, one.digest, 1.0)
                for one in sorted(accepted, key=lambda update: update.device)
            ),
            method=self._settings.contributions.method,
            coalitions=self._settings.contributions.coalitions,
        )

    def _score_files(self) -> dict[float, float]:
        """Export the whole ladder and score the files as a device does."""
        order = ExportJob(
            self.state.weights, self.state.weights_round, self._settings.rewards.ladder, ""
        )
        unseen = watch.person_samples(watch.UNSEEN_PERSON)
        scores = {}
        for manifest in export_widths(self._bench, order).manifests:
            loaded = load_onnx(self._blobs.get(manifest.digest), manifest)
            outputs = loaded.outputs(loaded.feed(unseen.x))
            scores[manifest.width] = loaded.task.score(outputs, unseen.y)
        return scores


def alone_scores(plan: Scenario) -> dict[str, float]:
    """Train each person's own model, as the demo does; returns device -> score.

    Raises:
        BenchmarkError: the process that trains failed.
    """
    training = plan.settings.training
    settings = {
        "model": plan.settings.model,
        "options": plan.settings.options,
        "people": [member.person for member in plan.devices],
        "steps": training.steps * plan.settings.rounds.budget,
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "momentum": training.momentum,
        "weight_decay": training.weight_decay,
        "seed": plan.seed,
    }
    source, target = plan.folder / "alone-settings.json", plan.folder / "alone.json"
    source.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "slimfleet.demo.alone", str(source), str(target)]
    if subprocess.run(command, check=False).returncode:
        raise BenchmarkError("training the stand-alone models failed; its output is above")
    found = json.loads(target.read_text())
    return {member.device: float(found[str(member.person)]) for member in plan.devices}


def _train(
    model: SlimmableModel, command: TrainCommand, cut: ModelState, samples: Samples
) -> tuple[bytes, float]:
    state, loss = behave(command, model, cut, samples, lambda _done: None)
    return encode_state(state), loss
