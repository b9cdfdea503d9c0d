"""Alpaca's messages → rows."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from recorder.core.batch import Scope
from recorder.core.eligibility import eligibility, option_eligibility, option_unknown, unknown_conditions
from recorder.core.templates import Message, Row, Templates
from recorder.core.text_time import rfc3339_ns
from recorder.feeds.alpaca.messages import (
    PASSED_OVER,
    STRICT,
    Bar,
    Cancel,
    Correction,
    DailyBar,
    Luld,
    News,
    Quote,
    Status,
    Success,
    Texts,
    Trade,
    UpdatedBar,
)  # fmt: skip
from recorder.feeds.alpaca.news import news_rows
from recorder.values.errors import FrameError, SymbolError
from recorder.values.feed import HOUR, SECOND
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import hashed_id
from recorder.values.tables import (
    BACKFILLED,
    BARS,
    BUY,
    CANCELLED,
    CORRECTED,
    HALTED,
    NOT_LAST_ELIGIBLE,
    NOT_VOLUME_ELIGIBLE,
    QUOTES,
    SELL,
    TRADES,
)

YEAR_2000_NS = 946_684_800 * SECOND
AHEAD_NS_MAX = 24 * HOUR  # past the receive time: clocks differ by seconds, a day is nonsense
ALIKE_MAX = 4096  # trades without an id that are remembered: equal ones come together
KNOWN_SALES_MAX = 1 << 16  # combinations of conditions and tape remembered; some hundred occur
_INF = float("inf")
_NAN = float("nan")
_WITHDRAWN = CANCELLED | NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
SALE = "conditions+tape+flags"  # what templates look up for how a sale was made
_STATUS, _LULD = 1, 2  # codes of the STATUSES.kind label
# CTA letters, then UTP's; none means two things. Q resumes quoting, not trading.
_HALTS, _RESUMES = frozenset({"2", "H", "P"}), frozenset({"3", "T"})

Store = Callable[[Any, int], None]
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


Halted = dict[str, int]  # symbol → 1; of these, trades are left to the decoder, which flags them


class _Series(dict[str, int]):
    """Alpaca's name → series id, found when a name is first seen. Raises FrameError for what is no name."""

    def __init__(self, scope: Scope, canonical: Callable[[str], str]) -> None:
        self._scope, self._canonical = scope, canonical
        self._halted = scope.kept("halted")

    def __missing__(self, name: str) -> int:
        try:
            number = self[name] = self._scope.series(self._canonical(name))
        except SymbolError as error:
            raise FrameError(str(error)) from None
        if name not in self._halted:
            self._scope.teach("series", name, number)
        return number


class _Sales(dict[tuple[Texts, str | None], tuple[int, int, int]]):
    """(conditions, tape) → (conditions id, tape id, flags)."""

    def __init__(self, scope: Scope, options: bool = False) -> None:
        self._scope, self.options = scope, options

    def __missing__(self, key: tuple[Texts, str | None]) -> tuple[int, int, int]:
        conditions, tape = codes_of(key[0]), key[1]
        flags = 0
        if conditions and self.options:
            flags = option_eligibility(conditions)
            for code in option_unknown(conditions):
                self._scope.unknown(f"condition {code} of options")
        elif conditions:  # crypto has none
            flags = eligibility(conditions, tape)
            for code in unknown_conditions(conditions, tape):
                self._scope.unknown(f"condition {code} on tape {tape}")
        if len(self) >= KNOWN_SALES_MAX:
            self.clear()
            self._scope.forget_all(SALE)  # so that an unknown condition is counted again with and without templates
        text = self._scope.text
        joined = ",".join(conditions) if conditions else None
        result = self[key] = (text(joined), text(tape or None), flags)
        _teach_span(self._scope, SALE, conditions, tape, *result)
        return result


class _Places(dict[str | None, int]):
    """Exchange's letter → text id. ``columns`` are those of templates that hold one."""

    def __init__(self, scope: Scope, *columns: str) -> None:
        self._scope, self._columns = scope, columns

    def __missing__(self, letter: str | None) -> int:
        number = self[letter] = self._scope.text(letter.strip() or None if letter else None)
        if letter and number != TEXT_NULL:  # a space: nobody quotes on that side
            for column in self._columns:
                self._scope.teach(column, letter, number)
        return number


