"""Any network as a model that has full width alone, to export what widths are not about."""

import copy

import numpy as np
import torch

from slimmable.model import ModelInput, SlimmableModel
from slimmable.models.spec_builder import SpecBuilder
from slimmable.spec import WidthSpec
from slimmable.task import Task, TaskKind, classification

FLOATS = ModelInput((4,))
TOKENS = ModelInput((5,), "int64")


def unscaled(network, inputs=(FLOATS,), *, classes=(), aliases=None, name="unscaled"):
    """Return the model of a network, each of its floating point tensors in its full shape."""
    builder = SpecBuilder()
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and key not in (aliases or {}):
            builder.tensors[key] = tuple(builder.fixed(size) for size in tensor.shape)
            if ".running_" in key:
                builder.statistics.add(key)
    spec = WidthSpec(
        axes=tuple(builder.axes),
        tensors=builder.tensors,
        statistics=frozenset(builder.statistics),
        aliases=aliases or {},
    )
    task = classification(classes) if classes else Task(TaskKind.REGRESSION)
    first, *others = inputs
    return SlimmableModel(
        name,
        spec,
        task,
        first.shape,
        lambda width: copy.deepcopy(network),
        first.dtype,
        tuple(others),
    )


def random_state(model, seed=0):
    """Return weights unlike each other; variances stay positive."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(0.05, 0.6, model.spec.shape(name, 1.0)).astype(np.float32)
        for name in model.spec.tensors
    }


def torch_says(model, state, *arrays):
    """Return the network's outputs as a flat list."""
    network = model.build(1.0).eval()
    network.load_state_dict({key: torch.tensor(a) for key, a in state.items()}, strict=False)
    with torch.no_grad():
        said = network(*(torch.from_numpy(a) for a in arrays))
    parts = said if isinstance(said, tuple | list) else [said]
    flat = [inner for part in parts for inner in (part if isinstance(part, tuple) else [part])]
    return [tensor.numpy() for tensor in flat]
