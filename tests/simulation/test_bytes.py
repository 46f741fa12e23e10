"""What travels: weights of one width once for all devices, and nothing wider can be opened."""

import asyncio
from collections import Counter

import pytest

from broker.blobs import unseal
from broker.codec import decode_on
from broker.errors import BlobError
from broker.topics import DownTopic, ServerSays, SharedBlock, parse_topic
from journal import events as e
from tests.fakes.small_fleet import FLEET, SERVER, DeviceSettings, SmallFleet, toy_settings
from tests.fakes.virtual_clock import run, simulated

ROUNDS = 3


def bytes_of_a_campaign(folder, widths):
    """Return what the server published: block bytes per round, and control bytes in all."""

    async def play():
        folder.mkdir()
        devices = {
            f"device-{number}": DeviceSettings(trainer={"widest": width})
            for number, width in enumerate(widths)
        }
        rounds = {"budget": ROUNDS, "min_devices": len(devices), "quorum": len(devices)}
        async with SmallFleet(folder, devices, settings=toy_settings(rounds=rounds)) as fleet:
            await fleet.until(fleet.finished)
            purpose = {one.blob: one.purpose for one in fleet.events(e.BlobShared)}
            blocks, control = Counter(), 0
            for user, topic, payload in fleet.broker.log:
                where = parse_topic(FLEET, topic)
                if user == SERVER and isinstance(where, SharedBlock):
                    blocks[purpose[where.blob]] += len(payload)
                elif user == SERVER:
                    control += len(payload)
            recorded = {one.purpose: one.size for one in fleet.events(e.BlobShared)}
            return blocks, control, recorded, dict(fleet.server.link.sent_bytes)

    return run(play())


def test_the_blob_bytes_of_a_round_do_not_grow_with_the_devices_of_a_width(tmp_path):
    few, few_control, *_ = bytes_of_a_campaign(tmp_path / "two", [1.0] * 2)
    many, many_control, *_ = bytes_of_a_campaign(tmp_path / "six", [1.0] * 6)
    for number in range(1, ROUNDS + 1):
        assert few[f"round-{number}"] == many[f"round-{number}"] > 0
    assert many_control > few_control, "control bytes are per device, and counted apart"


def test_each_further_width_costs_its_own_weights_once(tmp_path):
    one, *_ = bytes_of_a_campaign(tmp_path / "one", [1.0, 1.0])
    two, *_ = bytes_of_a_campaign(tmp_path / "two", [1.0, 0.5, 0.5, 0.5])
    full, both = one["round-1"], two["round-1"]
    assert full < both < 2 * full


def test_the_link_counts_what_is_recorded(tmp_path):
    blocks, control, recorded, sent = bytes_of_a_campaign(tmp_path / "x", [1.0])
    assert sent == {"bulk": blocks.total(), "control": control}
    assert recorded["round-1"] == blocks["round-1"]


@simulated
async def test_a_device_cannot_open_a_wider_blob_that_it_listens_to(tmp_path):
    devices = {
        "press": DeviceSettings(),
        "lathe": DeviceSettings(trainer={"widest": 0.5}),
    }
    plan = toy_settings(rounds={"budget": 1, "min_devices": 2})
    async with SmallFleet(tmp_path, devices, settings=plan) as fleet:
        # Who is on the broker as the lathe hears what the lathe may hear, and all blocks.
        heard, tasks = {}, {}

        def fault(user, event):
            topic = parse_topic(FLEET, event.topic)
            if event.payload and isinstance(topic, DownTopic) and topic.channel is ServerSays.TASK:
                tasks[user] = decode_on(topic, event.payload)
            if event.payload and user == "spy" and isinstance(topic, SharedBlock):
                heard[topic.blob, topic.index] = event.payload
            return (event,)

        fleet.broker.fault = fault
        spy = await fleet.client("spy")
        await spy.link.subscribe([f"slimfleet/v1/{FLEET}/#"])
        await fleet.until(lambda: fleet.events(e.UpdateAccepted) if fleet.training(1)() else False)
        await fleet.until(lambda: set(tasks) >= {"press", "lathe"})

        def collected(task):
            indices = range(task.weights.blocks)
            return b"".join(heard[task.weights.blob, index] for index in indices)

        own, wider = tasks["lathe"], tasks["press"]
        assert "spy" not in tasks, "a task, and with it the key, is read by its device only"
        assert len(unseal(own.weights, collected(own), own.key)) > 0
        assert len(unseal(wider.weights, collected(wider), wider.key)) > 0
        with pytest.raises(BlobError, match="wrong key"):
            unseal(wider.weights, collected(wider), own.key)
        await fleet.until(fleet.finished)


@simulated
async def test_no_key_is_read_by_an_operator_or_stands_in_the_journal(tmp_path):
    plan = toy_settings(rounds={"budget": 1})
    keys = []
    async with SmallFleet(tmp_path, {"press": DeviceSettings()}, settings=plan) as fleet:

        def fault(user, event):
            topic = parse_topic(FLEET, event.topic)
            carries = isinstance(topic, DownTopic) and topic.channel in {
                ServerSays.TASK,
                ServerSays.DEPLOYMENT,
            }
            if event.payload and carries:
                keys.append((user, decode_on(topic, event.payload).key))
            return (event,)

        fleet.broker.fault = fault
        operator = await fleet.client("operator-anna")
        await operator.link.subscribe([f"slimfleet/v1/{FLEET}/#"])
        await fleet.until(fleet.finished)
        await asyncio.sleep(1.0)
        assert {user for user, _ in keys} == {"press"}
        written = b"".join(record.payload for record in fleet.server.journal.records())
        for key in {key for _, key in keys if key}:
            assert key not in written
            assert key.hex().encode() not in written