def codes_of(conditions: Texts) -> tuple[str, ...] | None:
    if isinstance(conditions, str):
        return (conditions,) if conditions.strip() else None
    return conditions


def _teach_span(scope: Scope, name: str, conditions: tuple[str, ...] | None, tape: str | None, *values: int) -> None:
    """Teach how conditions and tape look at the end of a message, in both formats."""
    if conditions is not None and tape is not None:
        scope.teach(name, msgspec.json.encode(conditions) + b',"z":' + msgspec.json.encode(tape), *values)
        scope.teach(name, b"".join(map(msgspec.msgpack.encode, (conditions, "z", tape))), *values)


def _id(number: int) -> tuple[int, str | None]:
    """(trade_id, trade_ref): stocks' ids are unsigned, and the upper half of them fits no LONG."""
    if 0 <= number < 1 << 63:
        return number, None
    if number < 0:
        raise FrameError(f"trade id {number} is negative")
    return hashed_id(str(number)), str(number)


_SPAN = '["…"],"z":"…"'
_BAR = (
    '"S":"<series>","o":<open>,"h":<high>,"l":<low>,"c":<close>,"v":<volume>,"n":<trade_count>,"vw":<vwap>,'
    '"t":"<ts_event:rfc3339>"'
)
_STOCKS = (
    Row(
        TRADES,
        '{"T":"t","S":"<series>","i":<trade_id>,"x":"<exchange>","p":<price>,"s":<size>,'
        f'"c":<{SALE}:{_SPAN}>,"t":"<ts_event:rfc3339>"}}',
    ),
    Row(
        QUOTES,
        '{"T":"q","S":"<series>","bx":"<bid_exchange>","bp":<bid>,"bs":<bid_size>,"ax":"<ask_exchange>","ap":<ask>,'
        f'"as":<ask_size>,"c":<conditions:{_SPAN}>,"t":"<ts_event:rfc3339>"}}',
    ),
    Row(  # this one and the next as documented
        TRADES,
        '{"T":"t","S":"<series>","i":<trade_id>,"x":"<exchange>","p":<price>,"s":<size>,"t":"<ts_event:rfc3339>",'
        f'"c":<{SALE}:{_SPAN}>}}',
    ),
    Row(
        QUOTES,
        '{"T":"q","S":"<series>","bx":"<bid_exchange>","bp":<bid>,"bs":<bid_size>,"ax":"<ask_exchange>","ap":<ask>,'
        f'"as":<ask_size>,"t":"<ts_event:rfc3339>","c":<conditions:{_SPAN}>}}',
    ),
    Row(  # as documented elsewhere
        TRADES,
        '{"T":"t","i":<trade_id>,"S":"<series>","x":"<exchange>","p":<price>,"s":<size>,"t":"<ts_event:rfc3339>",'
        f'"c":<{SALE}:{_SPAN}>}}',
    ),
)
_CRYPTO = (
    Row(
        TRADES,
        '{"T":"t","S":"<series>","p":<price>,"s":<size>,"t":"<ts_event:rfc3339>","i":<trade_id>,'
        '"tks":"<side:B=buy,S=sell>"}',
    ),
    Row(
        QUOTES,
        '{"T":"q","S":"<series>","bp":<bid>,"bs":<bid_size>,"ap":<ask>,"as":<ask_size>,"t":"<ts_event:rfc3339>"}',
    ),
)


def templates_of(scope: Scope, crypto: bool, packed: bool) -> Templates:
    """Trades, quotes and bars in the order of fields of the provider's documentation."""
    bars = (
        Row(BARS, f'{{"T":"b",{_BAR}}}', timeframe=scope.text("1m")),
        Row(BARS, f'{{"T":"u",{_BAR}}}', timeframe=scope.text("1m"), flags=CORRECTED),
        Row(BARS, f'{{"T":"d",{_BAR}}}', timeframe=scope.text("1d")),
    )
    return Templates((Message("[<rows>]", *(_CRYPTO if crypto else _STOCKS), *bars),), packed)


