"""The exact best choice of widths: the highest mean gain with the least unequal gains. Pure.

N devices stand in groups that get one score each. A choice gives group k a score r_k of the ladder;
device i of it gains g_i = r_k - c_i. What is minimised is

    f = -M / N + lambda * sqrt(S / N - (M / N)^2),   M = sum g_i,   S = sum g_i^2,

the mean gain (MCG) against the population standard deviation of the gains (CGS), over all choices
in which no group gets less than one before it, and none less than its floor.

Why the result is exact. S / N - (M / N)^2 is concave in (M, S), and the square root of a concave
function is concave, so f is concave: over the points (M, S) of all choices it is smallest at a
vertex of their convex hull. It grows with S, so that is a vertex of the lower hull, and each of
those minimises S - 2 m M for some m, which is sum (g_i - m)^2 but for a constant. For one m that is
a dynamic program over groups and scores. All vertices are found by the recursion of Eisner and
Severance ("Mathematical techniques for efficient record segmentation in large shared databases",
Journal of the ACM, 1976): between two known vertices, solve at the slope of their chord.

As m grows, no group's best score falls (Topkis 1978), so K groups and L scores give at most
K (L - 1) + 1 vertices, and O(K^2 L^2) steps in all. An interval between two vertices is left out
where even the corner of the two tangents, below which the hull cannot reach, is no better than the
best choice so far: in practice a few dozen dynamic programs are solved.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# Of the squared span of what is compared: differences below it are rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class _Vertex:
    """One choice on the lower hull.

    Attributes:
        levels: of each group, the position of its score, (K,).
        gain: M; squares: S; slope: an m at which it is best, infinite at the two ends.
    """

    levels: tuple[int, ...]
    gain: float
    squares: float
    slope: float


def objective(gains: Sequence[float] | Array, aversion: float) -> float:
    """Return f = -MCG + ``aversion`` * CGS of the gains (N,)."""
    return float(-np.mean(gains) + aversion * np.std(gains))


def best_levels(
    scores: Sequence[float],
    values: Sequence[Sequence[float]],
    floors: Sequence[int],
    aversion: float,
) -> tuple[int, ...]:
    """Return for each group the position in ``scores`` that makes f smallest.

    Where several choices are equally good, it is the one with the largest mean gain.

    Args:
        scores: the ladder, strictly ascending, (L,).
        values: of each group in its order, the least contributor first: what its devices are worth
            (c_i). They may come in any order of worth; what must not fall is the score given.
        floors: of each group, the position in ``scores`` below which it must not get, (K,).
        aversion: lambda, how much unequal gains weigh against high ones.
    """
    if not values:
        return ()
    game = _Game(scores, values, floors, aversion)
    left, right = game.ends()
    best = min(left, right, key=game.rating)
    waiting = [(left, right)]
    while waiting:
        left, right = waiting.pop()
        if right.gain <= left.gain or game.bound(left, right) > game.rating(best)[0]:
            continue
        chord = (right.squares - left.squares) / (right.gain - left.gain)
        found = game.solved(chord / 2)
        below = left.squares - found.squares - chord * (left.gain - found.gain)
        if below <= game.tolerance:
            continue
        best = min(best, found, key=game.rating)
        waiting += [(left, found), (found, right)]
    return best.levels


class _Game:
    """The choices of one allocation, as points (M, S)."""

    def __init__(
        self,
        scores: Sequence[float],
        values: Sequence[Sequence[float]],
        floors: Sequence[int],
        aversion: float,
    ) -> None:
        self._aversion = aversion
        self._ladder = np.asarray(scores, dtype=np.float64)
        self._sizes = np.array([len(group) for group in values])
        worth = np.array([value for group in values for value in group], dtype=np.float64)
        # One amount on every worth changes no choice, and small gains keep the digits of squares.
        self._worth = worth + (self._ladder[-1] - worth.max())
        self._least = np.maximum.accumulate(np.asarray(floors))
        starts = np.cumsum(self._sizes) - self._sizes
        sums = np.add.reduceat(self._worth, starts)[:, None]
        squared = np.add.reduceat(self._worth**2, starts)[:, None]
        sizes = self._sizes[:, None]
        self._gain = sizes * self._ladder - sums  # (K, L): a group's part of M at a score
        self._squares = sizes * self._ladder**2 - 2 * self._ladder * sums + squared  # and of S
        self._allowed = np.arange(len(self._ladder)) >= self._least[:, None]
        self.tolerance = ROUNDING * float(np.abs(self._squares).max())

    def ends(self) -> tuple[_Vertex, _Vertex]:
        """Return the choices of least and of largest M: all at their floors, all at the top."""
        top = np.full(len(self._sizes), len(self._ladder) - 1)
        return self._vertex(self._least, -math.inf), self._vertex(top, math.inf)

    def solved(self, slope: float) -> _Vertex:
        """Return a choice that makes S - 2 * ``slope`` * M smallest."""
        cost = np.where(self._allowed, self._squares - 2 * slope * self._gain, np.inf)
        return self._vertex(_cheapest_rising(cost), slope)

    def rating(self, vertex: _Vertex) -> tuple[float, float]:
        """Return f of a choice, computed from its gains, and minus M to decide between equals."""
        gains = np.repeat(self._ladder[list(vertex.levels)], self._sizes) - self._worth
        return round(objective(gains, self._aversion), 12), -vertex.gain

    def bound(self, left: _Vertex, right: _Vertex) -> float:
        """Return what f cannot fall below strictly between two vertices.

        The hull lies above the tangent at either vertex, so within the triangle of the two and the
        corner where the tangents meet; f is concave, so it is smallest at one of these three.
        """
        if math.isinf(left.slope) and math.isinf(right.slope):
            return -math.inf
        if left.slope >= right.slope:
            return math.inf
        if math.isinf(left.slope):
            corner, known = left.gain, right
        elif math.isinf(right.slope):
            corner, known = right.gain, left
        else:
            steep = left.slope * left.gain - right.slope * right.gain
            rise = right.squares - left.squares + 2 * steep
            corner, known = rise / (2 * (left.slope - right.slope)), left
        squares = known.squares + 2 * known.slope * (corner - known.gain)
        count = len(self._worth)
        spread = squares / count - (corner / count) ** 2
        if spread <= 0:  # no choice lies there, and f has no value
            return -right.gain / count
        return -corner / count + self._aversion * math.sqrt(spread)

    def _vertex(self, levels: npt.NDArray[np.int64], slope: float) -> _Vertex:
        taken = np.arange(len(levels)), levels
        gain, squares = math.fsum(self._gain[taken]), math.fsum(self._squares[taken])
        return _Vertex(tuple(levels.tolist()), gain, squares, slope)


def _cheapest_rising(cost: Array) -> npt.NDArray[np.int64]:
    """Return the never falling column for each row that makes the sum of ``cost`` (K, L) least."""
    total = np.empty_like(cost)
    total[0] = cost[0]
    for row in range(1, len(cost)):
        total[row] = cost[row] + np.minimum.accumulate(total[row - 1])
    levels = np.empty(len(cost), dtype=np.int64)
    last = cost.shape[1] - 1
    for row in range(len(cost) - 1, -1, -1):
        last = int(np.argmin(total[row, : last + 1]))
        levels[row] = last
    return levels
