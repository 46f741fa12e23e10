"""Which axes scale, and in which steps. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from slimmable.derivation.algebra import Reason, Sum, Term, Var, freeze, leaves, resolve
from slimmable.derivation.factor_choice import (
    choose_factors,
    freeze_baked,
    freeze_repeated,
    products_in,
    said,
)
from slimmable.model import ModelError
from slimmable.width import Axis, WidthGrid

FACTORS = ("outer", "inner")
SMALL_GRANULES = (2, 1)

NO_PARAMETER = Reason("no parameter has this axis")
UNUSED = Reason("the network does not use this tensor")


@dataclass(frozen=True)
class ScalingSettings:
    """How axes scale.

    Attributes:
        widths: that will be offered; the rounding keeps their lengths distinct.
        granules: channels are kept in multiples of the first of these for which all offered widths
            give distinct lengths, then of 2, then of 1. Factors of products (heads, groups) always
            go by 1.
        factor: which factor of a product scales: "outer" (heads, groups, channels) or "inner"
            (the size of a head, channels of a group).
    """

    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    granules: tuple[int, ...] = (16, 8, 4)
    factor: str = "outer"

    def __post_init__(self) -> None:
        """Refuse what no network can follow.

        Raises:
            WidthError: the widths are no grid.
            ModelError: another factor, or a granule below 1.
        """
        WidthGrid(self.widths)
        if self.factor not in FACTORS or any(granule < 1 for granule in self.granules):
            raise ModelError(
                f"factor {self.factor!r}, granules {list(self.granules)}: the factor is one of"
                f" {list(FACTORS)}, granules are at least 1"
            )


@dataclass
class Scaling:
    """The outcome.

    Attributes:
        granules: axis that scales -> its granule.
        remarks: axis that scales -> what its user should know about it.
    """

    granules: dict[Var, int] = field(default_factory=dict)
    remarks: dict[Var, str] = field(default_factory=dict)


def choose_scaling(
    parameters: Sequence[Sequence[Term]],
    others: Iterable[Sequence[Term]],
    settings: ScalingSettings,
    baked: Mapping[Var, Reason],
) -> Scaling:
    """Decide which axes scale; the others are frozen in place, with their reason.

    Args:
        parameters: dimensions of the trained tensors that the network uses, in a fixed order.
        others: dimensions of all other tensors of the network.
        settings: widths, granules, which factor.
        baked: axes whose size stands as a number in the code, and where. As a factor of a product
            they do not scale while another factor can.
    """
    others = [tuple(dims) for dims in others]
    _freeze_unowned(parameters, others)
    alone = {leaf for dims in parameters for dim in dims for leaf in _outside_products(dim)}
    granule_of = _Granules(settings, alone)
    products = list(products_in([*parameters, *others]))
    freeze_repeated(products)
    instead = freeze_baked(products, baked, alone, settings.factor)
    wanted = len(list(products_in(parameters)))
    other = choose_factors(products, wanted, settings.factor, granule_of.stays_distinct)
    scaling = Scaling()
    for leaf in (leaf for dims in parameters for dim in dims for leaf in leaves(dim)):
        if leaf.reason is None and leaf.size > 1:
            scaling.granules[leaf] = granule_of(leaf)
            notes = (
                granule_of.remark(leaf),
                other.get(leaf, instead.get(leaf, "")),
                _baked_remark(baked.get(leaf)),
            )
            scaling.remarks[leaf] = "; ".join(note for note in notes if note)
    return scaling


def granule_for(size: int, widths: Sequence[float], granules: Sequence[int]) -> int:
    """Return the first granule that gives the most distinct lengths over the widths."""
    candidates = [*granules, *SMALL_GRANULES]
    candidates = [granule for granule in candidates if granule <= size]
    return max(candidates, key=lambda granule: distinct_lengths(size, widths, granule))


def distinct_lengths(size: int, widths: Sequence[float], granule: int) -> int:
    """Return how many lengths an axis takes over the widths."""
    axis = Axis(size, scales=True, granule=granule)
    return len({axis.keep(width) for width in widths})


class _Granules:
    """The granule of each axis."""

    def __init__(self, settings: ScalingSettings, alone: set[Var]) -> None:
        self._settings = settings
        self._alone = alone

    def __call__(self, leaf: Var) -> int:
        if leaf not in self._alone:
            return 1
        return granule_for(leaf.size, self._settings.widths, self._settings.granules)

    def stays_distinct(self, leaf: Var) -> bool:
        widths = self._settings.widths
        return distinct_lengths(leaf.size, widths, self(leaf)) == len(widths)

    def remark(self, leaf: Var) -> str:
        if self.stays_distinct(leaf):
            return ""
        widths = self._settings.widths
        return (
            f"only {distinct_lengths(leaf.size, widths, self(leaf))} lengths for"
            f" {len(widths)} widths"
        )


def _baked_remark(reason: Reason | None) -> str:
    return "" if reason is None else f"{said(reason)}, and keeps its value"


def _freeze_unowned(parameters: Sequence[Sequence[Term]], others: Iterable[Sequence[Term]]) -> None:
    """Freeze the axes that no parameter has: nothing would follow them."""
    owned = {leaf for dims in parameters for dim in dims for leaf in leaves(dim)}
    for leaf in (leaf for dims in others for dim in dims for leaf in leaves(dim)):
        if leaf not in owned:
            freeze(leaf, NO_PARAMETER)


def _outside_products(dim: Term) -> Iterator[Var]:
    """Yield the axes of a dimension that are no factors of a product."""
    dim = resolve(dim)
    if isinstance(dim, Var):
        yield dim
    elif isinstance(dim, Sum):
        for part in dim.parts:
            yield from _outside_products(part)
