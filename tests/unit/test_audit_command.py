"""``slimfleet audit``: what people read of a server's folder, and their word on a device."""

import json
import shutil

import pytest

from broker import messages as m
from broker.envelope import Verifier, parse_public_key, public_key_of, public_key_text, sign
from coordinator.settings import AuditSettings
from coordinator.witnessing import Witnessing
from edge_agent.witness import Witness
from edge_agent.witness_file import read_acceptance, read_witness, write_witness
from edge_agent.witness_state import WitnessState
from journal import events as e
from journal.chain import EMPTY, extend
from journal.merkle import root_of
from journal.reader import DATABASE
from journal.store import Journal
from slimfleet.audit_lines import entry_line, parse_since
from slimfleet.cli import main
from slimfleet.exit_codes import ExitCode
from slimfleet.keys import load_identity
from tests.unit.test_audit_export import DEVICE, FLEET, happened

SERVER = f"""
folder = "data"
validation = "validation.npz"
[broker]
url = "mqtt://127.0.0.1:1883"
[campaign]
fleet = "{FLEET}"
model = "cnn1d"
widths = [0.5, 1.0]
"""
AT = 1_800_000_000.0


class Plant:
    """A server's folder with a journal and a signed checkpoint, and a device beside it."""

    def __init__(self, folder):
        self.folder, self.data = folder, folder / "data"
        self.config = folder / "server.toml"
        self.config.write_text(SERVER)
        self.identity = load_identity(self.data, bytes)
        self.public = public_key_text(public_key_of(self.identity.signing_key))
        self.device = folder / "device"
        (self.device / "data").mkdir(parents=True)
        self.agent = self.device / "agent.toml"
        self.agent.write_text(
            f'device = "{DEVICE}"\nfleet = "{FLEET}"\nfolder = "data"\n'
            f'trusted_keys = ["{self.public}"]\n[broker]\nurl = "mqtt://127.0.0.1:1883"\n'
        )
        self.write(happened())

    def write(self, events, at=AT):
        with Journal.open(self.data / "journal") as journal:
            journal.append(events, at)
            self.witnessing = Witnessing(
                FLEET, AuditSettings(), journal, self.identity.signing_key, self.data, at
            )
            self.witnessing.tick(at)
            self.newest = self.witnessing.newest

    def rewrite(self, events, at=AT + 60):
        """Do as a server would that wants to have another past."""
        shutil.rmtree(self.data / "journal")
        for path in self.data.glob("checkpoints*"):
            path.unlink()
        self.write(events, at)

    def verifier(self):
        return Verifier.trusting([parse_public_key(self.public)], FLEET, DEVICE)

    def witnessed(self):
        """Let the device keep the newest checkpoint, and return its file."""
        envelope = sign(self.newest, "checkpoint", self.identity.signing_key)
        write_witness(self.device / "data", WitnessState(kept=envelope))
        return self.device / "data" / "witness"

    def contradicted(self):
        """Let the device see a smaller tree that was signed later."""
        self.witnessed()
        one = read_witness(self.device / "data", DEVICE, self.verifier())
        small = m.Checkpoint(fleet=FLEET, size=3, root=bytes(32), signed_at=AT + 9)
        seen = sign(small, "checkpoint", self.identity.signing_key)
        one.heard(m.SignedCheckpoint(checkpoint=seen), AT)
        write_witness(self.device / "data", one.state)
        return one


@pytest.fixture
def plant(tmp_path):
    return Plant(tmp_path)


def said(capsys, *arguments, code=ExitCode.DONE):
    assert main(["audit", *map(str, arguments)]) == code
    found = capsys.readouterr()
    return found.out if code is ExitCode.DONE else found.out + found.err


def exported(plant, capsys, code=ExitCode.DONE):
    out = plant.folder / "log.jsonl"
    return out, said(capsys, "export", "--config", plant.config, "--out", out, code=code)


# --- the log --------------------------------------------------------------------------------------


def test_the_log_is_printed_one_entry_a_line(plant, capsys):
    lines = said(capsys, "log", "--config", plant.config).splitlines()
    assert len(lines) == len(happened())
    assert lines[0] == (
        "     0  2027-01-15 08:00:00  presence-changed       device=d0 state=online cause=birth"
    )
    assert "rule=equal-gain" in lines[31]


def test_the_log_is_filtered_by_device_and_kind(plant, capsys):
    lines = said(capsys, "log", "--config", plant.config, "--device", DEVICE).splitlines()
    assert [int(line.split()[0]) for line in lines] == [5, 12, 20, 21, 30, 31, 33]
    assert "contributions=[score=0.25 update=abababababab" in lines[2]
    assert "rewards=[contribution=0.25" in lines[4]
    kind = ("--kind", "rewards-allocated")
    assert len(said(capsys, "log", "--config", plant.config, *kind).splitlines()) == 3


def test_the_log_is_filtered_by_time(plant, capsys):
    plant.write([e.CampaignFinished(detail="over")], AT + 86400.0)
    newer = ("--since", "2027-01-16")
    (line,) = said(capsys, "log", "--config", plant.config, *newer).splitlines()
    assert "campaign-finished" in line
    code = ExitCode.BAD_CONFIGURATION
    assert "'soon' is no time" in said(
        capsys, "log", "--config", plant.config, "--since", "soon", code=code
    )


