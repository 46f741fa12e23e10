"""Trace a network with `torch.export`, in evaluation and in training mode. Imports torch."""

import contextlib
import copy
import inspect
import io
import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from slimmable.derivation.errors import DerivationError
from slimmable.derivation.gradient_blocks import inline_blocks
from slimmable.derivation.recurrent_shapes import shapes_of_recurrent_layers
from slimmable.model import ModelInput

TRACED_BATCH = 2  # a batch of 1 would be taken for a constant
_TORCH = Path(torch.__file__).parent
_OWN = Path(__file__).parent
_NORMS = nn.modules.batchnorm._NormBase


@dataclass(frozen=True)
class Trace:
    """A network as a list of operator calls.

    Attributes:
        training: in which mode it was traced.
        program: of `torch.export`.
        returns: "tensor", "tuple" or "list".
        results: the nodes returned.
    """

    training: bool
    program: torch.export.ExportedProgram
    returns: str
    results: tuple[fx.Node, ...]


def trace_both(module: nn.Module, inputs: Sequence[ModelInput]) -> tuple[Trace, Trace]:
    """Return the network in evaluation and in training mode; ``module`` is not changed.

    Raises:
        DerivationError: it cannot be traced; the message names the line of its code.
    """
    copied = _prepared(module)
    evaluation, training = (_trace(copied, inputs, mode) for mode in (False, True))
    shapes = [_shapes(trace) for trace in (evaluation, training)]
    if shapes[0] != shapes[1] or evaluation.returns != training.returns:
        raise DerivationError(
            f"the network returns {_words(shapes[1])} in training and {_words(shapes[0])} in"
            " evaluation: make both the same (leave auxiliary outputs out)"
        )
    return evaluation, training


def sample_inputs(
    inputs: Sequence[ModelInput], batch: int, generator: torch.Generator
) -> tuple[torch.Tensor, ...]:
    """Return a batch of noise; indices are 0 or 1, which every vocabulary has."""
    return tuple(
        torch.randint(0, 2, (batch, *one.shape), generator=generator)
        if one.dtype == "int64"
        else torch.randn(batch, *one.shape, generator=generator)
        for one in inputs
    )


def place_of(node: fx.Node) -> str:
    """Return file name and line of the user's code that a node comes from, or its module."""
    for file, line in reversed(_frames(str(node.meta.get("stack_trace", "")))):
        if _is_users(file):
            return f"{Path(file).name}:{line}"
    stack = node.meta.get("nn_module_stack") or {}
    path = next((str(entry[0]) for entry in reversed(stack.values()) if entry[0]), "")
    return f"module {path}" if path else ""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch says about its own tracing: nothing that a user of ours can act on."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "torch"]
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        # Where a trace fails, torch prints half a graph instead of leaving it to the exception.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _prepared(module: nn.Module) -> nn.Module:
    try:
        copied = copy.deepcopy(module).cpu()
    except Exception as error:  # somebody else's module may raise anything
        raise DerivationError(
            f"the network cannot be copied: {_line(error)}; keep only what copy.deepcopy can copy"
        ) from error
    for parameter in copied.parameters():
        # Without gradients torch takes fused paths in evaluation, which hide the operators.
        if parameter.is_floating_point():
            parameter.requires_grad_(True)  # noqa: FBT003 (torch's signature)
    for part in copied.modules():
        if isinstance(part, _NORMS) and part.momentum is None:
            part.momentum = 0.1  # None reads the value of a counter, which has none in a trace
    return copied


