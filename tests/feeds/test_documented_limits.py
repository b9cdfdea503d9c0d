"""What each crypto venue documents that one address or connection may do, and that a feed stays within it.

All numbers are the venues' own, see the pages named in the feeds. A second's limit of messages counts what a WebSocket
sends by itself, too.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from recorder.feeds import make
from recorder.values.feed import MINUTE, FeedSpec, Send

PING_AND_PONG = 2  # of the WebSocket itself, within a second that is full of ours


class Limits(NamedTuple):
    """None: not documented."""

    connects: tuple[int, float] | None = None  # so many in so many seconds, by address
    connections: int | None = None  # open at once, by address or channel
    sends_per_second: float | None = None  # by address if ``shared``, else by connection
    shared: bool = False
    items: int | None = None  # in one subscribe message
    names_chars: int | None = None  # of all that a connection asks for
    streams: int | None = None  # of a connection


CASES: dict[tuple[str, str], Limits] = {
    ("binance", "spot"): Limits(connects=(300, 300), sends_per_second=5 - PING_AND_PONG, streams=1024),
    ("binance", "usdm"): Limits(connects=(300, 300), sends_per_second=10 - PING_AND_PONG, streams=1024),
    ("binance", "coinm"): Limits(connects=(300, 300), sends_per_second=10 - PING_AND_PONG, streams=1024),
    ("coinbase", "advanced"): Limits(connects=(8, 1), sends_per_second=8, shared=True),
    ("kraken", ""): Limits(connects=(150, 600)),
    ("bybit", "spot"): Limits(connects=(500, 300), connections=1000, items=10, names_chars=21_000),
    ("bybit", "linear"): Limits(connects=(500, 300), connections=1000, names_chars=21_000),
    ("bybit", "inverse"): Limits(connects=(500, 300), connections=1000, names_chars=21_000),
    ("bybit", "option"): Limits(connects=(500, 300), connections=1000, items=2000, names_chars=21_000),
    ("okx", ""): Limits(connects=(3, 1), connections=30, sends_per_second=480),
    # 3000 of 10,000 credits a second for each message that subscribes
    ("deribit", ""): Limits(connections=32, sends_per_second=10_000 / 3000, shared=True),
}
OPTION = {"binance": "market", "bybit": "market", "coinbase": "api"}


def full(provider: str, value: str) -> Any:
    """A feed with as many of the longest symbols as one connection takes, and every channel."""
    options = {OPTION[provider]: value} if value else {}
    most = make(FeedSpec(name="f", provider=provider, symbols=(), options=options, channels=("trades",))).capability()
    names = {
        "option": "BTC-27DEC26-{:06d}-C-USDT", "usdm": "ABCDEFGH{:04d}-USDT-PERP", "linear": "ABCDEFGH{:04d}-USDT-PERP",
        "coinm": "ABCDEFGH{:04d}-USD-PERP", "inverse": "ABCDEFGH{:04d}-USD-PERP",
        "deribit": "BTC-27DEC26-{:06d}-C",
    }  # fmt: skip
    name = names.get(value, names.get(provider, "ABCDEFGH{:04d}-USDT"))
    symbols = tuple(name.format(100_000 + i if "26" in name else i) for i in range(most.symbols_per_connection_max))
    spec = FeedSpec(name="f", provider=provider, symbols=symbols, options=options, channels=most.channels)
    if provider == "binance":  # its limit is shared by the channels
        spec = make(spec).shards()[0]
    return make(spec)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_feed_connects_and_sends_no_more_than_its_venue_allows(case: tuple[str, str]) -> None:
    feed, limits = full(*case), CASES[case]
    capability = feed.capability()
    if limits.connects is not None:
        most, seconds = limits.connects
        minutes = max(1.0, seconds * 1e9 / MINUTE)
        assert min(capability.connects_per_minute_max * minutes, capability.connects_per_second_max * seconds) <= most
    assert limits.connections is None or capability.connections_max <= limits.connections
    assert limits.sends_per_second is None or capability.sends_per_second_max <= limits.sends_per_second
    assert capability.sends_shared or not limits.shared


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_full_connection_asks_for_no_more_than_its_venue_allows(case: tuple[str, str]) -> None:
    feed, limits = full(*case), CASES[case]
    sent = [json.loads(command.payload) for command in feed.on_open() if isinstance(command, Send)]
    asked: list[list[Any]] = [message[key] for message in sent for key in ("params", "args") if key in message]
    lists = [items for items in asked if isinstance(items, list)]
    assert all(len(items) <= (limits.items or len(items)) for items in lists)
    names = [name for items in lists for name in items if isinstance(name, str)]
    assert limits.names_chars is None or sum(len(name) for name in names) <= limits.names_chars
    assert limits.streams is None or 0 < len(names) <= limits.streams
