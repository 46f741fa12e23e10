"""The tutorial, run as it is written: its files are saved, its commands typed."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(console|toml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = "1883"
DEADLINE_S = 100


def script_of(text: str) -> str:
    """Return the page as a shell script: files where their blocks stand, then the commands."""
    lines = ["set -euo pipefail"]
    for kind, body in BLOCK.findall(text):
        if kind == "console":
            lines += [line.removeprefix("$ ") for line in body.splitlines() if line[:2] == "$ "]
        else:
            name = body.splitlines()[0].removeprefix("# ")
            lines += [f"cat > {name} <<'END-OF-FILE'", body.rstrip("\n"), "END-OF-FILE"]
    return "\n".join(lines) + "\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_group(group: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of them ended by themselves
        os.killpg(group, how)


def run_to_the_end(script: str, folder: Path) -> tuple[int | None, str]:
    """Run a script in a session of its own, so that nothing that it started outlives it."""
    output = folder / "output.log"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with output.open("wb") as log:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PATH": path},
        )
        try:
            status: int | None = shell.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            status = None
            # Politely first: the broker and the agents have children of their own to end.
            end_group(shell.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                shell.wait(5)
        finally:
            end_group(shell.pid, signal.SIGKILL)
            shell.wait()
    return status, output.read_text(errors="replace")


@pytest.mark.slow
@pytest.mark.mqtt
@pytest.mark.torch
def test_every_command_of_the_tutorial_works_as_written(tmp_path):
    text = TUTORIAL.read_text(encoding="utf-8")
    port = str(free_port())
    text = text.replace("--devices alice,bob >", f"--devices alice,bob --port {port} >")
    script = script_of(text.replace(f":{PORT}", f":{port}"))

    status, output = run_to_the_end(script, tmp_path)

    logs = "".join(
        f"\n--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        for log in sorted(tmp_path.glob("*.log"))
    )
    assert status == 0, logs
    for promised in (
        f"mqtt://127.0.0.1:{port}",
        "alice.npz: 561 windows of person 1",
        "slimfleet-ed25519 ",
        "fleet tutorial: finished",
        "the chain holds",
        "-shapley",
        "events: finished",
        "bob is suspended",
    ):
        assert promised in output, promised + logs


def test_the_tutorial_says_which_file_each_block_is():
    for kind, body in BLOCK.findall(TUTORIAL.read_text(encoding="utf-8")):
        first = body.splitlines()[0]
        if kind == "console":
            assert first.startswith("$ "), first
        else:
            assert re.fullmatch(rf"# [a-z]+\.{'py' if kind == 'python' else 'toml'}", first), first
