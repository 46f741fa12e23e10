"""Tensors that a device keeps to itself, on its disk from round to round. No torch.

One file for each network, named by the hash of its width spec: safetensors, with the width that the
tensors have in its metadata. It is replaced as a whole, so that a device that is killed finds the
tensors of one training or of the one before, never a mixture.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from journal.disk import make_folder, remove_leftovers, write_atomically
from slimmable.private_parts import overlaid
from slimmable.slicing import check_state, slice_within
from slimmable.spec import SpecError, WidthSpec
from slimmable.state import Array, ModelState

logger = logging.getLogger("edge_agent.trainer")

SUFFIX, DAMAGED = ".safetensors", ".damaged"


@dataclass(frozen=True)
class Kept:
    """Tensors, and the width that they are cut at."""

    width: float
    tensors: ModelState


class KeptTensors:
    """What one device keeps of one network."""

    def __init__(self, folder: Path, spec: WidthSpec) -> None:
        """Name the place; nothing is read or written yet.

        Args:
            folder: of all that the device keeps; made where it is missing.
            spec: of the network.
        """
        self._folder, self._spec = folder, spec
        self.path = folder / f"{spec.spec_hash}{SUFFIX}"

    def at(self, width: float, start: Mapping[str, Array]) -> ModelState:
        """Return the tensors of ``start``, with what is kept of them in its place.

        Args:
            width: that they are wanted at.
            start: the tensors at that width, as they are before any training.
        """
        kept = self._read()
        if kept is None:
            return dict(start)
        known = {name: array for name, array in kept.tensors.items() if name in start}
        if width <= kept.width:
            return {**start, **slice_within(known, self._spec, width, kept.width)}
        return overlaid(start, width, known, kept.width, self._spec)

    def keep(self, width: float, tensors: Mapping[str, Array]) -> None:
        """Keep trained tensors; at a narrower width than before they replace their corner.

        Raises:
            OSError: the disk is full or fails; what was kept is still there.
        """
        kept = self._read()
        if kept and width < kept.width and kept.tensors.keys() == tensors.keys():
            tensors = overlaid(kept.tensors, kept.width, tensors, width, self._spec)
            width = kept.width
        data = safetensors.numpy.save(
            {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)},
            metadata={"width": repr(width)},
        )
        make_folder(self._folder)
        remove_leftovers(self._folder)
        write_atomically(self.path, data)

    def _read(self) -> Kept | None:
        """Return what is kept; None where there is nothing, or it is damaged and set aside."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="numpy") as file:
                width = float((file.metadata() or {})["width"])
                tensors = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - no mapping
            check_state(tensors, self._spec, width, names=tensors)
            if not all(np.isfinite(array).all() for array in tensors.values()):
                raise SpecError("a tensor holds NaN or infinity")
        except (SafetensorError, SpecError, KeyError, ValueError) as error:
            aside = self.path.with_suffix(DAMAGED)
            self.path.replace(aside)
            logger.warning(
                "what this device keeps of its network is damaged (%s): set aside as %s, it starts"
                " anew",
                error,
                aside.name,
            )
            return None
        return Kept(width, tensors)
