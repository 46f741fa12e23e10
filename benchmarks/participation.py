"""Does every device that can hold the smallest width take part in (almost) every round?

Two fleets: the demo's, of emulated machines and real processes, and a simulated one whose machines
are a hundred times apart in speed and thousands of times in their links. Whoever has no room for
the smallest width does not count. Beside it stands FedAvg on the same machines and with the same
time for a round: everybody trains the whole network and all steps, or is not there.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import msgspec

from benchmarks.arguments import positive
from benchmarks.demo_run import run_demo
from benchmarks.results import Cell, Ratio, Result, Table
from coordinator.settings import Settings
from journal.chain import Record
from journal.events import DeviceProfiled, RoundClosed, RoundOpened, WidthChosen
from slimfleet import watch
from slimfleet.demo.scenario import GRID, MODEL_OPTIONS
from slimfleet.simulation.campaign import Outcome, SimulatedDevice, simulate
from slimfleet.simulation.round_facts import COUNTED, TaskResult, task_results
from slimfleet.simulation.tiers import MIB, Machine, Tier
from slimmable.cost import payload_bytes
from slimmable.model import load_model

GOAL = 0.95
STEPS = 20
LONGEST_S = 60.0
# Seconds of a step of the demo's network on one core of a workstation, from `slimfleet profile`.
# What counts here is how they fall with the width.
STEP_S = ((0.125, 0.0057), (0.25, 0.0068), (0.5, 0.0109), (0.75, 0.0143), (1.0, 0.0167))
# Chosen: the demo's network is so small that its width hardly changes what training holds.
PEAK_MB = ((0.125, 300.0), (0.25, 310.0), (0.5, 350.0), (0.75, 430.0), (1.0, 560.0))
# Name, times as slow as a workstation, bytes per second, MiB for training. The first seven stand to
# each other as in `profiler.emulation`; the others are round figures for slower machines and links.
MACHINES = (
    ("workstation", 1.0, 50e6, 8192.0),
    ("factory-pc", 1.5, 10e6, 3072.0),
    ("old-pc", 2.5, 5e6, 1024.0),
    ("raspberry-pi-5", 2.0, 6e6, 2048.0),
    ("raspberry-pi-4", 3.7, 4e6, 1024.0),
    ("raspberry-pi-3", 8.0, 2e6, 512.0),
    ("small-board", 11.2, 1e6, 360.0),
    ("gateway", 30.0, 2e5, 512.0),
    ("radio-gateway", 50.0, 1e4, 512.0),
    ("controller", 100.0, 1e5, 420.0),
    ("tiny-board", 20.0, 1e6, 256.0),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--rounds", type=positive, default=40, metavar="N", help="of each campaign")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of each campaign")
    parser.add_argument(
        "--noise",
        type=float,
        default=0.1,
        metavar="S",
        help="standard deviation of the logarithm of a training's duration",
    )
    parser.add_argument(
        "--busy", type=float, default=0.05, metavar="P", help="chance that it takes twice as long"
    )
    parser.add_argument(
        "--demo-rounds", type=int, default=10, metavar="N", help="of the demo; 0 = no demo"
    )


@dataclass(frozen=True)
class Share:
    """How often one device took part.

    Attributes:
        counted: rounds in which its update counted; rounds: that there were.
        widths, steps: of its tasks.
        why: what became of the others.
    """

    device: str
    counted: int
    rounds: int
    widths: tuple[float, ...] = ()
    steps: tuple[int, ...] = ()
    why: str = ""

    @property
    def share(self) -> float:
        """Part of the rounds."""
        return self.counted / self.rounds if self.rounds else 0.0


def shares(
    records: Sequence[Record], tasks: Sequence[TaskResult], devices: Sequence[str]
) -> list[Share]:
    """Return how often each device took part in the rounds of a campaign."""
    opened = [r.event for r in records if isinstance(r.event, RoundOpened)]
    rounds = [event for event in opened if not event.assessment]
    found = []
    for name in devices:
        mine = [task for task in tasks if task.device == name]
        missed = [task.outcome for task in mine if task.outcome != COUNTED]
        missed += [e.not_invited[name] for e in rounds if name in e.not_invited]
        common = max(set(missed), key=missed.count) if missed else ""
        found.append(
            Share(
                name,
                len(mine) - sum(task.outcome != COUNTED for task in mine),
                len(rounds),
                tuple(task.width for task in mine),
                tuple(task.steps for task in mine),
                common,
            )
        )
    return found


def measure(arguments: argparse.Namespace) -> Result:
    """Count rounds."""
    tiers = [
        Tier(
            name=name,
            step_s=STEP_S,
            slower=slower,
            link_bytes_per_s=link,
            memory_mb=memory,
            peak_mb=PEAK_MB,
            noise=arguments.noise,
            busy=arguments.busy,
        )
        for name, slower, link, memory in MACHINES
    ]
    chosen = _played(tiers, arguments, _ours())
    seconds = median(_budgets(chosen.records))
    fixed = _played(tiers, arguments, _ours(deadline="fixed", deadline_s=seconds))
    fedavg = _played(tiers, arguments, _fedavg(seconds))
    names = [tier.name for tier in tiers]
    ours, theirs = _shares_of(chosen, names), _shares_of(fedavg, names)
    holding = _holding(tiers)
    tables, ratios = [_table(tiers, ours, _shares_of(fixed, names), theirs, holding, seconds)], []
    ratios.append(_worst("simulated fleet, chosen deadlines", ours, holding))
    ratios.append(
        _worst(f"the same, all deadlines {seconds:.3g} s", _shares_of(fixed, names), holding)
    )
    notes = [
        _lengths("chosen deadlines", chosen.records),
        _lengths("FedAvg", fedavg.records),
        (
            f"on average over the devices that count: FedAvg {_average(theirs, holding):.0%} of the"
            f" rounds, here {_average(ours, holding):.0%}"
        ),
    ]
    if arguments.demo_rounds:
        demo, counted = _demo(arguments)
        tables.append(demo)
        ratios.append(_worst("demo fleet", counted, [one.device for one in counted]))
    return Result(
        "participation",
        f"rounds in which each device's update counted; the machines are {MACHINES[-2][1]:g} times"
        " apart",
        tuple(tables),
        tuple(ratios),
        tuple(notes),
    )


def _ours(**rounds: Any) -> dict[str, Any]:
    return {
        "widths": GRID,
        "rounds": {"deadline": "chosen", "deadline_s": LONGEST_S} | rounds,
        "uploads": {"encoding": "adaptive"},
    }


def _fedavg(deadline_s: float) -> dict[str, Any]:
    """Return what makes it FedAvg: the whole network and all steps, in as much time."""
    return {
        "widths": (1.0,),
        "rounds": {"deadline_s": deadline_s},
        "width_policy": {"least_steps": STEPS},
    }


def _played(
    tiers: Sequence[Tier], arguments: argparse.Namespace, changes: dict[str, Any]
) -> Outcome:
    rounds = {"budget": arguments.rounds, "minimum": arguments.rounds}
    plain = {
        "fleet": "participation",
        "model": "cnn1d",
        "options": MODEL_OPTIONS,
        "seed": arguments.seed,
        # A batch as small as this takes as long in virtual time, and less of this machine.
        "training": {"steps": STEPS, "batch_size": 4, "learning_rate": 0.015},
        "contributions": {"method": "data-size", "novelty": 0},
        "rewards": {"ladder": (1.0,)},
    }
    known = plain | changes | {"rounds": rounds | changes["rounds"]}
    settings = msgspec.convert(known, Settings).check()
    people = watch.TRAIN_PEOPLE
    devices = [
        SimulatedDevice(tier.name, watch.person_samples(people[place % len(people)]), tier=tier)
        for place, tier in enumerate(tiers)
    ]
    validation = watch.person_samples(watch.VALIDATION_PERSON)
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as folder:
        return simulate(settings, devices, validation, Path(folder) / "fleet")


def _shares_of(outcome: Outcome, names: Sequence[str]) -> list[Share]:
    spec = load_model("cnn1d", MODEL_OPTIONS).spec
    tasks = task_results(outcome.records, partial(payload_bytes, spec))
    return shares(outcome.records, tasks, names)


def _holding(tiers: Sequence[Tier]) -> list[str]:
    """Return the names of the machines that have room for the smallest width."""
    spec = load_model("cnn1d", MODEL_OPTIONS).spec
    share = Settings(fleet="f", model="m").width_policy.memory_share
    return [
        tier.name
        for tier in tiers
        if Machine(tier, spec).peak_bytes(GRID[0]) <= share * tier.memory_mb * MIB
    ]


def _budgets(records: Sequence[Record]) -> list[float]:
    return [r.event.budget_s for r in records if isinstance(r.event, RoundOpened)]


def _average(found: Sequence[Share], holding: Sequence[str]) -> float:
    return mean(one.share for one in found if one.device in holding)


def _lengths(name: str, records: Sequence[Record]) -> str:
    opened: dict[int, float] = {}
    took = []
    for record in records:
        if isinstance(record.event, RoundOpened):
            opened[record.event.round] = record.at
        elif isinstance(record.event, RoundClosed):
            took.append(record.at - opened[record.event.round])
    budgets = _budgets(records)
    return (
        f"{name}: {len(took)} rounds of {median(took):.3g} s (median, virtual), deadlines of"
        f" {min(budgets):.3g} to {max(budgets):.3g} s"
    )


def _worst(name: str, found: Sequence[Share], holding: Sequence[str]) -> Ratio:
    lowest = min((one for one in found if one.device in holding), key=lambda one: one.share)
    return Ratio(
        f"{name}: fewest rounds of a device ({lowest.device})",
        100 * lowest.share,
        "goal",
        100 * GOAL,
        "%",
        at_least=1.0,
    )


def _table(
    tiers: Sequence[Tier],
    ours: Sequence[Share],
    fixed: Sequence[Share],
    theirs: Sequence[Share],
    holding: Sequence[str],
    deadline_s: float,
) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for tier, chosen, same, fedavg in zip(tiers, ours, fixed, theirs, strict=True):
        counts = tier.name in holding
        rows.append(
            (
                tier.name,
                tier.slower,
                tier.link_bytes_per_s / 1e3,
                median(chosen.widths) if chosen.widths else None,
                float(median(chosen.steps)) if chosen.steps else None,
                100 * chosen.share if counts else None,
                100 * same.share if counts else None,
                100 * fedavg.share if counts else None,
                _brief(chosen.why if counts else "no room for the smallest width"),
            )
        )
    return Table(
        f"simulated fleet, {ours[0].rounds} rounds",
        (
            "machine",
            "slower",
            "link kB/s",
            "width",
            "steps",
            "takes part %",
            f"at {deadline_s:.3g} s %",
            "FedAvg %",
            "missed most by",
        ),
        tuple(rows),
    )


def _brief(why: str) -> str:
    return why if len(why) <= 60 else why[:59] + "…"


def _demo(arguments: argparse.Namespace) -> tuple[Table, list[Share]]:
    """Run the demo and count; its devices that could train at all."""
    records = run_demo(8, arguments.demo_rounds, arguments.seed).records
    spec = load_model("cnn1d", MODEL_OPTIONS).spec
    tasks = task_results(records, partial(payload_bytes, spec))
    profiled = {r.event.device for r in records if isinstance(r.event, DeviceProfiled)}
    chosen = {r.event.device for r in records if isinstance(r.event, WidthChosen) and r.event.width}
    found = shares(records, tasks, sorted(profiled & chosen))
    rows = tuple(
        (one.device, median(one.widths), 100 * one.share, _brief(one.why)) for one in found
    )
    title = f"demo fleet (emulated machines), {arguments.demo_rounds} rounds"
    return Table(title, ("device", "width", "takes part %", "missed most by"), rows), found
