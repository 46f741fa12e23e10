"""Does a round take as long as was predicted from a few timed steps?

The coordinator chooses a device's training width by the predicted round time. Both figures are the
journal's: the prediction in the task, the observation from the opening of the round to the commit
of the update, by the server's clock. The prediction is the profile's, corrected by the rounds
before.

By default on the demo's emulated machines. With ``--load`` on real ones: nothing is emulated,
rounds take wall time, beside processes that never wait.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.arguments import positive
from benchmarks.demo_run import records_of, run_demo
from benchmarks.errors import BenchmarkError
from benchmarks.loaded_fleet import LoadedFleet, run_fleet
from benchmarks.results import Cell, Ratio, Result, Table
from journal import events as e
from journal.chain import Record

BARS = (("median", 0.5, 15.0), ("95th percentile", 0.95, 30.0))  # percent of the observed seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="folder that a demo left; without it one is run"
    )
    parser.add_argument(
        "--load",
        type=positive,
        metavar="N",
        help="nothing emulated, beside N processes that keep a core busy each",
    )
    parser.add_argument(
        "--late", action="store_true", help="start that load when half of the rounds are over"
    )
    parser.add_argument(
        "--devices", type=positive, metavar="N", help="how many (default 8; 2 under load)"
    )
    parser.add_argument(
        "--rounds", type=positive, metavar="N", help="how many (default 6; 20 under load)"
    )
    parser.add_argument(
        "--steps", type=positive, default=300, metavar="N", help="of a round under load"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of that demo")


@dataclass(frozen=True)
class Observation:
    """One device in one round."""

    device: str
    round: int
    width: float
    predicted_s: float
    observed_s: float

    @property
    def error(self) -> float:
        """Prediction less observation, as a share of the observation."""
        return (self.predicted_s - self.observed_s) / self.observed_s


def measure(arguments: argparse.Namespace) -> Result:
    """Compare predictions with observations.

    Raises:
        BenchmarkError: no journal, or no update in it.
    """
    records = _records(arguments)
    seen = observations(records)
    if not seen:
        raise BenchmarkError("no update was accepted in this journal; name another run")
    riders = free_riders(seen)
    honest = [one for one in seen if one.device not in riders]
    hindsight = np.abs([one.error for one in in_hindsight(honest)])
    slowest = max(one.observed_s for one in honest)
    deadline = next(r.event.budget_s for r in records if isinstance(r.event, e.RoundOpened))
    known = "if each device's own median had been known"
    return Result(
        name="prediction",
        summary="predicted against observed round time of every device",
        tables=(_table(seen, _machines(records)),),
        ratios=(
            *_goals(honest),
            *(
                Ratio(
                    f"{name} of |error| over all",
                    quantile(honest, share),
                    known,
                    float(np.quantile(hindsight, share)) * 100,
                    "%",
                )
                for name, share, _ in BARS
            ),
            Ratio("slowest honest round", slowest, "deadline", deadline, "s", at_most=1.0),
        ),
        notes=(
            _setting(arguments),
            "hardly a constant prediction can beat the limit: it is how much rounds differ",
            *_rider_notes(seen, riders),
        ),
    )


def _records(arguments: argparse.Namespace) -> Sequence[Record]:
    if arguments.run:
        return records_of(arguments.run)
    if arguments.load:
        return run_fleet(
            LoadedFleet(
                devices=arguments.devices or 2,
                rounds=arguments.rounds or 20,
                steps=arguments.steps,
                hogs=arguments.load,
                late=arguments.late,
                seed=arguments.seed,
            )
        )
    return run_demo(arguments.devices or 8, arguments.rounds or 6, arguments.seed).records


def _setting(arguments: argparse.Namespace) -> str:
    if arguments.load and not arguments.run:
        since = "from the middle of the campaign" if arguments.late else "from the start"
        return (
            f"nothing is emulated; seconds are wall time beside {arguments.load} processes that"
            f" never wait, {since}; rounds of {arguments.steps} steps"
        )
    return "the machines are emulated; their seconds are CPU seconds of this one times a factor"


def _goals(honest: Sequence["Observation"]) -> list[Ratio]:
    """Return the worst device's figures beside the bars: each device has to keep them."""
    devices = sorted({one.device for one in honest})
    found = []
    for name, share, bar in BARS:
        worst = {d: quantile([o for o in honest if o.device == d], share) for d in devices}
        device = max(devices, key=worst.__getitem__)
        found.append(
            Ratio(
                f"{name} of |error|, worst device ({device})",
                worst[device],
                "bar",
                bar,
                "%",
                at_most=1.0,
            )
        )
    return found


def quantile(seen: Sequence["Observation"], share: float) -> float:
    """Return a quantile of the absolute errors, in percent."""
    return float(np.quantile(np.abs([one.error for one in seen]), share)) * 100


def _rider_notes(seen: Sequence[Observation], riders: set[str]) -> tuple[str, ...]:
    """Say what a round costs that trains nothing; the prediction counts computing and link only."""
    if not riders:
        return ()
    fixed = median(one.observed_s for one in seen if one.device in riders)
    honest = [replace(o, predicted_s=o.predicted_s + fixed) for o in seen if o.device not in riders]
    error = float(np.median(np.abs([one.error for one in honest])))
    return (
        (
            f"left out of the ratios: {', '.join(sorted(riders))}, which rides free. Its round"
            f" takes {fixed:.2f} s without training; were that added to every prediction, the"
            f" median |error| would be {error * 100:.0f} %"
        ),
    )


def in_hindsight(seen: Sequence[Observation]) -> list[Observation]:
    """Return the observations with each device's own median as its prediction."""
    own: dict[str, list[float]] = {}
    for one in seen:
        own.setdefault(one.device, []).append(one.observed_s)
    return [replace(one, predicted_s=median(own[one.device])) for one in seen]


def observations(records: Sequence[Record]) -> list[Observation]:
    """Return every accepted update with its prediction, in the order of the journal."""
    tasks: dict[tuple[int, str], e.RoundTask] = {}
    seen = []
    for record in records:
        match record.event:
            case e.RoundOpened() as opened:
                tasks |= {(opened.round, task.device): task for task in opened.tasks}
            case e.UpdateAccepted() as update:
                task = tasks[update.round, update.device]
                seen.append(
                    Observation(
                        update.device, update.round, task.width, task.predicted_s, update.round_s
                    )
                )
    return seen


def free_riders(seen: Sequence[Observation]) -> set[str]:
    """Return the devices that the demo lets ride free; they carry it in their name."""
    return {one.device for one in seen if one.device.endswith("free-rider")}


def _machines(records: Sequence[Record]) -> dict[str, str]:
    return {r.event.device: r.event.emulated for r in records if isinstance(r.event, e.DeviceBorn)}


def _table(seen: Sequence[Observation], machines: dict[str, str]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for device in sorted({one.device for one in seen}):
        own = [one for one in seen if one.device == device]
        errors = [one.error * 100 for one in own]
        rows.append(
            (
                device,
                machines.get(device) or "itself",
                own[-1].width,
                len(own),
                own[-1].predicted_s,
                median(one.observed_s for one in own),
                f"{median(errors):+.0f} %",
                f"{float(np.quantile(np.abs(errors), 0.95)):.0f} %",
            )
        )
    return Table(
        "Round time of each device; an error below 0 is a prediction that was too short",
        (
            "device",
            "emulated",
            "width",
            "rounds",
            "predicted s",
            "observed s (median)",
            "error (median)",
            "|error| (p95)",
        ),
        tuple(rows),
    )
