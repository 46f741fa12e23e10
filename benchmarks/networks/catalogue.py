"""All networks by name, small enough for tests, and a few in the sizes that are measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from benchmarks.networks import (
    Shapes,
    convolutional,
    gated,
    grouped,
    images_out,
    llama,
    mixing,
    mobile,
    recurrent,
    residual,
    sequence_transformers,
    several,
    stateful,
    temporal,
    vision_transformer,
    windows,
)
from slimmable.model import ModelInput

# Tokens of every network that takes some; no vocabulary is smaller.
TOKENS = 30


@dataclass(frozen=True)
class Entry:
    """One network.

    Attributes:
        name: in the catalogue.
        build: returns it at full width, freshly initialised.
        inputs: what it takes; whole numbers are tokens below `TOKENS`.
        native: builds it with the lengths that a width keeps.
        recurrent: whether it loops over time, which takes longer to trace.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[ModelInput, ...]
    native: Callable[[Shapes], nn.Module]
    recurrent: bool = False


def _image(pixels: int, channels: int = 3) -> tuple[ModelInput, ...]:
    return (ModelInput((channels, pixels, pixels)),)


def _floats(*shapes: tuple[int, ...]) -> tuple[ModelInput, ...]:
    return tuple(ModelInput(shape) for shape in shapes)


def _tokens(steps: int) -> tuple[ModelInput, ...]:
    return (ModelInput((steps,), "int64"),)


def _by_name(*entries: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


def _vision_transformer(name: str, kind: str) -> Entry:
    build = partial(vision_transformer.VisionTransformer, kind=kind)
    native = partial(vision_transformer.native_vision_transformer, kind=kind)
    return Entry(name, build, _image(16), native)


_SMALL_MOBILE = mobile.mobilenet_stages(
    ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2), (4, 48, 1, 1)), into=16
)
_MOBILE = mobile.mobilenet_stages()

LISTED = _by_name(
    Entry("flatten_cnn", convolutional.FlattenCnn, _image(12, 1), convolutional.native_flatten_cnn),
    Entry(
        "four_convolutions",
        partial(convolutional.FourConvolutions, pixels=14),
        _image(14, 1),
        partial(convolutional.native_four_convolutions, pixels=14),
    ),
    Entry(
        "resnet18",
        partial(residual.ResNet18, (16, 32, 48, 64)),
        _image(16),
        residual.native_resnet18,
    ),
    Entry(
        "mobilenetv2",
        partial(mobile.MobileNetV2, 16, _SMALL_MOBILE, 64),
        _image(16),
        partial(mobile.native_mobilenet, full=_SMALL_MOBILE),
    ),
    Entry("group_norm", grouped.GroupNormNet, _floats((3, 16)), grouped.native_group_norm_net),
    Entry("squeeze_excite", mobile.SqueezeExciteNet, _image(8), mobile.native_squeeze_excite),
    Entry("shufflenet", grouped.ShuffleNet, _image(8), grouped.native_shufflenet),
    Entry("unet", images_out.UNet, _image(8, 1), images_out.native_unet),
    Entry("autoencoder", images_out.ConvAutoencoder, _image(16, 1), images_out.native_autoencoder),
    _vision_transformer("vit", "fused"),
    _vision_transformer("vit_softmax", "softmax"),
    Entry(
        "transformer_encoder",
        sequence_transformers.EncoderClassifier,
        _floats((12, 6)),
        sequence_transformers.native_encoder_classifier,
    ),
    Entry(
        "causal_transformer",
        sequence_transformers.CausalTransformer,
        _tokens(12),
        sequence_transformers.native_causal,
    ),
    Entry("lstm", recurrent.LstmClassifier, _floats((7, 5)), recurrent.native_lstm, recurrent=True),
    Entry("gru", recurrent.BidirectionalGru, _floats((7, 5)), recurrent.native_gru, recurrent=True),
    Entry("tcn", temporal.TemporalNet, _floats((4, 20)), temporal.native_temporal),
    Entry("mixer", mixing.Mixer, _image(16), mixing.native_mixer),
    Entry("convnext", mixing.ConvNext, _image(32), mixing.native_convnext),
    Entry("two_inputs", several.TwoInputs, _floats((3, 8, 8), (7,)), several.native_two_inputs),
    Entry("two_heads", several.TwoHeads, _image(8), several.native_two_heads),
)

