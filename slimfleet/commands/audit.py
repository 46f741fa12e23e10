"""``slimfleet audit``."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from broker import messages as m
from broker.decoding import decode_document
from broker.envelope import Verifier
from edge_agent.witness_file import leave_acceptance
from edge_agent.witness_state import Acceptance, document_of
from journal.audit_check import Finding, Outcome, check_export, trusted
from journal.audit_export import FORMAT, Export, ExportEnd, ExportHead, export_lines
from journal.audit_proof import check_proof, gather, prove, read_proof
from journal.chain import Head, Record
from journal.errors import AuditError, EventError, JournalError
from journal.reader import JournalReader
from monitor.terminal_text import plain
from slimfleet.audit_files import (
    own_key,
    read_keys,
    read_witness_file,
    server_files,
    write_lines,
)
from slimfleet.audit_lines import entry, entry_line, kind_of, moment, names, parse_since
from slimfleet.config import AgentConfig, ConfigError, read_config
from slimfleet.exit_codes import ExitCode
from slimfleet.operator_link import name_argument

EXAMPLE = """example:
  slimfleet audit log --config server.toml --device pump-1 --since 3d
  slimfleet audit export --config server.toml --out log.jsonl
  slimfleet audit verify log.jsonl --key agent.toml --checkpoint witness-of-pump-1
  slimfleet audit prove pump-1 12 --config server.toml --out pump-1.proof
  slimfleet audit check pump-1.proof --key agent.toml
  slimfleet audit accept --config agent.toml --reason "restored from the copy of Monday"

The first two and prove read the server's folder, also beside a running server, and change nothing.
verify and check need no server; accept is for a device.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    actions = parser.add_subparsers(dest="audit_action", required=True, metavar="ACTION")
    log = actions.add_parser("log", help="print the entries")
    log.add_argument("--device", type=name_argument, metavar="ID", help="about it only")
    log.add_argument("--kind", default="", metavar="KIND", help='such as "rewards-allocated"')
    log.add_argument("--since", default="", metavar="TIME", help="90m, 2h, 3d, or a date (UTC)")
    log.add_argument("--json", action="store_true", help="one object a line, with all there is")
    export = actions.add_parser("export", help="write the whole log into one file")
    verify = actions.add_parser("verify", help="check an exported log; needs no server")
    verify.add_argument("file", type=Path, metavar="FILE", help="an export")
    verify.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="copy of the file `witness` of a device; may be given several times",
    )
    proof = actions.add_parser("prove", help="prove what a device gave and got for a round")
    proof.add_argument("device", type=name_argument, metavar="DEVICE", help="id of the device")
    proof.add_argument("round", type=int, metavar="ROUND", help="number of the round")
    check = actions.add_parser("check", help="check such a proof; needs no server")
    check.add_argument("file", type=Path, metavar="FILE", help="a proof")
    accept = actions.add_parser("accept", help="on a device: a contradiction is accounted for")
    accept.add_argument("--reason", required=True, metavar="TEXT", help="why; kept on the device")
    for one in (log, export, proof):
        one.add_argument("--config", type=Path, required=True, metavar="FILE", help="server.toml")
    accept.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    for one in (export, proof):
        one.add_argument("--out", type=Path, required=True, metavar="FILE", help="what to write")
    for one in (verify, check):
        one.add_argument(
            "--key",
            default="",
            metavar="KEY",
            help="the server's public key: the line, or a file with it, such as an agent.toml",
        )


