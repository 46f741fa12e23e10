"""Bad input: refused with its reason, told to the sender, and without harm to anybody else."""

import asyncio
import pathlib
import tempfile
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from broker import messages as m
from broker.codec import BLOCK_LIMIT, CONTROL_LIMIT, MESSAGE_OF, encode
from broker.envelope import generate_signing_key, sign
from broker.errors import SizeError
from broker.messages import DropReason, InstallState, Verdict
from broker.topics import (
    CommandTopic,
    DeviceSays,
    DownTopic,
    ServerSays,
    ServerTells,
    ServerTopic,
    Topic,
    UploadBlock,
    UpTopic,
    parse_topic,
)
from broker.transfer import shared_topics
from journal import events as e
from journal.reader import TELEMETRY_START, JournalReader
from slimmable.state import encode_state
from tests.fakes.hostile_messages import hostile
from tests.fakes.processes import SIGNING_KEY
from tests.fakes.small_fleet import (
    EPOCH,
    FLEET,
    OPERATOR,
    SERVER,
    DeviceSettings,
    SmallFleet,
    toy_settings,
)
from tests.fakes.virtual_clock import run, simulated

PRESS, LATHE, ROGUE = "press", "lathe", "rogue"
ONE_ROUND = toy_settings(rounds={"budget": 1, "min_devices": 2})


# --- updates ------------------------------------------------------------------------------------


def with_nan(state):
    state["first"][0, 0] = np.nan
    return state


def with_infinity(state):
    state["second"][0, 0] = -np.inf
    return state


def cut_short(state):
    return state | {"first": state["first"][:-1]}


def without_a_tensor(state):
    return {"first": state["first"]}


def with_one_more_tensor(state):
    return state | {"third": np.zeros(3, np.float32)}


def in_double_precision(state):
    return {name: array.astype(np.float64) for name, array in state.items()}


BAD_STATES = [
    (with_nan, DropReason.NOT_FINITE),
    (with_infinity, DropReason.NOT_FINITE),
    (cut_short, DropReason.WRONG_SHAPE),
    (without_a_tensor, DropReason.WRONG_SHAPE),
    (with_one_more_tensor, DropReason.WRONG_SHAPE),
    (in_double_precision, DropReason.WRONG_SHAPE),
    (lambda state: b"no safetensors at all", DropReason.BAD_BYTES),
    (lambda state: encode_state(state)[:-100], DropReason.BAD_BYTES),
    (lambda state: bytes(400_000), DropReason.BAD_BYTES),
]


async def refused(fleet, reason, *, number=1):
    """Run the campaign and check that the lathe's update, and nothing else, was refused."""
    await fleet.until(fleet.finished)
    (told,) = fleet.events(e.UpdateRefused)
    assert (told.device, told.round, told.reason) == (LATHE, number, reason)
    receipt = fleet.receipt(LATHE)
    assert (receipt.round, receipt.verdict, receipt.reason) == (number, Verdict.REFUSED, reason)
    assert receipt.detail
    (closed,) = fleet.events(e.RoundClosed)
    assert closed.aggregated == (PRESS,)
    (dropped,) = fleet.events(e.DeviceDropped)
    assert dropped.device == LATHE
    assert str(dropped.reason) in fleet.standing(LATHE).last_drop
    assert set(fleet.confirmed()) == {PRESS}
    # The device has seen the receipt, and both sides have cleared their things away.
    await fleet.until(lambda: not fleet.devices[LATHE].outbox.pending())
    await fleet.until(lambda: not fleet.retained_blocks())
    return dropped


