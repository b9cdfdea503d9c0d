"""Bybit's option contracts: their names and tickers.

https://bybit-exchange.github.io/docs/v5/websocket/public/ticker
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct

from recorder.core.batch import Scope
from recorder.values.errors import FrameError
from recorder.values.feed import SECOND
from recorder.values.messages import NAN, Sent, decimal, known, quoted
from recorder.values.tables import CALL, PUT

EXPIRY_HOUR = 8  # UTC, of everything that expires
_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_MONTHS = {name: i + 1 for i, name in enumerate(_NAMES)}
_CONTRACT = re.compile(r"([A-Z0-9]+)-(\d{1,2})([A-Z]{3})(\d\d)-(\d+(?:\.\d+)?)-([CP])(?:-[A-Z0-9]+)?")

Contract = tuple[str, int, float, int]


class OptionTicker(Struct, gc=False):
    """tickers of options, always whole. {"symbol":"BTC-6JAN23-17500-C","bidPrice":"0","bidSize":"0","bidIv":"0",
    "askPrice":"10","askSize":"5.1","askIv":"0.514","lastPrice":"10","markPrice":"7.86976724","markPriceIv":"0.4896",
    "underlyingPrice":"16815.1","openInterest":"49.85","volume24h":"26.55","delta":"0.047831","gamma":"0.00021453",
    "vega":"0.81351067","theta":"-19.9115368", …}

    Prices are in the currency of settlement, volatilities fractions.
    """

    symbol: str
    bidPrice: Sent = ""
    bidSize: Sent | None = None
    askPrice: Sent = ""
    askSize: Sent | None = None
    lastPrice: Sent = ""
    markPriceIv: Sent = ""
    underlyingPrice: Sent = ""
    openInterest: Sent = ""
    volume24h: Sent = ""
    delta: Sent = ""
    gamma: Sent = ""
    vega: Sent = ""
    theta: Sent = ""


def contract_of(name: str) -> Contract | None:
    """(underlying, expiration in ns, strike, CALL or PUT) of an option's name; None for everything else.

    ``BTC-6JAN23-17500-C``: BTC, 2023-01-06 08:00 UTC, 17500; behind it may stand what it is settled in: ``-USDT``.
    """
    found = _CONTRACT.fullmatch(name)
    if found is None or found[3] not in _MONTHS:
        return None
    try:
        expiry = datetime(2000 + int(found[4]), _MONTHS[found[3]], int(found[2]), EXPIRY_HOUR, tzinfo=UTC)
    except ValueError:
        return None
    return found[1], int(expiry.timestamp()) * SECOND, float(found[5]), CALL if found[6] == "C" else PUT


def ticker_rows(scope: Scope) -> Callable[[OptionTicker, int, int], None]:
    """add(ticker, ts_event, ts_recv): one row. Raises FrameError."""
    contracts: dict[str, Contract | None] = {}
    provider = scope.text("provider")

    def size(text: Sent | None) -> float | None:
        return None if text is None else decimal(text, "tickers")

    def add(item: OptionTicker, ts_event: int, ts_recv: int) -> None:
        if item.symbol not in contracts:
            contracts[item.symbol] = contract_of(item.symbol)
        contract = contracts[item.symbol]
        if contract is None:
            raise FrameError(f"{item.symbol[:60]!r} is no option of Bybit")
        values = quoted(
            "tickers", ts_event, ts_recv, decimal(item.bidPrice, "tickers"), size(item.bidSize),
            decimal(item.askPrice, "tickers"), size(item.askSize),
        )  # fmt: skip
        underlying, expiration, strike, kind = contract
        scope.options.append(
            ts_event, ts_recv, scope.feed_id, scope.text(item.symbol), scope.text(underlying), expiration, strike, kind,
            *values, known(item.lastPrice, "tickers") or NAN, known(item.volume24h, "tickers"),
            known(item.openInterest, "tickers"), known(item.markPriceIv, "tickers") or NAN,
            known(item.delta, "tickers"), known(item.gamma, "tickers"), known(item.theta, "tickers"),
            known(item.vega, "tickers"), NAN, provider, known(item.underlyingPrice, "tickers") or NAN, 0,
        )  # fmt: skip

    return add
