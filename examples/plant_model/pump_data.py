"""The pumps' data, from the historian's CSV to what the network takes. Needs no torch.

It stands apart from the model, because a device that only infers reads data too.
"""

from pathlib import Path

import numpy as np

from slimmable.readers import read_samples
from slimmable.samples import Array, Samples

COLUMNS = ("current_a", "pressure_bar", "vibration_mm_s", "temperature_c")
# From the pump's data sheet, the same for every pump. Never estimate these from the data of all
# devices: that would be data that has left a device.
USUAL = np.array([12.0, 6.0, 2.0, 45.0], dtype=np.float32)
SPREAD = np.array([4.0, 2.0, 1.0, 8.0], dtype=np.float32)


def scaled(x: Array) -> Array:
    """Return windows (N, 4, T) in the network's units, about 0 with a spread of about 1."""
    converted: Array = ((x - USUAL[:, None]) / SPREAD[:, None]).astype(np.float32)
    return converted


def read_pump(path: Path, *, window: int = 32, stride: int = 16) -> Samples:
    """Read a CSV of one row a second and cut it into windows.

    Args:
        path: file with the columns `COLUMNS` and ``shift``.
        window: seconds of a sample; the model's ``length``.
        stride: seconds from one window to the next.

    Raises:
        SamplesError: the message names file and line.
    """
    raw = read_samples(
        path,
        "csv",
        {
            "task": "reconstruction",
            "features": COLUMNS,
            # Windows overlap, so training and measuring are kept apart by whole shifts.
            "recording": "shift",
            "window": window,
            "stride": stride,
        },
    )
    x = scaled(raw.x)
    return Samples(x, x, raw.recording)  # what goes in is what shall come out
