"""Campaigns in which every device keeps a network of its own, against training alone."""

import msgspec
import numpy as np
import pytest

from broker.topics import DownTopic, ServerSays
from coordinator.evolution import evolve
from coordinator.fleet import OWN_NETWORKS, Campaign, Phase
from coordinator.publications import device_publications
from coordinator.settings import Settings, SettingsError
from edge_agent.agent import OwnModel
from edge_agent.held_back import split
from journal import events as e
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from slimfleet.simulation.errors import SimulationError
from slimmable.evaluation import initial_state, outputs
from slimmable.guidance import what_it_says
from slimmable.knowledge import COUNT, MEAN, class_means
from slimmable.model import load_model
from slimmable.samples import Samples
from slimmable.state import decode_state
from slimmable.training import train
from slimmable.training_rule import TrainingRule
from tests.fakes.unlike_networks import DEVICES, NETWORKS, OPTIONS, SAME

pytestmark = pytest.mark.torch

MODEL = load_model("mlp", OPTIONS)
ROUNDS, STEPS = 12, 12


def private_words(number, recordings=30):
    """What one device has: the same three things as the others, under names of its own."""
    rng = np.random.default_rng(number)
    of_thing = 2.5 * np.random.default_rng(99).normal(size=(3, 80)) / np.sqrt(80)
    recording = np.arange(4 * recordings) // 4
    thing = recording % 3
    x = of_thing[thing] + rng.normal(size=(len(thing), 80))
    names = np.roll(np.arange(3), number)  # the fan's "idle" is the lathe's "turning"
    return Samples(x.astype("f4"), names[thing], recording)


DATA = {name: private_words(number) for number, name in enumerate(DEVICES)}


def settings(**changes):
    plain = {
        "fleet": "plant",
        "model": "mlp",
        "options": OPTIONS,
        "widths": (1.0,),
        "training": {"steps": STEPS, "batch_size": 8, "learning_rate": 0.05},
        "rounds": {"budget": ROUNDS, "minimum": ROUNDS, "quorum": 2},
        "contributions": {"evaluator": "devices"},
    }
    for name, value in changes.items():
        plain[name] = {**plain.get(name, {}), **value} if isinstance(value, dict) else value
    return msgspec.convert(plain, Settings)


def play(folder, **changes):
    devices = [SimulatedDevice(name, samples) for name, samples in DATA.items()]
    return simulate(settings(**changes), devices, None, folder)


def local_scores(outcome):
    return np.array([outcome.state.local_score(name) for name in DEVICES])


def alone(name):
    """Return what a device scores that trains as long, by itself."""
    training, held = split(DATA[name])
    state, rule = initial_state(MODEL, 0), TrainingRule(STEPS, 8, 0.05, 0.9, 1e-4, (1.0,))
    for number in range(ROUNDS - 1):  # a device measures before it trains
        state, _ = train(MODEL, state, 1.0, training, rule, np.random.default_rng(number))
    return MODEL.task.score(outputs(MODEL, 1.0, state, held.x), held.y)


@pytest.fixture(scope="module")
def by_themselves():
    return np.array([alone(name) for name in DEVICES])


@pytest.fixture(scope="module")
def fedrep(tmp_path_factory):
    return play(
        tmp_path_factory.mktemp("fedrep"),
        training={"private": ("layer.1.*",), "private_steps": 4},
    )


def events_of(outcome, kind):
    return [record.event for record in outcome.records if isinstance(record.event, kind)]


def replayed(outcome):
    state = Campaign()
    for record in outcome.records:
        state = evolve(state, record.event, record.at)
    return state


def test_a_private_head_on_shared_features_beats_training_alone(fedrep, by_themselves):
    assert local_scores(fedrep).mean() > by_themselves.mean() + 0.02


def test_one_shared_network_for_all_is_no_use_where_devices_use_words_differently(fedrep, tmp_path):
    shared = local_scores(play(tmp_path))
    assert shared.mean() < local_scores(fedrep).mean() - 0.2


def test_the_campaign_ends_with_local_scores_and_gives_nothing_away(fedrep):
    state = fedrep.state
    assert state.phase in {Phase.DELIVERING, Phase.FINISHED}
    assert state.withheld == OWN_NETWORKS
    assert [(one.rule, one.rewards) for one in events_of(fedrep, e.RewardsAllocated)] == [
        ("none", ())
    ]
    assert not events_of(fedrep, e.ReleaseBuilt)
    assert not events_of(fedrep, e.DeploymentIssued)
    for name in DEVICES:
        said = device_publications(state, name, {}, lambda *_: None)
        standing = said[DownTopic(name, ServerSays.STANDING)]
        assert standing.local_score == state.local_score(name)
        assert standing.local_samples == 24
        assert "no width is a reward" in standing.width_reasons["entitled"]
    assert replayed(fedrep) == state


def test_the_servers_copy_of_a_private_part_never_moves(fedrep):
    first = initial_state(MODEL, 0)
    for name, array in fedrep.final.items():
        assert (array == first[name]).all() == name.startswith("layer.1.")


