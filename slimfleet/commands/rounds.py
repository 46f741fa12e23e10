"""``slimfleet rounds``."""

import argparse

from broker.messages import OperatorAction
from slimfleet.operator_command import add_command_arguments, command_server
from slimfleet.shown_fleet import add_look_arguments, show_rounds

EXAMPLE = """example:
  slimfleet rounds --config server.toml
  slimfleet rounds pause --reason "night shift needs the network" --config server.toml \\
    --operator anna --password-file anna-password
  slimfleet rounds resume --reason "morning" --config server.toml \\
    --operator anna --password-file anna-password
  slimfleet rounds note --text "new coolant in hall 2 since today" --config server.toml \\
    --operator anna --password-file anna-password

Without an action it shows the rounds, from the journal on the server's host: how many devices were
eligible, invited, accepted, started, uploaded and got into the aggregate, how long they took (half
of them, 95 % of them), what they moved, and the score.

While rounds are paused no further one opens; the open one is finished. Models run on. A note
changes nothing: it is kept in the server's journal, as operator and reason of the others are.
"""
ACTIONS = {
    "pause": (OperatorAction.PAUSE_ROUNDS, "rounds are paused"),
    "resume": (OperatorAction.RESUME_ROUNDS, "rounds go on"),
    "note": (OperatorAction.NOTE, "the note stands in the journal"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "action", nargs="?", choices=list(ACTIONS), help="left out: show the rounds"
    )
    add_command_arguments(parser)
    add_look_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask the server and wait for its answer."""
    if arguments.action is None:
        return show_rounds(arguments)
    action, done = ACTIONS[arguments.action]
    return command_server(arguments, "rounds", action, done)
