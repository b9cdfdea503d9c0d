"""Coinbase: the Exchange feed (api = "exchange") and Advanced Trade (api = "advanced"), public channels of both.

Both name the resting order's side: rows carry the opposite, the aggressor's. Messages are in ``exchange`` and
``advanced``; here is the connection: address, limits, subscriptions and what their answers mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping

import msgspec

from recorder.core.batch import Scope
from recorder.core.templates import Templates
from recorder.feeds.coinbase import advanced, bars, exchange, history
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
    Send,
    Subscriptions,
)  # fmt: skip
from recorder.values.history import by_channel, checked, rest_base
from recorder.values.messages import chunks, fields_of, sharded
from recorder.values.symbols import canonical_pair

INFO = ProviderInfo(
    name="coinbase",
    channels=("trades", "quotes", "bars"),
    options={"api": ("exchange", "advanced")},
    hosts=("ws-feed.exchange.coinbase.com", "ws-feed.pro.coinbase.com", "advanced-trade-ws.coinbase.com"),
)

URLS = {"exchange": "wss://ws-feed.exchange.coinbase.com", "advanced": "wss://advanced-trade-ws.coinbase.com"}
CHANNELS = {
    "exchange": {"trades": "matches", "quotes": "ticker"},
    "advanced": {"trades": "market_trades", "quotes": "ticker", "bars": "candles"},
}
DATA_MARKS = {
    "exchange": tuple(
        (0, b'{"type":"%s"' % kind)
        for kind in (b"match", b"ticker", b"heartbeat", b"last_match", b"l2update", b"snapshot")
    ),
    "advanced": tuple(
        (0, b'{"channel":"%s"' % kind) for kind in (b"market_trades", b"ticker", b"candles", b"heartbeats", b"l2_data")
    ),
}
SYMBOLS_PER_CONNECTION_MAX = 100  # no documented limit; so many share one socket's fate and one core's decoding
SUBSCRIBE_ITEMS_MAX = 50  # products in one message: an error costs at most these another try
CONNECTIONS_MAX = 8  # what one address may open in a second
# Advanced Trade counts eight connects and eight messages a second and address, over all connections; numbers of the
# Exchange feed are unverified.
SENDS_PER_SECOND_MAX = CONNECTS_PER_SECOND_MAX = 7.0
RATE_HOLD_NS = 30 * SECOND  # after "rate limit": longer than any window the documentation names
SILENCE_NS = 15 * SECOND  # heartbeats come every second: fifteen missed are no coincidence
PRODUCT_CHARS_MAX = 40  # the longest names are those of dated futures, about 20

_PRODUCT = re.compile(r"[A-Z0-9.]+(-[A-Z0-9.]+){1,3}")
_PRODUCT_IN_TEXT = re.compile(r"[A-Z0-9.]+(?:-[A-Z0-9.]+){1,3}", re.IGNORECASE)
_KEEPS_USDC = ("USDT-USDC", "EURC-USDC")  # the products of Advanced Trade with a book of their own in USDC
_RATE = ("rate limit", "too many", "slow down", "errslowread")  # the last: we send too much
_SLOW = "errslowconsume"  # we read too slowly. https://docs.cdp.coinbase.com/exchange/websocket-feed/errors
_FATAL = ("authentication", "unauthorized", "permission", "not allowed", "forbidden")


def product_of(symbol: str) -> str:
    """A product id in any spelling → as Coinbase writes it, which is the canonical symbol. Raises SymbolError."""
    name = symbol.strip().upper().replace("/", "-").replace("_", "-")
    if len(name) > PRODUCT_CHARS_MAX or not _PRODUCT.fullmatch(name):
        raise SymbolError(f"{symbol[:PRODUCT_CHARS_MAX]!r} is no product of Coinbase; write for example BTC-USD")
    return canonical_pair(name) if name.count("-") == 1 else name


class Coinbase:
    """One connection to Coinbase."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        self.spec = spec
        self.api = spec.options.get("api", "exchange")
        if self.api not in URLS:
            raise ConfigError(f'feed {spec.name!r}: api is "{self.api}"; {nearest(self.api, URLS)}')
        known = CHANNELS[self.api]
        wrong = [channel for channel in spec.channels if channel not in known]
        if wrong:
            raise ConfigError(
                f'feed {spec.name!r}: api = "{self.api}" has no channel "{wrong[0]}"; {nearest(wrong[0], known)}'
            )
        self.products = tuple(dict.fromkeys(product_of(symbol) for symbol in spec.symbols))
        self._renamed = self._usdc() if self.api == "advanced" else {}
        self._wanted: dict[tuple[str, str], bool] = {}  # (channel, product) → acknowledged
        self._requested: set[tuple[str, str]] = set()
        self._pending = 0  # messages without an answer
        self._ready = False
        self._refused: set[str] = set()
        self._unnamed = ""  # words of an error that named no product, since the last try
        self._share = SUBSCRIBE_ITEMS_MAX  # products in a message of that try

    def _usdc(self) -> dict[str, str]:
        """What comes as X-USD and was asked for as X-USDC: Advanced Trade answers with the book both share."""
        asked = set(self.products)
        pairs = {p[:-1]: p for p in self.products if p.endswith("-USDC") and p not in _KEEPS_USDC}
        return {sent: p for sent, p in pairs.items() if sent not in asked}

    def capability(self) -> Capability:
        by_id = self.api == "exchange"
        return Capability(
            channels=tuple(CHANNELS[self.api]),
            loss_detector="trade_id" if by_id else "sequence",
            scope="symbol" if by_id else "connection",
            loss_size_known=True,
            trade_ids="contiguous" if by_id else "increasing",
            connections_max=CONNECTIONS_MAX,
            symbols_per_connection_max=SYMBOLS_PER_CONNECTION_MAX,
            subscribe_items_max=SUBSCRIBE_ITEMS_MAX,
            sends_per_second_max=SENDS_PER_SECOND_MAX,
            sends_shared=True,
            connects_per_minute_max=60.0,
            connects_per_second_max=CONNECTS_PER_SECOND_MAX,
            overlap=by_id,
            snapshots=("trades",) if by_id else ("trades", "quotes"),
            history=f"bars; trades by {'id, without an end' if by_id else 'time'}, 1000 a request",
            history_channels=("trades", "bars") if self._base() is not None else (),
            history_from_now=by_id,
            history_timeframes=bars.TIMEFRAMES[self.api],
            rest_per_second_max=history.PER_SECOND_MAX,
        )

    def _base(self) -> str | None:
        return rest_base(self.spec, INFO.hosts, history.URLS[self.api])

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        base = checked(self.spec, self.capability(), self._base(), request)
        if request.channel == "bars":
            return bars.pages(base, self.api, product_of(request.symbol), request)
        pages = history.exchange_pages if self.api == "exchange" else history.advanced_pages
        return pages(base + history.PATHS[self.api].format(product_of(request.symbol)), request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        trades = history.exchange_decoder(out) if self.api == "exchange" else history.advanced_decoder(out)
        return by_channel({"trades": trades, "bars": bars.decoder(out, self.api)})

    def shards(self) -> list[FeedSpec]:
        return sharded(self.spec, self.capability())

    def endpoint(self) -> Endpoint:
        return Endpoint(url=self.spec.url or URLS[self.api], data_marks=DATA_MARKS[self.api], silence_ns=SILENCE_NS)

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        module = exchange if self.api == "exchange" else advanced
        return module.decoder(out, self.canonical)

    def templates(self, out: Scope) -> Templates:
        """Matches and tickers of the Exchange feed, trades of Advanced Trade."""
        return exchange.TEMPLATES if self.api == "exchange" else advanced.TEMPLATES

    def canonical(self, product: str) -> str:
        """The symbol of a product id as sent. Raises FrameError for what is no product id."""
        try:
            symbol = product_of(product)
        except SymbolError as error:
            raise FrameError(str(error)) from None
        return self._renamed.get(symbol, symbol)

    # The connection: subscribe at once (five seconds are allowed), compare what is acknowledged with what was asked.

    def on_open(self) -> list[Command]:
        self._wanted, self._requested = self._keys(self.products), set()
        self._pending, self._ready, self._refused = 0, False, set()
        self._unnamed, self._share = "", SUBSCRIBE_ITEMS_MAX
        commands: list[Command] = []
        both = sorted(p for p in self.products if p.endswith("-USDC") and p[:-1] in self.products)
        if self.api == "advanced" and both:
            commands.append(
                Notice("symbol.merged", {"symbols": both, "into": "the -USD product, whose book they share"})
            )
        if self.api == "advanced":
            commands.append(self._send(None, "heartbeats"))
        return commands + self._subscribe(list(self._wanted))

    def _keys(self, products: Iterable[str]) -> dict[tuple[str, str], bool]:
        names = [CHANNELS[self.api][channel] for channel in dict.fromkeys(self.spec.channels)]
        some = list(products)
        return {(name, product): False for name in names for product in some}

    def _subscribe(
        self, keys: Iterable[tuple[str, str]], action: str = "subscribe", most: int = SUBSCRIBE_ITEMS_MAX
    ) -> list[Command]:
        """Ask for these (channel, product), or for their end, ``most`` products in a message."""
        every = list(keys)
        if action == "subscribe":
            self._requested |= set(every)
        names = dict.fromkeys(name for name, _ in every)
        if self.api == "advanced":  # one channel a message
            return [
                self._send(some, name, action=action)
                for name in names
                for some in chunks((p for n, p in every if n == name), most)
            ]
        return [
            self._send(some, *names, "heartbeat", action=action)
            for some in chunks(dict.fromkeys(product for _, product in every), most)
        ]

    def _send(self, products: list[str] | None, *names: str, action: str = "subscribe") -> Send:
        self._pending += 1
        message: dict[str, object] = {"type": action}
        if products is not None:
            message["product_ids"] = products
        if self.api == "advanced":
            message["channel"] = names[0]
        else:
            message["channels"] = list(names)
        return Send(msgspec.json.encode(message).decode())

    def subscriptions(self) -> Subscriptions:
        ours = {name: channel for channel, name in CHANNELS[self.api].items()}
        desired = frozenset((ours[name], product) for name, product in self._keys(self.products))
        known = frozenset((ours[name], product) for (name, product), known in self._wanted.items() if known)
        return Subscriptions(desired, frozenset((ours[n], p) for n, p in self._requested) & desired, known & desired)

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        theirs = [(CHANNELS[self.api][channel], symbol) for channel, symbol in keys]
        self._wanted |= dict.fromkeys(theirs, False)
        self._refused -= {product for _, product in theirs}
        return [*self._subscribe(theirs, "unsubscribe"), *self._subscribe(theirs)]

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        products = tuple(dict.fromkeys(product_of(symbol) for symbol in symbols))
        gone, fresh = (
            self._keys(p for p in some if p not in others)
            for some, others in ((self.products, products), (products, self.products))
        )
        self.products, self.spec = products, msgspec.structs.replace(self.spec, symbols=symbols)
        self._renamed = self._usdc() if self.api == "advanced" else {}
        self._ready, self._requested = False, self._requested - gone.keys()
        self._wanted = {key: known for key, known in self._wanted.items() if key not in gone} | fresh
        return [*self._subscribe(gone, "unsubscribe"), *self._subscribe(fresh), *self._settled()]

    def on_control(self, payload: bytes) -> list[Command]:
        message = fields_of(payload)
        if message.get("type") == "error":
            return self._on_error(message)
        if message.get("type") == "subscriptions":
            return self._on_subscriptions(_exchange_subscriptions(message))
        if message.get("channel") == "subscriptions":
            return self._on_subscriptions(_advanced_subscriptions(message))
        return []

    def _on_subscriptions(self, acknowledged: dict[str, list[str]]) -> list[Command]:
        """The whole of what is subscribed by now: every message repeats what those before brought."""
        self._pending = max(0, self._pending - 1)
        there = {(name, self._renamed.get(p, p)) for name, products in acknowledged.items() for p in products}
        if self.api == "advanced":  # -USDC may be confirmed under either name
            there |= {(n, p + "C") for n, p in there if p.endswith("-USD")}
        lost = [key for key, known in self._wanted.items() if known and key not in there]
        for key in self._wanted:
            self._wanted[key] = key in there
        if self._ready:
            return [
                Notice("symbol.dropped", {"symbol": p, "channel": n, "reason": "no longer acknowledged"})
                for n, p in lost
            ]
        return self._settled()

    def _settled(self) -> list[Command]:
        """Ready once all is acknowledged, or everything sent is answered: what is missing then will not come.

        Where an error did not say what it is about, what is missing is asked for again in ever smaller messages.
        """
        missing = [key for key, known in self._wanted.items() if not known]
        if self._ready or (missing and self._pending):
            return []
        open_ = len({product for _, product in missing})
        if self._unnamed and self._share > 1 and open_ > 1:
            self._unnamed, self._share = "", min(self._share, open_) // 2
            return self._subscribe(missing, most=self._share)
        symbols = tuple(dict.fromkeys(product for (_, product), known in self._wanted.items() if known))
        if not symbols and self.products:
            if self._unnamed:
                return [Reconnect(f"Coinbase refused everything asked for: {self._unnamed}", RATE_HOLD_NS)]
            return []  # nothing is acknowledged: the time-out for readiness decides
        self._ready = True
        event = "symbol.refused" if self._unnamed else "symbol.unacknowledged"
        reason = self._unnamed or "subscribed, but not acknowledged"
        notices = [Notice(event, {"symbol": p, "channel": n, "reason": reason}) for n, p in missing]
        return [Ready(symbols), *notices]

    def _on_error(self, message: dict[str, object]) -> list[Command]:
        """``{"type":"error","message":"Failed to subscribe","reason":"FOO-USD is not a valid product"}``"""
        words = " · ".join(str(message[key])[:300] for key in ("message", "reason") if message.get(key))
        text = words.lower()
        if any(part in text for part in _RATE):
            return [Reconnect(f"Coinbase: {words}", RATE_HOLD_NS)]
        if _SLOW in text:  # nothing comes behind it but the end
            return [Notice("reader.slow", {"message": words}), Reconnect(f"Coinbase: {words}")]
        named = {name.upper() for name in _PRODUCT_IN_TEXT.findall(words)}
        self._pending = max(0, self._pending - 1)
        if named & self._refused:
            return self._settled()  # another channel of a symbol that was refused already
        bad = [product for product in self.products if product in named]
        if bad:
            return self._without(bad, words)
        if any(part in text for part in _FATAL):
            return [Fatal(f"Coinbase: {words}")]
        first, self._unnamed = self._share == SUBSCRIBE_ITEMS_MAX, words
        return [*([Notice("error.received", {"reason": words})] if first else []), *self._settled()]

    def _without(self, bad: list[str], words: str) -> list[Command]:
        """One wrong product fails a whole message: say which, and ask again for the rest, each time fewer."""
        self._refused |= set(bad)
        self._wanted = {key: known for key, known in self._wanted.items() if key[1] not in self._refused}
        commands: list[Command] = [Notice("symbol.refused", {"symbol": product, "reason": words}) for product in bad]
        if not self._wanted:
            return [*commands, Fatal(f"Coinbase knows none of the symbols asked for: {words}")]
        return [
            *commands,
            *self._subscribe([key for key, known in self._wanted.items() if not known]),
            *self._settled(),
        ]


def _exchange_subscriptions(message: dict[str, object]) -> dict[str, list[str]]:
    """``{"type":"subscriptions","channels":[{"name":"matches","product_ids":["BTC-USD"]}]}`` → name → products."""
    channels = message.get("channels")
    result: dict[str, list[str]] = {}
    for channel in channels if isinstance(channels, list) else []:
        if isinstance(channel, dict) and isinstance(channel.get("product_ids"), list):
            result[str(channel.get("name"))] = [str(product) for product in channel["product_ids"]]
    return result


def _advanced_subscriptions(message: dict[str, object]) -> dict[str, list[str]]:
    """``{"channel":"subscriptions","events":[{"subscriptions":{"market_trades":["BTC-USD"]}}]}`` → name → products."""
    events = message.get("events")
    result: dict[str, list[str]] = {}
    for event in events if isinstance(events, list) else []:
        subscriptions = event.get("subscriptions") if isinstance(event, dict) else None
        for name, products in subscriptions.items() if isinstance(subscriptions, dict) else ():
            if isinstance(products, list):
                result[str(name)] = [str(product) for product in products]
    return result
