"""The simulated exchange: a plain WebSocket client hears exactly what its truth tells, as it was asked to send it."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websockets
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_client import (
    AUTH,
    DEADLINE_S,
    KEYS,
    advanced_trades,
    alpaca_trades,
    ask,
    binance_trades,
    bitstamp_trades,
    bybit_trades,
    coinbase_trades,
    collect,
    deribit_trades,
    kraken_trades,
    okx_trades,
    polygon_trades,
    run,
)

from recorder.core.market import COLUMNS, ID, KIND, PRICE, SIZE, TRADE, TS, Market
from recorder.shell.captures import open_capture
from recorder.shell.simulator import Simulator
from recorder.shell.simulator.render import Renderer, Template, compile_templates
from recorder.shell.simulator.venue import rfc3339
from recorder.values.errors import ConfigError

REPO = Path(__file__).resolve().parent.parent
COINBASE = "cryptofeed/COINBASE/2021-04-17_COINBASE.ws.28.0.gz"


# Rendering


@settings(deadline=None)
@given(ns=st.integers(0, 4_000_000_000 * 10**9), digits=st.sampled_from([3, 6, 9]))
def test_rendered_times_are_those_of_the_calendar(ns: int, digits: int) -> None:
    empty = Template(b"", b"")
    program = compile_templates(Template(b"", f"<ts:rfc{digits}>".encode()), empty, [b""], (b"", b""), 0, 1)
    event = np.zeros((1, COLUMNS), np.int64)
    event[0, TS] = ns
    data, _ = Renderer(program).render(event)
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ns // 10**9)
    text = f"{whole:%Y-%m-%dT%H:%M:%S}.{f'{ns % 10**9:09d}'[:digits]}Z"
    assert data[2:].decode() == text == rfc3339(ns, digits)


@pytest.mark.parametrize("items_max", [1, 7, 400])
def test_rendered_frames_parse_back_to_the_events(items_max: int) -> None:
    item = b'{"i":<id>,"p":<price>,"s":"<size>","t":<ts:ms>,"n":"<symbol>","d":"<side>","h":"<id:hex>"}'
    program = compile_templates(
        Template(b'{"k":"t","q":<sequence>,"v":[', item, b"]}", items_max=items_max),
        Template(b'{"k":"q","q":<sequence>,"v":[', item, b"]}"),
        [b"A", b"BB", b"CCC"], (b"sell", b"buy"), 6, 1,
    )  # fmt: skip
    events = Market(3, 1, 1000, quotes=0 if items_max == 400 else 1).take(1000)
    data, frames = Renderer(program).render(events)
    payloads = unframed(data)
    assert len(payloads) == frames
    messages = [json.loads(payload) for payload in payloads]
    assert [message["q"] for message in messages] == list(range(frames))
    values = [(message["k"], value) for message in messages for value in message["v"]]
    assert len(values) == len(events)
    assert max(len(message["v"]) for message in messages) <= items_max
    for (kind, value), event in zip(values, events.tolist(), strict=True):
        assert kind == ("t" if event[KIND] == TRADE else "q")
        assert value["i"] == event[ID] == int(value["h"], 16)
        assert round(value["p"] * 100) == event[PRICE]
        assert round(float(value["s"]) * 10**6) == event[SIZE]
        assert value["n"] == ["A", "BB", "CCC"][event[1]]
        assert value["d"] == (["sell", "buy"][event[6]])


def unframed(data: bytes) -> list[bytes]:
    """Payloads of unmasked frames, by RFC 6455."""
    payloads, at = [], 0
    while at < len(data):
        assert data[at] == 0x81
        length, at = data[at + 1], at + 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        payloads.append(data[at : at + length])
        at += length
    return payloads


# Truth


ALPACA_SUBSCRIBE = [
    {"action": "auth", "key": "k", "secret": "s"},
    {"action": "subscribe", "trades": ["AAPL", "SPY"], "quotes": ["SPY"]},
]
TALKS: dict[str, tuple[list[Any], Callable[[Any], list[Any]], tuple[str, str, str], dict[str, str]]] = {
    "coinbase": (
        [{"type": "subscribe", "product_ids": ["BTC-USD", "SOL-USD"], "channels": ["matches", "ticker"]}],
        coinbase_trades, ("product_id", "trade_id", "size"), {"BTC-USD": "BTC-USD", "SOL-USD": "SOL-USD"},
    ),
    "coinbase-advanced": (
        [{"type": "subscribe", "product_ids": ["BTC-USD", "SOL-USD"], "channel": "market_trades"}],
        advanced_trades, ("product_id", "trade_id", "size"), {"BTC-USD": "BTC-USD", "SOL-USD": "SOL-USD"},
    ),
    "binance": (
        [{"method": "SUBSCRIBE", "params": ["btcusdt@trade", "solusdt@trade", "solusdt@bookTicker"], "id": 1}],
        binance_trades, ("s", "t", "q"), {"BTCUSDT": "BTC-USDT", "SOLUSDT": "SOL-USDT"},
    ),
    "binance-usdm": (
        [{"method": "SUBSCRIBE", "params": ["btcusdt@trade", "solusdt@trade"], "id": 1}],
        binance_trades, ("s", "t", "q"), {"BTCUSDT": "BTC-USDT-PERP", "SOLUSDT": "SOL-USDT-PERP"},
    ),
    "kraken": (
        [{"method": "subscribe", "params": {"channel": "trade", "symbol": ["BTC/USD", "SOL/USD"], "snapshot": True}}],
        kraken_trades, ("symbol", "trade_id", "qty"), {"BTC/USD": "BTC-USD", "SOL/USD": "SOL-USD"},
    ),
    "bitstamp": (
        [{"event": "bts:subscribe", "data": {"channel": f"live_trades_{pair}"}} for pair in ("btcusd", "solusd")],
        bitstamp_trades, ("channel", "id", "amount_str"),
        {"live_trades_btcusd": "BTC-USD", "live_trades_solusd": "SOL-USD"},
    ),
    "okx": (
        [{"op": "subscribe", "args": [{"channel": "trades", "instId": n} for n in ("BTC-USDT", "SOL-USDT")]}],
        okx_trades, ("instId", "tradeId", "sz"), {"BTC-USDT": "BTC-USDT", "SOL-USDT": "SOL-USDT"},
    ),
    "bybit": (
        [{"op": "subscribe", "args": ["publicTrade.BTCUSDT", "publicTrade.SOLUSDT", "orderbook.1.SOLUSDT"]}],
        bybit_trades, ("s", "i", "v"), {"BTCUSDT": "BTC-USDT", "SOLUSDT": "SOL-USDT"},
    ),
    "deribit": (
        [{"jsonrpc": "2.0", "id": 1, "method": "public/subscribe", "params": {"channels": [
            "trades.BTC-PERPETUAL.100ms", "trades.SOL-PERPETUAL.100ms", "quote.SOL-PERPETUAL"]}}],
        deribit_trades, ("instrument_name", "trade_seq", "amount"),
        {"BTC-PERPETUAL": "BTC-USD-PERP", "SOL-PERPETUAL": "SOL-USD-PERP"},
    ),
    "alpaca": (ALPACA_SUBSCRIBE, alpaca_trades, ("S", "i", "s"), {"AAPL": "AAPL", "SPY": "SPY"}),
    "polygon": (
        [{"action": "auth", "params": "k"}, {"action": "subscribe", "params": "T.AAPL,T.SPY,Q.SPY"}],
        polygon_trades, ("sym", "i", "s"), {"AAPL": "AAPL", "SPY": "SPY"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("rate", [5000.0, None], ids=["paced", "max"])
@pytest.mark.parametrize("provider", TALKS)
def test_a_client_receives_exactly_what_the_truth_says(provider: str, rate: float | None) -> None:
    requests, trades, (symbol, number, size), names = TALKS[provider]

    async def test() -> None:
        async with Simulator([provider], rate=rate, total=2000, rules={provider: KEYS}) as sim:
            async with websockets.connect(sim.url(provider)) as ws:
                for request in requests:
                    await ws.send(json.dumps(request))
                await sim.finished()
                truth = sim.truth[provider]
                wanted = sum(t.distinct for t in truth.symbols.values())
                received = await collect(ws, trades, wanted)
            by_symbol: dict[str, list[Any]] = {}
            for trade in received:
                by_symbol.setdefault(names[trade[symbol]], []).append(trade)
            for name, t in truth.symbols.items():
                ids = [int(trade[number]) for trade in by_symbol.get(name, [])]
                assert ids == [i for first, last in t.ranges for i in range(first, last + 1)]
                assert len(ids) == t.sent + t.trade_snapshots
            assert set(by_symbol) == set(names.values())
            first = next(iter(names.values()))
            live = by_symbol[first][truth.symbols[first].trade_snapshots :]
            digits = truth.size_digits
            assert sum(round(float(trade[size]) * 10**digits) for trade in live) == truth.symbols[first].size
            assert sum(t.generated for t in truth.symbols.values()) == 2000

    run(test)


def test_the_same_seed_sends_the_same_trades() -> None:
    async def prices(seed: int) -> list[str]:
        async with (
            Simulator(["coinbase"], rate=20_000, total=200, quotes=0, seed=seed, symbols=["BTC-USD"]) as sim,
            websockets.connect(sim.url("coinbase")) as ws,
        ):
            await ws.send(json.dumps({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches"]}))
            return [trade["price"] for trade in await collect(ws, coinbase_trades, 201)]

    async def test() -> None:
        assert await prices(3) == await prices(3) != await prices(4)

    run(test)


def test_events_are_stamped_with_the_time_they_are_sent() -> None:
    now = 1_700_000_000_123_456_789

    async def test() -> None:
        async with (
            Simulator(["alpaca"], rate=20_000, total=50, wall=lambda: now, symbols=["AAPL"]) as sim,
            websockets.connect(sim.url("alpaca")) as ws,
        ):
            for request in ALPACA_SUBSCRIBE:
                await ws.send(json.dumps(request))
            for trade in await collect(ws, alpaca_trades, 50):
                assert "2023-11-14T22:13:20.12345" < trade["t"] < rfc3339(now, 9)

    run(test)


# Faults


async def subscribed(sim: Simulator, count: int, before: Callable[[], None]) -> list[int]:
    """Trade ids as one Coinbase client receives them, with a fault ordered before the first."""
    async with websockets.connect(sim.url("coinbase")) as ws:
        before()
        await ws.send(json.dumps({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches"]}))
        return [trade["trade_id"] for trade in await collect(ws, coinbase_trades, count)][1:]


@pytest.mark.parametrize("fault", ["drop", "duplicate", "reorder"])
def test_trades_are_dropped_doubled_and_turned_round_on_command(fault: str) -> None:
    async def test() -> None:
        async with Simulator(["coinbase"], rate=None, total=100, quotes=0, symbols=["BTC-USD"]) as sim:
            expected = list(range(1_000_000, 1_000_100))
            if fault == "drop":
                ids = await subscribed(sim, 98, lambda: sim.drop("coinbase", 3, "BTC-USD"))
                assert ids == expected[3:]
                assert sim.truth["coinbase"].dropped == [("BTC-USD", n) for n in expected[:3]]
                assert sim.truth["coinbase"].symbols["BTC-USD"].distinct == 97 + 1
            elif fault == "duplicate":
                ids = await subscribed(sim, 103, lambda: sim.duplicate("coinbase", 2))
                assert ids == [expected[0], expected[0], expected[1], *expected[1:]]
                assert sim.truth["coinbase"].symbols["BTC-USD"].sent == 102
            else:
                ids = await subscribed(sim, 101, lambda: sim.reorder("coinbase", 4))
                assert ids == [*expected[3::-1], *expected[4:]]

    run(test)


def test_connections_are_cut_with_and_without_a_word() -> None:
    async def test() -> None:
        async with Simulator(["coinbase"], total=0) as sim:
            for code, expected in ((None, 1006), (1012, 1012)):
                async with websockets.connect(sim.url("coinbase")) as ws:
                    await ask(ws, {"type": "hello"})
                    sim.cut("coinbase", code)
                    with pytest.raises(websockets.ConnectionClosed):
                        await ws.recv()
                    assert ws.close_code == expected
            assert sim.truth["coinbase"].connections == 2

    run(test)


def test_a_stalled_connection_says_nothing_and_loses_nothing() -> None:
    async def test() -> None:
        async with (
            Simulator(["coinbase"], rate=5000, total=500, quotes=0, symbols=["BTC-USD"]) as sim,
            websockets.connect(sim.url("coinbase")) as ws,
        ):
            await ask(ws, {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches"]}, 2)
            sim.stall("coinbase")
            await sim.finished()
            pong = await ws.ping()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(pong), 0.3)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ws.recv(), 0.1)
            sim.resume("coinbase")
            assert len(await collect(ws, coinbase_trades, 500)) == 500
            await pong

    run(test)


def test_a_slowed_connection_gets_everything_in_the_end() -> None:
    async def test() -> None:
        async with Simulator(["coinbase"], rate=None, total=100, quotes=0, symbols=["BTC-USD"]) as sim:
            sim.slow("coinbase", 60_000)
            start = asyncio.get_running_loop().time()
            ids = await subscribed(sim, 101, lambda: None)
            assert ids == list(range(1_000_000, 1_000_100))
            assert asyncio.get_running_loop().time() - start > 0.3  # 30 kB at 60 kB/s

    run(test)


def test_garbage_refusals_and_wrong_paths() -> None:
    async def test() -> None:
        async with Simulator(["coinbase", "kraken"], total=0) as sim:
            async with websockets.connect(sim.url("coinbase")) as ws:
                await ask(ws, {"type": "hello"})
                sim.garbage("coinbase")
                assert await ws.recv() == '{"type":"match","trade_id":'
            sim.refuse("coinbase")
            for url, status in ((sim.url("coinbase"), 503), (f"ws://127.0.0.1:{sim.port}/nobody", 404)):
                with pytest.raises(websockets.InvalidStatus) as caught:
                    await websockets.connect(url)
                assert caught.value.response.status_code == status
            async with websockets.connect(sim.url("coinbase")):
                assert sim.truth["coinbase"].refused == 1

    run(test)


def test_alpaca_fails_the_next_request_on_command() -> None:
    async def test() -> None:
        async with Simulator(["alpaca"], total=0) as sim, websockets.connect(sim.url("alpaca")) as ws:
            assert json.loads(await ws.recv())[0]["msg"] == "connected"
            sim.fail("alpaca", 500)
            assert (await ask(ws, AUTH))[0]["code"] == 500
            assert (await ask(ws, AUTH))[0]["msg"] == "authenticated"

    run(test)


def test_unknown_providers_and_taken_ports_are_named() -> None:
    async def test() -> None:
        with pytest.raises(ConfigError, match="did you mean kraken"):
            Simulator(["krakn"])
        async with Simulator(["kraken"], total=0) as sim:
            with pytest.raises(ConfigError, match=str(sim.port)):
                await Simulator(["kraken"], port=sim.port).start()

    run(test)


# Recordings


def recorded(shared_data: Path, kinds: tuple[str, ...]) -> list[tuple[int, bytes]]:
    """(ts_recv, payload) of a recording's frames of these types, read without the code under test."""
    frames = []
    for line in gzip.decompress((shared_data / COINBASE).read_bytes()).split(b"\n"):
        stamp, colon, payload = line.partition(b": ")
        if colon and stamp.replace(b".", b"").isdigit() and json.loads(payload)["type"] in kinds:
            whole, _, part = stamp.partition(b".")
            frames.append((int(whole) * 10**9 + int(part.ljust(9, b"0")), payload))
    return frames


