"""Trace recurrent layers in the time of one call. Imports torch.

To find the shape of what a recurrent layer returns, torch runs it step by step on tensors without
values: seconds for a long sequence. The shapes follow from the arguments.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

Shapes = tuple[torch.Tensor, ...]


@contextmanager
def shapes_of_recurrent_layers() -> Iterator[None]:
    """Within this context, traced recurrent layers only work out the shapes of their results.

    Not for a context in which real tensors are computed. Where torch has no such table of functions
    (another version), nothing is changed and tracing takes its time.
    """
    saved = []
    for operator, shapes in _SHAPES.items():
        kernels = getattr(operator, "py_kernels", None)
        cache = getattr(operator, "_dispatch_cache", None)
        if not isinstance(kernels, dict) or not isinstance(cache, dict):
            continue
        saved.append((kernels, cache, dict(kernels)))
        kernels.update(dict.fromkeys(kernels, shapes))
        cache.clear()
    try:
        yield
    finally:
        for kernels, cache, original in saved:
            kernels.update(original)
            cache.clear()


def _output(x: torch.Tensor, state: torch.Tensor, *, directions: int) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], directions * state.shape[-1])


def _lstm(x: torch.Tensor, hx: Sequence[torch.Tensor], *rest: object) -> Shapes:
    *_, bidirectional, _batch_first = rest
    output = _output(x, hx[0], directions=2 if bidirectional else 1)
    return output, torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _one_state(x: torch.Tensor, hx: torch.Tensor, *rest: object) -> Shapes:
    *_, bidirectional, _batch_first = rest
    return _output(x, hx, directions=2 if bidirectional else 1), torch.empty_like(hx)


_SHAPES: dict[object, Callable[..., Shapes]] = {
    torch.ops.aten.lstm.input: _lstm,
    torch.ops.aten.gru.input: _one_state,
    torch.ops.aten.rnn_tanh.input: _one_state,
    torch.ops.aten.rnn_relu.input: _one_state,
}
