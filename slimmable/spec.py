"""The width spec: for every dimension of every parameter, what it is made of and whether it scales.

A dimension is a *term*: one axis, a row-major product of terms (flatten = channels x pixels,
grouped channels = groups x channels per group) or a concatenation of terms. From the spec alone the
kept indices of any tensor at any width follow, with numpy and no torch. The canonical JSON form
(`to_json`) and its SHA-256 (`spec_hash`) travel with every task, update and release: two slicing
conventions can give the same shapes and silently different networks.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from slimmable.width import Axis
from slimmable.window import PREFIX, Window
from slimmable.window import Indices as Indices  # noqa: PLC0414

SPEC_FORMAT = 1


class SpecError(ValueError):
    """A width spec is malformed or does not fit the model. Derive or declare it anew."""


@dataclass(frozen=True)
class AxisTerm:
    """A dimension that is exactly one axis, named by its position in the spec's axis table."""

    axis: int


@dataclass(frozen=True)
class ProductTerm:
    """A row-major product, outermost factor first.

    At most one factor scales: with two, the length would go with the square of the width.
    """

    parts: tuple["Term", ...]


@dataclass(frozen=True)
class ConcatTerm:
    """Segments laid one after the other (skip connections, two directions of an RNN)."""

    parts: tuple["Term", ...]


Term = AxisTerm | ProductTerm | ConcatTerm


