"""An exported sub-model and its manifest: what a device must know about the file. No torch."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from broker.messages import InputTensor, ModelManifest, ReferenceHistogram
from slimmable.model import SlimmableModel
from slimmable.task import Reference


@dataclass(frozen=True)
class ExportedModel:
    """One ONNX file that has passed its parity check.

    Attributes:
        onnx: the file.
        width: which sub-model.
        round: of the weights, 0 where they come from no round.
        scale: expected input preprocessing in one line for people.
        parity: largest difference to torch.
        opset, ir_version: of the file.
        inputs, outputs: names in the graph.
        encoding: "onnx-f32", or the form that `exporter.quantise` gave the file.
    """

    onnx: bytes
    width: float
    round: int
    scale: str
    parity: float
    opset: int
    ir_version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    encoding: str = "onnx-f32"

    @property
    def input_name(self) -> str:
        """Name of the first input."""
        return self.inputs[0]

    @property
    def output_name(self) -> str:
        """Name of the first output, which is the one that the task is about."""
        return self.outputs[0]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.onnx).hexdigest()


def manifest_for(
    exported: ExportedModel,
    model: SlimmableModel,
    *,
    round: int,  # noqa: A002 - the field's word
    score: float,
    score_data: str,
    reference: Reference,
) -> ModelManifest:
    """Return the manifest of an exported sub-model.

    Args:
        exported: the file and what was found out about it.
        model: what it was exported from.
        round: of the weights; must be the round that the file names.
        score: measured by the server; higher is better.
        score_data: on what it was measured.
        reference: histograms of the outputs on that data.

    Raises:
        ValueError: the file names another round.
    """
    if round != exported.round:
        raise ValueError(
            f"the file says round {exported.round}, the manifest round {round}; export it anew"
        )
    return ModelManifest(
        model=model.name,
        width=exported.width,
        spec_hash=model.spec.spec_hash,
        round=round,
        digest=exported.digest,
        size=len(exported.onnx),
        opset=exported.opset,
        ir_version=exported.ir_version,
        input_name=exported.input_name,
        input_shape=model.input_shape,
        output_name=exported.output_name,
        task=model.task.kind.value,
        classes=model.task.classes,
        score=score,
        score_data=score_data,
        reference=ReferenceHistogram(classes=reference.classes, confidence=reference.confidence),
        parity=exported.parity,
        scale=exported.scale,
        encoding=exported.encoding,
        input_dtype=model.input_dtype,
        other_inputs=tuple(
            InputTensor(name=name, shape=one.shape, dtype=one.dtype)
            for name, one in zip(exported.inputs[1:], model.other_inputs, strict=True)
        ),
        other_outputs=exported.outputs[1:],
    )
