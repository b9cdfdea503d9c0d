"""Histories whose pages hold less than was asked for: nothing is left out, however small a page is, and nothing asked
for without end. The answers are made here from each venue's documentation, not by a simulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from decoding import Recorded

from recorder.core.text_time import rfc3339_ns
from recorder.values.feed import SECOND, HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import rfc3339
from recorder.values.tables import BACKFILLED

START = 1_700_000_000 * SECOND
MILLISECOND = 1_000_000


class Trade(NamedTuple):
    id: int
    ts_event: int

    @property
    def ms(self) -> int:
        return self.ts_event // MILLISECOND


TRADES = [Trade(500 + i, START + i * 137 * MILLISECOND) for i in range(60)]  # seven or eight a second
Query = dict[str, str]


def binance(path: str, query: Query, most: int) -> Any:
    single = path.endswith("historicalTrades")
    since = int(query.get("fromId", 0))
    found = [t for t in TRADES if t.id >= since and t.ms >= int(query.get("startTime", 0))]
    found = found[: min(most, int(query["limit"]))]
    if single:
        return [{"id": t.id, "price": "1", "qty": "2", "time": t.ms, "isBuyerMaker": True} for t in found]
    return [{"a": t.id, "p": "1", "q": "2", "f": t.id, "l": t.id, "T": t.ms, "m": True} for t in found]


def exchange(path: str, query: Query, most: int) -> Any:
    older = [t for t in reversed(TRADES) if t.id < int(query.get("after", 10**9))][:most]
    return [
        {"time": rfc3339(t.ts_event), "trade_id": t.id, "price": "1", "size": "2", "side": "buy"} for t in older
    ]  # fmt: skip


def advanced(path: str, query: Query, most: int) -> Any:
    start, end = int(query["start"]) * SECOND, int(query["end"]) * SECOND
    found = [t for t in reversed(TRADES) if start <= t.ts_event <= end][:most]
    one = {"product_id": "BTC-USD", "price": "1", "size": "2", "side": "SELL"}
    return {"trades": [{"trade_id": str(t.id), "time": rfc3339(t.ts_event), **one} for t in found]}


def kraken(path: str, query: Query, most: int) -> Any:
    found = [t for t in TRADES if t.ts_event > int(query["since"])][:most]
    rows = [["1", "2", t.ts_event / SECOND, "b", "l", "", t.id] for t in found]
    last = str(found[-1].ts_event) if found else query["since"]
    return {"error": [], "result": {"XXBTZUSD": rows, "last": last}}


def okx(path: str, query: Query, most: int) -> Any:
    after, by_id = int(query["after"]), query["type"] == "1"
    found = [t for t in reversed(TRADES) if (t.id if by_id else t.ms) < after][:most]
    one = {"instId": "BTC-USDT", "side": "buy", "sz": "2", "px": "1"}
    return {"code": "0", "msg": "", "data": [{"tradeId": str(t.id), "ts": str(t.ms), **one} for t in found]}


def deribit(path: str, query: Query, most: int) -> Any:
    if path.endswith("_and_time"):
        low, high = int(query["start_timestamp"]), int(query["end_timestamp"])
        found = [t for t in TRADES if low <= t.ms <= high]
    else:
        low, high = int(query["start_seq"]), int(query.get("end_seq", 10**9))
        found = [t for t in TRADES if low <= t.id <= high]
    one = {"price": 1.0, "amount": 2.0, "direction": "buy", "instrument_name": "BTC-PERPETUAL"}
    listed = [{"trade_seq": t.id, "trade_id": str(t.id), "timestamp": t.ms, **one} for t in found[:most]]
    return {"jsonrpc": "2.0", "result": {"trades": listed, "has_more": len(found) > most}}


CASES: dict[str, tuple[str, dict[str, str], str, Callable[[str, Query, int], Any]]] = {
    "binance spot": ("binance", {}, "BTC-USDT", binance),
    "binance futures": ("binance", {"market": "usdm"}, "BTC-USDT-PERP", binance),
    "coinbase exchange": ("coinbase", {}, "BTC-USD", exchange),
    "coinbase advanced": ("coinbase", {"api": "advanced"}, "BTC-USD", advanced),
    "kraken": ("kraken", {}, "BTC-USD", kraken),
    "okx": ("okx", {}, "BTC-USDT", okx),
    "deribit": ("deribit", {}, "BTC-USD-PERP", deribit),
}


@pytest.mark.parametrize("ids", [True, False], ids=["by id", "by time"])
@pytest.mark.parametrize("most", [9, 30, 1000])
@pytest.mark.parametrize("case", CASES)
def test_pages_smaller_than_asked_for_leave_nothing_out(case: str, most: int, ids: bool) -> None:
    provider, options, symbol, answer = CASES[case]
    recorded = Recorded(provider, (symbol,), **options)
    feed: Any = recorded.feed
    first, last = TRADES[5], TRADES[50]
    wanted = (first.id, last.id) if ids else (None, None)
    request = HistoryRequest(symbol, "trades", first.ts_event, last.ts_event, *wanted)
    decode, asked = feed.history_decoder(recorded.scope), 0
    pages = feed.history(request)
    http: HttpRequest | None = next(pages)
    while http is not None:
        asked += 1
        assert asked <= 2 * len(TRADES) // most + 12
        address = urlsplit(http.url)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        body = json.dumps(answer(address.path, query, most)).encode()
        decode(request, body, START + 3600 * SECOND)
        try:
            http = pages.send(HttpResponse(200, {}, body))
        except StopIteration:
            http = None
    rows = recorded.rows("trades")
    assert recorded.rows("rejected") == []
    assert {(row["trade_id"], row["ts_event"]) for row in rows} == {tuple(trade) for trade in TRADES[5:51]}
    assert {row["flags"] for row in rows} == {BACKFILLED}


def test_the_times_of_this_test_are_those_of_the_venues() -> None:
    assert [rfc3339_ns(rfc3339(trade.ts_event)) for trade in TRADES] == [trade.ts_event for trade in TRADES]
