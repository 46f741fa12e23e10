"""Walk a traced network and tie the dimensions of its tensors. Imports torch."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind

from slimmable.derivation.algebra import Reason, Term, Var, freeze, size_of
from slimmable.derivation.errors import DerivationError
from slimmable.derivation.rules import RULES
from slimmable.derivation.rules.call import Call, Dims, Operand, Patch, RuleError, SymbolicSize
from slimmable.derivation.tracing import Trace, place_of

BATCH = Reason("batch")
NETWORK_INPUT = Reason("input of the network")
LITERAL = Reason("written out in the code")
NETWORK_OUTPUT = Reason("output of the network")
_SCALED_BY = frozenset({"mul", "div", "true_divide"})
_CONTRACTING = frozenset({"matmul", "bmm", "baddbmm"})
_SUMMING = frozenset({"sum", "linalg_vector_norm"})
# Smaller sizes give numbers that stand in code for other reasons: 2 is the fourth root of 16.
_SMALLEST_BAKED = 4
_SMALLEST_FOURTH_ROOT = 32
_ROUNDING = 1e-6


@dataclass
class Walked:
    """What a walk found.

    Attributes:
        patches: node -> integer arguments that depend on the width.
        replaced: node -> (overload, arguments) to call in its place.
        tensors: dimensions of all tensors of the graph, in order.
        held: name of a lifted constant -> its dimensions.
        read: names of the state tensors that the graph reads.
        baked: axis -> where its size stands as a number.
    """

    patches: dict[fx.Node, list[Patch]] = field(default_factory=dict)
    replaced: dict[fx.Node, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    tensors: list[Dims] = field(default_factory=list)
    held: dict[str, Dims] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    baked: list[tuple[Term, Reason]] = field(default_factory=list)


def walk(trace: Trace, state: Mapping[str, Dims], names: Mapping[str, str]) -> Walked:
    """Tie the dimensions of a traced network.

    Args:
        trace: of the network.
        state: dimensions of its parameters and buffers; they are bound and frozen in place.
        names: every name of a parameter or buffer -> the one under which ``state`` has it.

    Raises:
        DerivationError: it holds an object or an operator that is no tensor operator.
    """
    walker = _Walker(trace, state, names)
    for node in trace.program.graph.nodes:
        walker.visit(node)
    for node in trace.results:
        for dim in walker.values[node].dims:
            freeze(dim, NETWORK_OUTPUT)
    return walker.walked


class _Walker:
    """Values of the nodes so far."""

    def __init__(self, trace: Trace, state: Mapping[str, Dims], names: Mapping[str, str]) -> None:
        self.values: dict[fx.Node, Any] = {}
        self.walked = Walked()
        self._state = state
        self._names = names
        specs = trace.program.graph_signature.input_specs
        self._inputs = {spec.arg.name: spec for spec in specs}

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.values[node] = self._placeholder(node)
        elif node.op == "call_function":
            self.values[node] = self._call(node)
        elif node.op != "output":
            raise DerivationError(_own_function(node))
        value = self.values.get(node)
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, Operand):
                self.walked.tensors.append(entry.dims)

    def _placeholder(self, node: fx.Node) -> Any:
        spec = self._inputs[node.name]
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            raise DerivationError(f"the network holds {spec.target or node.name}, no tensor")
        lengths = _lengths(value)
        if spec.kind is InputKind.USER_INPUT:
            reasons = [BATCH, *[NETWORK_INPUT] * len(lengths)]
            return Operand(tuple(map(Var, lengths, reasons)))
        if spec.kind is InputKind.CONSTANT_TENSOR:
            # torch's name for a tensor that is written out in forward; others are attributes.
            literal = str(spec.target).startswith("lifted_tensor")
            dims = tuple(Var(length, LITERAL if literal else None) for length in lengths)
            self.walked.held[str(spec.target)] = dims
            return Operand(dims)
        name = self._names[str(spec.target)]
        if node.users:
            self.walked.read.add(name)
        return Operand(self._state[name])

    def _call(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if not isinstance(node.target, torch._ops.OpOverload):
            return self._python(node, value)
        if node.target is torch.ops.aten.sym_size.int:
            return self._sym_size(node, value)
        results = value if isinstance(value, list | tuple) else [value]
        tensors = [result for result in results if isinstance(result, torch.Tensor)]
        if not tensors:
            return _plain(value, place_of(node))
        call = Call(
            name=operator_name(node.target),
            place=place_of(node),
            arguments=self._arguments(node),
            shapes=[_lengths(tensor, place_of(node)) for tensor in tensors],
        )
        found = _apply(call, node.target)
        self._note(node, call)
        operands = [Operand(dims) for dims in found]
        if not isinstance(value, list | tuple):
            return operands[0]
        rest = iter(operands)
        return [next(rest) if isinstance(one, torch.Tensor) else None for one in results]

    def _python(self, node: fx.Node, value: Any) -> Any:
        """Return the value of a call of Python's own: an item of a list, arithmetic of lengths."""
        if not isinstance(value, torch.Tensor | list | tuple):
            return _plain(value, place_of(node))
        if node.target is not operator.getitem:
            raise DerivationError(_own_function(node))
        source, index = node.args
        assert isinstance(source, fx.Node)
        return self.values[source][index]

    def _sym_size(self, node: fx.Node, value: Any) -> Any:
        length = _plain(value, place_of(node))
        source, dim = node.args
        assert isinstance(source, fx.Node)
        assert isinstance(dim, int)
        if not isinstance(length, SymbolicSize) or not length.plain:
            freeze(self.values[source].dims[dim], Reason("its length is used", place_of(node)))
        return length

    def _arguments(self, node: fx.Node) -> dict[str, Any]:
        assert isinstance(node.target, torch._ops.OpOverload)
        found = {}
        for position, argument in enumerate(node.target._schema.arguments):
            given = (
                node.args[position]
                if position < len(node.args)
                else node.kwargs.get(argument.name, argument.default_value)
            )
            found[argument.name] = fx.node.map_arg(given, lambda one: self.values[one])
        return found

    def _note(self, node: fx.Node, call: Call) -> None:
        if call.patches:
            self.walked.patches[node] = call.patches
        if call.replacement:
            self.walked.replaced[node] = call.replacement, call.replaced
        number = call["scale"] if call.name == "scaled_dot_product_attention" else call["other"]
        if isinstance(number, int | float) and call.name in _SCALED_BY | {
            "scaled_dot_product_attention"
        }:
            for dim in self._candidates(node, call):
                if _is_computed_from(abs(number), size_of(dim)):
                    text = f"the number {number:.6g} in the code may be computed from its size"
                    self.walked.baked.append((dim, Reason(text, call.place)))
                    return

    def _candidates(self, node: fx.Node, call: Call) -> Sequence[Term]:
        """Return the dimensions from which a factor may be computed, the likeliest first."""
        operand = call.operands()[0]
        found = list(operand[-1:])
        source = node.args[0]
        if isinstance(source, fx.Node) and isinstance(source.target, torch._ops.OpOverload):
            name = operator_name(source.target)
            if name in _CONTRACTING:
                left = source.args[1 if name == "baddbmm" else 0]
                assert isinstance(left, fx.Node)
                found.append(self.values[left].dims[-1])
            elif name in _SUMMING:  # a mean by hand divides by what is gone
                summed = source.args[0]
                assert isinstance(summed, fx.Node)
                found += self.values[summed].dims[1:]
        return found + list(operand[-2:-1])


