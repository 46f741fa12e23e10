"""From the terms of a derivation to the spec's, and to words. Pure."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from slimmable.derivation.algebra import (
    Prod,
    Reason,
    Sum,
    Term,
    Var,
    leaves,
    resolve,
    size_of,
    why_fixed,
)
from slimmable.derivation.rules.call import Dims
from slimmable.derivation.rules.convolution import KERNEL, POSITIONS
from slimmable.derivation.rules.linear_algebra import SEQUENCE, VOCABULARY
from slimmable.derivation.rules.recurrent import GATE, LAYERS
from slimmable.derivation.scaling import Scaling, ScalingSettings
from slimmable.spec import AxisTerm, ConcatTerm, ProductTerm
from slimmable.spec import Term as SpecTerm
from slimmable.width import Axis

LENGTH_ONE = Reason("length 1")
# What never scales, so that nobody asks why.
INHERENT = frozenset(
    {
        KERNEL,
        POSITIONS,
        SEQUENCE,
        VOCABULARY,
        GATE,
        LAYERS,
        LENGTH_ONE.text,
        "batch",
        "input of the network",
        "output of the network",
    }
)


@dataclass(frozen=True)
class AxisReport:
    """What is to say about one dimension of a trained tensor.

    Attributes:
        tensor: its name.
        dim: which dimension.
        size: full length.
        form: what it is made of: ``<64>`` scales, ``3*<4>*16`` is a product, ``<8> + 3`` a sum.
        scales: whether its length follows the width.
        reason: why it does not, or what to know about how it does; may be "" if it does.
        place: line of the user's code that keeps it from scaling, as "net.py:12"; may be "".
        granules: rounding of the axes in it that scale.
        lengths: kept at each offered width.
    """

    tensor: str
    dim: int
    size: int
    form: str
    scales: bool
    reason: str
    place: str
    granules: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def frozen_line(self) -> str:
        """A line for the spec, without the number of the code's line; "" if none is due."""
        if self.scales or self.reason in INHERENT:
            return ""
        file = self.place.partition(":")[0]
        return f"{self.tensor} dimension {self.dim}: {self.reason}" + (f" ({file})" if file else "")


class SpecTerms:
    """Converts terms; equal axes become one entry of the axis table."""

    def __init__(self, scaling: Scaling) -> None:
        """Start with an empty axis table."""
        self._scaling = scaling
        self._numbers: dict[Var | int, int] = {}
        self.axes: list[Axis] = []

    def dims(self, dims: Dims) -> tuple[SpecTerm, ...]:
        """Convert the dimensions of a tensor."""
        return tuple(self.term(dim) for dim in dims)

    def term(self, term: Term) -> SpecTerm:
        """Convert one dimension; neighbours that do not scale become one part."""
        term = resolve(term)
        if not self.scales(term):
            return self._axis(size_of(term), Axis(size_of(term), scales=False))
        if isinstance(term, Var):
            granule = self._scaling.granules[term]
            return self._axis(term, Axis(term.size, scales=True, granule=granule))
        parts = [self.term(part) for part in _merged(term, self.scales)]
        if len(parts) == 1:
            return parts[0]
        return ProductTerm(tuple(parts)) if isinstance(term, Prod) else ConcatTerm(tuple(parts))

    def scales(self, term: Term) -> bool:
        """Say whether some part of a dimension scales."""
        return any(leaf in self._scaling.granules for leaf in leaves(term))

    def _axis(self, key: Var | int, axis: Axis) -> AxisTerm:
        if key not in self._numbers:
            self._numbers[key] = len(self.axes)
            self.axes.append(axis)
        return AxisTerm(self._numbers[key])


def report_axes(
    tensors: Mapping[str, Dims], scaling: Scaling, settings: ScalingSettings
) -> tuple[AxisReport, ...]:
    """Return one entry per dimension of each tensor."""
    return tuple(
        _report(name, number, dim, scaling, settings)
        for name, dims in tensors.items()
        for number, dim in enumerate(dims)
    )


def _report(
    name: str, number: int, dim: Term, scaling: Scaling, settings: ScalingSettings
) -> AxisReport:
    size = size_of(dim)
    found = dict.fromkeys(leaf for leaf in leaves(dim) if leaf in scaling.granules)
    reason = (LENGTH_ONE if size == 1 else why_fixed(dim)) or Reason("")
    remarks = dict.fromkeys(remark for leaf in found if (remark := scaling.remarks[leaf]))
    return AxisReport(
        tensor=name,
        dim=number,
        size=size,
        form=_form(dim, scaling),
        scales=bool(found),
        reason="; ".join(remarks) if found else reason.text,
        place="" if found else reason.place,
        granules=tuple(scaling.granules[leaf] for leaf in found),
        lengths=tuple(_length(dim, scaling, width) for width in settings.widths),
    )


def _length(term: Term, scaling: Scaling, width: float) -> int:
    term = resolve(term)
    if isinstance(term, Var):
        granule = scaling.granules.get(term)
        return Axis(term.size, granule is not None, granule or 1).keep(width)
    lengths = [_length(part, scaling, width) for part in term.parts]
    return math.prod(lengths) if isinstance(term, Prod) else sum(lengths)


def _form(term: Term, scaling: Scaling) -> str:
    term = resolve(term)
    if isinstance(term, Var):
        return f"<{term.size}>" if term in scaling.granules else str(term.size)
    parts = [_form(part, scaling) for part in term.parts]
    if isinstance(term, Sum):
        return " + ".join(parts)
    return "*".join(f"({part})" if " + " in part else part for part in parts)


def _merged(term: Prod | Sum, scales: Callable[[Term], bool]) -> Iterable[Term]:
    """Yield the parts; adjacent ones that do not scale as one."""
    still: list[Term] = []
    for part in term.parts:
        if scales(part):
            if still:
                yield type(term)(tuple(still))
                still = []
            yield part
        else:
            still.append(part)
    if still:
        yield type(term)(tuple(still))