EXTRAS = _by_name(
    Entry("volumes", convolutional.Volumes, _floats((1, 6, 6, 6)), convolutional.native_volumes),
    Entry("inception", convolutional.Inception, _image(8), convolutional.native_inception),
    Entry("densenet", residual.DenseNet, _image(8), residual.native_densenet),
    Entry("efficientnet", mobile.EfficientNet, _image(16), mobile.native_efficientnet),
    Entry("resnext", grouped.ResNeXt, _image(8), grouped.native_resnext),
    Entry("split_shuffle", grouped.SplitShuffleNet, _image(8), grouped.native_split_shuffle),
    Entry("gated", gated.GatedConvolutions, _floats((4, 10)), gated.native_gated),
    Entry("conditioned", gated.ConditionedNet, _floats((3, 8, 8), (5,)), gated.native_conditioned),
    Entry(
        "tied_autoencoder",
        images_out.TiedAutoencoder,
        _floats((20,)),
        images_out.native_tied_autoencoder,
    ),
    Entry(
        "super_resolution",
        images_out.SuperResolution,
        _image(6),
        images_out.native_super_resolution,
    ),
    _vision_transformer("vit_einsum", "einsum"),
    Entry(
        "transformer_norm_first",
        partial(sequence_transformers.EncoderClassifier, norm_first=True),
        _floats((12, 6)),
        partial(sequence_transformers.native_encoder_classifier, norm_first=True),
    ),
    Entry(
        "cross_attention",
        sequence_transformers.CrossAttention,
        _floats((9, 6)),
        sequence_transformers.native_cross_attention,
    ),
    Entry(
        "cross_attention_fused",
        partial(sequence_transformers.CrossAttention, weights=False),
        _floats((9, 6)),
        partial(sequence_transformers.native_cross_attention, weights=False),
    ),
    Entry("llama", llama.Llama, _tokens(10), llama.native_llama),
    Entry("token_rnn", recurrent.TokenRnn, _tokens(6), recurrent.native_token_rnn, recurrent=True),
    Entry(
        "both_ends_gru",
        recurrent.BothEndsGru,
        _floats((6, 5)),
        recurrent.native_both_ends,
        recurrent=True,
    ),
    Entry(
        "cell_loop",
        recurrent.CellLoop,
        _floats((5, 5)),
        recurrent.native_cell_loop,
        recurrent=True,
    ),
    Entry(
        "projected_lstm",
        recurrent.ProjectedLstm,
        _floats((6, 5)),
        recurrent.native_projected_lstm,
        recurrent=True,
    ),
    Entry(
        "tcn_weight_norm",
        partial(temporal.TemporalNet, normed=True),
        _floats((4, 20)),
        partial(temporal.native_temporal, normed=True),
    ),
    Entry("siamese", several.Siamese, _floats((8,), (8,)), several.native_siamese),
    Entry("point_set", several.PointSet, _floats((11, 3)), several.native_point_set),
    Entry("sinusoid", stateful.SinusoidNet, _floats((12, 4)), stateful.native_sinusoid_net),
    Entry(
        "sinusoid_unsaved",
        partial(stateful.SinusoidNet, persistent=False),
        _floats((12, 4)),
        partial(stateful.native_sinusoid_net, persistent=False),
    ),
    Entry(
        "normalised_input", stateful.NormalisedInput, _image(8), stateful.native_normalised_input
    ),
    Entry("parameters", stateful.ParameterNet, _floats((8,)), stateful.native_parameter_net),
    Entry(
        "stochastic_depth", stateful.StochasticDepth, _image(8), stateful.native_stochastic_depth
    ),
    Entry("shifted_windows", windows.ShiftedWindows, _image(16), windows.native_shifted_windows),
)

CATALOGUE = LISTED | EXTRAS

# In the sizes of the published networks, or those in which they are measured.
FULL_SIZE = _by_name(
    Entry(
        "four_convolutions",
        convolutional.FourConvolutions,
        _image(28, 1),
        convolutional.native_four_convolutions,
    ),
    Entry(
        "four_convolutions_wide",
        partial(convolutional.FourConvolutions, channels=(32, 64, 128, 128)),
        _image(28, 1),
        convolutional.native_four_convolutions,
    ),
    Entry("resnet18", residual.ResNet18, _image(32), residual.native_resnet18),
    Entry(
        "resnet18_224",
        partial(residual.ResNet18, classes=1000, small=False),
        _image(224),
        partial(residual.native_resnet18, small=False),
    ),
    Entry(
        "mobilenetv2",
        partial(mobile.MobileNetV2, 32, _MOBILE, 1280),
        _image(96),
        partial(mobile.native_mobilenet, full=_MOBILE),
    ),
    Entry(
        "vit",
        partial(
            vision_transformer.VisionTransformer,
            dim=128,
            heads=(4,) * 4,
            hidden=(512,) * 4,
            head_dim=32,
            image=(3, 32, 32),
        ),
        _image(32),
        partial(vision_transformer.native_vision_transformer, blocks=4, head_dim=32, size=(32, 32)),
    ),
    Entry(
        "transformer_encoder",
        partial(sequence_transformers.EncoderClassifier, dim=64, hidden=256, steps=64),
        _floats((64, 6)),
        partial(sequence_transformers.native_encoder_classifier, head_dim=16),
    ),
    Entry(
        "lstm",
        partial(recurrent.LstmClassifier, hidden=64),
        _floats((50, 5)),
        recurrent.native_lstm,
        recurrent=True,
    ),
    Entry(
        "gru",
        partial(recurrent.BidirectionalGru, hidden=64),
        _floats((50, 5)),
        recurrent.native_gru,
        recurrent=True,
    ),
    Entry(
        "tcn",
        partial(temporal.TemporalNet, 6, (64, 64, 128), (64, 64, 128)),
        _floats((6, 128)),
        temporal.native_temporal,
    ),
    Entry(
        "unet",
        partial(
            images_out.UNet,
            channels=(32, 64, 128),
            inner=(32, 64, 128, 64, 32),
            up=(64, 32),
            decoded=(64, 32),
        ),
        _image(64, 1),
        images_out.native_unet,
    ),
)
