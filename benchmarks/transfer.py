"""How fast does a blob travel over the embedded broker?

A publisher and a reader in this process move a blob in blocks, as server and device do: publish
until the broker has acknowledged every block, then fetch by subscribing to block after block. The
limits of the same run: the same bytes over a plain TCP connection on loopback, and a copy in
memory.
"""

import argparse
import asyncio
import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.arguments import positive
from benchmarks.results import Ratio, Result, Table
from broker.blobs import digest_of, reference
from broker.codec import BLOCK_LIMIT
from broker.embedded import EmbeddedBroker
from broker.link import Received
from broker.mqtt import Credentials, MqttLink
from broker.permissions import device_permissions, server_permissions
from broker.transfer import BlobFetcher, BlobPublisher, shared_topics

FLEET = "bench"
SERVER = "server"
MB = 1e6
PATIENCE_S = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--megabytes", type=positive, default=16, help="size of the blob")
    parser.add_argument("--readers", type=positive, default=4, help="readers at the same time")
    parser.add_argument("--repeats", type=positive, default=5, help="the median is taken")
    parser.add_argument(
        "--block", type=positive, default=BLOCK_LIMIT, metavar="BYTES", help="block size"
    )


def measure(arguments: argparse.Namespace) -> Result:
    """Move the blob and its limits, in turn."""
    size = arguments.megabytes * int(MB)
    copies = [memory_copy_s(size) for _ in range(arguments.repeats)]
    loopback = [loopback_s(size, arguments.block) for _ in range(arguments.repeats)]
    with tempfile.TemporaryDirectory(prefix="slimfleet-bench-") as folder:
        publish, one, many = asyncio.run(_over_broker(arguments, size, Path(folder)))
    speeds = {
        "copy in memory": _speed(size, copies),
        "plain TCP on loopback": _speed(size, loopback),
        "publish, until every block is acknowledged": _speed(size, publish),
        "fetch, one reader": _speed(size, one),
        f"fetch, {arguments.readers} readers together": _speed(size * arguments.readers, many),
    }
    limit = speeds["plain TCP on loopback"]
    return Result(
        name="transfer",
        summary="a blob over the embedded broker against plain TCP",
        tables=(
            Table(
                f"{arguments.megabytes} MB in blocks of {arguments.block} bytes, MB/s",
                ("what", "slowest", "median", "fastest"),
                tuple((name, *found) for name, found in speeds.items()),
            ),
        ),
        ratios=tuple(
            Ratio(name, found[1], "plain TCP on loopback", limit[1], "MB/s")
            for name, found in speeds.items()
            if name.startswith(("publish", "fetch"))
        ),
        notes=(
            (
                "server and readers share one process and its interpreter lock here; in a fleet"
                " each has its own"
            ),
            (
                "the broker writes what is retained to its store, and readers write each block to"
                " disk, so that a restart goes on where it was"
            ),
        ),
    )


def _speed(size: int, seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return slowest, median and fastest in MB/s."""
    return tuple(size / MB / s for s in (max(seconds), median(seconds), min(seconds)))  # type: ignore[return-value]


def memory_copy_s(size: int) -> float:
    """Return the seconds of one copy; the target is there already, as a buffer is in a socket."""
    source, target = bytearray(os.urandom(size)), bytearray(size)
    started = time.perf_counter()
    target[:] = source
    return time.perf_counter() - started


def loopback_s(size: int, block: int) -> float:
    """Return the seconds in which a thread sends so many bytes and another reads them all."""
    data = bytes(block)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            with socket.create_connection(server.getsockname()) as sender:
                left = size
                while left > 0:
                    sender.sendall(data[: min(left, block)])
                    left -= block

        thread = threading.Thread(target=send)
        thread.start()
        connection, _ = server.accept()
        with connection:
            buffer = bytearray(block)
            started = time.perf_counter()
            while connection.recv_into(buffer):
                pass
            seconds = time.perf_counter() - started
        thread.join()
    return seconds


class Reader:
    """A device that fetches blobs."""

    def __init__(self, link: MqttLink, folder: Path) -> None:
        """Read over ``link``; unfinished blocks go to ``folder``."""
        self.link = link
        self.fetcher = BlobFetcher(link, folder)
        self._listening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and listen."""
        await self.link.start()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for event in self.link.events():
            if isinstance(event, Received):
                self.fetcher.offer(event.topic, event.payload)

    async def stop(self) -> None:
        """Leave."""
        await self.link.stop()
        if self._listening:
            await self._listening


async def _over_broker(
    arguments: argparse.Namespace, size: int, folder: Path
) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of publishing, of one reader, and of all readers, per repeat."""
    names = [f"reader-{number}" for number in range(arguments.readers)]
    may = {SERVER: server_permissions(FLEET)}
    may |= {name: device_permissions(FLEET, name) for name in names}
    users = {name: (os.urandom(8).hex(), allowed) for name, allowed in may.items()}
    publish: list[float] = []
    one: list[float] = []
    many: list[float] = []
    with EmbeddedBroker(folder / "broker", users=users) as broker:

        def link(name: str) -> MqttLink:
            credentials = Credentials(username=name, password=users[name][0])
            return MqttLink(broker.address, name, credentials, None, random.Random(name))

        server = Reader(link(SERVER), folder / SERVER)
        readers = [Reader(link(name), folder / name) for name in names]
        everybody = [server, *readers]
        await asyncio.gather(*(party.start() for party in everybody))
        for _ in range(arguments.repeats):
            data = os.urandom(size)  # new bytes each time: nothing is there already
            blob = reference(data, arguments.block, digest_of(data), encrypted=False)
            topics = shared_topics(FLEET, blob.blob)
            started = time.perf_counter()
            await BlobPublisher().publish(server.link, topics, data, arguments.block)
            published = time.perf_counter()
            await readers[0].fetcher.fetch(blob, topics, PATIENCE_S)
            fetched = time.perf_counter()
            await asyncio.gather(
                *(reader.fetcher.fetch(blob, topics, PATIENCE_S) for reader in readers)
            )
            publish.append(published - started)
            one.append(fetched - published)
            many.append(time.perf_counter() - fetched)
            await BlobPublisher().clear(server.link, topics, blob.blocks)
        await asyncio.gather(*(party.stop() for party in everybody))
    return publish, one, many
