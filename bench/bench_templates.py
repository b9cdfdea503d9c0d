"""Frames → rows by templates and by the feeds' decoders alone, at 1 and at 20 trades a frame.

ns a trade = time × 1e9 / TRADES. Compare within one run: ``decoders`` is what the same frames cost without templates.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.msgpack import Ext

from recorder.core.frames import SOURCE, TEXT, frames_from_list
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.values.config import KernelsConfig
from recorder.values.feed import FeedSpec

NOW = 1_790_000_000 * 10**9
TRADES = 4000  # of a round
BINANCE = (
    '{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":%d,"p":"61837.63000000",'
    '"q":"0.02000000","T":1723161255342,"m":true,"M":true}}'
)
EXCHANGE = (
    '{"type":"match","trade_id":%d,"maker_order_id":"27fff20b-af29-4f45-8744-56dd1ef57dc0",'
    '"taker_order_id":"1da6ce16-c8da-4732-9f71-6049f4c6aaf8","side":"buy","size":"5.23512","price":"400.23",'
    '"product_id":"BTC-USD","sequence":50,"time":"2026-08-01T08:19:27.123456Z"}'
)
ADVANCED = (
    '{"trade_id":"%d","product_id":"BTC-USD","price":"68900.50","size":"0.00150000","side":"BUY",'
    '"time":"2026-08-01T08:19:27.123456Z"}'
)
KRAKEN = (
    '{"symbol":"BTC/USD","side":"sell","price":68900.5,"qty":0.0015,"ord_type":"market","trade_id":%d,'
    '"timestamp":"2026-08-01T08:19:27.123456Z"}'
)


def advanced(first: int, count: int) -> bytes:
    trades = ",".join(ADVANCED % i for i in range(first, first + count))
    return (
        '{"channel":"market_trades","client_id":"","timestamp":"2026-08-01T08:19:27.789012Z",'
        f'"sequence_num":{first // count},"events":[{{"type":"update","trades":[{trades}]}}]}}'
    ).encode()


def kraken(first: int, count: int) -> bytes:
    trades = ",".join(KRAKEN % i for i in range(first, first + count))
    return f'{{"channel":"trade","type":"update","data":[{trades}]}}'.encode()


def alpaca(packed: bool) -> Callable[[int, int], bytes]:
    time: Any = "2026-08-01T08:19:27.208123456Z"
    if packed:
        time = Ext(-1, (208_123_456 << 34 | 1_785_572_367).to_bytes(8, "big"))
    trade = {"T": "t", "S": "AAPL", "i": 0, "x": "D", "p": 126.55, "s": 1, "c": ["@", "I"], "z": "C", "t": time}

    def frame(first: int, count: int) -> bytes:
        messages = [{**trade, "i": i} for i in range(first, first + count)]
        return msgspec.msgpack.encode(messages) if packed else json.dumps(messages, separators=(",", ":")).encode()

    return frame


CASES: dict[str, tuple[str, dict[str, str], Callable[[int, int], bytes], tuple[int, ...]]] = {
    "binance": ("binance", {}, lambda first, count: (BINANCE % first).encode(), (1,)),
    "coinbase": ("coinbase", {}, lambda first, count: (EXCHANGE % first).encode(), (1,)),
    "coinbase-advanced": ("coinbase", {"api": "advanced"}, advanced, (1, 20)),
    "kraken": ("kraken", {}, kraken, (1, 20)),
    "alpaca-json": ("alpaca", {"format": "json"}, alpaca(False), (1, 20)),
    "alpaca-msgpack": ("alpaca", {"format": "msgpack"}, alpaca(True), (1, 20)),
}


@pytest.mark.parametrize("how", ["templates", "decoders"])
@pytest.mark.parametrize(("case", "count"), [(case, count) for case in CASES for count in CASES[case][3]])
def test_consume(benchmark: Any, case: str, count: int, how: str) -> None:
    benchmark.group = f"{case}, {count} a frame"
    provider, options, frame, _ = CASES[case]
    spec = FeedSpec(name="f", provider=provider, options=options)
    pipeline = Pipeline(KernelsConfig(), make, templates=how == "templates")
    pipeline.warm()
    taught = [(SOURCE, 0, 0, msgspec.json.encode(spec)), (TEXT, 0, NOW, frame(0, count))]  # by the first frame
    pipeline.consume(frames_from_list(taught))
    frames = frames_from_list([(TEXT, 0, NOW, frame(i, count)) for i in range(count, TRADES + count, count)])
    trades, scope = pipeline.out.batches["trades"], pipeline.sources[0].scope

    def again() -> None:
        trades.rollback(0)
        scope.opened()
        scope.sequence(0, NOW)

    benchmark.pedantic(lambda: pipeline.consume(frames), setup=again, rounds=30, warmup_rounds=2)
    assert len(trades) == TRADES
    assert not len(pipeline.out.batches["rejected"])
    matched = pipeline.sources[0].frames - pipeline.sources[0].decoded
    assert matched == (0 if how == "decoders" else pipeline.sources[0].frames - 1)
