"""The import contracts of pyproject.toml: each is kept by the code, and each bites."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "importlinter"
]

# (contract, file, the line that must not stand there)
VIOLATIONS = [
    ("layers", "slimmable/width.py", "import profiler.profile"),
    ("layers", "broker/topics.py", "import journal.events"),
    ("layers", "journal/events.py", "import exporter"),
    ("layers", "monitor/__init__.py", "import coordinator.rewards"),
    ("device", "edge_agent/session.py", "from coordinator import rewards"),
    ("device", "edge_agent/slots.py", "import exporter"),
    ("decisions", "coordinator/width_policy.py", "import time"),
    ("decisions", "coordinator/contribution/shapley.py", "import random"),
    ("decisions", "coordinator/rounds.py", "from pathlib import Path"),
    ("decisions", "coordinator/fleet.py", "import logging"),
    ("decisions", "edge_agent/session.py", "import asyncio"),
    ("decisions", "broker/codec.py", "import sqlite3"),
    ("decisions", "broker/envelope.py", "from datetime import datetime"),
    ("decisions", "coordinator/rewards.py", "import journal.disk"),
    ("numeric-core", "slimmable/slicing.py", "import torch"),
    ("numeric-core", "coordinator/aggregation/rules.py", "import slimmable.training"),
    ("torch", "coordinator/server.py", "from torch import nn"),
    ("mqtt-door", "coordinator/server.py", "import paho.mqtt.client"),
    ("store-door", "coordinator/server.py", "import sqlite3"),
    ("onnx-door", "coordinator/work.py", "import onnx"),
    ("http-door", "slimfleet/cli.py", "import starlette.applications"),
    ("light-init", "slimmable/__init__.py", "import numpy"),
    ("light-init", "broker/__init__.py", "import asyncio"),
    ("rooms-broker", "broker/errors.py", "import broker.messages"),
    ("rooms-coordinator", "coordinator/settings.py", "import coordinator.server"),
    ("rooms-edge-agent", "edge_agent/slot_state.py", "import edge_agent.slots"),
    ("rooms-broker", "broker/utils.py", ""),
    ("rooms-coordinator", "coordinator/common.py", ""),
    ("rooms-edge-agent", "edge_agent/constants.py", ""),
]


def lint_imports(folder, *arguments):
    script = Path(sys.executable).with_name("lint-imports")
    # The cache remembers which imports had no target: a file that is added later stays unseen.
    return subprocess.run(
        [script, "--no-logo", "--no-cache", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the rooms and their contracts, to do wrong in."""
    folder = tmp_path_factory.mktemp("tree")
    for room in CONFIG["root_packages"]:
        shutil.copytree(
            ROOT / room,
            folder / room,
            ignore=lambda _, names: {
                name for name in names if "." in name and not name.endswith(".py")
            },
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_code_keeps_every_import_contract(tree):
    result = lint_imports(tree)

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("contract", "file", "line"), VIOLATIONS)
def test_a_contract_bites(tree, contract, file, line):
    path = tree / file
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
    try:
        result = lint_imports(tree, "--contract", contract)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before, encoding="utf-8")

    assert result.returncode == 1, result.stdout + result.stderr
    assert "1 broken" in result.stdout


def test_every_contract_is_shown_to_bite():
    shown = {contract for contract, _, _ in VIOLATIONS}

    assert shown == {contract["id"] for contract in CONFIG["contracts"]}


def test_every_room_is_under_contract():
    rooms = {path.parent.name for path in ROOT.glob("*/py.typed")}

    assert rooms == set(CONFIG["root_packages"])
