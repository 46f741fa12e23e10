"""``slimfleet explain``."""

import argparse
import json
import sys
import textwrap
from pathlib import Path

import msgspec

from coordinator.explanation import Explanation, RoundTaken, UnknownDeviceError, explain
from exporter.run_weights import BELOW, JOURNAL
from journal.errors import JournalMissingError
from journal.reader import DATABASE, JournalReader
from slimfleet.config import ConfigError
from slimfleet.exit_codes import ExitCode

COLUMNS = 88
DIGEST = 12  # characters of an update's digest; enough to find it in the journal
EXAMPLE = """example:
  slimfleet explain pump-1 --folder server-data
  slimfleet explain pump-1 --folder server-data --json

It reads the journal in the server's data folder, also beside a running server, and changes nothing.
"""
TOO_EARLY = "rewards are allocated when training is over; this is what is known so far"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("device", metavar="DEVICE", help="id of the device")
    parser.add_argument(
        "--folder",
        type=Path,
        required=True,
        metavar="DIR",
        help="data folder of the server, `folder` in server.toml",
    )
    parser.add_argument("--json", action="store_true", help="print the machine-readable form")


def run(arguments: argparse.Namespace) -> int:
    """Print why a device got its width; fails where nothing was decided yet."""
    reader = JournalReader(_journal(arguments.folder))
    try:
        history = ((record.at, record.event) for record in reader.records())
        found = explain(history, arguments.device)
    except (UnknownDeviceError, JournalMissingError) as error:
        raise ConfigError(str(error)) from error
    if arguments.json:
        sys.stdout.write(json.dumps(msgspec.to_builtins(found), indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(explanation_lines(found)) + "\n")
    if found.basis == "so far":
        sys.stderr.write(f"slimfleet explain: {TOO_EARLY}\n")
        return ExitCode.BAD_CONFIGURATION
    return ExitCode.DONE


def _journal(folder: Path) -> Path:
    for below in BELOW:
        if (folder / below / JOURNAL / DATABASE).is_file():
            return folder / below / JOURNAL
    raise ConfigError(
        f"{folder} holds no journal; name the data folder of a server, `folder` in server.toml"
    )


def explanation_lines(found: Explanation) -> list[str]:
    """Return the explanation as text, one section a question."""
    sections = [
        _heading(found),
        ["Its rounds", *_round_lines(found)],
        ["Its contribution", *_contribution_lines(found)],
        ["The widths", *_ladder_lines(found)],
        ["What it was sent", *_capacity_lines(found)],
        ["What would have changed it", *_change_lines(found)],
    ]
    lines: list[str] = []
    for title, *rest in sections:
        lines += [title, *(line for text in rest for line in _wrapped(text)), ""]
    return lines[:-1]


def _wrapped(text: str) -> list[str]:
    """Return text below a title; a line of a table, which starts with a space, stays whole."""
    if text.startswith(" "):
        return [f" {text}"]
    return textwrap.wrap(text, COLUMNS, initial_indent="  ", subsequent_indent="    ")


def _heading(found: Explanation) -> list[str]:
    reward, capacity = found.reward, found.capacity
    when = {
        "rewards": f"rewards after round {found.round}",
        "entitlement": f"entitlement after round {found.round}, training goes on",
        "so far": f"so far, after round {found.round}: not yet decided",
    }[found.basis]
    entitled = f"{reward.width:g}" if reward else "-"
    lines = [
        (
            f"{found.device} of fleet {found.fleet}: entitled {entitled}, deployed"
            f" {capacity.deployed:g}, runs {capacity.running:g}   ({when})"
        )
    ]
    lines.append(reward.reason if reward else f"no reward: {_no_reward(found)}")
    if found.note:
        lines.append(f"Note: {found.note}.")
    return lines


def _no_reward(found: Explanation) -> str:
    invited = any(taken.width for taken in found.rounds)
    if invited:
        return found.note or "no round was scored yet"
    return f"it was never invited to a round ({found.participation})"


def _round_lines(found: Explanation) -> list[str]:
    trained = [taken for taken in found.rounds if not taken.assessment]
    counted = sum(taken.counted for taken in trained)
    missed = sum(bool(taken.missed and taken.width) for taken in trained)
    others = sum(not taken.width for taken in trained)
    left = f", not invited to {others}" if others else ""
    lines = [f"{counted} taken, {missed} missed{left}."]
    if found.participation:
        lines.append(f"How it trains: {found.participation}.")
    if found.rounds:
        lines.append("  round  width  contribution  update")
    return lines + [_round_line(taken) for taken in found.rounds]


def _round_line(taken: RoundTaken) -> str:
    line = _what_became_of(taken)
    return f"{line}  [{taken.decided}]" if taken.decided else line


def _what_became_of(taken: RoundTaken) -> str:
    start = f"  {taken.round:5}  {taken.width:5g}"
    if taken.missed:
        return f"{start}  {taken.missed}"
    if taken.assessment:
        return f"{start}  trained alone, to be measured by itself"
    if taken.late and (taken.entry is None or taken.entry.round != taken.late):
        return f"{start}  came late: it counts with round {taken.late}"
    if taken.entry is None:
        return f"{start}  {'not scored yet' if taken.counted else 'not over yet'}"
    line = f"{start}  {taken.entry.score:12.5g}  {taken.entry.update[:DIGEST]}"
    if taken.late:
        line += f"  late, in round {taken.late}"
    if taken.known >= 0.01:
        line += f"  {taken.known:.0%} of it could be foreseen and earned nothing"
    return line


def _contribution_lines(found: Explanation) -> list[str]:
    reward = found.reward
    if reward is None:
        return ["None on record."]
    unit = (
        f" (95 % interval {reward.low:.5g} to {reward.high:.5g})"
        if reward.low < reward.high
        else ""
    )
    fading = (
        f", where a round counts {found.decay:g} times as much a round later"
        if found.decay < 1
        else ""
    )
    lines = [
        f"In all {reward.contribution:.5g}{unit}, measured by {found.method}{fading}.",
        (
            f"The average of the contributions above 0 is {found.average:.5g}: its share is"
            f" {reward.share:.2f} times the average. {_cut_off(found.cutoff, found.proof)}"
        ),
    ]
    if 0 < found.excused < 1:
        lines.append(
            f"It was not drawn for rounds that made {found.excused:.0%} of the progress, so what it"
            f" gave in its own counts {found.times:.2f} times."
        )
    if reward.equals:
        names = ", ".join(reward.equals)
        lines.append(f"Not significantly different, so they get the same width: {names}.")
    if found.alone:
        lines.append(
            f"Its own model, trained alone at width {found.alone.width:g}, scored"
            f" {found.alone.score:.3f} (95 % interval {found.alone.low:.3f} to"
            f" {found.alone.high:.3f})."
        )
    lines.append(
        f"As a score its contribution is worth {reward.value:.3f} (the untrained model scored"
        f" {found.untrained:.3f})."
    )
    if reward.width:
        lines.append(f"The rule {found.rule} grants a score of {reward.target:.3f}.")
    return lines


def _cut_off(cutoff: float, proof: float) -> str:
    rule = f"Below {cutoff:g} there is no release"
    if proof <= cutoff:
        return f"{rule}."
    return (
        f"{rule}, and below {proof:g} only for a contribution that is significantly above 0"
        " (its 95 % interval does not reach 0) or larger than such a one."
    )


def _ladder_lines(found: Explanation) -> list[str]:
    if not found.ladder:
        return ["No width was measured yet."]
    earned = found.reward.width if found.reward else 0.0
    lines = ["  width  score  95 % interval   for rewards"]
    for point in found.ladder:
        if point.offered:
            mark = f"{point.fitted:.3f}" + (" <- earned" if point.width == earned else "")
        else:
            mark = f"not offered: {point.why or 'a narrower one is significantly better'}"
        interval = f"{point.low:.3f} to {point.high:.3f}"
        lines.append(f"  {point.width:5g}  {point.score:.3f}  {interval}  {mark}")
    return lines


def _capacity_lines(found: Explanation) -> list[str]:
    capacity = found.capacity
    lines = [capacity.reason or "Nothing so far"]
    if capacity.deployed and found.reward and capacity.deployed == found.reward.width:
        lines = [f"Width {capacity.deployed:g}, all that it has earned"]
    lines = [f"{lines[0][:1].upper()}{lines[0][1:]}."]
    if capacity.state:
        detail = f": {capacity.detail}" if capacity.detail else ""
        runs = f"width {capacity.running:g}" if capacity.running else "no model"
        lines.append(f"It says that it runs {runs} ({capacity.state}{detail}).")
    return lines


def _change_lines(found: Explanation) -> list[str]:
    reward = found.reward
    if reward is None:
        return ["To take part in a round: only what was measured can be rewarded."]
    if not found.same:
        return [
            (
                "This version of slimfleet would decide differently on the same journal, so it"
                " cannot say; ask the version that made the decision."
            )
        ]
    lines = []
    if found.wider:
        lines.append(
            f"From {found.wider.share:.2f} times the average on, all else equal, it would have"
            f" earned width {found.wider.width:g} (a contribution of"
            f" {found.wider.contribution:.4g}; it has {reward.contribution:.4g})."
        )
    elif reward.width and reward.width == max(p.width for p in found.ladder if p.offered):
        lines.append("Nothing would have earned it more: it has the widest width on offer.")
    else:
        lines.append("No contribution of its own, however large, would have earned it more.")
    if found.enough:
        lines.append(
            f"Down to {found.enough.share:.2f} times the average it would have kept width"
            f" {reward.width:g} (a contribution of {found.enough.contribution:.4g})."
        )
    for limit, width in found.capacity.without.items():
        lines.append(f"Without {limit} it would be sent width {width:g}.")
    return lines