@pytest.mark.parametrize(("spoil", "reason"), BAD_STATES)
@simulated
async def test_an_update_that_cannot_be_aggregated_is_refused_with_the_reason(
    spoil, reason, tmp_path
):
    devices = {PRESS: DeviceSettings(), LATHE: DeviceSettings(trainer={"spoil": spoil})}
    async with SmallFleet(tmp_path, devices, settings=ONE_ROUND) as fleet:
        dropped = await refused(fleet, reason)
        assert dropped.reason is reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"spec_hash": "0" * 64}, DropReason.WRONG_SPEC),
        ({"width": 0.25}, DropReason.WRONG_WIDTH),
        ({"device": PRESS}, DropReason.FORGED_ID),
        ({"loss": float("nan")}, DropReason.NOT_FINITE),
        ({"encoding": "pickle"}, DropReason.BAD_BYTES),
    ],
)
@simulated
async def test_an_update_that_does_not_fit_its_task_is_refused_with_the_reason(
    changes, reason, tmp_path
):
    def tamper(update):
        return msgspec.structs.replace(update, **changes)

    devices = {PRESS: DeviceSettings(), LATHE: DeviceSettings(tamper=tamper)}
    async with SmallFleet(tmp_path, devices, settings=ONE_ROUND) as fleet:
        dropped = await refused(fleet, reason)
        assert dropped.reason is reason


@simulated
async def test_an_update_for_a_round_that_is_not_open_is_refused(tmp_path):
    devices = {
        PRESS: DeviceSettings(),
        LATHE: DeviceSettings(tamper=lambda update: msgspec.structs.replace(update, round=6)),
    }
    async with SmallFleet(tmp_path, devices, settings=ONE_ROUND) as fleet:
        dropped = await refused(fleet, DropReason.WRONG_ROUND, number=6)
        assert dropped.reason is DropReason.LATE  # for its own round it said nothing


@simulated
async def test_a_device_cannot_speak_in_the_name_of_another(tmp_path):
    devices = {PRESS: DeviceSettings(), LATHE: DeviceSettings()}
    async with SmallFleet(tmp_path, devices, settings=ONE_ROUND) as fleet:
        rogue = await fleet.client(ROGUE)
        await fleet.until(fleet.training(1))
        failed = m.Progress(round=1, stage=m.Stage.FAILED, session=99, seq=1)
        await rogue.say(UpTopic(PRESS, DeviceSays.PROGRESS), failed)
        await rogue.say(DownTopic(PRESS, ServerSays.RECEIPT), b"")
        await rogue.say(ServerTopic(ServerTells.STATE), b"")
        await fleet.until(fleet.finished)
        assert not fleet.events(e.DeviceDropped)
        assert ROGUE not in fleet.state.devices


# --- sizes --------------------------------------------------------------------------------------


@simulated
async def test_nothing_over_the_size_limits_is_ever_published(tmp_path):
    long = "a traceback without end; " * 4000
    devices = {
        PRESS: DeviceSettings(),
        LATHE: DeviceSettings(trainer={"fail": [long, long]}),
    }
    settings = toy_settings(rounds={"budget": 2, "min_devices": 2})
    async with SmallFleet(tmp_path, devices, settings=settings) as fleet:
        anna = await fleet.client(OPERATOR)
        await fleet.until(lambda: fleet.server.coordinator and fleet.events(e.DeviceDropped))
        command = m.Command(
            command_id="1", action=m.OperatorAction.SUSPEND, device=LATHE, reason="o" * 15_000
        )
        await anna.say(CommandTopic(OPERATOR), command, retain=False)
        await fleet.until(fleet.finished)
        await asyncio.sleep(3.0)
        sizes = {True: [0], False: [0]}
        for _, topic, payload in fleet.broker.log:
            sizes["/b/" in topic].append(len(payload))
        assert max(sizes[False]) <= CONTROL_LIMIT
        assert max(sizes[True]) <= BLOCK_LIMIT
        told = [one.detail for one in fleet.events(e.DeviceDropped)]
        assert any(detail.startswith("a traceback") for detail in told)
        with pytest.raises(SizeError):
            await anna.link.publish("x", bytes(CONTROL_LIMIT + 1))


# --- garbage ------------------------------------------------------------------------------------


def with_a_rogue():
    return {PRESS: DeviceSettings(), LATHE: DeviceSettings()}


