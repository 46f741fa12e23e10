import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from exporter.parity import TOLERANCE
from slimfleet.config import AgentConfig, ServerConfig, read_config
from slimmable.model import ModelError, load_model
from slimmable.readers import read_samples
from slimmable.samples import split_recordings
from slimmable.task import TaskKind

pytestmark = pytest.mark.torch

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULES = ("plant_model", "pump_data", "make_data", "watch_pump")
WIDTHS = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture
def on_the_path(monkeypatch):
    """The example's folder on Python's path, as PYTHONPATH puts it there."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "plant_model"))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def data(on_the_path, tmp_path):
    """Files of short shifts: party -> path."""
    make_data = importlib.import_module("make_data")
    paths = make_data.write_data(tmp_path, pumps=2, shifts=4, seconds=320, seed=0)
    return {path.stem: path for path in paths}


def read(path):
    return read_samples(path, "pump_data:read_pump")


def test_the_generator_writes_a_file_for_each_party(data):
    assert list(data) == ["pump-1", "pump-2", "validation", "faulty"]


def test_the_same_seed_makes_the_same_data(data, tmp_path):
    make_data = importlib.import_module("make_data")
    again = make_data.write_data(tmp_path / "again", pumps=2, shifts=4, seconds=320, seed=0)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in data.values()]


def test_the_reader_gives_scaled_windows_that_are_their_own_targets(data):
    samples = read(data["pump-1"])
    assert samples.x.shape[1:] == load_model("plant_model:pump").input_shape
    assert samples.y is samples.x
    assert np.abs(samples.x.mean(axis=(0, 2))).max() < 1.0
    assert samples.x.std() < 2.0


def test_the_validation_data_can_be_split_by_shifts(data):
    calibration, measurement = split_recordings(read(data["validation"]))
    assert not set(calibration.recording) & set(measurement.recording)


def test_the_model_keeps_its_promises_at_every_width(on_the_path):
    from slimmable.model_check import check_model

    model = load_model("plant_model:pump")
    check_model(model, WIDTHS)
    assert model.task.kind is TaskKind.RECONSTRUCTION
    assert model.spec.parameter_count(0.5) < 0.5 * model.spec.parameter_count(1.0)


def test_half_the_channels_are_the_first_half_of_what_is_flattened(on_the_path):
    spec = load_model("plant_model:pump", {"channels": [8, 8], "code": 4}).spec
    kept = spec.indices("squeeze.weight", 0.5)[1]
    assert kept.tolist() == list(range(4 * 8))


def test_a_window_that_cannot_be_halved_twice_is_refused(on_the_path):
    with pytest.raises(ModelError, match="multiple of 4"):
        load_model("plant_model:pump", {"length": 30})


def test_the_model_learns_healthy_pumps_and_finds_the_others(data):
    from slimmable.evaluation import calibrated_slices, initial_state, outputs
    from slimmable.training import TrainingRule, train

    model, own = load_model("plant_model:pump"), read(data["pump-1"])
    state = initial_state(model, seed=0)
    rule = TrainingRule(20, 32, 0.05, 0.9, 1e-4, WIDTHS)
    losses = []
    for number in range(6):
        state, loss = train(model, state, 1.0, own, rule, np.random.default_rng(number))
        losses.append(loss)
    assert losses[-1] < 0.5 * losses[0]

    faulty = read(data["faulty"])
    late = np.concatenate([np.arange(19) >= 10 for _ in range(4)])
    for width, cut in calibrated_slices(model, state, (0.5, 1.0), own.x).items():
        error = model.task.losses(outputs(model, width, cut, faulty.x), faulty.y)
        assert np.median(error[late]) > 2 * np.median(error[~late])


def test_every_width_exports_with_parity(on_the_path, tmp_path):
    from exporter.export import export_width
    from exporter.templates import TemplateCache
    from slimmable.evaluation import initial_state
    from slimmable.slicing import slice_state

    model = load_model("plant_model:pump")
    full = initial_state(model, seed=0)
    cache = TemplateCache(tmp_path)
    sizes = []
    for width in (0.25, 1.0):
        exported = export_width(model, width, slice_state(full, model.spec, width), cache)
        assert exported.parity < TOLERANCE
        sizes.append(len(exported.onnx))
    assert sizes[0] < sizes[1]


def test_the_server_configuration_fits_the_model(on_the_path):
    from slimmable.model_check import check_model

    config = read_config(EXAMPLES / "server.toml", ServerConfig)
    model = load_model(config.campaign.model, config.campaign.options)
    assert model.name == config.campaign.model
    check_model(model, sorted({*config.campaign.widths, *config.campaign.rewards.ladder}))


def test_the_agent_configuration_belongs_to_the_servers_fleet():
    server = read_config(EXAMPLES / "server.toml", ServerConfig)
    agent = read_config(EXAMPLES / "agent.toml", AgentConfig)
    assert agent.fleet == server.campaign.fleet
    assert agent.broker.url == server.broker.url
    assert agent.train is not None
    assert agent.train.reader == agent.infer.reader == server.reader


def test_the_readme_names_files_that_exist():
    links = re.findall(r"\]\(([^)#]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (EXAMPLES / link).exists()] == []


def test_the_reader_needs_no_torch(on_the_path):
    source = (EXAMPLES / "plant_model" / "pump_data.py").read_text(encoding="utf-8")
    assert not re.search(r"^(import|from) torch", source, re.MULTILINE)
