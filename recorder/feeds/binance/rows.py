"""Binance's messages → rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recorder.core.batch import Scope
from recorder.feeds.binance.messages import (
    LENIENT_EVENT,
    LENIENT_QUOTE,
    MALFORMED,
    PASSED_OVER,
    STRICT_EVENT,
    STRICT_QUOTE,
    AggTrade,
    BookTicker,
    Kline,
    StrictAggTrade,
    StrictBookTicker,
    StrictKline,
    StrictTrade,
    Trade,
    explain,
)  # fmt: skip
from recorder.values.errors import FrameError, SymbolError
from recorder.values.feed import HOUR, SECOND
from recorder.values.schema import TEXT_NULL
from recorder.values.symbols import BinanceMarket, binance_canonical, binance_name
from recorder.values.tables import BUY, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE, SELL

YEAR_2000_NS = 946_684_800 * SECOND
AHEAD_NS_MAX = 24 * HOUR  # past the receive time: clocks differ by seconds, a day is nonsense
MICROSECONDS_FROM = 100_000_000_000_000  # in ms the year 5138, in µs 1973: timeUnit=MICROSECOND is told by magnitude
QUOTATION_MARK = ord('"')
INF = float("inf")
NAN = float("nan")

Store = Callable[[Any, int], None]


def decoder(out: Scope, market: BinanceMarket) -> Callable[[bytes, int], None]:
    """decode(payload, ts_recv) for combined and raw frames of one market.

    Strict about fields until the first unknown one was counted, then lenient: a provider that adds a field costs
    one slow frame, not every one.
    """
    series = Series(out, market)
    rows: dict[type, Store] = dict.fromkeys(PASSED_OVER, lambda message, ts_recv: None)
    rows[Trade] = rows[AggTrade] = rows[StrictTrade] = rows[StrictAggTrade] = trade_rows(out, series)
    rows[BookTicker] = rows[StrictBookTicker] = _quote_rows(out, series)
    rows[Kline] = rows[StrictKline] = _bar_rows(out, series, market)
    read_event, read_quote = STRICT_EVENT, STRICT_QUOTE

    def decode(payload: bytes, ts_recv: int) -> None:
        try:
            # Only spot's bookTicker names no event, and alone ends in a text: to look at a byte takes 20 ns, to
            # search for "e" takes 100. Frames for which this guesses wrong get a second look.
            message = (read_quote if payload[-3] == QUOTATION_MARK else read_event)(payload).data
        except MALFORMED:
            second_look(payload, ts_recv)
        else:
            rows[message.__class__](message, ts_recv)

    def second_look(payload: bytes, ts_recv: int) -> None:
        nonlocal read_event, read_quote
        message, unknown = explain(payload)
        for what in unknown:
            out.unknown(what)
        if message is not None:
            if unknown:
                read_event, read_quote = LENIENT_EVENT, LENIENT_QUOTE
            rows[message.__class__](message, ts_recv)

    return decode


class Series(dict[str, int]):
    """Binance's name → series id, found when a name is first seen. Raises FrameError for what is no name."""

    def __init__(self, scope: Scope, market: BinanceMarket) -> None:
        self._scope, self._market = scope, market

    def __missing__(self, name: str) -> int:
        try:
            plain = binance_name(name, self._market) == name
        except SymbolError:
            plain = False
        if not plain:
            raise FrameError(f"symbol {name[:80]!r} is not a Binance name")
        number = self[name] = self._scope.series(binance_canonical(name, self._market))
        self._scope.teach("series", name, number)
        return number


def ns_of(ts: int) -> int:
    """Milli- or microseconds → ns."""
    return ts * 1_000_000 if ts < MICROSECONDS_FROM else ts * 1_000


def time_ns(ts: int, ts_recv: int) -> int:
    """Milli- or microseconds → ns. Raises FrameError for no plausible time."""
    result = ns_of(ts)
    if not YEAR_2000_NS <= result <= ts_recv + AHEAD_NS_MAX:
        raise FrameError(f"time {ts} is neither milli- nor microseconds between the year 2000 and a day from now")
    return result


def trade_rows(scope: Scope, series: Series) -> Store:
    append, text = scope.trades.append, scope.text

    def row(message: Trade, ts_recv: int) -> None:
        ts = message.T * 1_000_000  # and not time_ns(): a call costs 60 ns, a twentieth of the frame
        if not YEAR_2000_NS <= ts <= ts_recv + AHEAD_NS_MAX:
            ts = time_ns(message.T, ts_recv)
        flags, conditions = 0, TEXT_NULL
        if message.X != "MARKET":
            # A liquidation taken over by the insurance fund, or ADL, at the bankruptcy price: nobody traded there. The
            # provider leaves both out of aggTrade; they set no price and, at such a price, may not weigh in a VWAP.
            flags, conditions = NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE, text(message.X)
        price, size = message.p, message.q
        if not (0.0 < price < INF and 0.0 <= size < INF) and not (flags and price == 0.0 and 0.0 <= size < INF):
            raise FrameError(f"trade of {size} at {price}")  # at 0 only where X says that nothing was traded
        append(
            ts, ts_recv, series[message.s], TEXT_NULL, message.t, TEXT_NULL, price, size, SELL if message.m else BUY,
            conditions, TEXT_NULL, flags,
        )  # fmt: skip

    return row


def _quote_rows(scope: Scope, series: Series) -> Store:
    append = scope.quotes.append

    def row(message: BookTicker, ts_recv: int) -> None:
        ts = time_ns(message.T, ts_recv) if message.T else ts_recv
        bid, bid_size, ask, ask_size = message.b, message.B, message.a, message.A
        if not (0.0 < bid < INF and 0.0 <= bid_size < INF and 0.0 < ask < INF and 0.0 <= ask_size < INF):
            if not all(0.0 <= value < INF for value in (bid, bid_size, ask, ask_size)):
                raise FrameError(f"quote of {bid_size} at {bid} and {ask_size} at {ask}")
            if not bid:  # an empty side is sent as zeros
                bid = bid_size = NAN
            if not ask:
                ask = ask_size = NAN
        append(
            ts, ts_recv, series[message.s], message.u, bid, bid_size, ask, ask_size, TEXT_NULL, TEXT_NULL, TEXT_NULL, 0
        )

    return row


def _bar_rows(scope: Scope, series: Series, market: BinanceMarket) -> Store:
    append, text = scope.bars.append, scope.text

    def row(message: Kline, ts_recv: int) -> None:
        bar = message.k
        if not bar.x:
            return
        ts = time_ns(bar.t, ts_recv)
        if not all(0.0 <= value < INF for value in (bar.o, bar.h, bar.l, bar.c, bar.v)) or bar.q < 0.0:
            raise FrameError(f"bar {bar.o}, {bar.h}, {bar.l}, {bar.c} of {bar.v}")
        # COIN-M counts v in contracts and q in coins: their quotient is no price.
        vwap = bar.q / bar.v if bar.v > 0.0 and market != "coinm" else NAN
        append(
            ts, ts_recv, series[message.s], text(bar.i), bar.o, bar.h, bar.l, bar.c, bar.v,
            vwap if vwap < INF else NAN, bar.n, 0,
        )  # fmt: skip

    return row
