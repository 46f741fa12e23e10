"""A whole campaign of real networks whose server holds no data: train, report, reward, release."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from broker.messages import Birth, LinkStatus, Profile, Update, WidthCost
from coordinator import inputs as i
from coordinator import work
from coordinator.bench import Bench, ScoreJob, UpdateFile
from coordinator.duties import Export, Initialise, Score, job
from coordinator.evolution import evolve
from coordinator.fleet import Campaign
from coordinator.job_orders import export_job
from coordinator.release_files import export_widths
from coordinator.rounds import decide
from coordinator.scoring import score_round
from coordinator.settings import Contributions, Rewards, Rounds, Settings, Training
from edge_agent.runtime import load_model as load_onnx
from edge_agent.trainer_protocol import DataSource, TrainCommand
from edge_agent.training_job import Trainer
from exporter.report import NOT_MEASURED
from journal.blobs import BlobFolder
from journal.events import LinkState
from slimmable.model import ModelError, load_model
from slimmable.readers import read_samples
from slimmable.slicing import slice_state
from slimmable.state import decode_state, encode_state
from tests.fakes.office import blob

pytestmark = pytest.mark.torch

GRID = (0.25, 0.5, 1.0)
OPTIONS = {"input_shape": [4], "classes": ["idle", "turning", "jammed"], "hidden": [16, 16]}
MODEL = load_model("mlp", OPTIONS)
HONEST = ("fan", "lathe", "press")
RIDER = "rider"
PLENTY = 1 << 40

SETTINGS = Settings(
    fleet="plant",
    model="mlp",
    options=OPTIONS,
    widths=GRID,
    training=Training(steps=30, learning_rate=0.05),
    rounds=Rounds(budget=3, minimum=3, quorum=4, min_devices=4),
    contributions=Contributions(evaluator="devices", trim=0.25),
    rewards=Rewards(ladder=(0.125, *GRID)),
).check()


def own_data(folder, device):
    """Write what one device has: three separable classes, 40 recordings of four samples."""
    rng = np.random.default_rng([len(device), *device.encode()])
    recording = np.repeat(np.arange(40), 4)
    y = recording % 3
    centres = 2.0 * np.eye(3, 4)
    x = (centres[y] + rng.normal(size=(160, 4))).astype("f4")
    np.savez(folder / f"{device}.npz", x=x, y=y, recording=recording)
    return folder / f"{device}.npz"


class Plant:
    """Real decisions, jobs and trainings; links, processes and delivery are left out."""

    def __init__(self, folder):
        self.bench = Bench(
            model="mlp",
            options=OPTIONS,
            validation=None,
            reader="npz",
            blobs=folder / "blobs",
            templates=folder / "templates",
            grid=GRID,
            ladder=SETTINGS.rewards.ladder,
            seed=0,
        )
        self.blobs = BlobFolder(folder / "blobs")
        self.data = {device: own_data(folder, device) for device in (*HONEST, RIDER)}
        self.trainer = Trainer(lambda _event: None, threading.Event())
        self.state, self.now = Campaign(), 0.0

    def give(self, given):
        self.now += 0.01
        for event in decide(self.state, given, self.now):
            self.state = evolve(self.state, event, self.now)

    def introduce(self, device):
        costs = tuple(WidthCost(width=width, step_s=1e-6, peak_bytes=1) for width in GRID)
        profile = Profile(
            model="mlp",
            spec_hash=MODEL.spec.spec_hash,
            batch_size=32,
            costs=costs,
            can_train=True,
            memory_budget=PLENTY,
        )
        birth = Birth(status=LinkStatus.ONLINE, session=1, can_train=True)
        self.give(i.BirthReceived(device, birth))
        self.give(i.LeaseChanged(device, LinkState.ONLINE, "birth"))
        self.give(i.ProfileReceived(device, profile, dict.fromkeys(GRID, 1000)))

    def run(self):
        self.give(i.Started(SETTINGS, MODEL.spec.spec_hash, "test"))
        for device in sorted(self.data):
            self.introduce(device)
        while not isinstance(due := job(self.state), Export):
            match due:
                case Initialise():
                    self.give(i.Initialised(*work.initialise(self.bench)))
                case Score(number):
                    self.give(i.Scored(number, score_round(self.bench, self.score_job())))
                case None:
                    self.train_round()
        return due

    def train_round(self):
        current = self.state.round
        full = decode_state(self.blobs.get(current.opened.base))
        for task in current.opened.tasks:
            command = TrainCommand(
                model="mlp",
                options=OPTIONS,
                spec_hash=MODEL.spec.spec_hash,
                data=DataSource(path=str(self.data[task.device]), reader="npz"),
                width=task.width,
                state=encode_state(slice_state(full, MODEL.spec, task.width)),
                training=current.opened.training,
                seed=task.seed,
                behaviour="free-rider" if task.device == RIDER else "honest",
                evaluate=True,
            )
            done = self.trainer.answer(command)
            update = Update(
                device=task.device,
                round=current.number,
                width=task.width,
                model="mlp",
                spec_hash=MODEL.spec.spec_hash,
                blob=blob(f"{task.device} {current.number}"),
                samples=done.samples,
                evaluations=done.evaluations,
            )
            self.give(i.UpdateFetched(task.device, update, PLENTY, self.blobs.put(done.state)))

    def score_job(self):
        current = self.state.round
        updates = [task.update for task in current.tasks.values()]
        return ScoreJob(
            round=current.number,
            base=current.opened.base,
            best=self.state.best,
            updates=tuple(UpdateFile(u.device, u.width, u.digest, 1.0) for u in updates),
            method=SETTINGS.contributions.method,
            coalitions=0,
        )


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    """A campaign of three honest devices and a rider, up to its export."""
    made = Plant(tmp_path_factory.mktemp("plant"))
    made.due = made.run()
    return made


def test_every_honest_device_earns_a_release_and_the_rider_none(plant):
    widths = {device: plant.state.devices[device].reward.width for device in plant.data}
    assert widths.pop(RIDER) == 0
    assert set(widths) == set(HONEST)
    assert all(width in GRID for width in widths.values())
    assert plant.due.widths


def test_the_rider_claims_perfection_and_the_curve_is_what_the_others_measure(plant):
    current = plant.state.round
    claimed = current.tasks[RIDER].update.evaluations
    assert {one.score for one in claimed} == {1.0}
    honest = [current.tasks[device].update.evaluations[-1].score for device in HONEST]
    full = plant.state.scored.curve[-1]
    assert min(honest) <= full.score <= max(honest)
    assert full.score > plant.state.untrained + 0.2


def test_the_files_carry_what_devices_reported_and_run(plant):
    widest = plant.due.widths[-1]
    order = export_job(plant.state, (widest,))
    assert (order.weights, order.round) == (plant.state.measured, 2)
    (manifest,) = export_widths(plant.bench, order).manifests
    reported = {point.width: point.score for point in plant.state.scored.curve}
    assert manifest.score == reported[widest]
    assert manifest.score_data == "recordings of 4 devices, as they report it, trimmed mean"
    assert (manifest.reference.classes, manifest.reference.confidence) == ((), ())
    data = read_samples(plant.data["fan"], "npz", {})
    loaded = load_onnx(plant.blobs.get(manifest.digest), manifest)
    assert loaded.task.score(loaded.outputs(loaded.feed(data.x)), data.y) > 0.6
    (granted,) = export_widths(plant.bench, replace(order, reported={})).manifests
    assert (granted.score, granted.score_data) == (0.0, NOT_MEASURED)


def test_a_network_with_running_statistics_is_refused_at_the_start(plant):
    options = {"sensors": 2, "length": 20, "classes": ["idle", "turning"], "channels": [8, 8, 8]}
    bench = replace(plant.bench, model="cnn1d", options=options)
    with pytest.raises(ModelError, match="use a network with group norm, or supply validation"):
        work.describe(bench)


def test_a_network_without_them_is_described(plant):
    assert work.describe(plant.bench) == MODEL.spec.to_json()
