"""The page's server on real sockets: TLS, slow and stuck clients, an end that waits for nobody."""

import asyncio
import contextlib
import socket
import ssl
from contextlib import asynccontextmanager

import httpx
import pytest

from journal.store import Journal
from monitor.web.serving import Address, PageServer, open_socket
from tests.fakes.certificates import Authority
from tests.fakes.page import BEN_TOKEN, HERE, serving
from tests.unit.test_fleet_view import born

ANYWHERE = Address(port=0)
BEN = {"Authorization": f"Bearer {BEN_TOKEN}"}
LAST_CHUNK = b"\r\n0\r\n\r\n"
HEAD = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@asynccontextmanager
async def served(folder, address=ANYWHERE, place=HERE, buffer=0, **options):
    """Serve a page on a real socket; end it in order, and fail where that takes long."""
    with open_socket(address) as listening:
        if buffer:  # connections inherit it
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        port = listening.getsockname()[1]
        async with serving(folder, place, **options) as page:
            stopped = asyncio.Event()
            server = PageServer(page.app, address, listening)
            running = asyncio.ensure_future(server.serve(stopped))
            try:
                yield page, port
            finally:
                page.watch.end()
                stopped.set()
                async with asyncio.timeout(10):
                    await running


@asynccontextmanager
async def connected(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_page_with_tls_is_served_with_tls_alone(tmp_path):
    authority = Authority(tmp_path, "plant")
    pair = authority.issue("localhost", server=True)
    address = Address(port=0, cert_file=pair.cert, key_file=pair.key)
    trusted = ssl.create_default_context(cafile=str(authority.file))
    async with (
        served(tmp_path / "page", address, address.place()) as (_, port),
        httpx.AsyncClient(verify=trusted) as client,
    ):
        answer = await client.get(f"https://localhost:{port}/api/overview", headers=BEN)
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"]
        with pytest.raises(httpx.TransportError):
            await client.get(f"http://localhost:{port}/")


async def test_a_head_that_never_ends_ends_the_connection(tmp_path, monkeypatch):
    monkeypatch.setattr("monitor.web.serving.HEAD_S", 0.05)
    async with served(tmp_path) as (_, port):
        for begun in (b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-"):
            async with connected(port) as (reader, writer):
                writer.write(begun)
                assert await reader.read() == b""


async def test_a_head_that_is_too_long_is_refused(tmp_path):
    async with served(tmp_path) as (_, port), connected(port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 100_000)
        assert b" 400 " in await reader.readline()


async def test_a_stream_lives_longer_than_a_head_may_take(tmp_path, monkeypatch):
    monkeypatch.setattr("monitor.web.serving.HEAD_S", 0.02)
    monkeypatch.setattr("monitor.web.live.BEAT_S", 0.02)
    async with served(tmp_path, people=False) as (_, port), connected(port) as (reader, writer):
        writer.write(HEAD)
        for _ in range(10):
            await reader.readuntil(b": beat\n\n")


async def test_an_end_of_the_server_ends_the_streams_at_once(tmp_path):
    async with served(tmp_path, people=False) as (page, port), connected(port) as (reader, writer):
        writer.write(HEAD)
        await reader.readuntil(b"event: snapshot")
        page.watch.end()
        await reader.readuntil(LAST_CHUNK)


async def test_a_reader_that_reads_nothing_is_dropped_while_another_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("monitor.web.live.SLOW_S", 0.2)
    crowd = [born(f"device-{number}") for number in range(300)]  # more than the buffers hold
    async with served(tmp_path, people=False, events=crowd, buffer=8192) as (page, port):
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        with deaf:
            await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", port))
            await asyncio.get_running_loop().sock_sendall(deaf, HEAD)
            async with connected(port) as (reader, writer):
                writer.write(HEAD)
                await reader.readuntil(b"event: snapshot")
                number = 0
                with Journal.open(page.journal) as journal:
                    while page.watch.readers != 1 or not number:
                        number += 1
                        journal.append([born(f"late-{number}")], 9.0)
                        await page.watch.refresh()
                        await reader.readuntil(f'"device":"late-{number}"'.encode())