def rows_of(scope: Scope, canonical: Callable[[str], str], options: bool = False) -> dict[Any, Store]:
    """Type of message → what stores it."""
    series, sales, halted = _Series(scope, canonical), _Sales(scope, options), scope.kept("halted")
    places = _Places(scope, "exchange", "bid_exchange", "ask_exchange")

    def success(message: Success, ts_recv: int) -> None:
        if message.msg == "connected":
            # What resumed while we were away, nobody tells: a halt outlives no connection.
            for symbol in halted:
                scope.teach("series", symbol, series[symbol])
            halted.clear()

    rows: dict[Any, Store] = {
        Trade: _trade_rows(scope, series, places, sales, halted, scope.kept("alike") if options else None),
        Quote: _quote_rows(scope, series, places),
        Bar: _bar_rows(scope, series, "1m", 0),
        UpdatedBar: _bar_rows(scope, series, "1m", CORRECTED),
        DailyBar: _bar_rows(scope, series, "1d", 0),
        Correction: _correction_rows(scope, series, places, sales),
        Cancel: _cancel_rows(scope, series, places, sales),
        Status: _status_rows(scope, series, halted),
        Luld: _luld_rows(scope, series),
        News: news_rows(scope, _time),
    }
    rows |= {STRICT[cls]: row for cls, row in rows.items()}
    return rows | dict.fromkeys(PASSED_OVER, lambda message, ts_recv: None) | {Success: success}


def past_rows(scope: Scope, channel: str, series: Mapping[str, int], alike: dict[str, int] | None = None) -> Store:
    """What stores trades or quotes of history: the same rows as the stream's, flagged. Of halts it knows nothing.

    alike  of options: how often trades of one instant, price and size have come
    """
    if channel == "quotes":
        return _quote_rows(scope, series, _Places(scope, "bid_exchange", "ask_exchange"), BACKFILLED)
    places, sales = _Places(scope, "exchange"), _Sales(scope, alike is not None)
    row = _trade_rows(scope, series, places, sales, {}, alike, BACKFILLED)
    corrected = _trade_rows(scope, series, places, sales, {}, alike, BACKFILLED | CORRECTED)
    return lambda trade, ts_recv: (corrected if trade.u == "corrected" else row)(trade, ts_recv)


def _trade_rows(
    scope: Scope, series: Mapping[str, int], places: _Places, sales: _Sales, halted: Halted,
    alike: dict[str, int] | None, always: int = 0,
) -> Store:  # fmt: skip
    """``always``: flags of every row."""
    append, varchar, sides = scope.trades.append, scope.trades.varchar, {"B": BUY, "S": SELL}

    def row(message: Trade, ts_recv: int) -> None:
        ts = _time(message.t, ts_recv)
        symbol, price, size, number = message.S, message.p, message.s, message.i
        if not (0.0 < price < _INF and 0.0 <= size < _INF):
            raise FrameError(f"trade of {size} at {price}")
        if number is None:  # options have none; an id that a replay reproduces keeps such rows apart
            same = f"{symbol} {message.x} {ts} {price} {size}"
            number = hashed_id(same if alike is None else _again(alike, same))
        exchange, (conditions, tape, flags) = places[message.x], sales[message.c, message.z]
        flags |= always
        if symbol in halted:
            flags |= HALTED
        ref = TEXT_NULL
        if not 0 <= number < 1 << 63:
            number, text = _id(number)
            ref = varchar(text)
        side = 0 if message.tks is None else sides.get(message.tks, 0)
        append(ts, ts_recv, series[symbol], exchange, number, ref, price, size, side, conditions, tape, flags)

    return row


def _again(alike: dict[str, int], same: str) -> str:
    """The same with which of several it is: two prints of one instant, price and size are two."""
    number = alike[same] = alike.get(same, 0) + 1
    if len(alike) > ALIKE_MAX:
        alike.clear()
    return f"{same} {number}" if number > 1 else same


def _correction_rows(scope: Scope, series: _Series, places: _Places, sales: _Sales) -> Store:
    withdraw, append, varchar = _withdrawal(scope, series, places, sales), scope.trades.append, scope.trades.varchar

    def row(message: Correction, ts_recv: int) -> None:
        """The original withdrawn, then at once the corrected print, which the pipeline puts in the original's place."""
        ts = _time(message.t, ts_recv)
        if not (0.0 < message.cp < _INF and 0.0 <= message.cs < _INF):
            raise FrameError(f"trade corrected to {message.cs} at {message.cp}")
        number, ref = _id(message.ci)
        withdraw(message.oi, message.op, message.os, message.oc, message, ts, ts_recv)
        exchange, (conditions, tape, flags) = places[message.x], sales[message.cc, message.z]
        append(
            ts, ts_recv, series[message.S], exchange, number, varchar(ref), message.cp, message.cs, 0, conditions, tape,
            flags | CORRECTED,
        )  # fmt: skip

    return row


