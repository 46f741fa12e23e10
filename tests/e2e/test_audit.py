"""A real fleet whose server rewrites its history: a device finds out, and the operator is told."""

import json
import shutil

import msgspec
import pytest

from broker.topics import DeviceSays, UpTopic
from edge_agent.witness_state import decode_witness_state, document_of
from journal import events as e
from journal.errors import DamagedFileError
from journal.reader import JournalReader
from journal.reading import read_state
from journal.store import Journal
from slimfleet.demo.watching import CampaignWatcher
from tests.fakes.real_fleet import SERVER, RealDevice, RealFleet

pytestmark = [pytest.mark.mqtt, pytest.mark.slow, pytest.mark.torch]

PRESS, LATHE = "press", "lathe"
AUDIT = {"audit": {"minutes": 0.05, "pause_s": 0.5}}


def witnessed(fleet, name):
    """Return what a device has on its disk; None while it has nothing."""
    try:
        return decode_witness_state(read_state(fleet.folder / name / "data" / "witness"))
    except (FileNotFoundError, DamagedFileError):
        return None


def keeps(fleet, name, count):
    state = witnessed(fleet, name)
    return state and state.kept and document_of(state.kept).size >= count


def audit(fleet, *arguments, code=0):
    done = fleet.run("audit", *map(str, arguments))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def rewrite(folder):
    """Give the lathe half of what it earned, with a new chain over everything."""
    records = list(JournalReader(folder).records())
    shutil.rmtree(folder)

    def lower(event):
        if not isinstance(event, e.RewardsAllocated):
            return event
        rewards = tuple(
            msgspec.structs.replace(one, contribution=one.contribution / 2)
            if one.device == LATHE
            else one
            for one in event.rewards
        )
        return msgspec.structs.replace(event, rewards=rewards)

    with Journal.open(folder) as journal:
        for record in records:
            journal.append([lower(record.event)], record.at)


def status(fleet, *more):
    password = fleet.folder / "operator-password"
    password.write_text(fleet.passwords["operator"])
    asked = ("status", "--config", str(fleet.config(SERVER)), "--password-file", str(password))
    done = fleet.run(*asked, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_rewritten_journal_is_found_out_by_the_devices(tmp_path):
    devices = [RealDevice(PRESS, person=1), RealDevice(LATHE, person=2)]
    with RealFleet(tmp_path, devices, server=AUDIT) as fleet:
        fleet.start_all()
        fleet.until_finished()
        (at,) = [r.index for r in fleet.watcher.records if isinstance(r.event, e.RewardsAllocated)]
        for name in (PRESS, LATHE):
            fleet.wait(lambda name=name: keeps(fleet, name, at + 1), f"{name} keeps the rewards")

        # As long as nobody lies, everything holds; the server goes on meanwhile.
        config, key = fleet.config(SERVER), fleet.config(PRESS)
        kept = shutil.copy(fleet.folder / LATHE / "data" / "witness", tmp_path / "kept")
        out, proof = tmp_path / "log.jsonl", tmp_path / "lathe.proof"
        audit(fleet, "export", "--config", config, "--out", out)
        found = audit(fleet, "verify", out, "--key", key, "--checkpoint", kept)
        assert "FAILED" not in found
        assert found.count("which is theirs") == 2
        audit(fleet, "prove", LATHE, 2, "--config", config, "--out", proof)
        assert "RewardsAllocated" in audit(fleet, "check", proof, "--key", key)
        data = json.loads(status(fleet, "--json"))
        assert data["contradicted"] == []
        assert data["checkpoint"]["size"] > at

        # The server takes back what the lathe earned, and signs that.
        assert fleet.terminate(SERVER) == {SERVER: 0}
        rewrite(fleet.journal)
        for path in fleet.data.glob("checkpoints*"):
            path.unlink()
        fleet.watcher = CampaignWatcher(fleet.journal)
        fleet.start(SERVER)
        for name in (PRESS, LATHE):
            fleet.wait(
                lambda name=name: witnessed(fleet, name).contradiction, f"{name} finds it out"
            )
            topic = UpTopic(name, DeviceSays.WITNESS)
            fleet.wait(
                lambda topic=topic: fleet.retained(topic)[topic].contradiction, "it is retained"
            )
        fleet.wait(lambda: len(fleet.events(e.ContradictionReported)) == 2, "both are recorded")
        assert all(event.proven for event in fleet.events(e.ContradictionReported))
        text = " ".join(status(fleet).split())
        assert f"THE SERVER'S HISTORY WAS CHANGED, report: {LATHE}, {PRESS}" in text
        audit(fleet, "export", "--config", config, "--out", out)
        found = audit(fleet, "verify", out, "--key", key, "--checkpoint", kept, code=1)
        assert "another root was signed" in found
        # What was proven before stays proven, whatever the server says now.
        assert "FAILED" not in audit(fleet, "check", proof, "--key", key)

        # An operator who knows why accepts it, on the device, while its agent runs.
        asked = ("accept", "--config", fleet.config(PRESS), "--reason", "a test of this very thing")
        assert "accepted" in audit(fleet, *asked)
        fleet.wait(lambda: fleet.events(e.ContradictionSettled), "the server hears of it")
        (settled,) = fleet.events(e.ContradictionSettled)
        assert (settled.device, settled.reason) == (PRESS, "a test of this very thing")
        assert witnessed(fleet, LATHE).contradiction
        assert fleet.terminate(SERVER, PRESS, LATHE) == {SERVER: 0, PRESS: 0, LATHE: 0}
