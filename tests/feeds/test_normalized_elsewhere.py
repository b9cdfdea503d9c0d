"""Messages that another project maps to its own form: every trade's time, id, price, size and side must be the same."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from decoding import Recorded

from recorder.core.text_time import rfc3339_ns
from recorder.feeds.deribit.messages import canonical as deribit_canonical
from recorder.values.errors import FrameError
from recorder.values.symbols import binance_canonical, bybit_canonical, canonical_pair, okx_canonical

FEEDS: dict[str, tuple[str, dict[str, str]]] = {  # their exchange → our provider and options
    "binance": ("binance", {"market": "spot"}),
    "binance-futures": ("binance", {"market": "usdm"}),
    "coinbase": ("coinbase", {"api": "exchange"}),
    "kraken": ("kraken", {}),
    "bybit": ("bybit", {"market": "linear"}),
    "deribit": ("deribit", {}),
    "okex": ("okx", {"trades": "aggregated"}),
    "okex-swap": ("okx", {"trades": "aggregated"}),
}
TRADES = {
    "binance": 2, "binance-futures": 2, "bybit": 9, "coinbase": 1, "deribit": 4, "kraken": 4, "okex": 4,
    "okex-swap": 3,
}  # fmt: skip


def cases(shared_data: Path, exchange: str) -> list[dict[str, Any]]:
    lines = gzip.decompress((shared_data / "tardis-node" / "mapper_cases.jsonl.gz").read_bytes()).splitlines()
    return [case for case in map(json.loads, lines) if case["exchange"] == exchange]


def canonical(exchange: str, symbol: str) -> str:
    if exchange.startswith("binance"):
        return binance_canonical(symbol, "usdm" if exchange.endswith("futures") else "spot")
    if exchange == "bybit":
        return bybit_canonical(symbol, "linear")
    if exchange == "deribit":
        return deribit_canonical(symbol)
    if exchange.startswith("okex"):
        return okx_canonical(symbol)
    return canonical_pair(symbol.replace("/", "-"))


@pytest.mark.parametrize("exchange", FEEDS)
def test_trades_are_what_another_project_makes_of_the_same_messages(shared_data: Path, exchange: str) -> None:
    provider, options = FEEDS[exchange]
    compared = 0
    for case in cases(shared_data, exchange):
        feed, expected = Recorded(provider, (), **options), [e for e in case["expected"] if e["type"] == "trade"]
        try:
            feed.decode(json.dumps(case["message"]).encode())
        except FrameError:
            assert expected == [], case["test"]  # an aggregated trade of 2019 without its id: they pass it over too
        found = [row for row in feed.rows("trades") if not row["flags"]]  # they leave out what comes as a snapshot
        assert len(found) == len(expected), case["test"]
        for row, other in zip(found, expected, strict=True):
            assert row["symbol"] == canonical(exchange, other["symbol"])
            assert row["ts_event"] == rfc3339_ns(other["timestamp"])
            assert (row["price"], row["size"], row["side"]) == (other["price"], other["amount"], other["side"])
            if "id" in other:  # Kraken's version 1 has none
                assert row.get("trade_ref", str(row["trade_id"])) == other["id"]
            compared += 1
        assert feed.rows("rejected") == [], case["test"]
    assert compared == TRADES[exchange]


QUOTES = {
    "binance": 1, "binance-futures": 1, "bybit": 3, "coinbase": 3, "deribit": 2, "kraken": 2, "okex": 4, "okex-swap": 5,
}  # fmt: skip


@pytest.mark.parametrize("exchange", QUOTES)
def test_quotes_are_what_another_project_makes_of_the_same_messages(shared_data: Path, exchange: str) -> None:
    provider, options = FEEDS[exchange]
    feed, compared = Recorded(provider, (), **options), 0
    for case in cases(shared_data, exchange):
        expected = [e for e in case["expected"] if e["type"] == "book_ticker"]
        if not expected:
            continue
        if any(e["type"] == "option_summary" for e in case["expected"]):
            continue  # ours stand in options_chain
        feed.decode(json.dumps(case["message"]).encode())
        found = feed.rows("quotes")
        if re.search("ticker.BTC-(STRD|FS|CSR12)", str(case["message"])):
            assert found == []  # a combo
            continue
        assert len(found) == len(expected), case["test"]
        for row, other in zip(found, expected, strict=True):
            assert row["symbol"] == canonical(exchange, other["symbol"])
            ours = [row.get(name) for name in ("bid", "bid_size", "ask", "ask_size")]
            assert ours == [other.get(name) for name in ("bidPrice", "bidAmount", "askPrice", "askAmount")]
            if not exchange.startswith("binance"):  # no time, or also when the message was made: they take that one
                assert row["ts_event"] == rfc3339_ns(other["timestamp"])
            compared += 1
        assert feed.rows("rejected") == [], case["test"]
    assert compared == QUOTES[exchange]


@pytest.mark.parametrize(
    ("provider", "options", "pattern"),
    [
        ("coinbase", {"api": "advanced"}, "coinbase/ws_l2_*.json"),
        ("kraken", {}, "kraken/ws_[bl]*.json"),
        ("okx", {}, "okx/ws_books_*.json"),
        ("okx", {}, "okx/ws_[fi]*.json"),
    ],
)
def test_books_and_what_else_is_not_recorded_are_known_and_passed_over(
    shared_data: Path, provider: str, options: dict[str, str], pattern: str
) -> None:
    feed, read = Recorded(provider, (), **options), 0
    for path in (shared_data / "nautilus").glob(pattern):
        feed.decode(path.read_bytes())
        feed.scope.opened()
        read += 1
    assert read > 1
    assert all(feed.rows(table) == [] for table in ("trades", "quotes", "bars", "gaps", "rejected"))
    assert feed.unknown == {}
