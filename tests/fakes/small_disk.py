"""A disk that is really full: a file system of one megabyte, or a limit on the size of files."""

import contextlib
import os
import subprocess
from pathlib import Path

import psutil
import pytest

SIZE = "1m"
SMALLER_THAN_ANY_MODEL = 512


class SmallDisk:
    """A folder whose disk can be filled.

    Mounting needs root. Without, the system refuses the process to write files beyond a few bytes,
    which is the same to whoever writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._mounted = False
        with contextlib.suppress(OSError):
            answer = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder],
                capture_output=True,
                check=False,
            )
            self._mounted = answer.returncode == 0
        if not self._mounted and not hasattr(psutil.Process, "rlimit"):
            pytest.skip("NOT TESTED: a full disk can be had as root, or on Linux")

    def fill(self, pid: int) -> None:
        """Leave no room for the process that has the folder."""
        if not self._mounted:
            limit = (SMALLER_THAN_ANY_MODEL, psutil.RLIM_INFINITY)
            psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, limit)
            return
        filler = os.open(self.folder / "filler", os.O_WRONLY | os.O_CREAT)
        try:
            while os.write(filler, bytes(4096)):
                pass
        except OSError:
            pass  # full
        finally:
            os.close(filler)

    def make_room(self, pid: int) -> None:
        """Take back what was done."""
        if self._mounted:
            (self.folder / "filler").unlink()
        else:
            endless = (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY)
            psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, endless)

    def close(self) -> None:
        if self._mounted:
            subprocess.run(["umount", "--lazy", self.folder], check=False)
