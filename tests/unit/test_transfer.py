"""Blobs over a link: only what is missing travels, whatever happens on the way."""

import asyncio
from collections import Counter

import msgspec
import pytest

from broker.blobs import digest_of, reference, seal, unseal
from broker.errors import BlobError, LinkError
from broker.link import Received
from broker.memory import MemoryBroker, MemoryLink
from broker.parts import PartFolder
from broker.patience import Patience
from broker.topics import SharedBlock, UploadBlock, parse_topic
from broker.transfer import (
    WINDOW,
    BlobFetcher,
    BlobPublisher,
    shared_topics,
    upload_topics,
)

DATA = bytes(range(256)) * 40
BLOCK = 100
BLOCKS = 103


class Shelf:
    """The part of a broker that blobs need: it keeps retained messages and counts what it sends."""

    def __init__(self):
        self.retained = {}
        self.links = []
        self.published = Counter()
        self.delivered = Counter()
        self.most_subscribed = 0

    def publish(self, topic, payload):
        self.published[topic] += 1
        self.retained[topic] = payload
        if not payload:
            del self.retained[topic]
        for link in self.links:
            if topic in link.filters:
                self.deliver(link, topic, payload)

    def deliver(self, link, topic, payload):
        if link.up:
            self.delivered[topic] += 1
            asyncio.get_running_loop().call_soon(link.hand_over, topic, payload)


class ShelfLink:
    """A link to a `Shelf`; ``budget`` deliveries after which it is cut."""

    def __init__(self, shelf, budget=None):
        self.shelf = shelf
        self.filters = set()
        self.up = True
        self.stopped = False
        self.budget = budget
        self.owner = lambda _topic, _payload: False
        self.refused = []
        shelf.links.append(self)

    def hand_over(self, topic, payload):
        if not self.up:
            return
        if not self.owner(topic, payload):
            self.refused.append(topic)
        if self.budget is not None:
            self.budget -= 1
            if self.budget == 0:
                self.up = False

    def reconnect(self):
        self.up, self.budget = True, None
        for topic in sorted(self.filters & set(self.shelf.retained)):
            self.shelf.deliver(self, topic, self.shelf.retained[topic])

    async def publish(self, topic, payload, *, retain=False, bulk=False, expiry_s=None):
        assert retain
        assert bulk
        await asyncio.sleep(0)
        if self.stopped:
            raise LinkError("stopped")
        self.shelf.publish(topic, payload)

    async def subscribe(self, filters):
        assert not any("+" in wanted or "#" in wanted for wanted in filters)
        self.filters.update(filters)
        self.shelf.most_subscribed = max(self.shelf.most_subscribed, len(self.filters))
        for topic in filters:
            if topic in self.shelf.retained:
                self.shelf.deliver(self, topic, self.shelf.retained[topic])
        await asyncio.sleep(0)

    async def unsubscribe(self, filters):
        if self.stopped:
            raise LinkError("stopped")
        self.filters.difference_update(filters)
        await asyncio.sleep(0)


def blob_of(data=DATA, block_size=BLOCK):
    described = reference(data, block_size, digest_of(data), False)
    return described, shared_topics("plant", described.blob)


def device(shelf, folder, budget=None, **settings):
    link = ShelfLink(shelf, budget)
    fetcher = BlobFetcher(link, folder, **settings)
    link.owner = fetcher.offer
    return link, fetcher


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
async def stocked(shelf):
    described, topic_of = blob_of()
    await BlobPublisher().publish(ShelfLink(shelf), topic_of, DATA, described.block_size)
    return shelf


async def test_a_published_blob_is_fetched_block_by_block(stocked, tmp_path):
    link, fetcher = device(stocked, tmp_path)
    assert await fetcher.fetch(*blob_of(), 10) == DATA
    assert fetcher.counts.blocks == BLOCKS
    assert fetcher.counts.bytes == len(DATA)
    assert set(stocked.delivered.values()) == {1}
    assert stocked.most_subscribed <= 16
    assert link.filters == set()
    assert list(tmp_path.iterdir()) == []


async def test_blocks_are_published_once_however_many_devices_fetch(shelf, tmp_path):
    described, topic_of = blob_of()
    fetches = [device(shelf, tmp_path / str(n))[1].fetch(described, topic_of, 10) for n in range(8)]
    publisher = BlobPublisher()
    sent, *got = await asyncio.gather(
        publisher.publish(ShelfLink(shelf), topic_of, DATA, BLOCK), *fetches
    )
    assert got == [DATA] * 8
    assert sent == publisher.blocks == BLOCKS
    assert publisher.bytes == len(DATA)
    assert shelf.published.total() == BLOCKS


