"""The operator's view of a simulated campaign agrees with the coordinator that played it."""

import pytest

from journal.chain import EMPTY
from monitor.device_data import Seen, device_rows
from monitor.feed import JournalFeed
from monitor.fleet_data import reward_rows
from monitor.round_data import round_rows
from slimfleet.simulation.campaign import SimulatedDevice, simulate
from tests.simulation.test_golden_campaign import SETTINGS, samples

pytestmark = pytest.mark.torch
SEEN = Seen(now=0.0)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet") / "run"
    devices = [SimulatedDevice(name, samples(200, at)) for at, name in enumerate("abc")]
    devices.append(SimulatedDevice("narrow", samples(60, 9), widest=0.5))
    outcome = simulate(SETTINGS, devices, samples(400, 99), folder, export=True)
    feed = JournalFeed(folder / "server" / "journal")
    assert feed.refresh() > 0
    return outcome, feed


def test_the_view_is_read_to_the_end_and_nothing_is_wrong_with_it(played):
    outcome, feed = played
    assert feed.head == outcome.records[-1].head != EMPTY
    assert (feed.damage, feed.unknown) == ("", 0)
    assert feed.refresh() == 0
    assert feed.view.phase == outcome.state.phase
    assert feed.view.counted == outcome.state.trained_rounds


def test_every_device_is_shown_as_the_coordinator_knows_it(played):
    outcome, feed = played
    for row in device_rows(feed.view, SEEN):
        known = outcome.state.devices[row["device"]]
        assert row["rounds_taken"] == known.rounds_taken
        assert row["training_width"] == known.width
        assert row["entitled_width"] == known.reward.width
        assert row["deployed_width"] == (known.deployed.width if known.deployed else 0)
        assert row["running_width"] == known.report.width
        assert row["link"] == known.link
        assert row["contribution"] == known.reward.contribution
        assert row["confirmed"]
        assert row["release"].startswith("v1 width ")
        assert row["assigned_release"] == row["installed_release"] == row["release"]


def test_rounds_carry_their_scores_and_what_moved(played):
    _, feed = played
    rows = round_rows(feed.view)
    assert len(rows) == feed.view.opened
    assert rows[0]["score"] == feed.view.score
    assert all(row["funnel"]["aggregated"] == 4 for row in rows if not row["assessment"])
    assert all(row["sent_bytes"] > 0 and row["received_bytes"] > 0 for row in rows)


def test_rewards_are_listed_from_the_largest_contribution_on(played):
    _, feed = played
    found = [row["contribution"] for row in reward_rows(feed.view)]
    assert found == sorted(found, reverse=True)
    assert len(found) == 4
