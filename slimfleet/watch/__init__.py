"""The smartwatch motion data that ships with Slimfleet: 10 people, 7 exercises, 6 channels.

A worn motion sensor (acceleration and rotation at 50 Hz), not machine vibration. Source and
licence: NOTICE.md beside this file.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from slimmable.samples import Array, Samples, SamplesError, windows

WINDOW = 100  # 2 s at 50 Hz
STRIDE = 50
TRAIN_PEOPLE = (1, 2, 3, 4, 5, 6, 7, 8)
VALIDATION_PERSON = 9
UNSEEN_PERSON = 10
EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
SENSORS = ("ax", "ay", "az", "wx", "wy", "wz")
# Typical spread of each channel over everybody (g and rad/s): fixed, so that no device needs the
# data of another.
CHANNEL_SCALE = np.array([0.90, 0.49, 0.54, 0.98, 2.50, 1.05], dtype=np.float32)


@dataclass(frozen=True)
class Recording:
    """One person doing one exercise with one arm.

    Attributes:
        person: from 1 to 10.
        exercise: position in `EXERCISES`.
        side: which arm, 0 or 1.
        signal: (T, 6) float32, in g and rad/s.
    """

    person: int
    exercise: int
    side: int
    signal: Array


@cache
def recordings() -> tuple[Recording, ...]:
    """Return all 140 recordings."""
    with files("slimfleet.watch").joinpath("watch.npz").open("rb") as file:
        data = np.load(file, allow_pickle=False)
        signal = (data["signal"] * data["scale"]).astype(np.float32)
        ends = np.cumsum(data["length"])
        return tuple(
            Recording(int(person), int(exercise), int(side), part)
            for person, exercise, side, part in zip(
                data["person"],
                data["exercise"],
                data["side"],
                np.split(signal, ends[:-1]),
                strict=True,
            )
        )


def person_samples(person: int) -> Samples:
    """Return one person's windows of 2 s, half overlapping, scaled per channel.

    Raises:
        SamplesError: there is no such person.
    """
    x, y, recording = [], [], []
    mine = [(n, record) for n, record in enumerate(recordings()) if record.person == person]
    if not mine:
        raise SamplesError(f"no person {person} in the watch data; choose one from 1 to 10")
    for number, record in mine:
        cut = windows(record.signal / CHANNEL_SCALE, WINDOW, STRIDE)
        x.append(cut)
        y.append(np.full(len(cut), record.exercise, dtype=np.int64))
        recording.append(np.full(len(cut), number, dtype=np.int64))
    return Samples(np.concatenate(x), np.concatenate(y), np.concatenate(recording))
