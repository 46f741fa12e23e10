"""The network of a width, out of traced graphs whose integer arguments follow the width.

Both graphs (evaluation, training) become Python functions over one set of tensors, which are
registered under their original names. Imports torch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from slimmable.derivation.errors import DerivationError
from slimmable.derivation.plan import GraphPlan, HeldTensor, NetworkPlan, WidthArgument
from slimmable.derivation.state_names import NormUse
from slimmable.spec import WidthSpec

INFER = -1  # torch works the length out


class DerivedNetwork(nn.Module):
    """A network of one width. Its tensors have the names that they had in the original one."""

    def __init__(self) -> None:
        """Start without tensors; `build_network` adds them."""
        super().__init__()
        self.graph_code = ""  # both graphs as text: two networks are the same if this is
        self._evaluation: Callable[..., Any] = _unfinished
        self._training: Callable[..., Any] = _unfinished

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Return the outputs for a batch, in the mode that the network is in."""
        run = self._training if self.training else self._evaluation
        return run(self, *inputs)

    def finish(self, evaluation: fx.Graph, training: fx.Graph) -> None:
        """Turn the graphs into functions."""
        self._evaluation, first = _compiled(evaluation)
        self._training, second = _compiled(training)
        self.graph_code = f"{first}\n{second}"


def build_network(
    plan: NetworkPlan, spec: WidthSpec, width: float, fresh: nn.Module | None = None
) -> DerivedNetwork:
    """Return the network of ``width``, with slices of the full tensors.

    Args:
        plan: of the network.
        spec: of its state.
        width: multiplier.
        fresh: where the values of the state come from; without it, from the traced network.

    Raises:
        DerivationError: ``fresh`` is another network than the traced one.
    """
    network = DerivedNetwork()
    for path, use in plan.norms.items():
        channels = spec.length(spec.dims(f"{path}.running_mean")[0], width)
        _owner(network, path).add_module(path.rpartition(".")[2], _norm(use, channels))
    values = (
        {} if fresh is None else {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
    )
    for name, held in plan.tensors.items():
        value = held.value if held.kind == "held" else values.get(name, held.value)
        if (
            fresh is not None
            and held.kind != "held"
            and (name not in values or values[name].shape != held.value.shape)
        ):
            raise DerivationError(f"the network made anew has another tensor {name!r}")
        _register(network, name, _cut(value, held, spec, width), held.kind)
    network.finish(_at_width(plan.evaluation, spec, width), _at_width(plan.training, spec, width))
    return network


def _cut(value: torch.Tensor, held: HeldTensor, spec: WidthSpec, width: float) -> torch.Tensor:
    cut = value.detach().cpu()
    for dim, term in enumerate(held.dims):
        kept = spec.term_indices(term, width)
        if len(kept) < cut.shape[dim]:
            cut = cut.index_select(dim, torch.from_numpy(kept))
    return cut.clone()


def _register(network: nn.Module, name: str, value: torch.Tensor, kind: str) -> None:
    owner, leaf = _owner(network, name), name.rpartition(".")[2]
    if leaf in owner._parameters or leaf in owner._buffers:  # of a normalisation layer
        getattr(owner, leaf).data = value
        if kind == "buffer" and leaf in owner._parameters:  # not trained
            getattr(owner, leaf).requires_grad_(False)  # noqa: FBT003 (torch's signature)
    elif kind == "parameter":
        owner.register_parameter(leaf, nn.Parameter(value))
    else:
        owner.register_buffer(leaf, value, persistent=kind == "buffer")


def _owner(network: nn.Module, name: str) -> nn.Module:
    """Return the module that holds a tensor; plain containers are made on the way."""
    owner = network
    for step in name.split(".")[:-1]:
        if step not in owner._modules:
            owner.add_module(step, nn.Module())
        owner = owner.get_submodule(step)
    return owner


def _norm(use: NormUse, channels: int) -> nn.Module:
    classes: dict[bool, list[Callable[..., nn.Module]]] = {
        False: [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d],
        True: [nn.InstanceNorm1d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d],
    }
    norm = classes[use.instance][use.spatial](
        channels,
        eps=use.eps,
        momentum=use.momentum,
        affine=any(use.affine),
        track_running_stats=True,
    )
    for leaf, has in zip(("weight", "bias"), use.affine, strict=True):
        if not has:
            norm.register_parameter(leaf, None)
    return norm


def _at_width(plan: GraphPlan, spec: WidthSpec, width: float) -> fx.Graph:
    """Copy a graph and write the arguments of ``width``."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in plan.graph.nodes:
        copied = graph.node_copy(node, lambda one: copies[one])
        for argument in plan.arguments.get(node, ()):
            length = INFER if argument.infer else spec.length(argument.term, width)
            _write(copied, argument, length)
        copies[node] = copied
    return graph


def _write(node: fx.Node, argument: WidthArgument, length: int) -> None:
    position = argument.position
    given = node.args[position] if isinstance(position, int) else node.kwargs[position]
    value: Any = length
    if argument.index is not None:
        assert isinstance(given, list | tuple)
        value = [*given[: argument.index], length, *given[argument.index + 1 :]]
    if isinstance(position, int):
        node.args = (*node.args[:position], value, *node.args[position + 1 :])
    else:
        node.kwargs = {**node.kwargs, position: value}


def _compiled(graph: fx.Graph) -> tuple[Callable[..., Any], str]:
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<derived network>", "exec"), scope)  # noqa: S102 (made here, not read)
    return scope["forward"], code.src


def _unfinished(*_: object) -> Any:
    raise RuntimeError("the network has no graph yet")
