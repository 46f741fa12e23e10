"""Campaigns in which devices correct their gradients by what the server knows of the fleet's."""

import msgspec
import pytest

from coordinator.duties import needed_blobs
from coordinator.evolution import evolve
from coordinator.fleet import Campaign
from coordinator.settings import Training
from edge_agent.training_job import Trainer
from journal.blobs import BlobFolder
from journal.events import BlobShared, RoundScored, UpdateAccepted
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from tests.simulation.test_golden_campaign import SETTINGS, samples

pytestmark = pytest.mark.torch

SCAFFOLD = msgspec.structs.replace(
    SETTINGS,
    training=Training(control="scaffold", steps=40, batch_size=16, learning_rate=0.2, momentum=0.0),
)


def fleet(*riders):
    honest = [
        SimulatedDevice(name, samples(200, at), widest=1.0 if at else 0.5)
        for at, name in enumerate("abcd")
    ]
    return [*honest, *(SimulatedDevice(kind, samples(60, 9), rider=kind) for kind in riders)]


def of(outcome, kind):
    return [one.event for one in outcome.records if isinstance(one.event, kind)]


def test_the_network_learns_and_riders_earn_nothing(tmp_path):
    riders = ("zero", "correction", "hidden-correction", "replayed-delta")
    found = simulate(SCAFFOLD, fleet(*riders), samples(1000, 99), tmp_path / "run")
    scored = of(found, RoundScored)
    assert scored[-1].curve[-1].score > found.state.untrained + 0.3
    assert {len(event.variates.devices) for event in scored} == {8}
    assert len({event.variates.fleet for event in scored}) == len(scored)
    for rider in riders:
        assert not found.state.devices[rider].reward.width
    for event in scored:
        [zero] = [one.score for one in event.contributions if one.device == "zero"]
        assert zero == 0
    said = {(one.round, one.device): one.corrected for one in of(found, UpdateAccepted)}
    assert not any(corrected for (number, _), corrected in said.items() if number == 1)
    assert all(said[2, name] for name in "abcd")


def test_a_restarted_server_knows_the_variates_from_its_journal(tmp_path):
    found = simulate(SCAFFOLD, fleet(), samples(400, 99), tmp_path / "run")
    state = Campaign()
    for record in found.records:
        state = evolve(state, record.event, record.at)
    assert state.variates == found.state.variates != ""
    assert state.own_variates == found.state.own_variates
    assert set(state.own_variates) == set("abcd")


def test_each_device_has_a_blob_of_its_own_and_the_server_keeps_what_it_needs(tmp_path):
    found = simulate(SCAFFOLD, fleet(), samples(400, 99), tmp_path / "run")
    shared = [one for one in of(found, BlobShared) if one.device]
    assert {(one.purpose, one.device) for one in shared} == {
        (f"correction-{number}", name) for number in (2, 3) for name in "abcd"
    }
    assert len({one.blob for one in shared}) == len(shared)
    needed = needed_blobs(found.state)
    last = of(found, RoundScored)[-1].variates
    assert {last.fleet, *last.devices.values()} <= needed
    folder = BlobFolder(tmp_path / "run" / "server" / "blobs", owner=False)
    for digest in needed:
        folder.get(digest)
    before = of(found, RoundScored)[0].variates
    assert before.fleet not in needed


def test_agents_of_an_older_version_train_without_and_say_so(tmp_path, monkeypatch):
    train = Trainer._train
    monkeypatch.setattr(
        Trainer,
        "_train",
        lambda self, command: train(self, msgspec.structs.replace(command, correction=b"")),
    )
    found = simulate(SCAFFOLD, fleet("zero"), samples(400, 99), tmp_path / "run")
    assert not any(one.corrected for one in of(found, UpdateAccepted) if one.device != "zero")
    assert of(found, RoundScored)[-1].curve[-1].score > found.state.untrained + 0.2
    assert not found.state.devices["zero"].reward.width
