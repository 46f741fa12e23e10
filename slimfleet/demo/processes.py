"""The processes of the demonstration: started, watched, killed and ended together."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from broker.child import bound_to_parent
from slimfleet.demo.interruption import Interruption

END_S = 5.0


@dataclass
class ProcessGroup:
    """Children of the supervisor; leaving the block ends them all."""

    logs: Path
    interruption: Interruption
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        """Make the folder of the logs."""
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        """End every child."""
        self.end_all()

    def start(self, name: str, *arguments: str) -> None:
        """Start ``python -m slimfleet ...``; its log goes to ``logs/<name>.log``."""
        log_file = (self.logs / f"{name}.log").open("ab")
        with log_file as log, self.interruption.held():
            self.children[name] = subprocess.Popen(
                bound_to_parent([sys.executable, "-m", "slimfleet", *arguments]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl+C is for the supervisor, which then ends its children in order.
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
            )

    def kill(self, name: str) -> None:
        """End one child as a power failure would."""
        child = self.children.pop(name)
        child.kill()
        child.wait()

    def dead(self) -> dict[str, int]:
        """Return the children that ended by themselves, with their status."""
        return {
            name: child.returncode
            for name, child in self.children.items()
            if child.poll() is not None
        }

    def last_log_line(self, name: str) -> str:
        """Return the last line that a child logged."""
        lines = (self.logs / f"{name}.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "(no log)"

    def end_all(self) -> None:
        """Ask every child to end, then kill those that do not."""
        with self.interruption.held():
            for child in self.children.values():
                if child.poll() is None:
                    child.send_signal(signal.SIGTERM)
            for child in self.children.values():
                try:
                    child.wait(END_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            self.children.clear()
