"""Steps as what the estimators compare: one vector, or the output layer's row per class. Pure."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from coordinator.aggregation.steps import Step
from coordinator.contribution.evidence import Matrix
from slimmable.slicing import coverage
from slimmable.spec import Indices, WidthSpec
from slimmable.task import Task
from slimmable.window import Place


class FlatSteps(Mapping[str, Matrix]):
    """Device -> its step over the full model, (P,) float32, 0 outside its slice.

    The parameters stand in the order of their names. A vector is made when it is asked for and not
    kept: those of many devices would fill the memory, and most methods never ask.
    """

    def __init__(self, spec: WidthSpec, steps: Sequence[Step]) -> None:
        self._names = spec.parameters
        self._size = spec.parameter_count(1.0)
        self._places = {place: _places(spec, place) for place in {step.place for step in steps}}
        self._steps = {step.device: step for step in steps}

    def __getitem__(self, device: str) -> Matrix:
        step = self._steps[device]
        flat = np.zeros(self._size, np.float32)
        flat[self._places[step.place]] = np.concatenate(
            [step.change[name].ravel() for name in self._names]
        )
        return flat

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def idle(steps: Sequence[Step]) -> frozenset[str]:
    """Return the devices whose step is zero throughout."""
    return frozenset(
        step.device for step in steps if not any(change.any() for change in step.change.values())
    )


def class_rows(spec: WidthSpec, task: Task, steps: Sequence[Step]) -> dict[str, Matrix] | None:
    """Return device -> change of the output layer's row per class, (classes, F) float32.

    A row is a class's weights, 0 outside the device's slice, and its bias where there is one.
    None where the network has no output layer that shows in the spec.
    """
    weight = output_layer(spec, task)
    if weight is None:
        return None
    bias = f"{weight.rpartition('.')[0]}.bias"
    names = [weight]
    if bias in spec.parameters and spec.shape(bias, 1.0) == spec.shape(weight, 1.0)[:1]:
        names.append(bias)
    classes = len(task.classes)
    return {
        step.device: np.concatenate(
            [_whole(spec, name, step).reshape(classes, -1) for name in names], axis=1
        )
        for step in steps
    }


def output_layer(spec: WidthSpec, task: Task) -> str | None:
    """Return the last 2-D parameter with one row per class at every width; None without one."""
    trained = set(spec.parameters)
    found = [
        name
        for name, dims in spec.tensors.items()
        if name in trained
        and len(dims) == 2
        and task.classes
        and all(spec.length(dims[0], width) == len(task.classes) for width in (1e-6, 1.0))
    ]
    return found[-1] if found else None


def _places(spec: WidthSpec, place: Place) -> Indices:
    """Return where the values of a slice stand in the flat vector of the full model."""
    start, places = 0, []
    for name in spec.parameters:
        shape = spec.shape(name, 1.0)
        size = int(np.prod(shape))
        whole = np.arange(start, start + size).reshape(shape)
        places.append(whole[coverage(spec, name, *place)].ravel())
        start += size
    return np.concatenate(places)


def _whole(spec: WidthSpec, name: str, step: Step) -> Matrix:
    """Return the change of one tensor in its full shape."""
    full = np.zeros(spec.shape(name, 1.0), np.float32)
    full[coverage(spec, name, *step.place)] = step.change[name]
    return full
