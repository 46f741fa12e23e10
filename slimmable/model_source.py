"""Where a model comes from on the command line: a name, or any network and the shape of its input.

Commands that take a model share these arguments. Importing this module does not import torch.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimmable.model import (
    ModelError,
    ModelInput,
    SlimmableModel,
    call_factory,
    find_factory,
)
from slimmable.task import Task, TaskError, TaskKind, classification

if TYPE_CHECKING:
    from torch import nn

DEFAULT_WIDTHS = (0.25, 0.5, 0.75, 1.0)
DEFAULT_GRANULES = (16, 8, 4)
FACTORS = ("outer", "inner")


def add_model_arguments(
    parser: argparse.ArgumentParser, *, positional: bool = False, required: bool = True
) -> None:
    """Add the arguments that name a model and, for a plain network, say what it is for.

    Args:
        parser: of the command.
        positional: the model comes first and without ``--model``.
        required: whether ``--model`` must be given; "" where it is not.
    """
    text = "built-in model, entry point, or package.module:function that returns a network"
    if positional:
        parser.add_argument("model", metavar="MODEL", help=text)
    else:
        parser.add_argument("--model", required=required, default="", metavar="MODEL", help=text)
    parser.add_argument(
        "--options", type=json_options, default={}, metavar="JSON", help="its keyword arguments"
    )
    own = parser.add_argument_group("for a network of your own, which says nothing about itself")
    own.add_argument(
        "--input",
        type=input_shapes,
        default=(),
        metavar="SHAPE[;SHAPE]",
        help="shape of each input with the batch first, as 1,3,32,32; tokens: 1,128:int64",
    )
    own.add_argument(
        "--classes",
        type=_classes,
        metavar="A,B|N",
        help="it tells these classes (or so many) apart; without it the outputs are values",
    )
    own.add_argument(
        "--reconstruction", action="store_true", help="it gives its input back (auto-encoder)"
    )
    own.add_argument(
        "--granules",
        type=_granules,
        default=DEFAULT_GRANULES,
        metavar="G,G",
        help="channels are kept in multiples of the first of these that keeps all widths distinct"
        " (default: 16,8,4)",
    )
    own.add_argument(
        "--factor",
        choices=FACTORS,
        default=FACTORS[0],
        help="which factor of a product scales: outer = heads or groups, inner = their size",
    )


def load_from_arguments(
    arguments: argparse.Namespace, widths: Sequence[float] = DEFAULT_WIDTHS
) -> SlimmableModel:
    """Return the model that the arguments of `add_model_arguments` name.

    Modules of the current folder are found too, after the installed ones.

    Args:
        arguments: parsed.
        widths: that will be offered; the rounding of channels keeps them distinct.

    Raises:
        ModelError: there is no such model, it cannot be traced, or ``--input`` is missing or wrong.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    factory = find_factory(arguments.model)
    made = call_factory(factory, arguments.model, arguments.options)
    if isinstance(made, SlimmableModel):
        _refuse_descriptions(arguments, made)
        return made
    from torch import nn

    if not isinstance(made, nn.Module):
        raise ModelError(
            f"model {arguments.model!r} returned {type(made).__name__}; return a torch.nn.Module or"
            " a SlimmableModel"
        )
    if not arguments.input:
        raise ModelError(
            f"model {arguments.model!r} is a plain network: give the shape of its input with the"
            " batch first, as --input 1,3,32,32"
        )
    return _derived(arguments, partial(_fresh, factory, arguments), widths)


def json_options(text: str) -> dict[str, Any]:
    """Read an argument that holds a model's options as a JSON object.

    Raises:
        argparse.ArgumentTypeError: it does not.
    """
    try:
        read = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(read, dict):
        raise argparse.ArgumentTypeError('must be a JSON object such as {"length": 100}')
    return read


def width_list(text: str) -> tuple[float, ...]:
    """Read width multipliers such as ``0.25,0.5,1.0``.

    Raises:
        argparse.ArgumentTypeError: one is no number in (0, 1].
    """
    try:
        widths = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of width multipliers such as 0.25,0.5,1.0"
        ) from error
    outside = [width for width in widths if not 0.0 < width <= 1.0]
    if outside:
        raise argparse.ArgumentTypeError(f"widths {outside} are outside (0, 1]")
    return widths


def positive_number(text: str) -> int:
    """Read a whole number above 0.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def input_shapes(text: str) -> tuple[ModelInput, ...]:
    """Read the shapes of a network's inputs, batch first: ``1,3,32,32`` or ``1,16:int64;1,4``.

    The batch is left out of the result: any batch may come later.

    Raises:
        argparse.ArgumentTypeError: a part is no shape.
    """
    return tuple(_input_shape(part.strip()) for part in text.split(";"))


def _input_shape(text: str) -> ModelInput:
    numbers, _, dtype = text.partition(":")
    try:
        lengths = tuple(int(number) for number in numbers.split(","))
        if len(lengths) < 2 or lengths[0] < 1:
            raise ValueError("the batch comes first, at least one length follows")
        return ModelInput(lengths[1:], dtype or "float32")
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no input shape such as 1,3,32,32 or 1,128:int64 ({error})"
        ) from error


def _classes(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if len(names) == 1 and names[0].isdecimal():
        names = tuple(str(number) for number in range(int(names[0])))
    try:
        return classification(names).classes
    except TaskError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _granules(text: str) -> tuple[int, ...]:
    try:
        granules = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 16,8,4") from error
    if any(granule < 1 for granule in granules):
        raise argparse.ArgumentTypeError(f"granules {list(granules)} must be at least 1")
    return granules


def _refuse_descriptions(arguments: argparse.Namespace, model: SlimmableModel) -> None:
    if arguments.input and arguments.input != model.inputs:
        shapes = "; ".join(",".join(map(str, ("N", *one.shape))) for one in model.inputs)
        raise ModelError(
            f"model {model.name!r} takes inputs of shape {shapes}; leave --input out, or set its"
            " --options"
        )
    if arguments.classes or arguments.reconstruction:
        raise ModelError(
            f"model {model.name!r} says itself what it is for; leave --classes and --reconstruction"
            " out"
        )


def _task(arguments: argparse.Namespace) -> Task:
    if arguments.classes and arguments.reconstruction:
        raise ModelError("--classes and --reconstruction exclude each other; give one")
    if arguments.classes:
        return Task(TaskKind.CLASSIFICATION, arguments.classes)
    return Task(TaskKind.RECONSTRUCTION if arguments.reconstruction else TaskKind.REGRESSION)


def _fresh(factory: Any, arguments: argparse.Namespace) -> "nn.Module":
    network: nn.Module = call_factory(factory, arguments.model, arguments.options)  # type: ignore[assignment]
    return network


def _derived(
    arguments: argparse.Namespace, make: "partial[nn.Module]", widths: Sequence[float]
) -> SlimmableModel:
    from slimmable.derivation.scaling import ScalingSettings
    from slimmable.from_module import slimmable_from_module

    settings = ScalingSettings(
        widths=tuple(sorted({*widths, 1.0})), granules=arguments.granules, factor=arguments.factor
    )
    return slimmable_from_module(
        arguments.model, make, arguments.input, _task(arguments), settings=settings
    )
