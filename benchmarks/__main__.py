"""``python -m benchmarks``: list the benchmarks, run them, print what they found."""

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from types import ModuleType

from benchmarks.errors import BenchmarkError
from benchmarks.machine import describe_machine
from benchmarks.results import as_json, as_text

# Name -> (whether it is quick enough for `make bench`, how long it takes, what it measures).
BENCHMARKS: dict[str, tuple[bool, str, str]] = {
    "export": (False, "4 min", "an ONNX file per width, against torch.onnx.export; width specs"),
    "latency": (False, "10 min", "a call of a sub-model, against the network built at its width"),
    "start_up": (True, "40 s", "a program's first answer, against a plain ONNX Runtime script"),
    "transfer": (True, "10 s", "MB/s of a blob over the embedded broker against raw loopback TCP"),
    "wire_bytes": (True, "10 s", "bytes of a round while more devices share a width"),
    "memory": (False, "2 min", "predicted against measured file size and peak memory"),
    "participation": (False, "4 min", "rounds in which each device's update counted, 100x apart"),
    "prediction": (
        True,
        "1.5 min",
        "predicted against observed round time; --load: beside other work",
    ),
    "demo_accuracy": (False, "4 min", "accuracy on the unseen person, free-rider, three seeds"),
    "width_training": (False, "8 min", "one slimmable against four dense networks, equal CPU time"),
    "demo_time": (False, "5 min", "seconds and memory of `slimfleet demo`"),
    "simulate": (False, "6 min", "a simulated campaign against Flower's; 1,000 devices, no work"),
    "rounds": (False, "3 min", "the coordinator's share where 100 of 1,000 devices train"),
    "aggregation": (False, "1 min", "50 updates of ResNet-18 averaged, against copying and Flower"),
    "contributions": (False, "10 min", "every method of contributions against exact Shapley"),
    "value_functions": (False, "15 min", "what a sample's outputs are worth to a contribution"),
    "free_riders": (False, "30 min", "what free-riding earns, and how riders are told apart"),
    "monitor": (False, "1 min", "2,000 devices watched: folding, the page's data, memory"),
    "monitor_page": (False, "30 s", "the page of 1,000 devices in Chromium: paint, rows, updates"),
    "adoption": (False, "8 min", "accuracy over width of a dense network made slimmable"),
}
EPILOG = """examples:
  python -m benchmarks                          list all, run the quick ones
  python -m benchmarks transfer wire_bytes      run these
  python -m benchmarks demo_accuracy --help     its own options
  python -m benchmarks demo_accuracy --seeds 0 --json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that the command line names and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    names = []
    while given and not given[0].startswith("-"):
        names.append(given.pop(0))
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.stderr.write(f"no benchmark {unknown[0]!r}: there are {', '.join(BENCHMARKS)}\n")
        return 2
    if len(names) == 1:
        return _run_one(names[0], given)
    parsed = _overview_parser().parse_args(given)
    if not parsed.json:
        print(overview())
    if parsed.list:
        return 0
    options = ["--json"] if parsed.json else []
    chosen = names or [name for name, (quick, _, _) in BENCHMARKS.items() if quick]
    return max(_run_one(name, options) for name in chosen)


def overview() -> str:
    """Return one line per benchmark."""
    lines = ["benchmark       takes    what it measures (* = run by `make bench`)"]
    for name, (quick, takes, summary) in BENCHMARKS.items():
        lines.append(f"{name:<15}{'*' if quick else ' '}{takes:<9}{summary}")
    return "\n".join(lines) + "\n"


def _overview_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="%(prog)s [NAME ...] [--list] [--json]\n       %(prog)s NAME [its options]",
        description=f"Measure Slimfleet.\n\n{overview()}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="list the benchmarks and end")
    parser.add_argument("--json", action="store_true", help="one line of JSON per benchmark")
    return parser


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of one benchmark."""
    _, takes, summary = BENCHMARKS[name]
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=f"Measure {summary}. Takes about {takes} with the defaults.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _module(name).add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def _run_one(name: str, given: Sequence[str]) -> int:
    parsed = parser_of(name).parse_args(given)
    machine = describe_machine()  # before the work: the load is that of the others
    try:
        result = _module(name).measure(parsed)
    except BenchmarkError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    command = shlex.join(["python", "-m", "benchmarks", name, *given])
    if parsed.json:
        print(as_json(result, machine, command), flush=True)
    else:
        print(as_text(result, machine, command), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
