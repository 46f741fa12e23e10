"""What each operator means for the dimensions that it touches, by family."""

from slimmable.derivation.rules import (
    convolution,
    creation,
    indexing,
    joining,
    linear_algebra,
    normalisation,
    pointwise,
    recurrent,
    reduction,
    shape,
)
from slimmable.derivation.rules.registry import RULES, Rule

__all__ = [
    "RULES",
    "Rule",
    "convolution",
    "creation",
    "indexing",
    "joining",
    "linear_algebra",
    "normalisation",
    "pointwise",
    "recurrent",
    "reduction",
    "shape",
]
