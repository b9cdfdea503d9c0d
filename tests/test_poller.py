"""The poller against a real HTTP server and a real journal: when it asks, and how it takes no for an answer."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from recorder.core import observations, polled
from recorder.core.frames import OBSERVED, POLLED
from recorder.core.pipeline import Pipeline
from recorder.shell.journal import Journal
from recorder.shell.pace import Pace
from recorder.shell.poller import Poller
from recorder.values.config import KernelsConfig
from recorder.values.errors import FrameError, Limited
from recorder.values.feed import SECOND, Capability, FeedSpec, HttpRequest, HttpResponse, Poll
from recorder.values.tables import BARS, REJECTED

SECRET = "s3cret/of the+test"
WAIT_S = 20.0
DAY = 86_400 * SECOND

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Server:
    """A page of two bars for every symbol; answers set for a symbol, or for all ("*"), come first."""

    replies: dict[str, list[Reply]] = field(default_factory=dict)
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

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = state.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not of interest."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


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

    def observe(self, table: Any, rows: Any) -> None:
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
    r.run(lambda: min(len(r.server.times("AAA")), len(r.server.times("BBB"))) >= 4)
    times = r.server.times("AAA")
    assert all(0.1 < after - before < 1.0 for before, after in pairwise(times))
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
