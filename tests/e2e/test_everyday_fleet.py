"""One fleet lives through two releases, a full disk, a lost server and its own end.

The story is told once, by the fixture; each test asks one question about what was seen.
"""

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from broker.envelope import (
    generate_signing_key,
    parse_private_key,
    public_key_of,
    public_key_text,
)
from broker.messages import DropReason, InstallState, LinkStatus, Participation
from broker.topics import DeviceSays, ServerTells, ServerTopic, UpTopic
from coordinator.fleet import Phase, confirmed
from edge_agent import Predictor
from journal import events as e
from slimfleet import watch
from tests.fakes.real_fleet import (
    BROKER,
    FLEET,
    OPERATOR,
    SERVER,
    RealDevice,
    RealFleet,
    check_history,
    json_of,
)
from tests.fakes.small_disk import SmallDisk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mqtt,
    pytest.mark.torch,
    pytest.mark.timeout(240),
]
PRESS, LATHE, VIEWER, STRANGER = "press", "lathe", "viewer", "stranger"
GRANTED = 0.25
CAMPAIGN = {
    "training": {"steps": 16, "batch_size": 16},
    "rounds": {"release_every": 1},
    "rewards": {"inference_only_width": GRANTED},
    "releases": {"delivery_s": 120.0},
}
SOONER = "import edge_agent.session\nedge_agent.session.RETRY_S = 3.0"


@dataclass
class Story:
    """What was seen."""

    fleet: RealFleet
    first_digest: dict[str, str] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    drop: Any = None
    full_report: Any = None
    digest_while_full: str = ""
    labels_while_full: int = 0
    retried_digest: str = ""
    commands: list[str] = field(default_factory=list)
    labels_alone: int = 0
    labels_restarted: int = 0
    status_alone: dict[str, int] = field(default_factory=dict)
    goodbyes: dict[str, int] = field(default_factory=dict)
    last_words: dict[Any, Any] = field(default_factory=dict)
    orphans: list[Any] = field(default_factory=list)

    def latest(self, device: str) -> Any:
        return self.fleet.state.devices[device]


def operator(fleet, *arguments):
    """Run an operator's command and return what it printed."""
    password = fleet.folder / OPERATOR / "password"
    answer = fleet.run(
        *arguments,
        *("--config", str(fleet.config(SERVER)), "--password-file", str(password)),
        *("--timeout", "30"),
    )
    assert answer.returncode == 0, answer.stderr + fleet.last_logs()
    return answer.stdout


def labels(fleet, device):
    """Return how many windows the device's current model labels, in this process."""
    windows = watch.person_samples(watch.UNSEEN_PERSON).x[:5]
    decoded = Predictor(slots(fleet, device)).predict(windows)
    assert np.isfinite(decoded.confidence).all()
    return len(decoded.label)


def slots(fleet, device):
    return folder_of(fleet, device) / "slots"


def folder_of(fleet, device):
    return fleet.folder / device / ("disk" if device == LATHE else "data")


def running(fleet, device):
    return Predictor(slots(fleet, device)).manifest.digest


def births(fleet, device):
    return [event.device for event in fleet.events(e.DeviceBorn)].count(device)


def first_release(fleet, story):
    """Round 1, then a pause in which everybody runs the first release."""
    fleet.until(lambda state: state.round, "round 1 is open")
    # The rounds wait for their worker, so that both devices are paused before the next one.
    workers = fleet.children(SERVER)
    for worker in workers:
        worker.suspend()
    fleet.until(lambda state: state.phase is Phase.SCORING, "both updates are there")
    for device in (PRESS, LATHE):
        operator(fleet, "device", "suspend", device, "--reason", "tool change")
    for worker in workers:
        worker.resume()
    names = (PRESS, LATHE, VIEWER)
    fleet.until(
        lambda state: all(confirmed(state.devices[name]) for name in names), "release 1 runs"
    )
    fleet.until(
        lambda state: (
            (report := state.devices[STRANGER].report) and report.state is InstallState.REFUSED
        ),
        "the stranger refuses",
    )
    story.first_digest = {name: running(fleet, name) for name in names}
    story.status = json_of(operator(fleet, "status", "--json"))