def test_only_what_is_shared_travels_either_way(fedrep, tmp_path):
    """LG-FedAvg keeps the other side: only the head travels."""
    lg = play(tmp_path / "lg", training={"private": ("layer.0.*",)}, rounds={"budget": 2})
    sizes = {}
    for key, outcome in (("fedrep", fedrep), ("lg", lg)):
        down = {one.size for one in events_of(outcome, e.BlobShared)}
        up = {one.size for one in events_of(outcome, e.UpdateAccepted)}
        sizes[key] = max(down | up)
    body, head = (
        4 * sum(array.size for name, array in initial_state(MODEL, 0).items() if name[6] == layer)
        for layer in "01"
    )
    assert body < sizes["fedrep"] < body + 300
    assert head < sizes["lg"] < head + 300
    assert all((folder_of(tmp_path / "lg", name)).exists() for name in DEVICES)
    kept = decode_state(folder_of(tmp_path / "lg", "fan").read_bytes())
    assert set(kept) == {"layer.0.weight", "layer.0.bias"}


def folder_of(folder, device):
    return folder / "devices" / device / "kept" / f"{MODEL.spec.spec_hash}.safetensors"


def test_a_pattern_that_matches_nothing_stops_the_server_at_its_start(tmp_path):
    with pytest.raises(
        SettingsError, match=r"training.private: pattern 'head.\*' matches no tensor"
    ):
        play(tmp_path, training={"private": ("head.*",)})


# --- knowledge instead of weights ----------------------------------------------------------------


def play_unlike(folder, exchange, weight, **changes):
    devices = [
        SimulatedDevice(name, samples, own_model=NETWORKS[number % 3])
        for number, (name, samples) in enumerate(SAME.items())
    ]
    how = settings(exchange=exchange, knowledge={"weight": weight}, **changes)
    return simulate(how, devices, None, folder)


@pytest.fixture(scope="module", params=["class-scores", "prototypes"])
def unlike(request, tmp_path_factory):
    """A campaign of networks of three architectures: its exchange, folder and outcome."""
    folder = tmp_path_factory.mktemp("unlike")
    return request.param, folder, play_unlike(folder, request.param, 1.0)


def spread(folder, exchange):
    """Return how far what devices know of a class lies apart, against how far classes do."""
    told = []
    for number, (name, samples) in enumerate(SAME.items()):
        own = NETWORKS[number % 3]
        model = load_model(own.model, own.options)
        kept = folder / "devices" / name / "kept" / f"{model.spec.spec_hash}.safetensors"
        said = what_it_says(model, decode_state(kept.read_bytes()), samples.x, exchange)
        told.append(class_means(said, samples.y, 3)[MEAN])
    found = np.stack(told)
    between_devices = np.square(found - found.mean(axis=0)).mean()
    return between_devices / np.square(found - found.mean(axis=1, keepdims=True)).mean()


def test_unlike_networks_come_to_mean_the_same(unlike, tmp_path):
    exchange, folder, _ = unlike
    play_unlike(tmp_path, exchange, 0.0)
    # What a score means is given by its class; what a feature means is nobody's but by exchange.
    share = {"class-scores": 0.9, "prototypes": 0.5}[exchange]
    assert spread(folder, exchange) < share * spread(tmp_path, exchange)


def test_unlike_networks_learn_while_they_tell_each_other(unlike):
    _, _, outcome = unlike
    scored = events_of(outcome, e.RoundScored)
    assert len(scored) == ROUNDS
    assert scored[0].curve[-1].score < 0.5
    assert scored[-1].curve[-1].score > 0.7
    assert [one.width for one in scored[-1].curve] == [1.0]


def test_what_travels_is_small_and_the_journal_tells_all_of_it(unlike):
    exchange, _, outcome = unlike
    sizes = {one.size for one in events_of(outcome, e.UpdateAccepted)}
    assert max(sizes) < 4 * 3 * {"prototypes": 16, "class-scores": 3}[exchange] + 300
    state = outcome.state
    assert (state.withheld, state.allocation.rewards) == (OWN_NETWORKS, ())
    assert {one.rounds_taken for one in state.devices.values()} == {ROUNDS}
    assert {one.contributions for one in events_of(outcome, e.RoundScored)} == {()}
    assert outcome.final[COUNT].tolist() == [len(DEVICES)] * 3
    assert replayed(outcome) == state


def test_a_network_with_other_features_is_dropped_by_name_and_the_others_go_on(tmp_path):
    odd = OwnModel("mlp", OPTIONS | {"hidden": [10]})
    devices = [
        SimulatedDevice(name, samples, own_model=odd if name == "saw" else None)
        for name, samples in SAME.items()
    ]
    how = settings(exchange="prototypes", rounds={"budget": 2, "minimum": 2})
    state = simulate(how, devices, None, tmp_path).state
    assert state.devices["saw"].rounds_missed == 2
    assert "has 10 features before its last layer" in state.devices["saw"].last_drop
    assert {one.rounds_taken for one in state.devices.values()} == {0, 2}


def test_riders_and_networks_that_do_not_fit_the_exchange_are_refused(tmp_path):
    rider = [SimulatedDevice("fan", SAME["fan"]), SimulatedDevice("saw", SAME["saw"], rider="zero")]
    with pytest.raises(SimulationError, match="riders forge weights"):
        simulate(settings(exchange="prototypes"), rider, None, tmp_path)
    own = [SimulatedDevice(name, SAME[name], own_model=NETWORKS[0]) for name in ("fan", "saw")]
    with pytest.raises(SimulationError, match="weights are exchanged"):
        simulate(settings(), own, None, tmp_path)
