"""Massive's messages → rows; the same rows whether a stream or history sends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recorder.core.batch import Scope
from recorder.core.templates import Message, Row, Templates
from recorder.feeds.polygon import messages as m
from recorder.feeds.polygon.conditions import option_flags, stock_flags
from recorder.feeds.polygon.names import received
from recorder.values.errors import FrameError
from recorder.values.messages import INF, LONG_MAX, NAN, TS_AHEAD_MAX, TS_EVENT_MIN, misfit, quoted
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import hashed_id
from recorder.values.tables import BARS, BUY, HALTED, QUOTES, SELL, TRADES

MILLISECOND = 1_000_000
LONG_DIGITS_MAX = 19  # decimal digits of the largest LONG
KNOWN_SALES_MAX = 1 << 16  # combinations of conditions remembered; some hundred occur
UNKNOWN_MAX = 256  # unknown conditions counted one by one, as many as names are counted anyway
TAPES = {1: "A", 2: "B", 3: "C"}
SALE, PLACES = "conditions+flags", "bid_exchange+ask_exchange"  # what templates look up together
_SIDES = {1: SELL, 2: BUY}  # taken for the aggressor's, which is not said (unverified)
_LULD = 2  # code of the STATUSES.kind label
# LULD indicators of Nasdaq-listed symbols; the others say what a band is.
_HALT, _RESUME = 17, 18

# FINRA's trade reporting facilities, each with ids of its own: NYSE's, Nasdaq's in Carteret and in Chicago.
FINRA, FACILITIES = 4, (202, 201, 203)

Store = Callable[[Any, int], None]
Place = int | tuple[int, int] | None  # an exchange, with a facility where it has some


def _printed(exchange: int, facility: int) -> str:
    return f"{exchange}/{facility}"


def unix_ns(t: int) -> int:
    """A time whose unit only its size tells: documented as ms, and sent as ms, µs or ns."""
    return t * MILLISECOND if t < 10**14 else t * 1000 if t < 10**17 else t


def trade_ident(name: str, i: str | int | None, q: int | None, *what: object) -> tuple[int, str | None]:
    """(trade_id, trade_ref). Options have no id: ``q`` is unique to symbol and day.

    what  the rest of the trade, from which an id is made where there is neither
    """
    text = "" if i is None else str(i)
    if text:
        plain = text.isdecimal() and text.isascii() and len(text) <= LONG_DIGITS_MAX and (text[0] != "0" or text == "0")
        return (int(text), None) if plain and int(text) <= LONG_MAX else (hashed_id(text), text)
    return (q, None) if q is not None else (hashed_id(f"{name} {what}"), None)


def place_of(exchange: int | None, facility: int | None) -> Place:
    """Ids are unique by exchange and facility."""
    return (exchange, facility) if exchange and facility else exchange


class _Series(dict[str, int]):
    """Massive's name → series id, found when a name is first seen. Raises FrameError for what is no name."""

    def __init__(self, scope: Scope, cluster: str) -> None:
        self._scope, self._cluster = scope, cluster
        self._halted = scope.kept("halted")

    def __missing__(self, name: str) -> int:
        number = self[name] = self._scope.series(received(self._cluster, name))
        if name not in self._halted:
            self._scope.teach("series", name, number)
        return number


