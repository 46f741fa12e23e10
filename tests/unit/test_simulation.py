"""A whole campaign in virtual time, with real training."""

import msgspec
import numpy as np
import pytest

from coordinator.fleet import Phase
from coordinator.settings import Settings, SettingsError
from journal.events import DeviceDropped, RewardsAllocated, RoundScored, UpdateAccepted, WidthChosen
from journal.store import Journal
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from slimfleet.simulation.errors import SimulationError
from slimmable.model import ModelError
from slimmable.samples import Samples

pytestmark = pytest.mark.torch

CLASSES = ("a", "b", "c")
CENTRES = np.random.default_rng(0).standard_normal((len(CLASSES), 6))


def blobs(count, seed):
    """Points around one centre for each class."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % len(CLASSES)
    x = CENTRES[y] + 0.5 * rng.standard_normal((count, 6))
    return Samples(x.astype(np.float32), y.astype(np.int64), np.arange(count))


def settings(**changes):
    plain = {
        "fleet": "sim",
        "model": "mlp",
        "options": {"input_shape": [6], "classes": CLASSES, "hidden": [16]},
        "widths": (0.5, 1.0),
        "training": {"steps": 6, "batch_size": 8, "learning_rate": 0.1},
        "rounds": {"budget": 2},
        "rewards": {"ladder": (0.25, 0.5, 1.0)},
        "contributions": {"coalitions": 4},
    }
    return msgspec.convert(plain | changes, Settings)


def three(**rider):
    return [SimulatedDevice(name, blobs(30, at), **rider) for at, name in enumerate("abc")]


def play(folder, devices=None, chosen=None, **more):
    return simulate(chosen or settings(), devices or three(), blobs(60, 9), folder, **more)


def of(outcome, kind):
    return [r.event for r in outcome.records if isinstance(r.event, kind)]


def test_a_campaign_trains_scores_and_allocates(tmp_path):
    told = []
    outcome = play(tmp_path, progress=lambda done, budget: told.append((done, budget)))
    scored = of(outcome, RoundScored)
    assert [event.round for event in scored] == [1, 2]
    assert scored[-1].curve[-1].score > 0.8 > outcome.state.untrained
    assert len(of(outcome, UpdateAccepted)) == 6
    assert len(of(outcome, RewardsAllocated)[0].rewards) == 3
    assert set(outcome.final) == {
        f"layer.{n}.{what}" for n in (0, 1) for what in ("weight", "bias")
    }
    assert (told[0], told[-1]) == ((0, 2), (2, 2))
    with Journal.open(tmp_path / "server" / "journal") as journal:
        assert tuple(journal.records()) == outcome.records


def test_the_same_seed_gives_the_same_campaign_with_any_number_of_workers(tmp_path):
    here = play(tmp_path / "here")
    workers = play(tmp_path / "workers", workers=2)
    assert [r.event for r in workers.records if not isinstance(r.event, RoundScored)] == [
        r.event for r in here.records if not isinstance(r.event, RoundScored)
    ]
    assert [r.at for r in workers.records] == [r.at for r in here.records]
    for one, other in zip(of(here, RoundScored), of(workers, RoundScored), strict=True):
        assert msgspec.structs.replace(one, seconds=0.0) == msgspec.structs.replace(
            other, seconds=0.0
        )
    for name, array in here.final.items():
        np.testing.assert_array_equal(array, workers.final[name])
    other = play(tmp_path / "other", chosen=settings(seed=1))
    assert any((other.final[name] != here.final[name]).any() for name in here.final)


def test_a_device_trains_exactly_its_widest_width(tmp_path):
    devices = [*three(), SimulatedDevice("narrow", blobs(30, 5), widest=0.7)]
    outcome = play(tmp_path, devices)
    assert {event.device: event.width for event in of(outcome, WidthChosen)} == {
        **dict.fromkeys("abc", 1.0),
        "narrow": 0.5,
    }
    assert {event.width for event in of(outcome, UpdateAccepted)} == {0.5, 1.0}


def test_a_rider_gets_no_release_and_says_what_it_likes(tmp_path):
    devices = [*three(), SimulatedDevice("rider", blobs(30, 5), rider="plain-fraboni")]
    outcome = play(tmp_path, devices)
    claims = {event.samples for event in of(outcome, UpdateAccepted) if event.device == "rider"}
    assert claims == {2000}
    assert outcome.state.devices["rider"].reward.width == 0
    assert outcome.state.contribution("rider") == 0


def test_with_export_the_devices_run_what_they_earned(tmp_path):
    outcome = play(tmp_path, export=True)
    assert outcome.state.phase is Phase.FINISHED
    for device in outcome.state.devices.values():
        assert device.report.running == device.deployed.digest != ""


def test_without_validation_data_the_devices_measure(tmp_path):
    chosen = settings(contributions={"evaluator": "devices", "method": "cosine-to-aggregate"})
    devices = [*three(), SimulatedDevice("liar", blobs(30, 5), rider="lying-evaluator")]
    outcome = simulate(chosen, devices, None, tmp_path)
    assert outcome.state.scored.curve[-1].score > 0.5
    said = {e.device: e.evaluations for e in of(outcome, UpdateAccepted) if e.round == 2}
    assert all(len(evaluations) == 2 for evaluations in said.values())
    assert [one.score for one in said["liar"]] == [1.0, 0.0]


def test_what_each_device_has_alone_is_measured_where_the_campaign_asks(tmp_path):
    outcome = play(tmp_path, chosen=settings(contributions={"coalitions": 4, "alone_rounds": 2}))
    assert set(outcome.state.alone) == {"a", "b", "c"}
    assert [event.round for event in of(outcome, RoundScored)] == [2, 3]


def test_devices_that_cannot_train_are_told_apart_by_the_journal(tmp_path):
    spoilt = Samples(blobs(30, 5).x, np.full(30, 7), np.arange(30))
    outcome = play(tmp_path, [*three(), SimulatedDevice("spoilt", spoilt)])
    dropped = of(outcome, DeviceDropped)
    assert {event.device for event in dropped} == {"spoilt"}
    with pytest.raises(SimulationError, match="no round was scored: .*spoilt: round"):
        play(
            tmp_path / "all",
            [SimulatedDevice("spoilt", spoilt)] * 1,
            settings(rounds={"budget": 1, "quorum": 1, "failures_limit": 2}),
        )


@pytest.mark.parametrize(
    ("devices", "chosen", "why"),
    [
        ([], {}, "0 devices and rounds.quorum = 2"),
        ([SimulatedDevice("A b", blobs(9, 0))] * 2, {}, "device 'A b': use 1 to 64"),
        ([SimulatedDevice("a", blobs(9, 0))] * 2, {}, "two devices have one name"),
        ([SimulatedDevice("a", blobs(9, 0), rider="lazy")], {}, "no rider 'lazy'; use one of"),
        ([SimulatedDevice("a", blobs(9, 0), widest=0.1)], {}, "must be from 0.5 to 1"),
    ],
)
def test_what_cannot_be_played_is_refused(tmp_path, devices, chosen, why):
    with pytest.raises(SimulationError, match=why):
        simulate(settings(**chosen), devices, blobs(60, 9), tmp_path)


def test_other_bad_input_is_refused(tmp_path):
    with pytest.raises(SimulationError, match="no validation data"):
        simulate(settings(), three(), None, tmp_path)
    with pytest.raises(SettingsError):
        play(tmp_path / "settings", chosen=settings(secure_aggregation=True))
    with pytest.raises(ModelError, match="no model 'nothing'"):
        play(tmp_path / "model", chosen=settings(model="nothing"))
    play(tmp_path / "twice")
    with pytest.raises(SimulationError, match="holds a campaign already"):
        play(tmp_path / "twice")
