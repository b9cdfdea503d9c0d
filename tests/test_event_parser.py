"""Streams of events as the WHATWG's standard has them, cut anywhere; and the HTTP around them."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.core import event_stream
from recorder.core.event_stream import EventParser, read_event
from recorder.core.http_stream import HEAD_BYTES_MAX, HttpStream
from recorder.values.errors import ConnectError, ConnectionBroken
from recorder.values.feed import HOUR

MS = 1_000_000


def whole(stream: bytes, cuts: list[int] | None = None) -> tuple[list[bytes], str, int]:
    parser, events = EventParser(), []
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts or []), len(stream)]
    for first, last in itertools.pairwise(places):
        events += parser.feed(stream[first:last])
    return events, parser.last_event_id, parser.retry_ns


def data_of(stream: bytes) -> list[bytes]:
    return [read_event(raw).data for raw in whole(stream)[0]]


# The examples of the standard, § "Interpreting an event stream", and what it says of them.
@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: This is the first message.\n\ndata: a\ndata: b\n\n", [b"This is the first message.", b"a\nb"]),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
        (b": test stream\n\ndata: first\nid: 1\n\ndata:2nd\nid\n\ndata:  third\n\n", [b"first", b"2nd", b" third"]),
        (b"data\n\ndata\ndata\n\ndata:", [b"", b"\n"]),
        (b"data:test\n\ndata: test\n\n", [b"test", b"test"]),
        (b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n", [b"73857293", b"2153"]),
    ],
)  # fmt: skip
def test_the_standards_examples_give_what_the_standard_says(stream: bytes, data: list[bytes]) -> None:
    assert data_of(stream) == data


def test_an_id_lasts_until_another_and_an_empty_one_clears_it() -> None:
    parser = EventParser()
    found = []
    for part in (b"data: a\nid: 1\n\n", b"data: b\n\n", b"id: 7\n\n", b"id: 8\x00\ndata: c\n\n", b"id\ndata: d\n\n"):
        list(parser.feed(part))
        found.append(parser.last_event_id)
    assert found == ["1", "1", "7", "7", ""]


def test_an_event_cut_off_by_the_end_counts_for_nothing_and_the_next_connection_goes_on_after_the_one_before() -> None:
    parser = EventParser()
    assert len(list(parser.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n"))) == 1
    parser.restart()
    assert parser.last_event_id == "1"
    assert [read_event(raw).data for raw in parser.feed(b"data: c\n\n")] == [b"c"]
    assert parser.last_event_id == "1"


@pytest.mark.parametrize(
    ("line", "retry_ns"),
    [(b"retry: 1500", 1500 * MS), (b"retry: 1.5", 0), (b"retry: -1", 0), (b"retry:", 0), (b"retry: 99999999999", HOUR),
     (b"retry: \xd9\xa1", 0)],
)  # fmt: skip
def test_only_digits_are_a_time_to_wait_and_an_hour_is_the_most(line: bytes, retry_ns: int) -> None:
    assert whole(line + b"\n\n")[2] == retry_ns


def test_an_event_is_its_lines_exactly_as_received_without_what_stands_around_it() -> None:
    stream = b"\xef\xbb\xbf: hello\r\n\r\n: more\nevent: e\r\n: inside\ndata: {}\rfoo: bar\nid: 3\r\r\n:ping\n"
    assert whole(stream)[0] == [b"event: e\r\n: inside\ndata: {}\rfoo: bar\nid: 3\r"]


def test_nothing_but_line_ends_ends_a_line() -> None:
    text = "data: a\u2028b\u0085c\x0bd\x0ce\n\n"
    assert data_of(text.encode()) == ["a\u2028b\u0085c\x0bd\x0ce".encode()]


LINES = st.lists(
    st.sampled_from(
        (b"", b"", b"data: x", b"data:", b"data", b"data: \xef\xbb\xbf", b"id: 1", b"id", b"id: \x00", b"event: e",
         b": comment", b"retry: 250", b"other: 1", b"data: " + "é\u2028".encode(), b"dataset: 5")
    ),
    max_size=20,
)  # fmt: skip
ENDS = st.sampled_from((b"\n", b"\r", b"\r\n"))


@given(st.lists(st.tuples(LINES, ENDS), max_size=6), st.booleans(), st.lists(st.integers(0, 5000), max_size=12))
def test_events_do_not_depend_on_how_the_stream_was_cut(blocks, bom: bool, cuts: list[int]) -> None:
    stream = (b"\xef\xbb\xbf" if bom else b"") + b"".join(line + end for lines, end in blocks for line in lines)
    found = whole(stream, cuts)
    assert found == whole(stream, list(range(len(stream)))) == whole(stream)
    assert [read_event(raw) for raw in found[0]] == slowly(stream)


def slowly(stream: bytes) -> list[tuple[str, bytes, str | None]]:
    """The standard's algorithm word by word, over the whole text: the oracle."""
    text = stream.decode("utf-8").removeprefix("\ufeff")
    lines = re.split("\r\n|\r|\n", text)[:-1]  # what has no end of line is no line
    events, data, type_, id_ = [], "", "", None
    for line in lines:
        if line == "":
            if data:
                events.append((type_ or "message", data[:-1].encode(), id_))
            data, type_, id_ = "", "", None
            continue
        if line[0] == ":":
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data += value + "\n"
        elif name == "event":
            type_ = value
        elif name == "id" and "\0" not in value:
            id_ = value
    return events


