"""A provider for tests of gaps: trades and quotes as short JSON, a heartbeat, a history, and a pipeline of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from types import SimpleNamespace
from typing import Any

import msgspec

from recorder.core import history, snapshot
from recorder.core.frames import RESPONSE, SOURCE, frames_from_list
from recorder.core.gaps import GapBook
from recorder.core.history import HISTORY_CONNECTION, Page
from recorder.core.pipeline import Pipeline
from recorder.values.config import KernelsConfig
from recorder.values.errors import FrameError
from recorder.values.feed import Capability, FeedSpec, HistoryRequest, HttpRequest, HttpResponse
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.tables import BACKFILLED, GAP_KINDS, GAP_STATUSES, TABLES

START = 1_700_000_000_000_000_000
STEP = 1_000_000  # ns from one trade to the next
LAG = 500  # ns from an event to its receipt
LATER = 3_600 * 10**9  # after the stream: when history answers
LIVE, ANSWERS = 0, 1  # sources


class Trade(msgspec.Struct):
    """``named``: no trade, a heartbeat that names this id. ``quote``: no trade, a quote, which has no id."""

    symbol: str
    id: int
    ts: int
    named: bool = False
    quote: bool = False


def trade(number: int, symbol: str = "A") -> Trade:
    return Trade(symbol, number, START + number * STEP)


def price_of(number: int) -> float:
    return 100.0 + number


class StandIn:
    """A feed. ``option`` ids=opaque: ids are the same, but nobody may count with them."""

    PAGES_MAX = 1000
    HISTORY: tuple[str, ...] = ("trades", "quotes")

    def __init__(self, spec: FeedSpec) -> None:
        self.spec = spec

    def capability(self) -> Capability:
        opaque = self.spec.options.get("ids") == "opaque"
        return Capability(
            channels=("trades", "quotes"), loss_detector="none" if opaque else "trade_id", scope="symbol",
            loss_size_known=True,
            trade_ids="opaque" if opaque else "contiguous", connections_max=1, symbols_per_connection_max=100,
            subscribe_items_max=100, sends_per_second_max=10.0, connects_per_minute_max=60.0,
            history_channels=self.HISTORY, rest_per_second_max=1000.0,
        )  # fmt: skip

    def decoder(self, scope: Any) -> Callable[[bytes, int], None]:
        def decode(payload: bytes, ts_recv: int, flags: int = 0) -> None:
            for each in msgspec.json.decode(payload, type=list[Trade]):
                if each.named:
                    scope.named(each.symbol, each.id, each.ts, ts_recv)
                    continue
                if each.quote:
                    scope.quotes.append(
                        each.ts, ts_recv, scope.series(each.symbol), LONG_NULL, price_of(each.id), 1.0,
                        price_of(each.id) + 0.5, 2.0, TEXT_NULL, TEXT_NULL, TEXT_NULL, flags,
                    )  # fmt: skip
                    continue
                scope.trades.append(
                    each.ts, ts_recv, scope.series(each.symbol), TEXT_NULL, each.id, TEXT_NULL, price_of(each.id), 1.0,
                    1, TEXT_NULL, TEXT_NULL, flags,
                )  # fmt: skip

        return decode

    def history_decoder(self, scope: Any) -> Callable[[HistoryRequest, bytes, int], None]:
        decode = self.decoder(scope)

        def read(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
            if body.startswith(b"sorry"):
                raise FrameError("the provider is sorry")
            decode(body, ts_recv, BACKFILLED)  # type: ignore[call-arg]

        return read

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        """By id where there are ids, else by time; the answer's header ``next`` names the next page."""
        by_id = request.from_id is not None
        first, last = (request.from_id, request.to_id) if by_id else (request.start, request.end)
        cursor, pages = "0", 0
        while cursor and (pages := pages + 1) <= self.PAGES_MAX:
            url = f"{self.spec.rest_url}/history?symbol={request.symbol}&ids={int(by_id)}&from={first}&to={last}"
            url += "&quotes=1" if request.channel == "quotes" else ""
            answer = yield HttpRequest(f"{url}&page={cursor}", secret_headers=(("x-key", "s3cret-of-the-test"),))
            cursor = answer.headers.get("next", "")


