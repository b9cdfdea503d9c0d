"""Streams of events over real sockets into a real journal: kept open, gone on with where they broke off, given up."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from event_server import CHUNKED, HOLD, PLAIN, EventServer, chunk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_connection import MILLISECOND, Told, connected, impatient, payloads, reached

from recorder.core.event_stream import read_event
from recorder.core.frames import CLOSED, OPENED, TEXT
from recorder.core.session import Session
from recorder.shell import last_events
from recorder.shell.journal import Journal
from recorder.shell.last_events import LastEvents
from recorder.values.errors import JournalFull
from recorder.values.feed import Capability, Command, Endpoint, FeedSpec, Key, Ready, Subscriptions

__all__ = ["impatient"]


class Listener:
    """A feed that only listens."""

    def __init__(self, url: str, **endpoint: Any) -> None:
        self.spec = FeedSpec(name="sse", provider="none", url=url)
        self._endpoint = Endpoint(url=url, **{"ping_ns": 0, **endpoint})

    def capability(self) -> Capability:
        return Capability(
            channels=("trades",), transport="sse", loss_detector="none", scope="none", loss_size_known=False,
            trade_ids="opaque", connections_max=1, symbols_per_connection_max=1, subscribe_items_max=1,
            sends_per_second_max=1.0, connects_per_minute_max=1e6,
        )  # fmt: skip

    def endpoint(self) -> Endpoint:
        return self._endpoint

    def on_open(self) -> list[Command]:
        return [Ready()]

    def on_control(self, payload: bytes) -> list[Command]:
        return []

    def subscriptions(self) -> Subscriptions:
        return Subscriptions(frozenset(), frozenset(), frozenset())

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        return []


def received(journal: Journal) -> list[bytes]:
    return [read_event(payload).data for payload in payloads(journal, TEXT)]


def listening(
    journal: Journal,
    scripts: list[list[bytes | None]],
    until: Callable[[Any, Told, EventServer], object],
    **endpoint: Any,
) -> tuple[Told, EventServer]:
    """Listen to a server of these scripts until a condition is met."""
    told, servers = Told(), []

    async def run() -> None:
        async with EventServer(*scripts) as server:
            servers.append(server)
            async with connected(Listener(server.url, **endpoint), journal, told) as c:
                await reached(lambda: until(c, told, server))

    asyncio.run(run())
    return told, servers[0]


@pytest.mark.parametrize("chunked", [False, True])
def test_each_event_is_a_frame_as_received_whether_chunked_or_not(journal: Journal, chunked: bool) -> None:
    pieces = [b": hello\n\n", b"event: t\nid: 1\nda", b"ta: {}\n", b"\ndata: a\ndata: b\n\n: ping\n\n"]
    script = [CHUNKED, *map(chunk, pieces), HOLD] if chunked else [PLAIN, *pieces, HOLD]
    told, server = listening(journal, [script], lambda c, *_: c.frames == 2 and c.ready)
    assert payloads(journal, TEXT) == [b"event: t\nid: 1\ndata: {}\n", b"data: a\ndata: b\n"]
    assert told.events == ["feed.connected"]
    head = server.heads[0]
    assert (head[""], head["accept"], head["cache-control"]) == (
        "GET /events HTTP/1.1", "text/event-stream", "no-store",
    )  # fmt: skip
    assert "last-event-id" not in head


def test_after_a_break_it_goes_on_after_the_last_whole_event(journal: Journal) -> None:
    first = [PLAIN, b"id: 7\ndata: a\n\n", b"id: 8\ndata: cut o"]
    told, server = listening(journal, [first, [PLAIN, b"data: b\n\n", HOLD]], lambda c, *_: c.frames == 2 and c.ready)
    assert received(journal) == [b"a", b"b"]
    assert [head.get("last-event-id") for head in server.heads] == [None, "7"]
    assert payloads(journal, CLOSED)[0] == b"the stream ended"
    assert len(payloads(journal, OPENED)) == 2
    assert told.events == ["feed.connected", "feed.disconnected", "feed.connected"]


def test_a_chunked_stream_that_breaks_off_in_a_chunk_says_so(journal: Journal) -> None:
    listening(journal, [[CHUNKED, chunk(b"data: a\n\n"), b"50\r\nda"], [PLAIN, HOLD]], lambda c, *_: c.reconnects == 1)
    assert b"ended in the middle of its answer" in payloads(journal, CLOSED)[0]


def test_the_last_chunk_is_an_end_like_any_other(journal: Journal) -> None:
    script = [CHUNKED, chunk(b"data: a\n\n"), b"0\r\n\r\n", HOLD]
    listening(journal, [script, [PLAIN, HOLD]], lambda c, *_: c.reconnects == 1)
    assert payloads(journal, CLOSED)[0] == b"the stream ended"


def test_the_server_says_how_long_to_wait_before_the_next_try(journal: Journal) -> None:
    told, _ = listening(
        journal, [[PLAIN, b"retry: 300\ndata: a\n\n"], [PLAIN, HOLD]], lambda c, *_: c.ready and c.reconnects == 1
    )
    assert told.lines[1][2]["retry_s"] == 0.3


def test_comments_keep_a_quiet_stream_alive_and_without_them_it_is_dead(journal: Journal) -> None:
    quiet = [PLAIN, *[b":\n\n"] * 3, HOLD]
    told, _ = listening(journal, [quiet, [PLAIN, HOLD]], lambda c, *_: c.reconnects == 1, silence_ns=200 * MILLISECOND)
    assert "nothing received for" in told.lines[1][2]["reason"]
    assert payloads(journal, TEXT) == []


def refused(status: bytes, more: bytes = b"", body: bytes = b'{"message":"no"}') -> list[bytes | None]:
    return [b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, more, len(body), body), HOLD]


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden", b"400 Bad Request", b"404 Not Found"])
def test_a_refusal_that_only_its_user_can_mend_is_told_once_with_its_words(journal: Journal, status: bytes) -> None:
    told, server = listening(
        journal, [refused(status)], lambda c, told, _: told.events and c.reconnects,
        headers=(("X-Key", "secret-of-mine"),),
    )  # fmt: skip
    assert told.events == ["feed.refused"]
    reason = told.lines[0][2]["reason"]
    assert status.decode() in reason
    assert '{"message":"no"}' in reason
    assert len(server.heads) == 1
    assert server.heads[0]["x-key"] == "secret-of-mine"
    assert payloads(journal, OPENED) == []


def test_204_is_the_end_of_it(journal: Journal) -> None:
    told, server = listening(journal, [[b"HTTP/1.1 204 No Content\r\n\r\n", HOLD]], lambda c, told, _: c.reconnects)
    assert told.events == ["feed.refused"]
    assert "will not be served again" in told.lines[0][2]["reason"]
    assert len(server.heads) == 1


def test_another_content_type_is_no_stream(journal: Journal) -> None:
    script = [b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi", HOLD]
    told, _ = listening(journal, [script], lambda c, told, _: c.reconnects)
    assert "'text/html', not text/event-stream" in told.lines[0][2]["reason"]
    assert told.events == ["feed.refused"]


def test_a_limit_is_waited_for_as_long_as_the_server_says(journal: Journal) -> None:
    limited = refused(b"429 Too Many Requests", b"Retry-After: 1\r\n")
    told, server = listening(journal, [limited, [PLAIN, HOLD]], lambda c, *_: c.ready)
    assert told.events == ["feed.unreachable", "feed.connected"]
    assert told.lines[0][2]["retry_s"] >= 1.0
    assert len(server.heads) == 2


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"])
def test_no_answer_and_no_http_are_tried_again(journal: Journal, answer: bytes) -> None:
    told, _ = listening(journal, [[answer], [PLAIN, HOLD]], lambda c, *_: c.ready)
    assert told.events == ["feed.unreachable", "feed.connected"]


def test_a_frame_that_the_journal_has_no_room_for_closes_the_stream_and_is_asked_for_again(journal: Journal) -> None:
    class Full:
        """A journal that is full once."""

        def __init__(self) -> None:
            self.full = True

        def __getattr__(self, name: str) -> Any:
            return getattr(journal, name)

        def append(self, source: int, kind: int, ts_recv: int, payload: bytes) -> int:
            if kind == TEXT and b"id: 2" in payload and self.full:
                self.full = False
                raise JournalFull("no room for another segment")
            return journal.append(source, kind, ts_recv, payload)

    async def run() -> None:
        told = Told()
        first = [PLAIN, b"id: 1\ndata: a\n\n", b"id: 2\ndata: b\n\n", HOLD]
        async with EventServer(first, [PLAIN, b"id: 2\ndata: b\n\n", HOLD]) as server:
            async with connected(Listener(server.url), Full(), told) as c:  # type: ignore[arg-type]
                await reached(lambda: len(received(journal)) == 2)
                assert c.reconnects == 1
            assert [head.get("last-event-id") for head in server.heads] == [None, "1"]

    asyncio.run(run())
    assert received(journal) == [b"a", b"b"]


def test_stopping_ends_it_at_once(journal: Journal) -> None:
    listening(journal, [[PLAIN, b"data: a\n\n", HOLD]], lambda c, *_: c.frames == 1)
    assert payloads(journal, CLOSED) == [b"recorder stopped"]


STREAM = Listener("http://127.0.0.1/events")


def resumed(journal: Journal, told: Told) -> tuple[LastEvents, Session]:
    """As a process that is started finds the stream."""
    left = LastEvents(journal, lambda spec: STREAM, told)
    session = Session(STREAM, lambda: 0.5)
    left.resume(STREAM.spec, session)
    session.events.restart()  # as a client that connects does
    return left, session


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"", b"id\n", b"id: a\n", b"id: b\r\n", b"id: \0\n"]),
            st.sampled_from(["nothing", "note", "kill", "close"]),
        ),
        max_size=30,
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_process_goes_on_after_the_last_event_journalled_whenever_the_one_before_was_killed(
    tmp_path: Path, steps: list[tuple[bytes, str]]
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder, Journal.open(Path(folder), segment_bytes=4096) as journal:
        told = Told()
        left, session = resumed(journal, told)
        source = journal.source(STREAM.spec)
        for number, (line, then) in enumerate(steps):
            for event in session.events.feed(line + b"data: %d\n\n" % number):
                journal.append(source, TEXT, number, event)
            expected = session.events.last_event_id
            if then == "note":
                left._write(left._note())
            elif then == "close":
                left.close()
            if then in ("kill", "close"):
                left, session = resumed(journal, told)
                assert session.events.last_event_id == expected
        assert told.lines == []


def test_a_file_of_last_events_that_cannot_be_read_is_told_and_the_stream_begins_anew(journal: Journal) -> None:
    (journal.directory / last_events.NAME).write_bytes(b'{"position":')
    told = Told()
    _, session = resumed(journal, told)
    assert session.events.last_event_id == ""
    assert told.events == ["last_events.unreadable"]


def test_an_event_whose_frame_a_power_loss_may_take_is_not_yet_one_to_go_on_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[bytes] = []
    with Journal.open(tmp_path, fsync_ms=3_600_000) as journal:
        left, session = resumed(journal, Told())
        journal.append(journal.source(STREAM.spec), TEXT, 1, b"id: 7\ndata: a\n")
        session.events.last_event_id = "7"

        async def sleep(_: float) -> None:
            said.append((tmp_path / last_events.NAME).read_bytes())
            if len(said) == 3:
                journal.sync()
            if len(said) == 4:
                raise asyncio.CancelledError

        monkeypatch.setattr(last_events.asyncio, "sleep", sleep)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(left.keep())
    assert [b'"7"' in each for each in said] == [False, False, False, True]
