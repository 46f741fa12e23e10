"""What goes wrong when a width spec is derived."""

from slimmable.model import ModelError


class DerivationError(ModelError):
    """No width spec can be derived from a network; the message names the line to change."""
