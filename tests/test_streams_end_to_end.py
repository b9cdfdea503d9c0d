"""A simulated provider over real sockets, journal and pipeline: the rows are what happened, each once, to the digit."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from test_connection import Told, connected, feed_of, reached
from test_overlap import folded

from recorder.core.market import ASK, ASK_SIZE, ID, KIND, PRICE, QUOTE, SIDE, SIZE, SYMBOL, TRADE, TS
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell.journal import Journal
from recorder.shell.simulator import Simulator
from recorder.values.config import KernelsConfig
from recorder.values.feed import FeedSpec
from recorder.values.tables import CALL, PUT

TOTAL = 1000
KEYS = {"POLYGON_API_KEY": "k"}
# simulated provider → options, symbols, what its times are cut down to in ns
CASES: dict[str, tuple[dict[str, str], tuple[str, ...], int]] = {
    "bitstamp": ({}, ("BTC-USD", "ETH-EUR", "SOL-USDC"), 1_000),
    "deribit": ({}, ("BTC-USD-PERP", "BTC-27DEC24", "BTC-27DEC24-100000-C"), 1_000_000),
    "polygon": ({"cluster": "crypto"}, ("BTC-USD", "ETH-EUR", "SOL-USDC"), 1_000_000),
}


@pytest.mark.parametrize("key", CASES)
def test_rows_are_what_happened(journal: Journal, happened: list[np.ndarray], key: str) -> None:
    options, symbols, unit = CASES[key]
    rows: dict[str, Any] = {}

    def whole() -> bool:
        rows.update(folded(journal))
        return len(rows["trades"]) >= TOTAL and len(rows["quotes"]) >= sum(sum(e[:, KIND] == QUOTE) for e in happened)

    async def run() -> None:
        async with Simulator([key], symbols=symbols, rate=5000, total=TOTAL) as place:
            spec = FeedSpec(name="f", provider=key, symbols=symbols, options=options, url=place.url(key))
            async with connected(feed_of(spec, KEYS), journal, Told()) as connection:
                await reached(lambda: connection.ready)
                await place.finished()
                await reached(whole)

    asyncio.run(run())
    events, names = np.concatenate(happened), rows["symbols"].tolist()
    trades = events[events[:, KIND] == TRADE].tolist()
    assert sorted(
        (names[r["series"]], r["ts_event"], r["trade_id"], r["price"], r["size"], r["side"]) for r in rows["trades"]
    ) == sorted(
        (symbols[e[SYMBOL]], e[TS] // unit * unit, e[ID], e[PRICE] / 100, e[SIZE] / 10**6, 1 + e[SIDE]) for e in trades
    )
    quotes = events[events[:, KIND] == QUOTE].tolist()
    columns = ("bid", "bid_size", "ask", "ask_size")
    assert sorted((names[r["series"]], r["ts_event"], *(r[c] for c in columns)) for r in rows["quotes"]) == sorted(
        (
            symbols[e[SYMBOL]], e[TS] // unit * unit, e[PRICE] / 100, e[SIZE] / 10**6, e[ASK] / 100, e[ASK_SIZE] / 10**6
        )
        for e in quotes
    )  # fmt: skip
    assert "rejected" not in rows
    assert "gaps" not in rows


def test_tickers_of_option_contracts_become_a_chain_and_count_as_delivered(journal: Journal) -> None:
    symbols = ("BTC-27DEC24-100000-C", "BTC-27DEC24-90000-P")
    rows: dict[str, Any] = {}

    async def run() -> None:
        async with Simulator(["deribit"], symbols=symbols, total=0) as place:
            url = place.url("deribit")
            spec = FeedSpec(name="f", provider="deribit", symbols=symbols, channels=("options",), url=url)
            async with connected(feed_of(spec), journal, Told()) as connection:
                await reached(lambda: connection.ready)
                await reached(lambda: rows.update(folded(journal)) or len(rows.get("options_chain", ())) == 2)

    asyncio.run(run())
    texts, expiration = rows["texts"], 1_735_286_400 * 10**9  # 2024-12-27 08:00 UTC
    columns = ("expiration", "strike", "option_type", "iv", "delta", "vega")
    assert sorted((str(texts[r["symbol"]]), *(r[c].item() for c in columns)) for r in rows["options_chain"]) == [
        (symbols[0], expiration, 100_000.0, CALL, 0.6321, 0.62959, 3.88497),
        (symbols[1], expiration, 90_000.0, PUT, 0.6321, 0.62959, 3.88497),
    ]
    pipeline = Pipeline(KernelsConfig(), make)
    position = journal.begin
    while (frames := journal.read(position)) is not None:
        pipeline.consume(frames)
        position = frames.end
    pipeline.seal()
    keys = [("options", symbol) for symbol in symbols]
    assert pipeline.delivered("f", keys) == dict.fromkeys(keys, 1)
