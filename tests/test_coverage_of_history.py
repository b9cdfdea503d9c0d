"""The ledger of coverage tells of what was received, and of repairs: not of the past that a user asks for."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from recorder.core import history
from recorder.core.encode_client import values_of
from recorder.core.frames import RESPONSE, SOURCE, TEXT, frames_from_list
from recorder.core.history import HISTORY_CONNECTION, Page
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.values.config import KernelsConfig
from recorder.values.feed import HOUR, MINUTE, SECOND, FeedSpec, HistoryRequest

BEGIN = 1_704_067_200 * SECOND  # 2024-01-01
DAY = 24 * HOUR
NOW = BEGIN + 300 * DAY
BINANCE = FeedSpec(name="f", provider="binance", symbols=("BTC-USDT",), connection=HISTORY_CONNECTION)
ALPACA = FeedSpec(name="f", provider="alpaca", symbols=("AAPL",), connection=HISTORY_CONNECTION)
ROWS = 600  # bars of a minute; trades and quotes ten seconds apart


def ms(i: int, step_ns: int) -> int:
    return (BEGIN + i * step_ns) // 1_000_000


def bars() -> list[Any]:
    return [
        [ms(i, MINUTE), "1", "2", "1", "1.5", "7", ms(i + 1, MINUTE) - 1, "9", 3, "1", "1", "0"] for i in range(ROWS)
    ]


def trades() -> list[Any]:
    common = {"price": "100", "qty": "1", "quoteQty": "100", "isBuyerMaker": True, "isBestMatch": True}
    return [{"id": i, "time": ms(i, 10 * SECOND), **common} for i in range(ROWS)]


def quotes() -> dict[str, Any]:
    common = {"ax": "Q", "ap": 140.3, "as": 1, "bx": "P", "bp": 140.2, "bs": 4, "c": ["R"], "z": "C"}
    times = (divmod(10 * i, 3600) for i in range(ROWS))
    found = [{"t": f"2024-01-01T{hour:02d}:{s // 60:02d}:{s % 60:02d}Z", **common} for hour, s in times]
    return {"quotes": {"AAPL": found}, "next_page_token": None}


CASES = {"bars": (BINANCE, bars), "trades": (BINANCE, trades), "quotes": (ALPACA, quotes)}


def folded(*frames: tuple[int, int, int, bytes]) -> dict[str, list[dict[str, Any]]]:
    pipeline = Pipeline(KernelsConfig(), make)
    pipeline.consume(frames_from_list(list(frames)))
    pipeline.write_coverage()
    sealed = pipeline.seal()
    return {part.table.name: list(values_of(part, sealed.dictionary)) for part in sealed.tables}


def answer(channel: str) -> tuple[FeedSpec, bytes]:
    spec, body = CASES[channel]
    timeframe = "1m" if channel == "bars" else ""
    request = HistoryRequest(spec.symbols[0], channel, BEGIN, BEGIN + DAY, timeframe=timeframe)
    return spec, history.encode(Page(gap=None, request=request, last=True), json.dumps(body()).encode())


@pytest.mark.parametrize("channel", CASES)
def test_what_a_user_asked_for_is_stored_and_not_in_the_ledger(channel: str) -> None:
    spec, payload = answer(channel)
    found = folded((SOURCE, 0, NOW, msgspec.json.encode(spec)), (RESPONSE, 0, NOW + 1, payload))
    assert found.keys() == {channel}
    assert len(found[channel]) == ROWS


def test_what_is_received_beside_it_is_counted_as_without_it() -> None:
    live = msgspec.structs.replace(BINANCE, connection=0)
    data = {"e": "trade", "s": "BTCUSDT", "p": "1", "q": "1", "m": True, "M": True}
    stream = [
        (TEXT, 1, BEGIN + i * SECOND + 1, json.dumps({
            "stream": "btcusdt@trade", "data": {**data, "t": i, "T": ms(i, SECOND), "E": ms(i, SECOND)},
        }).encode())
        for i in range(1000, 1100)
    ]  # fmt: skip
    source = (SOURCE, 1, BEGIN, msgspec.json.encode(live))
    alone = folded(source, *stream)
    for channel in ("bars", "trades"):
        spec, payload = answer(channel)
        asked = [(SOURCE, 0, BEGIN, msgspec.json.encode(spec)), (RESPONSE, 0, stream[50][2], payload)]
        both = folded(source, *asked[:1], *stream[:50], *asked[1:], *stream[50:])
        assert both["coverage"] == alone["coverage"]
        assert sum(row["received"] for row in alone["coverage"]) == 100
