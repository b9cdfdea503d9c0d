"""Alpaca's messages → rows."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from recorder.core.batch import Scope
from recorder.core.eligibility import eligibility, unknown_conditions
from recorder.core.text_time import rfc3339_ns
from recorder.feeds.alpaca.messages import (
    PASSED_OVER,
    STRICT,
    Bar,
    Cancel,
    Correction,
    DailyBar,
    Luld,
    Quote,
    Status,
    Success,
    Texts,
    Trade,
    UpdatedBar,
)  # fmt: skip
from recorder.values.errors import FrameError, SymbolError
from recorder.values.feed import HOUR, SECOND
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import hashed_id
from recorder.values.tables import BUY, CANCELLED, CORRECTED, HALTED, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE, SELL

YEAR_2000_NS = 946_684_800 * SECOND
AHEAD_NS_MAX = 24 * HOUR  # past the receive time: clocks differ by seconds, a day is nonsense
KNOWN_PRINTS_MAX = 1 << 16  # combinations of exchange, conditions and tape remembered; some hundred occur
_INF = float("inf")
_NAN = float("nan")
_WITHDRAWN = CANCELLED | NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
_STATUS, _LULD = 1, 2  # codes of the STATUSES.kind label
# CTA letters, then UTP's; none means two things. Q resumes quoting, not trading.
_HALTS, _RESUMES = frozenset({"2", "H", "P"}), frozenset({"3", "T"})

Row = Callable[[Any, int], None]
_unpack_64, _unpack_96 = struct.Struct(">Q").unpack, struct.Struct(">Iq").unpack


def _time(t: Any, ts_recv: int) -> int:
    """RFC 3339, or a MessagePack timestamp (type −1), to ns. Raises FrameError for no plausible time.

    4 bytes: uint32 s; 8 bytes: 30 bits ns, 34 bits s; 12 bytes: uint32 ns, int64 s
    """
    if t.__class__ is str:
        ts = rfc3339_ns(t)
    else:
        data, nanos = t.data, 0
        if t.code != -1:
            raise FrameError(f"time is extension {t.code} of MessagePack, not its timestamp")
        if len(data) == 8:  # nearly all
            (both,) = _unpack_64(data)
            nanos, seconds = both >> 34, both & 0x3_FFFF_FFFF
        elif len(data) == 4:
            seconds = int.from_bytes(data, "big")
        elif len(data) == 12:
            nanos, seconds = _unpack_96(data)
        else:
            raise FrameError(f"time is a MessagePack timestamp of {len(data)} bytes")
        if nanos >= SECOND:
            raise FrameError(f"time has {nanos} nanoseconds")
        ts = seconds * SECOND + nanos
    if not YEAR_2000_NS <= ts <= ts_recv + AHEAD_NS_MAX:
        raise FrameError(f"time {ts} ns is not between the year 2000 and a day from now")
    return ts


class _Series(dict[str, int]):
    """Alpaca's name → series id, found when a name is first seen. Raises FrameError for what is no name."""

    def __init__(self, scope: Scope, canonical: Callable[[str], str]) -> None:
        self._scope, self._canonical = scope, canonical

    def __missing__(self, name: str) -> int:
        try:
            number = self[name] = self._scope.series(self._canonical(name))
        except SymbolError as error:
            raise FrameError(str(error)) from None
        return number


class _Prints(dict[tuple[str | None, Texts, str | None], tuple[int, int, int, int]]):
    """(exchange, conditions, tape) → (exchange id, conditions id, tape id, flags)."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __missing__(self, key: tuple[str | None, Texts, str | None]) -> tuple[int, int, int, int]:
        exchange, conditions, tape = key
        flags = 0
        if conditions:  # crypto has none
            flags = eligibility(conditions, tape)
            for code in unknown_conditions(conditions, tape):
                self._scope.unknown(f"condition {code} on tape {tape}")
        if len(self) >= KNOWN_PRINTS_MAX:
            self.clear()
        text = self._scope.text
        joined = ",".join(conditions) if conditions else None
        result = self[key] = (text(exchange or None), text(joined), text(tape or None), flags)
        return result


def _id(number: int) -> tuple[int, str | None]:
    """(trade_id, trade_ref): stocks' ids are unsigned, and the upper half of them fits no LONG."""
    if 0 <= number < 1 << 63:
        return number, None
    if number < 0:
        raise FrameError(f"trade id {number} is negative")
    return hashed_id(str(number)), str(number)