def run(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    return ACTIONS[arguments.audit_action](arguments)


# --- on the server ------------------------------------------------------------------------------


def show_log(arguments: argparse.Namespace) -> int:
    """Print entries, oldest first."""
    files = server_files(arguments.config)
    try:
        since = parse_since(arguments.since, time.time()) if arguments.since else float("-inf")
    except ValueError as error:
        raise ConfigError(f"--since: {error}") from error
    for record in files.journal.records():
        if record.at >= since and (line := _shown(record, arguments)):
            sys.stdout.write(line + "\n")
    return ExitCode.DONE


def _shown(record: Record, arguments: argparse.Namespace) -> str:
    try:
        event = record.event
    except EventError as error:  # written by a newer slimfleet: it is there all the same
        return "" if arguments.kind or arguments.device else f"{record.index:6}  {error}"
    if arguments.kind and kind_of(event) != arguments.kind:
        return ""
    if arguments.device and not names(msgspec.to_builtins(event), arguments.device):
        return ""
    if arguments.json:
        return json.dumps(entry(record))
    return entry_line(record, arguments.device or "")


def export_log(arguments: argparse.Namespace) -> int:
    """Write an export; fails where the journal has losses, after exporting what is intact."""
    files = server_files(arguments.config, salvage=True)
    head = ExportHead(
        format=FORMAT,
        fleet=files.fleet,
        public_key=files.public_key,
        checkpoint=files.checkpoint,
    )
    known = _known_end(files.journal)
    last = write_lines(arguments.out, export_lines(head, files.journal.records(), known))
    end = decode_document(last, ExportEnd)
    sys.stdout.write(f"{arguments.out}: {end.records} events\n")
    if end.lost:
        sys.stderr.write(f"slimfleet audit export: lost: {end.lost}\n")
        return ExitCode.FAILURE
    return ExitCode.DONE


def _known_end(journal: JournalReader) -> Head | None:
    try:
        return journal.head()
    except JournalError:  # reading the records will say it
        return None


def write_proof(arguments: argparse.Namespace) -> int:
    """Write a proof of what a device gave and got for a round."""
    files = server_files(arguments.config)
    device, number = arguments.device, arguments.round
    if files.checkpoint is None or not files.public_key:
        raise AuditError(
            "the server has signed no checkpoint yet, or its signing key is missing: start it once"
        )
    keys = [own_key(files.public_key, str(arguments.config))]
    checkpoint = Verifier.trusting(keys, files.fleet, "").checkpoint(files.checkpoint)
    hashes, found = gather(files.journal.records(), device, number)
    proof = prove(hashes, found, files.checkpoint, checkpoint, files.public_key, device, number)
    write_lines(arguments.out, [msgspec.json.format(msgspec.json.encode(proof)), b"\n"])
    sys.stdout.write(
        f"{arguments.out}: {len(found)} entries about {device} in round {number}, under a"
        f" checkpoint of {checkpoint.size} events\n"
    )
    return ExitCode.DONE


# --- anywhere -----------------------------------------------------------------------------------


def verify_export(arguments: argparse.Namespace) -> int:
    """Check an export and print what was found; fails where anything does not hold."""
    given = read_keys(arguments.key) if arguments.key else []
    try:
        with arguments.file.open("rb") as lines:
            export = Export(lines)
            own = own_key(export.head.public_key, str(arguments.file)) if not given else b""
            verifier = Verifier.trusting(given or [own], export.head.fleet, "")
            findings = check_export(export, verifier, _witnesses(arguments.checkpoint))
    except OSError as error:
        raise ConfigError(f"{arguments.file}: {error.strerror or error}") from error
    return _told([trusted(own, given[0] if given else None), *findings])


def _witnesses(paths: Sequence[Path]) -> dict[str, m.SignedEnvelope]:
    found = {}
    for path in paths:
        state = read_witness_file(path)
        if state.kept is None:
            raise AuditError(f"{path}: this device has kept no checkpoint yet")
        found[f"witness {path}"] = state.kept
        if state.contradiction:
            found[f"witness {path}, what denied it"] = state.contradiction.seen
    return found


def check_reward(arguments: argparse.Namespace) -> int:
    """Check a proof and print what it proves."""
    given = read_keys(arguments.key) if arguments.key else []
    try:
        proof = read_proof(arguments.file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{arguments.file}: {error.strerror or error}") from error
    own = own_key(proof.public_key, str(arguments.file)) if not given else b""
    checked = check_proof(proof, Verifier.trusting(given or [own], proof.fleet, ""))
    code = _told([trusted(own, given[0] if given else None), *checked.findings])
    for record in checked.records:
        sys.stdout.write(entry_line(record, proof.device) + "\n")
    return code


def _told(findings: Sequence[Finding]) -> int:
    for one in findings:
        sys.stdout.write(f"{one.outcome:8}{plain(one.text)}\n")
    failed = sum(one.outcome is Outcome.FAILS for one in findings)
    if failed:
        sys.stderr.write(f"slimfleet audit: {failed} of {len(findings)} checks failed\n")
    return ExitCode.FAILURE if failed else ExitCode.DONE


# --- on a device --------------------------------------------------------------------------------


def accept_contradiction(arguments: argparse.Namespace) -> int:
    """Leave word for the agent that what it reports is accounted for."""
    config = read_config(arguments.config, AgentConfig)
    folder = arguments.config.resolve().parent / config.folder
    found = read_witness_file(folder / "witness").contradiction
    if found is None:
        raise AuditError(f"{config.device} reports no contradiction: there is nothing to accept")
    kept, seen = document_of(found.kept), document_of(found.seen)
    assert kept is not None
    assert seen is not None
    leave_acceptance(folder, Acceptance(seen=found.seen.payload, reason=arguments.reason))
    for line in _lines_of(found, kept, seen):
        sys.stdout.write(line + "\n")
    return ExitCode.DONE


def _lines_of(found: m.Contradiction, kept: m.Checkpoint, seen: m.Checkpoint) -> Iterator[str]:
    yield f"accepted ({found.kind}):"
    for name, one in (("kept", kept), ("seen", seen)):
        yield (
            f"  {name}: {one.size} events, root {one.root.hex()[:16]}, signed"
            f" {moment(one.signed_at)} UTC"
        )
    yield "the agent goes on from the second within seconds, or when it is started"


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "log": show_log,
    "export": export_log,
    "verify": verify_export,
    "prove": write_proof,
    "check": check_reward,
    "accept": accept_contradiction,
}
