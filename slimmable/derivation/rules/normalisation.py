"""Rules of normalisation layers. Pure."""

from slimmable.derivation.algebra import Prod, Var, size_of
from slimmable.derivation.rules.call import Call, Dims
from slimmable.derivation.rules.registry import rule


@rule(
    "Normalisation",
    "batch_norm instance_norm",
    "Scale, shift and running statistics are tied to the channels.",
)
def batch_norm(call: Call) -> Dims:
    """Tie all vectors to the channels."""
    x = call.dims("input")
    for vector in ("weight", "bias", "running_mean", "running_var"):
        dims = call.maybe_dims(vector)
        if dims is not None:
            call.unify(dims[0], x[1])
    return x


@rule(
    "Normalisation",
    "group_norm",
    "Channels are groups x channels of a group: the groups scale, the size of a group stays.",
)
def group_norm(call: Call) -> Dims:
    """Split the channels into groups."""
    x, groups = call.dims("input"), call["num_groups"]
    group = Var(groups)
    call.unify(x[1], Prod((group, Var(size_of(x[1]) // groups))))
    for vector in ("weight", "bias"):
        dims = call.maybe_dims(vector)
        if dims is not None:
            call.unify(dims[0], x[1])
    call.patch("num_groups", group)
    return x


@rule(
    "Normalisation",
    "layer_norm rms_norm",
    "Scale and shift are tied to the normalised dimensions.",
)
def layer_norm(call: Call) -> Dims:
    """Tie the vectors to the last dimensions."""
    x = call.dims("input")
    normalised = x[len(x) - len(call["normalized_shape"]) :]
    for vector in ("weight", "bias"):
        for own, dim in zip(call.maybe_dims(vector) or (), normalised, strict=False):
            call.unify(own, dim)
    for index, dim in enumerate(normalised):
        call.patch("normalized_shape", dim, index)
    return x


@rule(
    "Normalisation",
    "_weight_norm_interface _weight_norm",
    "The magnitude is tied to the direction's dimension.",
)
def weight_norm(call: Call) -> list[Dims] | Dims:
    """Tie the magnitude g to the direction v; sizes of 1 are broadcast."""
    direction, magnitude = call.dims("v"), call.dims("g")
    for own, dim in zip(magnitude, direction, strict=True):
        call.unify(own, dim)
    return [direction, magnitude][: len(call.shapes)]