def rows_of(scope: Scope, canonical: Callable[[str], str]) -> dict[Any, Row]:
    """Type of message → what stores it."""
    series, prints, halted = _Series(scope, canonical), _Prints(scope), set[str]()

    def success(message: Success, ts_recv: int) -> None:
        if message.msg == "connected":
            # What resumed while we were away, nobody tells: a halt outlives no connection.
            halted.clear()

    rows: dict[Any, Row] = {
        Trade: _trade_rows(scope, series, prints, halted),
        Quote: _quote_rows(scope, series, prints),
        Bar: _bar_rows(scope, series, "1m", 0),
        UpdatedBar: _bar_rows(scope, series, "1m", CORRECTED),
        DailyBar: _bar_rows(scope, series, "1d", 0),
        Correction: _correction_rows(scope, series, prints),
        Cancel: _cancel_rows(scope, series, prints),
        Status: _status_rows(scope, series, halted),
        Luld: _luld_rows(scope, series),
    }
    rows |= {STRICT[cls]: row for cls, row in rows.items()}
    return rows | dict.fromkeys(PASSED_OVER, lambda message, ts_recv: None) | {Success: success}


def _trade_rows(scope: Scope, series: _Series, prints: _Prints, halted: set[str]) -> Row:
    append, varchar = scope.trades.append, scope.trades.varchar
    sides = {"B": BUY, "S": SELL}

    def row(message: Trade, ts_recv: int) -> None:
        ts = _time(message.t, ts_recv)
        symbol, price, size, number = message.S, message.p, message.s, message.i
        if not (0.0 < price < _INF and 0.0 <= size < _INF):
            raise FrameError(f"trade of {size} at {price}")
        if number is None:  # not seen in the wild; an id that a replay reproduces keeps such rows apart
            number = hashed_id(f"{symbol} {message.x} {ts} {price} {size}")
        exchange, conditions, tape, flags = prints[message.x, message.c, message.z]
        if symbol in halted:
            flags |= HALTED
        ref = TEXT_NULL
        if not 0 <= number < 1 << 63:
            number, text = _id(number)
            ref = varchar(text)
        side = 0 if message.tks is None else sides.get(message.tks, 0)
        append(ts, ts_recv, series[symbol], exchange, number, ref, price, size, side, conditions, tape, flags)

    return row


def _correction_rows(scope: Scope, series: _Series, prints: _Prints) -> Row:
    withdraw, append, varchar = _withdrawal(scope, series, prints), scope.trades.append, scope.trades.varchar

    def row(message: Correction, ts_recv: int) -> None:
        """The original withdrawn, the corrected print in its place, both at the time of the correction."""
        ts = _time(message.t, ts_recv)
        if not (0.0 < message.cp < _INF and 0.0 <= message.cs < _INF):
            raise FrameError(f"trade corrected to {message.cs} at {message.cp}")
        number, ref = _id(message.ci)
        if message.oi != message.ci:  # under the same id, the corrected row itself says what became of the first
            withdraw(message.oi, message.op, message.os, message.oc, message, ts, ts_recv)
        exchange, conditions, tape, flags = prints[message.x, message.cc, message.z]
        append(
            ts, ts_recv, series[message.S], exchange, number, varchar(ref), message.cp, message.cs, 0, conditions, tape,
            flags | CORRECTED,
        )  # fmt: skip

    return row


def _cancel_rows(scope: Scope, series: _Series, prints: _Prints) -> Row:
    withdraw = _withdrawal(scope, series, prints)

    def row(message: Cancel, ts_recv: int) -> None:
        withdraw(message.i, message.p, message.s, None, message, _time(message.t, ts_recv), ts_recv)

    return row