UP = [f"slimfleet/v1/{FLEET}/d/{ROGUE}/up/{channel}" for channel in DeviceSays]
BLOCK = f"slimfleet/v1/{FLEET}/d/{ROGUE}/up/b/{'a' * 64}/0"
COMMAND = f"slimfleet/v1/{FLEET}/op/{OPERATOR}/up/command"
DOWN = [f"slimfleet/v1/{FLEET}/d/{PRESS}/down/{channel}" for channel in ServerSays]
STATE = f"slimfleet/v1/{FLEET}/srv/{ServerTells.STATE}"
FAR = [
    f"slimfleet/v1/{FLEET}/d/{ROGUE}/up/nonsense",
    f"slimfleet/v1/{FLEET}/d/{ROGUE}/up/b/x/y",
    f"slimfleet/v1/{FLEET}/b/{'a' * 64}/0",
    f"slimfleet/v1/{FLEET}/{'deep/' * 40}",
]
EVERY_TOPIC = [*UP, BLOCK, COMMAND, *DOWN, STATE, *FAR]
GARBAGE = (
    st.binary(max_size=60) | st.just(bytes(CONTROL_LIMIT + 1)) | st.just(b"\xdf\xff\xff\xff\xff")
)


def truncated(message):
    return encode(message)[:-1]


