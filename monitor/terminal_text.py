"""Text of somebody else on a terminal."""

import textwrap


def wrapped(text: str, columns: int, indent: str = "") -> list[str]:
    """Return text as lines of at most ``columns`` characters; further lines stand two deeper."""
    further = indent + "  "
    return textwrap.wrap(
        text,
        columns,
        initial_indent=indent,
        subsequent_indent=further,
        break_on_hyphens=False,  # of names and digests
    )


def plain(text: str) -> str:
    """Return text without characters that steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