async def test_a_fetch_of_one_block_asks_no_disk(shelf, tmp_path, monkeypatch):
    described, topic_of = blob_of(b"small")
    await BlobPublisher().publish(ShelfLink(shelf), topic_of, b"small", BLOCK)
    _, fetcher = device(shelf, tmp_path)
    for method in ("load", "save", "discard", "names"):
        monkeypatch.setattr(PartFolder, method, None)
    assert await fetcher.fetch(described, topic_of, 10) == b"small"


async def test_after_a_cut_only_the_missing_blocks_travel_again(stocked, tmp_path):
    link, fetcher = device(stocked, tmp_path, budget=40)
    fetch = asyncio.ensure_future(fetcher.fetch(*blob_of(), 10))
    await until(lambda: not link.up and fetcher.counts.blocks == 40)
    before = stocked.delivered.total()
    link.reconnect()
    assert await fetch == DATA
    assert fetcher.counts.blocks == BLOCKS
    assert fetcher.counts.duplicates == 0
    assert stocked.delivered.total() - before == BLOCKS - 40


async def test_after_a_restart_only_the_missing_blocks_travel_again(stocked, tmp_path):
    link, fetcher = device(stocked, tmp_path, budget=40)
    fetch = asyncio.ensure_future(fetcher.fetch(*blob_of(), 10))
    kept = PartFolder(tmp_path)
    await until(lambda: kept.names() and len(kept.load(kept.names()[0])) == 40)
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    assert link.filters == set()

    _, again = device(stocked, tmp_path)
    assert await again.fetch(*blob_of(), 10) == DATA
    assert (again.counts.resumed, again.counts.blocks) == (40, BLOCKS - 40)


async def test_a_block_that_a_power_cut_tore_is_fetched_again(stocked, tmp_path):
    link, fetcher = device(stocked, tmp_path, budget=40)
    with pytest.raises(BlobError, match="63 of 103 blocks had not arrived"):
        await fetcher.fetch(*blob_of(), 0.3)
    assert not link.up
    parts = sorted(tmp_path.glob("*/*.part"))
    assert len(parts) == 40
    parts[0].write_bytes(b"")
    parts[1].write_bytes(b"\0" * (32 + BLOCK))
    parts[2].write_bytes(parts[2].read_bytes()[:-1])
    _, again = device(stocked, tmp_path)
    assert await again.fetch(*blob_of(), 10) == DATA
    assert again.counts.resumed == 37


async def test_blocks_may_arrive_before_while_and_after_they_are_published(shelf, tmp_path):
    described, topic_of = blob_of()
    publisher = BlobPublisher()
    link, fetcher = device(shelf, tmp_path)
    fetch = asyncio.ensure_future(fetcher.fetch(described, topic_of, 10))
    await until(lambda: link.filters)
    assert await publisher.publish(ShelfLink(shelf), topic_of, DATA, BLOCK) == BLOCKS
    assert await fetch == DATA


async def test_an_upload_goes_on_where_it_was(shelf, tmp_path):
    described, _ = blob_of()
    topic_of = upload_topics("plant", "dev-1", described.blob)
    publisher = BlobPublisher()
    sent = await publisher.publish(ShelfLink(shelf), topic_of, DATA, BLOCK, already=range(100))
    assert sent == shelf.published.total() == 3


async def test_a_garbled_block_is_asked_for_again(stocked, tmp_path):
    described, topic_of = blob_of()
    right = stocked.retained[topic_of(5)]
    stocked.retained[topic_of(5)] = b"garbage"
    _link, fetcher = device(stocked, tmp_path)
    fetch = asyncio.ensure_future(fetcher.fetch(described, topic_of, 10))
    await until(lambda: fetcher.counts.garbage == 1)
    stocked.publish(topic_of(5), right)
    assert await fetch == DATA


async def test_a_block_that_stays_garbled_ends_the_fetch(stocked, tmp_path):
    described, topic_of = blob_of()
    stocked.retained[topic_of(5)] = b"garbage"
    link, fetcher = device(stocked, tmp_path, attempts=4)
    with pytest.raises(BlobError, match="as block 5 of 103"):
        await fetcher.fetch(described, topic_of, 10)
    assert stocked.delivered[topic_of(5)] == fetcher.counts.garbage == 4
    assert link.filters == set()