PRODUCTS = [
    "SKL-USD",
    "SKL-BTC",
    "BAND-GBP",
    "NMR-EUR",
    "BAND-BTC",
    "YFI-BTC",
    "DASH-BTC",
    "NU-GBP",
    "CRV-EUR",
    "SKL-GBP",
]
TRADE_KINDS = ("match", "last_match")


async def play(sim: Simulator, count: int) -> list[bytes]:
    async with websockets.connect(sim.url("coinbase")) as ws:
        ack = await ask(ws, {"type": "subscribe", "product_ids": PRODUCTS, "channels": ["matches"]})
        assert ack["type"] == "subscriptions"
        return [await ws.recv(decode=False) for _ in range(count)]


def test_a_recording_at_full_speed_arrives_byte_for_byte(shared_data: Path) -> None:
    expected = [payload for _, payload in recorded(shared_data, TRADE_KINDS)]

    async def test() -> None:
        capture = open_capture(shared_data / COINBASE)
        async with Simulator(captures=[capture], speed=None) as sim:
            for _ in range(2):  # every client gets it from the start
                assert await play(sim, len(expected)) == expected
            assert sim.truth["coinbase"].frames == 2 * len(expected)

    run(test)


@pytest.mark.parametrize("speed", [1.0, 10.0])
def test_a_recording_keeps_its_spacing(shared_data: Path, speed: float) -> None:
    """On a virtual clock: a sleep moves it, and what had been sent by then is noted."""
    expected = recorded(shared_data, TRADE_KINDS)
    start = recorded(shared_data, ("subscriptions",))[0][0]  # the first frame of the recording
    now, sent = [0], {}

    async def test() -> None:
        async def sleep(seconds: float) -> None:
            if seconds == 1.0:  # the exchange's own second hand
                await asyncio.Event().wait()
            sent[now[0]] = sim.truth["coinbase"].frames
            now[0] += round(seconds * 1e9)
            await asyncio.sleep(0)

        sim = Simulator(captures=[open_capture(shared_data / COINBASE)], speed=speed, clock=lambda: now[0], sleep=sleep)
        async with sim:
            await play(sim, len(expected))
        for clock, frames in sent.items():
            due = [ts for ts, _ in expected if int((ts - start) / speed) <= clock + 1000]
            assert abs(frames - len(due)) == 0, (clock, frames, len(due))
        assert now[0] == pytest.approx((expected[-1][0] - start) / speed, abs=1e6)

    run(test)


