"""The networks that are measured: derived, with weights, and as their users would build them."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.errors import BenchmarkError
from benchmarks.networks.catalogue import FULL_SIZE, LISTED, Entry
from exporter.tracing import INPUT_NAME, TRACED_BATCH, sample_inputs, tensor_name
from slimmable.derivation.scaling import ScalingSettings
from slimmable.evaluation import state_of
from slimmable.from_module import slimmable_from_module
from slimmable.model import SlimmableModel
from slimmable.slicing import slice_state
from slimmable.state import Array, ModelState
from slimmable.task import regression

# Each in its realistic size where it has one, otherwise small.
REFERENCES: dict[str, Entry] = LISTED | FULL_SIZE


@dataclass(frozen=True)
class Reference:
    """A derived network with weights.

    Attributes:
        entry: the network as its user wrote it.
        model: derived from it.
        state: all its weights.
    """

    entry: Entry
    model: SlimmableModel
    state: ModelState

    def cut(self, width: float) -> ModelState:
        """Return the weights of one width."""
        return slice_state(self.state, self.model.spec, width)


def reference_entry(name: str) -> Entry:
    """Return a network of the catalogue.

    Raises:
        BenchmarkError: there is none of that name.
    """
    if name not in REFERENCES:
        raise BenchmarkError(f"no network {name!r}; there are {', '.join(REFERENCES)}")
    return REFERENCES[name]


def derive_reference(name: str, widths: Sequence[float]) -> Reference:
    """Return a network of the catalogue, derived for these widths.

    Raises:
        BenchmarkError: there is none of that name.
    """
    entry = reference_entry(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = trained_looking(entry.build()).eval()
    offered = tuple(sorted({*widths, 1.0}))
    model = slimmable_from_module(
        name, network, entry.inputs, regression(), settings=ScalingSettings(widths=offered)
    )
    return Reference(entry, model, state_of(network, model))


def trained_looking(network: nn.Module) -> nn.Module:
    """Give norms and biases values as after training, in place, and return the network.

    Fresh ones are ones and zeros, which fold away, and let activations fade to denormal numbers,
    with which a processor is slow.
    """
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            leaf = name.rpartition(".")[2]
            if leaf == "running_var" or (leaf == "weight" and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5)
            elif leaf in {"bias", "running_mean"}:
                tensor.normal_(0.0, 0.1)
    return network


def native_network(reference: Reference, width: float, state: Mapping[str, Array]) -> nn.Module:
    """Return the network that its user builds at ``width``, with ``state`` loaded.

    Raises:
        BenchmarkError: it has other tensors than the sub-model.
    """
    spec = reference.model.spec
    with torch.random.fork_rng(devices=[]):
        network = reference.entry.native(lambda name: spec.shape(name, width))
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    absent, unknown = network.load_state_dict(tensors, strict=False)
    found = network.state_dict()
    left = [name for name in absent if found[name].is_floating_point()]
    if unknown or set(left) - set(spec.aliases):
        raise BenchmarkError(
            f"{reference.model.name}: the network built at width {width} and the sub-model differ"
            f" in {[*unknown, *left][0]!r}; correct its native_... function"
        )
    return network.eval()


def torch_onnx(network: nn.Module, model: SlimmableModel) -> bytes:
    """Return the bytes that `torch.onnx.export` makes of a network, as its manual says.

    Its defaults, optimisation included, but for the batch, which is dynamic as ours is.
    """
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    registration.setLevel(logging.ERROR)  # one line per operator of the absent torchvision
    names = [tensor_name(INPUT_NAME, place) for place in range(len(model.inputs))]
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            sample_inputs(model, TRACED_BATCH),
            verbose=False,
            input_names=names,
            dynamic_shapes=({0: batch},) * len(names),
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())
