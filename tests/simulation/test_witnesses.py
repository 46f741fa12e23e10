"""Devices as witnesses of a real server's journal: restarts, losses, and changed histories."""

import asyncio
import base64
import dataclasses
import shutil

import msgspec
import numpy as np

from broker import messages as m
from broker.codec import decode_on, encode
from broker.envelope import sign
from broker.topics import (
    DeviceSays,
    DownTopic,
    ServerSays,
    ServerTells,
    ServerTopic,
    UpTopic,
    parse_topic,
)
from coordinator.fleet import Phase
from coordinator.settings import AuditSettings
from edge_agent.witness_file import leave_acceptance, read_witness
from edge_agent.witness_state import Acceptance
from journal import events as e
from journal.merkle import root_of
from journal.reader import JournalReader
from journal.store import Journal
from tests.fakes.processes import FLEET_SECRET, SIGNING_KEY
from tests.fakes.small_fleet import FLEET, OPERATOR, DeviceSettings, SmallFleet, toy_settings
from tests.fakes.virtual_clock import run, simulated

PRESS, LATHE = "press", "lathe"
CHECKPOINT = ServerTopic(ServerTells.CHECKPOINT)
TWO = {PRESS: DeviceSettings(), LATHE: DeviceSettings()}


def small(folder, **rounds):
    wanted = toy_settings(rounds={"budget": 2, "minimum": 2, "min_devices": 2} | rounds)
    return SmallFleet(folder, TWO, settings=wanted, audit=AuditSettings(minutes=0.5, pause_s=1.0))


def document(fleet):
    """Return what the server's newest checkpoint says, verified."""
    said = fleet.retained(CHECKPOINT)
    return fleet.devices[PRESS].verifier().checkpoint(said.checkpoint) if said else None


def witness(fleet, name=PRESS):
    return fleet.retained(UpTopic(name, DeviceSays.WITNESS))


def kept(fleet, size, *names):
    return lambda: all(witness(fleet, n) and witness(fleet, n).size == size for n in names or TWO)


def newest_kept(fleet, *names):
    """Return a condition: these devices (or all) keep the checkpoint that stands on the broker."""
    return lambda: document(fleet) and kept(fleet, document(fleet).size, *names)()


async def campaign_over(fleet):
    """Wait until the rewards are under a checkpoint that everybody keeps."""
    await fleet.until(fleet.finished)
    records = fleet.server.journal.records()
    (at,) = [one.index for one in records if isinstance(one.event, e.RewardsAllocated)]
    await fleet.until(lambda: document(fleet).size > at)
    await fleet.until(newest_kept(fleet))
    return at


def rewrite(folder, change):
    """Replace the journal of a server at rest by one with a new chain over changed events."""
    records = list(JournalReader(folder).records())
    shutil.rmtree(folder)
    with Journal.open(folder) as journal:
        for record in records:
            journal.append([change(record.event)], record.at)


@simulated
async def test_every_device_keeps_the_checkpoint_that_covers_the_rewards(tmp_path):
    async with small(tmp_path) as fleet:
        at = await campaign_over(fleet)
        found, records = document(fleet), list(fleet.server.journal.records())
        assert found.size > at
        assert found.root == root_of([record.hash for record in records[: found.size]])
        for name, device in fleet.devices.items():
            on_disk = read_witness(device.folder, name, device.verifier())
            assert on_disk.message().root == found.root
            assert fleet.state.devices[name].contradiction is None


@simulated
async def test_an_idle_fleet_makes_no_endless_checkpoints(tmp_path):
    async with small(tmp_path) as fleet:
        await campaign_over(fleet)
        await asyncio.sleep(40.0)
        events, last = fleet.server.journal.head.count, document(fleet)
        said = len([one for one in fleet.broker.log if one[1].endswith("srv/checkpoint")])
        await asyncio.sleep(300.0)
        assert fleet.server.journal.head.count == events
        assert document(fleet) == last
        again = len([one for one in fleet.broker.log if one[1].endswith("srv/checkpoint")])
        assert again == said