# Shrinking would play a campaign for every try.
CAMPAIGNS = settings(
    max_examples=10,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@CAMPAIGNS
@given(st.lists(st.tuples(st.sampled_from(EVERY_TOPIC), GARBAGE), min_size=5, max_size=40))
def test_garbled_bytes_on_every_topic_stop_nobody(garbage):
    async def play(folder):
        async with SmallFleet(folder, with_a_rogue(), settings=ONE_ROUND) as fleet:
            await fleet.until(fleet.training(1))
            for topic, payload in garbage:
                fleet.inject(SERVER, topic, payload, retain=False)
                await asyncio.sleep(0.01)
            await fleet.until(fleet.finished)
            assert set(fleet.confirmed()) == {PRESS, LATHE}

    in_a_folder(play)


def in_a_folder(play):
    with tempfile.TemporaryDirectory() as folder:
        run(play(pathlib.Path(folder)))


def too_large(message):
    try:
        encode(message)
    except SizeError:
        return True
    return False


# Session and number as the real sender would write them, or the message is dropped for being old.
FRESH = {"session": st.just(1), "seq": st.just(0)}
FROM_A_DEVICE = st.sampled_from(list(DeviceSays)).flatmap(
    lambda channel: st.tuples(
        st.just(UpTopic(ROGUE, channel)), hostile(MESSAGE_OF[channel], **FRESH)
    )
)
FROM_AN_OPERATOR = st.tuples(st.just(CommandTopic(OPERATOR)), hostile(m.Command))
FROM_THE_SERVER = st.sampled_from([*ServerSays, ServerTells.STATE, ServerTells.CHECKPOINT]).flatmap(
    lambda channel: st.tuples(
        st.just(
            ServerTopic(channel) if isinstance(channel, ServerTells) else DownTopic(PRESS, channel)
        ),
        hostile(MESSAGE_OF[channel], **FRESH),
    )
)


class Spoken(NamedTuple):
    topic: Topic
    message: m.Message

    def __repr__(self):
        return f"{self.topic}: {self.message!r:.500}"


def sendable(spoken):
    return [Spoken(*one) for one in spoken if not too_large(one[1]) and not pauses(one[1])]


def pauses(message):
    """An operator may stop the rounds: whatever else the command says, that is no nonsense."""
    action = getattr(message, "action", None)
    return action is m.OperatorAction.PAUSE_ROUNDS and not message.device


@CAMPAIGNS
@given(st.lists(FROM_A_DEVICE | FROM_AN_OPERATOR, min_size=5, max_size=30).map(sendable))
def test_nonsense_from_a_device_or_an_operator_does_not_stop_the_campaign(spoken):
    # The rogue may be invited too; without the two others there is no quorum.
    plan = toy_settings(rounds={"budget": 1, "quorum": 2, "min_devices": 2})

    async def play(folder):
        async with SmallFleet(folder, with_a_rogue(), settings=plan) as fleet:
            await fleet.until(lambda: fleet.server.coordinator and fleet.state.devices)
            for topic, message in spoken:
                fleet.inject(SERVER, topic, message)
                await asyncio.sleep(0.02)
            await fleet.until(fleet.finished)
            assert set(fleet.confirmed()) >= {PRESS, LATHE}

    in_a_folder(play)


@simulated
async def test_telemetry_that_is_no_number_is_not_kept_and_hides_nobody_elses(tmp_path):
    async with SmallFleet(tmp_path, with_a_rogue(), settings=ONE_ROUND) as fleet:
        await fleet.until(fleet.training(1))
        session = fleet.state.devices[LATHE].session
        lie = m.Telemetry(session=session, inferences=9, latency_p95_s=np.nan)
        fleet.inject(SERVER, UpTopic(LATHE, DeviceSays.TELEMETRY), lie)
        await fleet.until(fleet.finished)
        heard, _ = JournalReader(fleet.server.folder / "journal").telemetry_since(TELEMETRY_START)
        assert not [one for one in heard if one.said.inferences == 9]


@CAMPAIGNS
@given(st.lists(FROM_THE_SERVER, min_size=5, max_size=30).map(sendable))
def test_nonsense_in_the_name_of_the_server_does_not_stop_a_device(spoken):
    async def play(folder):
        async with SmallFleet(folder, with_a_rogue(), settings=ONE_ROUND) as fleet:
            await fleet.until(fleet.training(1))
            for topic, message in spoken:
                fleet.inject(SERVER, topic, message)
                await asyncio.sleep(0.02)
            for _ in range(30):
                await asyncio.sleep(0.5)
                fleet.devices[PRESS].check()

    in_a_folder(play)


# --- releases and deployments -------------------------------------------------------------------


def order_of(fleet, *, counter, digest=None, key=SIGNING_KEY, device=PRESS, until=None, **release):
    """Return an order for the press as the server would sign it, but for what is changed."""
    deployed = fleet.state.devices[PRESS].deployed
    named = deployed.digest if digest is None else digest
    expires_at = fleet.clock() + 3600.0 if until is None else until
    document = m.Deployment(
        fleet=FLEET,
        device=device,
        counter=counter,
        digest=named,
        reason="test",
        expires_at=expires_at,
    )
    known, blob = fleet.state.releases[named]
    _, share = fleet.server.coordinator._sealer.seal_release(known.manifest)
    return m.DeploymentOrder(
        session=50 + counter,
        seq=1,
        deployment=sign(document, "deployment", key),
        release=sign(msgspec.structs.replace(known, **release), "release", key),
        blob=blob,
        key=share.key,
    )


def altered(envelope):
    payload = envelope.payload.replace(b"press", b"pross").replace(b"toy", b"tox")
    assert payload != envelope.payload
    return msgspec.structs.replace(envelope, payload=payload)


def forged(fleet):
    return order_of(fleet, counter=9, key=generate_signing_key())


def altered_deployment(fleet):
    order = order_of(fleet, counter=9)
    return msgspec.structs.replace(order, deployment=altered(order.deployment))


def altered_release(fleet):
    order = order_of(fleet, counter=9)
    return msgspec.structs.replace(order, release=altered(order.release))


def older(fleet):
    return order_of(fleet, counter=1)


def same_counter_for_another_model(fleet):
    deployed = fleet.state.devices[PRESS].deployed
    others = [digest for digest in fleet.state.releases if digest != deployed.digest]
    return order_of(fleet, counter=deployed.counter, digest=others[0])


def expired_deployment(fleet):
    return order_of(fleet, counter=9, until=EPOCH - 1.0)


def expired_release(fleet):
    return order_of(fleet, counter=9, expires_at=EPOCH - 1.0)


def for_another_device(fleet):
    return order_of(fleet, counter=9, device=LATHE)


def with_another_release(fleet):
    known = list(fleet.state.releases)
    one, other = (order_of(fleet, counter=9, digest=digest) for digest in known[:2])
    return msgspec.structs.replace(one, release=other.release)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (forged, "bad-signature"),
        (altered_deployment, "bad-signature"),
        (altered_release, "bad-signature"),
        (older, "older-counter"),
        (same_counter_for_another_model, "older-counter"),
        (expired_deployment, "expired"),
        (expired_release, "expired"),
        (for_another_device, "wrong-device"),
        (with_another_release, "wrong-digest"),
    ],
)
@simulated
async def test_an_order_that_must_not_be_trusted_is_refused_with_its_code(make, code, tmp_path):
    plan = toy_settings(rounds={"budget": 2, "release_every": 1})
    async with SmallFleet(tmp_path, {PRESS: DeviceSettings()}, settings=plan) as fleet:
        await fleet.until(fleet.finished)
        confirmed = fleet.confirmed()
        fleet.inject(SERVER, DownTopic(PRESS, ServerSays.DEPLOYMENT), make(fleet))
        await fleet.until(lambda: fleet.report(PRESS).code == code)
        report = fleet.report(PRESS)
        assert report.state is InstallState.REFUSED
        assert report.running == confirmed[PRESS]
        assert fleet.devices[PRESS].installer.installed().digest == confirmed[PRESS]
        await asyncio.sleep(1.0)
        assert fleet.confirmed() == confirmed, "a refusal does not unsay what was confirmed"
        assert code in {one.report.code for one in fleet.events(e.InstallReported)}


