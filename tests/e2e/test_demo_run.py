"""``slimfleet demo`` as a user runs it: two at the same time, one of which loses its server."""

import csv
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest

from coordinator.evolution import evolve
from coordinator.fleet import Campaign, confirmed
from edge_agent import Predictor
from journal import events as e
from journal.chain import verify
from journal.reader import JournalReader
from slimfleet import watch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mqtt,
    pytest.mark.torch,
    pytest.mark.timeout(300),
]
PATIENCE_S = 250.0
PNG = b"\x89PNG\r\n\x1a\n"
COLUMNS = (
    "device",
    "emulated",
    "pred/obs",
    "trains",
    "taken/missed",
    "contri-",
    "reward",
    "unseen",
    "alone",
    "ONNX",
    "p50/p95",
    "confirmed",
)


class Demo:
    """One run of the command."""

    def __init__(self, folder, *arguments):
        self.out = folder / "run"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "slimfleet", "demo", "--devices", "3"),
                *("--out", str(self.out), *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )

    def end(self):
        """Wait for it, or end it, and return what it printed."""
        try:
            return self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)
            return self.process.communicate(timeout=30)


@dataclass
class Finished:
    """What a run left."""

    status: int
    printed: str
    complaints: str
    out: Path

    def __post_init__(self):
        self.records = list(JournalReader(self.out / "journal").records())
        self.state = Campaign()
        for record in self.records:
            self.state = evolve(self.state, record.event, record.at)

    def devices(self):
        return self.state.devices.values()

    def rider(self):
        (rider,) = [device for device in self.devices() if "free-rider" in device.device]
        return rider


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    before = {process.pid for process in psutil.process_iter()}
    quiet = Demo(tmp_path_factory.mktemp("quiet"), "--rounds", "2", "--keep")
    crash = Demo(tmp_path_factory.mktemp("crash"), "--rounds", "4", "--crash")
    finished = []
    for demo in (quiet, crash):
        printed, complaints = demo.end()
        assert demo.process.returncode == 0, f"{printed}\n{complaints}"
        finished.append(Finished(demo.process.returncode, printed, complaints, demo.out))
    left = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before]
    mine = [p for p in left if any(str(one.out.parent) in str(p.info) for one in finished)]
    assert not mine, "processes of the demo outlived it"
    return finished


@pytest.fixture(scope="module")
def quiet(demos):
    return demos[0]


@pytest.fixture(scope="module")
def crashed(demos):
    return demos[1]


def test_two_demos_at_the_same_time_both_succeed(demos):
    fleets = {one.state.settings.fleet for one in demos}
    assert len(fleets) == 2
    for one in demos:
        assert one.status == 0
        assert one.complaints == ""
        assert "Done in " in one.printed


def test_the_demo_ends_with_a_table_that_has_every_column(quiet):
    for column in COLUMNS:
        assert column in quiet.printed, column
    for device in quiet.devices():
        assert re.search(rf"│ {device.device} +│", quiet.printed), device.device
        assert f"{device.device}: trains width " in quiet.printed
    assert "EMULATED" in quiet.printed
    assert "each device holds the weights of its training width" in quiet.printed
    assert "Contributions: " in quiet.printed


def test_every_onnx_file_runs_in_onnx_runtime(quiet):
    files = sorted((quiet.out / "onnx").iterdir())
    assert [file.suffix for file in files] == [".onnx"] * len(quiet.state.releases)
    assert all(re.fullmatch(r"cnn1d-w[01](\.\d+)?\.onnx", file.name) for file in files), files
    windows = watch.person_samples(watch.UNSEEN_PERSON).x[:4]
    for file in files:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {session.get_inputs()[0].name: windows})
        assert logits.shape == (4, len(watch.EXERCISES))
        assert np.isfinite(logits).all()


def test_what_a_device_confirmed_is_what_stands_in_its_slots(quiet):
    served = [device for device in quiet.devices() if confirmed(device)]
    assert served
    for device in served:
        slots = quiet.out / "work" / "devices" / device.device / "data" / "slots"
        assert Predictor(slots).manifest.digest == device.report.running
        assert device.report.running[:12] in quiet.printed
        assert {one.data for one in device.report.evaluations} == {"own", "unseen-person"}
        assert device.report.latency_p50_s > 0


def test_the_journal_that_the_demo_leaves_is_whole(demos):
    for one in demos:
        verify(one.records)
        assert isinstance(one.records[-1].event, e.CampaignFinished | e.PresenceChanged)
        # A plain file: whoever takes it away takes all of it.
        left = {file.name for file in (one.out / "journal").iterdir()}
        assert left <= {"journal.sqlite", "journal.lock"}, left


