"""What the demonstration is made of: machines, people, settings, files."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.settings import Presence as PresenceSettings
from coordinator.settings import Rewards, Rounds, Settings, Training, WidthPolicy
from profiler.emulation import DEMO_FLEET
from slimfleet import watch
from slimmable.samples import Samples

MODEL_OPTIONS: dict[str, Any] = {
    "sensors": len(watch.SENSORS),
    "length": watch.WINDOW,
    "classes": list(watch.EXERCISES),
    "granules": [1, 2, 2],
}
GRID = (0.125, 0.25, 0.5, 0.75, 1.0)
# Fine where accuracy changes with width, coarse where it hardly does.
LADDER = (1 / 16, 3 / 32, 1 / 8, 5 / 32, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)
DEADLINE_S = 5.5
MAX_DEVICES = len(watch.TRAIN_PEOPLE)


@dataclass(frozen=True)
class DemoDevice:
    """One emulated device.

    Attributes:
        device: id.
        machine: row of the emulation table.
        person: whose recordings it holds.
        free_rider: whether it uploads its task unchanged.
    """

    device: str
    machine: str
    person: int
    free_rider: bool


@dataclass(frozen=True)
class Scenario:
    """One run of the demonstration."""

    folder: Path
    fleet: str
    devices: tuple[DemoDevice, ...]
    settings: Settings
    seed: int


def make_scenario(folder: Path, *, devices: int, rounds: int, seed: int) -> Scenario:
    """Return the scenario: with three or more devices the last one is a free-rider."""
    members = []
    for number in range(devices):
        machine = DEMO_FLEET[number if number < devices - 1 else -1]
        rider = devices >= 3 and number == devices - 1
        kind = "free-rider" if rider else machine
        members.append(
            DemoDevice(f"{number + 1}-{kind}", machine, watch.TRAIN_PEOPLE[number], rider)
        )
    fleet = f"demo-{secrets.token_hex(3)}"
    settings = Settings(
        fleet=fleet,
        model="cnn1d",
        options=MODEL_OPTIONS,
        widths=GRID,
        seed=seed,
        training=Training(steps=20, batch_size=32, learning_rate=0.015),
        rounds=Rounds(
            budget=rounds,
            minimum=min(10, rounds),
            deadline_s=DEADLINE_S,
            quorum=max(1, devices // 2),
            min_devices=devices,
            gather_s=90.0,
            retry_s=2.0,
        ),
        width_policy=WidthPolicy(time_share=0.7),
        rewards=Rewards(ladder=LADDER),
        presence=PresenceSettings(heartbeat_s=2.0, grace_s=3.0),
    ).check()
    return Scenario(folder, fleet, tuple(members), settings, seed)


def write_samples(path: Path, samples: Samples) -> None:
    """Write one party's data in the form that the ``npz`` reader takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=samples.x, y=samples.y, recording=samples.recording)


def write_data(scenario: Scenario) -> None:
    """Give each party its own data, and nobody else's."""
    write_samples(
        scenario.folder / "server" / "validation.npz",
        watch.person_samples(watch.VALIDATION_PERSON),
    )
    unseen = watch.person_samples(watch.UNSEEN_PERSON)
    for member in scenario.devices:
        folder = scenario.folder / "devices" / member.device
        write_samples(folder / "own.npz", watch.person_samples(member.person))
        write_samples(folder / "unseen-person.npz", unseen)
