"""Frame → rows of Binance and Alpaca, beside msgspec's untyped decoding of the same bytes alone."""

from __future__ import annotations

import json

import msgspec
import pytest
from msgspec.msgpack import Ext

from recorder.core.batch import Output
from recorder.feeds import make
from recorder.values.feed import FeedSpec

NOW = 1_780_000_000_000_000_000
ROUNDS = 20
FRAMES = 500
BINANCE = {
    "trade": b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,'
    b'"p":"61837.63000000","q":"0.02000000","T":1723161255342,"m":true,"M":true}}',
    "quote": b'{"stream":"btcusdt@bookTicker","data":{"u":50093239212,"s":"BTCUSDT","b":"61837.63000000",'
    b'"B":"3.78826000","a":"61837.64000000","A":"1.54698000"}}',
}
TRADE = {
    "T": "t", "S": "AAPL", "i": 96921, "x": "D", "p": 126.55, "s": 1, "t": "2021-02-22T15:51:44.208123456Z",
    "c": ["@", "I"], "z": "C",
}  # fmt: skip
TIMESTAMP = Ext(-1, (208_123_456 << 34 | 1_614_009_104).to_bytes(8, "big"))
ALPACA = {
    "json": lambda count: json.dumps([TRADE] * count, separators=(",", ":")).encode(),
    "msgpack": lambda count: msgspec.msgpack.encode([TRADE | {"t": TIMESTAMP}] * count),
}


def decoding(provider, frame, **options):
    out = Output()
    decode = make(FeedSpec(name="f", provider=provider, options=options)).decoder(out.scope("f", 0))

    def run():
        for _ in range(FRAMES):
            decode(frame, NOW)
        for batch in out.batches.values():
            batch.rollback(0)

    return run


def untyped(read, frame):
    def run():
        for _ in range(FRAMES):
            read(frame)

    return run


@pytest.mark.benchmark(group="binance, one message a frame")
@pytest.mark.parametrize("kind", BINANCE)
def test_binance(benchmark, kind):
    """ns a frame = time × 1e9 / FRAMES."""
    benchmark.pedantic(decoding("binance", BINANCE[kind]), rounds=ROUNDS, warmup_rounds=2)


@pytest.mark.benchmark(group="binance, one message a frame")
@pytest.mark.parametrize("kind", BINANCE)
def test_binance_untyped_json_alone(benchmark, kind):
    benchmark.pedantic(untyped(msgspec.json.decode, BINANCE[kind]), rounds=ROUNDS, warmup_rounds=2)


@pytest.mark.benchmark(group="alpaca")
@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("form", ALPACA)
def test_alpaca(benchmark, form, count):
    run = decoding("alpaca", ALPACA[form](count), format=form)
    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=2)


@pytest.mark.benchmark(group="alpaca")
@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("form", ALPACA)
def test_alpaca_untyped_alone(benchmark, form, count):
    read = msgspec.json.decode if form == "json" else msgspec.msgpack.decode
    benchmark.pedantic(untyped(read, ALPACA[form](count)), rounds=ROUNDS, warmup_rounds=2)
