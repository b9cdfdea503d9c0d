"""The WebSocket client without sockets, against `websockets`' own sans-I/O client as the oracle."""

from __future__ import annotations

import concurrent.futures
import itertools
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websocket_collector import Collector
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from recorder.core.websocket_frames import FRAME_BYTES_MAX
from recorder.shell.websocket import FAST_FRAME_BYTES_MAX, WebSocketClient, warm
from recorder.values.errors import ConnectError, ConnectionBroken
from recorder.values.feed import SECOND, Endpoint

URL = "ws://127.0.0.1:20000/stream"


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    warm()


# Without sockets: a transport, a clock and timers that the test turns.


class FakeTransport:
    def __init__(self):
        self.written, self.closing, self.aborted = b"", False, False

    def write(self, data):
        self.written += data

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    def abort(self):
        self.closing = self.aborted = True

    def get_write_buffer_size(self):
        return 0

    def pause_reading(self): ...

    def resume_reading(self): ...


class FakeTimer:
    def __init__(self, at, callback):
        self.at, self.callback, self.cancelled = at, callback, False

    def cancel(self):
        self.cancelled = True


class FakeLoop:
    def __init__(self):
        self.now, self.timers = 1000.0, []

    def time(self):
        return self.now

    def create_future(self):
        return concurrent.futures.Future()

    def call_later(self, delay, callback):
        self.timers.append(FakeTimer(self.now + delay, callback))
        return self.timers[-1]

    def advance(self, seconds):
        end = self.now + seconds
        while due := [t for t in self.timers if not t.cancelled and t.at <= end]:
            timer = min(due, key=lambda t: t.at)
            self.timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.callback()
        self.now = end


class Pair:
    """A client on a fake transport and the `websockets` server protocol that answers it."""

    def __init__(self, receiver=None, **endpoint):
        self.receiver = receiver or Collector()
        self.loop, self.transport = FakeLoop(), FakeTransport()
        self.stamps = itertools.count(1)
        self.endpoint = Endpoint(url=URL, **endpoint)
        self.client = WebSocketClient(self.endpoint, self.receiver, self.loop, now=lambda: next(self.stamps))
        self.client.connection_made(self.transport)
        self.server = ServerProtocol(
            extensions=[ServerPerMessageDeflateFactory()] if self.endpoint.compression else None,
            max_size=FRAME_BYTES_MAX,
        )
        self.read = 0
        [request] = self.heard_by_server()
        self.server.send_response(self.server.accept(request))

    def heard_by_server(self) -> list:
        """What the server makes of the client's bytes since the last call."""
        fresh, self.read = self.transport.written[self.read :], len(self.transport.written)
        self.server.receive_data(fresh)
        return self.server.events_received()

    def said(self) -> bytes:
        """The server's bytes since the last call."""
        return b"".join(self.server.data_to_send())

    def deliver(self, data: bytes, sizes=(1 << 30,)) -> None:
        at, sizes = 0, itertools.cycle(sizes)
        while at < len(data):
            buffer = self.client.get_buffer(-1)
            count = min(next(sizes), len(buffer), len(data) - at)
            assert count > 0
            buffer[:count] = data[at : at + count]
            self.client.buffer_updated(count)
            at += count

    def open(self) -> Pair:
        self.deliver(self.said())
        assert self.client.is_open
        return self

    def lose(self, exc=None):
        self.client.eof_received()
        self.client.connection_lost(exc)


def messages_of(events) -> list[tuple[bool, bytes]]:
    """Messages put together from the reference parser's frames."""
    messages, parts, binary = [], [], False
    for event in events:
        if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if event.opcode is not Opcode.CONT:
                binary = event.opcode is Opcode.BINARY
            parts.append(bytes(event.data))
            if event.fin:
                messages.append((binary, b"".join(parts)))
                parts = []
    return messages


