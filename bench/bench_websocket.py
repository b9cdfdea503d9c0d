"""What receiving a frame costs: the scanner, the reference parser, and three clients over real sockets.

Run: ``pytest bench/bench_websocket.py``. ``extra_info`` holds ns per frame; over sockets it is CPU time of this process
(the sender is another one), so it tells what one core can carry whatever the sender does.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import picows
import pytest
import trustme
import uvloop
from websockets.asyncio.client import connect as websockets_connect
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from recorder.core.websocket_frames import FRAME_BYTES_MAX, FrameArrays, scan
from recorder.shell.websocket import READ_BYTES_MIN, WebSocketClient, connect, tls_context, warm
from recorder.values.feed import Endpoint

TRADE = (
    b'{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,'
    b'"p":"0.00100000","q":"100.00000000","T":1672515782136,"m":true}'
)
MARKS = ((0, b'{"e":"trade"'), (0, b"[{"))
PAYLOADS = {1: TRADE.ljust(150), 20: b"[" + b",".join([TRADE] * 20) + b"]"}
FRAMES = {1: 400_000, 20: 40_000}  # of one round over sockets
BLOCK_FRAMES = 2000


def block(trades: int, count: int) -> bytes:
    return Frame(Opcode.TEXT, PAYLOADS[trades]).serialize(mask=False) * count


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    warm()


# In memory: one read's worth of bytes.


def read_bytes(trades: int) -> tuple[bytes, int]:
    count = READ_BYTES_MIN // len(block(trades, 1))
    return block(trades, count), count


@pytest.mark.parametrize("trades", [1, 20])
def test_scan(benchmark, trades):
    data, count = read_bytes(trades)
    chunk, arrays = np.frombuffer(bytearray(data), np.uint8), FrameArrays(MARKS)
    got = benchmark(lambda: scan(chunk, 0, len(data), *arrays.arguments, FRAME_BYTES_MAX))
    assert got[0] == count
    benchmark.extra_info["ns_per_frame"] = benchmark.stats["median"] / count * 1e9


@pytest.mark.parametrize("trades", [1, 20])
def test_client_without_socket(benchmark, trades):
    """The whole receive path but the system call: copy into the buffer, stamp, scan, call the receiver."""
    data, count = read_bytes(trades)
    loop, receiver = asyncio.new_event_loop(), Counter()
    client = WebSocketClient(Endpoint(url="ws://127.0.0.1/", data_marks=MARKS), receiver, loop)
    client._reference.state, client._head = State.OPEN, None

    def deliver():
        client.get_buffer(-1)[: len(data)] = data
        client.buffer_updated(len(data))

    benchmark(deliver)
    assert receiver.count % count == 0
    loop.close()
    benchmark.extra_info["ns_per_frame"] = benchmark.stats["median"] / count * 1e9


@pytest.mark.parametrize("trades", [1, 20])
def test_reference_parser(benchmark, trades):
    data, count = read_bytes(trades)
    protocol = ClientProtocol(parse_uri("ws://127.0.0.1/"), state=State.OPEN, max_size=FRAME_BYTES_MAX)

    def deliver():
        protocol.receive_data(data)
        return protocol.events_received()

    assert len(benchmark(deliver)) == count
    benchmark.extra_info["ns_per_frame"] = benchmark.stats["median"] / count * 1e9


# Over real sockets.


class Counter:
    """A receiver that does nothing with what it gets but count."""

    def __init__(self, wanted: int = 0) -> None:
        self.count, self.wanted, self.done = 0, wanted, asyncio.Event()

    def on_open(self): ...

    def on_frames(self, chunk, starts, lengths, opcodes, count, control_indices, ts_recv):
        self.count += count
        if self.count >= self.wanted:
            self.done.set()

    def on_message(self, payload, binary, ts_recv):
        self.count += 1

    def on_close(self, code, reason, error): ...


class StreamedClient(WebSocketClient):
    """The same client as a plain ``asyncio.Protocol``: a bytes object per read, copied into the buffer."""

    def data_received(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            buffer = super().get_buffer(-1)
            count = min(len(buffer), len(data) - at)
            buffer[:count] = data[at : at + count]
            at += count
            super().buffer_updated(count)


class Streamed(asyncio.Protocol):
    """Hands a transport's calls on, so that the loop sees a plain protocol."""

    def __init__(self, client: StreamedClient) -> None:
        self.connection_made, self.data_received = client.connection_made, client.data_received
        self.eof_received, self.connection_lost = client.eof_received, client.connection_lost


