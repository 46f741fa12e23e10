"""The factor algorithm: what the dimensions of a reshaped tensor are made of. Pure."""

import math
from collections import deque
from collections.abc import Sequence

from slimmable.derivation.algebra import (
    Reason,
    Term,
    Var,
    factors,
    freeze,
    product,
    size_of,
    split_product,
)


def reshape(dims: Sequence[Term], sizes: Sequence[int], place: str = "") -> tuple[Term, ...]:
    """Return the dimensions of a tensor after `view` or `reshape`.

    The factors of all dimensions form one row-major queue. For each new length, factors are taken
    until their product is that length; one that is too large is cut. Where no cut is possible, what
    remains is frozen.

    Args:
        dims: before.
        sizes: lengths after; their product is that of the lengths before.
        place: of the operator, for the reason if something is frozen.
    """
    queue = deque(factor for dim in dims for factor in factors(dim))
    reshaped: list[Term] = []
    for size in sizes:
        taken = _take(queue, size)
        if size_of(product(taken)) != size:
            reason = Reason("reshaped across the boundaries of its factors", place)
            for factor in (*taken, *queue):
                freeze(factor, reason)
            return (*reshaped, *(Var(rest, reason) for rest in sizes[len(reshaped) :]))
        reshaped.append(product(taken))
    return tuple(reshaped)


def _take(queue: deque[Term], need: int) -> list[Term]:
    """Take factors from the queue until their product is ``need``, or until that is impossible."""
    taken: list[Term] = []
    while need > 1 and queue:
        head = queue.popleft()
        share = math.gcd(need, size_of(head))
        if share < size_of(head):
            pair = split_product(head, share) if share > 1 else None
            if pair is None:
                queue.appendleft(head)
                break
            head, rest = pair
            queue.appendleft(rest)
        taken.append(head)
        need //= share
    return taken
