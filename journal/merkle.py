"""A Merkle tree over the records of a journal: roots, proofs, and how they are checked. Pure.

The tree and both kinds of proof are those of RFC 9162 (Certificate Transparency 2.0): section 2.1.1
for the hashes, 2.1.3 for inclusion, 2.1.4 for consistency; the hash is SHA-256. A leaf is the hash
of a record, see `journal.chain`. The prefixes of leaves and nodes keep one from passing for the
other.

A root of n records says what all of them are. An inclusion proof shows that one record is among
them, a consistency proof that a larger tree only adds to a smaller one; both have about log2(n)
hashes of 32 bytes.
"""

import hashlib
from collections.abc import Callable, Sequence

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of a tree without leaves."""

# Nodes below this level are worked out again when a proof needs them: keeping them would take 64
# bytes a record, and what is above takes one.
_TILE_LEVEL = 6
_TILE = 1 << _TILE_LEVEL


def leaf_hash(record_hash: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + record_hash).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: all that its root takes, in O(log n) hashes.

    Attributes:
        size: how many leaves were appended.
    """

    def __init__(self) -> None:
        """Start with an empty tree."""
        self.size = 0
        self._peaks: list[bytes] = []  # roots of the complete subtrees, from the left

    def append(self, record_hash: bytes) -> None:
        """Add one leaf; O(1) hashes on average."""
        node, size = leaf_hash(record_hash), self.size
        while size & 1:
            node = node_hash(self._peaks.pop(), node)
            size >>= 1
        self._peaks.append(node)
        self.size += 1

    @property
    def root(self) -> bytes:
        """The root of all leaves so far; O(log n) hashes."""
        if not self._peaks:
            return EMPTY_ROOT
        *others, root = self._peaks
        for peak in reversed(others):
            root = node_hash(peak, root)
        return root


def root_of(record_hashes: Sequence[bytes]) -> bytes:
    """Return the root over these records."""
    frontier = Frontier()
    for one in record_hashes:
        frontier.append(one)
    return frontier.root


class Tree:
    """A growing tree that can prove what it holds.

    It keeps the roots of every 64 records and what is above them: about one byte a record. The
    hashes of the records themselves are asked for where a proof needs them.
    """

    def __init__(self, record_hashes: Callable[[int, int], Sequence[bytes]]) -> None:
        """Start with an empty tree.

        Args:
            record_hashes: (first, end) -> hashes of these records, the last excluded.
        """
        self._record_hashes = record_hashes
        self._frontier = Frontier()
        self._tile = Frontier()
        self._levels: list[bytearray] = []  # of complete subtrees, from the level of tiles upwards

    @property
    def size(self) -> int:
        """How many records the tree holds."""
        return self._frontier.size

    @property
    def root(self) -> bytes:
        """The root of all of them; O(log n) hashes."""
        return self._frontier.root

    def append(self, record_hash: bytes) -> None:
        """Add the next record."""
        self._frontier.append(record_hash)
        self._tile.append(record_hash)
        if self._tile.size == _TILE:
            self._keep(self._tile.root)
            self._tile = Frontier()

    def root_at(self, size: int) -> bytes:
        """Return the root that the tree had at an earlier size.

        Raises:
            ValueError: it was never of this size.
        """
        self._check(size)
        return self._root(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the proof that a record is among the first ``size`` ones, from the leaf upwards.

        Raises:
            ValueError: there is no such record, or the tree was never of this size.
        """
        self._check(size)
        if not 0 <= index < size:
            raise ValueError(f"record {index} is not among the first {size}")
        path: list[bytes] = []
        begin, end = 0, size
        while end - begin > 1:
            middle = begin + _split(end - begin)
            if index < middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(begin, middle))
                begin = middle
        return tuple(reversed(path))

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the tree of ``new`` records only adds to that of ``old`` ones.

        Raises:
            ValueError: not 0 < old <= new, or the tree was never of this size.
        """
        self._check(new)
        if not 0 < old <= new:
            raise ValueError(f"no proof from {old} to {new} records")
        path: list[bytes] = []
        begin, end = 0, new
        while end != old:
            middle = begin + _split(end - begin)
            if old <= middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(begin, middle))
                begin = middle
        if begin:  # else the reader knows this one: it is the older root
            path.append(self._root(begin, end))
        return tuple(reversed(path))

    def _check(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ValueError(f"the tree has {self.size} records, {size} were asked for")

    def _keep(self, node: bytes) -> None:
        for level in self._levels:
            level.extend(node)
            if len(level) // HASH_SIZE % 2:
                return
            node = node_hash(bytes(level[-2 * HASH_SIZE : -HASH_SIZE]), node)
        self._levels.append(bytearray(node))

    def _root(self, begin: int, end: int) -> bytes:
        """Return the root of a range as it occurs in the tree: its start is a multiple of it."""
        count = end - begin
        if count & (count - 1):
            middle = begin + _split(count)
            return node_hash(self._root(begin, middle), self._root(middle, end))
        level = count.bit_length() - 1 - _TILE_LEVEL
        if level < 0:
            return root_of(self._record_hashes(begin, end))
        place = begin // count * HASH_SIZE
        return bytes(self._levels[level][place : place + HASH_SIZE])


def _split(count: int) -> int:
    """Return the largest power of two below a count of at least two."""
    return 1 << ((count - 1).bit_length() - 1)


# --- checking -----------------------------------------------------------------------------------


def inclusion_holds(
    record_hash: bytes, index: int, size: int, root: bytes, path: Sequence[bytes]
) -> bool:
    """Return whether a proof shows that a record is number ``index`` of the tree of ``root``.

    RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size or not _hashes(path):
        return False
    place, last, found = index, size - 1, leaf_hash(record_hash)
    for sibling in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(sibling, found)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def consistency_holds(
    old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]
) -> bool:
    """Return whether a proof shows that the tree of ``new_root`` only adds to that of ``old_root``.

    RFC 9162, section 2.1.4.2.
    """
    if not 0 < old <= new or not _hashes(path):
        return False
    if old == new:
        return not path and old_root == new_root
    if old & (old - 1) == 0:
        path = (old_root, *path)
    if not path:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    found_old = found_new = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            found_old, found_new = node_hash(node, found_old), node_hash(node, found_new)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            found_new = node_hash(found_new, node)
        place, last = place >> 1, last >> 1
    return last == 0 and found_old == old_root and found_new == new_root


def _hashes(path: Sequence[bytes]) -> bool:
    return all(len(one) == HASH_SIZE for one in path)