class _Places(dict[Place, int]):
    """Exchange's number → text id; 0 and None: there is none."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __missing__(self, place: Place) -> int:
        if isinstance(place, tuple):
            self[place] = self._scope.text(_printed(*place))
            return self[place]
        number = self[place] = self._scope.text(str(place) if place else None)
        if place:
            for column in ("exchange", "bid_exchange", "ask_exchange"):
                self._scope.teach(column, str(place), number)
            self._scope.teach(PLACES, str(place), number, number)
        return number


class _Sales(dict[tuple[m.Ids, int | None], tuple[int, int, int]]):
    """(conditions, tape's number) → (conditions id, tape id, flags)."""

    def __init__(self, scope: Scope, cluster: str) -> None:
        self._scope = scope
        self._flags = option_flags if cluster == "options" else stock_flags
        self._told: set[int] = set()  # unknown conditions that were counted

    def __missing__(self, key: tuple[m.Ids, int | None]) -> tuple[int, int, int]:
        conditions, number = key
        scope, codes = self._scope, conditions or ()
        tape = None if not number else TAPES.get(number, str(number))
        flags, unknown = self._flags(codes, number)
        for code in unknown:
            if code not in self._told and len(self._told) < UNKNOWN_MAX:
                self._told.add(code)
                scope.unknown(f"condition {code}")
        if len(self) >= KNOWN_SALES_MAX:
            self.clear()
        joined = ",".join(map(str, codes)) or None
        result = self[key] = (scope.text(joined), scope.text(tape), flags)
        if tape is not None:
            scope.teach("tape", str(number), result[1])
        # Templates look up conditions without the tape. What nobody knows is left to the decoder, which counts it.
        anywhere = {self._flags(codes, other)[0] for other in TAPES}
        if joined is not None and not unknown and anywhere == {flags}:
            scope.teach(SALE, joined, result[0], flags)
        return result


class Rows:
    """Appends rows of one connection. Each method raises FrameError for what cannot be.

    always  flags of every row, as history's
    """

    def __init__(self, scope: Scope, cluster: str, always: int = 0) -> None:
        self._scope, self._cluster, self._always = scope, cluster, always
        self.series = _Series(scope, cluster)
        self._places, self._sales = _Places(scope), _Sales(scope, cluster)
        self._halted = scope.kept("halted") if not always else {}
        self._joined: dict[tuple[m.Ids, m.Ids], int] = {}

    def trade(
        self, name: str, ts: int, ts_recv: int, exchange: Place, ident: tuple[int, str | None], price: float,
        size: float, conditions: m.Ids, tape: int | None, flags: int = 0,
    ) -> None:  # fmt: skip
        _check("trade", ts, ts_recv, price, size)
        trades, (number, ref) = self._scope.trades, ident
        series, place = self.series[name], self._places[exchange]
        codes, on_tape, barred = self._sales[conditions, tape]
        if name in self._halted:
            flags |= HALTED
        trades.append(
            ts, ts_recv, series, place, number, trades.varchar(ref), price, size, 0, codes, on_tape,
            flags | barred | self._always,
        )  # fmt: skip

    def coin_trade(
        self, name: str, ts: int, ts_recv: int, exchange: int | None, ident: tuple[int, str | None], price: float,
        size: float, conditions: tuple[int, ...] | int | None,
    ) -> None:  # fmt: skip
        _check("trade", ts, ts_recv, price, size)
        trades, (number, ref) = self._scope.trades, ident
        codes = (conditions,) if isinstance(conditions, int) else conditions or ()
        side = _SIDES.get(codes[0], 0) if len(codes) == 1 else 0
        more = None if len(codes) <= 1 else ",".join(map(str, codes))  # one is a side, and nothing else
        series, place = self.series[name], self._places[exchange]
        trades.append(
            ts, ts_recv, series, place, number, trades.varchar(ref), price, size, side, self._scope.text(more),
            TEXT_NULL, self._always,
        )  # fmt: skip

    def quote(
        self, name: str, ts: int, ts_recv: int, sequence: int | None, bid: tuple[float, float, int | None],
        ask: tuple[float, float, int | None], conditions: m.Ids = None, indicators: m.Ids = None,
    ) -> None:  # fmt: skip
        """``bid`` and ``ask``: price, size, exchange."""
        values = quoted("quote", ts, ts_recv, bid[0], bid[1], ask[0], ask[1])
        codes = self._joined.get((conditions, indicators))
        if codes is None:
            codes = self._codes(conditions, indicators)
        self._scope.quotes.append(
            ts, ts_recv, self.series[name], LONG_NULL if sequence is None else sequence, *values,
            self._places[bid[2]], self._places[ask[2]], codes, self._always,
        )  # fmt: skip

    def _codes(self, conditions: m.Ids, indicators: m.Ids) -> int:
        if len(self._joined) >= KNOWN_SALES_MAX:
            self._joined.clear()
        text = ",".join(map(str, (*(conditions or ()), *(indicators or ()))))
        number = self._joined[conditions, indicators] = self._scope.text(text or None)
        if text:
            self._scope.teach("conditions", text, number)
        return number

    def bar(
        self, name: str, ts: int, ts_recv: int, timeframe: str, prices: tuple[float, float, float, float],
        volume: float, vwap: float, count: int = LONG_NULL,
    ) -> None:  # fmt: skip
        """``prices``: open, high, low, close."""
        if not (all(0.0 <= price < INF for price in prices) and 0.0 <= volume < INF and _timely(ts, ts_recv)):
            named = dict(zip(("open", "high", "low", "close"), prices, strict=True))
            raise FrameError(misfit("bar", ts, ts_recv, **named, volume=volume))
        self._scope.bars.append(
            ts, ts_recv, self.series[name], self._scope.text(timeframe), *prices, volume,
            vwap if 0.0 < vwap < INF else NAN, count, self._always,
        )  # fmt: skip

    def band(self, message: m.Luld, ts_recv: int) -> None:
        ts, codes = unix_ns(message.t), message.i or ()
        if not (0.0 <= message.h < INF and 0.0 <= message.l < INF and _timely(ts, ts_recv)):
            raise FrameError(misfit("price band", ts, ts_recv, upper=message.h, lower=message.l))
        name, tape, text = message.T, TAPES.get(message.z or 0), self._scope.text
        series = self.series[name]
        self._scope.statuses.append(
            ts, ts_recv, series, _LULD, text(",".join(map(str, codes)) or None), TEXT_NULL, TEXT_NULL, TEXT_NULL,
            message.h or NAN, message.l or NAN, text(tape),
        )  # fmt: skip
        if _HALT in codes:
            self._halted[name] = 1
            self._scope.forget("series", name)  # its rows have a flag that templates do not know
        elif _RESUME in codes:
            self._halted.pop(name, None)
            self._scope.teach("series", name, series)

    def fair_value(self, message: m.FairValue, ts_recv: int) -> None:
        ts = unix_ns(message.t)
        if not (0.0 <= message.fmv < INF and _timely(ts, ts_recv)):
            raise FrameError(misfit("fair value", ts, ts_recv, value=message.fmv))
        self._scope.valuations.append(ts, ts_recv, self.series[message.sym], self._scope.text("fmv"), message.fmv)

    def greeted(self, message: m.Status, ts_recv: int) -> None:
        """What resumed while we were away, nobody tells: a halt outlives no connection."""
        if message.status == "connected":
            for name in self._halted:
                self._scope.teach("series", name, self.series[name])
            self._halted.clear()


def _timely(ts: int, ts_recv: int) -> bool:
    return TS_EVENT_MIN <= ts <= ts_recv + TS_AHEAD_MAX


def _check(what: str, ts: int, ts_recv: int, price: float, size: float) -> None:
    if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts <= ts_recv + TS_AHEAD_MAX):
        raise FrameError(misfit(what, ts, ts_recv, price=price, size=size))


