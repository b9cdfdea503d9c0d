"""The WebSocket client over real sockets: `websockets` as the server, TLS, refusals, dead peers."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import asynccontextmanager

import pytest
import trustme
import uvloop
from websocket_collector import Collector
from websockets import Headers
from websockets.asyncio.server import serve
from websockets.http11 import Response
from websockets.server import ServerProtocol

from recorder.shell.websocket import WRITE_BYTES_MAX, connect, tls_context, warm
from recorder.values.errors import ConfigError, ConnectError, ConnectionBroken, UpgradeRefused
from recorder.values.feed import SECOND, Endpoint

DEADLINE_S = 10.0
MS = SECOND // 1000


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    warm()


def run(main) -> None:
    """Run a coroutine on uvloop; an exception that reaches the loop fails the test."""
    stray = []

    async def guarded():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context))
        await asyncio.wait_for(main, DEADLINE_S)

    uvloop.run(guarded())
    assert stray == []


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.002)


@asynccontextmanager
async def raw_server(port: int, reply: Callable[[bytes], bytes | None]):
    """A TCP server that answers a request's head with ``reply(head)``, then neither reads nor writes."""
    over = asyncio.Event()

    async def handle(reader, writer):
        answer = reply(await reader.readuntil(b"\r\n\r\n"))
        if answer is not None:
            writer.write(answer)
        await over.wait()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port, limit=1024)
    try:
        yield
    finally:
        over.set()
        server.close()


def accept(head: bytes) -> bytes:
    server = ServerProtocol()
    server.receive_data(head)
    server.send_response(server.accept(server.events_received()[0]))
    return b"".join(server.data_to_send())


def test_messages_arrive_in_order_and_answers_are_heard(free_port):
    port, sent = free_port(), [f"message {i}" for i in range(5000)]

    async def handler(ws):
        assert ws.request.headers["X-Key"] == "s3cret"
        assert await ws.recv() == "subscribe"
        assert await ws.recv() == b"binary"
        for text in sent:
            await ws.send(text)
        await ws.close(4001, "all sent")

    async def main():
        got = Collector()
        endpoint = Endpoint(url=f"ws://127.0.0.1:{port}/x?token=abc", headers=(("X-Key", "s3cret"),))
        async with serve(handler, "127.0.0.1", port):
            client = await connect(endpoint, got)
            assert got.opened == 1
            before = time.time_ns()
            client.send("subscribe")
            client.send(b"binary")
            await until(lambda: got.closed)
        assert [payload.decode() for _, payload in got.messages] == sent
        assert before <= got.stamps[0] <= got.stamps[-1] <= time.time_ns()
        assert got.end == (4001, "all sent", None)
        with pytest.raises(ConnectionBroken, match="not open"):
            client.send("late")

    run(main())


def test_compressed_messages_arrive_when_the_endpoint_allows_them(free_port):
    port = free_port()

    async def handler(ws):
        assert ("permessage-deflate" in ws.request.headers.get("Sec-WebSocket-Extensions", "")) == bool(
            ws.protocol.extensions
        )
        await ws.send("x" * 10_000)
        await ws.send("y")

    async def main():
        async with serve(handler, "127.0.0.1", port, compression="deflate"):
            for compression in (False, True):
                got = Collector()
                await connect(Endpoint(url=f"ws://127.0.0.1:{port}", compression=compression), got)
                await until(lambda got=got: got.closed)
                assert got.messages == [(False, b"x" * 10_000), (False, b"y")]
                assert got.fast == (0 if compression else 2)

    run(main())


def test_our_close_is_a_whole_closing_handshake(free_port):
    port, seen = free_port(), []

    async def handler(ws):
        await ws.wait_closed()
        seen.append((ws.close_code, ws.close_reason))

    async def main():
        got = Collector()
        async with serve(handler, "127.0.0.1", port):
            client = await connect(Endpoint(url=f"ws://localhost:{port}"), got)
            client.close(1000, "over")
            client.close(1000, "again")
            await until(lambda: got.closed and seen)
        assert got.end == (1000, "over", None)
        assert seen == [(1000, "over")]

    run(main())


