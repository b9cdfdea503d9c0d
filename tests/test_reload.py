"""Symbols that come and go on an open connection: the others see no interruption."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_connection import WAIT_S, Told, connected, feed_of, kinds, payloads, reached
from test_overlap import folded

from recorder.commands import feed_runs
from recorder.commands.feed_runs import FeedRuns
from recorder.core.frames import CLOSED, OPENED
from recorder.core.gaps import NOT_WANTED
from recorder.core.sharing import shared_anew
from recorder.feeds import make
from recorder.shell.journal import Journal
from recorder.shell.simulator import Simulator
from recorder.values.feed import FeedSpec
from recorder.values.schedule import Schedule
from recorder.values.schema import LONG_NULL

KEYS = {"APCA_API_KEY_ID": "PK", "APCA_API_SECRET_KEY": "secret", "POLYGON_API_KEY": "PK"}
PROVIDERS = {
    "binance": ("binance", {}, ("BTC-USDT", "ETH-USDT", "SOL-USDT")),
    "kraken": ("kraken", {}, ("BTC-USD", "ETH-USD", "SOL-USD")),
    "bybit": ("bybit", {}, ("BTC-USDT", "ETH-USDT", "SOL-USDT")),
    "okx": ("okx", {}, ("BTC-USDT", "ETH-USDT", "SOL-USDT-PERP")),
    "coinbase": ("coinbase", {"api": "exchange"}, ("BTC-USD", "ETH-USD", "SOL-USD")),
    "coinbase-advanced": ("coinbase", {"api": "advanced"}, ("BTC-USD", "ETH-USD", "SOL-USD")),
    "bitstamp": ("bitstamp", {}, ("BTC-USD", "ETH-USD", "SOL-USD")),
    "deribit": ("deribit", {}, ("BTC-USD-PERP", "ETH-USDC-PERP", "BTC-27DEC24-100000-C")),
    "alpaca": ("alpaca", {"feed": "iex", "location": "us", "format": "json"}, ("AAPL", "MSFT", "TSLA")),
    "polygon": ("polygon", {"cluster": "options"}, tuple(f"AAPL  251219C00{n}0000" for n in (15, 16, 17))),
}


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


@pytest.mark.parametrize("key", PROVIDERS)
def test_a_symbol_asked_for_again_is_delivered_anew_and_the_others_go_on(journal: Journal, key: str) -> None:
    provider, options, (lost, stays, _) = PROVIDERS[key]

    async def run() -> None:
        told = Told()
        async with Simulator([key], symbols=[lost, stays], rate=600) as place:
            spec = FeedSpec(
                name="f", provider=provider, symbols=(lost, stays), options=options, url=place.url(key),
                channels=("trades",),
            )  # fmt: skip
            async with connected(feed_of(spec, KEYS), journal, told) as c:
                c.ask_again([("trades", lost)])  # not open yet: it will be asked for
                await reached(lambda: c.ready and c.frames > 100)
                sent = place.truth[key].symbols
                place.mute(key, lost, until_asked=True)
                before = {symbol: truth.sent for symbol, truth in sent.items()}
                c.ask_again([("trades", "NOBODY-USD")])
                await reached(lambda: sent[stays].sent > before[stays] + 50)
                assert sent[lost].sent == before[lost]
                c.ask_again([("trades", lost)])
                await reached(lambda: sent[lost].sent > before[lost] + 50)
                await reached(
                    lambda: c.session.feed.subscriptions().acknowledged == {("trades", lost), ("trades", stays)}
                )
            assert place.truth[key].connections == 1
        assert told.events == ["feed.connected"]
        rows = folded(journal)
        own = np.sort(rows["trades"][rows["trades"]["series"] == rows["symbols"].tolist().index(stays)]["trade_id"])
        assert own.tolist() == list(range(int(own[0]), int(own[-1]) + 1))

    asyncio.run(run())


# More connections, and fewer.

SEVEN = [f"{base}-USD" for base in ("ADA", "BTC", "DOGE", "ETH", "LTC", "SOL", "XRP")]
PER_CONNECTION = 2


@asynccontextmanager
async def recorded(journal: Journal, told: Told, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FeedRuns]:
    """Feeds in a recording without a database, of which a connection carries two symbols."""

    def make_small(spec: FeedSpec, keys: Mapping[str, str] | None = None) -> Any:
        feed: Any = make(spec, keys or {})
        capability = msgspec.structs.replace(
            feed.capability(), symbols_per_connection_max=PER_CONNECTION, connects_per_minute_max=1e6
        )
        feed.capability = lambda: capability
        return feed

    monkeypatch.setattr(feed_runs, "make", make_small)
    recording = SimpleNamespace(
        journal=journal, engine=SimpleNamespace(wake=lambda: None, backlog=0), log=told, sink=None, observe=None,
        disk=SimpleNamespace(room=asyncio.Event(), full=asyncio.Event()),
        config=SimpleNamespace(journal=SimpleNamespace(dir=journal.directory)),
    )  # fmt: skip
    recording.disk.room.set()
    runs = FeedRuns(recording, lambda spec: Schedule(None), {})
    try:
        yield runs
    finally:
        await runs.close()


def settled(runs: FeedRuns, symbols: Iterable[str]) -> bool:
    """Each of these, and nothing else, is subscribed to by one connection."""
    connections = runs.runs["f"].connections
    ready = sorted(symbol for c in connections for symbol in c.ready_symbols)
    return all(c.ready for c in connections) and ready == sorted(symbols)


def test_connections_are_opened_and_closed_while_the_others_go_on_without_a_gap(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, btc, doge, eth, ltc, sol, xrp = SEVEN
    told = Told()

    async def run() -> None:
        async with (
            Simulator(["coinbase"], symbols=SEVEN, rate=600) as place,
            recorded(journal, told, monkeypatch) as runs,
        ):
            sent, counted = place.truth["coinbase"].symbols, 0

            async def change(connections: int, *symbols: str) -> None:
                nonlocal counted
                runs.set((FeedSpec(name="f", provider="coinbase", symbols=symbols, url=place.url("coinbase")),))
                await reached(lambda: settled(runs, symbols) and len(runs.runs["f"].connections) == connections)
                assert runs.runs["f"].frames >= counted
                others = set(SEVEN) - set(symbols)
                async with asyncio.timeout(WAIT_S):
                    while True:
                        before = {symbol: sent[symbol].sent for symbol in SEVEN}
                        while not all(sent[symbol].sent > before[symbol] + 30 for symbol in symbols):
                            await asyncio.sleep(0.002)
                        if all(sent[symbol].sent == before[symbol] for symbol in others):
                            break
                counted = runs.runs["f"].frames

            await change(1, ada, btc)
            (first,) = runs.runs["f"].connections
            await change(3, ada, btc, doge, eth, sol)
            assert first.spec.symbols == (ada, btc)
            await change(3, ada, btc, doge, sol)
            await change(2, ada, sol)  # one keeps ADA-USD, one SOL-USD, that of DOGE-USD and ETH-USD is closed
            await change(1, ada)
            await change(2, ada, ltc, xrp)  # under a number that there was: nothing was missed of what it had
            assert runs.runs["f"].connections[0] is first
            assert (first.reconnects, runs.runs["f"].reconnects) == (0, 0)
            assert place.truth["coinbase"].connections == 4  # ever

    asyncio.run(run())
    assert told.events.count("feed.connected") == 4
    assert set(told.events) == {"feed.connected", "feed.changed"}
    rows = folded(journal)
    assert "gaps" not in rows
    own = np.sort(rows["trades"][rows["trades"]["series"] == rows["symbols"].tolist().index(ada)]["trade_id"])
    assert own.tolist() == list(range(int(own[0]), int(own[-1]) + 1))
    reasons = [payload.decode() for payload in payloads(journal, CLOSED)]
    assert reasons.count(NOT_WANTED) == 2


def test_changes_faster_than_connections_open_and_close_end_with_the_last(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with (
            Simulator(["coinbase"], symbols=SEVEN, rate=600) as place,
            recorded(journal, Told(), monkeypatch) as runs,
        ):

            def change(symbols: Iterable[str]) -> None:
                runs.set((FeedSpec(name="f", provider="coinbase", symbols=tuple(symbols), url=place.url("coinbase")),))

            change(SEVEN[:1])
            await reached(lambda: settled(runs, SEVEN[:1]))
            (first,) = runs.runs["f"].connections
            for symbols in (SEVEN, SEVEN[:1], SEVEN[:4], SEVEN[:2], SEVEN[:1] + SEVEN[4:]):
                change(symbols)
                await asyncio.sleep(0)
            await reached(lambda: settled(runs, SEVEN[:1] + SEVEN[4:]))
            assert runs.runs["f"].connections[0] is first
            assert len(runs.runs["f"].connections) == 2

    asyncio.run(run())
    assert kinds(journal).count(OPENED) == kinds(journal).count(CLOSED)


names = st.lists(st.sampled_from("ABCDEFGHIJ"), unique=True)


@given(first=names, second=names, wanted=names, most=st.integers(1, 8), connections_max=st.integers(2, 6))
def test_connections_keep_what_they_have_and_take_what_is_new_within_their_limit(
    first, second, wanted, most, connections_max
):
    second = [name for name in second if name not in first]
    spec = FeedSpec(name="f", provider="p")
    open_now = [
        msgspec.structs.replace(spec, symbols=tuple(some), connection=i) for i, some in enumerate((first, second))
    ]
    changed = shared_anew(
        open_now, [msgspec.structs.replace(spec, symbols=tuple(wanted))], lambda _: most, connections_max
    )
    kept = [set(s.symbols) & set(wanted) for s in open_now]
    going_on = [some for some in kept if some]
    room = sum(max(0, most - len(some)) for some in going_on)
    more = -(-max(0, len(set(wanted) - set(first) - set(second)) - room) // most)  # as few as can be
    if not going_on or len(going_on) + more > connections_max:
        assert changed is None
        return
    assert changed is not None
    assert sorted(symbol for s in changed for symbol in s.symbols) == sorted(wanted)
    by_number = {s.connection: s for s in changed}
    assert len(by_number) == len(changed) == len(going_on) + more
    for before, some in zip(open_now, kept, strict=True):
        assert (before.connection in by_number) == bool(some)
        after = by_number.pop(before.connection, before)
        assert some <= set(after.symbols)
        assert len(after.symbols) <= max(most, len(before.symbols))
    assert all(0 < len(fresh.symbols) <= most for fresh in by_number.values())


def test_channels_of_different_connections_are_shared_apart():
    spec = FeedSpec(name="f", provider="p")
    shard = msgspec.structs.replace
    trades = [shard(spec, channels=("trades",), symbols=("A",))]
    quotes = [shard(spec, channels=("quotes",), symbols=("A",), connection=1)]
    wanted = [shard(s, symbols=("A", "B", "C")) for s in (*trades, *quotes)]
    changed = shared_anew(trades + quotes, wanted, lambda s: 2 if s.channels == ("trades",) else 3, 9)
    assert changed == [
        shard(trades[0], symbols=("A", "B")), shard(quotes[0], symbols=("A", "B", "C")),
        shard(trades[0], symbols=("C",), connection=2),
    ]  # fmt: skip
