"""Traced graphs that read their tensors from the network, and what in them follows the width.

Imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx
from torch.export.graph_signature import InputKind

from slimmable.derivation.gradient_blocks import GRADIENT_SWITCHES
from slimmable.derivation.rules.call import Dims
from slimmable.derivation.spec_terms import SpecTerms
from slimmable.derivation.state_names import NORM_OPERATORS, NormUse, StateNames
from slimmable.derivation.tracing import Trace
from slimmable.derivation.walk import Walked, operator_name
from slimmable.evaluation import BATCH_COUNTER
from slimmable.spec import Term

_DROPOUTS = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
_HELD = "held"  # container of constants that the code made, one per graph
_ASSERTIONS = ("_assert", "sym_constrain")


@dataclass(frozen=True)
class WidthArgument:
    """An integer argument that follows the width.

    Attributes:
        position: in the node's arguments, or a keyword.
        index: where the argument is a list.
        term: whose kept length it is.
        infer: -1 is written in its place.
    """

    position: int | str
    index: int | None
    term: Term
    infer: bool


@dataclass(frozen=True)
class GraphPlan:
    """One graph, at full width.

    Attributes:
        graph: reads state tensors as attributes of the network.
        arguments: node -> what follows the width.
    """

    graph: fx.Graph
    arguments: Mapping[fx.Node, tuple[WidthArgument, ...]]


@dataclass(frozen=True)
class HeldTensor:
    """A tensor of the network: its full value and dimensions.

    Attributes:
        value: at full width.
        dims: what they are made of.
        kind: "parameter", "buffer" (part of the state) or "held" (not part of it).
    """

    value: torch.Tensor
    dims: tuple[Term, ...]
    kind: str


@dataclass(frozen=True)
class NetworkPlan:
    """All that a network of any width is built from.

    Attributes:
        evaluation: graph of evaluation mode.
        training: graph of training mode.
        tensors: by name.
        norms: normalisation layers with running statistics.
    """

    evaluation: GraphPlan
    training: GraphPlan
    tensors: Mapping[str, HeldTensor]
    norms: Mapping[str, NormUse]


def plan_network(
    traces: tuple[Trace, Trace],
    walks: tuple[Walked, Walked],
    names: StateNames,
    norms: Mapping[str, NormUse],
    state: Mapping[str, Dims],
    terms: SpecTerms,
) -> NetworkPlan:
    """Prepare the graphs (evaluation, training) and the tensors of a network."""
    tensors: dict[str, HeldTensor] = {}
    for name, tensor in names.tensors.items():
        if name.rpartition(".")[0] in norms and name.rpartition(".")[2] == BATCH_COUNTER:
            continue
        kind = "parameter" if name in names.parameters else "buffer"
        tensors[name] = HeldTensor(
            tensor.detach().cpu().clone(),
            terms.dims(state[name]),
            kind if name in names.state else "held",
        )
    graphs = []
    for trace, walked in zip(traces, walks, strict=True):
        prefix = f"{_HELD}.{'training' if trace.training else 'evaluation'}"
        for target, dims in walked.held.items():
            value = trace.program.constants[target].detach().clone()
            name = f"{prefix}_{target.replace('.', '_')}"
            tensors[name] = HeldTensor(value, terms.dims(dims), "held")
        graphs.append(_GraphPlanner(trace, walked, names, norms, terms, prefix).plan())
    return NetworkPlan(graphs[0], graphs[1], tensors, norms)


class _GraphPlanner:
    """Turns a traced program into a graph that reads its tensors from the network."""

    def __init__(
        self,
        trace: Trace,
        walked: Walked,
        names: StateNames,
        norms: Mapping[str, NormUse],
        terms: SpecTerms,
        prefix: str,
    ) -> None:
        self._trace = trace
        self._walked = walked
        self._names = names
        self._norms = norms
        self._terms = terms
        self._prefix = prefix
        self._graph = fx.Graph()
        self._copies: dict[fx.Node, fx.Node] = {}
        self._tensors: dict[fx.Node, str] = {}
        self._device: fx.Node | None = None
        specs = trace.program.graph_signature.input_specs
        self._inputs = {spec.arg.name: spec for spec in specs}
        self._arguments: dict[fx.Node, tuple[WidthArgument, ...]] = {}

    def plan(self) -> GraphPlan:
        nodes = list(self._trace.program.graph.nodes)
        inputs = [node for node in nodes if node.op == "placeholder" and self._is_input(node)]
        for number, node in enumerate(inputs):
            self._copies[node] = self._graph.placeholder(f"input_{number}")
        for node in nodes:
            if node.op == "placeholder" and node not in self._copies:
                self._name_tensor(node)
            elif node.op == "call_function":
                self._copy(node)
        results = [self._copy_of(node) for node in self._trace.results]
        kinds = {"tensor": results[0], "tuple": tuple(results), "list": results}
        self._graph.output(kinds[self._trace.returns])  # type: ignore[arg-type]
        return GraphPlan(self._graph, self._arguments)

    def _is_input(self, node: fx.Node) -> bool:
        return self._inputs[node.name].kind is InputKind.USER_INPUT

    def _name_tensor(self, node: fx.Node) -> None:
        spec = self._inputs[node.name]
        target = str(spec.target)
        if spec.kind is InputKind.CONSTANT_TENSOR:
            self._tensors[node] = f"{self._prefix}_{target.replace('.', '_')}"
        else:
            self._tensors[node] = self._names.canonical[target]

    def _copy_of(self, node: fx.Node) -> fx.Node:
        """Return the copy of a node; a tensor of the network is read where it is used first."""
        if node not in self._copies:
            read = self._graph.create_node("get_attr", self._tensors[node])
            self._copies[node] = read
        return self._copies[node]

    def _copy(self, node: fx.Node) -> None:
        if self._is_left_out(node):
            return
        replaced = self._walked.replaced.get(node)
        norm = self._norm_of(node)
        if norm is not None:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            self._copies[node] = self._graph.create_node(
                "call_module", norm, (self._copy_of(source),)
            )
        elif self._is_idle_dropout(node):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            self._copies[node] = self._copy_of(source)
        elif replaced is not None:
            packet, _, overload = replaced[0].partition(".")
            target = getattr(getattr(torch.ops.aten, packet), overload)
            source = node.args[0]
            assert isinstance(source, fx.Node)
            values = (self._copy_of(source), *replaced[1].values())
            self._copies[node] = self._graph.create_node("call_function", target, values)
        else:
            copied = self._graph.node_copy(node, self._copy_of)
            copied.meta = {}
            self._copies[node] = copied
            self._follow_device(copied)
            self._note_arguments(node, copied)

    def _is_left_out(self, node: fx.Node) -> bool:
        """Say whether a node only checks something, or counts the batches of a norm."""
        name = getattr(node.target, "__name__", "")
        if name.startswith(_ASSERTIONS):
            return True
        if node.target in GRADIENT_SWITCHES and not self._trace.training:
            return True
        counted = self._tensors.get(node.args[0]) if node.args else None  # type: ignore[arg-type]
        if counted is None or counted.rpartition(".")[2] != BATCH_COUNTER:
            return False
        self._tensors[node] = counted  # a norm that is called twice counts on
        return counted.rpartition(".")[0] in self._norms

    def _norm_of(self, node: fx.Node) -> str | None:
        """Return the path of the norm that a node is, if it runs in the mode of the graph."""
        if node.target not in NORM_OPERATORS or node.args[3] is None:
            return None
        if node.args[5] is not self._trace.training:
            return None  # a norm that the code keeps in evaluation mode while it trains
        mean = node.args[3]
        assert isinstance(mean, fx.Node)
        return self._tensors[mean].rpartition(".")[0]

    def _is_idle_dropout(self, node: fx.Node) -> bool:
        if not isinstance(node.target, torch._ops.OpOverload):
            return False
        return operator_name(node.target) in _DROPOUTS and node.args[2] is False

    def _follow_device(self, node: fx.Node) -> None:
        """Make new tensors where the input is, not where the trace was."""
        if not isinstance(node.kwargs.get("device"), torch.device):
            return
        if self._device is None:
            first = next(iter(self._graph.nodes))
            after = [one for one in self._graph.nodes if one.op == "placeholder"][-1]
            with self._graph.inserting_after(after):
                self._device = self._graph.call_function(getattr, (first, "device"))
        node.kwargs = {**node.kwargs, "device": self._device}

    def _note_arguments(self, node: fx.Node, copied: fx.Node) -> None:
        found = []
        for patch in self._walked.patches.get(node, ()):
            if not self._terms.scales(patch.term):
                continue
            assert isinstance(node.target, torch._ops.OpOverload)
            schema = [argument.name for argument in node.target._schema.arguments]
            number = schema.index(patch.argument)
            position = number if number < len(node.args) else patch.argument
            found.append(
                WidthArgument(position, patch.index, self._terms.term(patch.term), patch.infer)
            )
        if found:
            self._arguments[copied] = tuple(found)
