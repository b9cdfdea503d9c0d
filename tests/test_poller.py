"""The poller against a real HTTP server and a real journal: when it asks, and how it takes no for an answer."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from plain_server import Reply, serving

from recorder.core import observations, polled
from recorder.core.frames import OBSERVED, POLLED, TEXT
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell import poller as polling
from recorder.shell.captures import open_capture
from recorder.shell.journal import Journal
from recorder.shell.journal.lines import to_lines
from recorder.shell.journal.segments import read_path
from recorder.shell.monitor import _Collector
from recorder.shell.pace import Pace
from recorder.shell.poller import Poller
from recorder.shell.simulator import Simulator
from recorder.values.config import KernelsConfig
from recorder.values.errors import FrameError, Limited
from recorder.values.feed import SECOND, Capability, FeedSpec, HttpRequest, HttpResponse, Poll
from recorder.values.tables import BARS, FEED_EVENTS, GAP_KINDS, GAPS, REJECTED

SECRET = "s3cret/of the+test"
WAIT_S = 20.0
DAY = 86_400 * SECOND


@dataclass
class Server:
    """A page of two bars for every symbol; answers set for a symbol, or for all ("*"), come first."""

    replies: dict[str, list[Reply]] = field(default_factory=dict)
    silent: int = 0  # requests that are not answered
    asked: list[tuple[float, str]] = field(default_factory=list)  # when, path with query
    url: str = ""

    def answer(self, path: str) -> Reply:
        self.asked.append((time.monotonic(), path))
        symbol = path.partition("?")[0].strip("/")
        for name in (symbol, "*"):
            if self.replies.get(name):
                return self.replies[name].pop(0)
        return 200, {}, msgspec.json.encode([[DAY, 1.5], [2 * DAY, 2.5]])

    def times(self, symbol: str) -> list[float]:
        return [at for at, path in self.asked if path.startswith(f"/{symbol}")]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    def answer(path: str, headers: Mapping[str, str]) -> Reply | None:
        reply = state.answer(path)
        if state.silent:
            state.silent -= 1
            return None
        return reply

    with serving(answer) as state.url:
        yield state


class Daily:
    """A polled provider: one poll a symbol, whose answer is a list of [start in ns, price] or an error in words."""

    def __init__(self, spec: FeedSpec, keys: Mapping[str, str] | None = None) -> None:
        self.spec = spec
        self.own = Capability(
            transport="poll", channels=("bars",), loss_detector="none", scope="none", loss_size_known=False,
            trade_ids="opaque", connections_max=1, symbols_per_connection_max=100, subscribe_items_max=1,
            sends_per_second_max=1.0, connects_per_minute_max=60.0, rest_per_second_max=200.0,
        )  # fmt: skip

    def capability(self) -> Capability:
        return self.own

    def shards(self) -> list[FeedSpec]:
        return [self.spec]

    def polls(self) -> tuple[Poll, ...]:
        every_ns = round(float(self.spec.options.get("every_s", "60")) * SECOND)
        return tuple(Poll(symbol, every_ns, lambda symbol=symbol: self._ask(symbol)) for symbol in self.spec.symbols)

    def _ask(self, symbol: str) -> Generator[HttpRequest, HttpResponse, None]:
        page: str | None = "0"
        while page is not None:
            url = f"{self.spec.rest_url}/{symbol}?page={page}"
            response = yield HttpRequest(url, secret_query=(("apikey", SECRET),), accepts=(409,))
            if response.status == 409:
                yield HttpRequest(f"{self.spec.rest_url}/handshake", private=True)
                continue
            if b"too often" in response.body:
                raise Limited("asked too often")
            if response.body.startswith(b'"'):
                raise FrameError(f"the provider says {response.body.decode()}")
            page = response.headers.get("next")

    def poll_decoder(self, out: Any) -> Callable[[str, bytes, int], None]:
        def decode(key: str, body: bytes, ts_recv: int) -> None:
            try:
                rows = msgspec.json.decode(body, type=list[tuple[int, float]])
            except msgspec.MsgspecError as error:
                raise FrameError(str(error)) from None
            for start, price in rows:
                append = out.bars.append
                append(start, ts_recv, out.series(key), out.text("1d"), *[price] * 4, 1.0, price, 1, 0)
                if price < 0:
                    raise FrameError(f"a price of {price}")

        return decode


class Told:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def _note(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    info = warning = error = _note

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.lines if name == event]


class Rig:
    """A poller, its journal, and the fold of it."""

    def __init__(self, journal: Journal, server: Server, *symbols: str, **options: str) -> None:
        self.journal, self.server, self.told = journal, server, Told()
        self.spec = FeedSpec(name="f", provider="test", symbols=symbols, rest_url=server.url, options=options)
        self.pace = Pace(uniform=lambda: 0.0)
        self.feed: Callable[[FeedSpec], Any] = Daily
        self.poller: Poller
        self.observed: list[str] = []  # reasons in feed_events

    def observe(self, table: Any, rows: Any) -> None:
        self.observed += [row[4] for row in rows if table is FEED_EVENTS]
        self.journal.append(0xFFFF, OBSERVED, time.time_ns(), observations.encode(table, rows))

    def run(self, *steps: Callable[[], bool] | Callable[[], None]) -> None:
        """Poll; of each step wait until it says True, or does not say."""

        async def run() -> None:
            self.poller = Poller(
                self.spec, self.journal, lambda: None, self.told, self.feed, self.pace, self.observe, lambda: 0.0
            )
            task = asyncio.create_task(self.poller.run())
            deadline = time.monotonic() + WAIT_S
            for step in steps:
                while step() is False:
                    assert time.monotonic() < deadline, (self.server.asked, self.told.lines)
                    assert not task.done(), task.result()
                    await asyncio.sleep(0.002)
            began = time.monotonic()
            await self.poller.stop()
            assert time.monotonic() - began < 1.0
            end = self.journal.end
            await asyncio.wait_for(task, 1.0)
            assert self.journal.end == end

        asyncio.run(run())

    def answered(self, symbol: str, times: int = 1) -> Callable[[], bool]:
        """Whether it has been asked for so often, and the last answer has been taken."""
        return lambda: len(self.server.times(symbol)) >= times and self.poller.frames + self.lost() >= 1

    def lost(self) -> int:
        return len(self.told.of("poll.failed")) + len(self.told.of("poll.limited"))

    def kept(self) -> list[tuple[polled.Answer, bytes]]:
        found, position = [], 0
        while (frames := self.journal.read(position)) is not None:
            found += [polled.decode(frames.payload(i)) for i in range(frames.count) if frames.kinds[i] == POLLED]
            position = frames.end
        return found

    def fold(self) -> dict[str, Any]:
        """Rows by table."""
        pipeline, position = Pipeline(KernelsConfig(), lambda spec: self.feed(spec)), 0
        while (frames := self.journal.read(position)) is not None:
            pipeline.consume(frames)
            position = frames.end
        self.pipeline = pipeline
        return {rows.table.name: rows.rows for rows in pipeline.seal().tables}


@pytest.fixture
def rig(journal: Journal, server: Server) -> Callable[..., Rig]:
    return lambda *symbols, **options: Rig(journal, server, *symbols, **options)


def test_every_poll_is_asked_on_its_schedule_and_its_answers_become_rows(rig: Callable[..., Rig]) -> None:
    r = rig("AAA", "BBB", every_s="0.2")
    began = time.monotonic()
    r.run(lambda: min(len(r.server.times("AAA")), len(r.server.times("BBB"))) >= 4)
    assert all(at - began >= 0.2 * number for number, at in enumerate(r.server.times("AAA")))
    assert all("apikey=s3cret%2Fof%20the%2Btest" in path for _, path in r.server.asked)
    kept = r.kept()
    assert {answer.key for answer, _ in kept} == {"AAA", "BBB"}
    assert {answer.url for answer, _ in kept} == {f"{r.server.url}/{symbol}?page=0" for symbol in ("AAA", "BBB")}
    rows = r.fold()["bars"]
    assert len(rows) == 2 * len(kept)
    assert set(rows["ts_event"].tolist()) == {DAY, 2 * DAY}
    assert set(rows["open"].tolist()) == {1.5, 2.5}
    assert r.told.of("feed.connected") == [{"feed": "f", "connection": 0, "polls": 2}]
    assert r.poller.requests == {200: len(kept)}


def test_a_secret_that_an_answer_repeats_is_struck_out_before_it_is_journalled(
    rig: Callable[..., Rig], server: Server
) -> None:
    r = rig("AAA", every_s="0.05")
    words = b'"your key s3cret/of was seen, and the+test"'
    server.replies["AAA"] = [(200, {}, words), (200, {"Content-Encoding": "gzip"}, gzip.compress(words))]
    r.run(lambda: len(server.times("AAA")) >= 1 and bool(r.lost()))
    assert [body for _, body in r.kept()] == ['"your key … was seen, and …"'.encode()]
    assert "s3cret" not in repr(r.told.lines)


def test_an_error_inside_an_answer_is_kept_rejected_and_delays_that_poll_alone(
    rig: Callable[..., Rig], server: Server
) -> None:
    r = rig("AAA", "BBB", every_s="0.05")
    server.replies["AAA"] = [(200, {}, b'"no such symbol"')]
    r.run(lambda: len(server.times("BBB")) >= 4)
    assert len(server.times("AAA")) == 1
    assert r.poller.ready
    assert list(r.poller.problems) == ["AAA"]
    rows = r.fold()
    assert len(rows[REJECTED.name]) == 1
    assert len(rows[BARS.name]) == 2 * sum(answer.key == "BBB" for answer, _ in r.kept())
    (failed,) = r.told.of("poll.failed")
    assert failed["reason"] == 'AAA: the provider says "no such symbol"'
    assert failed["retry_s"] >= 30


def test_of_an_answer_that_is_wrong_at_its_end_nothing_is_stored(rig: Callable[..., Rig], server: Server) -> None:
    r = rig("AAA")
    server.replies["AAA"] = [(200, {}, b"[[0,1.0],[1,-1.0]]")]
    r.run(lambda: r.poller.frames == 1)
    rows = r.fold()
    assert BARS.name not in rows
    assert len(rows[REJECTED.name]) == 1


def test_a_handshake_is_not_journalled_and_an_accepted_status_goes_to_who_asked(
    rig: Callable[..., Rig], server: Server
) -> None:
    r = rig("AAA")
    server.replies["AAA"] = [(409, {}, b"a new session is wanted")]
    server.replies["handshake"] = [(404, {}, b"s3cret/of")]
    r.run(lambda: r.poller.frames == 1)
    assert [path.partition("?")[0] for _, path in server.asked] == ["/AAA", "/handshake", "/AAA"]
    assert [answer.key for answer, _ in r.kept()] == ["AAA"]
    assert r.told.of("poll.failed") == []
    assert r.poller.requests == {409: 1, 404: 1, 200: 1}


def test_pages_are_asked_for_one_after_the_other_and_packed_ones_are_unpacked_by_the_fold(
    rig: Callable[..., Rig], server: Server
) -> None:
    r = rig("AAA")
    pages = [msgspec.json.encode([[DAY * n, float(n)]]) for n in (1, 2, 3)]
    packed = gzip.compress(pages[1])
    server.replies["AAA"] = [
        (200, {"Next": "1"}, pages[0]), (200, {"Next": "2", "Content-Encoding": "gzip"}, packed), (200, {}, pages[2]),
    ]  # fmt: skip
    r.run(lambda: r.poller.frames == 3)
    assert [answer.encoding for answer, _ in r.kept()] == ["", "gzip", ""]
    assert [body for _, body in r.kept()] == pages
    assert r.fold()[BARS.name]["open"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("status", "headers", "pause_s"),
    [(429, {}, 60.0), (429, {"Retry-After": "7"}, 7.0), (418, {"Retry-After": "7"}, 300.0), (418, {}, 300.0)],
)
def test_a_pause_is_for_all_who_ask_the_provider(
    rig: Callable[..., Rig], server: Server, status: int, headers: dict[str, str], pause_s: float
) -> None:
    r = rig("AAA", "BBB")
    server.replies["*"] = [(status, headers, b"Too Many Requests")]
    r.run(lambda: bool(r.told.of("poll.limited")))
    assert len(server.asked) == 1
    (limited,) = r.told.of("poll.limited")
    assert limited["retry_s"] == pause_s
    assert limited["reason"] == f"AAA: HTTP {status} Too Many Requests"
    assert r.pace.held_s == pytest.approx(pause_s, abs=5.0)
    assert not r.poller.ready
    assert r.poller.reason == limited["reason"]
    assert r.kept() == []
    (event,) = events(r)
    assert event == ("poll.limited", f"AAA: HTTP {status} Too Many Requests; asked again in {pause_s:.0f} s")


def test_words_in_an_answer_that_ask_for_a_pause_are_kept_rejected_and_obeyed(
    rig: Callable[..., Rig], server: Server
) -> None:
    r = rig("AAA", "BBB")
    server.replies["*"] = [(200, {}, b'"too often"')]
    r.run(lambda: bool(r.told.of("poll.limited")))
    assert len(server.asked) == 1
    assert [body for _, body in r.kept()] == [b'"too often"']
    assert len(r.fold()[REJECTED.name]) == 1
    assert r.pace.held_s > 50


def events(r: Rig) -> list[tuple[str, str]]:
    """Of feed_events, with their reasons."""
    rows, texts = r.fold()[FEED_EVENTS.name], r.pipeline.out.texts
    reasons = [line for line in r.observed]
    return list(zip([texts.name(event) for event in rows["event"].tolist()], reasons, strict=True))


@pytest.mark.parametrize("status", [500, 503, 408])
def test_a_server_that_fails_is_asked_again_after_longer_and_longer_pauses_told_once(
    rig: Callable[..., Rig], server: Server, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "DOWN_FIRST_S", 0.1)
    r = rig("AAA", "BBB")
    server.replies["*"] = [(status, {}, b"no")] * 4
    r.run(lambda: r.poller.frames >= 2)
    times = [at for at, _ in server.asked]
    pauses = [after - before for before, after in pairwise(times)]
    for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4), strict=False):
        assert pause >= least
    assert [fields["reason"] for fields in r.told.of("poll.failed")] == [f"AAA: HTTP {status} no"]
    told = [event for event, _ in events(r)]
    assert told[0] == "poll.failed"
    assert "poll.resumed" in told
    assert r.poller.ready


def test_the_time_in_which_a_provider_or_one_of_its_polls_did_not_answer_is_a_gap_with_its_cause(
    rig: Callable[..., Rig], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "DOWN_FIRST_S", 0.05)
    monkeypatch.setattr(polling, "FAILED_FIRST_S", 0.05)
    r = rig("AAA", every_s="0.05")
    server.replies["*"] = [
        (200, {}, b"[]"), *[(503, {}, b"no")] * 3, (200, {}, b"[]"), *[(200, {}, b'"unknown symbol"')] * 2
    ]  # fmt: skip
    began = time.time_ns()
    r.run(lambda: len(server.asked) >= 9 and r.poller.ready)
    gaps, pipeline = r.fold()[GAPS.name], r.pipeline
    causes = [pipeline.out.texts.name(cause) for cause in gaps["cause"].tolist()]
    assert causes == ["AAA: HTTP 503 no", 'AAA: the provider says "unknown symbol"']
    assert {pipeline.out.series.keys[series] for series in gaps["series"].tolist()} == {("f", "*")}
    assert {GAP_KINDS[kind - 1] for kind in gaps["kind"].tolist()} == {"disconnect"}
    for gap in gaps:
        assert gap["status"] == 0, "a note: nobody can be asked for what was not asked then"
        assert began < gap["ts_event"] - gap["span_ns"] < gap["ts_event"] < time.time_ns()
    assert gaps["span_ns"][0] > 0.07 * SECOND, "from the first of three that failed on"


def test_a_server_that_is_gone_or_silent_is_asked_again(
    rig: Callable[..., Rig], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(polling, "DOWN_FIRST_S", 0.05)
    r = rig("AAA")
    server.silent = 1
    r.run(lambda: r.poller.frames == 1)
    assert r.poller.requests[200] == 1
    assert r.poller.requests[0] >= 1, "a busy machine may be silent for longer"
    assert "no answer" in r.told.of("poll.failed")[0]["reason"]
    r.spec = FeedSpec(name="f", provider="test", symbols=("AAA",), rest_url="http://127.0.0.1:1")
    r.run(lambda: r.poller.requests[0] >= 2)
    assert not r.poller.ready


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_holds_everything_back_for_a_minute_at_least(
    rig: Callable[..., Rig], server: Server, status: int
) -> None:
    r = rig("AAA", "BBB")
    server.replies["*"] = [(status, {}, b"who are you?")]
    r.run(lambda: bool(r.told.of("poll.failed")))
    assert len(server.asked) == 1
    assert r.told.of("poll.failed")[0]["retry_s"] >= polling.REFUSED_FIRST_S / 2
    assert r.poller.reason == f"AAA: HTTP {status} who are you?"


def test_symbols_change_while_it_runs_and_those_that_stay_keep_their_schedule(
    rig: Callable[..., Rig], server: Server
) -> None:
    r = rig("AAA", "BBB")

    def change() -> None:
        r.poller.change(msgspec.structs.replace(r.spec, symbols=("BBB", "CCC")))

    r.run(lambda: r.poller.frames == 2, change, lambda: r.poller.frames == 3)
    assert [path.partition("?")[0] for _, path in server.asked] == ["/AAA", "/BBB", "/CCC"]
    assert r.poller.polls == 2
    assert len(r.fold()[BARS.name]) == 6


def test_stopping_does_not_wait_for_an_answer(rig: Callable[..., Rig], server: Server) -> None:
    r = rig("AAA")
    server.silent = 1
    r.run(lambda: len(server.asked) == 1)
    assert r.poller.frames == 0


def test_a_cursor_that_never_ends_is_given_up(
    rig: Callable[..., Rig], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "PAGES_MAX", 5)
    r = rig("AAA")
    server.replies["AAA"] = [(200, {"Next": "1"}, b"[]")] * 50
    r.run(lambda: bool(r.told.of("poll.failed")))
    assert len(server.asked) == 5


def test_an_error_of_ours_in_one_poll_does_not_touch_the_others(rig: Callable[..., Rig], server: Server) -> None:
    r = rig("AAA", "BBB")

    class Broken(Daily):
        def _ask(self, symbol: str) -> Generator[HttpRequest, HttpResponse, None]:
            if symbol == "AAA":
                raise ZeroDivisionError
            return (yield from super()._ask(symbol))

    r.feed = Broken
    r.run(lambda: r.poller.frames == 1)
    assert [fields["poll"] for fields in r.told.of("poll.broke")] == ["AAA"]
    assert list(r.poller.problems) == ["AAA"]


def test_answers_of_a_feed_without_polls_and_damaged_ones_are_rejected(
    rig: Callable[..., Rig], journal: Journal
) -> None:
    r = rig("AAA")
    source = journal.source(r.spec)
    whole = polled.encode(polled.Answer(key="AAA", encoding="gzip"), gzip.compress(b"[]"))
    for payload in (b"no line", b"{}\n[]", b'{"key":5}\n[]', whole[:-3], whole.replace(b"gzip", b"zstd")):
        journal.append(source, POLLED, DAY, payload)
    other = journal.source(FeedSpec(name="g", provider="coinbase", symbols=("BTC-USD",)))
    journal.append(other, POLLED, DAY, polled.encode(polled.Answer(key="AAA"), b"[]"))
    journal.append(source, TEXT, DAY, b"[]")
    known = r.feed
    r.feed = lambda spec: known(spec) if spec.provider == "test" else make(spec)
    rows = r.fold()
    assert len(rows[REJECTED.name]) == 7
    assert BARS.name not in rows


def test_the_monitor_shows_how_a_polled_feed_does(rig: Callable[..., Rig], server: Server) -> None:
    r = rig("AAA", "BBB")

    class Limited25(Daily):
        def capability(self) -> Capability:
            return msgspec.structs.replace(self.own, rest_quota=25, rest_quota_ns=DAY)

    r.feed = Limited25
    server.replies["AAA"] = [(200, {}, b'"no such symbol"')]
    values: dict[tuple[str, ...], float] = {}

    def look() -> None:
        run = SimpleNamespace(connections=[r.poller])
        collector = _Collector(SimpleNamespace(feeds={"f": run}))
        for family in collector._polls():
            for sample in family.samples:
                values[(sample.name, *sample.labels.values())] = sample.value

    r.run(lambda: r.poller.frames == 2 and bool(r.told.of("poll.failed")), look)
    age = values.pop(("recorder_poll_answer_age_seconds", "f"))
    assert 0.0 <= age < WAIT_S
    assert values == {
        ("recorder_poll_requests_total", "f", "200"): 2, ("recorder_polls", "f"): 2, ("recorder_polls_failing", "f"): 1,
        ("recorder_quota_used", "test"): 2, ("recorder_quota", "test"): 25,
        ("recorder_provider_held_seconds", "test"): 0,
    }  # fmt: skip


def test_a_journal_of_streams_and_polls_is_served_without_the_polls(journal: Journal, tmp_path: Path) -> None:
    stream = journal.source(FeedSpec(name="cb", provider="coinbase", symbols=("BTC-USD",)))
    asked = journal.source(FeedSpec(name="yh", provider="yahoo", symbols=("AAPL",), channels=("bars",)))
    journal.append(asked, POLLED, DAY, polled.encode(polled.Answer(key="chart AAPL 1d"), b"{}"))
    journal.append(stream, TEXT, DAY, b"{}")
    journal.close()
    exported = tmp_path / "out.jsonl"
    exported.write_bytes(b"".join(to_lines(read_path(journal.directory), lambda position, ts_recv: True)))
    for path in (journal.directory, exported):
        capture = open_capture(path)
        assert [item[1] for item in capture] == [POLLED, TEXT]
        assert Simulator(captures=[capture]).providers == ("coinbase",)
