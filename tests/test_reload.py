"""Symbols that come and go on an open connection: the others see no interruption."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_connection import Told, connected, feed_of, reached
from test_overlap import folded

from recorder.core.sharing import shared_anew
from recorder.shell.journal import Journal
from recorder.shell.simulator import Simulator
from recorder.values.feed import FeedSpec
from recorder.values.schema import LONG_NULL

KEYS = {"APCA_API_KEY_ID": "PK", "APCA_API_SECRET_KEY": "secret"}
PROVIDERS = {
    "binance": ("binance", {}, ("BTC-USDT", "ETH-USDT", "SOL-USDT")),
    "kraken": ("kraken", {}, ("BTC-USD", "ETH-USD", "SOL-USD")),
    "okx": ("okx", {}, ("BTC-USDT", "ETH-USDT", "SOL-USDT-PERP")),
    "coinbase": ("coinbase", {"api": "exchange"}, ("BTC-USD", "ETH-USD", "SOL-USD")),
    "coinbase-advanced": ("coinbase", {"api": "advanced"}, ("BTC-USD", "ETH-USD", "SOL-USD")),
    "bitstamp": ("bitstamp", {}, ("BTC-USD", "ETH-USD", "SOL-USD")),
    "deribit": ("deribit", {}, ("BTC-USD-PERP", "ETH-USDC-PERP", "BTC-27DEC24-100000-C")),
    "alpaca": ("alpaca", {"feed": "iex", "location": "us", "format": "json"}, ("AAPL", "MSFT", "TSLA")),
}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal", segment_bytes=32 << 20) as opened:
        yield opened


@pytest.mark.parametrize("key", PROVIDERS)
def test_a_symbol_dropped_and_one_added_leave_the_third_without_a_gap(journal: Journal, key: str) -> None:
    provider, options, (stays, goes, comes) = PROVIDERS[key]

    async def run() -> None:
        told = Told()
        async with Simulator([key], symbols=[stays, goes, comes], rate=600) as place:
            spec = FeedSpec(
                name="f", provider=provider, symbols=(stays, goes), options=options, url=place.url(key),
                channels=("trades",) if key == "okx" else ("trades", "quotes"),  # it serves them on two paths
            )  # fmt: skip
            feed: Any = feed_of(spec, KEYS)
            async with connected(feed, journal, told) as c:
                await reached(lambda: c.ready and c.frames > 100)
                sent = place.truth[key].symbols
                assert not sent[comes].sent
                c.change(msgspec.structs.replace(spec, symbols=(stays, comes)))
                await reached(lambda: set(c.ready_symbols) == {stays, comes})
                sets = c.session.feed.subscriptions()
                assert sets.desired == sets.requested == sets.acknowledged
                assert {symbol for _, symbol in sets.desired} == {stays, comes}
                before = {symbol: truth.sent for symbol, truth in sent.items()}
                await reached(lambda: all(sent[symbol].sent > before[symbol] + 50 for symbol in (stays, comes)))
                assert sent[goes].sent == before[goes]
            assert place.truth[key].connections == 1
            assert c.reconnects == 0
        assert told.events == ["feed.connected"]
        rows = folded(journal)
        own = rows["trades"][rows["trades"]["series"] == rows["symbols"].tolist().index(stays)]
        ids = np.sort(own["trade_id"])
        assert ids.tolist() == list(range(int(ids[0]), int(ids[-1]) + 1))
        assert (rows["trades"]["missed"] == LONG_NULL).all()
        assert {"feed_events"} <= rows.keys()
        assert "gaps" not in rows

    asyncio.run(run())


names = st.lists(st.sampled_from("ABCDEFGHIJ"), unique=True)


@given(first=names, second=names, wanted=names, most=st.integers(1, 8))
def test_connections_keep_what_they_have_and_take_what_is_new_within_their_limit(first, second, wanted, most):
    second = [name for name in second if name not in first]
    spec = FeedSpec(name="f", provider="p")
    open_now = [
        msgspec.structs.replace(spec, symbols=tuple(some), connection=i) for i, some in enumerate((first, second))
    ]
    changed = shared_anew(open_now, [msgspec.structs.replace(spec, symbols=tuple(wanted))], lambda _: most)
    if changed is None:
        kept = [set(s.symbols) & set(wanted) for s in open_now]
        fresh = set(wanted) - set(first) - set(second)
        room = sum(max(0, most - len(some)) for some in kept)
        assert not all(kept) or len(fresh) > room
        return
    assert sorted(symbol for s in changed for symbol in s.symbols) == sorted(wanted)
    for before, after in zip(open_now, changed, strict=True):
        assert set(before.symbols) & set(wanted) <= set(after.symbols)
        assert (after.connection, after.channels) == (before.connection, before.channels)
        assert len(after.symbols) <= max(most, len(before.symbols))
