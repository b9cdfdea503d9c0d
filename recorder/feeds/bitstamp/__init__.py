"""Bitstamp's public WebSocket, version 2: live trades, and the best bid and offer of its order books.

https://www.bitstamp.net/websocket/v2/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.feeds.bitstamp import bars
from recorder.values.errors import ConfigError, FrameError, SymbolError, nearest
from recorder.values.feed import (
    SECOND,
    Capability,
    Command,
    Endpoint,
    Fatal,
    FeedSpec,
    HistoryRequest,
    HttpRequest,
    HttpResponse,
    Key,
    Notice,
    ProviderInfo,
    Ready,
    Reconnect,
    Renew,
    Send,
    Subscriptions,
)
from recorder.values.history import checked, rest_base
from recorder.values.messages import (
    INF,
    NO_TEXT,
    TS_AHEAD_MAX,
    TS_EVENT_MIN,
    UNREADABLE,
    Id,
    Reader,
    Unread,
    fields_of,
    misfit,
    quoted,
    sharded,
)
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import canonical_pair
from recorder.values.tables import BUY, SELL

INFO = ProviderInfo(name="bitstamp", channels=("trades", "quotes"), hosts=("ws.bitstamp.net",))

URL = "wss://ws.bitstamp.net"
CHANNELS = {"trades": "live_trades_", "quotes": "order_book_"}  # ours → theirs, which the pair follows
DATA_MARKS = (  # the order of the fields differs between 2021 and now
    (0, b'{"data":{"id"'),
    (0, b'{"data":{"timestamp"'),
    (0, b'{"channel": "live_trades_'),
    (0, b'{"event":"trade"'),
    (0, b'{"event":"data"'),
)
# None of these limits is documented.
SYMBOLS_PER_CONNECTION_MAX = 100
CONNECTIONS_MAX = 8
SENDS_PER_SECOND_MAX = 40.0  # the 200 subscriptions of a full connection in five seconds; recordings show 20 at once
CONNECTS_PER_MINUTE_MAX = 20.0
RATE_HOLD_NS = 60 * SECOND
SILENCE_NS = 60 * SECOND
PING = b'{"event":"bts:heartbeat"}'  # answered by the same event with status "success"
PING_NS = 20 * SECOND
PAIR_CHARS_MAX = 24

# Bitstamp joins base and quote without a mark. Where a pair was not configured (a recording), the longest of these that
# ends its name splits it.
QUOTE_ASSETS = ("USDC", "USDT", "USD", "EUR", "GBP", "BTC", "ETH", "PAX")
RATE = ("rate limit", "too many")

_PAIR = re.compile(r"[a-z0-9]{2,}")


class Trade(Struct, gc=False, forbid_unknown_fields=True):
    """The fields of ``data`` in {"event":"trade","channel":"live_trades_btcusd","data":{"id":298239842,
    "timestamp":"1695628177","amount":0.0144,"amount_str":"0.01440000","price":26242,"price_str":"26242","type":0,
    "microtimestamp":"1695628177123000","buy_order_id":1,"sell_order_id":2}}"""

    id: Id  # one counter over all pairs, which only grows (unverified)
    price_str: float
    amount_str: float
    type: Literal[0, 1]  # of the taker: 0 bought, 1 sold
    microtimestamp: Id  # of 2021 whole milliseconds
    timestamp: Unread = NO_TEXT
    amount: Unread = NO_TEXT
    price: Unread = NO_TEXT
    buy_order_id: Unread = NO_TEXT
    sell_order_id: Unread = NO_TEXT


class Book(Struct, gc=False, forbid_unknown_fields=True):
    """{"timestamp":"1617654352","microtimestamp":"1617654352439583","bids":[["0.42476","3000.00000000"]],
    "asks":[["0.42555","4974.33747917"]]}: of ``order_book_…`` the 100 best levels of each side, best first"""

    microtimestamp: Id
    bids: msgspec.Raw
    asks: msgspec.Raw
    timestamp: Unread = NO_TEXT


class Traded(Struct, tag_field="event", tag="trade", forbid_unknown_fields=True):
    channel: str
    data: Trade


class Booked(Struct, tag_field="event", tag="data", forbid_unknown_fields=True):
    """Of ``order_book_…``; ``diff_order_book_…`` and ``detail_order_book_…`` are known and not recorded."""

    channel: str
    data: Book


class Subscribed(Struct, tag_field="event", tag="bts:subscription_succeeded"):
    """{"event":"bts:subscription_succeeded","channel":"live_trades_btcusd","data":{}}"""


class Unsubscribed(Struct, tag_field="event", tag="bts:unsubscription_succeeded"):
    """The same of an unsubscription."""


class Failed(Struct, tag_field="event", tag="bts:error"):
    """{"event":"bts:error","channel":"","data":{"code":null,"message":"Incorrect JSON format."}}"""


class Heartbeat(Struct, tag_field="event", tag="bts:heartbeat"):
    """{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}"""


class ReconnectRequest(Struct, tag_field="event", tag="bts:request_reconnect"):
    """{"event":"bts:request_reconnect","channel":"","data":""}"""


MESSAGE = Traded | Booked | Subscribed | Unsubscribed | Failed | Heartbeat | ReconnectRequest
_level = msgspec.json.Decoder(tuple[float, float], strict=False).decode


def pair_of(symbol: str) -> str:
    """A pair in any spelling → Bitstamp's: ``BTC-USD`` → ``btcusd``. Raises SymbolError."""
    pair = canonical(symbol).replace("-", "").lower()
    if len(pair) > PAIR_CHARS_MAX or not _PAIR.fullmatch(pair):
        raise SymbolError(f"{symbol[:PAIR_CHARS_MAX]!r} is no pair of Bitstamp; write for example BTC-USD")
    return pair


