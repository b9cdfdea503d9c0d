"""Rows by subscription, as the audit of a connection asks for them: exact, and in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recorder.core.batch import TEXTS_MAX, Output
from recorder.core.delivered import Delivered
from recorder.core.kernels import Kernels
from recorder.values.config import KernelsConfig
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import NEWS, OPTIONS_CHAIN, TABLES

FEEDS, SYMBOLS = ("a", "b", "asked"), ("AAPL", "MSFT", None, *(f"C{i}" for i in range(300)))
TABLE_OF = {"options": OPTIONS_CHAIN.name, "news": NEWS.name}
Told = tuple[str, str, str | None]  # channel, feed, symbol


def rows(table: str, feeds: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    found = np.zeros(len(feeds), TABLES[table].dtype)
    found["feed"], found["symbol"] = feeds, symbols
    return found


def made() -> tuple[Output, Delivered]:
    out = Output()
    return out, Delivered(out, Kernels(KernelsConfig()))


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(list(TABLE_OF)), st.sampled_from(FEEDS), st.sampled_from(SYMBOLS))),
        max_size=4,
    )
)
def test_rows_are_counted_by_channel_feed_and_symbol_but_not_of_feeds_that_are_asked(
    blocks: list[list[Told]],
) -> None:
    out, delivered = made()
    for feed in FEEDS:
        delivered.declare(feed, feed == "asked")
    expected: Counter[Told] = Counter()
    for block in blocks:
        expected.update(block)
        for channel, table in TABLE_OF.items():
            told = [(feed, symbol) for name, feed, symbol in block if name == channel]
            ids = [(out.texts.id(feed), out.texts.id(symbol)) for feed, symbol in told]
            delivered.add(table, rows(table, *np.array(ids, np.int64).reshape(-1, 2).T))
    for feed in FEEDS:
        keys = [(channel, symbol) for channel in TABLE_OF for symbol in SYMBOLS if symbol is not None]
        counts = {key: expected[key[0], feed, key[1]] for key in keys}
        for channel in TABLE_OF:
            counts[channel, "*"] = sum(n for (name, of, _), n in expected.items() if (name, of) == (channel, feed))
        assert delivered.count(feed, counts) == (dict.fromkeys(counts, 0) if feed == "asked" else counts)


def test_a_million_contracts_take_9_mb_of_a_stream_and_nothing_of_what_is_asked() -> None:
    out, delivered = made()
    delivered.declare("stream", False)
    delivered.declare("asked", True)
    contracts = 1_000_000
    tracemalloc.start()
    try:
        for feed, most in (("asked", 10_000), ("stream", 9_000_000)):
            before, of = tracemalloc.get_traced_memory()[0], np.full(50_000, out.texts.id(feed))
            for first in range(0, contracts, 50_000):
                symbols = np.arange(first, first + 50_000)
                delivered.add(OPTIONS_CHAIN.name, rows(OPTIONS_CHAIN.name, of, symbols))
            del symbols, of
            assert tracemalloc.get_traced_memory()[0] - before < most
    finally:
        tracemalloc.stop()
    assert delivered.count("stream", [("options", "*")]) == {("options", "*"): contracts}
    assert TEXTS_MAX > contracts > TEXT_NULL
