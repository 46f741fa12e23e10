"""Makes the data of a few pumps that do not exist, so that the example runs anywhere.

    python make_data.py --out data

Every pump works healthily: rhythm and load change with the shift, and each is worn a little
differently. ``faulty.csv`` is for later: half-way through each shift its pump begins to cavitate.
With pumps of your own, leave this file out.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pump_data import COLUMNS

from slimmable.samples import Array

HEADER = ("shift", "second", *COLUMNS)
Row = tuple[str, int, str, str, str, str]


def main() -> None:
    """Write one file a party."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data"), metavar="DIR")
    parser.add_argument("--pumps", type=int, default=3, metavar="N", help="that train")
    parser.add_argument("--shifts", type=int, default=6, metavar="N", help="of each pump")
    parser.add_argument("--seconds", type=int, default=900, metavar="N", help="of each shift")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    asked = parser.parse_args()
    for path in write_data(asked.out, asked.pumps, asked.shifts, asked.seconds, asked.seed):
        print(path)


def write_data(out: Path, pumps: int, shifts: int, seconds: int, seed: int) -> list[Path]:
    """Write the files and return their paths: each pump, validation, faulty."""
    out.mkdir(parents=True, exist_ok=True)
    names = [f"pump-{number + 1}" for number in range(pumps)]
    paths = []
    for number, name in enumerate([*names, "validation", "faulty"]):
        path = out / f"{name}.csv"
        rng = np.random.default_rng((seed, number))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            writer.writerows(pump_rows(rng, shifts, seconds, faulty=name == "faulty"))
        paths.append(path)
    return paths


def pump_rows(
    rng: np.random.Generator, shifts: int, seconds: int, *, faulty: bool
) -> Iterator[Row]:
    """Yield one row a second. A pump is worn as it is; rhythm and load differ by the shift."""
    wear = rng.uniform(0.9, 1.1)
    for shift in range(shifts):
        period, load = rng.uniform(18.0, 26.0), rng.uniform(0.8, 1.1)
        signals = shift_signals(rng, seconds, (period, load, wear), faulty=faulty)
        for second, values in enumerate(signals):
            current, pressure, vibration, temperature = (f"{value:.3f}" for value in values)
            yield (f"shift-{shift}", second, current, pressure, vibration, temperature)


def shift_signals(
    rng: np.random.Generator, seconds: int, manner: tuple[float, float, float], *, faulty: bool
) -> Array:
    """Return (seconds, 4) signals: all four follow the work that the pump does."""
    period, load, wear = manner
    time = np.arange(seconds)
    phase = 2 * np.pi * time / period + rng.uniform(0.0, 2 * np.pi)
    work = load * (1.0 + 0.5 * np.sin(phase) + 0.2 * np.sin(2 * phase))
    current = 12.0 * work
    pressure = 6.0 * np.roll(work, 2)  # it follows the motor by two seconds
    vibration = 2.0 * wear * work**2
    temperature = 45.0 + 8.0 * (load - 0.95) + 3.0 * np.sin(phase / 8)
    if faulty:
        bubbles = (time >= seconds // 2) * rng.uniform(0.0, 1.0, seconds)
        pressure = pressure * (1.0 - 0.5 * bubbles)
        vibration = vibration + 2.5 * bubbles
        current = current * (1.0 - 0.2 * bubbles)
    clean = np.stack([current, pressure, vibration, temperature], axis=1)
    return clean + rng.normal(0.0, 1.0, clean.shape) * (0.3, 0.15, 0.1, 0.2)


if __name__ == "__main__":
    main()
