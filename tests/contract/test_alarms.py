"""Dashboard, alarm rules, their cases and their runbook belong together."""

import json
import re
from pathlib import Path

from monitor.grafana_dashboard import COMMAND, dashboard
from monitor.metric import Kind
from monitor.metrics import METRICS

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "monitor" / "grafana" / "alerts.yml").read_text(encoding="utf-8")
CASES = "".join(
    path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "prometheus").glob("*_test.yml")
)
RUNBOOK = (ROOT / "docs" / "alarms.md").read_text(encoding="utf-8")
ALARMS = re.findall(r"- alert: (\w+)", RULES)
NAMES = {one.name for one in METRICS} | {
    f"{one.name}_{suffix}"
    for one in METRICS
    if one.kind is Kind.HISTOGRAM
    for suffix in ("bucket", "sum", "count")
}


def asked(text):
    return set(re.findall(r"slimfleet_\w+", text))


def test_every_metric_of_the_rules_and_the_dashboard_exists():
    queries = [t["expr"] for p in dashboard()["panels"] for t in p.get("targets", ())]
    variables = [one["definition"] for one in dashboard()["templating"]["list"][1:]]
    assert len(queries) > 20
    assert asked(" ".join([*queries, *variables])) - NAMES == set()
    assert asked(RULES) - NAMES == set()
    assert asked(CASES) - NAMES == set()


def test_every_label_that_is_asked_for_exists():
    labels = {label for one in METRICS for label in one.labels} | {"instance", "job", "le"}
    text = RULES + json.dumps(dashboard()).replace('\\"', '"')
    for group in re.findall(r"(?:by|on|group_left) \(([\w, ]+)\)", text):
        assert set(group.split(", ")) <= labels | {"alarm", "link"}, group
    for label in re.findall(r"[{,](\w+)(?:=~|!~|=|!=)\"", text):
        assert label in labels, label


def test_the_committed_dashboard_is_the_generated_one():
    committed = (ROOT / "monitor" / "grafana" / "dashboard.json").read_text(encoding="utf-8")
    assert json.loads(committed) == dashboard(), f"run `{COMMAND}` and commit the file"


def test_panels_do_not_lie_on_each_other():
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_alarm_has_severity_summary_description_and_a_section_of_the_runbook():
    blocks = RULES.split("- alert: ")[1:]
    assert len(blocks) == len(set(ALARMS)) > 20
    for name, block in zip(ALARMS, blocks, strict=True):
        assert re.match(r"^[A-Z][a-zA-Z]+$", name)
        assert re.search(r"severity: (critical|warning|info)\n", block), name
        assert "summary: " in block
        assert "description: " in block
        assert f"runbook: docs/alarms.md#{name.lower()}\n" in block
        assert f"\n### {name}\n" in RUNBOOK, name


def test_the_runbook_has_no_section_for_an_alarm_that_does_not_exist():
    assert sorted(re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)) == sorted(ALARMS)


def test_every_alarm_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    for name in ALARMS:
        answers = re.findall(rf'alertname="{name}"}}\)\n.*\n\s+exp_samples:( \[\])?', CASES)
        assert "" in answers, name
        assert " []" in answers, name
