"""IEX's published recordings (HIST): TOPS, DEEP and DEEP+ as IEX-TP carries them. Replayed, not listened to.

IEX TOPS Specification 1.66, IEX DEEP 1.08, IEX-TP 1.25. A frame is one IEX-TP segment: its header and its messages,
little endian. Prices are in 1/10,000, sizes in shares, times in ns since the Unix epoch.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping

from recorder.core.batch import Scope
from recorder.values.errors import ConfigError, FrameError
from recorder.values.feed import Capability, FeedSpec, ProviderInfo
from recorder.values.messages import NAN, TS_AHEAD_MAX, TS_EVENT_MIN
from recorder.values.schedule import NEW_YORK
from recorder.values.schema import TEXT_NULL
from recorder.values.symbols import hashed_id
from recorder.values.tables import CANCELLED, HALTED, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE

INFO = ProviderInfo(name="iex", channels=("trades", "quotes", "statuses"), hosts=("iextrading.com",))

# version, a byte that is reserved, protocol, channel, session, bytes of messages, messages, offset, first number, time
HEADER = struct.Struct("<BxHIIHHqqq")
PROTOCOLS = {0x8002: "tops", 0x8003: "tops", 0x8004: "deep", 0x8005: "deep-plus"}  # 0x8002 is TOPS 1.5
VERSION = 1
SCALE = 10_000.0
NUMBER_MAX = (1 << 62) - 1  # of a message: sums of two fit an int64

# With Nasdaq's suffixes: BAC-B preferred, AAC= units, AAC+ warrants, AAC^ rights, BRK.B a class, X# when issued, …
# The asterisk is also of a called one; alone, that of system events, it is everything.
_SYMBOL = re.compile(r"[A-Z0-9.+^#=*%$@~!-]+")

_LENGTH = struct.Struct("<H")
_QUOTE = struct.Struct("<cBq8sIqqI")  # flags, time, symbol, bid size, bid, ask, ask size
_TRADE = struct.Struct("<cBq8sIqq")  # sale conditions, time, symbol, size, price, trade id
_EXECUTED = struct.Struct("<cBq8sqIqq")  # the same with the order's id before the size
_SYSTEM = struct.Struct("<ccq")
_STATUS = struct.Struct("<ccq8s4s")  # status, time, symbol, reason
_OPERATION = struct.Struct("<ccq8s")
_LEVEL = struct.Struct("<cBq8sIq")  # event flags, time, symbol, size, price

# Known, no rows: official prices, auctions, directories, retail liquidity, short sale tests, security events; orders.
PASSED_OVER = frozenset(b"XADIPEaMRC")
FIRST = 1  # number of a session's first message
COMPLETE = 0x01  # of a price level: with it the book is one that there was
LEVELS_MAX = 1 << 20  # of all books; 9,000 symbols with fifty each are half of it
SALE = ((0x80, "intermarket_sweep"), (0x40, "extended_hours"), (0x20, "odd_lot"), (0x10, "trade_through_exempt"),
        (0x08, "single_price_cross"))  # fmt: skip
NO_PRICE = 0x40 | 0x20  # sales of these conditions set neither last nor high nor low (secondary sources)
QUOTE_HALTED, QUOTE_OUTSIDE = 0x80, 0x40
WITHDRAWN = CANCELLED | NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
STATUS, SYSTEM = 1, 3  # codes of the label `kind` of statuses
STATUSES = {
    "H": "halted everywhere",
    "O": "halt released into order acceptance",
    "P": "paused, orders accepted",
    "T": "trading",
}
EVENTS = {
    "O": "start of messages", "S": "start of system hours", "R": "start of regular hours", "M": "end of regular hours",
    "E": "end of system hours", "C": "end of messages",
}  # fmt: skip
OPERATIONS = {"O": "operationally halted on IEX", "N": "not operationally halted on IEX"}


class Iex:
    """What decodes a recording."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        self.spec = spec

    def capability(self) -> Capability:
        return Capability(
            transport="files",
            channels=INFO.channels,
            loss_detector="sequence",
            scope="connection",
            loss_size_known=True,
            trade_ids="opaque",
            connections_max=1,
            symbols_per_connection_max=1 << 20,
            subscribe_items_max=1,
            sends_per_second_max=1.0,
            connects_per_minute_max=1.0,
            revisions=True,
            session_zone=NEW_YORK,
        )

    def shards(self) -> list[FeedSpec]:
        """Raises ConfigError: there is nothing to connect to."""
        raise ConfigError(
            f"feed {self.spec.name!r}: iex is not recorded but imported; run `recorder replay FILE.pcap.gz`"
        )

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        return _decoder(out)


