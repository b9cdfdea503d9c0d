"""FIX market data → rows: snapshots (W), increments (X), security statuses (f), and the numbers of all messages."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from recorder.core.batch import Scope
from recorder.core.text_time import fix_date_ns, fix_ns, fix_time_ns
from recorder.feeds.fix.book import ASK, BID, Books
from recorder.feeds.fix.numbers import GAP, REPEATED, RESENT, Numbers
from recorder.values.errors import FrameError
from recorder.values.feed import HOUR
from recorder.values.fix import (
    BUSINESS_REJECT,
    DATA_FIELDS,
    INCREMENTAL,
    NEWS,
    REFUSED,
    SECURITY_LIST,
    SESSION_TYPES,
    SNAPSHOT,
    SOH,
    STATUS,
    TRADING_SESSION,
    body_of,
    fields_of,
)
from recorder.values.messages import INF, NAN, TS_AHEAD_MAX, TS_EVENT_MIN, misfit, quoted
from recorder.values.schema import TEXT_NULL
from recorder.values.symbols import hashed_id, text_id
from recorder.values.tables import (
    BACKFILLED,
    BUY,
    CANCELLED,
    CORRECTED,
    NOT_LAST_ELIGIBLE,
    NOT_VOLUME_ELIGIBLE,
    SELL,
)

DAY = 24 * HOUR
NAME_CHARS_MAX = 64
TRADES_OF = b"t"  # how MDReqIDs of ours for trades begin: their snapshots are no books

NEW, CHANGE, DELETE = b"0", b"1", b"2"  # MDUpdateAction (279)
_BID, _OFFER, _TRADE = b"0", b"1", b"2"  # MDEntryType (269)
# Entries that are known and not recorded: index value, open, close, settlement, high, low, VWAP, imbalance, volume,
# open interest.
_BESIDE = frozenset((b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"A", b"B", b"C"))
_SIDES = {b"1": BUY, b"2": SELL}  # AggressorSide (2446), of FIX 5.0; Kraken and Revolut send it in FIX 4.4
_WITHDRAWN = CANCELLED | NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
_SILENT = SESSION_TYPES | {REFUSED, BUSINESS_REJECT, NEWS, SECURITY_LIST, TRADING_SESSION}
_KIND_STATUS = 1  # code of the label ``status``

STATUSES = {  # SecurityTradingStatus (326)
    b"1": "opening delay", b"2": "trading halt", b"3": "resume", b"4": "no open/no resume", b"5": "price indication",
    b"6": "trading range indication", b"7": "market imbalance buy", b"8": "market imbalance sell",
    b"9": "market on close imbalance buy", b"10": "market on close imbalance sell", b"12": "no market imbalance",
    b"13": "no market on close imbalance", b"15": "new price indication", b"17": "ready to trade",
    b"18": "not available for trading", b"20": "unknown or invalid", b"21": "pre-open", b"22": "opening rotation",
    b"23": "fast market",
}  # fmt: skip

Fields = dict[bytes, bytes]


def grouped(body: bytes, first: bytes) -> tuple[Fields, list[Fields]]:
    """(fields before NoMDEntries, the fields of each entry); ``first`` is the tag that begins one.

    Raises FrameError, also when there are more or fewer entries than 268 says.
    """
    pairs: Any = [part.split(b"=", 1) for part in body[:-1].split(SOH)]
    tags = [pair[0] for pair in pairs]
    if not DATA_FIELDS.keys().isdisjoint(tags):  # their values may hold anything
        pairs = fields_of(body)
        tags = [tag for tag, _ in pairs]
    try:
        at = tags.index(b"268")
        starts = [i for i, tag in enumerate(tags) if tag == first and i > at]
        head, count = dict(pairs[:at]), pairs[at][1]
        entries = [dict(pairs[start:stop]) for start, stop in pairwise([*starts, None])]
    except (ValueError, IndexError):
        raise FrameError("no NoMDEntries (268), or something that is no field") from None
    if not count.isdigit() or len(count) > 6 or int(count) != len(entries):
        raise FrameError(f"NoMDEntries 268={count[:10].decode('ascii', 'replace')}, but {len(entries)} entries")
    return head, entries


def number_of(text: bytes | None, what: str) -> float:
    """A decimal number from 0 up. Raises FrameError."""
    if text is None or not text.replace(b".", b"", 1).isdigit():
        raise FrameError(f"{what} is no number: {'' if text is None else text[:30].decode('utf-8', 'replace')!r}")
    return float(text)


def decoder(
    scope: Scope, symbols: dict[str, str], by_id: bool, single: bool
) -> Callable[[bytes, int], None]:  # fmt: skip
    """decode(payload, ts_recv) for one connection.

    symbols  the counterparty's name → canonical
    by_id    instruments are told by SecurityID (48), not by Symbol (55)
    single   one level of the book was asked for
    """
    return _Decoder(scope, symbols, by_id, single).decode


class _Decoder:
    def __init__(self, scope: Scope, symbols: dict[str, str], by_id: bool, single: bool) -> None:
        self._scope, self._symbols = scope, symbols
        self._tags = (b"48", b"55") if by_id else (b"55", b"48")
        self._tops, self._single = scope.tops(), single
        self._books = self._tops.single() if single else Books(*map(scope.kept, ("prices", "sizes", "books")))
        self._numbers = Numbers(scope)
        self._stale = scope.kept("stale")  # names whose book misses increments: no quotes until a snapshot
        self._series: dict[str, int] = {}
        self._names: dict[bytes, str] = {}

    def decode(self, payload: bytes, ts_recv: int) -> None:
        body = body_of(payload)
        kind = body[3 : body.find(SOH)]
        if kind in (SNAPSHOT, INCREMENTAL):
            self._market(kind == SNAPSHOT, *grouped(body, b"269" if kind == SNAPSHOT else b"279"), ts_recv)
            return
        fields: Fields = dict(reversed(fields_of(body)))
        if kind == STATUS:
            self._status(fields, ts_recv)
            return
        if kind not in _SILENT:
            self._scope.unknown(f"message {kind[:8].decode('utf-8', 'replace')}")
        if self._numbers.control(kind, fields, ts_recv):
            self._books.clear_all()
            self._refreshed(list(self._stale))

    def _market(self, snapshot: bool, head: Fields, entries: list[Fields], ts_recv: int) -> None:
        origin, resent = _times(head)
        name = self._named(head)
        seen = self._numbers.follow(head, resent, ts_recv)
        if seen == GAP:
            self._stale.update(dict.fromkeys(self._books.names(), 1))
            self._tops.stale(self._stale, True)
        elif seen == REPEATED:
            return
        live = seen != RESENT
        flags = BACKFILLED if snapshot or not live else 0
        before: dict[str, tuple[float, ...] | None] = {}
        when: dict[str, int] = {}
        conditions: dict[str, bytes] = {}
        if snapshot and live and name is not None and not head.get(b"262", b"").startswith(TRADES_OF):
            if name in self._stale:
                self._refreshed([name])
            before[name], when[name] = None, origin
            if not entries and not any(self._books.best(name)):
                del before[name]
            self._books.clear(name)
        for index, entry in enumerate(entries):
            try:
                name = self._named(entry) or name
                if name is None:
                    raise FrameError("an entry without an instrument")
                kind = entry.get(b"269", b"")
                if kind == _TRADE:
                    self._trade(name, entry, flags, head, origin, index, ts_recv)
                elif kind in (_BID, _OFFER):
                    if live and name not in self._stale:
                        if name not in before:
                            before[name] = self._books.best(name)
                        self._level(name, ASK if kind == _OFFER else BID, entry)
                        when[name] = _event_time(entry, origin)
                        if b"276" in entry:
                            conditions[name] = entry[b"276"]
                elif kind not in _BESIDE:
                    self._scope.unknown(f"entry type {kind[:8].decode('utf-8', 'replace')}")
            except FrameError as error:
                excerpt = b"|".join(b"%s=%s" % pair for pair in entry.items())
                self._scope.reject(str(error), excerpt, ts_recv)
        for each, old in before.items():
            best = self._books.best(each)
            if old is None or not _same(best, old):
                self._quote(each, best, when.get(each, origin), int(head[b"34"]), conditions.get(each), ts_recv)

    def _trade(self, name: str, entry: Fields, flags: int, head: Fields, origin: int, index: int, ts_recv: int) -> None:
        price, size = number_of(entry.get(b"270"), "MDEntryPx (270)"), number_of(entry.get(b"271"), "MDEntrySize (271)")
        ts_event = _event_time(entry, origin)
        if not (0.0 < price < INF and size < INF and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
            raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=size))
        action = entry.get(b"279", NEW)
        if action not in (NEW, CHANGE, DELETE):
            raise FrameError(f"MDUpdateAction (279) is {action[:8].decode('utf-8', 'replace')!r}; known: 0, 1, 2")
        own = entry.get(b"1003") or entry.get(b"278")  # TradeID, of FIX 5.0, which Binance sends; MDEntryID
        if own is not None:
            trade_id, ref = text_id(own.decode("utf-8", "replace"))
        elif b"279" in entry:
            stamp = head.get(b"122", head[b"52"]) if head.get(b"43") == b"Y" else head[b"52"]
            ref = f"{stamp.decode('ascii', 'replace')}/{int(head[b'34'])}/{index}"
            trade_id = hashed_id(ref)
        elif b"273" in entry:  # a snapshot's trade, the same again with every snapshot
            ref = b"/".join(entry.get(tag, b"") for tag in (b"272", b"273", b"270", b"271")).decode("ascii", "replace")
            trade_id = hashed_id(ref)
        else:
            self._scope.unknown("trade in a snapshot without id and time")
            return
        flags |= (0, CORRECTED, _WITHDRAWN)[int(action)]
        trades = self._scope.trades
        venue, sale = entry.get(b"275"), entry.get(b"277")
        exchange = TEXT_NULL if venue is None else self._words("exchange", venue, venue)
        conditions = TEXT_NULL if sale is None else self._words("conditions", sale, sale.replace(b" ", b","))
        trades.append(
            ts_event, ts_recv, self._number(name), exchange, trade_id, trades.varchar(ref), price, size,
            _SIDES.get(entry.get(b"2446", b""), 0), conditions, TEXT_NULL, flags,
        )  # fmt: skip

    def _level(self, name: str, side: int, entry: Fields) -> None:
        """Key: MDEntryID where it is sent, else the price; of a single level there is nothing to tell apart."""
        action, own, price_text = entry.get(b"279", NEW), entry.get(b"278"), entry.get(b"270")
        if action not in (NEW, CHANGE, DELETE):
            raise FrameError(f"MDUpdateAction (279) is {action[:8].decode('utf-8', 'replace')!r}; known: 0, 1, 2")
        price = number_of(price_text, "MDEntryPx (270)") if price_text is not None else 0.0
        if own is not None:
            key = own[:NAME_CHARS_MAX].decode("utf-8", "replace")
        else:
            key = "" if self._single else repr(price)
        known = self._books.get(name, side, key)
        if action == DELETE:
            # Of a single level the entry may have been replaced by another before it is taken away.
            if not self._books.remove(name, side, key) and not self._single:
                self._scope.unknown("an unknown entry was deleted")
            return
        size_text = entry.get(b"271")
        size = number_of(size_text, "MDEntrySize (271)") if size_text is not None else (known or (0.0, NAN))[1]
        price = price if price_text is not None else (known or (0.0, 0.0))[0]
        if not (0.0 < price < INF and not size == INF):
            raise FrameError(f"quote: price {price} and size {size} cannot be")
        if action == CHANGE and known is None and not self._single:
            self._scope.unknown("an unknown entry was changed")
        self._books.put(name, side, key, price, size)

    def _quote(
        self, name: str, best: tuple[float, ...], ts_event: int, number: int, conditions: bytes | None,
        ts_recv: int,
    ) -> None:  # fmt: skip
        bid, bid_size, ask, ask_size = best
        sizes = (None if size != size else size for size in (bid_size, ask_size))
        try:
            values = quoted("quote", ts_event, ts_recv, bid, next(sizes), ask, next(sizes))
        except FrameError as error:
            self._scope.reject(str(error), name.encode(), ts_recv)
            return
        text = TEXT_NULL
        if conditions is not None:
            text = self._words("conditions", conditions, conditions.replace(b" ", b","))
        self._scope.quotes.append(
            ts_event, ts_recv, self._number(name), number, *values, TEXT_NULL, TEXT_NULL, text, 0
        )  # fmt: skip

    def _status(self, fields: Fields, ts_recv: int) -> None:
        origin, resent = _times(fields)
        name, code = self._named(fields), fields.get(b"326")
        if name is None or code is None or len(code) > NAME_CHARS_MAX:
            raise FrameError("a SecurityStatus without an instrument or a SecurityTradingStatus (326)")
        ts_event = fix_ns(fields[b"60"]) if b"60" in fields else origin
        if not TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX:
            raise FrameError(misfit("status", ts_event, ts_recv))
        if self._numbers.follow(fields, resent, ts_recv) == REPEATED:
            return
        statuses, text = self._scope.statuses, self._scope.text
        words = fields[b"58"].decode("utf-8", "replace") if b"58" in fields else STATUSES.get(code)
        statuses.append(
            ts_event, ts_recv, self._number(name), _KIND_STATUS, text(_plain(code)), statuses.varchar(words),
            TEXT_NULL, TEXT_NULL, NAN, NAN, TEXT_NULL,
        )  # fmt: skip

    # Names.

    def _named(self, fields: Fields) -> str | None:
        raw = fields.get(self._tags[0]) or fields.get(self._tags[1])
        if raw is None:
            return None
        name = self._names.get(raw)
        if name is None:
            name = raw.decode("utf-8", "replace")
            if len(name) > NAME_CHARS_MAX or not name.isprintable():
                raise FrameError(f"{name[:NAME_CHARS_MAX]!r} is no instrument")
            self._names[raw] = name
        return name

    def _number(self, name: str) -> int:
        number = self._series.get(name)
        if number is None:
            number = self._series[name] = self._scope.series(self._symbols.get(name, name))
            self._scope.teach("series", name.encode(), number, self._tops.row(name))
        return number

    def _refreshed(self, names: list[str]) -> None:
        """Their books are whole again."""
        for name in names:
            del self._stale[name]
        self._tops.stale(names, False)

    def _words(self, what: str, raw: bytes, text: bytes) -> int:
        """Id of a text that stands in messages as ``raw``."""
        number = self._scope.text(_plain(text))
        self._scope.teach(what, raw, number)
        return number


def _times(head: Fields) -> tuple[int, bool]:
    """(when it was first sent, whether it is sent again). Raises FrameError."""
    if b"52" not in head:
        raise FrameError("no SendingTime (52)")
    sent = fix_ns(head[b"52"])
    resent = head.get(b"43") == b"Y"
    return fix_ns(head[b"122"]) if resent and b"122" in head else sent, resent


def _event_time(entry: Fields, origin: int) -> int:
    """MDEntryDate and MDEntryTime; without a date the day that is nearest to when it was sent; TransactTime; else
    when the message was first sent."""
    time = entry.get(b"273")
    if time is not None:
        day = entry.get(b"272")
        if day is not None:
            return fix_date_ns(day) + fix_time_ns(time)
        ts = origin - origin % DAY + fix_time_ns(time)
        return ts - DAY if ts - origin > DAY // 2 else ts + DAY if origin - ts > DAY // 2 else ts
    return fix_ns(entry[b"60"]) if b"60" in entry else origin


def _same(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Equal, where NaN, a size not sent, is equal to itself."""
    return all(x == y or (x != x and y != y) for x, y in zip(a, b, strict=True))


def _plain(text: bytes) -> str:
    return text.decode("utf-8", "replace")
