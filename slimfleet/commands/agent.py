"""``slimfleet agent``."""

import argparse
from pathlib import Path

import msgspec

from slimfleet.config import AgentConfig, read_config
from slimfleet.exit_codes import ExitCode

EXAMPLE = """example:
  slimfleet agent --config agent.toml
  slimfleet agent --config agent.toml --emulate raspberry-pi-3   (stand for a slower machine)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    parser.add_argument(
        "--emulate", default="", metavar="MACHINE", help="stand for another machine; for trials"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal."""
    from slimfleet import agent_process

    config = read_config(arguments.config, AgentConfig)
    if arguments.emulate:
        demo = msgspec.structs.replace(config.demo, emulate=arguments.emulate)
        config = msgspec.structs.replace(config, demo=demo)
    agent_process.main(config, arguments.config.resolve().parent)
    return ExitCode.DONE