def _decoder(scope: Scope) -> Callable[[bytes, int], None]:
    """decode(segment, ts_recv)"""
    session, rows = scope.kept("iex session"), _Rows(scope)
    books = _Books(scope, rows, session)
    readers: dict[int, Callable[[bytes, int, int], None]] = {
        ord("Q"): rows.quote, ord("T"): rows.trade, ord("B"): rows.broken, ord("L"): rows.executed,
        ord("H"): rows.status, ord("S"): rows.system, ord("O"): rows.operation,
        ord("8"): books.level, ord("5"): books.level,
    }  # fmt: skip
    length_of = _LENGTH.unpack_from

    def decode(payload: bytes, ts_recv: int) -> None:
        count, first = _header(payload, session, scope)
        newest = first + count - 1
        seen = scope.newest
        if newest + (count == 0) <= seen:
            if count:
                scope.unknown("segment that came before")  # a repetition: what fills a gap is not told from it
            return
        scope.sequence(first, ts_recv, newest=max(seen, first - 1))
        if first > max(seen + 1, FIRST):
            session["lacking"] = 1
        at, end = HEADER.size, len(payload)
        for number in range(first, first + count):
            length = length_of(payload, at)[0] if at + 2 <= end else 0
            start, at = at + 2, at + 2 + length
            if at > end or not length:
                scope.reject(f"message {number} and what follows cannot be told apart", payload[start - 2 :], ts_recv)
                newest = number - 1  # the others are missing
                break
            message = payload[start:at]
            read = readers.get(message[0])
            if read is None or number <= seen:
                if message[0] not in readers and message[0] not in PASSED_OVER:
                    scope.unknown(f"message {message[:1]!r}")
                continue
            try:
                read(message, number, ts_recv)
            except (struct.error, FrameError) as error:
                scope.reject(f"message {number}: {error}", message.hex().encode(), ts_recv)
        scope.sequence(first, ts_recv, newest=max(seen, newest))

    return decode


def _header(payload: bytes, session: dict[str, int], scope: Scope) -> tuple[int, int]:
    """(messages, number of the first; of a heartbeat the next one's). Raises FrameError."""
    if len(payload) < HEADER.size:
        raise FrameError(f"{len(payload)} bytes are no segment of IEX-TP")
    version, protocol, _, session_id, length, count, _, first, _ = HEADER.unpack_from(payload)
    if version != VERSION or protocol not in PROTOCOLS:
        raise FrameError(f"version {version} of protocol {protocol:#06x} is not known")
    if length != len(payload) - HEADER.size or not 0 <= first <= NUMBER_MAX:
        raise FrameError(f"segment of {len(payload)} bytes that announces {length} after its header, from {first} on")
    if session.get("id") != session_id:
        session.clear()
        session["id"] = session_id
        scope.opened()
    return count, first


