"""Decoding: what a frame of Coinbase and Kraken costs from bytes to packed rows, beside msgspec alone.

``plain`` is ``msgspec.json.decode`` of the same bytes into dictionaries, ``typed`` the feed's own decoder into structs
without rows. Each round decodes FRAMES frames; divide by FRAMES, and by 20 for the cost of a trade in the wide frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from recorder.core.batch import Output
from recorder.core.text_time import rfc3339_ns
from recorder.feeds import make
from recorder.feeds.coinbase.advanced import ADVANCED
from recorder.feeds.coinbase.exchange import EXCHANGE
from recorder.feeds.kraken.messages import MESSAGE
from recorder.values.feed import FeedSpec

FRAMES = 1000
RECV = 1_790_000_000 * 10**9

MATCH = (
    '{"type":"match","trade_id":%d,"sequence":50,"maker_order_id":"27fff20b-af29-4f45-8744-56dd1ef57dc0",'
    '"taker_order_id":"1da6ce16-c8da-4732-9f71-6049f4c6aaf8","time":"2026-08-01T08:19:27.%06dZ",'
    '"product_id":"BTC-USD","size":"5.23512","price":"400.23","side":"sell"}'
)
TICKER = (
    '{"type":"ticker","sequence":%d,"product_id":"BTC-USD","price":"17165.16","open_24h":"16437.94",'
    '"volume_24h":"42492.05081975","low_24h":"16423.37","high_24h":"17259.37","volume_30d":"1093827.95195495",'
    '"best_bid":"17165.15","best_bid_size":"0.61540890","best_ask":"17167.76","best_ask_size":"0.18528568",'
    '"side":"sell","time":"2026-08-01T08:19:27.%06dZ","trade_id":463751434,"last_size":"0.05"}'
)
ADVANCED_TRADE = (
    '{"trade_id":"%d","product_id":"BTC-USD","price":"68900.50","size":"0.00150000","side":"BUY",'
    '"time":"2026-08-01T08:19:27.%06dZ"}'
)
KRAKEN_TRADE = (
    '{"symbol":"BTC/USD","side":"sell","price":68900.5,"qty":0.0015,"ord_type":"market","trade_id":%d,'
    '"timestamp":"2026-08-01T08:19:27.%06dZ"}'
)


def advanced_frame(first: int, count: int) -> str:
    trades = ",".join(ADVANCED_TRADE % (i, i) for i in range(first, first + count))
    return (
        '{"channel":"market_trades","client_id":"","timestamp":"2026-08-01T08:19:27.789012Z",'
        f'"sequence_num":{first // count},"events":[{{"type":"update","trades":[{trades}]}}]}}'
    )


def kraken_frame(first: int, count: int) -> str:
    trades = ",".join(KRAKEN_TRADE % (i, i) for i in range(first, first + count))
    return f'{{"channel":"trade","type":"update","data":[{trades}]}}'


CASES: dict[str, tuple[str, dict[str, str], Any, list[bytes]]] = {
    "exchange-match": ("coinbase", {}, EXCHANGE, [(MATCH % (i, i)).encode() for i in range(FRAMES)]),
    "exchange-ticker": ("coinbase", {}, EXCHANGE, [(TICKER % (i, i)).encode() for i in range(FRAMES)]),
    "advanced-20": (
        "coinbase",
        {"api": "advanced"},
        ADVANCED,
        [advanced_frame(i * 20, 20).encode() for i in range(FRAMES)],
    ),
    "kraken-1": ("kraken", {}, MESSAGE, [kraken_frame(i, 1).encode() for i in range(FRAMES)]),
    "kraken-20": ("kraken", {}, MESSAGE, [kraken_frame(i * 20, 20).encode() for i in range(FRAMES)]),
}


def decode_rows(case: str) -> Callable[[], None]:
    """The whole way: bytes to packed rows; starts over in the same buffer each time."""
    provider, options, _, frames = CASES[case]
    feed = make(FeedSpec(name="bench", provider=provider, symbols=("BTC-USD",), options=options))
    out = Output()
    scope = out.scope("bench", 0)
    decode = feed.decoder(scope)
    nothing = out.counts()

    def run() -> None:
        out.rollback(nothing)
        scope.opened()
        for frame in frames:
            decode(frame, RECV)

    run()
    assert len(scope.trades) + len(scope.quotes) >= FRAMES
    assert not len(out.batches["rejected"])
    return run


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["plain", "typed", "rows"])
def test_decode(benchmark: Any, case: str, how: str) -> None:
    benchmark.group = case
    frames = CASES[case][3]
    if how == "rows":
        run = decode_rows(case)
    else:
        read = msgspec.json.decode if how == "plain" else msgspec.json.Decoder(CASES[case][2], strict=False).decode

        def run() -> None:
            for frame in frames:
                read(frame)

    benchmark(run)


def test_rfc3339(benchmark: Any) -> None:
    texts = [f"2026-08-01T08:19:27.{i:06d}Z" for i in range(FRAMES)]

    def run() -> None:
        for text in texts:
            rfc3339_ns(text)

    benchmark(run)