def test_the_log_as_data_holds_everything_that_was_recorded(plant, capsys):
    lines = said(capsys, "log", "--config", plant.config, "--json").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [one["index"] for one in entries] == list(range(len(happened())))
    assert entries[21]["contributions"][1]["device"] == "lathe"
    assert all(len(one["hash"]) == 64 for one in entries)


def test_times_are_read_as_people_write_them():
    assert parse_since("90m", 10_000.0) == 10_000.0 - 5400
    assert parse_since("2h", 10_000.0) == 2800.0
    assert parse_since("3d", 1e6) == 1e6 - 3 * 86400
    assert parse_since("2027-01-15T08:00", 0.0) == AT
    assert parse_since("2027-01-15T09:00+01:00", 0.0) == AT
    for wrong in ("", "3x", "-2h", "99999999d"):
        with pytest.raises(ValueError, match="is no time"):
            parse_since(wrong, 0.0)


def test_hostile_texts_do_not_reach_the_terminal():
    (record,) = extend(
        EMPTY, [e.MessageRefused(sender="x\x1b[2J\n", channel="a" * 500, reason="\u202egnp")], 1e300
    )
    line = entry_line(record)
    assert line.isprintable()
    assert len(line) < 300


# --- export and verify ----------------------------------------------------------------------------


def test_an_export_is_verified_with_the_key_and_a_witness(plant, capsys):
    out, told = exported(plant, capsys)
    assert told == f"{out}: 40 events\n"
    for key in (plant.public, plant.agent):
        text = said(capsys, "verify", out, "--key", key, "--checkpoint", plant.witnessed())
        outcomes = [line.split()[0] for line in text.splitlines()]
        assert outcomes == ["ok", "ok", "ok", "ok"]
        assert "signed over 40 events" in text


def test_without_a_key_it_says_what_the_exports_own_is_worth(plant, capsys):
    out, _ = exported(plant, capsys)
    assert "is the export's own: give the one" in said(capsys, "verify", out)


def test_a_key_that_is_not_the_servers_fails(plant, capsys):
    out, _ = exported(plant, capsys)
    other = public_key_text(public_key_of(bytes(32)))
    text = said(capsys, "verify", out, "--key", other, code=ExitCode.FAILURE)
    assert "FAILED  checkpoint: checkpoint is not signed by a trusted key" in text
    assert text.endswith("slimfleet audit: 1 of 3 checks failed\n")


def test_a_journal_rewritten_as_a_whole_fails_by_the_devices_checkpoint(plant, capsys):
    kept = shutil.copy(plant.witnessed(), plant.folder / "kept")
    events = happened()
    events[21] = e.CampaignFinished(detail="what happened here is nobody's business")
    plant.rewrite(events)
    out, _ = exported(plant, capsys)
    assert "FAILED" not in said(capsys, "verify", out, "--key", plant.agent)
    text = said(
        capsys, "verify", out, "--key", plant.agent, "--checkpoint", kept, code=ExitCode.FAILURE
    )
    assert "over 40 events another root was signed" in text


def test_a_journal_cut_below_the_devices_checkpoint_fails_by_it(plant, capsys):
    kept = shutil.copy(plant.witnessed(), plant.folder / "kept")
    plant.rewrite(happened()[:30])
    out, _ = exported(plant, capsys)
    text = said(
        capsys, "verify", out, "--key", plant.agent, "--checkpoint", kept, code=ExitCode.FAILURE
    )
    assert "signed over 40 events, only 30 are here" in text


def test_a_truncated_journal_is_exported_and_its_loss_is_said(plant, capsys):
    for _ in range(40):
        plant.write(happened())
    path = plant.data / "journal" / DATABASE
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 // 4096 * 4096)
    out, told = exported(plant, capsys, code=ExitCode.FAILURE)
    assert "slimfleet audit export: lost: " in told
    assert len(out.read_bytes().splitlines()) > 500
    text = said(capsys, "verify", out, "--key", plant.agent, code=ExitCode.FAILURE)
    assert "FAILED  lost: " in text
    assert "ok      chain: " in text


def test_an_export_beside_a_running_server_is_whole(plant, capsys):
    with Journal.open(plant.data / "journal") as journal:
        journal.append([e.CampaignFinished(detail="")], AT)
        out, told = exported(plant, capsys)
        assert told.endswith(": 41 events\n")
    assert "1 event is newer" in said(capsys, "verify", out, "--key", plant.agent)


def test_nothing_in_the_servers_folder_is_made_or_changed(plant, capsys):
    def content():
        return {p: p.read_bytes() for p in sorted(plant.data.rglob("*")) if p.is_file()}

    before = content()
    exported(plant, capsys)
    said(capsys, "log", "--config", plant.config)
    assert content() == before


