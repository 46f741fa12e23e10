"""Rules of operators that rearrange a tensor. Pure."""

from slimmable.derivation.algebra import Prod, Term, Var, size_of
from slimmable.derivation.reshape import reshape
from slimmable.derivation.rules.call import Call, Dims, RuleError, SymbolicSize, hint, wrap
from slimmable.derivation.rules.registry import rule

SELECTED = "one entry of it is selected"


@rule(
    "Shape",
    "view reshape _unsafe_view view_copy _reshape_alias",
    "Lengths are matched with the factors of the dimensions, in row-major order.",
)
def view(call: Call) -> Dims:
    """Match the new lengths with factors."""
    reshaped = reshape(call.dims("self"), call.shapes[0], call.place)
    argument = "shape" if "shape" in call.arguments else "size"
    if call[argument] is None:
        raise RuleError("a view of another type")
    call.patch_sizes(argument, reshaped)
    return reshaped


@rule("Shape", "flatten", "The flattened dimensions become one product.")
def flatten(call: Call) -> Dims:
    """Multiply the flattened dimensions."""
    return reshape(call.dims("self"), call.shapes[0], call.place)


@rule("Shape", "unflatten", "As `view`, on one dimension.")
def unflatten(call: Call) -> Dims:
    """Match the new lengths with the factors of one dimension."""
    x, sizes = call.dims("self"), call["sizes"]
    dim = wrap(call["dim"], len(x))
    parts = reshape([x[dim]], call.shapes[0][dim : dim + len(sizes)], call.place)
    call.patch_sizes("sizes", parts)
    return (*x[:dim], *parts, *x[dim + 1 :])


@rule(
    "Shape",
    "permute transpose t numpy_T mT mH matrix_H adjoint swapaxes swapdims movedim moveaxis",
    "Moves.",
)
def permute(call: Call) -> Dims:
    """Move dimensions."""
    x = call.dims("self")
    order = list(range(len(x)))
    if call.name == "permute":
        order = [wrap(dim, len(x)) for dim in call["dims"]]
    elif call.name in {"transpose", "swapaxes", "swapdims"}:
        first, second = (
            (call["dim0"], call["dim1"])
            if "dim0" in call.arguments
            else (
                call["axis0"],
                call["axis1"],
            )
        )
        first, second = wrap(first, len(x)), wrap(second, len(x))
        order[first], order[second] = order[second], order[first]
    elif call.name in {"movedim", "moveaxis"}:
        order = _moved(call, len(x))
    elif call.name in {"mT", "mH", "matrix_H", "adjoint"}:
        order[-2:] = [order[-1], order[-2]]
    else:
        order.reverse()
    return tuple(x[dim] for dim in order)


def _moved(call: Call, rank: int) -> list[int]:
    source, target = call["source"], call["destination"]
    sources = [wrap(d, rank) for d in (source if isinstance(source, list | tuple) else [source])]
    targets = [wrap(d, rank) for d in (target if isinstance(target, list | tuple) else [target])]
    order = [dim for dim in range(rank) if dim not in sources]
    for place, dim in sorted(zip(targets, sources, strict=True)):
        order.insert(place, dim)
    return order


@rule("Shape", "unsqueeze", "A new dimension of length 1.")
def unsqueeze(call: Call) -> Dims:
    """Insert a dimension."""
    x = call.dims("self")
    dim = wrap(call["dim"], len(x) + 1)
    return (*x[:dim], Var(1), *x[dim:])


@rule(
    "Shape",
    "squeeze squeeze_copy",
    "Drops the dimensions that have length 1 at full width, and no others at any width.",
)
def squeeze(call: Call) -> Dims:
    """Drop dimensions of length 1, by name: at a narrow width others may have that length."""
    x = call.dims("self")
    asked = call["dim"]
    chosen = asked if isinstance(asked, list | tuple) else [asked]
    every = asked is None
    wanted = set(range(len(x))) if every else {wrap(dim, len(x)) for dim in chosen}
    dropped = sorted(dim for dim in wanted if size_of(x[dim]) == 1)
    call.replacement, call.replaced = "squeeze.dims", {"dim": dropped}
    return tuple(dim for number, dim in enumerate(x) if number not in dropped)


