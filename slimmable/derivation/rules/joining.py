"""Rules of operators that join tensors or take them apart. Pure."""

from slimmable.derivation.algebra import Sum, Term, Var, size_of
from slimmable.derivation.rules.call import Call, Dims, RuleError, wrap
from slimmable.derivation.rules.pointwise import broadcast
from slimmable.derivation.rules.registry import rule
from slimmable.derivation.rules.shape import SELECTED


@rule(
    "Joining",
    "cat concat concatenate hstack vstack row_stack",
    "The joined dimension is the sum of the parts.",
)
def cat(call: Call) -> Dims:
    """Lay segments one after the other."""
    tensors = [operand.dims for operand in call["tensors"]]
    if len({len(dims) for dims in tensors}) > 1:
        raise RuleError("tensors of unlike rank")
    rank = len(tensors[0])
    if call.name.endswith("stack") and rank < 2:
        raise RuleError("vectors")
    dim = 1 if call.name == "hstack" else wrap(call["dim"] or 0, rank)
    others = broadcast(call, [(*dims[:dim], Var(1), *dims[dim + 1 :]) for dims in tensors])
    joined = Sum(tuple(dims[dim] for dims in tensors))
    return (*others[:dim], joined, *others[dim + 1 :])


@rule("Joining", "stack", "A new dimension, which keeps its size; the others are tied.")
def stack(call: Call) -> Dims:
    """Insert the dimension that counts the tensors."""
    tensors = [operand.dims for operand in call["tensors"]]
    others = broadcast(call, tensors)
    dim = wrap(call["dim"] or 0, len(others) + 1)
    return (*others[:dim], call.fixed(len(tensors), "tensors stacked"), *others[dim:])


@rule(
    "Joining",
    "chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split",
    "The dimension is a sum of parts; parts of equal size are one axis where one number gives"
    " them all.",
)
def split(call: Call) -> list[Dims]:
    """Cut a dimension into segments."""
    x = call.dims("self")
    dim = wrap(call["dim"] or 0, len(x))
    sizes = [shape[dim] for shape in call.shapes]
    listed = call["split_size"] if call.name.endswith("split") else None
    listed = call["split_sizes"] if "split_sizes" in call.arguments else listed
    if isinstance(listed, list | tuple):
        parts: list[Term] = [Var(size) for size in sizes]
        argument = "split_sizes" if "split_sizes" in call.arguments else "split_size"
        for index, part in enumerate(parts):
            call.patch(argument, part, index)
    else:
        if len(set(sizes)) > 1 or call["tensor_indices_or_sections"] or call["indices"]:
            raise RuleError("parts of unlike size")
        parts = [Var(sizes[0])] * len(sizes)
        if "split_size" in call.arguments:
            call.patch("split_size", parts[0])
    call.unify(x[dim], Sum(tuple(parts)))
    return [(*x[:dim], part, *x[dim + 1 :]) for part in parts]


@rule("Joining", "unbind", "The dimension that is taken apart keeps its size.")
def unbind(call: Call) -> list[Dims]:
    """Freeze and drop a dimension."""
    x = call.dims("self")
    dim = wrap(call["dim"] or 0, len(x))
    call.freeze([x[dim]], SELECTED)
    rest = (*x[:dim], *x[dim + 1 :])
    return [rest for _ in range(size_of(x[dim]))]


@rule("Joining", "glu", "Both halves are the same axis.")
def glu(call: Call) -> Dims:
    """Halve a dimension."""
    x = call.dims("self")
    dim = wrap(-1 if call["dim"] is None else call["dim"], len(x))
    half = Var(size_of(x[dim]) // 2)
    call.unify(x[dim], Sum((half, half)))
    return (*x[:dim], half, *x[dim + 1 :])
