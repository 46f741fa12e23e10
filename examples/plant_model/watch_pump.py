"""What the application on the device does: run the delivered model, and say what is not healthy.

    python plant_model/watch_pump.py pump-1-data/slots data/pump-1.csv data/faulty.csv

The first file is of a healthy time: from it comes what is usual. Needs neither torch nor a network.
"""

import sys
from pathlib import Path

import numpy as np
from pump_data import read_pump

from edge_agent import Predictor

FALSE_ALARMS = 0.01  # of the healthy windows


def main(slots: str, healthy: str, watched: str) -> None:
    """Print one line per shift of the watched file."""
    predictor = Predictor(slots)
    # For a reconstruction, `value` is the error of each window.
    usual = predictor.predict(read_pump(Path(healthy)).x).value
    threshold = np.quantile(usual, 1 - FALSE_ALARMS)
    samples = read_pump(Path(watched))
    error = predictor.predict(samples.x).value
    for shift in np.unique(samples.recording):
        alarms = error[samples.recording == shift] > threshold
        marks = "".join("#" if alarm else "." for alarm in alarms)
        print(f"shift {shift}: {alarms.mean():4.0%} of the windows are unusual  {marks}")


if __name__ == "__main__":
    main(*sys.argv[1:])
