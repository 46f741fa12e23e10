"""How much memory this process holds, and the most it has held since a given moment."""

import contextlib
import re
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_HIGH_WATER = "5"  # see proc_pid_clear_refs(5)


class PeakMeter:
    """Follows the peak of this process's resident memory from its creation on.

    On Linux the kernel's own high-water mark is reset and read, so no peak is missed. Elsewhere
    the most that `observe` and `sample` saw is all there is.
    """

    def __init__(self) -> None:
        """Start at the memory held now."""
        self._process = psutil.Process()
        self._peak = 0
        self._kernel_counts = False
        with contextlib.suppress(OSError):
            _CLEAR_REFS.write_text(_RESET_HIGH_WATER, encoding="ascii")
            self._kernel_counts = True
        self.sample()

    def sample(self) -> int:
        """Return the resident bytes now, and remember them if they are the most so far."""
        now = int(self._process.memory_info().rss)
        self._peak = max(self._peak, now)
        return now

    def observe(self) -> None:
        """Remember the memory held now where the kernel does not; call it after each step."""
        if not self._kernel_counts:
            self.sample()

    def peak(self) -> int:
        """Return the most resident bytes seen so far."""
        self.sample()
        return max(self._peak, _kernel_high_water()) if self._kernel_counts else self._peak


def _kernel_high_water() -> int:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