def test_the_ledger_has_a_line_for_each_device_and_round(quiet):
    with (quiet.out / "ledger.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 3
    accepted = {
        (str(one.event.round), one.event.device, one.event.digest)
        for one in quiet.records
        if isinstance(one.event, e.UpdateAccepted)
    }
    assert {(line["round"], line["device"], line["update_sha256"]) for line in lines} == accepted
    assert {line["method"] for line in lines} == {quiet.state.scored.method}


def test_the_report_and_its_pictures_open_without_a_network(quiet):
    page = (quiet.out / "report.html").read_text()
    assert not re.search(r"""(src|href|action|data)\s*=\s*["']?\s*(https?:)?//""", page)
    assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", page)
    for device in quiet.devices():
        assert device.device in page
    assert (
        (quiet.out / "accuracy-over-width.svg").read_text().lstrip().startswith(("<?xml", "<svg"))
    )
    assert (quiet.out / "accuracy-over-width.png").read_bytes().startswith(PNG)


def test_the_free_rider_ends_without_a_release(demos):
    for one in demos:
        rider = one.rider()
        assert rider.rounds_taken == one.state.weights_round
        assert rider.deployed is None
        assert rider.reward.width == 0
        assert f"{rider.device}: trains" in one.printed
        assert "earns no release" in one.printed


def test_no_secret_leaves_the_working_folders(quiet):
    work = quiet.out / "work"
    held = {path.read_text().strip() for path in work.rglob("*password*") if path.is_file()}
    held |= {(work / "server" / "data" / "fleet-secret").read_text().strip()}
    held |= {(work / "server" / "data" / "signing-key").read_text().strip().split()[-1]}
    assert len(held) >= 6
    for path in quiet.out.rglob("*"):
        if path.is_file() and work not in path.parents:
            content = path.read_bytes()
            assert not [secret for secret in held if secret.encode() in content], path
    assert not [secret for secret in held if secret in quiet.printed]


def test_without_keep_the_working_folders_are_gone(crashed):
    assert not (crashed.out / "work").exists()


def test_a_killed_server_goes_on_with_the_same_round_and_the_output_says_so(crashed):
    assert "CRASH: killed the server (SIGKILL) in round 3" in crashed.printed
    assert "CRASH survived: round 3 went on after the restart" in crashed.printed
    assert "FAILED" not in crashed.printed
    events = [record.event for record in crashed.records]
    assert [one.epoch for one in events if isinstance(one, e.ServerStarted)] == [1, 2]
    again = next(
        n for n, one in enumerate(events) if isinstance(one, e.ServerStarted) and one.epoch == 2
    )
    before, after = events[:again], events[again:]
    kept = {one.device for one in before if isinstance(one, e.UpdateAccepted) and one.round == 3}
    (closed,) = [one for one in after if isinstance(one, e.RoundClosed) and one.round == 3]
    assert kept
    assert kept < set(closed.aggregated)
    assert [one.round for one in events if isinstance(one, e.RoundOpened)] == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_asked_to_end_while_it_starts_leaves_no_process(tmp_path, number):
    demo = Demo(tmp_path, "--rounds", "2", "--keep")
    me = psutil.Process(demo.process.pid)
    children = []
    # The broker, the stand-alone training, the server and the first agent.
    while len(children) < 4 and demo.process.poll() is None:
        children = me.children(recursive=True)
    os.kill(demo.process.pid, number)
    demo.process.communicate(timeout=60)
    assert demo.process.returncode == 130
    check_ended(children)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends them then")
def test_a_demo_that_is_killed_takes_its_processes_along(tmp_path):
    demo = Demo(tmp_path, "--rounds", "2", "--keep")
    me = psutil.Process(demo.process.pid)
    agents = []
    while len(agents) < 3 and demo.process.poll() is None:
        agents = [child for child in me.children() if "agent" in command_of(child)]
    children = me.children(recursive=True)
    demo.process.kill()
    demo.process.communicate(timeout=60)
    check_ended(children)


def check_ended(processes):
    """Check that none of the processes goes on, and end those that do."""
    _, alive = psutil.wait_procs(processes, timeout=15)
    for process in alive:
        process.kill()
    assert not alive


def command_of(process):
    """Return what a process runs; nothing while it is not yet what it was started to be."""
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return []
    return [] if "--pdeathsig" in words else words