class Fold:
    """A pipeline over the stand-in, what it stored by identity, and how often it stored it."""

    def __init__(self, ids: str = "contiguous", connection: int = 0) -> None:
        self.pipeline = Pipeline(KernelsConfig(time_gap_s=0), StandIn)  # type: ignore[arg-type]
        self.trades: dict[tuple[str, int], list[SimpleNamespace]] = {}
        self.quotes: dict[tuple[str, int], list[SimpleNamespace]] = {}
        self.gaps: dict[Any, SimpleNamespace] = {}
        self._position = 0
        spec = FeedSpec(name="f", provider="test", options={"ids": ids}, connection=connection)
        self._specs = {LIVE: spec, ANSWERS: msgspec.structs.replace(spec, connection=HISTORY_CONNECTION)}
        self.declare(START)

    @property
    def book(self) -> GapBook:
        return self.pipeline.gaps

    def frames(self, *frames: tuple[int, int, int, bytes]) -> None:
        listed = frames_from_list(frames, position=self._position)
        self._position = listed.end
        self.pipeline.consume(listed)

    def declare(self, ts: int) -> None:
        """As at the start of each segment."""
        self.frames(*((SOURCE, number, ts, msgspec.json.encode(spec)) for number, spec in self._specs.items()))

    def stream(self, *trades: Trade) -> None:
        self.frames(*((1, LIVE, each.ts + LAG, msgspec.json.encode([each])) for each in trades))

    def answer(self, gap: Any, trades: Iterable[Trade] = (), body: bytes | None = None, **page: Any) -> None:
        """A page of history for this gap."""
        request = self.book.request(gap) if gap.identity in self.book.open else HistoryRequest("A", "trades", 0, 0)
        head = Page(gap=gap.identity, request=request, **page)
        content = msgspec.json.encode(list(trades)) if body is None else body
        self.frames((RESPONSE, ANSWERS, START + LATER, history.encode(head, content)))

    def seal(self) -> None:
        sealed = self.pipeline.seal()
        for block in sealed.tables:
            for row in block.rows:
                values = SimpleNamespace(**{c.name: row[c.name].item() for c in TABLES[block.table.name].columns})
                values.symbol = ""
                if block.table.name in ("trades", "quotes", "gaps"):
                    values.symbol = self.pipeline.out.series.keys[values.series][1]
                if block.table.name == "trades":
                    self.trades.setdefault((values.symbol, values.trade_id), []).append(values)
                elif block.table.name == "quotes":
                    self.quotes.setdefault((values.symbol, round(values.bid - price_of(0))), []).append(values)
                elif block.table.name == "gaps":
                    values.cause = self.pipeline.out.texts.name(values.cause)
                    values.status = (None, *GAP_STATUSES)[values.status]
                    values.kind = (None, *GAP_KINDS)[values.kind]
                    values.channel = self.pipeline.out.texts.name(values.channel)
                    self.gaps[values.ts_event, values.symbol, values.channel, values.kind, values.from_id] = values

    def reopen_book(self) -> None:
        """As after a crash: the book comes from its state, in bytes."""
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.book.state()))
        fresh = GapBook(self.pipeline.out, self.pipeline.kernels)
        fresh.restore(state)
        self.pipeline.gaps = fresh

    def restart(self) -> None:
        """As after a crash: all of the pipeline comes from its snapshot, in bytes."""
        self.seal()
        content = snapshot.decode(self.pipeline.snapshot().encode())
        self.pipeline = Pipeline(KernelsConfig(time_gap_s=0), StandIn)  # type: ignore[arg-type]
        self.pipeline.restore(content)

    def of_series(self) -> list[SimpleNamespace]:
        """Gaps that are no notes."""
        return [gap for gap in self.gaps.values() if gap.symbol != "*"]


def counted(value: int) -> int:
    return 0 if value == LONG_NULL else value
