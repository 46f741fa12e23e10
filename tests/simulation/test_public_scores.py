"""Devices with unlike networks learn from each other by scores of public samples (FedMD)."""

import msgspec
import numpy as np
import pytest

from coordinator.evolution import evolve
from coordinator.fleet import OWN_NETWORKS, Campaign
from coordinator.settings import Settings, SettingsError
from edge_agent.agent import OwnModel
from journal import events as e
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from slimmable.evaluation import outputs
from slimmable.knowledge import COUNT, INPUTS
from slimmable.model import load_model
from slimmable.state import decode_state
from tests.fakes.unlike_networks import CLASSES, DEVICES, NETWORKS, OPTIONS, SAME, the_same_words

pytestmark = pytest.mark.torch

ROUNDS, STEPS, PUBLIC = 12, 12, 200
POOL = the_same_words(777, recordings=60).x  # 240 of them, whose labels nobody sees
FRESH = the_same_words(888, recordings=300)


def play(folder, weight=1.0, rounds=ROUNDS, networks=NETWORKS, **changes):
    devices = [
        SimulatedDevice(name, SAME[name], own_model=networks[number % len(networks)])
        for number, name in enumerate(DEVICES)
    ]
    given = {
        "fleet": "plant",
        "model": "mlp",
        "options": OPTIONS,
        "widths": (1.0,),
        "training": {"steps": STEPS, "batch_size": 8, "learning_rate": 0.05},
        "rounds": {"budget": rounds, "minimum": rounds, "quorum": 2},
        "contributions": {"evaluator": "devices"},
        "exchange": "public-scores",
        "knowledge": {"weight": weight, "digest_steps": STEPS, "samples": PUBLIC},
    }
    return simulate(msgspec.convert(given | changes, Settings), devices, None, folder, pool=POOL)


def accuracies(folder):
    """Return what each device's network scores on samples that nobody trained on."""
    found = []
    for number, name in enumerate(DEVICES):
        own = NETWORKS[number % len(NETWORKS)]
        model = load_model(own.model, own.options)
        kept = folder / "devices" / name / "kept" / f"{model.spec.spec_hash}.safetensors"
        said = outputs(model, 1.0, decode_state(kept.read_bytes()), FRESH.x)
        found.append(model.task.score(said, FRESH.y))
    return np.array(found)


def events_of(outcome, kind):
    return [record.event for record in outcome.records if isinstance(record.event, kind)]


@pytest.fixture(scope="module")
def fedmd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fedmd")
    return folder, play(folder)


def test_unlike_networks_are_better_together_than_alone(fedmd, tmp_path):
    play(tmp_path, weight=0.0)
    together, alone = accuracies(fedmd[0]), accuracies(tmp_path)
    assert together.mean() > alone.mean() + 0.05
    assert (together > alone).sum() >= 4


def test_public_inputs_are_published_once_and_every_device_fetches_them_once(fedmd):
    folder, outcome = fedmd
    (public,) = [one for one in events_of(outcome, e.BlobShared) if one.purpose == "public"]
    knowledge = {
        one.purpose: one.size
        for one in events_of(outcome, e.BlobShared)
        if one.purpose.startswith("round-")
    }
    fetched = dict.fromkeys(DEVICES, 0)
    for one in events_of(outcome, e.TaskProgressed):
        fetched[one.device] += one.downloaded_bytes
    assert set(fetched.values()) == {public.size + sum(knowledge.values())}
    for name in DEVICES:
        (kept,) = (folder / "devices" / name / "public").iterdir()
        held = decode_state(kept.read_bytes())[INPUTS]
        np.testing.assert_array_equal(held, POOL[:PUBLIC])


def test_what_travels_in_a_round_is_scores_and_counts(fedmd):
    _, outcome = fedmd
    row = 4 * len(CLASSES) + 8
    sizes = {one.size for one in events_of(outcome, e.UpdateAccepted)}
    assert PUBLIC * row < max(sizes) < PUBLIC * row + 300
    state = outcome.state
    assert state.withheld == OWN_NETWORKS
    assert {one.rounds_taken for one in state.devices.values()} == {ROUNDS}
    assert outcome.final[COUNT].tolist() == [len(DEVICES)] * PUBLIC
    replayed = Campaign()
    for record in outcome.records:
        replayed = evolve(replayed, record.event, record.at)
    assert replayed == state


def test_a_network_with_other_classes_is_dropped_by_name_and_the_others_go_on(tmp_path):
    odd = OwnModel("mlp", OPTIONS | {"classes": [*CLASSES, "on fire"]})
    networks = [odd if name == "saw" else NETWORKS[0] for name in DEVICES]
    state = play(tmp_path, rounds=2, networks=networks).state
    assert "tells 4 classes apart, the fleet 3" in state.devices["saw"].last_drop
    assert {one.rounds_taken for one in state.devices.values()} == {0, 2}


def test_without_a_pool_nothing_starts(tmp_path):
    devices = [SimulatedDevice(name, SAME[name]) for name in DEVICES]
    given = {
        "fleet": "plant",
        "model": "mlp",
        "options": OPTIONS,
        "widths": (1.0,),
        "contributions": {"evaluator": "devices"},
        "exchange": "public-scores",
    }
    with pytest.raises(SettingsError, match="name a pool"):
        simulate(msgspec.convert(given, Settings), devices, None, tmp_path)
    assert not any(tmp_path.iterdir())
