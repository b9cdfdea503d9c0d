"""From the journal to bytes for QuestDB, in memory: read, decode, kernels, sort, encode. ns per trade.

    pytest bench/bench_pipeline.py

``extra_info`` holds ns per trade in all and by stage, and what msgspec alone takes to decode the same frames into
structs of the same fields: that is the floor for whoever makes a Python object of every message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.traffic import FIRST_ID, VENUES, Traffic
from recorder.core import encode, frames
from recorder.core.frames import BINARY, TEXT
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell.engine import READ_BYTES
from recorder.shell.journal import Journal
from recorder.values.config import KernelsConfig
from recorder.values.feed import FeedSpec

TRADES = 100_000  # of a round
SEAL_ROWS = 2_500  # what a 5 ms window collects at 500,000 trades/s
ROUNDS = 5
ALPACA_TRADES = 20  # in one frame
NOW = 1_790_000_000 * 10**9


class Binance(msgspec.Struct, gc=False):
    s: str
    t: int
    p: float
    q: float
    T: int
    m: bool


class Envelope(msgspec.Struct, gc=False):
    stream: str
    data: Binance


class Match(msgspec.Struct, gc=False):
    trade_id: int
    product_id: str
    price: float
    size: float
    side: str
    time: str


class KrakenTrade(msgspec.Struct, gc=False):
    symbol: str
    side: str
    price: float
    qty: float
    trade_id: int
    timestamp: str


class Kraken(msgspec.Struct, gc=False):
    data: list[KrakenTrade]


class AlpacaTrade(msgspec.Struct, gc=False):
    S: str
    i: int
    x: str
    p: float
    s: float
    c: list[str]
    t: Any
    z: str


@dataclass(frozen=True)
class Case:
    """Frames of a venue and the least that msgspec must do with each."""

    spec: FeedSpec
    kind: int
    payloads: list[bytes]
    floor: Callable[[bytes], Any]


def alpaca(format_: str) -> Case:
    """Arrays of 20 trades, each of another symbol, as JSON or as MessagePack with its timestamps."""
    symbols = tuple(f"SYM{chr(65 + i)}" for i in range(ALPACA_TRADES))
    options = {"feed": "sip", "format": format_}
    spec = FeedSpec(name="bench", provider="alpaca", channels=("trades",), symbols=symbols, options=options)
    binary = format_ == "msgpack"
    payloads = []
    for frame in range(TRADES // ALPACA_TRADES):
        ns = NOW + frame * 20_000
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"
        stamp = msgspec.msgpack.Ext(-1, (ns % 10**9 << 34 | ns // 10**9).to_bytes(8, "big"))
        trades = [
            {
                "T": "t", "S": symbol, "i": FIRST_ID + frame, "x": "D", "p": 126.5 + frame % 97 / 100,
                "s": 100 + frame % 7, "c": ["@", "I"] if frame % 2 else ["@"], "t": stamp if binary else text, "z": "C",
            }
            for symbol in symbols
        ]  # fmt: skip
        payloads.append((msgspec.msgpack if binary else msgspec.json).encode(trades))
    codec = msgspec.msgpack if binary else msgspec.json
    return Case(spec, BINARY if binary else TEXT, payloads, codec.Decoder(list[AlpacaTrade]).decode)


def rendered(name: str, type_: type) -> Case:
    venue = VENUES[name]
    payloads = Traffic(venue).payloads(0, TRADES // venue.trades, NOW)
    return Case(venue.spec, TEXT, payloads, msgspec.json.Decoder(type_, strict=False).decode)


CASES: dict[str, Callable[[], Case]] = {
    "binance_1": lambda: rendered("binance_trade", Envelope),
    "coinbase_1": lambda: rendered("coinbase_match", Match),
    "kraken_20": lambda: rendered("kraken", Kraken),
    "alpaca_json_20": lambda: alpaca("json"),
    "alpaca_msgpack_20": lambda: alpaca("msgpack"),
}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    for module in (frames, encode):
        module.warm()
    with Journal.open(tmp_path, compress=False) as opened:
        yield opened


class Run:
    """One pass over the journal; the stages are timed per read and per block, which costs nothing per trade."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.encoder = journal, encode.Encoder()
        self.pipeline = Pipeline(KernelsConfig(), make)
        self.pipeline.warm()
        self.rows = self.bytes = 0
        self.ns = {"read": 0, "decode": 0, "seal": 0, "encode": 0}

    def __call__(self) -> Run:
        clock, ns, pipeline = time.perf_counter_ns, self.ns, self.pipeline
        while True:
            begun = clock()
            found = self.journal.read(pipeline.position, READ_BYTES)
            if found is None or not found.count:
                break
            read = clock()
            pipeline.consume(found)
            ns["decode"] += clock() - read
            ns["read"] += read - begun
            if pipeline.pending >= SEAL_ROWS:
                self._block()
        self._block()
        return self

    def _block(self) -> None:
        begun = time.perf_counter_ns()
        sealed = self.pipeline.seal()
        self.ns["seal"] += time.perf_counter_ns() - begun
        begun = time.perf_counter_ns()
        for rows in sealed.tables:
            self.bytes += len(self.encoder.encode(rows, sealed.dictionary))
            self.rows += len(rows.rows) if rows.table.name == "trades" else 0
        self.ns["encode"] += time.perf_counter_ns() - begun


@pytest.mark.parametrize("name", list(CASES))
def test_journal_to_encoded_rows(benchmark: Any, journal: Journal, name: str) -> None:
    case = CASES[name]()
    source = journal.source(case.spec)
    for payload in case.payloads:
        journal.append(source, case.kind, NOW + 10**9, payload)
    runs: list[Run] = []
    floors: list[int] = []

    def setup() -> tuple[tuple[Run], dict[str, Any]]:
        begun = time.perf_counter_ns()
        for payload in case.payloads:
            case.floor(payload)
        floors.append(time.perf_counter_ns() - begun)
        runs.append(Run(journal))
        return (runs[-1],), {}

    last = benchmark.pedantic(lambda run: run(), setup=setup, rounds=ROUNDS, iterations=1, warmup_rounds=1)
    assert last.rows == TRADES
    assert not any(source.rejected for source in last.pipeline.sources.values())
    assert not last.pipeline.out.unknown
    best = min(runs, key=lambda run: sum(run.ns.values()))
    for stage, ns in best.ns.items():
        benchmark.extra_info[f"{stage}_ns_per_trade"] = round(ns / TRADES, 1)
    benchmark.extra_info["ns_per_trade"] = round(sum(best.ns.values()) / TRADES, 1)
    benchmark.extra_info["trades_per_s"] = round(TRADES / sum(best.ns.values()) * 1e9)
    benchmark.extra_info["msgspec_ns_per_trade"] = round(min(floors) / TRADES, 1)
    benchmark.extra_info["bytes_per_row"] = round(last.bytes / TRADES, 1)
