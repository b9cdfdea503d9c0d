"""How many rows of each subscription came: what the audit of a connection asks (shell/audit.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from recorder.core.batch import Output
from recorder.core.kernels import Kernels
from recorder.values.feed import Key
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import BARS, NEWS, OPTIONS_CHAIN, QUOTES, STATUSES, TRADES, VALUATIONS

COUNTED = (TRADES.name, QUOTES.name)  # by the kernels
# The tables of the channels that kernels do not count, and what these are called: by series, and by symbol.
BY_SERIES = {BARS.name: "bars", STATUSES.name: "statuses", VALUATIONS.name: "valuations"}
BY_SYMBOL = {OPTIONS_CHAIN.name: "options", NEWS.name: "news"}
SYMBOLS_INITIAL = 256


class Delivered:
    """Counts since this pipeline began. They are bounded by what there is to count: series, and ids of texts.

    Rows by symbol, of contracts and of news, are 8 bytes for each text, for each feed that subscribes to them: 8 MB
    with a million texts, 64 MB with TEXTS_MAX. Feeds that are asked have no subscriptions, and are not counted.
    """

    def __init__(self, out: Output, kernels: Kernels) -> None:
        self._out, self._kernels = out, kernels
        self._by_series: Counter[tuple[str, int]] = Counter()  # (channel, series)
        # (channel, feed's text) → rows by the symbol's text, from TEXT_NULL on
        self._by_symbol: dict[tuple[str, int], np.ndarray] = {}
        self._asked: set[int] = set()  # texts of feeds

    def declare(self, feed: str, asked: bool) -> None:
        """``asked``: it has no subscriptions."""
        (self._asked.add if asked else self._asked.discard)(self._out.texts.id(feed))

    def add(self, table: str, rows: np.ndarray) -> None:
        """Count rows of a table after its kernels."""
        if table in BY_SERIES:
            channel = BY_SERIES[table]
            self._by_series.update((channel, series) for series in rows["series"].tolist())
        elif table in BY_SYMBOL:
            for feed in np.unique(rows["feed"]).tolist():
                if feed not in self._asked:
                    self._add_symbols((BY_SYMBOL[table], feed), rows["symbol"][rows["feed"] == feed])

    def _add_symbols(self, key: tuple[str, int], symbols: np.ndarray) -> None:
        counts = self._by_symbol.get(key, np.zeros(SYMBOLS_INITIAL, np.int64))
        found, number = np.unique(symbols - TEXT_NULL, return_counts=True)
        while len(counts) <= found[-1]:
            counts = np.concatenate([counts, np.zeros_like(counts)])
        counts[found] += number
        self._by_symbol[key] = counts

    def count(self, feed: str, keys: Iterable[Key]) -> dict[Key, int]:
        """How many rows of these (channel, symbol) came so far, repeats included; of the symbol ``*``, of all."""
        scalars, known, ids = self._kernels.state.scalars, self._kernels.state.known, self._out.texts.ids
        series = [(i, symbol) for i, (name, symbol) in enumerate(self._out.series.keys) if name == feed]
        place = {symbol: [i] for i, symbol in series} | {"*": [i for i, _ in series]}

        def of_series(channel: str, i: int) -> int:
            if channel in COUNTED:
                return int(scalars[channel][i]) if i < known else 0
            return self._by_series[channel, i]

        def of_symbol(channel: str, symbol: str) -> int:
            counts = self._by_symbol.get((channel, ids.get(feed, -1)))
            if counts is None:
                return 0
            place = ids.get(symbol, len(counts)) - TEXT_NULL
            return int(counts.sum() if symbol == "*" else counts[place] if place < len(counts) else 0)

        return {
            (channel, symbol): of_symbol(channel, symbol)
            if channel in BY_SYMBOL.values()
            else sum(of_series(channel, i) for i in place.get(symbol, ()))
            for channel, symbol in keys
        }
