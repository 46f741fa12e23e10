"""The campaign of one cell: its settings, its devices, and how it went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.fairness.data import TASKS, Parts, Task
from benchmarks.heterogeneity.cases import CASES, Case, Machine
from benchmarks.heterogeneity.costs import Costs
from benchmarks.heterogeneity.methods import METHODS, Method
from coordinator.settings import Settings
from journal.disk import make_folder
from profiler.prediction import SET_UP_STEPS
from slimfleet.simulation.campaign import Outcome, simulate
from slimfleet.simulation.devices import SimulatedDevice
from slimfleet.simulation.tiers import MIB, Tier
from slimmable.cost import payload_bytes
from slimmable.model import SlimmableModel

GRID = (0.25, 0.5, 0.75, 1.0)
ROUNDS = 10
EPOCHS = 1
MOMENTUM = 0.9
ROUND_DECAY = 0.75  # of the learning rate from round to round
GRADIENT_NORM = 1.0
TIME_SHARE = 0.8  # of the deadline that a prediction may use, for every method
NOISE = 0.05  # of the logarithm of a training's duration
UNHURRIED = 20.0  # deadline of the case in which time limits nobody, in full-width rounds
NEVER = 10**6  # steps that nobody takes: a device trains all of its steps or none
KEPT = "kept"  # folder of the weights of all rounds, beside the campaign's
Fields = Mapping[str, Any]


def play(
    model: SlimmableModel, parts: Parts, fields: Fields, rate: float, costs: Costs, folder: Path
) -> tuple[Settings, tuple[SimulatedDevice, ...], Outcome]:
    """Play the campaign of a cell.

    Args:
        model: what is trained.
        parts: who holds what.
        fields: of the cell.
        rate: learning rate of the first round.
        costs: see `benchmarks.heterogeneity.costs`.
        folder: journal and blobs go below it; the weights of all rounds go to `KEPT` beside it.
    """
    case, method = CASES[fields["case"]], METHODS[fields["method"]]
    machines = case.machines(len(parts.own))
    round_s = full_round_s(parts, TASKS[fields["data"]], costs)
    devices = tuple(
        SimulatedDevice(
            name=f"device-{number + 1:02d}",
            samples=samples,
            tier=tier_of(machine, model, round_s, costs),
        )
        for number, (samples, machine) in enumerate(zip(parts.own, machines, strict=True))
    )
    settings = settings_of(
        TASKS[fields["data"]], method, case, fields["seed"], rate, round_s, devices
    )
    blobs, kept = folder / "server" / "blobs", make_folder(folder.with_name(KEPT))

    def keep(_done: int, _budget: int) -> None:
        """Keep the weights of each round: the server drops what it needs no more."""
        for blob in blobs.iterdir():
            if not (kept / blob.name).exists():
                (kept / blob.name).hardlink_to(blob)

    return settings, devices, simulate(settings, devices, parts.validation, folder, progress=keep)


def full_round_s(parts: Parts, task: Task, costs: Costs) -> float:
    """Return the seconds that a full-width round of average length takes the fastest machine."""
    average = sum(len(samples) for samples in parts.own) / len(parts.own)
    full_step_s = float(costs["step_s"][-1])
    return (EPOCHS * average / task.batch_size + SET_UP_STEPS) * full_step_s


def tier_of(machine: Machine, model: SlimmableModel, round_s: float, costs: Costs) -> Tier:
    """Return a machine as the simulator knows it."""
    whole = max(costs["training_bytes"])
    link = (
        payload_bytes(model.spec, 1.0) / (machine.link_time * round_s) if machine.link_time else 0
    )
    return Tier(
        name=machine.name,
        step_s=tuple(zip(costs["widths"], costs["step_s"], strict=True)),
        slower=machine.factor,
        memory_mb=machine.memory_share * whole * (1 + 1e-9) / MIB,
        peak_mb=tuple(
            (width, needed / MIB)
            for width, needed in zip(costs["widths"], costs["training_bytes"], strict=True)
        ),
        link_bytes_per_s=link,
        noise=NOISE,
    )


def settings_of(
    task: Task,
    method: Method,
    case: Case,
    seed: int,
    rate: float,
    round_s: float,
    devices: Sequence[SimulatedDevice],
) -> Settings:
    """Return the settings of a cell: those that all methods share, then the method's own."""
    hurry = case.deadline(len(devices)) if case.compute or case.link else UNHURRIED
    caps = {one.name: GRID[0] for one in devices} if method.widths == "narrowest" else {}
    shared: dict[str, Any] = {
        "fleet": "heterogeneity",
        "model": task.model,
        "options": dict(task.options),
        "seed": seed,
        "widths": (1.0,) if method.widths == "full" else GRID,
        "training": {
            "epochs": EPOCHS,
            "batch_size": task.batch_size,
            "learning_rate": rate,
            "momentum": MOMENTUM,
            "weight_decay": 0.0,
            "round_decay": ROUND_DECAY,
            "gradient_norm": GRADIENT_NORM,
        },
        "rounds": {
            "budget": ROUNDS,
            "minimum": ROUNDS,
            "patience": ROUNDS + 1,
            "deadline_s": hurry * round_s / TIME_SHARE,
            "quorum": 1,
            "failures_limit": 3,
            "retry_s": 0.0,
        },
        "width_policy": {
            "time_share": TIME_SHARE,
            "memory_share": 1.0,
            "least_steps": NEVER if method.widths == "full" else 1,
            "caps": caps,
        },
        # What the devices earn is not asked here, and measuring it would take longest.
        "contributions": {"method": "participation"},
        "rewards": {"ladder": (1.0,) if method.widths == "full" else GRID},
    }
    return msgspec.convert(_over(shared, method.settings), Settings).check()


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with some of them replaced."""
    found = dict(base)
    for name, value in own.items():
        inner = found.get(name)
        found[name] = _over(inner, value) if isinstance(inner, Mapping) else value
    return found