class _Rows:
    """One method for each message that becomes a row: (message, its number, ts_recv)."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._append_quote = scope, scope.quotes.append
        self._series: dict[bytes, int] = {}
        self._halted = scope.kept("iex halted")  # symbol → 1
        self._sales = [self._sale(flags) for flags in range(256)]
        outside = scope.text("outside_session"), scope.text("not_available,outside_session")
        self._quotes = {0: TEXT_NULL, QUOTE_HALTED: scope.text("not_available"), QUOTE_OUTSIDE: outside[0],
                        QUOTE_HALTED | QUOTE_OUTSIDE: outside[1]}  # fmt: skip

    def _sale(self, flags: int) -> tuple[int, int]:
        """(conditions, flags of the row)"""
        words = ",".join(word for bit, word in SALE if flags & bit)
        return self._scope.text(words or None), NOT_LAST_ELIGIBLE if flags & NO_PRICE else 0

    def of(self, symbol: bytes) -> int:
        number = self._series.get(symbol)
        if number is None:
            name = symbol.decode("ascii", "replace").rstrip(" ")
            if not _SYMBOL.fullmatch(name):
                raise FrameError(f"{symbol!r} is no symbol")
            number = self._series[symbol] = self._scope.series(name)
        return number

    def quote(self, message: bytes, number: int, ts_recv: int) -> None:
        _, flags, ts, symbol, bid_size, bid, ask, ask_size = _QUOTE.unpack_from(message)
        if bid < 0 or ask < 0 or not TS_EVENT_MIN <= ts <= ts_recv + TS_AHEAD_MAX:
            raise FrameError(_misfit(ts, bid, ask))
        series = self._series.get(symbol)
        bid, ask = bid if bid_size else 0, ask if ask_size else 0  # a side without price or without size is none
        self._append_quote(
            ts, ts_recv, self.of(symbol) if series is None else series, number, bid / SCALE or NAN,
            float(bid_size) if bid else NAN, ask / SCALE or NAN, float(ask_size) if ask else NAN, TEXT_NULL, TEXT_NULL,
            self._quotes[flags & 0xC0], 0,
        )  # fmt: skip

    def best(self, ts: int, ts_recv: int, series: int, number: int, best: tuple[int, int, int, int]) -> None:
        """A quote of a book's best (bid, its size, ask, its size); a side that is empty has the price 0."""
        bid, bid_size, ask, ask_size = best
        self._append_quote(
            ts, ts_recv, series, number, bid / SCALE or NAN, float(bid_size) if bid else NAN, ask / SCALE or NAN,
            float(ask_size) if ask else NAN, TEXT_NULL, TEXT_NULL, TEXT_NULL, 0,
        )  # fmt: skip

    def trade(self, message: bytes, number: int, ts_recv: int) -> None:
        _, flags, ts, symbol, size, price, trade_id = _TRADE.unpack_from(message)
        self._print(flags, ts, symbol, size, price, trade_id, ts_recv, 0)

    def executed(self, message: bytes, number: int, ts_recv: int) -> None:
        _, flags, ts, symbol, _, size, price, trade_id = _EXECUTED.unpack_from(message)
        self._print(flags, ts, symbol, size, price, trade_id, ts_recv, 0)

    def broken(self, message: bytes, number: int, ts_recv: int) -> None:
        """Takes the trade with this id back."""
        _, flags, ts, symbol, size, price, trade_id = _TRADE.unpack_from(message)
        self._print(flags, ts, symbol, size, price, trade_id, ts_recv, WITHDRAWN)

    def _print(
        self, flags: int, ts: int, symbol: bytes, size: int, price: int, trade_id: int, ts_recv: int, marks: int
    ) -> None:
        if price <= 0 or trade_id < 0 or not TS_EVENT_MIN <= ts <= ts_recv + TS_AHEAD_MAX:
            raise FrameError(_misfit(ts, price, trade_id))
        series = self.of(symbol)
        conditions, own = self._sales[flags]
        if self._halted and self._scope.out.series.keys[series][1] in self._halted:
            marks |= HALTED
        self._scope.trades.append(
            ts, ts_recv, series, TEXT_NULL, trade_id, TEXT_NULL, price / SCALE, float(size), 0, conditions, TEXT_NULL,
            own | marks,
        )  # fmt: skip

    def status(self, message: bytes, number: int, ts_recv: int) -> None:
        _, code, ts, symbol, reason = _STATUS.unpack_from(message)
        name = self._stored(STATUS, code, ts, symbol, STATUSES, reason, ts_recv)
        if code == b"T":
            self._halted.pop(name, None)
        else:
            self._halted[name] = 1

    def system(self, message: bytes, number: int, ts_recv: int) -> None:
        _, code, ts = _SYSTEM.unpack_from(message)
        self._stored(SYSTEM, code, ts, b"*", EVENTS, b"", ts_recv)

    def operation(self, message: bytes, number: int, ts_recv: int) -> None:
        _, code, ts, symbol = _OPERATION.unpack_from(message)
        self._stored(SYSTEM, code, ts, symbol, OPERATIONS, b"", ts_recv)

    def _stored(
        self, kind: int, code: bytes, ts: int, symbol: bytes, words: Mapping[str, str], reason: bytes, ts_recv: int
    ) -> str:
        """The symbol of the row."""
        if not TS_EVENT_MIN <= ts <= ts_recv + TS_AHEAD_MAX:
            raise FrameError(_misfit(ts))
        letter, statuses, text = code.decode("ascii", "replace"), self._scope.statuses, self._scope.text
        series = self.of(symbol)
        statuses.append(
            ts, ts_recv, series, kind, text(letter), statuses.varchar(words.get(letter)),
            text(reason.decode("ascii", "replace").strip() or None), TEXT_NULL, NAN, NAN, TEXT_NULL,
        )  # fmt: skip
        return self._scope.out.series.keys[series][1]


