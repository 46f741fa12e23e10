"""A round's change as a sum: one step for each device. numpy only, pure.

Whatever the rule, the change of a round is written as one step a device. So a coalition of devices
is the sum of its steps, with the weights that the whole round gave them, and a device that changes
nothing is worth exactly nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from slimmable.slicing import coverage
from slimmable.spec import WidthSpec
from slimmable.state import Array, ModelState
from slimmable.window import PREFIX, Place, Window


@dataclass(frozen=True)
class Step:
    """The share of one device in the change of a round.

    Attributes:
        width: of the slice that it covers.
        change: parameter name -> array in the slice's shape.
        window: which entries of the full model that slice holds.
    """

    device: str
    width: float
    change: Mapping[str, Array]
    window: Window = PREFIX

    @property
    def place(self) -> Place:
        """Which part of the full model it covers."""
        return self.width, self.window


def add(base: Mapping[str, Array], change: Mapping[str, Array]) -> ModelState:
    """Return ``base`` plus a change of its parameters; all else is copied unchanged."""
    return {
        name: array + change[name] if name in change else np.array(array, copy=True)
        for name, array in base.items()
    }


def combine(base: Mapping[str, Array], spec: WidthSpec, steps: Iterable[Step]) -> ModelState:
    """Return ``base`` plus the given steps; statistics are copied unchanged."""
    state = {name: np.array(array, copy=True) for name, array in base.items()}
    for step in steps:
        for name in spec.parameters:
            state[name][coverage(spec, name, *step.place)] += step.change[name]
    return state
