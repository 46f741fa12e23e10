"""Moves blobs over a link: publishes their blocks, fetches the missing ones, keeps what arrived.

Blocks are published retained, each on a topic of its own, so the publisher sends a blob once
however many parties read it, and a reader asks for exactly the blocks it misses by subscribing to
their topics. Received blocks are kept in a folder: after a restart, or after the link was cut, only
the missing ones travel again.
"""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from broker.blobs import BLOB_LIMIT, Download, check_reference, split
from broker.errors import BlobError, LinkError
from broker.link import Link
from broker.messages import BlobReference
from broker.parts import PartFolder
from broker.patience import Patience
from broker.topics import SharedBlock, UploadBlock, topic_for

WINDOW = 16
TopicOf = Callable[[int], str]


def shared_topics(fleet: str, blob: str) -> TopicOf:
    """Return the topic of each block of a blob that the server shares."""
    return lambda index: topic_for(fleet, SharedBlock(blob, index))


def upload_topics(fleet: str, device: str, blob: str) -> TopicOf:
    """Return the topic of each block of a blob that a device uploads."""
    return lambda index: topic_for(fleet, UploadBlock(device, blob, index))


class BlobPublisher:
    """Publishes the blocks of blobs, retained, and clears them when nobody needs them any more.

    Attributes:
        blocks: how many blocks the broker has acknowledged.
        bytes: how many payload bytes they held.
    """

    def __init__(self, window: int = WINDOW) -> None:
        """Publish at most ``window`` blocks at a time."""
        self._window = window
        self.blocks = 0
        self.bytes = 0

    async def publish(
        self,
        link: Link,
        topic_of: TopicOf,
        data: bytes,
        block_size: int,
        *,
        already: Collection[int] = (),
    ) -> int:
        """Publish the blocks of a blob and return how many were sent.

        Args:
            link: where to.
            topic_of: the topic of a block.
            data: the bytes that travel.
            block_size: of every block but the last.
            already: blocks that the broker holds from an earlier attempt.

        Raises:
            LinkError: the link was stopped before all were acknowledged, or the broker refused.
            SizeError: the broker takes no blocks of this size.
        """
        todo = [
            (topic_of(index), block)
            for index, block in enumerate(split(data, block_size))
            if index not in already
        ]
        await self._send(link, todo)
        return len(todo)

    async def clear(self, link: Link, topic_of: TopicOf, blocks: int) -> None:
        """Make the broker forget the first ``blocks`` blocks of a blob.

        Raises:
            LinkError: the link was stopped before all were acknowledged.
        """
        await self._send(link, [(topic_of(index), b"") for index in range(blocks)])

    async def _send(self, link: Link, todo: Iterable[tuple[str, bytes]]) -> None:
        rest = iter(todo)
        senders = [
            asyncio.ensure_future(self._send_in_turn(link, rest)) for _ in range(self._window)
        ]
        try:
            await asyncio.gather(*senders)
        finally:
            for sender in senders:
                sender.cancel()

    async def _send_in_turn(self, link: Link, rest: Iterator[tuple[str, bytes]]) -> None:
        for topic, block in rest:
            await link.publish(topic, block, retain=True, bulk=True)
            if block:
                self.blocks += 1
                self.bytes += len(block)


@dataclass
class FetchCounts:
    """What a fetcher has seen so far.

    Attributes:
        blocks, bytes: new blocks that arrived over the link, and their size.
        resumed: blocks that were found in the folder and did not travel again.
        duplicates: blocks that arrived though they were here.
        garbage: blocks of a wrong size, and whole blobs of a wrong digest.
        unsaved: blocks that could not be kept (disk full); they are lost in a restart only.
    """

    blocks: int = 0
    bytes: int = 0
    resumed: int = 0
    duplicates: int = 0
    garbage: int = 0
    unsaved: int = 0


@dataclass
class _Fetch:
    """One blob under way."""

    download: Download
    topic_of: TopicOf
    name: str
    patience: Patience
    asked: set[int] = field(default_factory=set)
    arrivals: asyncio.Queue[tuple[int, bytes]] = field(default_factory=asyncio.Queue)
    refused: Counter[int] = field(default_factory=Counter)