class _Books:
    """The price levels of DEEP, and a quote whenever the best of a complete book has changed.

    Levels are told by what changes: a book is known only where every message since the session's first one is there.
    """

    def __init__(self, scope: Scope, rows: _Rows, session: dict[str, int]) -> None:
        self._scope, self._rows, self._session = scope, rows, session
        self._levels = scope.kept("iex levels")  # "SPY 8 2700000" → size
        self._bests = scope.kept("iex best")  # symbol → hash of the last quote
        self._books: dict[tuple[bytes, bytes], dict[int, int]] = {}  # the same levels by symbol and side
        self._of_session = -1

    def _book(self, symbol: bytes, side: bytes) -> dict[int, int]:
        return self._books.setdefault((symbol, side), {})

    def _begin(self) -> None:
        """Levels of another session are gone; those of this one that a snapshot holds are there again."""
        self._books.clear()
        if self._session.get("levels") != 1:
            self._session["levels"] = 1
            self._levels.clear()
            self._bests.clear()
        for key, size in self._levels.items():
            name, side, price = key.split(" ")
            self._book(name.encode().ljust(8), side.encode())[int(price)] = size
        self._of_session = self._session["id"]

    def level(self, message: bytes, number: int, ts_recv: int) -> None:
        side, flags, ts, symbol, size, price = _LEVEL.unpack_from(message)
        if price <= 0 or not TS_EVENT_MIN <= ts <= ts_recv + TS_AHEAD_MAX:
            raise FrameError(_misfit(ts, price))
        if self._session.get("lacking"):
            self._scope.unknown("price level of a book that is not whole")
            return
        if self._of_session != self._session["id"] or not self._session.get("levels"):
            self._begin()
        series, name = self._rows.of(symbol), symbol.decode().strip()
        book, key = self._book(symbol, side), f"{name} {side.decode()} {price}"
        if not size:
            book.pop(price, None)
            self._levels.pop(key, None)
        elif len(self._levels) < LEVELS_MAX or key in self._levels:
            book[price] = self._levels[key] = size
        else:
            raise FrameError(f"more than {LEVELS_MAX} price levels")
        if flags & COMPLETE:
            bids, asks = self._book(symbol, b"8"), self._book(symbol, b"5")
            bid, ask = max(bids, default=0), min(asks, default=0)
            best = bid, bids.get(bid, 0), ask, asks.get(ask, 0)
            same = hashed_id(str(best))
            if self._bests.get(name) != same:
                self._bests[name] = same
                self._rows.best(ts, ts_recv, series, number, best)


def _misfit(ts: int, *numbers: int) -> str:
    words = ", ".join(str(number) for number in numbers)
    return f"time {ts} ns{f' or numbers {words}' if words else ''}: not of a day near its receipt, or not above 0"
