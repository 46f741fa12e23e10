"""The torch device that this process computes on. Imports torch.

It is the CPU in every device and on every server. The simulator may choose another one, and
`slimmable.training`, `slimmable.evaluation` and the coordinator's measurements follow: what they
make out of numpy arrays goes there, and what they return are numpy arrays again. Nothing else does:
profiles and adoption are for the CPU alone, and files are traced there.

Batches, widths and first weights are drawn on the CPU wherever it is computed. Results of a GPU
agree with the CPU's within rounding, not bit for bit, and so do two runs on one GPU, which adds in
any order. Dropout layers draw on the device itself: with them the draws are others too.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from slimmable.state import Array

_chosen = torch.device("cpu")


class TorchDeviceError(ValueError):
    """There is no such torch device here. The message says what to ask for instead."""


@contextmanager
def computing_on(name: str) -> Iterator[None]:
    """Let this process compute on a torch device inside the block.

    Args:
        name: see `find_torch_device`.

    Raises:
        TorchDeviceError: there is no such device.
    """
    global _chosen  # noqa: PLW0603 - a choice of the whole process
    before, _chosen = _chosen, find_torch_device(name)
    try:
        # TF32, which cuDNN would take, keeps 10 of 23 bits: that is more than rounding.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        _chosen = before


def torch_device() -> torch.device:
    """Return the device that this process computes on, the CPU outside `computing_on`."""
    return _chosen


def on_torch_device(array: Array) -> torch.Tensor:
    """Return an array as a tensor there; on the CPU the two share their memory."""
    return torch.from_numpy(array).to(_chosen)


def seed_torch(seed: int) -> None:
    """Seed the generators that layers draw from: torch's own and, on a GPU, that of the GPU.

    `torch.manual_seed` asks for a traceback besides where there is no GPU: two thirds of a
    millisecond, which many short trainings feel.
    """
    torch.default_generator.manual_seed(seed)
    if _chosen.type == "cuda":
        torch.cuda.manual_seed(seed)


def find_torch_device(name: str) -> torch.device:
    """Return a torch device by its name.

    Args:
        name: "cpu"; "cuda" or, where there are several GPUs, "cuda:1"; "auto" = "cuda" where torch
            finds a GPU, else "cpu".

    Raises:
        TorchDeviceError: the name is none of these, or torch finds no such GPU.
    """
    if name == "cpu":  # nobody who did not ask is told about a driver that does not work
        return torch.device(name)
    if not re.fullmatch(r"auto|cuda(:([1-9]?\d))?", name):
        raise TorchDeviceError(
            f"torch_device = {name!r}: no such torch device; use 'cpu', 'cuda', 'cuda:1' or 'auto'"
        )
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if found else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= found:
        raise TorchDeviceError(
            f"torch_device = {name!r}: torch {torch.__version__} finds {found} GPUs here, the first"
            " is cuda:0; use 'cpu' or 'auto', or install a torch with CUDA and the driver"
        )
    return device
