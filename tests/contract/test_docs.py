"""The documents say what is there: links, commands, options, settings, codes and reasons."""

import ast
import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from broker.errors import ReleaseError
from broker.messages import DropReason, Participation
from coordinator.fleet import Phase
from coordinator.settings import Settings
from journal.crashpoints import CRASHPOINTS
from profiler.emulation import MACHINES
from slimfleet.cli import COMMANDS
from slimfleet.commands.audit import ACTIONS
from slimfleet.config import AgentConfig, ServerConfig, read_config
from slimfleet.exit_codes import ExitCode
from slimmable.model import SlimmableModel
from slimmable.model_check import check_model

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")],
)
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


def prose(text: str) -> str:
    return FENCE.sub("", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    found: set[str] = set()
    for line in prose(page.read_text(encoding="utf-8")).splitlines():
        if heading := re.match(r"#{1,6} (.*)", line):
            words = re.sub(r"[^\w\- ]", "", heading[1].lower())
            found.add(words.replace(" ", "-"))
    return found


def fields(struct: type[msgspec.Struct], prefix: str = "") -> list[str]:
    """Return every setting of a struct by its full name."""
    names = []
    for field in msgspec.structs.fields(struct):
        parts = (field.type, *getattr(field.type, "__args__", ()))
        inner = [t for t in parts if isinstance(t, type) and issubclass(t, msgspec.Struct)]
        names += fields(inner[0], f"{prefix}{field.name}.") if inner else [f"{prefix}{field.name}"]
    return names


def section(heading: str) -> str:
    """Return a section of the operations page, up to the next heading of its level."""
    level = heading.split(" ", 1)[0]
    found = re.search(
        rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)",
        OPERATIONS,
        re.MULTILINE | re.DOTALL,
    )
    assert found, f"no section {heading!r}"
    return found[1]