def test_an_old_export_is_kept_where_a_new_one_cannot_be_made(plant, capsys):
    out, _ = exported(plant, capsys)
    before = out.read_bytes()
    shutil.rmtree(plant.data / "journal")
    assert "no journal in" in exported(plant, capsys, code=ExitCode.FAILURE)[1]
    assert out.read_bytes() == before
    assert not list(plant.folder.glob(".*tmp"))


# --- proofs ---------------------------------------------------------------------------------------


def test_a_reward_is_proven_with_nothing_but_the_key(plant, capsys, tmp_path):
    out = plant.folder / "press.proof"
    told = said(capsys, "prove", DEVICE, 2, "--config", plant.config, "--out", out)
    assert told == f"{out}: 3 entries about press in round 2, under a checkpoint of 40 events\n"
    shutil.rmtree(plant.data)
    text = said(capsys, "check", out, "--key", plant.public)
    assert text.count("ok      record") == 3
    assert "rewards=[contribution=0.25 share=1" in text
    assert "contributions=[score=0.25" in text


def test_a_proof_that_was_touched_fails(plant, capsys):
    out = plant.folder / "press.proof"
    said(capsys, "prove", DEVICE, 2, "--config", plant.config, "--out", out)
    text = out.read_text()
    assert "0.25" in text
    out.write_text(text.replace("0.25", "0.75"))
    found = said(capsys, "check", out, "--key", plant.public, code=ExitCode.FAILURE)
    assert "its content was changed" in found
    assert "0.75" not in found


def test_what_is_not_covered_yet_cannot_be_proven_yet(plant, capsys):
    with Journal.open(plant.data / "journal") as journal:
        journal.append([e.DeviceDropped(round=9, device=DEVICE, reason=m.DropReason.LATE)], AT)
    out = plant.folder / "x.proof"
    code = ExitCode.BAD_CONFIGURATION
    for number, why in ((9, "wait until the server has signed the next one"), (7, "nothing is")):
        asked = ("prove", DEVICE, number, "--config", plant.config, "--out", out)
        assert why in said(capsys, *asked, code=code)
    assert not out.exists()


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["verify", "check"])
def test_a_file_that_is_none_ends_in_one_line(plant, capsys, action):
    code = ExitCode.BAD_CONFIGURATION
    for path in (plant.folder / "missing", plant.config):
        text = said(capsys, action, path, "--key", plant.public, code=code)
        assert text.count("\n") == 1


def test_a_key_that_is_none_ends_in_one_line(plant, capsys):
    out, _ = exported(plant, capsys)
    code = ExitCode.BAD_CONFIGURATION
    for key in ("nonsense", plant.config, "slimfleet-ed25519 " + "A" * 44):
        text = said(capsys, "verify", out, "--key", key, code=code)
        assert text.startswith("slimfleet: --key ")
        assert text.count("\n") == 1


def test_a_witness_file_that_is_none_ends_in_one_line(plant, capsys):
    out, _ = exported(plant, capsys)
    code = ExitCode.BAD_CONFIGURATION
    text = said(capsys, "verify", out, "--checkpoint", plant.config, code=code)
    assert "is not what a device has witnessed" in text
    write_witness(plant.folder, WitnessState())
    empty = ("verify", out, "--checkpoint", plant.folder / "witness")
    assert "has kept no checkpoint yet" in said(capsys, *empty, code=code)


# --- on the device --------------------------------------------------------------------------------


def test_an_operator_accepts_a_contradiction_on_the_device(plant, capsys):
    one = plant.contradicted()
    text = said(capsys, "accept", "--config", plant.agent, "--reason", "restored")
    assert "kept: 40 events" in text
    assert "seen: 3 events" in text
    word = read_acceptance(plant.device / "data")
    again = Witness(DEVICE, plant.verifier(), one.state)
    assert again.accept(word, AT)
    assert again.message().size == 3


def test_where_there_is_nothing_to_accept_it_says_so(plant, capsys):
    plant.witnessed()
    code = ExitCode.BAD_CONFIGURATION
    asked = ("accept", "--config", plant.agent, "--reason", "x")
    assert "reports no contradiction" in said(capsys, *asked, code=code)
    (plant.device / "data" / "witness").unlink()
    assert "is not what a device has witnessed" in said(capsys, *asked, code=code)


def test_a_contradiction_is_evidence_in_an_export_too(plant, capsys):
    plant.contradicted()
    out, _ = exported(plant, capsys)
    text = said(
        capsys,
        *("verify", out, "--key", plant.agent),
        *("--checkpoint", plant.device / "data" / "witness"),
        code=ExitCode.FAILURE,
    )
    assert "what denied it: over 3 events another root was signed" in text


def test_a_damaged_witness_file_is_a_fresh_witness(plant, caplog):
    path = plant.witnessed()
    path.write_bytes(b"nonsense")
    one = read_witness(path.parent, DEVICE, plant.verifier())
    assert one.state == WitnessState()
    assert "the next checkpoint of the server is taken as the first" in caplog.text


def test_the_root_that_is_signed_is_that_of_the_records(plant):
    with Journal.open(plant.data / "journal") as journal:
        assert plant.newest.root == root_of([record.hash for record in journal.records()])
