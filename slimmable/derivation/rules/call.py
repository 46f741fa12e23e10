"""One operator call of a traced network, as the rules see it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slimmable.derivation.algebra import Reason, Term, Var, freeze, size_of, unify

Dims = tuple[Term, ...]


class RuleError(ValueError):
    """A rule does not cover this use of its operator; it is treated as an unknown one."""


@dataclass(frozen=True)
class Operand:
    """A tensor argument: what its dimensions are made of."""

    dims: Dims


@dataclass(frozen=True)
class SymbolicSize:
    """A length that follows the batch.

    Attributes:
        hint: its value in the trace.
        plain: it is the batch size itself, not a multiple of it.
    """

    hint: int
    plain: bool


@dataclass(frozen=True)
class Patch:
    """An integer argument that depends on the width.

    Attributes:
        argument: name in the operator's schema.
        index: position, where the argument is a list.
        term: whose kept length it is.
        infer: the length follows the batch too: -1 leaves it to torch.
    """

    argument: str
    index: int | None
    term: Term
    infer: bool = False


@dataclass
class Call:
    """One operator call.

    Attributes:
        name: of the operator without overload, such as "conv2d".
        place: of the user's code.
        arguments: schema name -> `Operand`, `SymbolicSize`, list of those, or a plain value.
        shapes: full lengths of each tensor that it returns.
        patches: collected by the rules.
        replaced: arguments of `replacement`, where the operator must be replaced.
        replacement: overload to call instead, such as "squeeze.dims".
    """

    name: str
    place: str
    arguments: Mapping[str, Any]
    shapes: Sequence[tuple[int, ...]]
    patches: list[Patch] = field(default_factory=list)
    replacement: str = ""
    replaced: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, argument: str) -> Any:
        """Return an argument; None where the call leaves it out."""
        return self.arguments.get(argument)

    def dims(self, argument: str) -> Dims:
        """Return the dimensions of a tensor argument.

        Raises:
            RuleError: it is no tensor.
        """
        operand = self.arguments.get(argument)
        if not isinstance(operand, Operand):
            raise RuleError(f"{self.name}: {argument} is no tensor")
        return operand.dims

    def maybe_dims(self, argument: str) -> Dims | None:
        """Return the dimensions of a tensor argument, or None where it is left out."""
        operand = self.arguments.get(argument)
        return operand.dims if isinstance(operand, Operand) else None

    def operands(self) -> list[Dims]:
        """Return the dimensions of all tensor arguments, those in lists included."""
        found: list[Dims] = []
        for value in self.arguments.values():
            entries = value if isinstance(value, list | tuple) else [value]
            found += [entry.dims for entry in entries if isinstance(entry, Operand)]
        return found

    def unify(self, one: Term, other: Term) -> None:
        """Tie two dimensions."""
        unify(one, other, self.place)

    def freeze(self, dims: Sequence[Term], text: str) -> None:
        """Keep dimensions at their full length, for a reason in plain words."""
        for dim in dims:
            freeze(dim, Reason(text, self.place))

    def fixed(self, size: int, text: str) -> Var:
        """Return a new dimension that does not scale."""
        return Var(size, Reason(text, self.place))

    def fixed_result(self, text: str, number: int = 0) -> Dims:
        """Return new dimensions that do not scale, in the shape of a result."""
        return tuple(self.fixed(size, text) for size in self.shapes[number])

    def patch(self, argument: str, term: Term, index: int | None = None) -> None:
        """Note that an integer argument is the kept length of ``term``."""
        self.patches.append(Patch(argument, index, term))

    def patch_sizes(self, argument: str, dims: Sequence[Term]) -> None:
        """Note that a list of lengths (of `view`, `expand`) is that of ``dims``.

        A length that follows the batch stays as it is where it is the batch. Where it is a multiple
        it becomes -1 if the rest of it scales; that works once a list, so others are frozen.
        """
        entries = list(self.arguments[argument])
        inferred = [position for position, entry in enumerate(entries) if entry == -1]
        for position, (entry, dim) in enumerate(zip(entries, dims, strict=True)):
            if isinstance(entry, SymbolicSize):
                if entry.plain:
                    continue
                if inferred and inferred != [position]:
                    self.freeze([dim], "part of a length that follows the batch")
                else:
                    inferred = [position]
                    self.patches.append(Patch(argument, position, dim, infer=True))
            elif entry != -1:
                self.patch(argument, dim, position)

    def check(self, results: Sequence[Dims]) -> None:
        """Compare the lengths that a rule gives with those of the trace.

        Raises:
            RuleError: they differ.
        """
        found = [tuple(size_of(dim) for dim in dims) for dims in results]
        if found != list(self.shapes):
            raise RuleError(f"{self.name}: lengths {found}, the trace has {list(self.shapes)}")


def wrap(dim: int, rank: int) -> int:
    """Return a dimension counted from the front."""
    return dim + rank if dim < 0 else dim


def hint(entry: int | SymbolicSize) -> int:
    """Return a length as it was in the trace."""
    return entry.hint if isinstance(entry, SymbolicSize) else entry