class BlobFetcher:
    """Fetches blobs over one link, many at a time.

    The owner of the link hands every received message on a block topic to `offer`.

    Attributes:
        counts: what was seen so far, over all blobs.
    """

    def __init__(
        self,
        link: Link,
        folder: Path,
        *,
        window: int = WINDOW,
        attempts: int = 3,
        patience_s: float = 1.0,
    ) -> None:
        """Fetch over ``link``.

        Args:
            link: where from.
            folder: keeps the blocks of unfinished fetches.
            window: how many blocks of a blob are asked for at a time.
            attempts: how often a garbled block, and a blob of a wrong digest, is asked for.
            patience_s: with nothing received for so long, outstanding blocks are asked for again;
                longer where blocks arrive slowly, and when asking again did not help.
        """
        self._link = link
        self._parts = PartFolder(folder)
        # Most fetches keep nothing: no disk is asked for them.
        self._kept = set(self._parts.names())
        self._window = window
        self._attempts = attempts
        self._patience_s = patience_s
        self._routes: dict[str, tuple[_Fetch, int]] = {}
        self._running: set[str] = set()
        self.counts = FetchCounts()

    def offer(self, topic: str, payload: bytes) -> bool:
        """Take a received message if it is a block that was asked for.

        An empty payload is a block that its publisher has cleared: the block is not there.
        """
        route = self._routes.get(topic)
        if route is None:
            return False
        fetch, index = route
        if payload:
            fetch.arrivals.put_nowait((index, payload))
        return True

    async def fetch(
        self,
        reference: BlobReference,
        topic_of: TopicOf,
        timeout_s: float | None,
        *,
        limit: int = BLOB_LIMIT,
    ) -> bytes:
        """Fetch the missing blocks of a blob and return its bytes, still encrypted.

        Args:
            reference: which blob.
            topic_of: the topic of a block.
            timeout_s: seconds until to give up; what arrived is kept for the next call.
            limit: largest acceptable size in bytes.

        Raises:
            BlobError: it cannot be had: blocks missing at the timeout, or garbage every time.
            LinkError: the link was stopped.
        """
        check_reference(reference, limit)
        name = _part_name(reference, topic_of)
        if name in self._running:
            raise BlobError(f"blob {reference.blob[:12]} is being fetched already; wait for that")
        self._running.add(name)
        try:
            return await self._fetch(reference, topic_of, timeout_s, limit)
        finally:
            self._running.discard(name)

    async def forget(self, keep: Iterable[tuple[BlobReference, TopicOf]] = ()) -> int:
        """Remove what is kept of every fetch but those of ``keep``; return how many fetches."""
        wanted = {_part_name(*pair) for pair in keep} | self._running
        stale = sorted(self._kept - wanted)
        for name in stale:
            await self._discard(name)
        return len(stale)

    async def _discard(self, name: str) -> None:
        if name in self._kept:
            await asyncio.to_thread(self._parts.discard, name)
            self._kept.discard(name)

    async def _fetch(
        self, reference: BlobReference, topic_of: TopicOf, timeout_s: float | None, limit: int
    ) -> bytes:
        name = _part_name(reference, topic_of)
        have = await asyncio.to_thread(self._parts.load, name) if name in self._kept else {}
        download = Download(reference, have, limit=limit)
        self.counts.resumed += reference.blocks - len(download.missing())
        patience = Patience(self._patience_s)
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                return await self._until_right(_Fetch(download, topic_of, name, patience))
        except TimeoutError:
            if not deadline.expired():
                raise
            missing = len(download.missing())
            raise BlobError(
                f"blob {reference.blob[:12]}: {missing} of {reference.blocks} blocks had not"
                f" arrived after {timeout_s:g} s; fetch it again, the others are kept"
            ) from None

    async def _until_right(self, fetch: _Fetch) -> bytes:
        attempts = self._attempts
        while True:
            await self._fill(fetch)
            try:
                return fetch.download.data()
            except BlobError:
                self.counts.garbage += 1
                attempts -= 1
                if not attempts:
                    raise
                fetch.download.start_over()
            finally:
                await self._discard(fetch.name)

    async def _fill(self, fetch: _Fetch) -> None:
        try:
            while not fetch.download.complete:
                # Half a window of hysteresis: one question asks for many blocks.
                if len(fetch.asked) <= self._window // 2:
                    await self._ask(fetch, fetch.download.window(self._window))
                await self._take(fetch)
        finally:
            with contextlib.suppress(LinkError):
                await self._let_go(fetch, tuple(fetch.asked))

    async def _take(self, fetch: _Fetch) -> None:
        try:
            async with asyncio.timeout(fetch.patience.wait_s):
                arrived = [await fetch.arrivals.get()]
        except TimeoutError:
            await self._ask_again(fetch)
            return
        fetch.patience.arrived(asyncio.get_running_loop().time())
        while not fetch.arrivals.empty():
            arrived.append(fetch.arrivals.get_nowait())
        fresh = {index: block for index, block in arrived if self._receive(fetch, index, block)}
        # Let go at once: what is still asked for would travel again after a cut.
        await self._let_go(fetch, tuple({index for index, _ in arrived}))
        # A whole blob is handed out at once: nothing is left to resume.
        if fresh and not fetch.download.complete:
            self._kept.add(fetch.name)
            try:
                await asyncio.to_thread(self._parts.save, fetch.name, fresh)
            except OSError:
                self.counts.unsaved += len(fresh)

    def _receive(self, fetch: _Fetch, index: int, block: bytes) -> bool:
        try:
            fresh = fetch.download.receive(index, block)
        except BlobError:
            self.counts.garbage += 1
            fetch.refused[index] += 1
            if fetch.refused[index] >= self._attempts:
                raise
            return False
        if fresh:
            self.counts.blocks += 1
            self.counts.bytes += len(block)
        else:
            self.counts.duplicates += 1
        return fresh

    async def _ask(self, fetch: _Fetch, indices: Iterable[int]) -> None:
        topics = {fetch.topic_of(i): i for i in indices if i not in fetch.asked}
        fetch.asked.update(topics.values())
        self._routes.update({topic: (fetch, index) for topic, index in topics.items()})
        if topics:
            await self._link.subscribe(tuple(topics))

    async def _ask_again(self, fetch: _Fetch) -> None:
        # The routes stay: what answers the first question may still arrive.
        number = fetch.patience.silent(asyncio.get_running_loop().time())
        topics = [fetch.topic_of(index) for index in sorted(fetch.asked)[:number]]
        await self._link.unsubscribe(topics)
        await self._link.subscribe(topics)

    async def _let_go(self, fetch: _Fetch, indices: Iterable[int]) -> None:
        topics = [fetch.topic_of(index) for index in indices if index in fetch.asked]
        fetch.asked.difference_update(indices)
        for topic in topics:
            self._routes.pop(topic, None)
        if topics:
            await self._link.unsubscribe(topics)


def _part_name(reference: BlobReference, topic_of: TopicOf) -> str:
    # Two devices can upload the same bytes: what one sends must not reach the other's fetch.
    place = hashlib.sha256(topic_of(0).encode()).hexdigest()
    return f"{reference.blob[:32]}-{place[:16]}"
