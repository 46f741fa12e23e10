"""What must be known about one ONNX file to run it. Imports little: devices start with it."""

import msgspec


class ReferenceHistogram(msgspec.Struct, frozen=True, kw_only=True):
    """What the model says on the server's validation data; see `slimmable.task.Reference`.

    Both are empty where the server has no such data.
    """

    classes: tuple[int, ...]
    confidence: tuple[int, ...]


class InputTensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input of an ONNX file: its name, its shape without the batch dimension, its type."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a device must know about one ONNX file.

    Attributes:
        model, width, spec_hash, round: which weights.
        digest, size: SHA-256 and bytes of the ONNX file.
        opset, ir_version: of the file.
        input_name, input_shape: without the batch dimension; output_name likewise.
        task, classes: how to decode outputs.
        score: measured by the server, or as devices report it; score_data: on what.
        reference: histograms on the validation data.
        parity: largest absolute difference to torch.
        payload, encoding: "onnx", "onnx-f32".
        scale: expected input preprocessing in one line for people.
        input_dtype: of the first input.
        other_inputs, other_outputs: what the file takes and gives besides; none in a fleet.
    """

    model: str
    width: float
    spec_hash: str
    round: int
    digest: str
    size: int
    opset: int
    ir_version: int
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    task: str
    classes: tuple[str, ...]
    score: float
    score_data: str
    reference: ReferenceHistogram
    parity: float
    payload: str = "onnx"
    encoding: str = "onnx-f32"
    scale: str = ""
    input_dtype: str = "float32"
    other_inputs: tuple[InputTensor, ...] = ()
    other_outputs: tuple[str, ...] = ()