def test_an_event_without_an_end_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "EVENT_BYTES_MAX", 1000)
    parser = EventParser()
    for _ in range(100):
        assert list(parser.feed(b": only comments, and never a blank line\n")) == []
    assert list(parser.feed(b"data: " + b"x" * 990)) == []
    with pytest.raises(ConnectionBroken, match="more than 1000 bytes"):
        list(parser.feed(b"y" * 10))


# HTTP


def answered(head: bytes, body: bytes, cuts: list[int]) -> tuple[HttpStream, bytes]:
    stream, whole_, found = HttpStream(), head + body, b""
    places = [0, *sorted(cut % (len(whole_) + 1) for cut in cuts), len(whole_)]
    for first, last in itertools.pairwise(places):
        found += stream.feed(whole_[first:last])
    return stream, found


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(0, 5000), max_size=12), st.booleans()
)
def test_a_chunked_body_is_the_sum_of_its_chunks_however_it_is_cut(parts, cuts, trailer) -> None:
    body = b"".join(b"%X;ext=1\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n"
    body += b"X-Late: 1\r\n\r\n" if trailer else b"\r\n"
    stream, found = answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: 1\r\na: 2\r\n\r\n", body, cuts)
    assert found == b"".join(parts)
    assert stream.ended
    assert stream.eof()
    assert stream.head is not None
    assert stream.head.headers["a"] == "1, 2"


@given(st.binary(max_size=60), st.lists(st.integers(0, 5000), max_size=12))
def test_a_body_with_a_length_ends_there_and_one_without_at_the_end_of_the_connection(body, cuts) -> None:
    stream, found = answered(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body + b"", cuts)
    assert (found, stream.ended) == (body, True)
    stream, found = answered(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\n", body, cuts)
    assert (found, stream.ended, stream.eof()) == (body, False, True)


def test_a_chunked_body_that_just_stops_is_not_whole() -> None:
    stream, found = answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nabc", [])
    assert (found, stream.ended, stream.eof()) == (b"abc", False, False)


@pytest.mark.parametrize("body", [b"zz\r\n", b"-1\r\n", b"\r\n", b"1\r\nab\r\n", b"1" * 5000])
def test_what_is_no_chunk_is_refused(body: bytes) -> None:
    with pytest.raises(ConnectionBroken):
        answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", body, [])


@pytest.mark.parametrize("head", [b"SSH-2.0-x\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"a" * (HEAD_BYTES_MAX + 1)])
def test_what_is_no_head_is_refused(head: bytes) -> None:
    with pytest.raises(ConnectError):
        answered(head, b"", [])
