"""An ONNX file of two inputs, whole numbers and values, and of two outputs, with its manifest."""

import hashlib

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from broker.manifest import InputTensor
from tests.fakes.toy_onnx import manifest_of

WORDS, LENGTH, FEATURES = 7, 3, 4
TABLE = np.arange(WORDS * 3, dtype=np.float32).reshape(WORDS, 3)


def expected(tokens, values):
    """Return both outputs: the sum of the words' rows plus the first values, and its negative."""
    y = TABLE[tokens].sum(axis=1) + values[:, :3]
    return y, -y


def two_inputs(**changes):
    """Return file and manifest of a model that takes tokens (N, 3) and values (N, 4)."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input"], ["rows"]),
            helper.make_node("ReduceSum", ["rows", "axis"], ["sum"], keepdims=0),
            helper.make_node("MatMul", ["input_1", "cut"], ["firsts"]),
            helper.make_node("Add", ["sum", "firsts"], ["output"]),
            helper.make_node("Neg", ["output"], ["output_1"]),
        ],
        "two",
        [
            helper.make_tensor_value_info("input", TensorProto.INT64, ["batch", LENGTH]),
            helper.make_tensor_value_info("input_1", TensorProto.FLOAT, ["batch", FEATURES]),
        ],
        [
            helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("output_1", TensorProto.FLOAT, ["batch", 3]),
        ],
        [
            numpy_helper.from_array(TABLE, "table"),
            numpy_helper.from_array(np.array([1]), "axis"),
            numpy_helper.from_array(np.eye(FEATURES, 3, dtype=np.float32), "cut"),
        ],
    )
    opset = helper.make_opsetid("", 17)
    onnx = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    manifest = manifest_of(
        onnx,
        input_name="input",
        input_shape=(LENGTH,),
        input_dtype="int64",
        other_inputs=(InputTensor(name="input_1", shape=(FEATURES,), dtype="float32"),),
        output_name="output",
        other_outputs=("output_1",),
    )
    return onnx, msgspec.structs.replace(manifest, **changes)


def with_facts(onnx, facts):
    """Return an ONNX file with metadata in it."""
    from onnx import ModelProto

    model = ModelProto.FromString(onnx)
    helper.set_model_props(model, facts)
    changed = model.SerializeToString()
    return changed, hashlib.sha256(changed).hexdigest()


def export_to(folder, stem, onnx, manifest):
    """Write what `slimfleet export` writes of one file; return its path."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{stem}.onnx").write_bytes(onnx)
    (folder / f"{stem}.manifest.json").write_bytes(msgspec.json.encode(manifest))
    return folder / f"{stem}.onnx"