def _cancel_rows(scope: Scope, series: _Series, places: _Places, sales: _Sales) -> Store:
    withdraw = _withdrawal(scope, series, places, sales)

    def row(message: Cancel, ts_recv: int) -> None:
        withdraw(message.i, message.p, message.s, None, message, _time(message.t, ts_recv), ts_recv)

    return row


def _withdrawal(scope: Scope, series: _Series, places: _Places, sales: _Sales) -> Callable[..., None]:
    append, varchar = scope.trades.append, scope.trades.varchar

    def row(number: int, price: float, size: float, codes: Texts, message: Any, ts: int, ts_recv: int) -> None:
        """A row that takes the trade with this id back: the pipeline flags the trade, which else stays as it was."""
        if not (0.0 <= price < _INF and 0.0 <= size < _INF):
            raise FrameError(f"withdrawal of {size} at {price}")
        number, ref = _id(number)
        exchange, (conditions, tape, _) = places[message.x], sales[codes, message.z]
        append(
            ts, ts_recv, series[message.S], exchange, number, varchar(ref), price, size, 0, conditions, tape, _WITHDRAWN
        )

    return row


def _quote_rows(scope: Scope, series: Mapping[str, int], places: _Places, flags: int = 0) -> Store:
    append, text = scope.quotes.append, scope.text
    joined: dict[tuple[Texts, str | None], int] = {}

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
        conditions = joined.get((message.c, message.z))
        if conditions is None:
            if len(joined) >= KNOWN_SALES_MAX:
                joined.clear()
            codes = codes_of(message.c)
            conditions = text(",".join(codes)) if codes else TEXT_NULL
            joined[message.c, message.z] = conditions
            _teach_span(scope, "conditions", codes, message.z, conditions)
        append(
            ts, ts_recv, series[message.S], LONG_NULL, bid, bid_size, ask, ask_size, places[message.bx or message.x],
            places[message.ax or message.x], conditions, flags,
        )  # fmt: skip

    return row


def _bar_rows(scope: Scope, series: _Series, timeframe: str, flags: int) -> Store:
    append, number = scope.bars.append, scope.text(timeframe)

    def row(message: Bar, ts_recv: int) -> None:
        ts = _time(message.t, ts_recv)
        if not all(0.0 <= value < _INF for value in (message.o, message.h, message.l, message.c, message.v)):
            raise FrameError(f"bar {message.o}, {message.h}, {message.l}, {message.c} of {message.v}")
        vwap = message.vw if 0.0 < message.vw < _INF else _NAN
        append(
            ts, ts_recv, series[message.S], number, message.o, message.h, message.l, message.c, message.v,
            vwap, message.n, flags,
        )  # fmt: skip

    return row


def _status_rows(scope: Scope, series: _Series, halted: Halted) -> Store:
    append, text, varchar = scope.statuses.append, scope.text, scope.statuses.varchar

    def row(message: Status, ts_recv: int) -> None:
        append(
            _time(message.t, ts_recv), ts_recv, series[message.S], _STATUS, text(message.sc), varchar(message.sm),
            text(message.rc or None), varchar(message.rm), _NAN, _NAN, text(message.z or None),
        )  # fmt: skip
        if message.sc in _HALTS:
            halted[message.S] = 1
            scope.forget("series", message.S)  # its rows have a flag that templates do not know
        elif message.sc in _RESUMES:
            halted.pop(message.S, None)
            scope.teach("series", message.S, series[message.S])

    return row


def _luld_rows(scope: Scope, series: _Series) -> Store:
    append, text = scope.statuses.append, scope.text

    def row(message: Luld, ts_recv: int) -> None:
        if not (0.0 <= message.u < _INF and 0.0 <= message.d < _INF):
            raise FrameError(f"price band from {message.d} to {message.u}")
        append(
            _time(message.t, ts_recv), ts_recv, series[message.S], _LULD, text(message.i), TEXT_NULL, TEXT_NULL,
            TEXT_NULL, message.u or _NAN, message.d or _NAN, text(message.z or None),
        )  # fmt: skip

    return row
