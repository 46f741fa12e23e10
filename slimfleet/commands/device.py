"""``slimfleet device``."""

import argparse

from broker.messages import OperatorAction
from slimfleet.operator_command import add_command_arguments, command_server
from slimfleet.operator_link import name_argument

EXAMPLE = """example:
  slimfleet device suspend pump-7 --reason "bearing is being changed" --config server.toml \\
    --operator anna --password-file anna-password
  slimfleet device resume pump-7 --reason "back in service" --config server.toml \\
    --operator anna --password-file anna-password

A suspended device trains no more until it is resumed; it keeps the model that it runs. Operator and
reason are kept in the server's journal.
"""
DONE = {OperatorAction.SUSPEND: "suspended", OperatorAction.RESUME: "resumed"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("action", choices=[str(action) for action in DONE])
    parser.add_argument("device", type=name_argument, metavar="DEVICE", help="id of the device")
    add_command_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask the server and wait for its answer."""
    action = OperatorAction(arguments.action)
    done = f"{arguments.device} is {DONE[action]}"
    return command_server(arguments, "device", action, done, device=arguments.device)