def test_a_paused_reader_gets_nothing_and_after_resuming_everything(free_port):
    port, count = free_port(), 20_000

    async def handler(ws):
        for i in range(count):
            await ws.send(b"%08d" % i + bytes(500))

    async def main():
        got = Collector()
        async with serve(handler, "127.0.0.1", port):
            client = await connect(Endpoint(url=f"ws://127.0.0.1:{port}"), got)
            await until(lambda: got.messages)
            client.pause_reading()
            held = len(got.messages)
            assert held < count
            await asyncio.sleep(0.05)
            assert len(got.messages) == held
            client.resume_reading()
            await until(lambda: got.closed)
        assert [int(payload[:8]) for _, payload in got.messages] == list(range(count))

    run(main())


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def server_context(authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def test_tls_with_a_trusted_certificate_carries_frames_over_1_3(free_port, authority):
    port = free_port()

    async def handler(ws):
        for i in range(1000):
            await ws.send(b"%04d" % i + bytes(300))

    async def main():
        got, context = Collector(), tls_context()
        authority.configure_trust(context)
        async with serve(handler, "127.0.0.1", port, ssl=server_context(authority)):
            client = await connect(Endpoint(url=f"wss://localhost:{port}"), got, ssl=context)
            assert client._transport.get_extra_info("ssl_object").version() == "TLSv1.3"
            await until(lambda: got.closed)
        assert [int(payload[:4]) for _, payload in got.messages] == list(range(1000))
        assert got.end[2] is None

    run(main())


@pytest.mark.parametrize("why", ["authority", "name"])
def test_tls_with_an_unknown_authority_or_another_name_is_refused(free_port, authority, why):
    port = free_port()

    async def main():
        got, context = Collector(), tls_context()
        if why == "name":
            authority.configure_trust(context)
        host = "127.0.0.1" if why == "name" else "localhost"
        async with serve(lambda ws: None, "127.0.0.1", port, ssl=server_context(authority)):
            with pytest.raises(ConnectError, match="TLS failed"):
                await connect(Endpoint(url=f"wss://{host}:{port}"), got, ssl=context)
        assert (got.opened, got.closed) == (0, [])

    run(main())


def test_tls_verifies_and_asks_for_1_2_at_least():
    context = tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.maximum_version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.MAXIMUM_SUPPORTED)


@pytest.mark.parametrize(
    ("status", "headers", "retry_after_ns", "words"),
    [
        (429, [("Retry-After", "17")], 17 * SECOND, "HTTP 429 .* try again after 17 s: too many …"),
        (503, [("Retry-After", "Thu, 01 Jan 1970 00:02:00 GMT")], 20 * SECOND, "HTTP 503"),
        (401, [], None, "HTTP 401 .*: too many …"),
        (302, [("Location", "wss://elsewhere.example/ws?key=hidden")], None, "redirects are not followed"),
    ],
)
def test_a_refused_upgrade_tells_status_body_and_wait_but_no_secret(free_port, status, headers, retry_after_ns, words):
    port = free_port()

    async def main():
        def refuse(connection, request):
            response = connection.respond(status, "too many  s3cret-key\n")
            for name, value in headers:
                response.headers[name] = value
            return response

        got = Collector()
        endpoint = Endpoint(url=f"ws://127.0.0.1:{port}/?key=hidden", headers=(("X-Key", "s3cret-key"),))
        async with serve(lambda ws: None, "127.0.0.1", port, process_request=refuse):
            with pytest.raises(UpgradeRefused, match=words) as caught:
                await connect(endpoint, got, now=lambda: 100 * SECOND)
        assert (caught.value.status, caught.value.retry_after_ns) == (status, retry_after_ns)
        assert "s3cret" not in str(caught.value)
        assert "hidden" not in str(caught.value)
        assert (got.opened, got.closed) == (0, [])

    run(main())


def test_an_answer_that_is_no_websocket_is_named(free_port):
    port = free_port()

    async def main():
        reply = Response(101, "Switching", Headers(Upgrade="websocket")).serialize()
        async with raw_server(port, lambda head: reply):
            with pytest.raises(ConnectError, match="no WebSocket"):
                await connect(Endpoint(url=f"ws://127.0.0.1:{port}"), Collector())

    run(main())


