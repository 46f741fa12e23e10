"""The tensors of a network under one name each. Imports torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from slimmable.derivation.errors import DerivationError
from slimmable.derivation.tracing import Trace, place_of
from slimmable.evaluation import BATCH_COUNTER


@dataclass(frozen=True)
class StateNames:
    """Parameters and buffers of a network.

    Attributes:
        tensors: canonical name -> tensor, in the network's order.
        canonical: every name -> the canonical one, which comes first in the network.
        parameters: names of what is trained.
        state: names of what the state dict holds: parameters and persistent float buffers.
        momenta: path of a normalisation layer -> its momentum.
    """

    tensors: Mapping[str, torch.Tensor]
    canonical: Mapping[str, str]
    parameters: tuple[str, ...]
    state: frozenset[str]
    momenta: Mapping[str, float | None]

    @property
    def aliases(self) -> dict[str, str]:
        """Second name -> canonical name, for tied tensors."""
        return {alias: name for alias, name in self.canonical.items() if alias != name}

    def norms(self, traces: Sequence[Trace]) -> dict[str, "NormUse"]:
        """Return the normalisation layers with running statistics, by path.

        Raises:
            DerivationError: one keeps its statistics under other names than torch's layers do.
        """
        found: dict[str, NormUse] = {}
        for trace in traces:
            targets = _targets(trace)
            for node in trace.program.graph.nodes:
                use = _norm_use(node, targets, self)
                if use is not None:
                    found.setdefault(use.path, use)
        return found


@dataclass(frozen=True)
class NormUse:
    """A normalisation layer with running statistics.

    Attributes:
        path: of the layer that owns the statistics.
        instance: it is an instance norm.
        spatial: dimensions of its input after batch and channels.
        affine: it has (scale, shift).
        momentum: None = cumulative mean.
        eps: added to the variance.
    """

    path: str
    instance: bool
    spatial: int
    affine: tuple[bool, bool]
    momentum: float | None
    eps: float


NORM_OPERATORS = {
    torch.ops.aten.batch_norm.default: False,
    torch.ops.aten.instance_norm.default: True,
}


def name_state(module: nn.Module) -> StateNames:
    """List the tensors of a network.

    Raises:
        DerivationError: it has no parameter, one without a shape yet, or one that is not float32.
    """
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise DerivationError(
            f"the network is wrapped in {type(module).__name__}: give its .module"
        )
    first: dict[int, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    canonical: dict[str, str] = {}
    for name, tensor in (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ):
        if nn.parameter.is_lazy(tensor):
            raise DerivationError(
                f"{name!r} has no shape yet: call the network once before its spec is derived"
            )
        canonical[name] = first.setdefault(id(tensor), name)
        tensors.setdefault(canonical[name], tensor)
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    _check_types(dict(module.named_parameters()))
    if not trained:
        raise DerivationError("the network has no parameter that is trained")
    persistent = {
        canonical[name] for name in module.state_dict(keep_vars=True) if name in canonical
    }
    return StateNames(
        tensors=tensors,
        canonical=canonical,
        parameters=tuple(trained),
        state=frozenset(
            name
            for name, tensor in tensors.items()
            if name in persistent
            and tensor.dtype == torch.float32
            and name.rpartition(".")[2] != BATCH_COUNTER
        ),
        momenta={
            path: part.momentum
            for path, part in module.named_modules()
            if isinstance(part, nn.modules.batchnorm._NormBase)
        },
    )


def _check_types(parameters: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise DerivationError(
                f"parameter {name!r} is {str(parameter.dtype).removeprefix('torch.')}, only float32"
                " travels: call .float() on the network"
            )


def _targets(trace: Trace) -> dict[str, str]:
    specs = trace.program.graph_signature.input_specs
    return {spec.arg.name: spec.target for spec in specs if spec.target is not None}


def _norm_use(node: torch.fx.Node, targets: Mapping[str, str], names: StateNames) -> NormUse | None:
    if node.target not in NORM_OPERATORS or node.args[3] is None:
        return None
    tensors = [
        names.canonical.get(targets.get(arg.name, "")) if isinstance(arg, torch.fx.Node) else None
        for arg in node.args[1:5]
    ]
    path, _, leaf = (tensors[2] or "").rpartition(".")
    before = f"{path}." if path else ""
    expected = [f"{before}{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")]
    fits = all(found in {None, name} for found, name in zip(tensors, expected, strict=True))
    if leaf != "running_mean" or tensors[3] is None or not fits or not path:
        raise DerivationError(
            f"the normalisation at {place_of(node)} keeps its statistics as"
            f" {tensors[2] or 'no buffer'!r}: make it a layer of its own whose tensors are called"
            " weight, bias, running_mean and running_var, as in torch.nn.BatchNorm2d"
        )
    value = node.args[0].meta["val"]  # type: ignore[union-attr]
    return NormUse(
        path=path,
        instance=NORM_OPERATORS[node.target],
        spatial=value.dim() - 2,
        affine=(tensors[0] is not None, tensors[1] is not None),
        momentum=names.momenta.get(path, node.args[6]),  # type: ignore[arg-type]
        eps=node.args[7],  # type: ignore[arg-type]
    )
