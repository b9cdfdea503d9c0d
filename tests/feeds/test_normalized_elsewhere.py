"""Messages that another project maps to its own form: every trade's time, id, price, size and side must be the same."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from decoding import Recorded

from recorder.core.text_time import rfc3339_ns
from recorder.values.errors import FrameError
from recorder.values.symbols import binance_canonical, bybit_canonical, canonical_pair, okx_canonical

FEEDS: dict[str, tuple[str, dict[str, str]]] = {  # their exchange → our provider and options
    "binance": ("binance", {"market": "spot"}),
    "binance-futures": ("binance", {"market": "usdm"}),
    "coinbase": ("coinbase", {"api": "exchange"}),
    "kraken": ("kraken", {}),
    "bybit": ("bybit", {"market": "linear"}),
    "okex": ("okx", {"trades": "aggregated"}),
    "okex-swap": ("okx", {"trades": "aggregated"}),
}
TRADES = {"binance": 2, "binance-futures": 2, "bybit": 9, "coinbase": 1, "kraken": 4, "okex": 2, "okex-swap": 1}


def cases(shared_data: Path, exchange: str) -> list[dict[str, Any]]:
    lines = gzip.decompress((shared_data / "tardis-node" / "mapper_cases.jsonl.gz").read_bytes()).splitlines()
    ours = [case for case in map(json.loads, lines) if case["exchange"] == exchange]
    return [case for case in ours if "table" not in case["message"]]  # OKX's version 3, gone since 2021


def canonical(exchange: str, symbol: str) -> str:
    if exchange.startswith("binance"):
        return binance_canonical(symbol, "usdm" if exchange.endswith("futures") else "spot")
    if exchange == "bybit":
        return bybit_canonical(symbol, "linear")
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


@pytest.mark.parametrize("exchange", ["coinbase", "kraken", "okex"])
def test_quotes_have_the_time_that_another_project_reads(shared_data: Path, exchange: str) -> None:
    provider, options = FEEDS[exchange]
    compared = 0
    for case in cases(shared_data, exchange):
        feed = Recorded(provider, (), **options).decode(json.dumps(case["message"]).encode())
        times = [row["ts_event"] for row in feed.rows("quotes")]
        if times:
            expected = [rfc3339_ns(e["timestamp"]) for e in case["expected"] if e["type"] == "book_ticker"]
            assert times == expected, case["test"]
            compared += len(times)
    assert compared == {"coinbase": 3, "kraken": 1, "okex": 1}[exchange]


@pytest.mark.parametrize(
    ("provider", "options", "pattern"),
    [
        ("coinbase", {"api": "advanced"}, "coinbase/ws_l2_*.json"),
        ("kraken", {}, "kraken/ws_[bl]*.json"),
        ("okx", {}, "okx/ws_books_*.json"),
    ],
)
def test_books_are_known_and_passed_over(
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
