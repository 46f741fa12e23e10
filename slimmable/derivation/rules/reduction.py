"""Rules of reductions. Pure."""

from slimmable.derivation.algebra import Var
from slimmable.derivation.rules.call import Call, Dims, wrap
from slimmable.derivation.rules.pointwise import broadcast
from slimmable.derivation.rules.registry import rule


@rule(
    "Reductions",
    "linalg_vector_norm norm mean sum amax amin max min var std var_mean std_mean argmax argmin all"
    " any prod logsumexp nanmean nansum median count_nonzero nanmedian aminmax",
    "Reduced dimensions disappear, also scaling ones; the others pass.",
)
def reduce(call: Call) -> Dims | list[Dims]:
    """Drop or shorten the reduced dimensions."""
    x = call.dims("self")
    other = call.maybe_dims("other")
    if other is not None:  # max(a, b), entry by entry
        return broadcast(call, [x, other])
    asked = call["dim"]
    chosen = asked if isinstance(asked, list | tuple) else [asked]
    every = asked is None or not chosen
    dims = set(range(len(x))) if every else {wrap(dim, len(x)) for dim in chosen}
    keep = bool(call["keepdim"])
    kept = tuple(
        Var(1) if number in dims else dim
        for number, dim in enumerate(x)
        if keep or number not in dims
    )
    return [kept for _ in call.shapes]
