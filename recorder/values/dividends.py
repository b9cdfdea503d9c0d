"""Dividends that option prices expect, as ``config.toml`` writes them.

``SPY 0.012, AAPL 2026-02-06 0.26, AAPL 2026-05-08 0.27``: a symbol and a continuous yield a year, or a symbol, an
ex-date and an amount. A symbol may have both, and any number of dates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

from recorder.values.errors import ConfigError, SymbolError
from recorder.values.occ import expires_ns
from recorder.values.symbols import ticker

YIELD_MAX = 1.0  # a year: more is a percentage written without its point
AMOUNT_MAX = 10_000.0


@dataclass(frozen=True)
class Dividends:
    """What one underlying pays: ``paid`` are (09:30 New York of the ex-date in ns, amount), oldest first."""

    annual_yield: float = 0.0
    paid: tuple[tuple[int, float], ...] = ()


NO_DIVIDENDS = Dividends()


def parse_dividends(text: str) -> dict[str, Dividends]:
    """Symbol → its dividends. Raises ConfigError naming the entry that does not fit."""
    found: dict[str, Dividends] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        parts = entry.split()
        try:
            symbol, number = ticker(parts[0]), float(parts[-1])
            day = date.fromisoformat(parts[1]) if len(parts) == 3 else None
            if len(parts) not in (2, 3) or not math.isfinite(number):
                raise ValueError("it has other parts")
            known = found.get(symbol, NO_DIVIDENDS)
            if day is None:
                if not 0.0 <= number <= YIELD_MAX:
                    raise ValueError(f"a yield is a fraction from 0 to {YIELD_MAX:g}")
                found[symbol] = Dividends(number, known.paid)
            else:
                if not 0.0 < number <= AMOUNT_MAX:
                    raise ValueError(f"an amount is above 0, up to {AMOUNT_MAX:g}")
                paid = tuple(sorted((*known.paid, (expires_ns(day, at_open=True), number))))
                found[symbol] = Dividends(known.annual_yield, paid)
        except (ValueError, SymbolError) as error:
            raise ConfigError(
                f'dividend {entry[:60]!r} does not fit: {error}; expected "SPY 0.012" or "AAPL 2026-02-06 0.26"'
            ) from None
    return found