def stores(scope: Scope, cluster: str) -> dict[Any, Store]:
    """Type of message → what stores it."""
    rows = Rows(scope, cluster)
    for facility in FACILITIES if cluster == "stocks" else ():
        scope.text(_printed(FINRA, facility))  # templates know them from the start as well

    def trade(t: m.Trade, ts_recv: int) -> None:
        ident = trade_ident(t.sym, t.i, t.q, t.x, t.t, t.p, t.s)
        size = t.s if t.ds is None else t.ds
        rows.trade(t.sym, unix_ns(t.t), ts_recv, place_of(t.x, t.trfi), ident, t.p, size, t.c, t.z)

    def quote(q: m.Quote, ts_recv: int) -> None:
        code = None if q.c is None else (q.c,)
        rows.quote(q.sym, unix_ns(q.t), ts_recv, q.q, (q.bp, q.bs, q.bx), (q.ap, q.as_, q.ax), code, q.i)

    def coin_trade(t: m.CoinTrade, ts_recv: int) -> None:
        ident = trade_ident(t.pair, t.i, None, t.x, t.t, t.p, t.s)
        rows.coin_trade(t.pair, unix_ns(t.t), ts_recv, t.x, ident, t.p, t.s, t.c)

    def coin_quote(q: m.CoinQuote, ts_recv: int) -> None:
        rows.quote(q.pair, unix_ns(q.t), ts_recv, None, (q.bp, q.bs, q.x), (q.ap, q.as_, q.x))

    def bars(timeframe: str) -> Store:
        scope.text(timeframe)  # templates know it from the start as well

        def bar(b: Any, ts_recv: int) -> None:
            name = b.pair if isinstance(b, m.CoinMinute) else b.sym
            volume = b.v if b.dv is None else b.dv
            rows.bar(name, unix_ns(b.s), ts_recv, timeframe, (b.o, b.h, b.l, b.c), volume, b.vw)

        return bar

    found: dict[Any, Store] = {
        m.Trade: trade, m.Quote: quote, m.Second: bars("1s"), m.Minute: bars("1m"), m.Luld: rows.band,
        m.FairValue: rows.fair_value, m.CoinTrade: coin_trade, m.CoinQuote: coin_quote, m.CoinMinute: bars("1m"),
        m.CoinSecond: bars("1s"),
    }  # fmt: skip
    found |= {m.STRICT[cls]: store for cls, store in found.items()}
    return found | dict.fromkeys(m.PASSED_OVER, lambda message, ts_recv: None) | {m.Status: rows.greeted}


