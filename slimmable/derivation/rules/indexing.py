"""Rules of indexing with tensors, and of orders. Pure."""

from slimmable.derivation.algebra import size_of
from slimmable.derivation.rules.call import Call, Dims, Operand, RuleError, wrap
from slimmable.derivation.rules.pointwise import broadcast
from slimmable.derivation.rules.registry import rule

INDEXED = "indexed by a tensor"


@rule("Indexing", "index_select", "The indexed dimension keeps its size.")
def index_select(call: Call) -> Dims:
    """Replace a dimension by that of the index."""
    x, index = call.dims("self"), call.dims("index")
    dim = wrap(call["dim"], len(x))
    call.freeze([x[dim]], INDEXED)
    return (*x[:dim], call.fixed(size_of(index[0]), INDEXED), *x[dim + 1 :])


@rule(
    "Indexing",
    "index",
    "Indexed dimensions keep their size; the others pass.",
)
def index(call: Call) -> Dims:
    """Replace adjacent indexed dimensions by those of the indices."""
    x = call.dims("self")
    entries = [*call["indices"], *[None] * (len(x) - len(call["indices"]))]
    places = [number for number, entry in enumerate(entries) if isinstance(entry, Operand)]
    if places != list(range(places[0], places[-1] + 1)):
        raise RuleError("indices that are not adjacent")
    call.freeze([x[place] for place in places], INDEXED)
    chosen = broadcast(call, [entries[place].dims for place in places])
    call.freeze(chosen, "counts what is taken by an index")
    result = (*x[: places[0]], *chosen, *x[places[-1] + 1 :])
    if tuple(map(size_of, result)) != call.shapes[0]:
        raise RuleError("a mask as index")
    return result


@rule("Indexing", "gather", "The indexed dimension keeps its size.")
def gather(call: Call) -> Dims:
    """Freeze the indexed dimension; tie the others where they have equal length."""
    x = call.dims("self")
    chosen = call.dims("index")
    dim = wrap(call["dim"], len(x))
    call.freeze([x[dim], chosen[dim]], INDEXED)
    for number, (own, other) in enumerate(zip(x, chosen, strict=True)):
        if number != dim:
            call.unify(own, other)
    return chosen


@rule("Indexing", "sort argsort", "All dimensions pass.")
def sort(call: Call) -> list[Dims]:
    """Let all dimensions pass: a native network sorts fewer entries too."""
    return [call.dims("self") for _ in call.shapes]


@rule("Indexing", "topk", "The dimension of which entries are taken keeps its size.")
def topk(call: Call) -> list[Dims]:
    """Freeze the ordered dimension."""
    x = call.dims("self")
    dim = wrap(-1 if call["dim"] is None else call["dim"], len(x))
    call.freeze([x[dim]], "some of its entries are taken")
    result = (*x[:dim], call.fixed(call.shapes[0][dim], "entries taken"), *x[dim + 1 :])
    return [result for _ in call.shapes]
