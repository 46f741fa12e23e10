"""Draw the pictures of the documentation that come from data: ``python docs/make_pictures.py``.

Needs matplotlib (``pip install "slimfleet[monitor]"``).
"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from slimfleet import watch

IMAGES = Path(__file__).parent / "images"
RATE = 50  # samples a second
PERSON = 1
RIGHT_ARM = 1
START_S, SECONDS = 10, 12
EXERCISES = {"PEN": "pendulum", "ABD": "abduction", "ROW": "upright row"}
# Okabe and Ito's colours, which most colour-blind readers can tell apart.
COLOURS = {"ax": "#0072B2", "ay": "#D55E00", "az": "#009E73"}


def watch_waveforms() -> Figure:
    """Return the acceleration of three exercises of one person, one below the other."""
    figure, rows = plt.subplots(
        len(EXERCISES), sharex=True, sharey=True, figsize=(8, 5), layout="constrained"
    )
    time_s = np.arange(SECONDS * RATE) / RATE
    for row, (name, title) in zip(rows, EXERCISES.items(), strict=True):
        signal = _signal(name)
        for channel, colour in COLOURS.items():
            values = signal[:, watch.SENSORS.index(channel)]
            row.plot(time_s, values, color=colour, linewidth=1, label=channel)
        row.axvspan(2, 2 + watch.WINDOW / RATE, color="#999999", alpha=0.2, linewidth=0)
        row.set_title(f"{name}: {title}", loc="left", fontsize=10)
        row.set_ylabel("acceleration, g")
        row.spines[["top", "right"]].set_visible(False)
    rows[0].legend(loc="upper right", ncols=3, frameon=False, fontsize=9)
    rows[-1].set_xlabel("time, s (grey: one window of 2 s)")
    rows[-1].set_xlim(0, SECONDS)
    return figure


def _signal(exercise: str) -> np.ndarray:
    number = watch.EXERCISES.index(exercise)
    for record in watch.recordings():
        if (record.person, record.exercise, record.side) == (PERSON, number, RIGHT_ARM):
            return record.signal[START_S * RATE : (START_S + SECONDS) * RATE]
    raise LookupError(f"person {PERSON} has no recording of {exercise}")


def main() -> None:
    """Write all pictures."""
    mpl.use("Agg")
    IMAGES.mkdir(exist_ok=True)
    # Without the date, the same data gives the same file.
    watch_waveforms().savefig(IMAGES / "watch-waveforms.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
