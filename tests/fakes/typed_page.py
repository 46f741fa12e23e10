"""A page of the documents as a shell script, and what came of running it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(console|toml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
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