def canonical(name: str) -> str:
    """``BTC-USD``, ``btc/usd`` or ``btcusd`` → ``BTC-USD``. Raises SymbolError."""
    text = name.strip().upper()
    if re.search(r"[-/_]", text):
        return canonical_pair(text)
    for asset in QUOTE_ASSETS:
        if text.endswith(asset) and text != asset:
            return canonical_pair(f"{text[: -len(asset)]}-{asset}")
    raise SymbolError(f"{name[:PAIR_CHARS_MAX]!r} is no pair of Bitstamp; write BASE-QUOTE, for example BTC-USD")


class Bitstamp:
    """One connection to Bitstamp."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        self.spec = spec
        wrong = [channel for channel in spec.channels if channel not in CHANNELS]
        if wrong:
            raise ConfigError(
                f"feed {spec.name!r}: bitstamp has no channel {wrong[0]!r}; {nearest(wrong[0], CHANNELS)}"
            )
        self.pairs = {pair_of(symbol): canonical(symbol) for symbol in spec.symbols}
        self._wanted: dict[str, bool] = {}  # channel, as Bitstamp names it → acknowledged
        self._requested: set[str] = set()
        self._pending = 0  # subscriptions without an answer
        self._ready = False

    def capability(self) -> Capability:
        return Capability(
            channels=tuple(CHANNELS),
            loss_detector="none",
            scope="none",
            loss_size_known=False,
            trade_ids="increasing",
            connections_max=CONNECTIONS_MAX,
            symbols_per_connection_max=SYMBOLS_PER_CONNECTION_MAX,
            subscribe_items_max=1,
            sends_per_second_max=SENDS_PER_SECOND_MAX,
            connects_per_minute_max=CONNECTS_PER_MINUTE_MAX,
            # A connection lives for 90 days at most (unverified): ``bts:request_reconnect`` announces its end.
            history=(
                "bars; no trades: the transactions of the last day have whole seconds where the stream has "
                "microseconds, so the same trade would be stored as another row"
            ),
            history_channels=("bars",) if self._base() is not None else (),
            history_timeframes=bars.TIMEFRAMES,
            rest_per_second_max=bars.PER_SECOND_MAX,
            limited_by=bars.LIMITED_BY,
        )

    def _base(self) -> str | None:
        return rest_base(self.spec, INFO.hosts, bars.URL)

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        base = checked(self.spec, self.capability(), self._base(), request)
        return bars.pages(base, pair_of(request.symbol), request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        return bars.decoder(out)

    def shards(self) -> list[FeedSpec]:
        return sharded(self.spec, self.capability())

    def endpoint(self) -> Endpoint:
        return Endpoint(
            url=self.spec.url or URL,
            data_marks=DATA_MARKS,
            silence_ns=SILENCE_NS,
            app_ping=PING,
            app_ping_ns=PING_NS,
        )

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        return decoder(out, self.canonical)

    def canonical(self, pair: str) -> str:
        """The symbol of a pair as sent: as configured, else split. Raises FrameError."""
        known = self.pairs.get(pair)
        if known is not None:
            return known
        try:
            return canonical(pair)
        except SymbolError as error:
            raise FrameError(str(error)) from None

    def on_open(self) -> list[Command]:
        self._wanted, self._requested = {}, set()
        self._pending, self._ready = 0, False
        return self._subscribe(self._names(self.pairs))

    def _names(self, pairs: Iterable[str]) -> list[str]:
        some = list(pairs)
        return [CHANNELS[channel] + pair for channel in dict.fromkeys(self.spec.channels) for pair in some]

    def _subscribe(self, names: Iterable[str]) -> list[Command]:
        commands: list[Command] = []
        for name in names:
            self._wanted[name] = False
            self._requested.add(name)
            self._pending += 1
            commands.append(_asking("subscribe", name))
        return commands

    def subscriptions(self) -> Subscriptions:
        keys = {
            CHANNELS[channel] + pair: (channel, symbol)
            for channel in self.spec.channels
            for pair, symbol in self.pairs.items()
        }
        known = frozenset(keys[name] for name, known in self._wanted.items() if known and name in keys)
        requested = frozenset(keys[name] for name in self._requested if name in keys)
        return Subscriptions(frozenset(keys.values()), requested, known)

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        commands: list[Command] = []
        for channel, symbol in keys:
            name = CHANNELS[channel] + pair_of(symbol)
            commands += [_asking("unsubscribe", name), *self._subscribe([name])]
        return commands

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        pairs = {pair_of(symbol): canonical(symbol) for symbol in symbols}
        gone = self._names(pair for pair in self.pairs if pair not in pairs)
        fresh = self._names(pair for pair in pairs if pair not in self.pairs)
        self.pairs, self.spec, self._ready = pairs, msgspec.structs.replace(self.spec, symbols=symbols), False
        for name in gone:
            if self._wanted.pop(name, None) is False:
                self._pending = max(0, self._pending - 1)
        self._requested -= set(gone)
        return [*(_asking("unsubscribe", name) for name in gone), *self._subscribe(fresh), *self._settled()]

    def on_control(self, payload: bytes) -> list[Command]:
        message = fields_of(payload)
        event, name = message.get("event"), message.get("channel")
        if event == "bts:request_reconnect":
            return [Renew("Bitstamp asks for it")]  # at once: it is about to close the connection
        if event == "bts:subscription_succeeded" and isinstance(name, str):
            if self._wanted.get(name) is False:
                self._wanted[name] = True
                self._pending = max(0, self._pending - 1)
            return self._settled()
        return self._on_error(name, message.get("data")) if event == "bts:error" else []

    def _on_error(self, name: Any, data: Any) -> list[Command]:
        """A refusal may name the channel; that every refused subscription is answered by one is unverified."""
        words = str(data.get("message") or data.get("code") if isinstance(data, dict) else data)[:300]
        if any(part in words.lower() for part in RATE):
            return [Reconnect(f"Bitstamp: {words}", RATE_HOLD_NS)]
        commands: list[Command] = [Notice("error.received", {"reason": words})]
        if isinstance(name, str) and self._wanted.get(name) is False:
            del self._wanted[name]
            commands = [Notice("symbol.refused", {**self._named(name), "reason": words})]
        if not self._pending:
            return commands
        self._pending -= 1
        if self._pending == 0 and not any(self._wanted.values()):
            return [*commands, Fatal(f"Bitstamp knows none of the symbols asked for: {words}")]
        return [*commands, *self._settled()]

    def _settled(self) -> list[Command]:
        """Ready once everything sent is answered: what is not acknowledged then will not come."""
        if self._ready or self._pending:
            return []
        keys = {prefix + pair: symbol for prefix in CHANNELS.values() for pair, symbol in self.pairs.items()}
        known = [keys[name] for name, acknowledged in self._wanted.items() if acknowledged]
        if not known and self.pairs:
            return []  # nothing is acknowledged: the time-out for readiness decides
        self._ready = True
        reason = "subscribed, but not acknowledged"
        missing = [name for name, acknowledged in self._wanted.items() if not acknowledged]
        notices = [Notice("symbol.unacknowledged", {**self._named(name), "reason": reason}) for name in missing]
        return [Ready(tuple(dict.fromkeys(known))), *notices]

    def _named(self, name: str) -> dict[str, str]:
        """Of a channel that was asked for, as Bitstamp names it: which symbol and channel of ours."""
        ours = next(channel for channel, prefix in CHANNELS.items() if name.startswith(prefix))
        return {"symbol": self.canonical(name.removeprefix(CHANNELS[ours])), "channel": ours}


def _asking(action: str, name: str) -> Send:
    return Send(f'{{"event":"bts:{action}","data":{{"channel":"{name}"}}}}')


def _best(raw: msgspec.Raw) -> tuple[float, float]:
    """Price and size of a side's first level; zeros where there is none. The other 99 are not converted."""
    text = bytes(raw)
    start = text.find(b"[", 1)
    if not text.startswith(b"[") or (start < 0 and text.strip(b"[] \t\r\n")):
        raise FrameError("order book: a side is no array of levels")
    if start < 0:
        return 0.0, 0.0
    try:
        return _level(text[start : text.find(b"]") + 1])
    except UNREADABLE as error:
        raise FrameError(f"order book: {error}") from None


