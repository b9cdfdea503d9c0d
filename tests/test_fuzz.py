"""A million damaged frames of every provider through one pipeline, with good ones between them.

Nothing raises, every good frame's row is the one it would have been alone, what does not fit is counted, and memory
stays within bounds that have names.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

import msgspec
import numpy as np
import psutil
import pytest
from feeds.fuzzing import mutations

from recorder.core.batch import EXCERPT_BYTES, UNKNOWN_NAMES_MAX
from recorder.core.encode import Sealed
from recorder.core.frames import BINARY, SOURCE, TEXT, frames_from_list
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.values.config import KernelsConfig
from recorder.values.feed import FeedSpec
from recorder.values.tables import QUOTES, REJECTED, TRADES

DAMAGED = 1_000_000
SEED = 20260801
FRAMES_AT_ONCE = 4_000
GOOD_EVERY = 20  # one good frame after so many damaged ones
GARBAGE_EVERY = 16  # one of so many is bytes without any sense
SEAL_EVERY = 10  # in Frames
START = 1_790_000_000  # s
DAY_NS, YEAR_2000_NS = 86_400 * 10**9, 946_684_800 * 10**9
REJECTED_BYTES_MAX = 4 * EXCERPT_BYTES + 8192  # an excerpt with every byte escaped, or the longest reason
UNKNOWN_CHARS_MAX = 80
NAMES_MAX = 10_000  # damaged names that still are names: 950 series and 521 texts
GROWTH_BYTES_MAX = 96 << 20  # of the process over a million frames; measured 12 MB


@dataclass(frozen=True)
class Case:
    """A feed, the frames that get damaged, and a good trade with a number of its own, on a symbol of its own."""

    spec: FeedSpec
    templates: tuple[bytes, ...]
    good: Callable[[int], bytes]
    symbol: str
    kind: int = TEXT


def rfc3339(number: int) -> str:
    return f"2026-09-{1 + number // 86_400:02d}T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}.5Z"


def objects(*messages: dict[str, object]) -> tuple[bytes, ...]:
    return tuple(json.dumps(message, separators=(",", ":")).encode() for message in messages)


def binance(market: str, base: str) -> Case:
    perpetual = market == "usdm"

    def enveloped(stream: str, **data: object) -> dict[str, object]:
        return {"stream": stream, "data": data}

    def good(number: int) -> bytes:
        data = {"e": "trade", "E": 1, "s": f"{base}USDT", "t": number, "p": "1.5", "q": "2", "T": START * 1000 + number}
        return msgspec.json.encode(enveloped(f"{base.lower()}usdt@trade", **data, m=number % 2 == 0))

    bar = {
        "t": 1638747600000, "T": 1638747659999, "s": "BTCUSDT", "i": "1m", "f": 100, "L": 200, "o": "0.0010",
        "c": "0.0020", "h": "0.0025", "l": "0.0010", "v": "1000", "n": 100, "x": True, "q": "1.5", "V": "500",
        "Q": "0.500", "B": "123456",
    }  # fmt: skip
    quote = {"u": 2710246762461, "s": "BTCUSDT", "b": "28145.10", "B": "3.868", "a": "28145.20", "A": "6.887"}
    trade = {"E": 1672515782136, "s": "BTCUSDT", "t": 12345, "p": "0.001", "q": "100", "T": 1672515782136, "m": True}
    templates = objects(
        enveloped("btcusdt@trade", e="trade", **trade),
        enveloped(
            "btcusdt@aggTrade", e="aggTrade", f=100, l=105, **{"a" if k == "t" else k: v for k, v in trade.items()}
        ),
        enveloped("btcusdt@bookTicker", **quote),
        enveloped("btcusdt@bookTicker", e="bookTicker", T=1680652700430, E=1680652700435, **quote),
        enveloped("btcusdt@kline_1m", e="kline", E=1638747660000, s="BTCUSDT", k=bar),
        enveloped("btcusdt@depth@100ms", e="depthUpdate", E=1, s="BTCUSDT", U=157, u=160, b=[["1", "2"]], a=[]),
        {"result": None, "id": 1},
    )
    spec = FeedSpec(name=f"binance-{market}", provider="binance", options={"market": market})
    return Case(spec, templates, good, f"{base}-USDT-PERP" if perpetual else f"{base}-USDT")


def coinbase_exchange() -> Case:
    match = {
        "type": "match", "trade_id": 10, "sequence": 50, "maker_order_id": "a", "taker_order_id": "b",
        "time": "2014-11-07T08:19:27.028459Z", "product_id": "BTC-USD", "size": "5.23512", "price": "400.23",
        "side": "sell",
    }  # fmt: skip

    def good(number: int) -> bytes:
        return objects({**match, "product_id": "ZRX-EUR", "trade_id": number, "time": rfc3339(number)})[0]

    templates = objects(
        match,
        {**match, "type": "last_match"},
        {
            "type": "ticker", "sequence": 5, "product_id": "BTC-USD", "price": "17165.16", "best_bid": "17165.15",
            "best_bid_size": "0.6", "best_ask": "17167.76", "best_ask_size": "0.1", "side": "sell",
            "time": "2022-12-01T00:00:00.122581Z", "trade_id": 463751434, "last_size": "0.05",
        },
        {
            "type": "heartbeat", "last_trade_id": 278953096, "product_id": "BTC-USD", "sequence": 29716844241,
            "time": "2022-05-20T21:22:34.751219Z",
        },
        {"type": "l2update", "product_id": "BTC-USD", "time": "2019-08-14T20:42:27.265Z", "changes": []},
        {"type": "subscriptions", "channels": [{"name": "matches", "product_ids": ["BTC-USD"]}]},
    )  # fmt: skip
    return Case(FeedSpec(name="coinbase", provider="coinbase"), templates, good, "ZRX-EUR")


def coinbase_advanced() -> Case:
    trade = {
        "trade_id": "995098700", "product_id": "BTC-USD", "price": "68900.50", "size": "0.00150000", "side": "BUY",
        "time": "2026-04-07T14:30:02.789012Z",
    }  # fmt: skip

    def frame(channel: str, **event: object) -> dict[str, object]:
        stamp = "2026-04-07T14:30:02.789012Z"
        return {"channel": channel, "client_id": "", "timestamp": stamp, "sequence_num": 5, "events": [event]}

    def good(number: int) -> bytes:
        item = {**trade, "product_id": "ZRX-EUR", "trade_id": str(number), "time": rfc3339(number)}
        return objects(frame("market_trades", type="update", trades=[item]))[0]

    candle = {
        "start": "1775521800", "high": "68950.00", "low": "68850.00", "open": "68900.00", "close": "68920.50",
        "volume": "42.15000000", "product_id": "BTC-USD",
    }  # fmt: skip
    ticker = {
        "type": "ticker", "product_id": "BTC-USD", "price": "68900.50", "best_bid": "68900.00",
        "best_bid_quantity": "1.5", "best_ask": "68901.00", "best_ask_quantity": "0.5",
    }  # fmt: skip
    templates = objects(
        frame("market_trades", type="update", trades=[trade, {**trade, "trade_id": "995098701"}]),
        frame("ticker", type="snapshot", tickers=[ticker]),
        frame("candles", type="update", candles=[candle]),
        frame("heartbeats", current_time="2026-04-07 14:30:10.000000000+00:00", heartbeat_counter=42),
    )
    spec = FeedSpec(name="coinbase-advanced", provider="coinbase", options={"api": "advanced"})
    return Case(spec, templates, good, "ZRX-EUR")


def kraken() -> Case:
    trade = {
        "symbol": "MATIC/USD", "side": "sell", "price": 0.5117, "qty": 40.0, "ord_type": "market", "trade_id": 4665906,
        "timestamp": "2023-09-25T07:49:37.708706Z",
    }  # fmt: skip
    ticker = {
        "symbol": "BTC/USD", "bid": 99.9, "bid_qty": 1.2, "ask": 100.1, "ask_qty": 2.3,
        "timestamp": "2026-07-10T00:00:02.123456Z",
    }  # fmt: skip
    bar = {
        "symbol": "BTC/USD", "interval": 1, "interval_begin": "2023-10-04T16:25:00.000000000Z", "open": 106038.2,
        "high": 106044.3, "low": 106038.1, "close": 106040.1, "volume": 30927.68, "vwap": 106039.6, "trades": 12,
    }  # fmt: skip

    def good(number: int) -> bytes:
        item = {**trade, "symbol": "ZRX/EUR", "trade_id": number, "timestamp": rfc3339(number)}
        return objects({"channel": "trade", "type": "update", "data": [item]})[0]

    templates = objects(
        {"channel": "trade", "type": "snapshot", "data": [trade, {**trade, "trade_id": 4665907}]},
        {"channel": "ticker", "type": "update", "data": [ticker]},
        {"channel": "ohlc", "type": "update", "data": [bar]},
        {"channel": "status", "type": "update", "data": [{"system": "online", "api_version": "v2"}]},
        {"channel": "heartbeat"},
    )
    version1 = b'[993,[["354.04000000","0.28245396","1618678150.826417","s","m",""]],"trade","XMR/USD"]'
    return Case(FeedSpec(name="kraken", provider="kraken"), (*templates, version1), good, "ZRX-EUR")


ALPACA: tuple[dict[str, object], ...] = (
    {"T": "t", "S": "AAPL", "i": 96921, "x": "D", "p": 126.55, "s": 1, "t": 0, "c": ["@", "I"], "z": "C"},
    {"T": "q", "S": "AMD", "bx": "U", "bp": 87.6, "bs": 1, "ax": "Q", "ap": 88, "as": 4, "t": 0, "c": ["R"], "z": "C"},
    {"T": "b", "S": "SPY", "o": 388.9, "h": 389.1, "l": 388.9, "c": 389.1, "v": 49378, "n": 461, "vw": 389.06, "t": 0},
    {
        "T": "c", "S": "EEM", "x": "M", "oi": 52983525033527, "op": 39.1582, "os": 440000, "oc": [" ", "7"],
        "ci": 52983525034326, "cp": 39.1809, "cs": 440000, "cc": [" ", "7"], "z": "B", "t": 0,
    },
    {"T": "x", "S": "GOOGL", "i": 465, "x": "D", "p": 105.31, "s": 300, "a": "C", "z": "C", "t": 0},
    {"T": "l", "S": "IONM", "u": 3.24, "d": 2.65, "i": "B", "t": 0, "z": "C"},
    {"T": "s", "S": "AAPL", "sc": "H", "sm": "Trading Halt", "rc": "T12", "rm": "For information", "t": 0, "z": "C"},
    {"T": "success", "msg": "connected"},
)  # fmt: skip


def alpaca(format_: str) -> Case:
    def packed(number: int, *messages: dict[str, object]) -> bytes:
        """``t`` as the format has it: text, or MessagePack's own timestamp in four bytes."""
        stamp = msgspec.msgpack.Ext(-1, (START - 10**6 + number).to_bytes(4, "big"))
        timed = [
            {k: (rfc3339(number) if format_ == "json" else stamp) if k == "t" else v for k, v in m.items()}
            for m in messages
        ]
        return msgspec.json.encode(timed) if format_ == "json" else msgspec.msgpack.encode(timed)

    def good(number: int) -> bytes:
        return packed(number, {**ALPACA[0], "S": "ZRX", "i": number})

    templates = (*(packed(5, message) for message in ALPACA), packed(5, *ALPACA))
    spec = FeedSpec(name=f"alpaca-{format_}", provider="alpaca", options={"feed": "sip", "format": format_})
    return Case(spec, templates, good, "ZRX", TEXT if format_ == "json" else BINARY)