@dataclass(frozen=True)
class WidthSpec:
    """How a state dict scales with width.

    Attributes:
        axes: the shared axes; terms refer to them by position.
        tensors: parameter or buffer name -> one term per dimension.
        statistics: names of running statistics. They depend on the width, so they are estimated
            anew for each width and never averaged over devices.
        frozen: one line per dimension that stays at full width though it might have scaled.
        constants: names of tensors that are neither trained nor estimated. They travel with the
            others and never change.
        aliases: second name of a tied tensor -> the one under which ``tensors`` has it.
    """

    axes: tuple[Axis, ...]
    tensors: Mapping[str, tuple[Term, ...]]
    statistics: frozenset[str] = field(default_factory=frozenset)
    frozen: tuple[str, ...] = ()
    constants: frozenset[str] = field(default_factory=frozenset)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse terms that name no axis, and names that name no tensor.

        Raises:
            SpecError: the message names what does not fit.
        """
        for name, dims in self.tensors.items():
            for term in dims:
                _check_term(name, term, self.axes)
        unknown = (self.statistics | self.constants) - set(self.tensors)
        if unknown:
            raise SpecError(
                f"statistics or constants {sorted(unknown)} are not among the spec's tensors"
            )
        both = self.statistics & self.constants
        if both:
            raise SpecError(f"{sorted(both)} are both statistics and constants")
        lost = {
            alias: name
            for alias, name in self.aliases.items()
            if name not in self.tensors or alias in self.tensors
        }
        if lost:
            raise SpecError(f"aliases {lost} must be second names of tensors that the spec has")

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the tensors that are trained and averaged, sorted."""
        return tuple(sorted(set(self.tensors) - self.statistics - self.constants))

    def length(self, term: Term, width: float) -> int:
        """Return how many indices of ``term`` are kept at ``width``."""
        return _length(term, self.axes, width)

    def term_indices(self, term: Term, width: float) -> Indices:
        """Return the ascending indices of ``term`` kept at ``width``, of the prefix."""
        return _indices(term, self.axes, lambda axis: PREFIX.kept(self.axes[axis], axis, width))

    def shape(self, name: str, width: float) -> tuple[int, ...]:
        """Return the shape of tensor ``name`` at ``width``."""
        return tuple(_length(term, self.axes, width) for term in self.dims(name))

    def dims(self, name: str) -> tuple[Term, ...]:
        """Return the terms of tensor ``name``.

        Raises:
            SpecError: the spec has no such tensor.
        """
        try:
            return self.tensors[name]
        except KeyError:
            raise SpecError(
                f"tensor {name!r} is not in the width spec; it has {len(self.tensors)}"
                f" tensors, such as {sorted(self.tensors)[:3]}"
            ) from None

    def indices(self, name: str, width: float, window: Window = PREFIX) -> tuple[Indices, ...]:
        """Return, per dimension, the ascending indices of the full tensor kept at ``width``.

        Args:
            name: of the tensor.
            width: multiplier.
            window: which entries of each axis that width holds; an axis keeps the same ones
                wherever it stands.
        """

        def kept(axis: int) -> Indices:
            return window.kept(self.axes[axis], self._axis_numbers[axis], width)

        return tuple(_indices(term, self.axes, kept) for term in self.dims(name))

    def indices_within(self, name: str, width: float, outer: float) -> tuple[Indices, ...]:
        """Return, per dimension, where the entries kept at ``width`` stand inside ``outer``.

        Raises:
            SpecError: ``width`` is wider than ``outer``.
        """
        if width > outer:
            raise SpecError(f"width {width} does not lie inside width {outer}")
        inner_indices, outer_indices = self.indices(name, width), self.indices(name, outer)
        return tuple(
            np.searchsorted(wide, narrow)
            for narrow, wide in zip(inner_indices, outer_indices, strict=True)
        )

    def parameter_count(self, width: float) -> int:
        """Return the number of trained values at ``width``."""
        return sum(int(np.prod(self.shape(name, width))) for name in self.parameters)

    def to_json(self) -> bytes:
        """Return the canonical JSON form; axes are renumbered by first appearance."""
        number = self._axis_numbers
        document: dict[str, Any] = {
            "format": SPEC_FORMAT,
            "axes": [
                [self.axes[axis].size, self.axes[axis].scales, self.axes[axis].granule]
                for axis in number
            ],
            "tensors": {
                name: [_term_to_json(term, number) for term in self.tensors[name]]
                for name in sorted(self.tensors)
            },
            "statistics": sorted(self.statistics),
            "frozen": sorted(self.frozen),
        }
        # Left out while empty: a spec that needs neither keeps its hash.
        if self.constants:
            document["constants"] = sorted(self.constants)
        if self.aliases:
            document["aliases"] = dict(self.aliases)
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @cached_property
    def spec_hash(self) -> str:
        """SHA-256 of the canonical JSON form, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @cached_property
    def _axis_numbers(self) -> dict[int, int]:
        """Axis -> its number in the canonical form, which all copies of a spec share."""
        return {axis: number for number, axis in enumerate(_axes_by_appearance(self.tensors))}

    @classmethod
    def from_json(cls, document: bytes) -> "WidthSpec":
        """Read the form written by `to_json`.

        Raises:
            SpecError: it is not JSON, not of this format, or inconsistent.
        """
        try:
            return _spec_from_json(json.loads(document))
        except SpecError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise SpecError(f"not a width spec: {type(error).__name__}: {error}") from error


def _spec_from_json(read: dict[str, Any]) -> WidthSpec:
    if read["format"] != SPEC_FORMAT:
        raise SpecError(
            f"width spec of format {read['format']!r}, this version reads {SPEC_FORMAT}:"
            " install the same version on server and device"
        )
    for size, scales, granule in read["axes"]:
        if [type(size), type(scales), type(granule)] != [int, bool, int]:
            raise SpecError(f"axis {[size, scales, granule]} is not [integer, boolean, integer]")
    constants, aliases = read.get("constants", []), read.get("aliases", {})
    lines = (*read["statistics"], *read["frozen"], *constants, *aliases, *aliases.values())
    if not all(isinstance(line, str) for line in lines):
        raise SpecError("statistics, frozen, constants and aliases must hold text")
    return WidthSpec(
        axes=tuple(Axis(*axis) for axis in read["axes"]),
        tensors={
            name: tuple(_term_from_json(term) for term in dims)
            for name, dims in read["tensors"].items()
        },
        statistics=frozenset(read["statistics"]),
        frozen=tuple(read["frozen"]),
        constants=frozenset(constants),
        aliases=dict(aliases),
    )


def _axes_of(term: Term) -> Iterator[int]:
    if isinstance(term, AxisTerm):
        yield term.axis
    else:
        for part in term.parts:
            yield from _axes_of(part)


def _axes_by_appearance(tensors: Mapping[str, tuple[Term, ...]]) -> list[int]:
    order: dict[int, None] = {}
    for name in sorted(tensors):
        for term in tensors[name]:
            order.update(dict.fromkeys(_axes_of(term)))
    return list(order)


def _check_term(name: str, term: Term, axes: tuple[Axis, ...]) -> None:
    if isinstance(term, AxisTerm):
        if not 0 <= term.axis < len(axes):
            raise SpecError(f"{name}: axis {term.axis} is not in the axis table")
        return
    if not term.parts:
        raise SpecError(f"{name}: a product or concatenation without parts")
    for part in term.parts:
        _check_term(name, part, axes)
    if isinstance(term, ProductTerm):
        scaling = [part for part in term.parts if any(axes[a].scales for a in _axes_of(part))]
        if len(scaling) > 1:
            raise SpecError(f"{name}: two factors of one product scale; freeze one of them")


def _length(term: Term, axes: tuple[Axis, ...], width: float) -> int:
    if isinstance(term, AxisTerm):
        return axes[term.axis].keep(width)
    lengths = [_length(part, axes, width) for part in term.parts]
    return int(np.prod(lengths)) if isinstance(term, ProductTerm) else sum(lengths)


def _full_length(term: Term, axes: tuple[Axis, ...]) -> int:
    return _length(term, axes, 1.0)


def _indices(term: Term, axes: tuple[Axis, ...], kept_of: Callable[[int], Indices]) -> Indices:
    if isinstance(term, AxisTerm):
        return kept_of(term.axis)
    if isinstance(term, ConcatTerm):
        offset, segments = 0, []
        for part in term.parts:
            segments.append(_indices(part, axes, kept_of) + offset)
            offset += _full_length(part, axes)
        return np.concatenate(segments)
    kept = np.zeros(1, dtype=np.intp)
    for part in term.parts:
        inner = _indices(part, axes, kept_of)
        kept = (kept[:, None] * _full_length(part, axes) + inner[None, :]).reshape(-1)
    return kept


def _term_to_json(term: Term, number: Mapping[int, int]) -> list[Any]:
    if isinstance(term, AxisTerm):
        return ["v", number[term.axis]]
    tag = "p" if isinstance(term, ProductTerm) else "s"
    return [tag, [_term_to_json(part, number) for part in term.parts]]


def _term_from_json(term: list[Any]) -> Term:
    tag, body = term
    if tag == "v" and type(body) is int:
        return AxisTerm(body)
    parts = tuple(_term_from_json(part) for part in body)
    if tag == "p":
        return ProductTerm(parts)
    if tag == "s":
        return ConcatTerm(parts)
    raise SpecError(f"unknown term [{tag!r}, ...] in a width spec")
