"""Rules of operators that make tensors. Pure."""

from slimmable.derivation.algebra import Term, Var
from slimmable.derivation.rules.call import Call, Dims, SymbolicSize
from slimmable.derivation.rules.registry import rule

BATCH = "batch"


@rule(
    "New tensors",
    "zeros ones full empty rand randn randint new_zeros new_ones new_full new_empty",
    "Their lengths follow what they are tied to (the first state of a recurrent layer).",
)
def create(call: Call) -> Dims:
    """Make dimensions that may follow others."""
    dims: list[Term] = []
    for size, entry in zip(call.shapes[0], call["size"], strict=True):
        if isinstance(entry, SymbolicSize):
            dims.append(call.fixed(size, BATCH if entry.plain else "follows the batch"))
        else:
            dims.append(Var(size))
    call.patch_sizes("size", dims)
    return tuple(dims)


@rule(
    "New tensors",
    "arange linspace eye scalar_tensor tril_indices triu_indices logspace hann_window randperm",
    "Their values depend on their length, which therefore stays.",
)
def enumerated(call: Call) -> Dims:
    """Make dimensions that keep their size."""
    return call.fixed_result(f"counted out by {call.name}")
