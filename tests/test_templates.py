"""Templates change nothing but the cost: rows, gaps, rejects and counters are those of the decoders, bit for bit."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from feeds.fuzzing import mutations
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.msgpack import Ext

from recorder.core import spellings, wire
from recorder.core.batch import BATCH_ROWS_INITIAL
from recorder.core.frames import BINARY, CLOSED, OPENED, SOURCE, TEXT, Frames, frames_from_list
from recorder.core.market import Market
from recorder.core.pipeline import Pipeline
from recorder.core.spellings import NOTHING, Spellings
from recorder.core.templates import PATIENCE_MAX
from recorder.core.text_time import rfc3339_ns
from recorder.feeds import make
from recorder.shell.captures import open_capture, to_frames
from recorder.shell.simulator.render import Renderer
from recorder.shell.simulator.venues import CONVERSATIONS, default_path, make_venue
from recorder.values.config import KernelsConfig
from recorder.values.errors import FrameError
from recorder.values.feed import FeedSpec
from recorder.values.tables import HALTED

SECOND = 10**9
START = 1_785_000_000  # s, in July 2026
DAMAGED = 105_000  # frames, over all cases
SEED = 20260801
MATCHED_MIN = 0.99  # of the frames that become rows, the first of each symbol aside: those teach
Listed = list[tuple[int, int, int, bytes]]


def rfc3339(number: int, digits: int = 6) -> str:
    return f"2026-07-25T{17 + number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.{'123456789'[:digits]}Z"


# The messages of each feed as its provider documents them, or as recordings hold them, numbered.


def binance_spot(i: int) -> bytes:
    name, ts = ("BTCUSDT", "ETHUSDT")[i % 2], START * 1000 + i
    if i % 3 == 0:
        data = f'{{"u":{i},"s":"{name}","b":"25.35190000","B":"31.21000000","a":"25.36520000","A":"40.66000000"}}'
        return f'{{"stream":"{name.lower()}@bookTicker","data":{data}}}'.encode()
    kind = '"e":"trade"' if i % 3 == 1 else '"e":"aggTrade"'
    numbers = f'"t":{i},"p":"0.00100000","q":"100.{i % 100:02d}"'
    if i % 3 == 2:
        numbers = f'"a":{i},"p":"6183{i % 10}.63000000","q":"123456789.00000000","f":100,"l":105'
    taken = ("true", "false")[i % 5 == 0]
    data = f'{{{kind},"E":{ts},"s":"{name}",{numbers},"T":{ts},"m":{taken},"M":true}}'
    return f'{{"stream":"{name.lower()}@trade","data":{data}}}'.encode()


def binance_usdm(i: int) -> bytes:
    ts = START * 1000 + i
    trade, stamp = f'"p":"28145.{i % 100:02d}","q":"0.002"', f'"T":{ts}'
    data = (
        f'"e":"trade","E":{ts},{stamp},"s":"BTCUSDT","t":{i},{trade},"X":"{("MARKET", "INSURANCE_FUND")[i % 50 == 0]}"'
        ',"m":true',
        f'"e":"aggTrade","E":{ts},"a":{i},"s":"BTCUSDT",{trade},"f":1,"l":2,{stamp},"m":false',
        f'"e":"aggTrade","E":{ts},"s":"BTCUSDT","a":{i},{trade},"nq":"0.002","f":1,"l":2,{stamp},"m":false',
        f'"e":"bookTicker","u":{i},"s":"BTCUSDT","b":"28145.10","B":"3.868","a":"28145.20","A":"6.887",{stamp},"E":{ts}',
        f'"u":{i},"e":"bookTicker","s":"BTCUSDT","ps":"BTCUSDT","b":"42.271","B":"437","a":"42.288","A":"0",{stamp},'
        f'"E":{ts}',
    )[i % 5]
    return f'{{"stream":"btcusdt@x","data":{{{data}}}}}'.encode()


def coinbase_exchange(i: int) -> bytes:
    time, product = rfc3339(i), ("BTC-USD", "ETH-EUR")[i % 2]
    side = ("buy", "sell")[i % 3 == 0]
    ids = '"maker_order_id":"a21150b4-96f1-44b8-ae4e-ff05c02b37bb","taker_order_id":"ecaa753b-4501-4e9f-bb3f-f7da26bd"'
    if i % 40 == 7:  # every 80th names a trade that never comes
        last = i + 5 * (i % 80 == 7)
        return (
            f'{{"type":"heartbeat","last_trade_id":{last},"product_id":"{product}","sequence":9,"time":"{time}"}}'
        ).encode()
    match i % 4:
        case 0:
            return (
                f'{{"type":"match","trade_id":{i},{ids},"side":"{side}","size":"17","price":"0.79{i % 100:02d}",'
                f'"product_id":"{product}","sequence":201392680,"time":"{time}"}}'
            ).encode()
        case 1:
            return (
                f'{{"type":"match","trade_id":{i},"sequence":50,{ids},"time":"{time}","product_id":"{product}",'
                f'"size":"5.23512","price":"400.23","side":"{side}"}}'
            ).encode()
    sizes = ('"best_bid_size":"0.61540890",', '"best_ask_size":"0.18528568",') if i % 4 == 2 else ("", "")
    return (
        f'{{"type":"ticker","sequence":{i},"product_id":"{product}","price":"17165.16","open_24h":"16437.94",'
        '"volume_24h":"42492.05081975","low_24h":"16423.37","high_24h":"17259.37","volume_30d":"1093827.95195495",'
        f'"best_bid":"17165.15",{sizes[0]}"best_ask":"17167.76",{sizes[1]}"side":"sell","time":"{time}",'
        '"trade_id":463751434,"last_size":"0.05"}'
    ).encode()


def coinbase_advanced(i: int) -> bytes:
    number = i + 3 * (i // 70)  # frames are lost now and then
    if i % 25 == 3:
        return (
            f'{{"channel":"heartbeats","client_id":"","timestamp":"{rfc3339(i)}","sequence_num":{number},'
            '"events":[{"heartbeat_counter":42}]}'
        ).encode()
    trades = ",".join(
        f'{{"trade_id":"{10 * i + k}","product_id":"{("BTC-USD", "ETH-USD")[k % 2]}","price":"68900.50",'
        f'"size":"0.00150000","side":"{("BUY", "SELL")[k % 3 == 0]}","time":"{rfc3339(i)}"}}'
        for k in range(1 + i % 4)
    )
    return (
        f'{{"channel":"market_trades","client_id":"","timestamp":"{rfc3339(i)}","sequence_num":{number},'
        f'"events":[{{"type":"{("update", "snapshot")[i % 60 == 0]}","trades":[{trades}]}}]}}'
    ).encode()


def kraken(i: int) -> bytes:
    kind = ("update", "snapshot")[i % 60 == 0]
    if i % 3 == 0:
        time = f',"timestamp":"{rfc3339(i)}"' if i % 2 else ""
        day = '"last":105899.40,"volume":163.28908096,"vwap":105904.39279,"low":104711.00,"high":106613.10'
        return (
            f'{{"channel":"ticker","type":"{kind}","data":[{{"symbol":"BTC/USD","bid":105944.2,"bid_qty":2.5,'
            f'"ask":105944.30,"ask_qty":3.2,{day},"change":-250.00,"change_pct":-0.24{time}}}]}}'
        ).encode()
    trades = ",".join(
        f'{{"symbol":"{("MATIC/USD", "XBT/EUR")[k % 2]}","side":"{("sell", "buy")[k % 3 == 0]}","price":0.5117,'
        f'"qty":{40 + i}.0,"ord_type":"market","trade_id":{10 * i + k},"timestamp":"{rfc3339(i)}"}}'
        for k in range(1 + i % 4)
    )
    return f'{{"channel":"trade","type":"{kind}","data":[{trades}]}}'.encode()


def okx(i: int) -> bytes:
    name, ts = ("BTC-USDT", "ETH-USDT-SWAP")[i % 2], START * 1000 + i
    if i % 3 == 0:
        ask = f'["847{i % 10}.98","415","0","13"]' if i % 40 != 9 else ""
        return (
            f'{{"arg":{{"channel":"bbo-tbt","instId":"{name}"}},"data":[{{"asks":[{ask}],"bids":[["8470.97","256","0",'
            f'"12"]],"ts":"{ts}","seqId":{i}}}]}}'
        ).encode()
    rest = f'"source":"0","ts":"{ts}"' if i % 4 else f'"ts":"{ts}"'
    return (
        f'{{"arg":{{"channel":"trades-all","instId":"{name}"}},"data":[{{"instId":"{name}","tradeId":"{i + i // 50}",'
        f'"px":"42219.{i % 10}","sz":"0.12060306","side":"{("buy", "sell")[i % 5 == 0]}",{rest}}}]}}'
    ).encode()


def shares(i: int, time: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Trades and quotes of two shares, one of which is halted for a while, bars and a connection's greeting."""
    symbol, t = ("AAPL", "BRK.B")[i % 2], time(i)
    conditions = (["@"], ["@", "I"], [" ", "T", "I"], [], ["é"])[i % 5 if i % 50 == 4 else i % 4]
    number = (96921 + i, (1 << 63) + i)[i % 30 == 0]
    trade = {"T": "t", "S": symbol, "i": number, "x": "DQ"[i % 2], "p": 126.55 + i % 7, "s": 1 + i % 300, "t": t}
    quote = {"T": "q", "S": symbol, "bx": "U", "bp": 87.66, "bs": 1, "ax": "Q", "ap": 87.68 + i % 3, "as": 4, "t": t}
    bar = {"S": symbol, "o": 388.9, "h": 389.13, "l": 388.975, "c": 389, "v": 49378, "n": 461, "vw": 389.062639, "t": t}
    status = {"T": "s", "S": "AAPL", "sc": "HT"[i % 80 != 9], "sm": "", "rc": "T12", "rm": "", "t": t, "z": "C"}
    found = [{**trade, "c": conditions, "z": "C"}, {**quote, "c": ["R"], "z": "ABC"[i % 3]}]
    if i % 12 == 5:
        found.append({"T": "bud"[i % 36 // 12], **bar})
    if i % 40 == 9:
        return [status]
    if i % 2:  # as on the wire, and as documented
        found = [{**message, "t": message.pop("t")} for message in found]
    return [{"T": "success", "msg": "connected"}] if i % 150 == 55 else found[i % 2 :] if i % 3 else found * 3


def coins(i: int, time: Callable[[int], Any]) -> list[dict[str, Any]]:
    trade = {"T": "t", "S": "AVAX/USD", "p": 47.299, "s": 29.205707815, "t": time(i), "i": 3447222699101865076 + i}
    quote = {"T": "q", "S": "BTC/USD", "bp": 60000.5, "bs": 0.5, "ap": 60001, "as": 0.25, "t": time(i)}
    return [{**trade, "tks": "BS"[i % 2]}, quote] * (1 + i % 3)


def massive(messages: Callable[[int], list[dict[str, Any]]]) -> Callable[[int], bytes]:
    return lambda i: msgspec.json.encode(messages(i))


def massive_stocks(i: int) -> list[dict[str, Any]]:
    """As sent in 2026 and in 2024, as documented; a symbol that is halted for a while."""
    symbol, t = ("AAPL", "BRK.B")[i % 2], START * 1000 + i
    codes: dict[str, Any] = {"c": ([14, 37], [2], [30], [999])[i // 4 % 4 if i % 16 else 0]} if i % 3 else {}
    trade = {"ev": "T", "sym": symbol, "i": str(40161 + i), "x": 4 + i % 8, "p": 225.63, "s": 129, **codes, "t": t}
    rest = {"pt": t - 1, "q": 9059424 + i, "z": 1 + i % 3}
    trf = {"trfi": 201 + i % 3, "trft": t} if i % 2 == 0 and trade["x"] == 4 else {}
    quote = {"ev": "Q", "sym": symbol, **({"i": [604]}, {"c": 1}, {})[i % 3]}
    quote |= {"bx": 10, "ax": 15, "bp": 225.62, "ap": 225.64 + i % 3, "bs": 100, "as": 500, "t": t}
    bar = {"ev": ("A", "AM")[i % 2], "sym": symbol, "v": 4989, "av": 4332125, "op": 75.98, "vw": 78.0894, "o": 78.1}
    bar |= {"c": 78.08, "h": 78.125, "l": 78.07, "a": 76.8404, "z": 62, "s": t, "e": t + 1000}
    if i % 80 in (9, 39):
        return [{"ev": "LULD", "T": "AAPL", "h": 492.9, "l": 446, "i": [17 + i % 80 // 39], "z": 3, "t": t, "q": 5}]
    if i % 150 == 55:
        return [{"ev": "status", "status": "connected", "message": "Connected Successfully"}]
    match i % 4:
        case 0:
            return [{**trade, **rest, **trf, "ds": "129.5"}] * (1 + i % 3)
        case 1:
            return [{**trade, "q": 9059424 + i, "z": 3, **trf}, {**quote, "q": i, "z": 3}]
        case 2:
            return [{**quote, "pt": t, "q": i, "z": 3}, {**bar, "dv": "4989.0", "dav": "4332125.038360"}]
    documented = {name: trade[name] for name in ("ev", "sym", "x", "i")} | {"z": 3, "p": 114.125, "s": 100, "c": [12]}
    return [{**documented, "t": t, "q": 3681328}, bar]


def massive_options(i: int) -> list[dict[str, Any]]:
    symbol, t = ("O:AMC210827C00037000", "O:SPY241220P00720000")[i % 2], START * 1000 + i
    trade = {"ev": "T", "sym": symbol, "x": 65, "p": 1.54, "s": 1, "c": [(209, 233, 201)[i % 3]], "t": t, "q": 6519 + i}
    quote = {"ev": "Q", "sym": symbol, "bx": 302, "ax": 302, "bp": 9.71, "ap": 9.81, "bs": 17, "as": 24, "t": t, "q": i}
    return [trade, quote] if i % 3 else [quote]


def massive_coins(i: int) -> list[dict[str, Any]]:
    number: Any = (14272084 + i, str(14272084 + i))[i % 2] if i % 30 else "1b254a48-7258-4465-8215-2610ccf9ab21"
    trade = {"ev": "XT", "pair": "BTC-USD", "p": 33021.9, "t": START * 1000 + i, "s": 0.01616617, "c": [1 + i % 2]}
    quote = {"ev": "XQ", "pair": "CHZ-USD", **({"lp": 0, "ls": 0} if i % 4 else {}), "bp": 0.0771, "bs": 41650.4}
    quote |= {"ap": 0.0773, "as": 142883.4, "t": START * 1000 + i, "x": 1 + i % 3, "r": START * 1000 + i}
    return [{**trade, "i": number, "x": 3, "r": START * 1000 + i}, quote]


def as_json(messages: Callable[..., Any]) -> Callable[[int], bytes]:
    return lambda i: msgspec.json.encode(messages(i, lambda i: rfc3339(i, i % 10) if i % 10 else rfc3339(i)))


def stamp(i: int) -> Ext:
    """A MessagePack timestamp in each of its three forms."""
    if i % 7 == 0:
        return Ext(-1, struct.pack(">I", START + i))
    return Ext(-1, struct.pack(">Iq", i, START + i) if i % 7 == 1 else struct.pack(">Q", i << 34 | START + i))


def as_packed(messages: Callable[..., Any]) -> Callable[[int], bytes]:
    return lambda i: msgspec.msgpack.encode(messages(i, stamp))


@dataclass(frozen=True)
class Case:
    provider: str
    options: dict[str, str]
    frame: Callable[[int], bytes]
    matched: float  # least share of its good frames that templates take; the others are there to be left to decoders
    kind: int = TEXT

    @property
    def spec(self) -> FeedSpec:
        symbols = {"alpaca": ("*",), "polygon": ("*",), "binance": ("BTC-USDT",)}.get(self.provider, ("BTC-USD",))
        channels = ("trades",) if self.provider == "polygon" else ("trades", "quotes")
        return FeedSpec(name="f", provider=self.provider, symbols=symbols, options=self.options, channels=channels)


CASES = {
    "binance-spot": Case("binance", {}, binance_spot, 0.99),
    "binance-usdm": Case("binance", {"market": "usdm"}, binance_usdm, 0.97),
    "coinbase-exchange": Case("coinbase", {}, coinbase_exchange, 0.96),
    "coinbase-advanced": Case("coinbase", {"api": "advanced"}, coinbase_advanced, 0.92),
    "kraken": Case("kraken", {}, kraken, 0.97),
    "okx": Case("okx", {}, okx, 0.97),
    "alpaca-json": Case("alpaca", {"format": "json"}, as_json(shares), 0.45),
    "alpaca-msgpack": Case("alpaca", {"format": "msgpack"}, as_packed(shares), 0.45, BINARY),
    "alpaca-crypto-json": Case("alpaca", {"feed": "crypto", "format": "json"}, as_json(coins), 0.98),
    "alpaca-crypto-msgpack": Case("alpaca", {"feed": "crypto", "format": "msgpack"}, as_packed(coins), 0.98, BINARY),
    "polygon-stocks": Case("polygon", {}, massive(massive_stocks), 0.6),
    "polygon-options": Case("polygon", {"cluster": "options"}, massive(massive_options), 0.98),
    "polygon-crypto": Case("polygon", {"cluster": "crypto"}, massive(massive_coins), 0.9),
}
every = pytest.mark.parametrize("name", CASES)


def declared(case: Case) -> Listed:
    return [(SOURCE, 0, 0, msgspec.json.encode(case.spec)), (OPENED, 0, START * SECOND, b"")]


def good(case: Case, count: int) -> Listed:
    return [(case.kind, 0, (START + 40_000) * SECOND + i, case.frame(i)) for i in range(count)]


def run(pieces: Sequence[Frames], templates: bool, seal_every: int = 0) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline, and everything it says of these frames."""
    pipeline = Pipeline(KernelsConfig(zscore_window=32), make, templates=templates)
    tables: list[Any] = []

    def seal() -> None:
        for table in pipeline.seal().tables:
            varchars = table.varchar_offsets.tobytes(), table.varchar_heap.tobytes()
            tables.append((table.table.name, len(table.rows), table.rows.tobytes(), *varchars))

    for number, frames in enumerate(pieces, start=1):
        pipeline.consume(frames)
        if seal_every and number % seal_every == 0:
            seal()
    seal()
    out = pipeline.out
    return pipeline, {
        "tables": tables,
        "unknown": out.unknown,
        "texts": out.texts.ids,
        "series": out.series.keys,
        "position": pipeline.position,
        "duplicates": pipeline.duplicates,
        "rows": pipeline.rows,
        "frames": {number: (source.frames, source.rejected) for number, source in pipeline.sources.items()},
    }


def same(pieces: Sequence[Frames], seal_every: int = 0) -> Pipeline:
    """Both ways give the same; the pipeline with templates."""
    pipeline, found = run(pieces, True, seal_every)
    _, expected = run(pieces, False, seal_every)
    for what, value in expected.items():
        assert found[what] == value, what
    return pipeline


def framed(listed: Listed, size: int) -> list[Frames]:
    result: list[Frames] = []
    for first in range(0, len(listed), size):
        result.append(frames_from_list(listed[first : first + size], position=result[-1].end if result else 0))
    return result


@every
def test_good_frames_match_and_give_the_decoders_rows(name: str) -> None:
    case, count = CASES[name], 2000
    pipeline = same(framed(declared(case) + good(case, count), 300), seal_every=2)
    assert pipeline.sources[0].matched() >= case.matched * count
    assert pipeline.sources[0].rejected == 0
    assert pipeline.rows["trades"] + pipeline.rows["quotes"] > 0.8 * count


@every
def test_damaged_frames_give_the_decoders_rows_gaps_rejects_and_counters(name: str) -> None:
    case, count = CASES[name], DAMAGED // len(CASES)
    rng, listed = random.Random(SEED), declared(case)
    broken = mutations([frame for *_, frame in good(case, 300)], count, SEED)
    for i, (kind, source, ts_recv, payload) in enumerate(good(case, count)):
        if rng.random() < 0.002:
            listed += [(CLOSED, 0, ts_recv, b"1006"), (OPENED, 0, ts_recv, b"")]
        listed.append((kind, source, ts_recv, next(broken)))
        if i % 8 == 0:  # two, so that counts of messages go on from one to the other
            listed += [(kind, source, ts_recv, payload), (kind, source, ts_recv, case.frame(i + 1))]
    pipeline = same(framed(listed, 5000), seal_every=2)
    assert pipeline.sources[0].matched() > 100
    assert pipeline.sources[0].rejected > 100


def small_changes(frame: bytes) -> Iterator[bytes]:
    """Every byte of a frame replaced by every one of a few, lost, and doubled: what lies just beside a match."""
    for at in range(len(frame)):
        for byte in b'019-+.eE"\\, }\x00\x7f\x80\xcf':
            yield frame[:at] + bytes([byte]) + frame[at + 1 :]
        yield frame[:at] + frame[at + 1 :]
        yield frame[: at + 1] + frame[at:]


@every
def test_frames_one_byte_beside_a_match_give_the_decoders_rows(name: str) -> None:
    case = CASES[name]
    listed = declared(case) + good(case, 8)
    for number in (1, 2, 4):
        listed += [(case.kind, 0, (START + 50_000) * SECOND, frame) for frame in small_changes(case.frame(number))]
    same(framed(listed, 4000))


def test_several_sources_are_matched_each_by_its_own_templates() -> None:
    cases = list(CASES.values())
    listed = [(SOURCE, n, 0, msgspec.json.encode(case.spec)) for n, case in enumerate(cases)]
    for i in range(1500):
        n = i * i % len(cases)
        listed.append((cases[n].kind, n, (START + 40_000) * SECOND + i, cases[n].frame(i)))
        if i == 700:  # a source that says it is another provider now
            listed.append((SOURCE, 2, 0, msgspec.json.encode(cases[4].spec)))
            listed.append((SOURCE, 3, 0, b'{"name":"f","provider":"nobody"}'))
        if i % 100 == 0:
            listed.append((TEXT, 99, START * SECOND, cases[0].frame(i)))
    same(framed(listed, 64))


def test_more_rows_than_a_batch_has_room_for_make_it_grow() -> None:
    case = CASES["kraken"]
    pipeline = same(framed(declared(case) + good(case, 3 * BATCH_ROWS_INITIAL), 10**6))
    assert pipeline.rows["trades"] > 2 * BATCH_ROWS_INITIAL


def test_when_no_more_spellings_can_be_taught_the_decoder_reads_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spellings, "SPELLINGS_MAX", 1)
    case = CASES["coinbase-exchange"]
    pipeline = same(framed(declared(case) + good(case, 400), 50))
    assert 100 < pipeline.sources[0].matched() < 300


def test_trades_during_a_halt_carry_its_flag() -> None:
    case = CASES["alpaca-msgpack"]
    pipeline = Pipeline(KernelsConfig(), make)
    for frames in framed(declared(case) + good(case, 120), 16):
        pipeline.consume(frames)
    [trades] = [table.rows for table in pipeline.seal().tables if table.table.name == "trades"]
    halted = (trades["flags"] & HALTED) != 0
    assert 10 < halted.sum() < len(trades) - 10
    assert {pipeline.out.series.keys[s][1] for s in trades["series"][halted]} == {"AAPL"}


def test_where_nothing_matches_frames_are_given_up_in_long_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["binance-spot"]
    other = b'{"stream":"btcusdt@depth","data":{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":1,"u":2,"b":[],"a":[]}}'
    listed = declared(case) + [(TEXT, 0, START * SECOND, other)] * 10_000
    pipeline, calls = Pipeline(KernelsConfig(), make), []
    real = pipeline._matcher.match
    monkeypatch.setattr(pipeline._matcher, "match", lambda *args: calls.append(1) or real(*args))
    pipeline.consume(frames_from_list(listed))
    assert len(calls) < 10_000 / PATIENCE_MAX + 20
    assert pipeline.sources[0].frames == 10_000


# Recordings and the simulator


def matched_share(pipeline: Pipeline) -> float:
    """Of the frames that became trades and quotes, one a row.

    Without two of each symbol: Coinbase's last_match and the first after it, from which templates learn.
    """
    rows = pipeline.rows["trades"] + pipeline.rows["quotes"]
    return sum(source.matched() for source in pipeline.sources.values()) / (rows - 2 * len(pipeline.out.series))


@pytest.mark.parametrize(
    "name",
    [
        "cryptofeed/BINANCE/2021-04-17_BINANCE.ws.1.0.gz",
        "cryptofeed/BINANCE_FUTURES/2021-07-22_BINANCE_FUTURES.ws.1.0.gz",
        "cryptofeed/BINANCE_DELIVERY/2021-07-22_BINANCE_DELIVERY.ws.1.0.gz",
        "cryptofeed/COINBASE/2021-04-17_COINBASE.ws.28.0.gz",
        "hftbacktest/spot_btcusdt_20230405.gz",
        "hftbacktest/spot_btcusdt_20240808.gz",
        "hftbacktest/usdm_btcusdt_20230405.gz",
        "hftbacktest/usdm_btcusdt_20240808.gz",
        "hftbacktest/cm_btcusd_perp_20240809.gz",
    ],
)
def test_recordings_match_and_give_the_decoders_rows(shared_data: Path, name: str) -> None:
    pipeline = same(list(to_frames(open_capture(shared_data / name))))
    assert matched_share(pipeline) >= MATCHED_MIN


@pytest.mark.parametrize(
    ("name", "provider", "options"),
    [
        ("nautilus/coinbase/ws_market_trades.json", "coinbase", {"api": "advanced"}),
        ("nautilus/kraken/ws_trade_update.json", "kraken", {}),
        ("nautilus/kraken/ws_ticker_snapshot.json", "kraken", {}),
    ],
)
def test_messages_that_others_captured_match(
    shared_data: Path, name: str, provider: str, options: dict[str, str]
) -> None:
    """Kept by others indented, and with other numbers where Python's JSON writes them another way."""
    text = (shared_data / name).read_text().replace('"snapshot"', '"update"')
    frame = "".join(line.strip() for line in text.splitlines()).replace('": ', '":')
    spec = FeedSpec(name="f", provider=provider, symbols=("BTC-USD",), options=options)
    listed = [(SOURCE, 0, 0, msgspec.json.encode(spec))]
    for number in range(5, 10):  # count of the connection's messages, where there is one
        message = frame.replace('"sequence_num":5', f'"sequence_num":{number}')
        listed.append((TEXT, 0, (START + 50_000) * SECOND, message.encode()))
    assert same(framed(listed, 1)).sources[0].matched() == 4


def simulated(key: str, headers: dict[str, str], symbols: tuple[str, ...] | None = None) -> Iterator[bytes]:
    """Payloads that the simulator would send of 3,000 events."""
    venue = make_venue(key, symbols, lambda: (START + 40_000) * SECOND, {})
    conversation = CONVERSATIONS[key](venue, default_path(venue), headers)
    market = Market(len(venue.symbols), SEED, 1000.0, size_digits=venue.size_digits)
    events = market.take(3000)
    events[:, 0] += START * SECOND
    data, _ = Renderer(conversation.program()).render(events)
    at = 0
    while at < len(data):
        length, start = data[at + 1], at + 2
        if length == 126:
            length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        yield data[start : start + length]
        at = start + length


@pytest.mark.parametrize(
    ("key", "provider", "options", "symbols"),
    [
        ("binance", "binance", {}, None),
        ("binance-usdm", "binance", {"market": "usdm"}, None),
        ("coinbase", "coinbase", {}, None),
        ("coinbase-advanced", "coinbase", {"api": "advanced"}, None),
        ("kraken", "kraken", {}, None),
        ("alpaca", "alpaca", {"format": "json"}, None),
        ("alpaca", "alpaca", {"format": "msgpack"}, None),
        ("alpaca", "alpaca", {"format": "msgpack", "feed": "crypto"}, ("BTC-USD", "ETH-USD")),
        ("polygon", "polygon", {}, None),
        ("polygon", "polygon", {"cluster": "options"}, ("AAPL  251219C00150000", "SPY   251219P00700000")),
        ("polygon", "polygon", {"cluster": "crypto"}, ("BTC-USD", "ETH-USD")),
    ],
)
def test_simulated_frames_match_and_give_the_decoders_rows(
    key: str, provider: str, options: dict[str, str], symbols: tuple[str, ...] | None
) -> None:
    headers = {"Content-Type": "application/msgpack"} if options.get("format") == "msgpack" else {}
    spec = FeedSpec(name="f", provider=provider, options=options)
    listed = [(SOURCE, 0, 0, msgspec.json.encode(spec))]
    kind = BINARY if headers else TEXT
    payloads = list(simulated(key, headers, symbols))
    if key == "coinbase-advanced":  # trades have templates; tickers only say how far the count is
        payloads = [p for p in payloads if b"market_trades" in p[:30]]
        payloads = [json_renumbered(p, number) for number, p in enumerate(payloads)]
    listed += [(kind, 0, (START + 50_000) * SECOND, payload) for payload in payloads]
    pipeline = same(framed(listed, 500))
    assert pipeline.sources[0].rejected == 0
    assert pipeline.sources[0].matched() >= MATCHED_MIN * len(payloads) - 2 * len(pipeline.out.series)


def json_renumbered(payload: bytes, number: int) -> bytes:
    head, _, rest = payload.partition(b'"sequence_num":')
    return head + b'"sequence_num":%d,' % number + rest.partition(b",")[2]


# Numbers, times and texts against their oracles


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@given(
    st.from_regex(r"(0|[1-9][0-9]{0,18})(\.[0-9]{1,20})?", fullmatch=True)
    | st.floats(0, 1e18, allow_nan=False).map(lambda x: f"{x:.8f}")
    | st.floats(1e-4, 1e12).map(repr)
    | st.text("0123456789.-e", max_size=24)
)
@example("9007199254740993.0")
@example("123456789.00000000")
@example("0.1000000000000000055511151231257827")
@example("00.5")
@settings(max_examples=2000, deadline=None)
def test_a_decimal_is_the_nearest_double_or_left_to_the_decoder(text: str) -> None:
    number, end = wire.decimal(array(text.encode() + b'"'), 0, len(text) + 1)
    if end == wire.NONE:
        digits = text.replace(".", "").strip("0")
        whole = text.partition(".")[0]
        plain = set(text) <= set("0123456789.") and whole and (whole == "0" or whole[0] != "0")
        assert not plain or len(digits) > 15 or len(text) > 19 or text.endswith(".") or text.count(".") > 1
    else:
        assert struct.pack("d", number) == struct.pack("d", json.loads(text[:end]))


@given(
    st.datetimes().map(lambda t: t.isoformat() + "Z")
    | st.builds(lambda t, f: f"{t:%Y-%m-%dT%H:%M:%S}{f}Z", st.datetimes(), st.from_regex(r"\.[0-9]{0,10}"))
    | st.from_regex(r"(19|20|22)[0-9]{2}-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{1,9})?Z")
)
@example("2024-02-29T23:59:59.999999999Z")
@example("2100-02-29T00:00:00Z")
@example("2261-12-31T23:59:59Z")
@settings(max_examples=2000, deadline=None)
def test_a_time_is_that_of_the_decoder_or_left_to_it(text: str) -> None:
    state = np.zeros(wire.MEMO, np.int64)
    try:
        expected: int | None = rfc3339_ns(text)
    except (FrameError, ValueError):
        expected = None
    for _ in range(2):  # the second time the minute is remembered
        found, end = wire.rfc3339(array(text.encode()), 0, len(text.encode()), state)
        if end != len(text.encode()):
            assert expected is None or expected < 946_684_800 * SECOND
        else:
            assert found == expected


@given(st.integers(-(1 << 63), (1 << 64) - 1))
@example((1 << 63) - 1)
@example(1 << 63)
@settings(max_examples=500, deadline=None)
def test_packed_integers_are_read_in_every_width(value: int) -> None:
    packed = msgspec.msgpack.encode(value)
    found, end = wire.packed_whole(array(packed), 0, len(packed))
    assert (found, end) == (value, len(packed)) if 0 <= value < 1 << 63 else end == wire.NONE
    text = str(value).encode()
    found, end = wire.whole(array(text), 0, len(text))
    assert (found, end) == (value, len(text)) if 0 <= value < 1 << 63 else end == wire.NONE


@given(st.floats(), st.booleans())
@example(-0.0, False)
@example(5e-324, False)
@settings(max_examples=500, deadline=None)
def test_packed_floats_are_read_exactly(value: float, single: bool) -> None:
    packed = b"\xcb" + struct.pack(">d", value)
    if single:
        with np.errstate(over="ignore"):
            packed = b"\xca" + np.array(value).astype(">f4").tobytes()
    expected = msgspec.msgpack.decode(packed, type=float)
    found, end = wire.packed_number(array(packed), 0, len(packed))
    possible = struct.pack(">d", expected)[0] < 0x80 and expected < float("inf")
    assert (struct.pack("d", found), end) == (struct.pack("d", expected), len(packed)) if possible else end == -1
    assert wire.packed_number(array(packed), 0, len(packed) - 1)[1] == wire.NONE


@given(st.lists(st.tuples(st.integers(1, 3), st.binary(min_size=1, max_size=40), st.integers(0, 2)), max_size=400))
@settings(max_examples=60, deadline=None)
def test_spellings_are_found_as_in_a_dictionary(steps: list[tuple[int, bytes, int]]) -> None:
    table, known = Spellings(), {}

    def found(space: int, spelling: bytes) -> int | None:
        data = array(b"x" + spelling)
        row = spellings.find(data, 1, len(spelling), space, table.slots, table.heap, table.entries)
        return None if row < 0 else int(table.entries[row, spellings.VALUE])

    for number, (space, spelling, action) in enumerate(steps):
        if action < 2:
            assert table.teach(space, spelling, (number,))
            known[space, spelling] = number
        else:
            table.forget(space, spelling)
            known.pop((space, spelling), None)
        assert found(space, spelling) == known.get((space, spelling))
    for (space, spelling), number in known.items():
        assert found(space, spelling) == number
        assert found(4, spelling) is None
        assert found(space, spelling + b"\0") == known.get((space, spelling + b"\0"))


def test_a_text_that_json_would_escape_is_not_taught() -> None:
    pipeline = Pipeline(KernelsConfig(), make)
    scope = pipeline.out.scope("f", 0)
    for text in ("a\\n", 'a"b', "a\n", "\x7f", ""):
        scope.teach("series", text, 1)
    assert len(pipeline.out.spellings) == 0
    scope.teach("series", "币安人生USDT", 1)
    assert len(pipeline.out.spellings) == 1
    assert scope.remembered("series", "币安人生USDT") is None
    assert scope.remember("series", "币安人生USDT", 7)
    assert scope.remembered("series", "币安人生USDT") == 7 != NOTHING