async def test_a_blob_that_stays_wrong_ends_the_fetch_and_leaves_nothing_behind(stocked, tmp_path):
    described, topic_of = blob_of()
    stocked.retained[topic_of(5)] = b"\0" * BLOCK
    _, fetcher = device(stocked, tmp_path, attempts=2)
    with pytest.raises(BlobError, match="another digest"):
        await fetcher.fetch(described, topic_of, 10)
    assert stocked.delivered.total() == 2 * BLOCKS
    assert list(tmp_path.iterdir()) == []


async def test_a_blob_that_was_wrong_once_is_fetched_anew(stocked, tmp_path):
    described, topic_of = blob_of()
    right = stocked.retained[topic_of(5)]
    stocked.retained[topic_of(5)] = b"\0" * BLOCK
    _, fetcher = device(stocked, tmp_path)
    fetch = asyncio.ensure_future(fetcher.fetch(described, topic_of, 10))
    await until(lambda: fetcher.counts.blocks > 50)
    stocked.publish(topic_of(5), right)
    assert await fetch == DATA


async def test_a_forged_reference_asks_for_nothing(stocked, tmp_path):
    described, topic_of = blob_of()
    _link, fetcher = device(stocked, tmp_path)
    for forged in (
        msgspec.structs.replace(described, block_size=0),
        msgspec.structs.replace(described, size=2**60),
    ):
        with pytest.raises(BlobError):
            await fetcher.fetch(forged, topic_of, 10)
    with pytest.raises(BlobError, match="outside 0 to 1000"):
        await fetcher.fetch(described, topic_of, 10, limit=1000)
    assert stocked.delivered.total() == 0


async def test_an_empty_blob_needs_no_block(shelf, tmp_path):
    _, fetcher = device(shelf, tmp_path)
    assert await fetcher.fetch(*blob_of(b""), 10) == b""


async def test_what_was_not_asked_for_is_not_taken(stocked, tmp_path):
    _, fetcher = device(stocked, tmp_path)
    assert not fetcher.offer("slimfleet/v1/plant/srv/state", b"hello")
    assert not fetcher.offer(blob_of()[1](0), b"block")


async def test_a_cleared_block_is_waited_for(stocked, tmp_path):
    described, topic_of = blob_of()
    blocks = dict(stocked.retained)
    await BlobPublisher().clear(ShelfLink(stocked), topic_of, BLOCKS)
    assert stocked.retained == {}
    link, fetcher = device(stocked, tmp_path)
    fetch = asyncio.ensure_future(fetcher.fetch(described, topic_of, 10))
    await until(lambda: link.filters)
    await BlobPublisher().clear(ShelfLink(stocked), topic_of, BLOCKS)
    for topic, block in blocks.items():
        stocked.publish(topic, block)
    assert await fetch == DATA
    assert fetcher.counts.garbage == 0


async def test_a_question_that_the_broker_lost_is_asked_again(shelf, tmp_path):
    described, topic_of = blob_of(b"0123456789", 5)
    _, fetcher = device(shelf, tmp_path, patience_s=0.02)
    fetch = asyncio.ensure_future(fetcher.fetch(described, topic_of, 10))
    await asyncio.sleep(0)
    shelf.retained.update({topic_of(0): b"01234", topic_of(1): b"56789"})
    assert await fetch == b"0123456789"


async def test_many_blobs_are_fetched_over_one_link(shelf, tmp_path):
    contents = [bytes([n]) * (300 + n) for n in range(10)]
    link, fetcher = device(shelf, tmp_path)
    publisher = BlobPublisher()
    for data in contents:
        await publisher.publish(link, blob_of(data)[1], data, BLOCK)
    assert await asyncio.gather(*(fetcher.fetch(*blob_of(data), 10) for data in contents)) == (
        contents
    )
    assert link.filters == set()


async def test_two_devices_that_upload_the_same_bytes_do_not_disturb_each_other(shelf, tmp_path):
    described, _ = blob_of()
    honest, liar = (upload_topics("plant", name, described.blob) for name in ("dev-1", "dev-2"))
    link, fetcher = device(shelf, tmp_path)
    await BlobPublisher().publish(link, honest, DATA, BLOCK)
    await BlobPublisher().publish(link, liar, b"\0" * len(DATA), BLOCK)
    good, bad = await asyncio.gather(
        fetcher.fetch(described, honest, 10),
        fetcher.fetch(described, liar, 10),
        return_exceptions=True,
    )
    assert good == DATA
    assert isinstance(bad, BlobError)


async def test_the_same_blob_is_not_fetched_twice_at_a_time(shelf, tmp_path):
    link, fetcher = device(shelf, tmp_path)
    fetch = asyncio.ensure_future(fetcher.fetch(*blob_of(), 10))
    await until(lambda: link.filters)
    with pytest.raises(BlobError, match="already"):
        await fetcher.fetch(*blob_of(), 10)
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch


