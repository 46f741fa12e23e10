"""``slimfleet demo``."""

import argparse
import sys
from pathlib import Path

from slimfleet.exit_codes import ExitCode

EXAMPLE = """example:
  slimfleet demo                       eight emulated machines, about a minute and a half
  slimfleet demo --crash               kill the server in the middle of a round
  slimfleet demo --devices 3 --rounds 2 --keep
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--devices", type=int, default=8, metavar="N", help="how many devices, 1 to 8 (default 8)"
    )
    parser.add_argument(
        "--rounds", type=int, default=12, metavar="N", help="rounds at most (default 12)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument(
        "--broker", default="", metavar="URL", help="use a running broker instead of the embedded"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-run"), metavar="DIR", help="where results go"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the working folders of all processes too"
    )
    parser.add_argument(
        "--crash", action="store_true", help="kill the server (SIGKILL) in the middle of a round"
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=0.0,
        metavar="STD",
        help="noise that the free-rider adds to its unchanged upload",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration and print its table."""
    from rich.console import Console

    from slimfleet.demo.scenario import MAX_DEVICES
    from slimfleet.demo.supervisor import DemoError, DemoOptions, run_demo
    from slimfleet.demo.table import print_report

    if not 1 <= arguments.devices <= MAX_DEVICES or arguments.rounds < 1:
        sys.stderr.write(f"slimfleet demo: use 1 to {MAX_DEVICES} devices and 1 round or more\n")
        return ExitCode.USAGE
    options = DemoOptions(
        devices=arguments.devices,
        rounds=arguments.rounds,
        seed=arguments.seed,
        broker=arguments.broker,
        out=arguments.out,
        keep=arguments.keep,
        crash=arguments.crash,
        noise=arguments.noise,
    )
    try:
        report, folder = run_demo(options)
    except DemoError as error:
        sys.stderr.write(f"slimfleet demo: {error}\n")
        return ExitCode.FAILURE
    console = Console(width=None if sys.stdout.isatty() else 160)
    print_report(report, console)
    console.print(
        f"\nDone in {report.seconds:.0f} s. Results: {folder}\nOpen {folder / 'report.html'}",
        highlight=False,
        soft_wrap=True,
    )
    return ExitCode.DONE