payloads = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([0, 125, 126, 65535, 65536, 70_000, FAST_FRAME_BYTES_MAX, FAST_FRAME_BYTES_MAX + 1]).map(bytes),
)
simple = st.tuples(st.sampled_from(["text", "binary", "uncompressed", "not_minimal"]), payloads)
fragmented = st.tuples(st.just("fragmented"), st.lists(payloads, min_size=2, max_size=4), st.booleans())
pings = st.tuples(st.sampled_from(["ping", "pong"]), st.binary(max_size=125))
ends = st.one_of(
    st.none(),
    st.tuples(st.just("close"), st.sampled_from([1000, 1001, 1008, 4003]), st.text(max_size=20)),
    st.tuples(st.just("garbage"), st.binary(min_size=1, max_size=60)),
    st.tuples(st.just("torn"), st.integers(1, 30)),
    st.tuples(st.just("intruder"), payloads),
)


def play(server: ServerProtocol, steps, end) -> bytes:
    """Bytes of a server that does these steps."""
    out = []

    def take():
        out.extend(server.data_to_send())

    for kind, value, *more in steps:
        if kind == "text":
            server.send_text(value)
        elif kind == "binary":
            server.send_binary(value)
        elif kind == "uncompressed":  # allowed in a compressed connection too
            out.append(Frame(Opcode.TEXT, value).serialize(mask=False))
        elif kind == "not_minimal":
            out.append(b"\x82\x7f" + len(value).to_bytes(8, "big") + value)
        elif kind == "fragmented":
            server.send_text(value[0], fin=False)
            for i, part in enumerate(value[1:], 2):
                if more[0]:
                    server.send_ping(b"between")
                server.send_continuation(part, fin=i == len(value))
        elif kind == "ping":
            server.send_ping(value)
        elif kind == "pong":
            server.send_pong(value)
        take()
    if end and end[0] == "close":
        server.send_close(*end[1:])
        take()
    elif end and end[0] == "garbage":
        out.append(end[1])
    elif end and end[0] == "intruder":  # a whole message inside an open one
        out.append(Frame(Opcode.TEXT, b"open", fin=False).serialize(mask=False))
        out.append(Frame(Opcode.TEXT, end[1]).serialize(mask=False))
    data = b"".join(out)
    return data[: -end[1]] if end and end[0] == "torn" else data


@given(
    steps=st.lists(st.one_of(simple, simple, fragmented, pings), max_size=8),
    end=ends,
    compression=st.booleans(),
    sizes=st.lists(st.one_of(st.integers(1, 20), st.integers(1, 100_000)), min_size=1, max_size=6),
)
@settings(max_examples=200, deadline=None)
def test_any_stream_cut_anyhow_gives_what_the_reference_parser_gives(steps, end, compression, sizes):
    pair = Pair(compression=compression)
    stream = pair.said() + play(pair.server, steps, end)
    if len(stream) > 20_000:
        sizes = [max(size, 500) for size in sizes]  # not a million calls
    oracle = ClientProtocol(
        parse_uri(URL), max_size=FRAME_BYTES_MAX, extensions=[ClientPerMessageDeflateFactory()] if compression else None
    )
    oracle.key = pair.client._reference.key
    oracle_request = pair.client._reference.connect()
    oracle.send_request(oracle_request)
    oracle.receive_data(stream)
    expected = messages_of(oracle.events_received())
    oracle.receive_eof()

    pair.deliver(stream, sizes)
    pair.lose()

    got = pair.receiver
    assert got.messages == expected
    assert got.opened == 1
    assert got.stamps == sorted(got.stamps)
    reference = pair.client._reference
    assert (reference.close_rcvd, reference.close_sent) == (oracle.close_rcvd, oracle.close_sent)
    assert type(reference.parser_exc) is type(oracle.parser_exc)
    answers = [ServerProtocol(extensions=[ServerPerMessageDeflateFactory()]) for _ in range(2)]
    for answer, written in zip(answers, (pair.transport.written, b"".join(oracle.data_to_send())), strict=True):
        answer.receive_data(written)
    assert [e for e in answers[0].events_received()[1:]] == [e for e in answers[1].events_received()[1:]]
    code, _, error = got.end
    assert code == (oracle.close_rcvd or oracle.close_sent).code if oracle.close_sent else code == 1006
    assert (error is None) == (oracle.close_rcvd is not None and oracle.parser_exc is None)


