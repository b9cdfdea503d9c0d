"""What becomes of E*TRADE's answers: rows of quotes, of what volumes tell of trades, and of option chains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import date

import msgspec

from recorder.core.batch import Scope
from recorder.feeds.etrade.messages import (
    All,
    Details,
    Extended,
    Greeks,
    Message,
    OptionChainResponse,
    Pair,
    QuoteData,
    QuoteResponse,
    items,
    read,
    readers,
    taken,
)
from recorder.values import occ
from recorder.values.errors import FrameError, SymbolError
from recorder.values.feed import MINUTE, SECOND
from recorder.values.messages import INF, LONG_MAX, NAN, TS_AHEAD_MAX, TS_EVENT_MIN, UNREADABLE, misfit, quoted
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import hashed_id, ticker
from recorder.values.tables import CALL, NOT_LAST_ELIGIBLE, PUT

SNAPSHOT_NS_MAX = 5 * MINUTE  # longer ago than that, a growth of the day's volume is no trade of now
PRICE_MAX, MICROS = 1e9, 1_000_000  # of a price as decoders keep it between two answers
MESSAGES_MAX = 1000  # different ones that are told once each
SIDES = {"CALL": CALL, "PUT": PUT}


def _symbol(data: QuoteData) -> str:
    """As rows carry it. Raises FrameError."""
    product, key = data.Product, data.All.osiKey.strip() if data.All else ""
    try:
        if product.securityType != "OPTN":
            return ticker(product.symbol)
        if key:
            return occ.parse(key).symbol
        day = date(product.expiryYear, product.expiryMonth, product.expiryDay)
        return occ.contract(ticker(product.symbol), day, SIDES[product.callPut], product.strikePrice).symbol
    except (SymbolError, ValueError, KeyError) as error:
        raise FrameError(f"product: {error}") from None


def decoder(scope: Scope, channels: frozenset[str]) -> Callable[[str, bytes, int], None]:
    """decode(key, body, ts_recv): the rows of one answer."""
    snapshots, contracts = _Quotes(scope, channels), _Chains(scope)

    def decode(key: str, body: bytes, ts_recv: int) -> None:
        answer = taken(read(body))
        kind, _, name = key.partition(" ")
        if answer.OptionExpireDateResponse is not None:
            contracts.begin(name)
        elif answer.QuoteResponse is not None and kind == "chain":
            contracts.quoted(name, answer.QuoteResponse)
        elif answer.QuoteResponse is not None:
            snapshots.answer(answer.QuoteResponse, ts_recv)
        elif answer.OptionChainResponse is not None:
            contracts.answer(name, answer.OptionChainResponse, ts_recv)
        elif body.strip():
            raise FrameError(f"{key}: neither quotes nor options nor an error")

    return decode


class _Quotes:
    """Rows of quotes; and of trades what a growing volume of the day tells of them.

    E*TRADE sends no trades. Between two answers the volume grows by what traded meanwhile, however often; that much, at
    the last price, is one row with the condition ``synthetic`` and the volume of the day as its trade_id. It is a
    snapshot, not a print.
    """

    def __init__(self, scope: Scope, channels: frozenset[str]) -> None:
        self._scope, self._channels = scope, channels
        self._quoted = scope.kept("etrade quoted")  # symbol → hash of its last quote
        self._volumes = scope.kept("etrade volumes")  # symbol → of the day
        self._times = scope.kept("etrade times")  # symbol → when that was received
        self._told = scope.kept("etrade told")  # messages that were told

    def answer(self, response: QuoteResponse, ts_recv: int) -> None:
        for raw in items(response.QuoteData):
            try:
                self._one(readers[QuoteData](raw), ts_recv)
            except (*UNREADABLE, FrameError) as error:
                self._scope.reject(str(error), bytes(raw), ts_recv)
        for raw in items(response.Messages.Message) if response.Messages else []:
            try:
                message = readers[Message](raw)
                words = f"E*TRADE: {message.description} ({message.code})"
            except UNREADABLE as error:
                words = f"message: {error}"
            if words not in self._told and len(self._told) < MESSAGES_MAX:  # it comes with every answer
                self._told[words] = ts_recv
                self._scope.reject(words, bytes(raw), ts_recv)

    def _one(self, data: QuoteData, ts_recv: int) -> None:
        if data.All is None:
            self._scope.unknown(f"quote of {data.Product.securityType or 'nothing'}")
            return
        symbol, details = _symbol(data), data.All
        extended = details.ExtendedHourQuoteDetail or details.EhQuote
        status = (extended.quoteStatus if extended else "") or data.quoteStatus
        if "quotes" in self._channels:
            self._quote(symbol, data.dateTimeUTC * SECOND, extended or details, details, status, ts_recv)
        if "trades" in self._channels:
            price, time_s = details.lastTrade, details.timeOfLastTrade
            if extended:
                price, time_s = extended.lastPrice, extended.timeOfLastTrade
            ts_event = (time_s if 0 < time_s <= data.dateTimeUTC else data.dateTimeUTC) * SECOND
            self._trade(symbol, ts_event, price, details, status, ts_recv)

    def _quote(
        self, symbol: str, ts_event: int, prices: All | Extended, details: All, status: str, ts_recv: int
    ) -> None:
        bid, bid_size, ask, ask_size = quoted(
            "quote", ts_event, ts_recv, prices.bid, prices.bidSize, prices.ask, prices.askSize
        )
        same = hashed_id(f"{bid} {bid_size} {ask} {ask_size} {status}")
        if self._quoted.get(symbol) == same:
            return  # answered again: its time is that of the answer
        self._quoted[symbol] = same
        text, exchanges = self._scope.text, (details.bidExchange.strip(), details.askExchange.strip())
        self._scope.quotes.append(
            ts_event, ts_recv, self._scope.series(symbol), LONG_NULL, bid, bid_size, ask, ask_size,
            text(exchanges[0] or None), text(exchanges[1] or None), text(status or None), 0,
        )  # fmt: skip

    def _trade(self, symbol: str, ts_event: int, price: float, details: All, status: str, ts_recv: int) -> None:
        total = details.totalVolume
        if not (0.0 < price < INF and 0 <= total <= LONG_MAX and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
            if not total:
                return  # nothing has traded today
            raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=float(total)))
        before, at = self._volumes.get(symbol), self._times.get(symbol, 0)
        self._volumes[symbol], self._times[symbol] = total, ts_recv
        if before is None or total <= before or ts_recv - at > SNAPSHOT_NS_MAX:
            return  # a smaller volume: another day, or a correction
        trades, text, exchange = self._scope.trades, self._scope.text, details.exchgLastTrade.strip()
        words = "synthetic" if status in ("", "REALTIME") else f"synthetic,{status}"
        trades.append(
            ts_event, ts_recv, self._scope.series(symbol), text(exchange or None), total, TEXT_NULL, price,
            float(total - before), 0, text(words), TEXT_NULL,
            NOT_LAST_ELIGIBLE if status.startswith("EH_") else 0,
        )  # fmt: skip


class _Chains:
    """Rows of option chains. A round is one snapshot: dates, a quote of the underlying, a chain for each date; its time
    is that of the first of these."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._provider = scope, scope.text("provider")
        self._times = scope.kept("etrade rounds")  # underlying → time of its snapshot; absent before its first chain
        self._prices = scope.kept("etrade prices")  # underlying → its last trade then, in micros; absent: not known

    def begin(self, name: str) -> None:
        self._times.pop(name, None)
        self._prices.pop(name, None)

    def quoted(self, name: str, response: QuoteResponse) -> None:
        """What the underlying costs. What is wrong with its quote leaves the chain without a price, no more."""
        for raw in items(response.QuoteData):
            with contextlib.suppress(*UNREADABLE):
                details = readers[QuoteData](raw).All or All()
                extended = details.ExtendedHourQuoteDetail or details.EhQuote
                price = extended.lastPrice if extended else details.lastTrade
                if 0.0 < price < PRICE_MAX:
                    self._prices[name] = round(price * MICROS)

    def answer(self, name: str, chain: OptionChainResponse, ts_recv: int) -> None:
        legs: list[tuple[Details, msgspec.Raw]] = []
        for raw in items(chain.OptionPair):
            try:
                pair = readers[Pair](raw)
                sides = (*items(pair.Call), *items(pair.Put))
            except UNREADABLE as error:
                self._scope.reject(f"pair: {error}", bytes(raw), ts_recv)
                continue
            for side in sides:
                try:
                    legs.append((readers[Details](side), side))
                except UNREADABLE as error:
                    self._scope.reject(f"option: {error}", bytes(side), ts_recv)
        # A leg may be newer than the whole it came in: the snapshot is of the newest time in it that can be.
        latest_s = (ts_recv + TS_AHEAD_MAX) // SECOND
        newest_s = max((chain.timeStamp, *(leg.timeStamp for leg, _ in legs if leg.timeStamp <= latest_s)))
        ts_event = self._times.get(name, newest_s * SECOND)
        worth = self._prices[name] / MICROS if name in self._prices else NAN
        fit = 0
        for item, side in legs:
            try:
                self._append(item, worth, ts_event, ts_recv)
                fit += 1
            except (FrameError, SymbolError) as error:
                self._scope.reject(str(error), bytes(side), ts_recv)
        if fit:
            self._times[name] = ts_event

    def _append(self, item: Details, worth: float, ts_event: int, ts_recv: int) -> None:
        """Raises FrameError, SymbolError."""
        option, text = occ.parse(item.osiKey.strip()), self._scope.text
        if SIDES.get(item.optionType) != option.option_type or abs(item.strikePrice - option.strike) > 5e-4:
            raise FrameError(f"{item.osiKey}: is said to be a {item.optionType[:8]} of strike {item.strikePrice}")
        bid, bid_size, ask, ask_size = quoted(
            "option", ts_event, ts_recv, item.bid, item.bidSize, item.ask, item.askSize
        )
        read = item.OptionGreeks or Greeks()
        given = any(value and value == value for value in msgspec.structs.astuple(read))
        read = read if given else Greeks()
        at = item.timeStamp * SECOND
        self._scope.options.append(
            ts_event, ts_recv, self._scope.feed_id, text(option.symbol), text(ticker(item.symbol)),
            option.expires_ns, option.strike, option.option_type, bid, bid_size, ask, ask_size,
            _number(item.lastPrice) or NAN, _number(item.volume), _number(item.openInterest), _number(read.iv) or NAN,
            _number(read.delta), _number(read.gamma), _number(read.theta), _number(read.vega), _number(read.rho),
            self._provider if given else TEXT_NULL, worth,
            max(0, ts_event - at) if 0 < at <= ts_recv + TS_AHEAD_MAX else LONG_NULL,
        )  # fmt: skip


def _number(value: float) -> float:
    return value if -INF < value < INF else NAN