def full_disk(fleet, disk, story):
    """A device has no room, neither for its update nor for the next model."""
    pid = fleet.running[LATHE].pid
    disk.fill(pid)
    operator(fleet, "device", "resume", LATHE, "--reason", "done")
    story.drop = fleet.wait(lambda: fleet.events(e.DeviceDropped), f"{LATHE} is dropped")[0]
    operator(fleet, "device", "resume", PRESS, "--reason", "done")

    def refused_for_want_of_room(state):
        device = state.devices[LATHE]
        report = device.report
        return device.counter == 2 and report.counter == 2 and report.detail and report

    story.full_report = fleet.until(refused_for_want_of_room, f"{LATHE} has no room")
    story.digest_while_full = running(fleet, LATHE)
    story.labels_while_full = labels(fleet, LATHE)
    disk.make_room(pid)
    fleet.until(lambda state: confirmed(state.devices[LATHE]), f"{LATHE} tries again")
    story.retried_digest = running(fleet, LATHE)
    fleet.until_finished()


def alone(fleet, story):
    """Server and broker are gone; one device is even started anew."""
    story.commands = [" ".join(process.args) for process in fleet.running.values()]
    fleet.kill(SERVER)
    fleet.kill(BROKER)
    fleet.wait(lambda: "connection" in fleet.log(PRESS), f"{PRESS} misses the broker")
    story.labels_alone = labels(fleet, PRESS)
    story.status_alone = fleet.terminate(PRESS)
    fleet.start(PRESS)
    again = fleet.log(PRESS).count("broker connection")
    fleet.wait(
        lambda: fleet.log(PRESS).count("broker connection") > again, f"{PRESS} looks for the broker"
    )
    story.labels_restarted = labels(fleet, PRESS)
    fleet.start(BROKER)
    fleet.start(SERVER)
    fleet.wait(lambda: births(fleet, PRESS) == 2, f"{PRESS} is back")
    fleet.until(
        lambda state: (
            state.epoch == 2
            and all(device.link == e.LinkState.ONLINE for device in state.devices.values())
        ),
        "everybody is back",
    )
    # Presence is a lease: it may stand from before the broker went.
    fleet.wait(
        lambda: all(
            fleet.log(name).count("connected to the broker") == 2 for name in fleet.devices
        ),
        "everybody is connected again",
    )


def goodbye(fleet, story):
    devices = (PRESS, LATHE, VIEWER, STRANGER)
    story.goodbyes = fleet.terminate(*devices)
    offline = e.LinkState.OFFLINE
    fleet.until(
        lambda state: all(state.devices[name].link == offline for name in devices), "goodbyes"
    )
    story.goodbyes |= fleet.terminate(SERVER)
    story.last_words = fleet.retained(
        ServerTopic(ServerTells.STATE), *(UpTopic(name, DeviceSays.BIRTH) for name in devices)
    )
    story.orphans = fleet.orphans()


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp("everyday") / "fleet"
    other_key = public_key_text(public_key_of(generate_signing_key()))
    lathe_data = {"folder": "disk"}
    devices = [
        RealDevice(PRESS, person=1),
        # Slower, so that round 1 is still open when we look.
        RealDevice(LATHE, person=2, emulate="raspberry-pi-4", config=lathe_data, prelude=SOONER),
        RealDevice(VIEWER, person=3, trains=False),
        RealDevice(STRANGER, person=4, trains=False, config={"trusted_keys": [other_key]}),
    ]
    fleet = RealFleet(folder, devices, campaign=CAMPAIGN)
    disk = SmallDisk(folder / LATHE / "disk")
    try:
        with fleet:
            told = Story(fleet)
            fleet.access(OPERATOR)
            fleet.start_all()
            first_release(fleet, told)
            full_disk(fleet, disk, told)
            alone(fleet, told)
            goodbye(fleet, told)
            yield told
    finally:
        disk.close()


def test_nothing_was_lost_on_the_way(story):
    check_history(story.fleet)


def test_a_device_without_a_train_section_is_visible_and_told_why_it_takes_no_part(story):
    (line,) = [one for one in story.status["devices"] if one["device"] == VIEWER]
    assert "no [train] section" in str(line)
    device = story.latest(VIEWER)
    assert device.participation is Participation.CANNOT
    assert device.rounds_taken == 0
    assert "no [train] section" in story.fleet.log(VIEWER)