@given(st.binary(max_size=400), st.booleans(), st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_random_bytes_never_raise_and_end_in_one_on_close(garbage, compression, size):
    pair = Pair(compression=compression).open()
    pair.deliver(garbage, [size])
    pair.lose()
    assert len(pair.receiver.closed) == 1


@given(st.binary(max_size=400), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_random_bytes_instead_of_an_answer_end_in_a_connect_error(garbage, size):
    pair = Pair()
    pair.deliver(garbage, [size])
    pair.lose()
    assert isinstance(pair.client.opened.exception(), ConnectError)
    assert pair.receiver.closed == []


def test_whole_simple_frames_take_the_fast_path_and_all_others_the_parser():
    pair = Pair(data_marks=((0, b"{"),)).open()
    pair.deliver(play(pair.server, [("text", b"{1}"), ("ping", b""), ("text", b"ok"), ("binary", b"{2}")], None))
    assert pair.receiver.fast == 3
    assert pair.receiver.controls == [b"ok"]
    pair.deliver(play(pair.server, [("fragmented", [b"a", b"b"], True), ("text", b"{3}")], None))
    assert pair.receiver.fast == 4
    assert pair.receiver.messages[-2:] == [(False, b"ab"), (False, b"{3}")]


def test_a_frame_that_arrives_in_many_pieces_still_takes_the_fast_path():
    pair = Pair().open()
    pair.deliver(play(pair.server, [("binary", bytes(200_000)), ("text", b"next")], None), [4096])
    assert pair.receiver.fast == 2


def test_a_chunk_is_stamped_once_when_it_arrives():
    pair = Pair().open()
    pair.deliver(play(pair.server, [("text", b"a"), ("ping", b""), ("fragmented", [b"b", b"c"], True)], None))
    assert set(pair.receiver.stamps) == {pair.client.last_recv_ns}


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (b"\x83\x00", 1002),  # reserved opcode
        (b"\xc1\x01x", 1002),  # compressed, which was not negotiated
        (b"\x81\x81\0\0\0\0x", 1002),  # masked
        (b"\x80\x01x", 1002),  # continuation of nothing
        (b"\x01\x01x\x81\x01y", 1002),  # a new message inside an open one
        (b"\x89\x7e\x00\x7e" + bytes(126), 1002),  # ping too long
        (b"\x82\x7f" + (FRAME_BYTES_MAX + 1).to_bytes(8, "big"), 1009),
        (b"\x82\x7f" + b"\xff" * 8, 1009),
    ],
)
def test_a_broken_protocol_is_closed_with_its_code_after_the_frames_before_it(broken, code):
    pair = Pair().open()
    pair.deliver(play(pair.server, [("text", b"good")], None) + broken + b"\x81\x03bad")
    assert pair.receiver.messages == [(False, b"good")]
    assert [(e.opcode, e.data[:2]) for e in pair.heard_by_server()] == [(Opcode.CLOSE, code.to_bytes(2, "big"))]
    pair.lose()
    assert pair.receiver.end[0] == code
    assert isinstance(pair.receiver.end[2], ConnectionBroken)


def test_an_open_message_keeps_even_later_chunks_with_the_parser():
    pair = Pair().open()
    pair.deliver(b"\x01\x02ab")
    pair.deliver(b"\x89\x00")
    pair.deliver(b"\x80\x02cd\x81\x01e")
    assert (pair.receiver.messages, pair.receiver.fast) == ([(False, b"abcd"), (False, b"e")], 1)
    pair.deliver(b"\x01\x02ab")
    pair.deliver(b"\x81\x08intruder")
    pair.lose()
    assert pair.receiver.end[0] == 1002
    assert len(pair.receiver.messages) == 2