def test_a_recorded_day_of_several_markets_is_served_side_by_side(shared_data: Path) -> None:
    names = ("spot_btcusdt_20230405.gz", "usdm_btcusdt_20230404.gz")
    facts = json.loads((shared_data / "expected.json").read_text())["files"]

    async def test() -> None:
        captures = [open_capture(shared_data / "hftbacktest" / name) for name in names]
        async with Simulator(captures=captures, speed=None) as sim:
            assert set(sim.providers) == {"binance", "binance-usdm"}
            for provider, name in zip(("binance", "binance-usdm"), names, strict=True):
                count = facts[f"hftbacktest/{name}"]["trades"]["total"]
                async with websockets.connect(sim.url(provider)) as ws:
                    await ws.send(json.dumps({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1}))
                    assert len(await collect(ws, binance_trades, count)) == count
                    assert sim.truth[provider].recorded == {"trades BTCUSDT": count}

    run(test)


# The command


def test_the_command_prints_addresses_and_writes_the_truth(tmp_path: Path) -> None:
    async def listen(url: str) -> int:
        async with asyncio.timeout(DEADLINE_S), websockets.connect(url) as ws:
            await ws.send(json.dumps({"type": "subscribe", "product_ids": ["ETH-USD"], "channels": ["matches"]}))
            return len(await collect(ws, coinbase_trades, 51))

    truth_path = tmp_path / "truth.json"
    command = [
        sys.executable, "-m", "recorder", "simulate", "--synthetic", "coinbase", "--symbols", "coinbase=ETH-USD",
        "--rate", "max", "--total", "50", "--once", "--truth", str(truth_path),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO) as process:
        try:
            assert process.stdout is not None
            provider, url = process.stdout.readline().split()
            assert provider == "coinbase"
            assert asyncio.run(listen(url)) == 51
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
    truth = json.loads(truth_path.read_text())["coinbase"]
    assert (truth["trades"], truth["distinct"]) == (50, 51)
    assert truth["symbols"]["ETH-USD"]["ranges"] == [[999_999, 1_000_049]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "PATH"),
        (["--synthetic", "coinbase", "--rate", "fast"], "--rate"),
        (["--synthetic", "coinbase", "--symbols", "kraken=BTC-USD"], "kraken"),
        (["--synthetic", "coinbase", "--option", "x", "--speed", "0"], "--option"),
    ],
)
def test_wrong_use_is_explained(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from recorder.commands.cli import main

    assert main(["simulate", *arguments]) == 2
    assert words in capsys.readouterr().err
