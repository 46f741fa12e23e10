"""Cut the sub-model of a width out of a state dict, and say which part it covers. numpy only."""

from collections.abc import Iterable, Mapping

import numpy as np

from slimmable.spec import Indices, SpecError, WidthSpec
from slimmable.state import Array, ModelState
from slimmable.window import PREFIX, Window


def slice_array(array: Array, indices: tuple[Indices, ...]) -> Array:
    """Return the entries at ``indices``: a view where those of each dimension adjoin, or a copy."""
    return array[index_expression(indices)] if indices else array


def slice_state(
    state: Mapping[str, Array], spec: WidthSpec, width: float, window: Window = PREFIX
) -> ModelState:
    """Return the state dict of the sub-model at ``width``; tensors are contiguous copies.

    Args:
        state: full state dict.
        spec: of the model.
        width: of the sub-model.
        window: which entries it holds.

    Raises:
        SpecError: the state does not hold exactly the spec's tensors in their full shapes.
    """
    check_state(state, spec, 1.0)
    return {
        name: np.array(state[name][coverage(spec, name, width, window)], copy=True, order="C")
        for name in spec.tensors
    }


def slice_within(
    state: Mapping[str, Array], spec: WidthSpec, width: float, outer: float
) -> ModelState:
    """Return the state dict at ``width`` from one that is already cut at ``outer``.

    The state may hold only some of the spec's tensors; the result holds the same ones.

    Raises:
        SpecError: ``outer`` is narrower, or a tensor has another shape than ``outer`` gives it.
    """
    check_state(state, spec, outer, names=state)
    return {
        name: np.array(
            slice_array(state[name], spec.indices_within(name, width, outer)), copy=True, order="C"
        )
        for name in state
    }


def check_state(
    state: Mapping[str, Array],
    spec: WidthSpec,
    width: float,
    names: Iterable[str] | None = None,
) -> None:
    """Check names and shapes of a state dict at ``width``.

    Args:
        state: what is checked.
        spec: what it must look like.
        width: at this width.
        names: the tensors that must be there; without it, all of the spec's.

    Raises:
        SpecError: a tensor is missing, unknown, or has another shape; the message names it.
    """
    for name in spec.tensors if names is None else names:
        if name not in state:
            raise SpecError(f"tensor {name!r} is missing from the state dict")
        expected = spec.shape(name, width)
        if tuple(state[name].shape) != expected:
            raise SpecError(
                f"tensor {name!r} has shape {tuple(state[name].shape)},"
                f" width {width} needs {expected}"
            )
    unknown = sorted(set(state) - set(spec.tensors))
    if unknown:
        raise SpecError(f"tensor {unknown[0]!r} is not in the width spec")


Part = tuple[slice, ...] | tuple[Array, ...]


def coverage(spec: WidthSpec, name: str, width: float, window: Window = PREFIX) -> Part:
    """Return an index expression that selects the part of the full tensor held at ``width``."""
    return index_expression(spec.indices(name, width, window))


def index_expression(indices: tuple[Indices, ...]) -> Part:
    """Return what selects the entries at ``indices``: slices where those of each adjoin."""
    if all(_adjoin(index) for index in indices):
        return tuple(slice(int(index[0]), int(index[-1]) + 1) for index in indices)
    return np.ix_(*indices)


def _adjoin(index: Indices) -> bool:
    return bool(index[-1] - index[0] == len(index) - 1)