CASES = (
    binance("spot", "ZRX"),
    binance("usdm", "ZRX"),
    coinbase_exchange(),
    coinbase_advanced(),
    kraken(),
    alpaca("json"),
    alpaca("msgpack"),
)


def damaged(case: Case, count: int, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    for number, frame in enumerate(mutations(case.templates, count, seed)):
        yield rng.randbytes(rng.randrange(64)) if number % GARBAGE_EVERY == 0 else frame


def stream(broken: int) -> Iterator[list[tuple[int, int, int, bytes]]]:
    """``broken`` damaged frames (0: none, but the same good ones), all providers by turns, FRAMES_AT_ONCE at a time."""
    share = DAMAGED // len(CASES) + 1
    sources = [damaged(case, share, SEED + number) for number, case in enumerate(CASES)]
    listed = [(SOURCE, number, START * 10**9, msgspec.json.encode(case.spec)) for number, case in enumerate(CASES)]
    for i in range(DAMAGED):
        turn = i % len(CASES)
        case, ts_recv = CASES[turn], START * 10**9 + i
        if i < broken:
            listed.append((case.kind, turn, ts_recv, next(sources[turn])))
        if i % GOOD_EVERY == 0:
            listed.append((case.kind, turn, ts_recv, case.good(i)))
        if len(listed) >= FRAMES_AT_ONCE:
            yield listed
            listed = []
    yield listed


def text_lengths(offsets: np.ndarray) -> np.ndarray:
    """Bytes of each text of a batch; what lies behind the last one is not used."""
    return np.diff(offsets[: int(offsets.argmax()) + 1])


class Blocks:
    """What is looked at in every sealed block; the rows of good frames are kept, every column of them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.good: list[np.ndarray] = []
        self.rejected = 0

    def take(self, sealed: Sealed) -> None:
        for table in sealed.tables:
            if table.table is TRADES:
                assert_possible(table.rows, ("price", "size"))
                assert (table.rows["trade_id"] >= 0).all()
                self._keep(table.rows)
            elif table.table is QUOTES:
                assert_possible(table.rows, ("bid", "bid_size", "ask", "ask_size"))
            elif table.table is REJECTED:
                self.rejected += len(table.rows)
                assert text_lengths(table.varchar_offsets).max() < REJECTED_BYTES_MAX

    def _keep(self, rows: np.ndarray) -> None:
        keys, name_of = self.pipeline.out.series.keys, self.pipeline.out.texts.name
        ours = {(case.spec.name, case.symbol): number for number, case in enumerate(CASES)}
        numbers = np.array([ours.get(key, -1) for key in keys], np.int64)[rows["series"]]
        rows = rows[numbers >= 0]
        rows["series"] = numbers[numbers >= 0]
        for name in (
            "exchange",
            "conditions",
            "tape",
        ):  # ids depend on the texts met before: what they stand for instead
            rows[name] = [crc32(name_of(i).encode()) >> 1 if i >= 0 else i for i in rows[name]]
        self.good.append(rows)


def assert_possible(rows: np.ndarray, numbers: tuple[str, ...]) -> None:
    """A damaged frame that is read all the same gives no time and no number that cannot be; NaN is null."""
    assert (rows["ts_event"] >= YEAR_2000_NS).all()
    assert (rows["ts_event"] <= rows["ts_recv"] + DAY_NS).all()
    for name in numbers:
        values = rows[name]
        assert (np.isnan(values) | ((values >= 0.0) & np.isfinite(values))).all(), name


def run(broken: int) -> tuple[Pipeline, Blocks, int]:
    """The pipeline after the stream, what its blocks held, and by how many bytes the process grew once it was warm."""
    pipeline = Pipeline(KernelsConfig(), make)
    blocks, position, process, warm = Blocks(pipeline), 0, psutil.Process(os.getpid()), 0
    for number, listed in enumerate(stream(broken)):
        frames = frames_from_list(listed, position=position)
        position = frames.end
        pipeline.consume(frames)
        if number % SEAL_EVERY == SEAL_EVERY - 1:
            blocks.take(pipeline.seal())
        if number == 2 * SEAL_EVERY:
            warm = process.memory_info().rss
    blocks.take(pipeline.seal())
    return pipeline, blocks, process.memory_info().rss - warm


@pytest.mark.timeout(600)
def test_a_million_damaged_frames_stop_nothing_change_no_row_of_the_good_ones_and_fill_no_memory() -> None:
    _, alone, _ = run(0)
    pipeline, among, grown = run(DAMAGED)

    expected, found = np.concatenate(alone.good), np.concatenate(among.good)
    assert len(found) == len(expected) == DAMAGED // GOOD_EVERY
    assert np.sort(found, order="ts_recv").tobytes() == np.sort(expected, order="ts_recv").tobytes()

    out, sources = pipeline.out, pipeline.sources.values()
    assert sum(source.frames for source in sources) == DAMAGED + DAMAGED // GOOD_EVERY
    refused = sum(source.rejected for source in sources)
    assert DAMAGED // 2 < refused <= among.rejected  # of some frames only a part is refused
    assert pipeline.rows[REJECTED.name] == among.rejected
    assert all(source.frames > source.rejected > 0 for source in sources)
    assert sum(out.unknown.values()) > 1000

    assert len(out.unknown) <= UNKNOWN_NAMES_MAX + len(CASES)  # and "other" of each feed
    assert all(len(what) <= UNKNOWN_CHARS_MAX for _, what in out.unknown)
    assert max(len(out.series), out.texts.count) < NAMES_MAX
    assert grown < GROWTH_BYTES_MAX
