"""What a device's updates left out so far, carried over to the next one. No torch.

The training process is told what was left out and says what it leaves out now, so that a training
hangs on its command alone, whichever process carries it out (Stich et al., Sparsified SGD with
Memory, NeurIPS 2018, algorithm 1).
"""


class ErrorFeedback:
    """Holds it for the slice of the last training; another slice has other coordinates."""

    def __init__(self) -> None:
        """Begin with nothing left out."""
        self._slice: tuple[str, float] = ("", 0.0)
        self._left = b""

    def of(self, spec_hash: str, width: float) -> bytes:
        """Return what the updates of a slice left out, as safetensors; b"" where nothing."""
        return self._left if self._slice == (spec_hash, width) else b""

    def keep(self, spec_hash: str, width: float, left: bytes) -> None:
        """Remember what the update of a slice left out."""
        self._slice, self._left = (spec_hash, width), left