def free_batches(network: nn.Module, inputs: int) -> tuple[Any, ...]:
    """Say that the first dimension of each input is the batch, in the form of the signature."""
    batch = torch.export.Dim("batch")
    each = [{0: batch}] * inputs
    kinds = [one.kind for one in inspect.signature(network.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(each)
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*each[:named], tuple(each[named:]))


def _trace(module: nn.Module, inputs: Sequence[ModelInput], training: bool) -> Trace:  # noqa: FBT001
    module.train(training)
    samples = sample_inputs(inputs, TRACED_BATCH, torch.Generator().manual_seed(0))
    shapes = free_batches(module, len(samples))
    try:
        with quiet(), torch.enable_grad(), shapes_of_recurrent_layers():
            program = torch.export.export(module, samples, strict=False, dynamic_shapes=shapes)
    except Exception as error:
        raise _explained(module, inputs, error) from error
    inline_blocks(program.graph_module)
    returns, results = _results(program)
    return Trace(training, program, returns, results)


def _results(program: torch.export.ExportedProgram) -> tuple[str, tuple[fx.Node, ...]]:
    structure = program.call_spec.out_spec
    (output,) = [node for node in program.graph.nodes if node.op == "output"]
    flat = [entry for entry in output.args[0] if entry is not None]
    nested = structure is not None and any(not child.is_leaf() for child in structure.children())
    kinds = {tuple: "tuple", list: "list", None: "tensor"}
    kind = None if structure is None or structure.is_leaf() else structure.type
    if nested or kind not in kinds or not all(isinstance(entry, fx.Node) for entry in flat):
        raise DerivationError(
            f"the network returns {'a nested ' if nested else ''}"
            f"{getattr(kind, '__name__', 'value')}: return a tensor, or a tuple of tensors"
        )
    named = program.graph_signature.user_outputs
    nodes = tuple(entry for entry in flat if isinstance(entry, fx.Node) and entry.name in named)
    if not nodes or not all(isinstance(node.meta["val"], torch.Tensor) for node in nodes):
        raise DerivationError("the network returns no tensor, or something beside tensors")
    for node in nodes:
        shape = node.meta["val"].shape
        if not shape or isinstance(shape[0], int):
            raise DerivationError(
                f"the network returns a tensor of shape ({', '.join(map(str, shape))}), whose first"
                " dimension is not the batch: move the batch to the front, or leave it out"
            )
    return kinds[kind], nodes


def _shapes(trace: Trace) -> list[tuple[str, ...]]:
    return [
        ("batch", *(str(length) for length in node.meta["val"].shape[1:])) for node in trace.results
    ]


def _words(shapes: Sequence[Sequence[str]]) -> str:
    return " and ".join(f"({', '.join(shape)})" for shape in shapes)


def _explained(
    module: nn.Module, inputs: Sequence[ModelInput], error: Exception
) -> DerivationError:
    """Say what keeps a network from being traced, and in which line of its code."""
    text = str(error)
    shapes = ", ".join(str(("N", *one.shape)).replace("'", "") for one in inputs)
    failed = _failure(module, inputs, TRACED_BATCH)
    if failed is not None:
        return DerivationError(
            f"the network fails on inputs of shape {shapes}: {_line(failed)}{_at(failed)};"
            " give the shapes that it takes"
        )
    if "DataDependent" in type(error).__name__ or "data-dependent" in text.lower():
        return DerivationError(
            f"the network decides by the values of its input{_at(error)}: that cannot be traced;"
            " use torch.where in the place of if"
        )
    if "Constraints violated" in text or "specialized" in text:
        other = _failure(module, inputs, TRACED_BATCH + 1)
        return DerivationError(
            f"the network works for one batch size only{_at(other or error)}: take it from"
            " x.shape[0], or write -1"
        )
    return DerivationError(f"the network cannot be traced{_at(error)}: {_line(error)}")


def _failure(module: nn.Module, inputs: Sequence[ModelInput], batch: int) -> Exception | None:
    """Return what the network raises when it is simply called."""
    try:
        with quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            module(*sample_inputs(inputs, max(batch, 2), torch.Generator().manual_seed(0)))
    except Exception as error:  # noqa: BLE001 (somebody else's module may raise anything)
        return error
    return None


def _at(error: BaseException | None) -> str:
    """Return where in the user's code an error arose, as " at net.py:12 (code)"."""
    seen: list[traceback.FrameSummary] = []
    while error is not None:
        seen = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if _is_users(frame.filename)
        ] or seen
        error = error.__cause__ or error.__context__
    if not seen:
        return ""
    code = f" ({seen[-1].line})" if seen[-1].line else ""
    return f" at {Path(seen[-1].filename).name}:{seen[-1].lineno}{code}"


def _is_users(file: str) -> bool:
    path = Path(file)
    libraries = path.is_relative_to(_TORCH) or path.is_relative_to(_OWN)
    return not libraries and path.suffix == ".py" and path.is_absolute() and not _standard(path)


def _standard(path: Path) -> bool:
    return path.is_relative_to(Path(copy.__file__).parent) and "site-packages" not in path.parts


def _frames(stack_trace: str) -> list[tuple[str, int]]:
    found = []
    for line in stack_trace.splitlines():
        file, quote, rest = line.strip().removeprefix('File "').partition('", line ')
        number = rest.partition(",")[0]
        if quote and number.isdecimal():
            found.append((file, int(number)))
    return found


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