def test_a_peer_that_never_ends_a_closing_handshake_is_dropped():
    pair = Pair().open()
    pair.client.close(1000, "done")
    pair.deliver(play(pair.server, [("text", b"still sent")], None))
    assert pair.receiver.messages == [(False, b"still sent")]
    pair.loop.advance(4.9)
    assert not pair.transport.aborted
    pair.loop.advance(0.2)
    assert pair.transport.aborted


def test_a_ping_is_answered_or_the_connection_given_up_at_the_next():
    pair = Pair(ping_ns=20 * SECOND, silence_ns=0).open()
    for _ in range(5):
        pair.loop.advance(20)
        [ping] = pair.heard_by_server()
        assert ping.opcode is Opcode.PING
        pair.deliver(pair.said())
    pair.loop.advance(20)
    pair.said()  # lost
    pair.loop.advance(20)
    pair.loop.advance(1)
    assert pair.transport.aborted
    pair.lose()
    assert "no pong" in str(pair.receiver.end[2])


def test_a_pong_late_behind_data_does_not_end_a_busy_connection():
    pair = Pair(ping_ns=20 * SECOND).open()
    for _ in range(5):
        pair.loop.advance(20)
        pair.deliver(play(pair.server, [("text", b"data")], None))
    assert pair.client.is_open


def test_silence_ends_the_connection_but_not_while_reading_is_paused():
    pair = Pair(ping_ns=0, silence_ns=60 * SECOND).open()
    pair.loop.advance(59)
    pair.deliver(play(pair.server, [("text", b"data")], None))
    pair.loop.advance(59)
    assert pair.client.is_open
    pair.client.pause_reading()
    pair.loop.advance(500)
    assert pair.client.is_open
    pair.client.resume_reading()
    pair.loop.advance(59)
    assert pair.client.is_open
    pair.loop.advance(61)
    assert pair.transport.aborted
    pair.lose()
    assert pair.receiver.end[:2] == (1001, "nothing received for 60.0 s")
    assert "allowed 60 s" in str(pair.receiver.end[2])


@pytest.mark.parametrize("method", ["on_open", "on_frames", "on_message"])
def test_a_failing_receiver_closes_the_connection_with_its_own_error(method):
    receiver, failure = Collector(), OSError("no space left")

    def fail(*_):
        raise failure

    setattr(receiver, method, fail)
    pair = Pair(receiver)
    pair.deliver(pair.said())
    pair.deliver(play(pair.server, [("fragmented", [b"a", b"b"], False), ("text", b"data")], None))
    pair.lose()
    assert receiver.end == (1011, "the receiver failed", failure)


def test_a_receiver_may_close_in_the_midst_of_a_chunk():
    receiver = Collector()
    pair = Pair(receiver)
    receiver.on_open = lambda: pair.client.close(1000, "enough")
    pair.deliver(pair.said() + play(pair.server, [("text", b"one"), ("text", b"two")], None))
    assert receiver.messages == [(False, b"one"), (False, b"two")]
    pair.heard_by_server()
    pair.deliver(pair.said())
    pair.lose()
    assert receiver.end == (1000, "enough", None)


def test_secrets_are_not_logged_even_at_debug(caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets").setLevel(logging.DEBUG)
    try:
        pair = Pair(headers=(("X-Key", "s3cret"),)).open()
        pair.client.send('{"key":"s3cret"}')
    finally:
        logging.getLogger("websockets").setLevel(logging.NOTSET)
    assert b"s3cret" in pair.transport.written
    client_lines = [r.getMessage() for r in caplog.records if not r.name.startswith("websockets.server")]
    assert not [line for line in client_lines if "s3cret" in line]
