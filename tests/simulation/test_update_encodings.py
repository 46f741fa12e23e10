"""Campaigns whose updates travel in fewer bits."""

import msgspec
import pytest

from coordinator.settings import Contributions, Uploads
from journal.events import RoundOpened, RoundScored, UpdateAccepted
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from slimmable.update_codec import UpdateEncoding, encoded_share
from tests.simulation.test_golden_campaign import SETTINGS, samples

pytestmark = pytest.mark.torch


def played(folder, encoding, keep=0.1, **changes):
    """Return score at full width and the largest update of a campaign."""
    uploads = Uploads(encoding=UpdateEncoding(encoding), keep=keep)
    settings = msgspec.structs.replace(SETTINGS, uploads=uploads, **changes)
    devices = [SimulatedDevice(name, samples(200, at)) for at, name in enumerate("abc")]
    devices.append(SimulatedDevice("zero", samples(60, 9), rider="zero"))
    found = simulate(settings, devices, samples(1000, 99), folder)
    return found, [record.event for record in found.records]


def scored(events):
    return [event for event in events if isinstance(event, RoundScored)]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return played(tmp_path_factory.mktemp("full") / "run", "float32")[1]


def largest(events):
    return max(event.size for event in events if isinstance(event, UpdateAccepted))


@pytest.mark.parametrize("encoding", ["float16", "bfloat16", "int8"])
def test_fewer_bits_train_as_well(tmp_path, full, encoding):
    found, events = played(tmp_path / "run", encoding)
    assert scored(events)[-1].curve[-1].score > scored(full)[-1].curve[-1].score - 0.05
    # A network of a few hundred weights: names and shapes take more room than the numbers.
    honest = [e.size for e in events if isinstance(e, UpdateAccepted) and e.device != "zero"]
    assert max(honest) < largest(full)
    assert not found.state.devices["zero"].reward.width


def test_a_tenth_of_the_changes_still_trains(tmp_path, full):
    _, events = played(tmp_path / "run", "top-k", keep=0.1)
    begun, ended = scored(events)[0], scored(events)[-1]
    assert ended.curve[-1].score > begun.curve[-1].score
    assert encoded_share(UpdateEncoding.TOP_K, 0.1) == pytest.approx(0.15)
    assert len(scored(events)) == len(scored(full))


def test_an_assessment_is_always_in_full_precision(tmp_path):
    chosen = Contributions(alone_rounds=1)
    found, events = played(tmp_path / "run", "top-k", keep=0.01, contributions=chosen)
    [assessment, *_] = [event for event in events if isinstance(event, RoundOpened)]
    assert assessment.assessment
    assert found.state.alone["a"].score > found.state.untrained + 0.2