@simulated
async def test_restarts_of_everybody_go_on_from_the_same_checkpoint(tmp_path):
    async with small(tmp_path) as fleet:
        await campaign_over(fleet)
        before = document(fleet)
        for process in fleet.processes:
            await process.kill()
            await process.start()
        await fleet.until(fleet.finished)
        await asyncio.sleep(40.0)
        await fleet.until(newest_kept(fleet))
        assert document(fleet).size > before.size
        assert not fleet.events(e.ContradictionReported)


@simulated
async def test_a_device_that_was_away_for_long_asks_for_its_proof_and_gets_it(tmp_path):
    async with small(tmp_path, quorum=1) as fleet:
        await fleet.until(newest_kept(fleet, LATHE))
        before = witness(fleet, LATHE).size
        lathe = fleet.devices[LATHE]
        await lathe.kill()
        for path in fleet.server.folder.glob("checkpoints*"):
            path.unlink()
        await fleet.until(fleet.finished, within_s=900.0)
        await fleet.server.kill()
        for path in fleet.server.folder.glob("checkpoints*"):
            path.unlink()  # so that no proof from before comes with the newest checkpoint
        await fleet.server.start()
        await fleet.until(lambda: document(fleet) and document(fleet).size > before)
        asked = len(fleet.broker.log)
        await lathe.start()
        await fleet.until(kept(fleet, document(fleet).size, LATHE), within_s=900.0)
        proof = f"slimfleet/v1/{FLEET}/d/{LATHE}/down/{ServerSays.PROOF}"
        assert proof in [topic for _, topic, _ in fleet.broker.log[asked:]]
        assert proof not in fleet.broker.retained
        assert not fleet.events(e.ContradictionReported)


def test_a_lost_proof_is_asked_for_again_and_is_no_contradiction(tmp_path, monkeypatch):
    monkeypatch.setattr("edge_agent.witness.ASK_AGAIN_S", 20.0)
    run(lost_proof(tmp_path))


async def lost_proof(tmp_path):
    async with small(tmp_path) as fleet:
        await campaign_over(fleet)
        lost = []

        def lose(user, event):
            topic = parse_topic(FLEET, event.topic)
            proof = topic == DownTopic(PRESS, ServerSays.PROOF)
            bundled = user == PRESS and topic == CHECKPOINT
            if proof and not lost:
                lost.append(event)
                return ()
            return (without_proofs(event),) if bundled and event.payload else (event,)

        fleet.broker.fault = lose
        before = document(fleet).size
        fleet.server.journal.append([e.RoundsHeld(reason="x", resting={})], fleet.clock())
        await fleet.until(lambda: document(fleet).size > before, within_s=700.0)
        await fleet.until(newest_kept(fleet))
        assert len(lost) == 1
        assert witness(fleet).contradiction is None


def without_proofs(event):
    said = decode_on(CHECKPOINT, event.payload)
    return dataclasses.replace(event, payload=encode(msgspec.structs.replace(said, proofs=())))


@simulated
async def test_a_journal_restored_from_an_older_copy_is_reported_recorded_and_accepted(tmp_path):
    async with small(tmp_path) as fleet:
        await fleet.until(fleet.training(1))
        shutil.copytree(fleet.server.folder, tmp_path / "copy")
        await campaign_over(fleet)
        lost = document(fleet).size
        for process in fleet.processes:
            await process.kill()
        shutil.rmtree(fleet.server.folder)
        shutil.copytree(tmp_path / "copy", fleet.server.folder)
        await fleet.server.start()
        await fleet.until(lambda: document(fleet).size < lost)
        for device in fleet.devices.values():
            await device.start()
        await fleet.until(lambda: all(witness(fleet, n).contradiction for n in TWO))
        assert witness(fleet).size == lost
        operator = await fleet.client(OPERATOR)
        await operator.link.subscribe([f"slimfleet/v1/{FLEET}/d/+/up/{DeviceSays.WITNESS}"])
        await fleet.until(lambda: operator.message(UpTopic(PRESS, DeviceSays.WITNESS)))
        assert operator.message(UpTopic(PRESS, DeviceSays.WITNESS)).contradiction
        await fleet.until(lambda: len(fleet.events(e.ContradictionReported)) == 2)
        found = {one.device: one for one in fleet.events(e.ContradictionReported)}
        press, lathe = found[PRESS], found[LATHE]
        assert (press.device, press.kind, press.kept_size) == (PRESS, "smaller-tree", lost)
        assert press.proven
        assert lathe.proven
        # They go on: the campaign that was forgotten is trained again, to its end.
        await fleet.until(fleet.finished, within_s=900.0)
        assert len(fleet.confirmed()) == 2
        # A restart keeps the evidence, and repeats it.
        await fleet.devices[PRESS].kill()
        await fleet.devices[PRESS].start()
        await asyncio.sleep(5.0)
        found = fleet.devices[PRESS].session.witness.state.contradiction
        assert found
        leave_acceptance(
            fleet.devices[PRESS].folder,
            Acceptance(seen=found.seen.payload, reason="restored from the copy of Monday"),
        )
        await fleet.until(lambda: fleet.state.devices[PRESS].contradiction is None)
        assert fleet.events(e.ContradictionSettled) == [
            e.ContradictionSettled(device=PRESS, reason="restored from the copy of Monday")
        ]
        await fleet.until(newest_kept(fleet, PRESS), within_s=900.0)
        assert fleet.state.devices[LATHE].contradiction