def first_column(text: str) -> set[str]:
    """Return what stands as code in the first column of the tables of a text."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return {code for row in rows for code in CODE.findall(row.split("|")[1])}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    broken = []
    for target in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|[\s`(/$])slimfleet ([a-z][a-z-]+)", "\n".join(code_of(text))))
    assert named <= set(COMMANDS)


def code_of(text: str) -> list[str]:
    """Return the code of a page: its fenced blocks, and what stands between backticks."""
    shell = re.findall(r"^```(?:bash|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in shell for line in block.splitlines()]
    # In a console block only what is typed is a command.
    typed = [line.removeprefix("$ ") for line in lines if not re.match(r"[\d{(]", line)]
    return [*(line.partition(" #")[0] for line in typed), *CODE.findall(prose(text))]


def test_every_option_that_is_named_exists():
    helps = {
        command: subprocess.run(
            [sys.executable, "-m", "slimfleet", *command.split(), "--help"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
        for command in [
            *(c for c in COMMANDS if c not in {"broker", "audit"}),
            "broker config",
            "broker run",
            *(f"audit {action}" for action in ACTIONS),
        ]
    }
    unknown = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in code_of(text):
            for call in re.findall(r"(?:^|[\s/])slimfleet ([a-z][^|>&;]*)", line):
                command = next((c for c in helps if call.startswith(c)), None)
                if command is None:
                    continue
                options = re.findall(r"(?:^|\s)(--[a-z-]+)", call)
                unknown += [f"{page.name}: {call}" for o in options if o not in helps[command]]
    assert unknown == []


def test_the_table_of_exit_codes_is_the_enumeration():
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", section("### Exit codes"), re.MULTILINE)
    assert {(int(code), name) for code, name in rows} == {(c.value, c.name) for c in ExitCode}


@pytest.mark.parametrize(("heading", "config"), [
    ("### `server.toml`", ServerConfig),
    ("### `agent.toml`", AgentConfig),
])  # fmt: skip
def test_every_setting_is_documented_and_no_other(heading, config):
    documented = first_column(section(heading))
    wanted = set(fields(config))
    if config is AgentConfig:
        wanted = {name for name in wanted if not name.startswith("broker.")} | {"broker.*"}
    assert documented == wanted


def test_the_defaults_of_the_settings_are_the_documented_ones():
    plain = msgspec.to_builtins(Settings(fleet="x", model="y"))
    rows = re.findall(r"^\| `campaign\.([a-z_.]+)` \| `([^`]+)` \|", OPERATIONS, re.MULTILINE)
    assert len(rows) > 30
    for name, shown in rows:
        value = plain
        for part in name.split("."):
            value = value[part]
        expected = {"true": True, "false": False}.get(shown)
        documented = ast.literal_eval(shown) if expected is None else expected
        wanted = list(value) if isinstance(value, tuple) else value
        assert documented == wanted, name


def test_every_drop_reason_is_explained():
    assert first_column(section("### Why a device missed a round")) >= {str(r) for r in DropReason}


def test_every_kind_of_participation_is_explained():
    rows = first_column(section("### Why a device does not take part"))
    assert rows == {str(kind) for kind in Participation}


def test_every_refusal_of_a_release_is_explained():
    codes = {kind.code for kind in ReleaseError.__subclasses__()}
    assert codes <= first_column(section("### Why a model was not installed"))


def test_every_emulated_machine_stands_in_the_table():
    table = section("## Emulation")
    workstation = MACHINES["workstation"].factor
    shown = {
        name: float(ratio)
        for name, ratio in re.findall(r"^\| `([a-z0-9-]+)` \| ([\d.]+) \|", table, re.MULTILINE)
    }
    assert shown == {
        name: pytest.approx(machine.factor / workstation, abs=0.06)
        for name, machine in MACHINES.items()
    }


def test_the_state_diagram_has_every_phase_and_no_other():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    diagram = re.findall(r"```mermaid\n(.*?)```", page, re.DOTALL)[0]
    states = set(re.findall(r"^\s+([a-z]+) -->", diagram, re.MULTILINE))
    states |= set(re.findall(r"--> ([a-z]+)", diagram))
    assert states == {str(phase) for phase in Phase}


def test_every_crash_point_is_documented():
    for room in ("edge_agent.outbox", "edge_agent.slots", "journal.store"):
        importlib.import_module(room)  # its import registers its crash points
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    kinds = {name.removesuffix("*") for name in CODE.findall(page) if name.endswith("-*")}
    ends = ("temp-created", "temp-written", "renamed")
    for name in CRASHPOINTS:
        whole = any(name == kind + end for kind in kinds for end in ends)
        other_file = name.endswith(ends) and f"<kind>-{ends[0]}" in page
        assert f"`{name}`" in page or whole or other_file, name


def test_a_word_stands_once_in_the_glossary_and_is_not_refused_elsewhere_in_its_section():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    for part in text.split("\n## ")[1:]:
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in part.splitlines()
            if line.startswith("| ") and not line.startswith("| word")
        ]
        words = [word for row in rows for word in row[0].split(", ")]
        refused = {word for row in rows for word in row[2].split(", ") if word}
        assert len(words) == len(set(words))
        assert not refused & set(words)


CENTRAL = """
training width, reward width, device, round, release, deployment, receipt, contribution, width spec,
campaign, blob, block, journal, lease, standing
"""


@pytest.mark.parametrize("word", CENTRAL.replace("\n", " ").strip().split(", "))
def test_the_glossary_explains_the_central_words(word):
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| (?:[^|]*, )?{word}[ ,|(]", text, re.MULTILINE)


@pytest.mark.torch
def test_the_example_of_a_model_of_ones_own_works_as_written(monkeypatch):
    found = re.search(
        r"<!-- example: plant/models.py -->\n```python\n(.*?)```", OPERATIONS, re.DOTALL
    )
    assert found
    module = ModuleType("plant_models")
    exec(compile(found[1], "operations.md", "exec"), module.__dict__)  # noqa: S102 - our own page
    model = module.pump(sensors=5, classes=["ok", "worn"])
    assert isinstance(model, SlimmableModel)
    check_model(model, [0.25, 0.5, 1.0])


def test_the_service_unit_has_no_comment_behind_a_value():
    unit = (ROOT / "examples" / "systemd" / "slimfleet-agent.service").read_text(encoding="utf-8")
    lines = [line for line in unit.splitlines() if line and not line.startswith(("#", "["))]
    assert lines
    assert not [line for line in lines if "#" in line or "=" not in line]
    assert f"RestartPreventExitStatus={ExitCode.BAD_CONFIGURATION.value}" in lines


def test_the_decisions_are_numbered_dated_and_listed():
    folder = ROOT / "docs" / "adr"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    pages = sorted(folder.glob("0*.md"))
    for number, page in enumerate(pages, start=1):
        text = page.read_text(encoding="utf-8")
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert re.search(r"^\d{4}-\d{2}-\d{2} · ", text, re.MULTILINE)
        assert f"]({page.name})" in listed


def test_the_configurations_of_the_readme_are_accepted(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```toml\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for number, (block, config) in enumerate(zip(blocks, (ServerConfig, AgentConfig), strict=True)):
        path = tmp_path / f"{number}.toml"
        path.write_text(textwrap.dedent(block), encoding="utf-8")
        read_config(path, config)


@pytest.mark.parametrize("name", ["fairness", "heterogeneity"])
def test_a_page_on_experiments_holds_their_newest_summary(name):
    results = ROOT / "benchmarks" / name / "results"
    summary = (results / "summary.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert summary in page, f"copy benchmarks/{name}/results/summary.md into docs/{name}.md"