@rule(
    "Shape",
    "expand broadcast_to",
    "Dimensions of equal length pass; repeated ones keep their number.",
)
def expand(call: Call) -> Dims:
    """Let dimensions of equal length pass."""
    x = call.dims("self")
    added = len(call.shapes[0]) - len(x)
    result: list[Term] = []
    for position, size in enumerate(call.shapes[0]):
        own = x[position - added] if position >= added else None
        equal = own is not None and size_of(own) == size
        result.append(own if own is not None and equal else call.fixed(size, "repeated"))
    call.patch_sizes("size", result)
    return tuple(result)


@rule(
    "Shape",
    "repeat tile repeat_interleave",
    "A repeated dimension is a product with a fixed factor.",
)
def repeat(call: Call) -> Dims:
    """Multiply dimensions by how often they are repeated."""
    x = call.dims("self")
    if call.name == "repeat_interleave":
        return _repeat_interleave(call, x)
    times = list(call["repeats" if call.name == "repeat" else "dims"])
    times = [1] * (len(x) - len(times)) + times
    x = (*(Var(1) for _ in range(len(times) - len(x))), *x)
    return tuple(
        dim if count == 1 else Prod((call.fixed(hint(count), "repeated"), dim))
        for count, dim in zip(times, x, strict=True)
    )


def _repeat_interleave(call: Call, x: Dims) -> Dims:
    count, dim = call["repeats"], call["dim"]
    if not isinstance(count, int | SymbolicSize) or dim is None:
        raise RuleError("repeats that are a tensor")
    dim = wrap(dim, len(x))
    product = Prod((x[dim], call.fixed(hint(count), "repeated")))
    return (*x[:dim], product, *x[dim + 1 :])


@rule(
    "Shape",
    "select",
    "The dimension of which one entry is taken keeps its size.",
)
def select(call: Call) -> Dims:
    """Freeze and drop a dimension."""
    x = call.dims("self")
    dim = wrap(call["dim"], len(x))
    call.freeze([x[dim]], SELECTED)
    return (*x[:dim], *x[dim + 1 :])


@rule(
    "Shape",
    "slice narrow",
    "The whole dimension passes; one of which a part is taken keeps its size.",
)
def slice_(call: Call) -> Dims:
    """Freeze a dimension of which a part is taken."""
    x = call.dims("self")
    dim = wrap(call["dim"] or 0, len(x))
    size = call.shapes[0][dim]
    if call.name == "narrow":
        if size == size_of(x[dim]):
            call.patch("length", x[dim])
            return x
    elif size == size_of(x[dim]) and (call["step"] or 1) == 1:
        end = call["end"]
        if isinstance(end, int) and 0 < end == size:
            call.patch("end", x[dim])
        return x
    call.freeze([x[dim]], "a part of it is taken")
    return (*x[:dim], call.fixed(size, "a part of a dimension"), *x[dim + 1 :])


@rule(
    "Shape",
    "flip roll tril triu diagonal rot90 fliplr flipud",
    "The dimensions whose order matters keep their size.",
)
def ordered(call: Call) -> Dims:
    """Freeze the dimensions whose order matters."""
    x = call.dims("self")
    if call.name in {"flip", "roll"} and call["dims"]:
        chosen = [x[dim] for dim in call["dims"]]
    else:
        chosen = list(x[-2:] if call.name in {"tril", "triu"} else x)
    call.freeze(chosen, "the order of its entries matters")
    if call.name in {"diagonal", "rot90"}:
        return call.fixed_result("a diagonal")
    return x
