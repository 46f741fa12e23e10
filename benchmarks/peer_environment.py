"""Programs that we are measured against, in an environment of their own.

A peer's packages go into a virtual environment in the user's cache, never among ours: what it needs
may contradict what we need. The networks' library is the exception, it is borrowed from our
environment: so both sides compute with the same one, and the installation stays small.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.errors import BenchmarkError

READY = "installed"
INSTALL_TIMEOUT_S = 1800.0


def cache_folder() -> Path:
    """Return where environments of peers are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "slimfleet-benchmarks"


def peer_python(folder: Path, name: str, requirements: Sequence[str]) -> Path:
    """Return the interpreter of a peer's environment, which is made where it is missing.

    Args:
        folder: keeps the environments.
        name: of the peer.
        requirements: what pip installs.

    Raises:
        BenchmarkError: it cannot be installed; the message is one line.
    """
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}-torch{version('torch')}"
    home = folder / f"{name}-{ours}"
    python = home / "bin" / "python"
    if (home / READY).exists():
        _borrow(home)
        return python
    shutil.rmtree(home, ignore_errors=True)
    try:
        venv.create(home, with_pip=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchmarkError(f"{name}: no environment can be made in {home}: {error}") from error
    wanted = [*requirements, f"numpy=={version('numpy')}"]
    _install(name, python, wanted)
    _borrow(home)
    (home / READY).touch()
    return python


def _borrow(home: Path) -> None:
    """Let the environment see our packages, from wherever this program runs today."""
    place = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    # Read after the environment's own packages, so that only what it lacks comes from ours.
    (place / "site-packages" / "zz-borrowed.pth").write_text(
        sysconfig.get_path("purelib") + "\n", encoding="utf-8"
    )


def _install(name: str, python: Path, wanted: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *wanted],
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchmarkError(f"{name} cannot be installed: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = (lines or done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise BenchmarkError(f"{name} cannot be installed: {last}")
