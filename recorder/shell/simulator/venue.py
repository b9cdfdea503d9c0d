"""What the simulator must know of a provider: its conversation with one client, sans-I/O, and its frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar

import numpy as np

from recorder.core.market import (
    ASK,
    ASK_SIZE,
    COLUMNS,
    FIRST_ID,
    ID,
    KIND,
    PRICE,
    PRICE_DIGITS,
    QUOTE,
    SIZE,
    SYMBOL,
    TRADE,
    TS,
    Market,
    decimal_text,
)
from recorder.shell.simulator.render import Program

TRADES, QUOTES = "trades", "quotes"  # channels of the synthetic market; others keep the provider's own name
MESSAGE_BYTES_MAX = 1 << 20  # from a client; the largest real subscriptions stay below 100 kB


@dataclass(frozen=True)
class Close:
    """Close the connection, as the provider would; code 0: without a closing handshake."""

    code: int
    reason: str


@dataclass(frozen=True)
class Snapshot:
    """A message with what happened before: counted in the truth apart from live events."""

    payload: str | bytes
    kind: int
    symbols: tuple[int, ...]


Reply = str | bytes | Close | Snapshot


@dataclass
class Venue:
    """A provider as all its connections share it.

    names     its own spelling of every symbol, in the market's order
    rules     what the provider may be told apart by: keys, limits (see each provider's file)
    now       Unix time in ns
    """

    key: str  # of venues.CONVERSATIONS: "coinbase", "coinbase-advanced", "binance", "kraken", "okx" …
    symbols: tuple[str, ...]  # canonical
    names: tuple[str, ...]
    size_digits: int
    now: Callable[[], int]
    rules: dict[str, object] = field(default_factory=dict)
    playing: bool = False  # a recording: what it holds is all that is sent, no snapshots, no ids of ours
    live: int = 0  # connections that count against a limit
    last: np.ndarray = field(init=False)  # (2, symbols, COLUMNS): the last trade and quote of each symbol

    def __post_init__(self) -> None:
        self.index = {name: i for i, name in enumerate(self.names)}
        self.last = np.zeros((2, len(self.symbols), COLUMNS), np.int64)

    def open(self, market: Market) -> None:
        """Give every symbol a trade and a quote from before the market opened."""
        for i in range(len(self.symbols)):
            price = market.start_price(i)
            for kind in (TRADE, QUOTE):
                row = self.last[kind, i]
                row[[TS, SYMBOL, KIND, ID, PRICE, SIZE]] = (
                    self.now(),
                    i,
                    kind,
                    FIRST_ID - 1,
                    price,
                    10**self.size_digits,
                )
            row[[ASK, ASK_SIZE]] = price + 2, 10**self.size_digits

    def happened(self, events: np.ndarray) -> None:
        """Remember the last event of each kind and symbol; ``events`` as sent, TS in Unix ns."""
        self.last[events[:, KIND], events[:, SYMBOL]] = events  # the last of equal indexes wins


class Conversation:
    """The provider's side of one connection. Subclasses say what the provider says; nothing here does I/O."""

    needs_subscription_ns = 0  # a client that has not subscribed by then is cut; 0: never
    binary = False
    notices: ClassVar[Mapping[str, tuple[Reply, ...]]] = {}  # what it says of its own accord, by its own names for it

    def __init__(self, venue: Venue, path: str, headers: Mapping[str, str]) -> None:
        self.venue, self.path, self.headers = venue, path, headers
        self.wanted: dict[str, set[str]] = {}  # channel → the provider's own symbols
        self.forced: list[int | str] = []  # errors to answer the next requests with: the provider's own codes or words
        self.sequence = 0  # messages sent so far, where the provider numbers them; the renderer goes on from it
        self.opened_ns = venue.now()

    def opened(self) -> list[Reply]:
        return []

    def received(self, message: str | bytes) -> list[Reply]:
        raise TypeError(f"{type(self).__name__} does not listen")

    def error_due(self) -> int | str:
        """What the request that has come is to be answered with; 0: as it should be."""
        return self.forced.pop(0) if self.forced else 0

    def said(self, what: str) -> list[Reply]:
        """One of ``notices``. Raises KeyError for another."""
        return list(self.notices[what])

    def second(self) -> list[Reply]:
        """What the provider sends once a second; closes a client that does not subscribe."""
        late = (
            self.needs_subscription_ns
            and not self.wanted
            and self.venue.now() - self.opened_ns > self.needs_subscription_ns
        )
        return [Close(1008, "no subscription received in time")] if late else []

    def closed(self) -> None:
        """The connection is gone."""

    def program(self) -> Program:
        """Templates of this connection's trades and quotes."""
        raise TypeError(f"{type(self).__name__} has no synthetic market")

    def key(self, payload: bytes) -> tuple[str, str] | None:
        """(channel, own symbol) of a recorded frame; None for a message of the recorded conversation itself."""
        raise TypeError(f"{type(self).__name__} does not play recordings")

    def renumbered(self, payload: bytes) -> bytes:
        """A recorded frame with the numbers that this connection counts anew."""
        return payload

    def known(self, name: str) -> bool:
        """Whether the provider trades this; who plays a recording does not know beforehand and believes the client."""
        return self.venue.playing or name in self.venue.index

    def wants(self, channel: str, name: str) -> bool:
        names = self.wanted.get(channel)
        return names is not None and (name in names or "*" in names)

    def mask(self) -> np.ndarray:
        """(2, symbols) bool: which trades and quotes this connection gets."""
        return np.array(
            [[self.wants(channel, name) for name in self.venue.names] for channel in (TRADES, QUOTES)], bool
        )

    def add(self, channel: str, names: Sequence[str]) -> None:
        self.wanted.setdefault(channel, set()).update(names)

    def remove(self, channel: str, names: Sequence[str]) -> None:
        if channel in self.wanted:
            self.wanted[channel] -= set(names)
            if not self.wanted[channel]:
                del self.wanted[channel]

    def numbers(self, kind: int, symbol: int) -> dict[str, str]:
        """The last event of a symbol as texts: price, size, ask, ask_size, id."""
        row = self.venue.last[kind, symbol]
        digits = self.venue.size_digits
        return {
            "price": decimal_text(int(row[PRICE]), PRICE_DIGITS),
            "size": decimal_text(int(row[SIZE]), digits),
            "ask": decimal_text(int(row[ASK]), PRICE_DIGITS),
            "ask_size": decimal_text(int(row[ASK_SIZE]), digits),
            "id": str(int(row[ID])),
        }


def rfc3339(ns: int, digits: int = 6) -> str:
    """Unix ns as RFC 3339 in UTC."""
    seconds, part = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{f'{part:09d}'[:digits]}Z"
