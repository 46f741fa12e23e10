"""The table of operators that a width spec can be derived through, for the documentation. Pure.

``python -m slimmable.derivation.operator_table > docs/operators.md`` writes the page.
"""

import sys

from slimmable.derivation.rules import RULES

COMMAND = "python -m slimmable.derivation.operator_table > docs/operators.md"
HEAD = (
    "# Operators\n\nWhat the derivation of a [width spec](width-spec.md) knows of each operator of"
    f" a traced network.\nThis page is generated from the rules: `{COMMAND}`.\n"
)
UNKNOWN = (
    "In-place variants (`add_`) follow the rule of the operator without underscore. Any other"
    " operator is unknown: every dimension that it touches keeps its full length, and"
    " `slimfleet inspect` names the line of code."
)


def operator_table() -> list[str]:
    """Return the table as lines of Markdown, one row per rule, generated from the rules."""
    rules = sorted(
        {id(entry): entry for entry in RULES.values()}.values(),
        key=lambda entry: (entry.family, min(entry.operators)),
    )
    lines = ["| Family | Operators (`aten`) | Rule |", "|---|---|---|"]
    for entry in rules:
        names = ", ".join(f"`{name}`" for name in sorted(entry.operators))
        lines.append(f"| {entry.family} | {names} | {entry.sentence} |")
    lines += ["", UNKNOWN]
    return lines


def page() -> str:
    """Return the page of the documentation."""
    return "\n".join([HEAD, *operator_table()]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
