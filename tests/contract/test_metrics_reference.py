"""The page of metrics is what the code generates."""

from pathlib import Path

from monitor.metrics import METRICS
from monitor.metrics_reference import COMMAND, page

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_committed_page_is_the_generated_one():
    assert PAGE.read_text(encoding="utf-8") == page(), f"run `{COMMAND}` and commit the page"


def test_every_metric_stands_in_a_table_once():
    text = page()
    assert len(METRICS) > 50
    assert [one.name for one in METRICS if text.count(f"| `{one.name}` |") != 1] == []
