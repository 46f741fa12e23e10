"""Which entries of an axis matter most, and how to put them first. numpy only.

A network of width p keeps the first entries of each axis. In a network that was trained at full
width alone any order is as good as another, so its slices keep entries at random. Here the entries
of every scaling axis are put in order of importance. An axis stands in several tensors, alone, as
a factor of a product or as a segment of a concatenation; permuted in all of them alike it does not
change the function of the network, unless the network treats the entries differently for another
reason (a convolution along the axis, a sort, a fixed table). The width spec cannot know of those:
`slimmable.ordering` tests it.

Two criteria, both summed over the whole group of tensors that an axis ties together:

* magnitude, from the weights alone: the squared L2 norm of what belongs to an entry (DepGraph, Fang
  et al., CVPR 2023, section 3.3). Each tensor's norms are first divided by their mean, so that a
  large tensor does not outvote a small one.
* Taylor, from data: the squared change of the loss if the entry were removed, to first order
  (Molchanov et al., CVPR 2019, equation 8). In a tensor that change is the sum of weight times
  gradient over all that belongs to the entry.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from slimmable.spec import AxisTerm, ConcatTerm, Indices, Term, WidthSpec
from slimmable.state import Array, ModelState

# Position of an axis in the spec's table -> one number per entry.
Importance = dict[int, Array]
# Position of an axis -> which old entry stands at each new place.
Order = Mapping[int, Indices]


@dataclass(frozen=True)
class Occurrence:
    """One place where a scaling axis stands.

    Attributes:
        axis: position in the spec's axis table.
        tensor: name.
        dim: dimension of the tensor.
        entries: (length of the dimension,) the axis' entry at each index, -1 where none is.
    """

    axis: int
    tensor: str
    dim: int
    entries: Indices

    def sums(self, values: Array, size: int) -> Array:
        """Return what a tensor holds for each of the axis' entries.

        Args:
            values: of the tensor's shape.
            size: of the axis.

        Returns:
            (size,) float64 sums over all values that belong to an entry.
        """
        others = tuple(dim for dim in range(values.ndim) if dim != self.dim)
        along = values.sum(axis=others, dtype=np.float64)
        return np.bincount(self.entries + 1, weights=along, minlength=size + 1)[1:]


def occurrences(spec: WidthSpec) -> tuple[Occurrence, ...]:
    """Return every place of every scaling axis in the trained tensors."""
    return tuple(
        Occurrence(axis, name, dim, _entries(term, axis, spec))
        for name in spec.parameters
        for dim, term in enumerate(spec.dims(name))
        for axis in sorted(_scaling(term, spec))
    )


def magnitude_importance(state: Mapping[str, Array], spec: WidthSpec) -> Importance:
    """Return the importance by weight norms.

    Args:
        state: full-width state dict; statistics are not looked at.
        spec: of the model.
    """
    importance = _zero_importance(spec)
    for place in occurrences(spec):
        size = spec.axes[place.axis].size
        norms = place.sums(np.square(state[place.tensor], dtype=np.float64), size)
        if norms.any():  # a bias that starts at zero says nothing
            importance[place.axis] += norms / norms.mean()
    return importance


def taylor_importance(products: Iterable[Mapping[str, Array]], spec: WidthSpec) -> Importance:
    """Return the importance by the first-order change of the loss.

    Args:
        products: of each batch, tensor name -> weight times gradient of the loss.
        spec: of the model.

    Raises:
        ValueError: there was no batch.
    """
    importance, places, batches = _zero_importance(spec), occurrences(spec), 0
    for product in products:
        batches += 1
        for place in places:
            change = place.sums(product[place.tensor], spec.axes[place.axis].size)
            importance[place.axis] += change**2
    if not batches:
        raise ValueError("no batch to take gradients from")
    return {axis: values / batches for axis, values in importance.items()}


def order_of(importance: Importance) -> dict[int, Indices]:
    """Return the order that puts the most important entries first; equal ones stay in order."""
    return {
        axis: np.argsort(-values, kind="stable").astype(np.intp)
        for axis, values in importance.items()
    }


def reorder(state: Mapping[str, Array], spec: WidthSpec, order: Order) -> ModelState:
    """Return the state dict with the entries of some axes in another order.

    Args:
        state: full-width state dict: parameters, statistics and constants alike.
        spec: of the model.
        order: of the axes to permute; the others stay as they are.

    Raises:
        ValueError: an order is no permutation of its axis.
    """
    for axis, places in order.items():
        if not np.array_equal(np.sort(places), np.arange(spec.axes[axis].size)):
            raise ValueError(f"axis {axis}: not an order of {spec.axes[axis].size} entries")
    ordered = {}
    for name, array in state.items():
        moved = array
        for dim, term in enumerate(spec.dims(name)):
            if any(axis in order for axis in _axes(term)):
                moved = moved.take(term_order(term, spec, order), axis=dim)
        ordered[name] = np.array(moved, order="C")
    return ordered


def inverse(order: Order) -> dict[int, Indices]:
    """Return the order that puts everything back."""
    return {axis: np.argsort(places).astype(np.intp) for axis, places in order.items()}


def term_order(term: Term, spec: WidthSpec, order: Order) -> Indices:
    """Return, for each place of a dimension, which old index stands there."""
    if isinstance(term, AxisTerm):
        size = spec.axes[term.axis].size
        return np.asarray(order.get(term.axis, np.arange(size)), dtype=np.intp)
    parts = [term_order(part, spec, order) for part in term.parts]
    return _segments(parts) if isinstance(term, ConcatTerm) else _row_major(parts)


def _segments(parts: list[Indices]) -> Indices:
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    return np.concatenate([part + start for part, start in zip(parts, starts, strict=True)])


def _row_major(parts: list[Indices]) -> Indices:
    combined = np.zeros(1, dtype=np.intp)
    for part in parts:
        combined = (combined[:, None] * len(part) + part[None, :]).reshape(-1)
    return combined


def _entries(term: Term, axis: int, spec: WidthSpec) -> Indices:
    """Return, for each index of a dimension, the entry of ``axis`` that it belongs to, or -1."""
    if isinstance(term, AxisTerm):
        size = spec.axes[term.axis].size
        own = term.axis == axis
        return np.arange(size, dtype=np.intp) if own else np.full(size, -1, dtype=np.intp)
    parts = [_entries(part, axis, spec) for part in term.parts]
    if isinstance(term, ConcatTerm):
        return np.concatenate(parts)
    combined = np.full(1, -1, dtype=np.intp)
    for part in parts:  # at most one factor of a product scales, so at most one is not -1
        combined = np.maximum(combined[:, None], part[None, :]).reshape(-1)
    return combined


def _zero_importance(spec: WidthSpec) -> Importance:
    axes = {axis for name in spec.tensors for term in spec.dims(name) for axis in _axes(term)}
    return {a: np.zeros(spec.axes[a].size) for a in sorted(axes) if spec.axes[a].scales}


def _scaling(term: Term, spec: WidthSpec) -> set[int]:
    return {axis for axis in _axes(term) if spec.axes[axis].scales}


def _axes(term: Term) -> set[int]:
    if isinstance(term, AxisTerm):
        return {term.axis}
    return {axis for part in term.parts for axis in _axes(part)}
