"""mosquitto with TLS: certificates as users, and clear reasons where one is not trusted."""

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from broker.backoff import Backoff
from broker.errors import BrokerConfigError
from broker.mosquitto import MosquittoBroker, ServerTls
from broker.mqtt import BrokerAddress, Credentials, MqttLink
from tests.fakes.brokers import (
    CAM_1,
    CAM_2,
    FLEET,
    ROOT,
    SERVER,
    Inbox,
    Party,
    RealUnderTest,
    mosquitto,
    party_at,
)
from tests.fakes.certificates import Authority, Pair

pytestmark = [pytest.mark.mqtt, pytest.mark.mosquitto]


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "plant")


@pytest.fixture(scope="module")
def rogue(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("rogue"), "rogue")


@pytest.fixture(scope="module")
def broker(authority, tmp_path_factory) -> Iterator[MosquittoBroker]:
    mosquitto(tmp_path_factory.mktemp("unused"))  # skips where it is not installed
    pair = authority.issue("broker", server=True)
    tls = ServerTls(pair.cert, pair.key, authority.file, client_certificates=True)
    folder = tmp_path_factory.mktemp("broker")
    with MosquittoBroker(folder, fleet=FLEET, passwords={}, tls=tls) as runner:
        yield runner


def link(broker, client_id: str, ca_file: Path | None, pair: Pair | None) -> MqttLink:
    credentials = Credentials(
        client_id,
        ca_file=ca_file,
        cert_file=pair.cert if pair else None,
        key_file=pair.key if pair else None,
    )
    rng = random.Random(1)
    backoff = Backoff(rng, base_s=0.01, cap_s=0.01)
    return MqttLink(broker.address, client_id, credentials, None, rng, backoff=backoff)


@pytest.fixture
async def party(broker) -> AsyncIterator[Party]:
    async with party_at(RealUnderTest("mosquitto", broker)) as party:
        yield party


async def failure(refused: MqttLink) -> str:
    inbox = Inbox(refused)
    await refused.start()
    await inbox.until(lambda inbox: inbox.disconnects, "a refusal")
    await refused.stop()
    await inbox.end()
    return inbox.disconnects[0].reason


async def test_a_client_certificate_is_the_user(broker, authority, party):
    server = await party.watch(
        link(broker, SERVER, authority.file, authority.issue(SERVER)), f"{ROOT}#"
    )
    device = await party.watch(link(broker, CAM_1, authority.file, authority.issue(CAM_1)))
    await device.link.publish(f"{ROOT}d/{CAM_2}/up/forged", b"x")
    await device.link.publish(f"{ROOT}d/{CAM_1}/up/block", bytes(256 * 1024), bulk=True)
    assert len((await server.message(f"{ROOT}d/{CAM_1}/up/block")).payload) == 256 * 1024
    assert server.topics == [f"{ROOT}d/{CAM_1}/up/block"]


async def test_another_devices_certificate_with_our_name_speaks_and_listens_as_itself(
    broker, authority, party
):
    server = await party.watch(
        link(broker, SERVER, authority.file, authority.issue(SERVER)), f"{ROOT}#"
    )
    honest = await party.watch(link(broker, CAM_1, authority.file, authority.issue(CAM_1)))
    thief = await party.watch(
        link(broker, CAM_1, authority.file, authority.issue(CAM_2)),
        f"{ROOT}d/{CAM_1}/down/task",
        f"{ROOT}d/{CAM_2}/down/task",
    )
    await thief.link.publish(f"{ROOT}d/{CAM_1}/up/forged", b"x")
    await thief.link.publish(f"{ROOT}d/{CAM_2}/up/itself", b"x")
    await server.message(f"{ROOT}d/{CAM_2}/up/itself")
    assert server.topics == [f"{ROOT}d/{CAM_2}/up/itself"]
    for device in (CAM_1, CAM_2):
        await server.link.publish(f"{ROOT}d/{device}/down/task", b"key")
    await thief.message(f"{ROOT}d/{CAM_2}/down/task")
    assert thief.topics == [f"{ROOT}d/{CAM_2}/down/task"]
    assert honest.disconnects == []  # its session was not taken over


async def test_a_broker_whose_authority_we_do_not_trust_is_refused_with_advice(
    broker, authority, rogue
):
    reason = await failure(link(broker, CAM_1, rogue.file, authority.issue(CAM_1)))
    assert "not trusted" in reason
    assert "check the CA file" in reason


async def test_a_client_certificate_of_another_authority_is_refused(broker, authority, rogue):
    reason = await failure(link(broker, CAM_1, authority.file, rogue.issue(CAM_1)))
    assert "certificate" in reason or "unknown ca" in reason.lower(), reason


async def test_a_client_without_a_certificate_is_refused(broker, authority):
    reason = await failure(link(broker, CAM_1, authority.file, None))
    assert "certificate required" in reason.lower().replace("_", " ")


def test_the_broker_listens_on_its_one_port_only(broker):
    listening = [
        (connection.laddr.ip, connection.laddr.port)
        for connection in psutil.Process(broker.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == [(broker.address.host, broker.address.port)]


async def test_tls_against_a_plain_port_says_so(authority, tmp_path):
    with mosquitto(tmp_path) as plain:
        address = BrokerAddress(plain.address.host, plain.address.port, tls=True)
        credentials = Credentials(CAM_1, "x", ca_file=authority.file)
        reason = await failure(MqttLink(address, CAM_1, credentials, None, random.Random(1)))
    assert "TLS" in reason


async def test_passwords_travel_inside_tls_where_clients_have_no_certificates(authority, tmp_path):
    pair = authority.issue("broker", server=True)
    tls = ServerTls(pair.cert, pair.key)
    with MosquittoBroker(tmp_path, fleet=FLEET, passwords={CAM_1: "right"}, tls=tls) as plain:
        address = BrokerAddress("localhost", plain.address.port, tls=True)

        def with_password(password: str) -> MqttLink:
            credentials = Credentials(CAM_1, password, ca_file=authority.file)
            return MqttLink(address, CAM_1, credentials, None, random.Random(1))

        assert f"refused {CAM_1}" in await failure(with_password("wrong"))
        async with party_at(RealUnderTest("mosquitto", plain)) as party:
            device = await party.watch(with_password("right"), f"{ROOT}d/{CAM_1}/down/#")
            await device.link.publish(f"{ROOT}d/{CAM_1}/up/x", b"x")


async def test_a_missing_or_broken_certificate_file_is_a_configuration_error(broker, tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for ca_file in (tmp_path / "missing.pem", broken):
        with pytest.raises(BrokerConfigError, match="CA file"):
            await link(broker, CAM_1, ca_file, None).start()
    with pytest.raises(BrokerConfigError, match="client certificate"):
        await link(broker, CAM_1, None, Pair(broken, broken)).start()