class PicowsListener(picows.WSListener):
    def __init__(self, wanted: int, payloads: bool) -> None:
        self.count, self.wanted, self.payloads, self.done = 0, wanted, payloads, asyncio.Event()

    def on_ws_frame(self, transport, frame):
        if self.payloads:
            frame.get_payload_as_bytes()
        self.count += 1
        if self.count >= self.wanted:
            self.done.set()


async def receive_recorder(url: str, wanted: int, tls: ssl.SSLContext | None = None) -> None:
    receiver = Counter(wanted)
    client = await connect(Endpoint(url=url, data_marks=MARKS, ping_ns=0), receiver, ssl=tls)
    await receiver.done.wait()
    client.abort()


async def receive_recorder_streamed(url: str, wanted: int) -> None:
    receiver, loop = Counter(wanted), asyncio.get_running_loop()
    client = StreamedClient(Endpoint(url=url, data_marks=MARKS, ping_ns=0), receiver, loop)
    address = parse_uri(url)
    await loop.create_connection(lambda: Streamed(client), address.host, address.port)
    await receiver.done.wait()
    client.abort()


async def receive_picows(url: str, wanted: int, tls: ssl.SSLContext | None = None, payloads: bool = False) -> None:
    listener = PicowsListener(wanted, payloads)
    transport, _ = await picows.ws_connect(lambda: listener, url, ssl_context=tls)
    await listener.done.wait()
    transport.disconnect(graceful=False)


async def receive_picows_bytes(url: str, wanted: int) -> None:
    await receive_picows(url, wanted, payloads=True)


async def receive_websockets(url: str, wanted: int) -> None:
    async with websockets_connect(url, compression=None, max_queue=4096, close_timeout=0.1) as ws:
        for _ in range(wanted):
            await ws.recv(decode=False)
        ws.transport.abort()


@pytest.fixture
def sender():
    """Start a process that sends ``count`` frames to whoever connects; gives its address."""
    processes = []

    def start(trades: int, certificate: str = "") -> str:
        process = subprocess.Popen(
            [sys.executable, __file__, str(trades), certificate],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
            env={"PYTHONPATH": "."},
        )
        processes.append(process)
        return f"{'wss' if certificate else 'ws'}://localhost:{process.stdout.readline().strip()}/"

    yield start
    for process in processes:
        process.kill()
        process.wait()


def measure(benchmark, receive, wanted: int) -> None:
    cpu = []

    def once():
        begun = time.process_time_ns()
        uvloop.run(receive())
        cpu.append(time.process_time_ns() - begun)

    benchmark.pedantic(once, rounds=3, warmup_rounds=1)
    benchmark.extra_info["cpu_ns_per_frame"] = min(cpu) / wanted
    benchmark.extra_info["wall_ns_per_frame"] = benchmark.stats["min"] / wanted * 1e9


@pytest.mark.parametrize("trades", [1, 20])
@pytest.mark.parametrize(
    "receive",
    [receive_recorder, receive_recorder_streamed, receive_picows, receive_picows_bytes, receive_websockets],
    ids=lambda f: f.__name__.removeprefix("receive_"),
)
def test_sockets(benchmark, sender, receive, trades):
    url, wanted = sender(trades), FRAMES[trades]
    if receive is receive_websockets:
        wanted //= 8
    measure(benchmark, lambda: receive(url, wanted), wanted)


@pytest.mark.parametrize("trades", [1, 20])
@pytest.mark.parametrize(
    "receive", [receive_recorder, receive_picows], ids=lambda f: f.__name__.removeprefix("receive_")
)
def test_sockets_with_tls(benchmark, sender, tmp_path, receive, trades):
    authority, context = trustme.CA(), tls_context()
    authority.configure_trust(context)
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    url = sender(trades, str(tmp_path / "server.pem"))
    measure(benchmark, lambda: receive(url, FRAMES[trades], context), FRAMES[trades])


def serve(trades: int, certificate: str) -> None:
    """Blocking server: one connection after the other, each gets frames until it goes away."""
    data = block(trades, BLOCK_FRAMES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate:
        context.load_cert_chain(certificate)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in range(20000, 30000):
            try:
                listener.bind(("127.0.0.1", port))
                break
            except OSError:
                continue
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        while True:
            peer, _ = listener.accept()
            with context.wrap_socket(peer, server_side=True) if certificate else peer as peer:
                protocol = ServerProtocol()
                while not (events := protocol.events_received()):
                    protocol.receive_data(peer.recv(65536))
                protocol.send_response(protocol.accept(events[0]))
                try:
                    peer.sendall(b"".join(protocol.data_to_send()))
                    while True:
                        peer.sendall(data)
                except OSError:
                    continue


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