@simulated
async def test_a_rollback_by_a_higher_counter_is_carried_out(tmp_path):
    plan = toy_settings(rounds={"budget": 2, "release_every": 1})
    async with SmallFleet(tmp_path, {PRESS: DeviceSettings()}, settings=plan) as fleet:
        await fleet.until(fleet.finished)
        first, second = fleet.events(e.DeploymentIssued)
        assert fleet.confirmed()[PRESS] == second.digest != first.digest
        order = order_of(fleet, counter=3, digest=first.digest)
        manifest = fleet.state.releases[first.digest][0].manifest
        cipher, _ = fleet.server.coordinator._sealer.seal_release(manifest)
        block = shared_topics(FLEET, order.blob.blob)(0)
        fleet.inject(SERVER, block, cipher)
        fleet.inject(SERVER, DownTopic(PRESS, ServerSays.DEPLOYMENT), order)
        await fleet.until(lambda: fleet.report(PRESS).running == first.digest)
        assert fleet.report(PRESS).state is InstallState.CONFIRMED
        assert fleet.report(PRESS).counter == 3


@simulated
async def test_a_deployment_of_nothing_takes_the_model_away(tmp_path):
    plan = toy_settings(rounds={"budget": 1})
    async with SmallFleet(tmp_path, {PRESS: DeviceSettings()}, settings=plan) as fleet:
        await fleet.until(fleet.finished)
        document = m.Deployment(
            fleet=FLEET, device=PRESS, counter=2, digest="", reason="", expires_at=EPOCH + 1e6
        )
        order = m.DeploymentOrder(
            session=60, seq=1, deployment=sign(document, "deployment", SIGNING_KEY)
        )
        fleet.inject(SERVER, DownTopic(PRESS, ServerSays.DEPLOYMENT), order)
        await fleet.until(lambda: fleet.report(PRESS).counter == 2)
        assert fleet.report(PRESS).state is InstallState.CONFIRMED
        assert fleet.report(PRESS).running == ""
        assert fleet.devices[PRESS].installer.installed().digest == ""


def test_every_kind_of_block_topic_is_understood():
    assert isinstance(parse_topic(FLEET, BLOCK), UploadBlock)