@simulated
async def test_a_journal_rewritten_as_a_whole_is_reported_although_it_is_longer(tmp_path):
    """The server changes one old entry, makes a new chain, and hides its old checkpoints."""
    async with small(tmp_path) as fleet:
        await campaign_over(fleet)
        size = document(fleet).size
        server = fleet.server
        await server.kill()

        def another(event):
            if isinstance(event, e.ServerStarted):
                return e.ServerStarted(epoch=event.epoch, signer="f" * 16)
            return event

        rewrite(server.folder / "journal", another)
        for path in server.folder.glob("checkpoints*"):
            path.unlink()
        await server.start()
        await fleet.until(lambda: all(witness(fleet, n).contradiction for n in TWO), within_s=300.0)
        assert document(fleet).size > size
        found = {witness(fleet, name).contradiction.kind for name in TWO}
        assert found == {"broken-proof"}
        assert witness(fleet).contradiction.proof


@simulated
async def test_an_old_checkpoint_from_a_broker_that_forgot_the_newest_is_no_contradiction(tmp_path):
    async with small(tmp_path) as fleet:
        await fleet.until(lambda: document(fleet))
        old = fleet.broker.retained[f"slimfleet/v1/{FLEET}/srv/checkpoint"]
        await campaign_over(fleet)
        await fleet.server.kill()
        press = fleet.devices[PRESS]
        await press.kill()
        fleet.broker.retained[f"slimfleet/v1/{FLEET}/srv/checkpoint"] = old
        await press.start()
        await asyncio.sleep(60.0)
        assert press.session.witness.state.contradiction is None
        await fleet.server.start()
        await fleet.until(lambda: fleet.state.phase is Phase.FINISHED)


@simulated
async def test_forged_checkpoints_and_proofs_make_nobody_doubt(tmp_path):
    async with small(tmp_path) as fleet:
        await campaign_over(fleet)
        forged = m.Checkpoint(fleet=FLEET, size=3, root=bytes(32), signed_at=4e9)
        said = m.SignedCheckpoint(checkpoint=sign(forged, "checkpoint", bytes(32)))
        fleet.inject("server", CHECKPOINT, said)
        proof = m.ConsistencyProof(fleet=FLEET, old_size=1, new_size=9, new_root=b"", hashes=())
        fleet.inject(
            "server",
            DownTopic(PRESS, ServerSays.PROOF),
            m.Proof(proof=sign(proof, "consistency", bytes(32))),
        )
        await asyncio.sleep(30.0)
        assert all(witness(fleet, name).contradiction is None for name in TWO)
        assert not fleet.events(e.ContradictionReported)


@simulated
async def test_no_secret_and_no_sample_of_a_device_stands_in_the_log_of_a_whole_campaign(tmp_path):
    async with small(tmp_path) as fleet:
        await campaign_over(fleet)
        log = b"".join(record.payload for record in fleet.server.journal.records())
        assert b"rewards-allocated" in log
        for secret in (SIGNING_KEY, FLEET_SECRET):
            for written in (secret, secret.hex().encode(), base64.b64encode(secret)):
                assert written not in log
        values = np.load(fleet.samples)["x"].ravel()
        assert not [one for one in values.tolist() if repr(one).encode() in log]