def _withdrawal(scope: Scope, series: _Series, prints: _Prints) -> Callable[..., None]:
    append, varchar = scope.trades.append, scope.trades.varchar

    def row(number: int, price: float, size: float, codes: Texts, message: Any, ts: int, ts_recv: int) -> None:
        """A row that takes the trade with this id back; the trade itself stays as it was stored."""
        if not (0.0 <= price < _INF and 0.0 <= size < _INF):
            raise FrameError(f"withdrawal of {size} at {price}")
        number, ref = _id(number)
        exchange, conditions, tape, _ = prints[message.x, codes, message.z]
        append(
            ts, ts_recv, series[message.S], exchange, number, varchar(ref), price, size, 0, conditions, tape, _WITHDRAWN
        )

    return row


def _quote_rows(scope: Scope, series: _Series, prints: _Prints) -> Row:
    append, text = scope.quotes.append, scope.text
    joined: dict[Texts, int] = {None: TEXT_NULL, (): TEXT_NULL}

    def row(message: Quote, ts_recv: int) -> None:
        ts = _time(message.t, ts_recv)
        bid, bid_size, ask, ask_size = message.bp, message.bs, message.ap, message.as_
        if not (0.0 < bid < _INF and 0.0 <= bid_size < _INF and 0.0 < ask < _INF and 0.0 <= ask_size < _INF):
            if not all(0.0 <= value < _INF for value in (bid, bid_size, ask, ask_size)):
                raise FrameError(f"quote of {bid_size} at {bid} and {ask_size} at {ask}")
            if not bid:
                bid = bid_size = _NAN
            if not ask:
                ask = ask_size = _NAN
        conditions = joined.get(message.c)
        if conditions is None:
            if len(joined) >= KNOWN_PRINTS_MAX:
                joined.clear()
            conditions = joined[message.c] = text(",".join(message.c)) if message.c else TEXT_NULL
        append(
            ts, ts_recv, series[message.S], LONG_NULL, bid, bid_size, ask, ask_size, text(message.bx or None),
            text(message.ax or None), conditions, 0,
        )  # fmt: skip

    return row


def _bar_rows(scope: Scope, series: _Series, timeframe: str, flags: int) -> Row:
    append, text = scope.bars.append, scope.text

    def row(message: Bar, ts_recv: int) -> None:
        ts = _time(message.t, ts_recv)
        if not all(0.0 <= value < _INF for value in (message.o, message.h, message.l, message.c, message.v)):
            raise FrameError(f"bar {message.o}, {message.h}, {message.l}, {message.c} of {message.v}")
        vwap = message.vw if 0.0 < message.vw < _INF else _NAN
        append(
            ts, ts_recv, series[message.S], text(timeframe), message.o, message.h, message.l, message.c, message.v,
            vwap, message.n, flags,
        )  # fmt: skip

    return row


def _status_rows(scope: Scope, series: _Series, halted: set[str]) -> Row:
    append, text, varchar = scope.statuses.append, scope.text, scope.statuses.varchar

    def row(message: Status, ts_recv: int) -> None:
        append(
            _time(message.t, ts_recv), ts_recv, series[message.S], _STATUS, text(message.sc), varchar(message.sm),
            text(message.rc or None), varchar(message.rm), _NAN, _NAN, text(message.z or None),
        )  # fmt: skip
        if message.sc in _HALTS:
            halted.add(message.S)
        elif message.sc in _RESUMES:
            halted.discard(message.S)

    return row


def _luld_rows(scope: Scope, series: _Series) -> Row:
    append, text = scope.statuses.append, scope.text

    def row(message: Luld, ts_recv: int) -> None:
        if not (0.0 <= message.u < _INF and 0.0 <= message.d < _INF):
            raise FrameError(f"price band from {message.d} to {message.u}")
        append(
            _time(message.t, ts_recv), ts_recv, series[message.S], _LULD, text(message.i), TEXT_NULL, TEXT_NULL,
            TEXT_NULL, message.u, message.d, text(message.z or None),
        )  # fmt: skip

    return row
