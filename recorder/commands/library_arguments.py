"""What callers of the library give, checked before a provider is asked: symbols and times."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any

from recorder.values.errors import ConfigError, SymbolError
from recorder.values.times import LAST_NS, parse_time

When = int | str | date | datetime


def checked_symbol(symbol: Any) -> str:
    """A text that may be a symbol; what the provider makes of it, it says itself. Raises SymbolError."""
    if not isinstance(symbol, str) or not symbol.strip():
        raise SymbolError(f"symbol is {symbol!r}; expected a text such as 'AAPL' or 'BTC-USD'")
    return symbol


def checked_symbols(symbols: Iterable[str]) -> tuple[str, ...]:
    """One symbol, or several; each once. Raises ConfigError, SymbolError."""
    if not isinstance(symbols, Iterable):
        raise ConfigError(f"symbols are {symbols!r}; expected a list such as ['AAPL', 'MSFT']")
    found = (symbols,) if isinstance(symbols, str) else tuple(dict.fromkeys(map(checked_symbol, symbols)))
    if not found:
        raise ConfigError("symbols are an empty list; name one at least")
    return tuple(map(checked_symbol, found))


def checked_range(start: When, end: When) -> tuple[int, int]:
    """ns of both. Raises ConfigError, also when the end comes first."""
    first, last = ns_of(start, "start"), ns_of(end, "end")
    if first > last:
        raise ConfigError(f"start {start} lies after end {end}")
    return first, last


def ns_of(when: When, what: str) -> int:
    """Of a day or moment as text, a date, a datetime (UTC where it says nothing), or ns themselves."""
    if isinstance(when, str):
        return parse_time(when, what)
    if isinstance(when, datetime):
        moment = when if when.tzinfo else when.replace(tzinfo=UTC)
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        parts = getattr(when, "nanosecond", 0)  # of a pandas.Timestamp, whose microseconds are a datetime's
        return _reached((since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1_000 + parts, what)
    if isinstance(when, date):
        return parse_time(when.isoformat(), what)
    if not isinstance(when, bool) and hasattr(when, "__index__"):
        return _reached(operator.index(when), what)
    raise ConfigError(f"{what} is {when!r}; expected a day or moment as text, a date, a datetime, or ns since 1970")


def _reached(ns: int, what: str) -> int:
    if not 0 <= ns <= LAST_NS:
        raise ConfigError(f"{what} is {ns} ns; outside of 1970 to 2262, which is what nanoseconds in 64 bits reach")
    return ns