async def test_a_full_disk_does_not_stop_a_fetch(stocked, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    _, fetcher = device(stocked, in_the_way)
    assert await fetcher.fetch(*blob_of(), 10) == DATA
    # What completes the blob is handed out at once and needs no place on the disk.
    assert BLOCKS - WINDOW <= fetcher.counts.unsaved < BLOCKS


async def test_kept_blocks_that_nobody_wants_any_more_are_removed(stocked, tmp_path):
    described, topic_of = blob_of()
    _, fetcher = device(stocked, tmp_path, budget=10)
    with pytest.raises(BlobError):
        await fetcher.fetch(described, topic_of, 0.1)
    assert await fetcher.forget([(described, topic_of)]) == 0
    assert await fetcher.forget() == 1
    assert list(tmp_path.iterdir()) == []


async def test_a_stopped_link_ends_publishing_with_a_link_error(shelf):
    link = ShelfLink(shelf)
    link.stopped = True
    with pytest.raises(LinkError):
        await BlobPublisher().publish(link, blob_of()[1], DATA, BLOCK)


async def test_an_encrypted_blob_makes_the_whole_way(shelf, tmp_path):
    key = b"k" * 32
    cipher, described = seal(DATA, key, BLOCK)
    topic_of = shared_topics("plant", described.blob)
    link, fetcher = device(shelf, tmp_path)
    await BlobPublisher().publish(link, topic_of, cipher, BLOCK)
    assert unseal(described, await fetcher.fetch(described, topic_of, 10), key) == DATA


async def test_a_transfer_over_a_real_link_survives_cuts_on_both_sides(tmp_path):
    broker = MemoryBroker()
    travelled = Counter()

    def count(user, received):
        travelled[user] += 1
        # The first time around, the network goes away in the middle of a window.
        if user == "dev-1" and travelled[user] in {20, 61}:
            asyncio.get_running_loop().call_soon(broker.cut, user)
            asyncio.get_running_loop().call_soon(broker.heal, user)
        return [received]

    broker.fault = count
    server, receiver = MemoryLink(broker, "server"), MemoryLink(broker, "dev-1")
    fetcher = BlobFetcher(receiver, tmp_path)

    async def route():
        async for event in receiver.events():
            if isinstance(event, Received):
                fetcher.offer(event.topic, event.payload)

    routing = asyncio.ensure_future(route())
    await asyncio.gather(server.start(), receiver.start())
    described, topic_of = blob_of()
    sending = asyncio.ensure_future(BlobPublisher().publish(server, topic_of, DATA, BLOCK))
    assert await fetcher.fetch(described, topic_of, 10) == DATA
    assert await sending == BLOCKS
    assert fetcher.counts.blocks == BLOCKS
    assert BLOCKS <= travelled["dev-1"] <= BLOCKS + 2 * WINDOW
    await BlobPublisher().clear(server, topic_of, BLOCKS)
    assert broker.retained == {}
    await asyncio.gather(server.stop(), receiver.stop())
    await routing


def test_a_slow_link_is_asked_again_for_single_blocks_and_ever_less_often():
    patience, now, asked = Patience(1.0), 0.0, []
    for _ in range(10):
        # A block takes 13 s, much longer than the patience at first.
        arrives = now + 13.0
        while now + patience.wait_s < arrives:
            now += patience.wait_s
            asked.append(patience.silent(now))
        now = arrives
        patience.arrived(now)
    assert asked[:3] == [1, 1, 1]
    assert len(asked) <= 6
    assert patience.wait_s == 30.0


def test_blocks_that_got_lost_are_asked_for_in_growing_numbers():
    patience, now, lost, rounds = Patience(1.0), 0.0, 16, 0
    patience.arrived(now)
    while lost > 0:
        now += patience.wait_s
        lost -= patience.silent(now)
        rounds += 1
        patience.arrived(now + 0.01)
    assert rounds <= 4
    assert patience.wait_s == 1.0


def test_a_publisher_that_is_away_is_not_asked_in_a_busy_loop():
    patience, now, asked = Patience(1.0), 0.0, 0
    while now < 3600.0:
        now += patience.wait_s
        asked += patience.silent(now)
    assert asked < 130


def test_block_topics_are_topics_of_the_protocol():
    blob = "ab" * 32
    assert parse_topic("plant", shared_topics("plant", blob)(7)) == SharedBlock(blob, 7)
    assert parse_topic("plant", upload_topics("plant", "dev-1", blob)(7)) == (
        UploadBlock("dev-1", blob, 7)
    )