def _own_function(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    return (
        f"{name} at {place_of(node)} runs a function of its own (vmap, scan, a branch): call its"
        " layers directly"
    )


def operator_name(target: torch._ops.OpOverload) -> str:
    """Return the name of an operator: without overload, in-place variants as the others.

    Operators of other libraries keep the library in front.
    """
    library, _, name = target._schema.name.partition("::")
    if library != "aten":
        return f"{library}.{name}"
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _apply(call: Call, target: torch._ops.OpOverload) -> Sequence[Dims]:
    """Apply the rule of an operator; one without a rule freezes all that it touches."""
    entry = RULES.get(call.name)
    if entry is None and torch.Tag.pointwise in target.tags:
        entry = RULES["clone"]
    if entry is None and not call.operands():
        return [call.fixed_result(f"made by {call.name}", n) for n in range(len(call.shapes))]
    reason = f"{target._schema.name.replace('::', '.')}: unknown operator"
    if entry is not None:
        try:
            found = entry.apply(call)
            results: Sequence[Dims] = found if isinstance(found, list) else [found]  # type: ignore[list-item,unused-ignore]
            call.check(results)
        except (RuleError, ValueError, LookupError, TypeError, AssertionError) as error:
            reason = f"{call.name}: not covered ({error})" if str(error) else reason
        else:
            return results
    call.patches.clear()
    call.replacement = ""
    for dims in call.operands():
        call.freeze(dims, reason)
    return [call.fixed_result(reason, number) for number in range(len(call.shapes))]


def _is_computed_from(number: float, size: int) -> bool:
    if size < _SMALLEST_BAKED:
        return False
    powers: tuple[float, ...] = (-0.5, 0.5, -1, 1)
    if size >= _SMALLEST_FOURTH_ROOT:
        powers = (*powers, -0.25, 0.25)
    return any(abs(number / size**power - 1) < _ROUNDING for power in powers)


def _lengths(tensor: torch.Tensor, place: str = "") -> tuple[int, ...]:
    return tuple(_hint(length, place) for length in tensor.shape)


def _hint(length: int | torch.SymInt, place: str = "") -> int:
    """Return a length as it was in the trace.

    Raises:
        DerivationError: it depends on the values of the input.
    """
    if isinstance(length, torch.SymInt):
        if not length.node.has_hint():
            raise DerivationError(
                f"the values of the input decide about a shape at {place or 'some line'}: that"
                " cannot be sliced; use torch.where in the place of indexing with a mask"
            )
        return int(length.node.hint)
    return int(length)


def _plain(value: Any, place: str = "") -> Any:
    if isinstance(value, torch.SymInt):
        return SymbolicSize(_hint(value, place), plain=bool(value.node.expr.is_Symbol))
    if isinstance(value, list | tuple):
        return [_plain(entry, place) for entry in value]
    return value
