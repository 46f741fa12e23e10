"""``slimfleet rounds``."""

import argparse

from broker.messages import OperatorAction
from slimfleet.operator_command import add_command_arguments, command_server

EXAMPLE = """example:
  slimfleet rounds pause --reason "night shift needs the network" --config server.toml \\
    --operator anna --password-file anna-password
  slimfleet rounds resume --reason "morning" --config server.toml \\
    --operator anna --password-file anna-password

While rounds are paused no further one opens; the open one is finished. Models run on. Operator and
reason are kept in the server's journal.
"""
ACTIONS = {
    "pause": (OperatorAction.PAUSE_ROUNDS, "rounds are paused"),
    "resume": (OperatorAction.RESUME_ROUNDS, "rounds go on"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("action", choices=list(ACTIONS))
    add_command_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask the server and wait for its answer."""
    action, done = ACTIONS[arguments.action]
    return command_server(arguments, "rounds", action, done)
