"""Rules of operators that work entry by entry. Pure."""

from collections.abc import Sequence

from slimmable.derivation.algebra import Term, size_of
from slimmable.derivation.reshape import reshape
from slimmable.derivation.rules.call import Call, Dims
from slimmable.derivation.rules.registry import rule


def broadcast(call: Call, operands: Sequence[Dims]) -> Dims:
    """Tie dimensions aligned from the right; return those of the result."""
    rank = max(len(dims) for dims in operands)
    result: list[Term] = []
    for position in range(-rank, 0):
        aligned = [dims[position] for dims in operands if len(dims) >= -position]
        longest = next((dim for dim in aligned if size_of(dim) > 1), aligned[0])
        for dim in aligned:
            call.unify(longest, dim)
        result.append(longest)
    return tuple(result)


@rule(
    "Entry by entry",
    "dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout softmax _softmax"
    " log_softmax _log_softmax cumsum cumprod logcumsumexp contiguous clone to _to_copy detach"
    " alias lift_fresh lift_fresh_copy type_as copy hardswish log_sigmoid masked_fill where"
    " zeros_like ones_like full_like rand_like randn_like empty_like bernoulli fill zero normal"
    " uniform floor_divide true_divide rsub positive conj resolve_conj resolve_neg isinf isfinite"
    " float_power __and__ __or__ __xor__ __lshift__ __rshift__",
    "Tied from the right with broadcasting, so residual additions and gates tie themselves."
    " Every operator that torch marks as pointwise belongs here (add, mul, relu, gelu, ...).",
)
def pointwise(call: Call) -> Dims | list[Dims]:
    """Tie all operands."""
    result = broadcast(call, call.operands())
    return [result for _ in call.shapes]


@rule("Entry by entry", "prelu", "The slopes are tied to the channels.")
def prelu(call: Call) -> Dims:
    """Tie the weight to dimension 1."""
    x, slopes = call.dims("self"), call.dims("weight")
    if size_of(slopes[0]) > 1:
        call.unify(slopes[0], x[1] if len(x) > 1 else x[0])
    return x


@rule("Shape", "expand_as view_as reshape_as", "Takes the dimensions of the other tensor.")
def like_other(call: Call) -> Dims:
    """Tie dimensions of equal length; take those of the other tensor."""
    other = call.dims("other")
    own = call.dims("self")
    if call.name != "expand_as":
        own = reshape(own, [size_of(dim) for dim in other], call.place)
    broadcast(call, [own, other])
    return other
