"""Rules of recurrent layers. Pure."""

from collections.abc import Sequence

from slimmable.derivation.algebra import Prod, Sum, Term, Var, size_of
from slimmable.derivation.rules.call import Call, Dims, Operand, RuleError
from slimmable.derivation.rules.registry import rule

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
GATE = "gates of a recurrent layer"
LAYERS = "layers of a recurrent network"


@rule(
    "Recurrent layers",
    "lstm gru rnn_tanh rnn_relu",
    "Rows of the weights are gates x hidden units, and the units scale. All layers share them; two"
    " directions lie one after the other.",
)
def recurrent(call: Call) -> list[Dims]:
    """Tie all layers and directions to one number of hidden units."""
    if "input" not in call.arguments:
        raise RuleError("packed sequences")
    x = call.dims("input")
    states = [state.dims for state in _as_list(call["hx"])]
    directions = 2 if call["bidirectional"] else 1
    cells = _weights_of_cells(call, call["num_layers"] * directions)
    hidden = _hidden(cells[0])
    given = hidden if len(cells[0]) % 2 == 0 else cells[0][-1][0]  # weight_hr: (projected, hidden)
    entering: Term = x[-1]
    for layer in range(call["num_layers"]):
        for direction in range(directions):
            cell = cells[layer * directions + direction]
            _tie_cell(call, cell, entering, hidden, given)
        entering = Sum((given,) * directions) if directions > 1 else given
    batch = x[0] if call["batch_first"] else x[1]
    results: list[Dims] = [(*x[:-1], entering)]
    for state, units in zip(states, (given, hidden), strict=False):
        call.freeze([state[0]], LAYERS)
        call.unify(state[1], batch)
        call.unify(state[2], units)
        results.append((state[0], batch, units))
    return results


@rule(
    "Recurrent layers",
    "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
    "As one step of the recurrent layer.",
)
def cell(call: Call) -> list[Dims]:
    """Tie one step."""
    x = call.dims("input")
    states = [state.dims for state in _as_list(call["hx"])]
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    tensors = [dims for dims in map(call.maybe_dims, names) if dims is not None]
    hidden = tensors[1][1]
    _tie_cell(call, tensors, x[-1], hidden, hidden)
    for state in states:
        call.unify(state[-1], hidden)
    return [(*x[:-1], hidden) for _ in states]


def _as_list(value: object) -> Sequence[Operand]:
    if isinstance(value, Operand):
        return [value]
    assert isinstance(value, list | tuple)
    return value


def _weights_of_cells(call: Call, cells: int) -> list[list[Dims]]:
    tensors = [tensor.dims for tensor in call["params"]]
    if len(tensors) % cells:
        raise RuleError("weights of unlike layers")
    each = len(tensors) // cells
    return [tensors[start : start + each] for start in range(0, len(tensors), each)]


def _hidden(tensors: Sequence[Dims]) -> Term:
    """Return the hidden units; a projected network has them only in weight_hr."""
    return tensors[-1][1] if len(tensors) % 2 else tensors[1][1]


def _tie_cell(
    call: Call, tensors: Sequence[Dims], entering: Term, hidden: Term, given: Term
) -> None:
    """Tie the tensors of one layer and direction.

    Args:
        call: of the operator.
        tensors: weight_ih, weight_hh, biases if any, weight_hr (projected, hidden) if any.
        entering: what the layer reads.
        hidden: its units.
        given: what it hands on: the units, or their projection.
    """
    count = GATES[call.name.removesuffix("_cell")]
    call.unify(tensors[0][1], entering)
    call.unify(tensors[1][1], given)
    projection = len(tensors) % 2
    for dims in tensors[: len(tensors) - projection]:
        if size_of(dims[0]) != count * size_of(hidden):
            raise RuleError("rows are not gates x units")
        gates = call.fixed(count, GATE) if count > 1 else Var(1)
        call.unify(dims[0], Prod((gates, hidden)))
    if projection:
        call.unify(tensors[-1][0], given)
        call.unify(tensors[-1][1], hidden)
