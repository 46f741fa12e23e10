"""How long to wait for blocks that were asked for, and how many of them to ask for again. Pure.

A broker that was just restarted, or that stores a block while it is asked for it, can lose a
question. But on a slow link silence is normal, and each question too many makes it slower. So one
block is asked for at first, more only where that helped, and the patience follows the arrivals.
"""

CAP_S = 30.0
GAPS = 4.0


class Patience:
    """Watches the arrivals of one transfer.

    Attributes:
        wait_s: how long to wait for the next arrival before asking again.
    """

    def __init__(self, base_s: float) -> None:
        """Wait ``base_s`` seconds at first, and never less."""
        self._base_s = base_s
        self._gap_s = 0.0
        self._since: float | None = None
        self._helped = False
        self._questions = 1
        self.wait_s = base_s

    def arrived(self, now: float) -> None:
        """Note that something arrived."""
        if self._since is not None:
            self._gap_s = (self._gap_s + now - self._since) / 2
        self._since = now
        self._helped = True
        self.wait_s = min(CAP_S, max(self._base_s, GAPS * self._gap_s))

    def silent(self, now: float) -> int:
        """Note that nothing arrived in ``wait_s``; return how many blocks to ask for again."""
        if self._helped:
            self._questions *= 2
        else:
            self.wait_s = min(CAP_S, 2 * self.wait_s)
        self._helped = False
        # What arrives now had got lost: the silence before says nothing about the link.
        self._since = now
        return self._questions
