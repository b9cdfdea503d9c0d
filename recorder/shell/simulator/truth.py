"""What a simulator really sent, so that whoever recorded it can be compared with it exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recorder.core.market import ID, KIND, PRICE, PRICE_DIGITS, QUOTE, SIZE, SYMBOL, TRADE, decimal_text


@dataclass
class SymbolTruth:
    """A symbol of a provider.

    generated   trades that happened, delivered or not
    sent        trades handed to sockets as live events, every copy counted
    ranges      ids delivered at least once, live or in a snapshot: [first, last], disjoint, ascending
    """

    generated: int = 0
    sent: int = 0
    quotes: int = 0  # handed to sockets as live events
    quote_snapshots: int = 0
    trade_snapshots: int = 0
    size: int = 0  # sums over ``generated``, in the units of size_digits and of price × size
    notional: int = 0
    ranges: list[list[int]] = field(default_factory=list)

    @property
    def distinct(self) -> int:
        """Trades that were delivered at least once."""
        return sum(last - first + 1 for first, last in self.ranges)

    def deliver(self, first: int, last: int) -> None:
        """Mark ids as delivered; mostly they go on where the last ones ended."""
        if self.ranges and self.ranges[-1][1] + 1 == first:
            self.ranges[-1][1] = last
            return
        merged: list[list[int]] = []
        for low, high in sorted([*self.ranges, [first, last]]):
            if merged and low <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], high)
            else:
                merged.append([low, high])
        self.ranges = merged


class VenueTruth:
    """A provider's symbols, its frames and connections."""

    def __init__(self, symbols: Sequence[str], size_digits: int) -> None:
        self.symbols = {symbol: SymbolTruth() for symbol in symbols}
        self.names, self.size_digits = tuple(symbols), size_digits
        self.frames = 0  # data frames handed to sockets
        self.bytes = 0
        self.connections = 0
        self.refused = 0
        self.dropped: list[tuple[str, int]] = []  # (symbol, trade id) left out on command
        self.duplicated: list[tuple[str, int]] = []
        self.recorded: dict[str, int] = {}  # frames of a recording, by "channel symbol"
        self.unasked: dict[str, int] = {}  # those that a client did not subscribe to; "" if nobody can

    def happened(self, events: np.ndarray) -> None:
        """Count new events, before anything is left out."""
        trades = events[events[:, KIND] == TRADE]
        n = len(self.names)
        counts = np.bincount(trades[:, SYMBOL], minlength=n)
        for s in np.flatnonzero(counts):
            own = trades[trades[:, SYMBOL] == s]
            truth = self.symbols[self.names[s]]
            truth.generated += int(counts[s])
            truth.size += int(own[:, SIZE].sum())
            truth.notional += int((own[:, PRICE] * own[:, SIZE]).sum())

    def sent(self, events: np.ndarray, frames: int, size: int) -> None:
        """Count what one connection was given."""
        self.frames += frames
        self.bytes += size
        n = len(self.names)
        quotes = np.bincount(events[events[:, KIND] == QUOTE, SYMBOL], minlength=n)
        trades = events[events[:, KIND] == TRADE]
        counts = np.bincount(trades[:, SYMBOL], minlength=n)
        for s in np.flatnonzero(counts + quotes):
            truth = self.symbols[self.names[s]]
            truth.quotes += int(quotes[s])
            truth.sent += int(counts[s])
            if counts[s]:
                ids = np.unique(trades[trades[:, SYMBOL] == s, ID])
                cuts = np.flatnonzero(np.diff(ids) != 1)
                for first, last in zip(ids[np.r_[0, cuts + 1]], ids[np.r_[cuts, -1]], strict=True):
                    truth.deliver(int(first), int(last))

    def as_dict(self) -> dict[str, Any]:
        """JSON: sums as exact decimals in text."""
        digits = self.size_digits
        symbols = {
            name: {
                "generated": t.generated, "sent": t.sent, "distinct": t.distinct, "ranges": t.ranges,
                "quotes": t.quotes, "quote_snapshots": t.quote_snapshots, "trade_snapshots": t.trade_snapshots,
                "size": decimal_text(t.size, digits), "notional": decimal_text(t.notional, digits + PRICE_DIGITS),
            }
            for name, t in self.symbols.items()
        }  # fmt: skip
        return {
            "frames": self.frames, "bytes": self.bytes, "connections": self.connections, "refused": self.refused,
            "trades": sum(t.sent for t in self.symbols.values()),
            "distinct": sum(t.distinct for t in self.symbols.values()),
            "quotes": sum(t.quotes for t in self.symbols.values()),
            "dropped": self.dropped, "duplicated": self.duplicated, "recorded": self.recorded, "unasked": self.unasked,
            "symbols": symbols,
        }  # fmt: skip
