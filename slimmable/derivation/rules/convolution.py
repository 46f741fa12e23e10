"""Rules of convolutions and of what works on positions. Pure."""

from slimmable.derivation.algebra import Prod, Term, Var, size_of
from slimmable.derivation.rules.call import Call, Dims, RuleError
from slimmable.derivation.rules.registry import rule

KERNEL = "kernel"
POSITIONS = "positions (pixels, time steps)"


@rule(
    "Convolutions",
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution",
    "Channels in and out are tied to the weight; kernel and positions keep their size. With groups,"
    " the groups scale and the channels of a group stay; depthwise channels scale one by one.",
)
def convolution(call: Call) -> Dims:
    """Tie channels to the weight; see the sentence above."""
    x, weight = call.dims("input"), call.dims("weight")
    transposed = "transpose" in call.name or bool(call["transposed"])
    spatial = len(weight) - 2
    if len(x) != spatial + 2:
        raise RuleError("a convolution without batch")
    call.freeze(weight[2:], KERNEL)
    call.freeze(x[2:], POSITIONS)
    groups = call["groups"] or 1
    into, out = _channels(call, weight, groups, transposed=transposed)
    call.unify(x[1], into)
    bias = call.maybe_dims("bias")
    if bias is not None:
        call.unify(bias[0], out)
    return (x[0], out, *(call.fixed(size, POSITIONS) for size in call.shapes[0][2:]))


def _channels(call: Call, weight: Dims, groups: int, *, transposed: bool) -> tuple[Term, Term]:
    """Return the channels that go in and come out."""
    if groups == 1:
        return (weight[0], weight[1]) if transposed else (weight[1], weight[0])
    group = Var(groups)
    call.patch("groups", group)
    # weight: (out, in / groups, kernel), transposed (in, out / groups, kernel)
    whole, per_group = weight[0], weight[1]
    call.unify(whole, Prod((group, Var(size_of(whole) // groups))))
    other = Prod((group, per_group))
    return (whole, other) if transposed else (other, whole)


@rule(
    "Positions",
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d"
    " adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d"
    " adaptive_max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"
    " fractional_max_pool2d fractional_max_pool3d",
    "Batch and channels pass, positions keep their size.",
)
def pool(call: Call) -> list[Dims]:
    """Let batch and channels pass."""
    x = call.dims("self")
    spatial = next(int(digit) for digit in call.name if digit.isdigit())
    return _pass_leading(call, x, spatial)


@rule(
    "Positions",
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d"
    " upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d"
    " _upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler"
    " grid_sampler_2d grid_sampler_3d reflection_pad1d reflection_pad2d"
    " replication_pad1d replication_pad2d replication_pad3d reflection_pad3d",
    "Batch and channels pass, positions keep their size.",
)
def resize(call: Call) -> list[Dims]:
    """Let batch and channels pass."""
    x = call.dims("self" if "self" in call.arguments else "input")
    grid = call.maybe_dims("grid")
    if grid is not None:
        call.freeze(grid[1:], POSITIONS)
    return _pass_leading(call, x, len(x) - 2)


def _pass_leading(call: Call, x: Dims, spatial: int) -> list[Dims]:
    call.freeze(x[len(x) - spatial :], POSITIONS)
    leading = x[: len(x) - spatial]
    return [
        (*leading, *(call.fixed(size, POSITIONS) for size in shape[len(leading) :]))
        for shape in call.shapes
    ]


@rule(
    "Positions",
    "pad constant_pad_nd",
    "Dimensions that are not padded pass; a padded one keeps its size.",
)
def pad(call: Call) -> Dims:
    """Freeze the padded dimensions."""
    x, amounts = call.dims("self"), call["pad"]
    padded = list(x)
    for pair, dim in enumerate(range(len(x) - 1, len(x) - 1 - len(amounts) // 2, -1)):
        if any(amount != 0 for amount in amounts[2 * pair : 2 * pair + 2]):
            call.freeze([x[dim]], "padded")
            padded[dim] = call.fixed(call.shapes[0][dim], "padded")
    return tuple(padded)


@rule(
    "Positions",
    "pixel_shuffle",
    "The channels that come out scale; the square of the factor stays.",
)
def pixel_shuffle(call: Call) -> Dims:
    """Tie channels (C, r * r) to C."""
    x, factor = call.dims("self"), call["upscale_factor"]
    channels = Var(size_of(x[-3]) // factor**2)
    call.unify(x[-3], Prod((channels, call.fixed(factor**2, "factor of a pixel shuffle"))))
    return (*_pass_leading(call, x, 2)[0][:-3], channels, *_pass_leading(call, x, 2)[0][-2:])


@rule("Positions", "pixel_unshuffle", "As `pixel_shuffle`, the other way round.")
def pixel_unshuffle(call: Call) -> Dims:
    """Give channels (C, r * r)."""
    x, factor = call.dims("self"), call["downscale_factor"]
    passed = _pass_leading(call, x, 2)[0]
    channels = Prod((x[-3], call.fixed(factor**2, "factor of a pixel shuffle")))
    return (*passed[:-3], channels, *passed[-2:])


@rule("Positions", "channel_shuffle", "Groups and channels of a group change places.")
def channel_shuffle(call: Call) -> Dims:
    """Swap the factors of the channels."""
    x, groups = call.dims("self"), call["groups"]
    group, per_group = Var(groups), Var(size_of(x[1]) // groups)
    call.unify(x[1], Prod((group, per_group)))
    call.patch("groups", group)
    return (x[0], Prod((per_group, group)), *x[2:])
