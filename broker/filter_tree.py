"""Who subscribed to what: finds the subscribers of a topic without asking each of them."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass
class _Node(Generic[S]):
    """One level of all filters that share the levels above it.

    Attributes:
        below: the next level, a name or ``+``.
        here: who subscribed to exactly this; deeper: to this and all below (``#``).
    """

    below: dict[str, "_Node[S]"] = field(default_factory=dict)
    here: set[S] = field(default_factory=set)
    deeper: set[S] = field(default_factory=set)


class FilterTree(Generic[S]):
    """Topic filters of many subscribers, by their levels.

    It agrees with `broker.permissions.matches`, at the cost of the topic's levels instead of one
    comparison per filter.
    """

    def __init__(self) -> None:
        """Start without filters."""
        self._root: _Node[S] = _Node()

    def add(self, filter_: str, subscriber: S) -> None:
        """Add one filter of a subscriber; adding it twice changes nothing."""
        node = self._root
        for level in filter_.split("/"):
            if level == "#":
                node.deeper.add(subscriber)
                return
            node = node.below.setdefault(level, _Node())
        node.here.add(subscriber)

    def remove(self, filter_: str, subscriber: S) -> None:
        """Take one filter of a subscriber back; what was never added is ignored."""
        levels = filter_.split("/")
        path = [self._root]
        for level in levels:
            if level == "#":
                path[-1].deeper.discard(subscriber)
                break
            if level not in path[-1].below:
                return
            path.append(path[-1].below[level])
        else:
            path[-1].here.discard(subscriber)
        for depth in range(len(path) - 1, 0, -1):
            node = path[depth]
            if node.below or node.here or node.deeper:
                return
            del path[depth - 1].below[levels[depth - 1]]

    def subscribers(self, topic: str) -> set[S]:
        """Return everybody one of whose filters matches a topic."""
        found: set[S] = set()
        nodes = [self._root]
        # Wildcards at the front do not match topics that begin with "$".
        wild = not topic.startswith("$")
        for level in topic.split("/"):
            following = []
            for node in nodes:
                if level in node.below:
                    following.append(node.below[level])
                if wild and "+" in node.below:
                    following.append(node.below["+"])
                if wild:
                    found |= node.deeper
            nodes, wild = following, True
        for node in nodes:
            found |= node.here | node.deeper
        return found
