"""A synthetic market: seeded random walks over some symbols, with clustered trades, bursts, and quotes around them.

Everything is an integer (ticks, units, ids, ns), so that whoever sends it knows sums exactly.
"""

from __future__ import annotations

import numpy as np

# Columns of an event, all int64. A quote has PRICE and SIZE of its bid; a trade has no ASK and ASK_SIZE.
TS, SYMBOL, KIND, ID, PRICE, SIZE, SIDE, ASK, ASK_SIZE = range(9)
COLUMNS = 9
TRADE, QUOTE = 0, 1  # KIND
SELL, BUY = 0, 1  # SIDE of the aggressor

PRICE_DIGITS = 2  # decimals of prices: a tick is 0.01
ORDERS_PER_BLOCK = 2048  # drawn at once: a block costs 1 ms, far below the time it lasts at any rate that is paced
RING_EVENTS = 1 << 16  # 5 MB; prices then repeat every 64 k events
FIRST_ID = 1_000_000  # of every symbol's trades; ids before it belong to the time before the market opened

_TRADES_PER_ORDER = 1.6  # an aggressive order hits 1 to some 10 resting ones
_SAME_SIDE = 0.7  # probability that an order continues the direction of the last one
_BURST_ENTER, _BURST_LEAVE = 1 / 600, 1 / 200  # per order: a quarter of all orders come in bursts of some 200
_BURST_FOCUS = 0.7  # share of a burst's orders that are in one symbol
_CLUSTER_NS = 1_000  # between the trades of one order
_SPREAD_TICKS = 2
_PRICE_MIN = 100  # ticks: the walk is held above
_PRICES = (6_000_000, 350_000, 15_000, 9_000, 2_500, 45_000, 18_000, 22_000, 55_000, 30_000)  # where symbols start