def decoder(scope: Scope, symbol_of: Callable[[str], str]) -> Callable[[bytes, int], None]:
    """decode(payload, ts_recv) for one connection; ``symbol_of`` maps a pair or raises FrameError."""
    reader = Reader(MESSAGE, "event", scope.unknown, {})
    add_trade, add_quote = scope.trades.append, scope.quotes.append
    series_of: dict[str, int] = {}

    def series(channel: str, prefix: str) -> int:
        number = series_of.get(channel)
        if number is None:
            if not channel.startswith(prefix):
                raise FrameError(f"{channel[:60]!r} is no channel of {prefix}")
            number = series_of[channel] = scope.series(symbol_of(channel[len(prefix) :]))
        return number

    def decode(payload: bytes, ts_recv: int) -> None:
        try:
            message = reader.read(payload)
        except UNREADABLE as error:
            message = reader.again(payload, error)
        if isinstance(message, Traded):
            trade = message.data
            ts_event, price, size = trade.microtimestamp * 1_000, trade.price_str, trade.amount_str
            if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
                raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=size))
            add_trade(
                ts_event, ts_recv, series(message.channel, CHANNELS["trades"]), TEXT_NULL, trade.id, TEXT_NULL, price,
                size, SELL if trade.type else BUY, TEXT_NULL, TEXT_NULL, 0,
            )  # fmt: skip
        elif isinstance(message, Booked) and not message.channel.startswith(("diff_", "detail_")):
            ts_event = message.data.microtimestamp * 1_000
            best = *_best(message.data.bids), *_best(message.data.asks)
            bid, bid_size, ask, ask_size = quoted("order_book", ts_event, ts_recv, *best)
            add_quote(
                ts_event, ts_recv, series(message.channel, CHANNELS["quotes"]), LONG_NULL, bid, bid_size, ask, ask_size,
                TEXT_NULL, TEXT_NULL, TEXT_NULL, 0,
            )  # fmt: skip

    return decode