def test_a_device_that_only_infers_runs_what_the_operator_grants(story):
    device = story.latest(VIEWER)
    assert confirmed(device)
    assert device.report.width == GRANTED
    assert "granted by the operator" in device.deployed.reason
    assert [one.data for one in device.report.evaluations] == ["own"]


def test_a_device_that_trusts_another_key_refuses_every_release(story):
    device = story.latest(STRANGER)
    assert device.report.state is InstallState.REFUSED
    assert not device.report.running
    assert "key" in device.report.detail
    assert not list(slots(story.fleet, STRANGER).glob("models/*"))


def test_an_operator_pauses_a_device_and_the_journal_knows_who_and_why(story):
    acted = story.fleet.events(e.OperatorActed)
    assert [(one.operator, one.action, one.device) for one in acted] == [
        (OPERATOR, "suspend", PRESS),
        (OPERATOR, "suspend", LATHE),
        (OPERATOR, "resume", LATHE),
        (OPERATOR, "resume", PRESS),
    ]
    assert {one.reason for one in acted} == {"tool change", "done"}


def test_an_update_that_finds_no_room_is_reported_and_the_device_lives(story):
    assert story.drop.device == LATHE
    assert story.drop.reason is DropReason.TRAINING_FAILED
    assert "cannot be kept" in story.drop.detail
    assert births(story.fleet, LATHE) == 1


def test_a_full_disk_keeps_the_old_model_and_says_why(story):
    assert story.full_report.state is InstallState.FAILED
    assert story.full_report.running == story.first_digest[LATHE]
    assert "room" in story.full_report.detail
    assert story.digest_while_full == story.first_digest[LATHE]
    assert story.labels_while_full == 5


def test_a_model_that_found_no_room_is_installed_when_there_is_some(story):
    assert story.retried_digest != story.first_digest[LATHE]
    assert story.retried_digest == story.latest(LATHE).deployed.digest
    assert story.latest(LATHE).counter == 2


def test_a_device_that_lost_server_and_broker_keeps_inferring(story):
    assert story.labels_alone == 5
    assert story.labels_restarted == 5
    assert confirmed(story.latest(PRESS))


def test_an_agent_ends_in_order_even_without_a_broker(story):
    assert story.status_alone == {PRESS: 0}


def test_everybody_who_is_asked_to_end_says_goodbye_and_ends_with_status_0(story):
    assert story.goodbyes == dict.fromkeys((PRESS, LATHE, VIEWER, STRANGER, SERVER), 0)
    server = story.last_words.pop(ServerTopic(ServerTells.STATE))
    assert server.status is LinkStatus.OFFLINE
    assert len(story.last_words) == 4
    for birth in story.last_words.values():
        assert (birth.status, birth.cause) == (LinkStatus.OFFLINE, "shutdown")


def test_no_process_outlives_the_one_that_started_it(story):
    assert not story.orphans


def test_no_secret_is_in_any_log_journal_or_other_file(story):
    fleet = story.fleet
    keys = [fleet.data / "fleet-secret", fleet.data / "signing-key"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)
    raw = {
        bytes.fromhex(keys[0].read_text().strip()),
        parse_private_key(keys[1].read_text()),
        *(password.encode() for password in fleet.passwords.values()),
    }
    texts = {text for secret in raw for text in spellings(secret)}
    looked_at = 0
    for path in sorted(fleet.folder.rglob("*")):
        # What has to hold a secret: these files, and the broker's own.
        allowed = path.name == "password" or path in keys or fleet.folder / BROKER in path.parents
        if path.is_file() and not allowed:
            content = path.read_bytes()
            assert not [text for text in texts if text in content], path
            looked_at += 1
    assert looked_at > 30
    assert not [text for text in texts if text.decode("latin1") in " ".join(story.commands)]
    for record in fleet.watcher.records:
        assert b'"key"' not in record.payload


def spellings(secret):
    encoded = base64.b64encode(secret).rstrip(b"=")
    return {secret, secret.hex().encode(), secret.hex().upper().encode(), encoded}


def test_the_fleet_of_the_story_is_the_one_that_the_operator_saw(story):
    assert story.status["fleet"] == FLEET
    assert {one["device"] for one in story.status["devices"]} == {PRESS, LATHE, VIEWER, STRANGER}
