"""Drop what was seen before: at QoS 1 a message may arrive twice, and retained ones late. Pure.

(sender, session, sequence) names a message. Each topic has one sender, so what counts on a topic is
whether (session, sequence) is above the last one seen there. A last will is made before its session
has said anything; it carries sequence 0 and is judged by whoever keeps the leases.
"""

from broker.messages import Message


class LatestOnly:
    """Lets each topic only go forward."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._last: dict[str, tuple[int, int]] = {}

    def admit(self, topic: str, message: Message) -> bool:
        """Return whether this message is newer than all seen on its topic, and remember it."""
        if message.seq == 0:
            return True
        stamp = (message.session, message.seq)
        if stamp <= self._last.get(topic, (0, 0)):
            return False
        self._last[topic] = stamp
        return True