class Market:
    """Events of ``symbols`` symbols for ever; the same arguments give the same events, however they are asked for.

    symbols       how many, at least one; the first are the busiest
    rate          mean trades per second of all symbols together, above 0
    burst         how many times faster orders come in a burst than in calm; 1: no bursts
    quotes        mean quotes per trade
    size_digits   decimals of sizes: 6 for coins, 0 for shares
    """

    def __init__(
        self, symbols: int, seed: int, rate: float, burst: float = 10.0, quotes: float = 1.0, size_digits: int = 6
    ) -> None:
        if symbols < 1 or rate <= 0 or burst < 1 or quotes < 0:
            raise ValueError(
                f"a market needs symbols >= 1, rate > 0, burst >= 1, quotes >= 0: {symbols, rate, burst, quotes}"
            )
        self.symbols, self.size_digits = symbols, size_digits
        self.next_id = np.full(symbols, FIRST_ID, np.int64)  # of trades, per symbol
        self._next_quote = np.full(symbols, FIRST_ID, np.int64)
        self._rng = np.random.Generator(np.random.PCG64(seed))
        # 1/k activity as in real markets; a burst's share of orders leaves the mean rate as asked for
        weights = 1.0 / np.arange(1, symbols + 1)
        self._cumulative = np.cumsum(weights / weights.sum())
        in_burst = _BURST_ENTER / (_BURST_ENTER + _BURST_LEAVE)
        self._gap_ns = 1e9 * _TRADES_PER_ORDER / rate / (1 - in_burst + in_burst / burst)
        self._burst, self._quotes = burst, quotes * _TRADES_PER_ORDER
        self._mid = np.array([_PRICES[i % len(_PRICES)] for i in range(symbols)], np.int64)
        self._bursting, self._focus, self._side = False, 0, BUY
        self._now = self._last = 0  # when the last order was due, and its last event
        self._rest = np.empty((0, COLUMNS), np.int64)

    def until(self, ts: int) -> np.ndarray:
        """Events up to and including ``ts`` ns after the start, in order of time: (n, COLUMNS) int64."""
        parts = [self._rest]
        while not len(parts[-1]) or parts[-1][-1, TS] <= ts:
            parts.append(self._block())
        events = np.concatenate(parts) if len(parts) > 1 else parts[0]
        cut = int(np.searchsorted(events[:, TS], ts, side="right"))
        self._rest = events[cut:]
        return events[:cut]

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` events, whenever they are due: (count, COLUMNS) int64."""
        parts, have = [self._rest], len(self._rest)
        while have < count:
            parts.append(self._block())
            have += len(parts[-1])
        events = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._rest = events[count:]
        return events[:count]

    def start_price(self, symbol: int) -> int:
        """Ticks at which the symbol opened."""
        return _PRICES[symbol % len(_PRICES)]

    def _bursts(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether each order of the next block is in a burst, and of which symbol."""
        bursting = np.empty(ORDERS_PER_BLOCK, bool)
        focus = np.empty(ORDERS_PER_BLOCK, np.int64)
        at = 0
        while at < ORDERS_PER_BLOCK:
            # without memory, so a phase cut by the end of a block goes on in the next with the same law
            length = int(self._rng.geometric(_BURST_LEAVE if self._bursting else _BURST_ENTER))
            stop = min(at + length, ORDERS_PER_BLOCK)
            bursting[at:stop], focus[at:stop] = self._bursting, self._focus
            if at + length <= ORDERS_PER_BLOCK:
                self._bursting = not self._bursting
                self._focus = int(np.searchsorted(self._cumulative, self._rng.random()))
            at = stop
        return bursting, focus

    def _block(self) -> np.ndarray:
        rng, n = self._rng, ORDERS_PER_BLOCK
        bursting, focus = self._bursts()
        gaps = rng.exponential(self._gap_ns, n) / np.where(bursting, self._burst, 1.0)
        due = self._now + np.cumsum(gaps.astype(np.int64))
        self._now = int(due[-1])
        symbol = np.searchsorted(self._cumulative, rng.random(n)).clip(max=self.symbols - 1)
        symbol = np.where(bursting & (rng.random(n) < _BURST_FOCUS), focus, symbol)
        flips = np.cumsum(rng.random(n) >= _SAME_SIDE)
        side = (self._side + flips) & 1
        self._side = int(side[-1])

        # A buy order lifts the price by what it took, a sell order presses it; the walk is each symbol's own.
        step = (2 * side - 1) * rng.poisson(0.6, n)
        mid = self._walk(symbol, step)

        trades = rng.geometric(1 / _TRADES_PER_ORDER, n)
        quotes = rng.poisson(self._quotes, n)
        count = trades + quotes
        order = np.repeat(np.arange(n), count)
        place = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)  # 0, 1, 2 … within its order
        quote = place >= trades[order]

        events = np.zeros((len(order), COLUMNS), np.int64)
        events[:, TS] = np.maximum(np.maximum.accumulate(due[order] + place * _CLUSTER_NS), self._last)
        self._last = int(events[-1, TS])
        events[:, SYMBOL] = symbol[order]
        events[:, KIND] = quote
        sizes = self._sizes(2 * len(order))
        events[:, SIZE] = sizes[: len(order)]
        outward = _SPREAD_TICKS // 2 + place // 2  # an order that goes on eats into the next levels
        trade_price = mid[order] + (2 * side[order] - 1) * outward
        wide = rng.integers(0, 3, len(order))
        events[:, PRICE] = np.where(quote, mid[order] - _SPREAD_TICKS // 2 - wide, np.maximum(trade_price, 1))
        events[:, ASK] = np.where(quote, mid[order] + _SPREAD_TICKS // 2 + wide, 0)
        events[:, ASK_SIZE] = np.where(quote, sizes[len(order) :], 0)
        events[:, SIDE] = np.where(quote, 0, side[order])
        for kind, following in ((TRADE, self.next_id), (QUOTE, self._next_quote)):
            of_kind = np.flatnonzero(quote == bool(kind))
            events[of_kind, ID] = _numbered(events[of_kind, SYMBOL], following)
        return events

    def _walk(self, symbol: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Mid price of each order's symbol after its step; remembers where every symbol ended."""
        mid = np.empty(len(step), np.int64)
        for s in np.unique(symbol):
            own = np.flatnonzero(symbol == s)
            mid[own] = np.maximum(self._mid[s] + np.cumsum(step[own]), _PRICE_MIN)
            self._mid[s] = mid[own[-1]]
        return mid

    def _sizes(self, n: int) -> np.ndarray:
        """Many small sizes, few large ones; whole shares, or coins in units of their last decimal."""
        drawn = self._rng.lognormal(0.0, 1.3, n)
        scaled = drawn * (80 if self.size_digits == 0 else 0.05 * 10**self.size_digits)
        return np.clip(scaled.astype(np.int64), 1, 100 * 10 ** max(self.size_digits, 2))


class Ring:
    """A market's events again and again, ids going on: for load, when drawing new ones would cost more than sending."""

    def __init__(self, market: Market, events: int = RING_EVENTS) -> None:
        self._events = market.take(events)
        self._counts = np.zeros((2, market.symbols), np.int64)
        np.add.at(self._counts, (self._events[:, KIND], self._events[:, SYMBOL]), 1)
        self._added = self._counts[self._events[:, KIND], self._events[:, SYMBOL]]
        self._at = 0

    def take(self, count: int) -> np.ndarray:
        """The next events, at most ``count`` and fewer at the seam; only their ids and order mean anything."""
        if self._at == len(self._events):
            self._events[:, ID] += self._added
            self._at = 0
        events = self._events[self._at : self._at + count].copy()
        self._at += len(events)
        return events


def _numbered(symbol: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Contiguous ids per symbol in order of appearance, starting at ``following``, which is moved on."""
    ids = np.empty(len(symbol), np.int64)
    for s in np.unique(symbol):
        own = np.flatnonzero(symbol == s)
        ids[own] = following[s] + np.arange(len(own))
        following[s] += len(own)
    return ids


def decimal_text(value: int, digits: int) -> str:
    """An integer of ``digits`` decimals as text: (12345, 2) → "123.45"."""
    whole, part = divmod(abs(value), 10**digits)
    text = f"{whole}.{part:0{digits}d}" if digits else str(whole)
    return "-" + text if value < 0 else text
