"""Small ONNX files with a manifest, made by hand: their answers are known without torch."""

import hashlib

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from broker.messages import ModelManifest, ReferenceHistogram

CLASSES = ("rest", "walk", "run")
FEATURES = 4


def manifest_of(onnx, **changes):
    """Return the manifest of any bytes, as if they took (N, 4) and told three classes apart."""
    manifest = ModelManifest(
        model="toy",
        width=0.5,
        spec_hash="0" * 64,
        round=1,
        digest=hashlib.sha256(onnx).hexdigest(),
        size=len(onnx),
        opset=17,
        ir_version=8,
        input_name="x",
        input_shape=(FEATURES,),
        output_name="y",
        task="classification",
        classes=CLASSES,
        score=0.9,
        score_data="validation",
        reference=ReferenceHistogram(classes=(1, 1, 1), confidence=(0,) * 9 + (3,)),
        parity=0.0,
    )
    return msgspec.structs.replace(manifest, **changes)


def linear(weights, *, batch="batch", output="y"):
    """Return the ONNX file of y = x @ weights."""
    weights = np.asarray(weights, dtype=np.float32)
    inputs, outputs = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], [output])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, inputs])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, outputs])],
        [numpy_helper.from_array(weights, "w")],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def always(label, *, strength=5.0):
    """Return the ONNX file and manifest of a model that sees ``label`` in all-positive inputs."""
    weights = np.zeros((FEATURES, len(CLASSES)))
    weights[:, label] = strength
    onnx = linear(weights)
    return onnx, manifest_of(onnx)
