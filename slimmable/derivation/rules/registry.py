"""The table of operator rules. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slimmable.derivation.rules.call import Call, Dims

Results = Dims | Sequence[Dims]


@dataclass(frozen=True)
class Rule:
    """What an operator means for the dimensions that it touches.

    Attributes:
        family: heading in the table of supported operators.
        operators: names without overload.
        sentence: the rule in words.
        apply: ties the dimensions of a call and returns those of its results.
    """

    family: str
    operators: tuple[str, ...]
    sentence: str
    apply: Callable[[Call], Results]


RULES: dict[str, Rule] = {}


def rule(
    family: str, operators: str, sentence: str
) -> Callable[[Callable[[Call], Results]], Callable[[Call], Results]]:
    """Register a function as the rule of some operators.

    Args:
        family: heading in the table.
        operators: names, separated by blanks.
        sentence: the rule in words.
    """

    def register(apply: Callable[[Call], Results]) -> Callable[[Call], Results]:
        entry = Rule(family, tuple(operators.split()), sentence, apply)
        for name in entry.operators:
            assert name not in RULES, f"two rules for {name}"
            RULES[name] = entry
        return apply

    return register