_HEAD = '{{"ev":"T","sym":"<series>"'
# In the order of what was captured: in 2026, of an exchange and of a facility, and in 2024.
_SENT = _HEAD + ',"i":"<trade_id>","x":{x},"p":<price>,'
_NEW = _SENT + '"s":<number>,{c}"t":<ts_event:ms>,"pt":<whole>,"q":<whole>,"z":<tape>,{trf}"ds":"<size>"}}'
_OLD = _SENT + '"s":<size>,{c}"t":<ts_event:ms>,"q":<whole>,"z":<tape>}}'
_TRF = '"trfi":{},"trft":<whole>,'
_CODES = f'"c":[<{SALE}>],'
_NBBO = '{{"ev":"Q","sym":"<series>",{codes}'
_BEST = (
    '"bx":<bid_exchange>,"ax":<ask_exchange>,"bp":<bid>,"ap":<ask>,"bs":<bid_size>,"as":<ask_size>,"t":<ts_event:ms>,'
)
_DOCUMENTED_BEST = (  # all but what stands between quote and time
    '{"ev":"Q","sym":"<series>","bx":<bid_exchange>,"bp":<bid>,"bs":<bid_size>,"ax":<ask_exchange>,"ap":<ask>,'
    '"as":<ask_size>,'
)
_BAR = (
    '"v":<{v}>,"av":<number>,"op":<number>,"vw":<vwap>,"o":<open>,"c":<close>,"h":<high>,"l":<low>,"a":<number>,'
    '"z":<number>,"s":<ts_event:ms>,"e":<whole>{dv}}}'
)


def _stock_rows(scope: Scope) -> list[Row]:
    rows = []
    for codes in ("", _CODES):
        rows.append(Row(TRADES, _NEW.format(x="<exchange>", c=codes, trf="")))
        for facility in FACILITIES:
            text = _NEW.format(x=FINRA, c=codes, trf=_TRF.format(facility))
            rows.append(Row(TRADES, text, exchange=scope.text(_printed(FINRA, facility))))
        rows.append(Row(TRADES, _OLD.format(x="<exchange>", c=codes)))
    for codes in ('"i":[<conditions>],', '"c":<conditions>,', ""):
        for participant in ('"pt":<whole>,', ""):
            text = _NBBO.format(codes=codes) + _BEST + participant + '"q":<sequence>,"z":<whole>}'
            rows.append(Row(QUOTES, text))
    rows.append(  # these two as documented
        Row(
            TRADES,
            _HEAD.format() + ',"x":<exchange>,"i":"<trade_id>","z":<tape>,"p":<price>,"s":<size>,'
            f'{_CODES}"t":<ts_event:ms>,"q":<whole>}}',
        )
    )
    rows.append(Row(QUOTES, _DOCUMENTED_BEST + '"c":<conditions>,"t":<ts_event:ms>,"q":<sequence>,"z":<whole>}'))
    return rows


def _option_rows() -> list[Row]:
    """As documented."""
    trade = _HEAD.format() + f',"x":<exchange>,"p":<price>,"s":<size>,{_CODES}"t":<ts_event:ms>,"q":<trade_id>}}'
    quote = (
        '{"ev":"Q","sym":"<series>","bx":<bid_exchange>,"ax":<ask_exchange>,"bp":<bid>,"ap":<ask>,"bs":<bid_size>,'
        '"as":<ask_size>,"t":<ts_event:ms>,"q":<sequence>}'
    )
    return [Row(TRADES, trade), Row(QUOTES, quote)]


def _coin_rows() -> list[Row]:
    """Ids that are numbers only: those of some exchanges are hashed."""
    head = '{"ev":"XT","pair":"<series>","p":<price>,"t":<ts_event:ms>,"s":<size>,"c":[<side:1=sell,2=buy>],"i":'
    tail = ',"x":<exchange>,"r":<whole>}'
    quote = f'"bp":<bid>,"bs":<bid_size>,"ap":<ask>,"as":<ask_size>,"t":<ts_event:ms>,"x":<{PLACES}>,"r":<whole>}}'
    return [
        Row(TRADES, head + '"<trade_id>"' + tail),
        Row(TRADES, head + "<trade_id>" + tail),
        Row(QUOTES, '{"ev":"XQ","pair":"<series>","lp":<number>,"ls":<number>,' + quote),
        Row(QUOTES, '{"ev":"XQ","pair":"<series>",' + quote),
    ]


def templates_of(scope: Scope, cluster: str) -> Templates:
    """Trades, quotes and, of stocks and options, bars."""
    if cluster == "crypto":
        return Templates((Message("[<rows>]", *_coin_rows()),))
    rows = _stock_rows(scope) if cluster == "stocks" else _option_rows()
    for tag, timeframe in (("A", "1s"), ("AM", "1m")):
        head, text = f'{{"ev":"{tag}","sym":"<series>",', scope.text(timeframe)
        rows.append(Row(BARS, head + _BAR.format(v="number", dv=',"dv":"<volume>","dav":"<number>"'), timeframe=text))
        rows.append(Row(BARS, head + _BAR.format(v="volume", dv=""), timeframe=text))
    return Templates((Message("[<rows>]", *rows),))
