"""``slimfleet server``."""

import argparse
import sys
from pathlib import Path

from slimfleet.config import ServerConfig, read_config
from slimfleet.exit_codes import ExitCode
from slimfleet.monitor_child import monitor_command

EXAMPLE = """example:
  slimfleet server --config server.toml
  slimfleet server --config server.toml --monitor
  slimfleet server --config server.toml --public-key   (the line for trusted_keys in agent.toml)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="server.toml")
    parser.add_argument(
        "--public-key", action="store_true", help="print the server's public key and end"
    )
    parser.add_argument(
        "--monitor",
        action="store_true",
        help="serve the page too, as the section [monitor] of server.toml says",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal."""
    from slimfleet import server_process

    config = read_config(arguments.config, ServerConfig)
    base = arguments.config.resolve().parent
    if arguments.public_key:
        sys.stdout.write(server_process.public_key_line(config, base) + "\n")
        return ExitCode.DONE
    page = None
    if arguments.monitor:
        page = monitor_command(
            str(arguments.config.resolve()), arguments.log_format, verbose=arguments.verbose
        )
    server_process.main(config, base, page)
    return ExitCode.DONE
