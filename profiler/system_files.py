"""Read the small files in which Linux describes a machine."""

from pathlib import Path


def text_of(file: Path) -> str:
    """Return what a file says, without the blanks around it; "" where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
