"""Make an int8 file out of an exported one. Imports onnx and onnxruntime.

Static: weights and activations are int8, with ranges measured on calibration inputs (QDQ format).
Dynamic: weights are int8, the range of activations is measured at every call. Which of the two is
faster than float32, if any, depends on the network and on the machine: see
`exporter.variant_choice`.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
)
from onnxruntime.quantization import quantize_dynamic as ort_quantise_dynamic
from onnxruntime.quantization import quantize_static as ort_quantise_static
from onnxruntime.quantization.registry import IntegerOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from exporter.errors import QuantisationError
from exporter.file_facts import (
    ENCODING_KEY,
    INT8_DYNAMIC,
    INT8_STATIC,
    facts_of,
    file_inputs,
    read_model,
    restored,
)
from exporter.sessions import first_line
from slimmable.state import Array

ACTIVATIONS = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
CALIBRATION_BATCH = 16

ORT = "onnxruntime"
_ORT_FOLDER = Path(onnxruntime.__file__).parent

# Convolutions stay float32 where activations are quantised at every call: in int8 they take three
# to nine times as long, and ONNX Runtime 1.17 has none for signed weights.
_DYNAMIC_OPERATORS = [name for name in IntegerOpsRegistry if name != "Conv"]

# Parts of the names of what computes in int8, such as QLinearConv and MatMulInteger. A graph
# without any of these was not quantised.
_QUANTISED = ("QuantizeLinear", "Integer", "DynamicQuantize", "QLinear", "QAttention")


def quantise_static(
    onnx_file: bytes,
    calibration: Sequence[Array] | Mapping[str, Array],
    *,
    per_channel: bool = True,
    activation: str = "u8",
    reduce_range: bool = True,
) -> bytes:
    """Return the file with int8 weights and activations.

    The same file and the same calibration inputs give the same bytes.

    Args:
        onnx_file: exported by `exporter.export`.
        calibration: per input of the file, (N, ...) samples like those of the field; by position
            or by name. Some 64 suffice: only the range of each activation is taken from them.
        per_channel: a scale for each output channel of a weight rather than one for all; needed
            for accuracy in depthwise and narrow layers.
        activation: "u8" is the faster on x86 with VNNI, "s8" on ARM64.
        reduce_range: weights of 7 bits. On x86 without VNNI, as many factory PCs are, sums of
            products of 8 bits saturate and the outputs are worthless; the file may end up there.

    Raises:
        QuantisationError: the calibration inputs do not fit, or nothing in the graph can be int8.
    """
    if activation not in ACTIVATIONS:
        raise QuantisationError(f"activation type {activation!r}: use one of {sorted(ACTIVATIONS)}")
    original = _read(onnx_file)
    feeds = _feeds(original, calibration)
    with _quiet(), tempfile.TemporaryDirectory(prefix="slimfleet-int8-") as folder:
        target = Path(folder) / "static.onnx"
        try:
            ort_quantise_static(
                _prepared(onnx_file, Path(folder)),
                target,
                _Batches(feeds),
                quant_format=QuantFormat.QDQ,
                per_channel=per_channel,
                reduce_range=reduce_range,
                activation_type=ACTIVATIONS[activation],
                weight_type=QuantType.QInt8,
            )
            made = onnx.load(target)
        except Exception as error:  # its errors share no base class
            raise _refused(error) from error
    return _finished(made, original, INT8_STATIC)


def quantise_dynamic(onnx_file: bytes) -> bytes:
    """Return the file with int8 weights, whose activations are quantised at every call.

    Good for transformers and recurrent networks; convolutions stay as they are. Weights have 7
    bits, see `quantise_static`.

    Args:
        onnx_file: exported by `exporter.export`.

    Raises:
        QuantisationError: nothing in the graph can be int8.
    """
    original = _read(onnx_file)
    with _quiet(), tempfile.TemporaryDirectory(prefix="slimfleet-int8-") as folder:
        target = Path(folder) / "dynamic.onnx"
        try:
            ort_quantise_dynamic(
                _prepared(onnx_file, Path(folder)),
                target,
                op_types_to_quantize=_DYNAMIC_OPERATORS,
                reduce_range=True,
                weight_type=QuantType.QInt8,
            )
            made = onnx.load(target)
        except Exception as error:  # its errors share no base class
            raise _refused(error) from error
    return _finished(made, original, INT8_DYNAMIC)


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Calibration inputs in batches, in the form that ONNX Runtime asks for."""

    def __init__(self, feeds: Mapping[str, Array]) -> None:
        self._batches = self._cut(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)

    @staticmethod
    def _cut(feeds: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        count = len(next(iter(feeds.values())))
        for start in range(0, count, CALIBRATION_BATCH):
            yield {name: x[start : start + CALIBRATION_BATCH] for name, x in feeds.items()}


def _read(onnx_file: bytes) -> onnx.ModelProto:
    try:
        return read_model(onnx_file)
    except ValueError as error:
        raise QuantisationError(f"{error}; export the model again") from error


def _feeds(
    original: onnx.ModelProto, calibration: Sequence[Array] | Mapping[str, Array]
) -> dict[str, Array]:
    names = list(file_inputs(original))
    if not isinstance(calibration, Mapping):
        if len(calibration) != len(names):
            raise QuantisationError(
                f"calibration samples for {len(calibration)} inputs, the file has {len(names)}:"
                f" {names}"
            )
        calibration = dict(zip(names, calibration, strict=True))
    counts = {name: len(calibration[name]) for name in names if name in calibration}
    if set(calibration) != set(names) or len(set(counts.values())) != 1 or 0 in counts.values():
        raise QuantisationError(
            f"calibration samples {counts}: each of the inputs {names} needs equally many, at least"
            " one"
        )
    if not all(np.isfinite(calibration[name]).all() for name in names):
        raise QuantisationError("calibration samples hold NaN or infinity; clean the data")
    return {name: np.ascontiguousarray(calibration[name]) for name in names}


def _prepared(onnx_file: bytes, folder: Path) -> onnx.ModelProto:
    """Return the graph with the shape of every tensor: one of unknown shape stays float."""
    exported, prepared = folder / "exported.onnx", folder / "prepared.onnx"
    exported.write_bytes(onnx_file)
    try:
        quant_pre_process(exported, prepared, auto_merge=True)
    except Exception:  # noqa: BLE001 - it raises whatever its code stumbles over
        # Symbolic shape inference does not know every operator; ONNX's own then has to do.
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)
    return onnx.load(prepared)


def _finished(made: onnx.ModelProto, original: onnx.ModelProto, encoding: str) -> bytes:
    operators = sorted({node.op_type for node in made.graph.node})
    if not any(part in operator for operator in operators for part in _QUANTISED):
        raise QuantisationError(
            f"{encoding}: none of the operators {operators[:8]} has an int8 form; ship float32"
        )
    return restored(made, original, {**facts_of(original), ENCODING_KEY: encoding})


def _refused(error: Exception) -> QuantisationError:
    said = f"{type(error).__name__}: {first_line(error)}"
    return QuantisationError(f"ONNX Runtime cannot quantise the file ({said}); ship float32")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what ONNX Runtime's quantisation says: nothing a user of ours can act on.

    It logs on the root logger, which without a handler would be given one for good.
    """
    root, theirs, nobody = logging.getLogger(), logging.getLogger(ORT), logging.NullHandler()
    level = theirs.level
    root.addHandler(nobody)
    root.addFilter(_is_not_theirs)
    theirs.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        theirs.setLevel(level)
        root.removeFilter(_is_not_theirs)
        root.removeHandler(nobody)


def _is_not_theirs(record: logging.LogRecord) -> bool:
    return not Path(record.pathname).is_relative_to(_ORT_FOLDER)