def test_a_server_that_never_answers_is_given_up_in_time(free_port):
    port = free_port()

    async def main():
        async with raw_server(port, lambda head: None):
            with pytest.raises(ConnectError, match=r"not open within 0\.1 s"):
                await connect(Endpoint(url=f"ws://127.0.0.1:{port}", open_timeout_ns=100 * MS), Collector())

    run(main())


def test_a_port_nobody_listens_on_is_a_connect_error(free_port):
    port = free_port()

    async def main():
        with pytest.raises(ConnectError, match="cannot be reached"):
            await connect(Endpoint(url=f"ws://127.0.0.1:{port}"), Collector())

    run(main())


def test_an_opening_that_is_cancelled_leaves_nothing_behind(free_port):
    port, asked = free_port(), []

    async def main():
        async with raw_server(port, asked.append):
            task = asyncio.create_task(connect(Endpoint(url=f"ws://127.0.0.1:{port}"), Collector()))
            await until(lambda: asked)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"ping_ns": 60 * MS, "silence_ns": 0}, "no pong"), ({"ping_ns": 0, "silence_ns": 80 * MS}, "nothing received")],
)
def test_a_half_open_connection_is_found_by_ping_or_silence(free_port, limits, words):
    port = free_port()

    async def main():
        got = Collector()
        async with raw_server(port, accept):
            await connect(Endpoint(url=f"ws://127.0.0.1:{port}", **limits), got)
            await until(lambda: got.closed)
        assert isinstance(got.end[2], ConnectionBroken)
        assert words in str(got.end[2])

    run(main())


def test_pings_keep_a_quiet_connection_open(free_port):
    port = free_port()

    async def main():
        got = Collector()
        async with serve(lambda ws: ws.wait_closed(), "127.0.0.1", port):
            endpoint = Endpoint(url=f"ws://127.0.0.1:{port}", ping_ns=20 * MS, silence_ns=200 * MS)
            client = await connect(endpoint, got)
            opened = time.monotonic()
            await until(lambda: time.monotonic() > opened + 0.5)
            assert client.is_open
            client.close()
            await until(lambda: got.closed)

    run(main())


def test_a_peer_that_does_not_read_is_dropped_before_memory_grows(free_port):
    port = free_port()

    async def main():
        got = Collector()
        async with raw_server(port, accept):
            client = await connect(Endpoint(url=f"ws://127.0.0.1:{port}"), got)

            async def flood():
                for _ in range(2000):
                    client.send(bytes(WRITE_BYTES_MAX // 16))
                    await asyncio.sleep(0)

            with pytest.raises(ConnectionBroken, match="wait for the peer"):
                await flood()
            await until(lambda: got.closed)
        assert got.end[0] == 1006

    run(main())


def test_a_reset_or_an_end_without_handshake_is_1006(free_port):
    port = free_port()

    async def handler(ws):
        if await ws.recv() == "reset":
            ws.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        ws.transport.abort()

    async def main():
        async with serve(handler, "127.0.0.1", port):
            for how in ("reset", "end"):
                got = Collector()
                client = await connect(Endpoint(url=f"ws://127.0.0.1:{port}"), got)
                client.send(how)
                await until(lambda got=got: got.closed)
                assert got.end[:2] == (1006, "")
                assert isinstance(got.end[2], ConnectionBroken)

    run(main())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ws://example.com/?key=hidden", "not encrypted"),
        ("ws://10.0.0.1:8080/", "not encrypted"),
        ("https://example.com/?key=hidden", "no WebSocket address"),
        ("wss://user:hidden@:99999999/", "no WebSocket address"),
    ],
)
def test_an_address_that_cannot_be_right_is_a_config_error_without_secrets(url, words):
    with pytest.raises(ConfigError, match=words) as caught:
        uvloop.run(connect(Endpoint(url=url), Collector()))
    assert "hidden" not in str(caught.value)


def test_a_header_that_would_break_the_request_is_refused_without_its_value():
    endpoint = Endpoint(url="wss://127.0.0.1/", headers=(("X-Key", "s3cret\r\nX-Other: 1"),))
    with pytest.raises(ConfigError, match="X-Key") as caught:
        uvloop.run(connect(endpoint, Collector()))
    assert "s3cret" not in str(caught.value)
