"""What an ONNX file says about samples. Needs neither torch nor onnx."""

import numpy as np
import onnxruntime

from exporter.errors import ParityError
from exporter.export_data import Inputs
from exporter.sessions import REFUSED, first_line
from slimmable.state import Array

BATCH = 200  # larger ones cost memory and no less time a sample


def file_outputs(session: onnxruntime.InferenceSession, inputs: Inputs) -> Array:
    """Return the first output of the file for all samples, in batches.

    Args:
        session: of the file.
        inputs: one array (N, ...) for each of its inputs, by position.

    Raises:
        ParityError: it takes other inputs, or fails on these.
    """
    names = [one.name for one in session.get_inputs()]
    if len(names) != len(inputs):
        raise ParityError(f"the file takes {len(names)} inputs, there are {len(inputs)}")
    output = session.get_outputs()[0].name
    parts = []
    for start in range(0, len(inputs[0]), BATCH):
        feed = {n: x[start : start + BATCH] for n, x in zip(names, inputs, strict=True)}
        try:
            parts.append(session.run([output], feed)[0])
        except REFUSED as error:
            raise ParityError(
                f"the file does not run with a batch of {len(feed[names[0]])}: {first_line(error)}"
            ) from error
    return np.concatenate(parts)
