"""Which factor of each product scales. Pure.

With two scaling factors the length of a product would go with the square of the width, so exactly
one of them does. Several products may share a factor: the choice is a small search, the same one on
every machine.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from slimmable.derivation.algebra import Prod, Reason, Term, Var, freeze, leaves, resolve

SEARCH_LIMIT = 4000  # choices tried in one group of products; the first one found is already good

OTHER_FACTOR = Reason("another factor of the same product scales")
TWICE = Reason("it is twice a factor of one product, whose length would go with its square")


def products_in(tensors: Iterable[Sequence[Term]]) -> Iterator[Prod]:
    """Yield the products in the dimensions of tensors, each once."""
    seen = set()
    for dims in tensors:
        for dim in dims:
            for found in _products_of(resolve(dim)):
                key = tuple(id(leaf) for leaf in leaves(found))
                if key not in seen:
                    seen.add(key)
                    yield found


def _products_of(dim: Term) -> Iterator[Prod]:
    if isinstance(dim, Var):
        return
    for part in dim.parts:
        yield from _products_of(part)
    if isinstance(dim, Prod):  # after the products inside it: their choice binds this one's
        yield dim


def _free(term: Term) -> list[Var]:
    found = dict.fromkeys(leaf for leaf in leaves(term) if leaf.reason is None and leaf.size > 1)
    return list(found)


def freeze_repeated(products: Sequence[Prod]) -> None:
    """Freeze axes that are two factors of one product."""
    for found in products:
        counts: dict[Var, int] = {}
        for part in found.parts:
            for leaf in _free(part):
                counts[leaf] = counts.get(leaf, 0) + 1
        for leaf, count in counts.items():
            if count > 1:
                freeze(leaf, TWICE)


def freeze_baked(
    products: Sequence[Prod], baked: Mapping[Var, Reason], alone: set[Var], factor: str
) -> dict[Var, str]:
    """Freeze factors whose size stands as a number in the code, where another factor can scale.

    Args:
        products: of `products_in`.
        baked: axes whose size stands in the code.
        alone: axes that are a dimension by themselves too; these are left alone.
        factor: "outer" or "inner".

    Returns:
        What to say about axes that scale in the place of such a factor.
    """
    remarks: dict[Var, str] = {}
    for found in products:
        options = _options(found, factor)
        for position, option in enumerate(options):
            doubtful = [leaf for leaf in option if leaf in baked and leaf not in alone]
            others = [leaf for other in options if other is not option for leaf in other]
            if not doubtful or not any(leaf.reason is None for leaf in others):
                continue
            for leaf in doubtful:
                freeze(leaf, baked[leaf])
            if position == 0:
                text = f"scales in the place of its product's {factor} factor: "
                remarks.update(dict.fromkeys(others, text + said(baked[doubtful[0]])))
    return remarks


def said(reason: Reason) -> str:
    """Return a reason with its place."""
    return f"{reason.text} ({reason.place})" if reason.place else reason.text


def _options(found: Prod, factor: str) -> list[list[Var]]:
    """Return the axes of the factors that can scale, the usual factor first."""
    options = [free for part in found.parts if (free := _free(part))]
    return options[::-1] if factor == "inner" else options


@dataclass(frozen=True)
class _Choice:
    """One factor of one product.

    Attributes:
        scaling: axes that scale if it is chosen.
        frozen: axes of the other factors.
        cost: how unwelcome it is: lengths that do not stay distinct, then its position.
    """

    scaling: tuple[Var, ...]
    frozen: tuple[Var, ...]
    cost: tuple[int, int]


def choose_factors(
    products: Sequence[Prod], wanted: int, factor: str, is_distinct: Callable[[Var], bool]
) -> dict[Var, str]:
    """Freeze all factors but one in each product.

    Args:
        products: of `products_in`.
        wanted: so many of them come first and are dimensions of parameters. In the others (batch x
            heads) no factor needs to scale.
        factor: "outer" or "inner".
        is_distinct: whether an axis has another length at each offered width.

    Returns:
        What to say about axes that scale though they are not the usual factor.
    """
    remarks: dict[Var, str] = {}
    needed = {id(found) for found in products[:wanted]}
    for group in _groups(products):
        choices = [_choices(found, factor, is_distinct) for found in group]
        best = _search(choices, [id(found) in needed for found in group])
        for found, options in zip(group, choices, strict=True):
            usual = options[0] if options else None
            for leaf in _free(found):
                if leaf not in best:
                    freeze(leaf, OTHER_FACTOR)
                elif usual and leaf not in usual.scaling:
                    sizes = "*".join(str(other.size) for other in usual.scaling)
                    remarks[leaf] = f"scales in the place of its product's {factor} factor {sizes}"
    return remarks


def _choices(found: Prod, factor: str, is_distinct: Callable[[Var], bool]) -> list[_Choice]:
    """Return the factors that can scale, the usual one first."""
    options = _options(found, factor)
    return [
        _Choice(
            scaling=tuple(option),
            frozen=tuple(leaf for other in options if other is not option for leaf in other),
            cost=(int(not any(map(is_distinct, option))), position),
        )
        for position, option in enumerate(options)
    ]


def _groups(products: Sequence[Prod]) -> list[list[Prod]]:
    """Return products that share axes, together; in the order of their first product."""
    groups: list[tuple[set[Var], list[Prod]]] = []
    for found in products:
        axes = set(_free(found))
        if not axes:
            continue
        touching = [group for group in groups if group[0] & axes]
        merged = (
            axes.union(*(group[0] for group in touching)),
            [*(one for group in touching for one in group[1]), found],
        )
        position = groups.index(touching[0]) if touching else len(groups)
        groups = [group for group in groups if group not in touching]
        groups.insert(position, merged)
    return [group[1] for group in groups]


def _search(choices: Sequence[Sequence[_Choice]], wanted: Sequence[bool]) -> set[Var]:
    """Return the axes that scale: at most one factor of each product, by depth-first search.

    The best outcome leaves the fewest wanted products without a scaling factor, then has the fewest
    factors whose lengths do not stay distinct, then the most usual ones.
    """
    best: tuple[tuple[int, int, int], set[Var]] | None = None
    budget = SEARCH_LIMIT

    def visit(
        level: int, scaling: frozenset[Var], frozen: frozenset[Var], cost: tuple[int, int, int]
    ) -> None:
        nonlocal best, budget
        if budget <= 0 or (best is not None and cost >= best[0]):
            return
        if level == len(choices):
            best = cost, set(scaling)
            return
        budget -= 1
        tried = False
        preferred = sorted(choices[level], key=lambda choice: choice.cost)
        for choice in preferred:
            kept = [leaf for leaf in choice.scaling if leaf not in frozen]
            if not kept or any(leaf in scaling for leaf in choice.frozen):
                continue
            tried = True
            visit(
                level + 1,
                scaling.union(kept),
                frozen.union(choice.frozen),
                (cost[0], cost[1] + choice.cost[0], cost[2] + choice.cost[1]),
            )
        if not tried:
            lost = [leaf for choice in choices[level] for leaf in choice.scaling]
            if not any(leaf in scaling for leaf in lost):
                unscaled = cost[0] + int(wanted[level])
                visit(level + 1, scaling, frozen.union(lost), (unscaled, *cost[1:]))

    visit(0, frozenset(), frozenset(), (0, 0, 0))
    return set() if best is None else best[1]
