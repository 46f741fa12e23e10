"""Terms: what the dimensions of a traced network are made of, and how two of them become one.

A dimension is a `Var` (one atomic axis), a `Prod` (row-major product, outermost factor first) or a
`Sum` (segments one after the other). Unification makes two dimensions keep the same indices at
every width: variables are bound to terms (union-find), and a variable that turns out to be composed
is cut. What cannot be made equal is frozen: it keeps its full length, which is always right.

After Robinson's unification (J. ACM, 1965), with products and sums of known sizes in the place of
function symbols. Pure: no torch, no numpy.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reason:
    """Why a dimension does not scale.

    Attributes:
        text: in plain words.
        place: file name and line of the user's code, or the module; "" where there is none.
    """

    text: str
    place: str = ""


@dataclass(eq=False, slots=True)
class Var:
    """One atomic axis.

    Attributes:
        size: its full length.
        reason: why it does not scale; None while it may. Axes of length 1 never scale.
        bound: the term that it turned out to be.
    """

    size: int
    reason: Reason | None = None
    bound: "Term | None" = field(default=None, repr=False)


@dataclass(eq=False, slots=True)
class Prod:
    """A row-major product, outermost factor first."""

    parts: "tuple[Term, ...]"


@dataclass(eq=False, slots=True)
class Sum:
    """Segments laid one after the other."""

    parts: "tuple[Term, ...]"


Term = Var | Prod | Sum


def size_of(term: Term) -> int:
    """Return the full length of a dimension."""
    if isinstance(term, Var):
        return term.size
    sizes = [size_of(part) for part in term.parts]
    return math.prod(sizes) if isinstance(term, Prod) else sum(sizes)


def resolve(term: Term) -> Term:
    """Return what ``term`` is by now: bindings followed, nesting removed, lengths of 1 dropped."""
    if isinstance(term, Var):
        while isinstance(term, Var) and term.bound is not None:
            term = term.bound
        if isinstance(term, Var):
            return term
    if isinstance(term, Prod):
        return product(factors(term))
    return concatenation(segments(term))


def factors(term: Term) -> list[Term]:
    """Return the factors of a dimension that are no products themselves, outermost first."""
    if isinstance(term, Var):
        if term.bound is not None:
            return factors(term.bound)
        return [] if term.size == 1 else [term]
    if isinstance(term, Prod):
        return [factor for part in term.parts for factor in factors(part)]
    whole = concatenation(segments(term))
    return [whole] if isinstance(whole, Sum) else factors(whole)


def segments(term: Term) -> list[Term]:
    """Return the segments of a dimension that are no concatenations themselves."""
    if isinstance(term, Sum):
        return [segment for part in term.parts for segment in segments(part)]
    if isinstance(term, Var) and term.bound is not None:
        return segments(term.bound)
    resolved = resolve(term) if isinstance(term, Prod) else term
    return segments(resolved) if isinstance(resolved, Sum) else [resolved]


def product(parts: Iterable[Term]) -> Term:
    """Return the product of factors; of none, an axis of length 1."""
    parts = tuple(parts)
    if not parts:
        return Var(1)
    return parts[0] if len(parts) == 1 else Prod(parts)


def concatenation(parts: Iterable[Term]) -> Term:
    """Return the concatenation of at least one segment."""
    parts = tuple(parts)
    return parts[0] if len(parts) == 1 else Sum(parts)


def leaves(term: Term) -> Iterator[Var]:
    """Yield the atomic axes of a dimension, in order; one may come more than once."""
    if isinstance(term, Var):
        if term.bound is None:
            yield term
        else:
            yield from leaves(term.bound)
        return
    for part in term.parts:
        yield from leaves(part)


def is_free(term: Term) -> bool:
    """Say whether some part of a dimension may still scale."""
    return any(leaf.reason is None and leaf.size > 1 for leaf in leaves(term))


def why_fixed(term: Term) -> Reason | None:
    """Return why a dimension does not scale; None if it may, or has length 1."""
    if is_free(term):
        return None
    reasons = (leaf.reason for leaf in leaves(term) if leaf.size > 1)
    return next((reason for reason in reasons if reason is not None), None)


def freeze(term: Term, reason: Reason) -> None:
    """Keep a dimension at its full length; parts that already have a reason keep that one."""
    for leaf in leaves(term):
        if leaf.reason is None:
            leaf.reason = reason


def unify(one: Term, other: Term, place: str = "") -> None:
    """Make two dimensions keep the same indices at every width, or freeze both.

    A dimension of length 1 is left alone: it is broadcast.

    Args:
        one: a dimension.
        other: one that an operator ties to it.
        place: of the operator, for the reason if both are frozen.
    """
    one, other = resolve(one), resolve(other)
    sizes = size_of(one), size_of(other)
    if one is other or 1 in sizes:
        return
    if sizes[0] != sizes[1]:
        text = f"tied to a dimension of another size ({sizes[0]} and {sizes[1]})"
        _freeze_both(one, other, Reason(text, place))
    elif isinstance(one, Var) or isinstance(other, Var):
        _bind(one, other, place)
    elif not _align(one, other, place):
        text = "tied to a dimension that is composed otherwise"
        _freeze_both(one, other, Reason(text, place))


def split_product(term: Term, outer: int) -> tuple[Term, Term] | None:
    """Cut a dimension into an outer factor of length ``outer`` and the inner rest.

    Returns:
        Both factors, or None if no factor boundary can lie there.
    """
    term = resolve(term)
    inner = size_of(term) // outer
    if outer == 1 or inner == 1:
        return (Var(1), term) if outer == 1 else (term, Var(1))
    if isinstance(term, Var):
        cut = Var(outer, term.reason), Var(inner, term.reason)
        term.bound = Prod(cut)
        return cut
    if isinstance(term, Sum):
        return _split_segments_inside(term, inner)
    taken, waiting = list[Term](), deque(term.parts)
    while outer > 1:
        head = waiting.popleft()
        length = size_of(head)
        if outer % length == 0:
            taken.append(head)
            outer //= length
            continue
        pair = split_product(head, outer) if length % outer == 0 else None
        if pair is None:
            return None
        taken.append(pair[0])
        waiting.appendleft(pair[1])
        outer = 1
    return product(taken), product(waiting)


def split_sum(term: Term, first: int) -> tuple[Term, Term] | None:
    """Cut a dimension into a segment of length ``first`` and the rest.

    Returns:
        Both segments, or None if no boundary can lie there.
    """
    term = resolve(term)
    if isinstance(term, Var):
        cut = Var(first, term.reason), Var(term.size - first, term.reason)
        term.bound = Sum(cut)
        return cut
    if isinstance(term, Prod):
        # (a + b) * inner is a * inner, then b * inner: the rows are whole.
        inner = product(term.parts[1:])
        length = size_of(inner)
        pair = split_sum(term.parts[0], first // length) if first % length == 0 else None
        return None if pair is None else (Prod((pair[0], inner)), Prod((pair[1], inner)))
    taken, waiting = list[Term](), deque(term.parts)
    while first > 0:
        head = waiting.popleft()
        length = size_of(head)
        if length > first:
            pair = split_sum(head, first)
            if pair is None:
                return None
            head, length = pair[0], first
            waiting.appendleft(pair[1])
        taken.append(head)
        first -= length
    return concatenation(taken), concatenation(waiting)


def _split_segments_inside(term: Sum, inner: int) -> tuple[Term, Term] | None:
    """Cut each segment into an outer factor and one of length ``inner``, which becomes common.

    Segments that only together have a multiple of that length are taken together.
    """
    pairs: list[tuple[Term, Term]] = []
    waiting: list[Term] = []
    for segment in term.parts:
        waiting.append(segment)
        length = sum(map(size_of, waiting))
        if length % inner:
            continue
        if len(waiting) == len(term.parts):
            return None  # no boundary inside
        pair = split_product(concatenation(waiting), length // inner)
        if pair is None:
            return None
        pairs.append(pair)
        waiting = []
    if waiting:
        return None
    for _, other in pairs[1:]:
        unify(pairs[0][1], other)
    return concatenation([outer for outer, _ in pairs]), pairs[0][1]


def _freeze_both(one: Term, other: Term, reason: Reason) -> None:
    freeze(one, reason)
    freeze(other, reason)


def _bind(one: Term, other: Term, place: str) -> None:
    variable, term = (one, other) if isinstance(one, Var) else (other, one)
    assert isinstance(variable, Var)
    if any(leaf is variable for leaf in leaves(term)):
        _freeze_both(one, other, Reason("tied to a part of itself", place))
        return
    if variable.reason is not None:
        freeze(term, variable.reason)
    variable.bound = term


def _align(one: Term, other: Term, place: str) -> bool:
    """Unify two composed dimensions part by part, from the left; say whether that worked."""
    in_sums = isinstance(one, Sum) or isinstance(other, Sum)
    parts_of = segments if in_sums else factors
    left, right = deque(parts_of(one)), deque(parts_of(other))
    while left and right:
        if size_of(left[0]) < size_of(right[0]):
            left, right = right, left
        larger, smaller = left.popleft(), right.popleft()
        length = size_of(smaller)
        if size_of(larger) > length:
            if in_sums:
                pair = split_sum(larger, length)
            else:
                pair = split_product(larger, length) if size_of(larger) % length == 0 else None
            if pair is None:
                return False
            larger = pair[0]
            left.appendleft(pair[1])
        unify(larger, smaller, place)
    return not left and not right
