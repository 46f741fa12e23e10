"""A file that starts faster: what ONNX Runtime does to a graph at start-up, done beforehand.

How to load the result stands in it (`load_level`). With all optimisation off the start takes half
the time. But one step is left out of the file on purpose, so that it runs on every processor:
ONNX Runtime lays images out in memory as the very processor likes it, without which convolutions
of images take 1.3 to 3.5 times as long on x86. So a file with such convolutions is to be loaded
with optimisation on, starts hardly faster and loses nothing; signals, sequences and tables gain.

The result holds fused operators of ONNX Runtime (domain com.microsoft): no other runtime reads it.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime import GraphOptimizationLevel

from exporter.errors import ExportError, ParityError
from exporter.file_facts import (
    ENCODING_KEY,
    FLOAT32,
    facts_of,
    file_inputs,
    read_model,
    restored,
    used_domains,
)
from exporter.parity import BATCHES, TOLERANCE, random_feed
from exporter.sessions import REFUSED, first_line, open_session, session_options

OPTIMISED_KEY = "slimfleet.optimised"
LOAD_KEY = "slimfleet.load"
AS_IT_STANDS, OPTIMISING = "as-it-stands", "optimising"
PORTABLE_DOMAINS = frozenset({"", "com.microsoft"})


# The convolutions that ONNX Runtime computes in another memory layout where they are of images.
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "FusedConv", "QLinearConv"})
_IMAGE_WEIGHT = 4  # dimensions: out, in, height, width


def preoptimise(onnx_file: bytes) -> bytes:
    """Return the file with ONNX Runtime's portable optimisations applied.

    The same file gives the same bytes, as long as the version of ONNX Runtime is the same.

    Args:
        onnx_file: exported by `exporter.export` or quantised by `exporter.quantise`.

    Raises:
        ParityError: the file does not load, or the result computes something else.
        ExportError: the result would hold nodes of one type of processor.
    """
    try:
        original = read_model(onnx_file)
    except ValueError as error:
        raise ParityError(f"{error}; export the model again") from error
    rewritten = _rewritten(onnx_file)
    foreign = sorted(used_domains(rewritten) - PORTABLE_DOMAINS)
    if foreign:
        raise ExportError(
            f"pre-optimised file holds nodes of {foreign}, which not every processor runs; ship the"
            " file as it was exported"
        )
    facts = facts_of(original)
    load = OPTIMISING if _convolves_images(rewritten) else AS_IT_STANDS
    added = {OPTIMISED_KEY: "extended", LOAD_KEY: load}
    finished = restored(rewritten, original, {**facts, **added})
    _compare(original, onnx_file, finished, exact=facts.get(ENCODING_KEY, FLOAT32) == FLOAT32)
    return finished


def load_level(onnx_file: bytes) -> GraphOptimizationLevel:
    """Return how far ONNX Runtime is to rewrite the graph of a file when it loads it.

    Raises:
        ParityError: the bytes are no ONNX file.
    """
    try:
        facts = facts_of(read_model(onnx_file))
    except ValueError as error:
        raise ParityError(f"{error}; export the model again") from error
    if facts.get(LOAD_KEY) == AS_IT_STANDS:
        return GraphOptimizationLevel.ORT_DISABLE_ALL
    return GraphOptimizationLevel.ORT_ENABLE_ALL


def _convolves_images(model: onnx.ModelProto) -> bool:
    images = {t.name for t in model.graph.initializer if len(t.dims) == _IMAGE_WEIGHT}
    return any(
        node.op_type in _CONVOLUTIONS and images.intersection(node.input)
        for node in model.graph.node
    )


def _rewritten(onnx_file: bytes) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="slimfleet-start-") as folder:
        path = Path(folder) / "optimised.onnx"
        options = session_options(level=GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
        except REFUSED as error:
            raise ParityError(
                f"ONNX Runtime does not load the file: {first_line(error)}"
            ) from error
        return onnx.load(path)


def _compare(original: onnx.ModelProto, onnx_file: bytes, finished: bytes, *, exact: bool) -> None:
    """Compare outputs with the file as it stands, without any optimisation.

    Rounding to int8 amplifies the last bit of a sum, so there the same optimisations are applied to
    both: what is checked is that the result is complete.
    """
    plain = GraphOptimizationLevel.ORT_DISABLE_ALL
    level = plain if exact else GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    before, after = open_session(onnx_file, level=level), open_session(finished, level=plain)
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        feed = random_feed(file_inputs(original), batch, rng)
        for expected, found in zip(before.run(None, feed), after.run(None, feed), strict=True):
            scale = max(1.0, float(np.abs(expected).max(initial=0)))
            worst = float(np.abs(expected - found).max(initial=0)) / scale
            if not worst <= TOLERANCE:
                raise ParityError(
                    f"pre-optimised and exported file differ by {worst:.2g}, allowed are"
                    f" {TOLERANCE:.2g}; ship the file as it was exported"
                )
