"""``slimfleet device``."""

import argparse
import math

from broker.messages import OperatorAction
from slimfleet.config import ConfigError
from slimfleet.operator_command import add_command_arguments, command_server
from slimfleet.operator_link import name_argument
from slimfleet.shown_fleet import add_look_arguments, show_device

EXAMPLE = """example:
  slimfleet device pump-7 --config server.toml
  slimfleet device suspend pump-7 --reason "bearing is being changed" --config server.toml \\
    --operator anna --password-file anna-password
  slimfleet device cap pump-7 --width 0.5 --reason "runs hot" --config server.toml \\
    --operator anna --password-file anna-password

  suspend       it trains no more until it is resumed; it keeps the model that it runs
  resume        it takes part again, also after it was retired
  cap           it trains --width at most, from the next round on; --width none lifts that
  roll-back     it goes back to the release that it ran before
  roll-forward  it gets again what it was rolled back from; a newer release comes by itself
  re-profile    it measures itself anew, once it is free
  note          the --text is kept in the journal, and nothing else changes
  retire        it is gone for good: it is invited no more and gets no further release

Operator and reason are kept in the server's journal. With nothing but a device it shows everything
that is known of it, from the journal on the server's host.
"""
# Word on the command line -> the action, and what is said when it is done.
ACTIONS = {
    "suspend": (OperatorAction.SUSPEND, "is suspended"),
    "resume": (OperatorAction.RESUME, "is resumed"),
    "cap": (OperatorAction.CAP_WIDTH, "trains {width} from the next round on"),
    "roll-back": (OperatorAction.ROLL_BACK, "goes back to the release that it ran before"),
    "roll-forward": (OperatorAction.ROLL_FORWARD, "gets again what it was rolled back from"),
    "re-profile": (OperatorAction.RE_PROFILE, "is asked to measure itself anew"),
    "note": (OperatorAction.NOTE, "has a note in the journal"),
    "retire": (OperatorAction.RETIRE, "is retired"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    words = ", ".join(ACTIONS)
    parser.add_argument("action", metavar="ACTION", help=f"{words}; left out: show the device")
    parser.add_argument(
        "device", nargs="?", type=name_argument, metavar="DEVICE", help="id of the device"
    )
    parser.add_argument(
        "--width",
        type=_width,
        metavar="W",
        help="of cap: the widest training width, one of the grid, or none",
    )
    add_command_arguments(parser)
    add_look_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask the server and wait for its answer."""
    if arguments.device is None and arguments.action not in ACTIONS:
        return show_device(arguments, arguments.action)
    if arguments.device is None or arguments.action not in ACTIONS:
        arguments.usage_error(f"give one of {', '.join(ACTIONS)} and a device, or a device alone")
    action, done = ACTIONS[arguments.action]
    width: float | None = arguments.width
    if (action is OperatorAction.CAP_WIDTH) != (width is not None):
        raise ConfigError("--width W|none belongs to slimfleet device cap, and to nothing else")
    shown = f"{width:g} at most" if width else "any width that fits"
    said = f"{arguments.device} {done.format(width=shown)}"
    return command_server(
        arguments, "device", action, said, device=arguments.device, width=width or 0.0
    )


def _width(text: str) -> float:
    if text == "none":
        return 0.0
    try:
        width = float(text)
    except ValueError:
        width = math.nan
    if not 0 <= width <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no width: use one of the grid, or none")
    return width
