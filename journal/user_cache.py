"""Where a user's programs keep what can be made again."""

import os
import sys
from pathlib import Path


def user_cache_folder() -> Path:
    """Return our folder among those of the user; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base and Path(base).is_absolute():
        folder = Path(base)
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches"
    else:
        folder = Path.home() / ".cache"
    return folder / "slimfleet"
