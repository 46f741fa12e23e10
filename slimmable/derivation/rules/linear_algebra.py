"""Rules of matrix products, attention and embeddings. Pure."""

from slimmable.derivation.algebra import Prod, Term, Var, size_of
from slimmable.derivation.rules.call import Call, Dims, Operand, RuleError
from slimmable.derivation.rules.pointwise import broadcast
from slimmable.derivation.rules.registry import rule

SEQUENCE = "positions of a sequence"
VOCABULARY = "vocabulary"


@rule(
    "Matrix products",
    "linear",
    "The last dimension is tied to the weight's columns, the result to its rows.",
)
def linear(call: Call) -> Dims:
    """Tie features in and out to the weight (out, in)."""
    x, weight = call.dims("input"), call.dims("weight")
    call.unify(x[-1], weight[-1])
    if len(weight) == 1:
        return x[:-1]
    bias = call.maybe_dims("bias")
    if bias is not None:
        call.unify(bias[0], weight[0])
    return (*x[:-1], weight[0])


@rule(
    "Matrix products",
    "matmul mm bmm mv dot vdot inner",
    "Contracted dimensions are tied, batch dimensions too, from the right.",
)
def matmul(call: Call) -> Dims:
    """Tie the contracted and the batch dimensions."""
    names = list(call.arguments)
    return _matmul(call, call.dims(names[0]), call.dims(names[1]))


def _matmul(call: Call, one: Dims, other: Dims) -> Dims:
    if call.name == "inner":
        raise RuleError("inner product of matrices")
    if len(other) == 1:
        call.unify(one[-1], other[0])
        return one[:-1]
    call.unify(one[-1], other[-2])
    if len(one) == 1:
        return (*other[:-2], other[-1])
    return (*broadcast(call, [one[:-2], other[:-2]]), one[-2], other[-1])


@rule(
    "Matrix products",
    "addmm baddbmm addbmm addmv",
    "As `matmul`; what is added is tied to the result.",
)
def added_matmul(call: Call) -> Dims:
    """Tie the product and what is added to it."""
    if call.name == "addbmm":
        raise RuleError("sum of a batch of products")
    names = [name for name, value in call.arguments.items() if isinstance(value, Operand)]
    result = _matmul(call, call.dims(names[1]), call.dims(names[2]))
    return broadcast(call, [result, call.dims(names[0])])


@rule("Matrix products", "outer ger", "The result has the dimensions of both vectors.")
def outer(call: Call) -> Dims:
    """Give (rows, columns)."""
    first, second = list(call.arguments)[:2]
    return (*call.dims(first), *call.dims(second))


@rule(
    "Matrix products",
    "bilinear",
    "Both inputs are tied to the weight, the result to its first dimension.",
)
def bilinear(call: Call) -> Dims:
    """Tie both inputs to the weight (out, in1, in2)."""
    one, other, weight = call.dims("input1"), call.dims("input2"), call.dims("weight")
    call.unify(one[-1], weight[1])
    call.unify(other[-1], weight[2])
    bias = call.maybe_dims("bias")
    if bias is not None:
        call.unify(bias[0], weight[0])
    return (*broadcast(call, [one[:-1], other[:-1]]), weight[0])


@rule(
    "Matrix products",
    "einsum",
    "Dimensions with the same letter are tied.",
)
def einsum(call: Call) -> Dims:
    """Tie dimensions with the same letter; an ellipsis broadcasts."""
    inputs, arrow, output = call["equation"].replace(" ", "").partition("->")
    tensors = [operand.dims for operand in call["tensors"]]
    letters: dict[str, Term] = {}
    batches: list[Dims] = []
    for pattern, dims in zip(inputs.split(","), tensors, strict=True):
        before, dots, after = pattern.partition("...")
        end = len(dims) - len(after)
        if dots:
            batches.append(dims[len(before) : end])
        named = [*zip(before, dims[: len(before)], strict=True)]
        named += [*zip(after, dims[end:], strict=True)] if dots else []
        for letter, dim in named:
            call.unify(letters.setdefault(letter, dim), dim)
            if size_of(letters[letter]) == 1:
                letters[letter] = dim
    batch = broadcast(call, batches) if batches else ()
    if not arrow:
        once = sorted(set(inputs) - set(",."))
        output = ("..." if batches else "") + "".join(c for c in once if inputs.count(c) == 1)
    before, dots, after = output.partition("...")
    middle = batch if dots else ()
    return (*(letters[c] for c in before), *middle, *(letters[c] for c in after))


@rule(
    "Attention",
    "scaled_dot_product_attention",
    "Heads of query, key and value are tied, their sizes and sequences too; the result has the"
    " value's size. Positions of a sequence keep their number.",
)
def attention(call: Call) -> Dims:
    """Tie query (..., L, E), key (..., S, E) and value (..., S, V)."""
    query, key, value = call.dims("query"), call.dims("key"), call.dims("value")
    call.unify(query[-1], key[-1])
    call.unify(key[-2], value[-2])
    call.freeze([query[-2], key[-2]], SEQUENCE)
    leading = broadcast(call, [key[:-2], value[:-2]])
    if call["enable_gqa"] and size_of(query[-3]) != size_of(leading[-1]):
        repeats = size_of(query[-3]) // size_of(leading[-1])
        call.unify(query[-3], Prod((leading[-1], Var(repeats))))
        leading = query[:-2]
    else:
        leading = broadcast(call, [query[:-2], leading])
    mask = call.maybe_dims("attn_mask")
    if mask is not None:
        broadcast(call, [(*leading, query[-2], key[-2]), mask])
    return (*leading, query[-2], value[-1])


@rule(
    "Embeddings",
    "embedding",
    "The vocabulary keeps its size, the features are those of the table.",
)
def embedding(call: Call) -> Dims:
    """Give the dimensions of the indices, then the features."""
    table, indices = call.dims("weight"), call.dims("indices")
    call.freeze([table[0]], VOCABULARY)
    return (*indices, *table[1:])


@rule(
    "Embeddings",
    "embedding_bag",
    "As `embedding`; the positions of a bag are summed.",
)
def embedding_bag(call: Call) -> list[Dims]:
    """Give (bags, features)."""
    table = call.dims("weight")
    call.freeze([table[0]], VOCABULARY)
    text = "bags of an embedding"
    results = [call.fixed_result(text, number) for number in range(len(call.shapes))]
    results[0] = (results[0][0], table[1])
    return results
