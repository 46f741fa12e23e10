"""The page of operators is what the code generates."""

from pathlib import Path

from slimmable.derivation.operator_table import COMMAND, page
from slimmable.derivation.rules import RULES

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def test_the_committed_page_is_the_generated_one():
    assert PAGE.read_text(encoding="utf-8") == page(), f"run `{COMMAND}` and commit the page"


def test_every_operator_stands_in_the_table():
    text = page()
    assert len(RULES) > 100
    assert [name for name in RULES if f"`{name}`" not in text] == []
