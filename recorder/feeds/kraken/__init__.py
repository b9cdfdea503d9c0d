"""Kraken's public WebSocket, version 2 (api = "v2"), and trades of version 1 (api = "v1": recordings, older servers).

https://docs.kraken.com/api/docs/websocket-v2/trade , …/ticker , …/ohlc , …/status
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import msgspec

from recorder.core.batch import Scope
from recorder.core.templates import Templates
from recorder.feeds.kraken import bars, history
from recorder.feeds.kraken.messages import PAIR, PAIR_CHARS_MAX, TEMPLATES, TIMEFRAMES, canonical, decoder
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
)
from recorder.values.history import by_channel, checked, rest_base
from recorder.values.messages import chunks, fields_of, sharded
from recorder.values.symbols import canonical_pair

INFO = ProviderInfo(
    name="kraken",
    channels=("trades", "quotes", "bars"),
    options={"api": ("v2", "v1"), "timeframe": tuple(TIMEFRAMES)},
    hosts=("ws.kraken.com",),
)

URLS = {"v2": "wss://ws.kraken.com/v2", "v1": "wss://ws.kraken.com"}
CHANNELS = {"trades": "trade", "quotes": "ticker", "bars": "ohlc"}
DATA_MARKS = tuple((0, b'{"channel":"%s"' % kind) for kind in (b"trade", b"ticker", b"ohlc", b"heartbeat", b"book"))
SYMBOLS_PER_CONNECTION_MAX = 200  # no documented limit; so many answers come well within the time for readiness
SUBSCRIBE_ITEMS_MAX = 100  # pairs in one message
CONNECTIONS_MAX = 8  # a twentieth of what one address may open in ten minutes
RATE_HOLD_NS = 60 * SECOND  # after "Exceeded msg rate": its window is not documented, connects count over ten minutes
SILENCE_NS = 15 * SECOND  # heartbeats come every second when nothing else does
PING_NS = 30 * SECOND  # half of the minute after which a silent client is dropped
PING = b'{"method":"ping"}'

RATE = ("msg rate", "rate limit", "too many")  # a limit of ours: wait
BUSY = ("service:unavailable", "service:busy", "service unavailable")  # theirs: try again


def pair_of(symbol: str) -> str:
    """A pair in any spelling → as version 2 writes it: ``XBT-USD`` → ``BTC/USD``. Raises SymbolError.

    Letters stay as they are in names of mixed case: tokenised shares are ``AAPLx/USD``.
    """
    text = symbol.strip().replace("_", "/").replace("-", "/")
    if len(text) > PAIR_CHARS_MAX or not PAIR.fullmatch(text):
        raise SymbolError(f"{symbol[:PAIR_CHARS_MAX]!r} is no pair of Kraken; write for example BTC-USD")
    mixed = not text.islower() and not text.isupper()
    return text if mixed else canonical_pair(text).replace("-", "/")


class Kraken:
    """One connection to Kraken."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        self.spec = spec
        self.api = spec.options.get("api", "v2")
        if self.api not in URLS:
            raise ConfigError(f'feed {spec.name!r}: api is "{self.api}"; {nearest(self.api, URLS)}')
        known = ("trades",) if self.api == "v1" else tuple(CHANNELS)
        self.channels = tuple(channel for channel in spec.channels if channel in known)
        if not self.channels:
            raise ConfigError(f"feed {spec.name!r}: channels are {list(spec.channels)}; {nearest('', known)}")
        timeframe = spec.options.get("timeframe", "1m")
        if timeframe not in TIMEFRAMES:
            raise ConfigError(f'feed {spec.name!r}: timeframe is "{timeframe}"; {nearest(timeframe, TIMEFRAMES)}')
        self.interval = TIMEFRAMES[timeframe]
        self.pairs = tuple(dict.fromkeys(pair_of(symbol) for symbol in spec.symbols))
        self._wanted: dict[tuple[str, str], bool] = {}  # (channel, canonical symbol) → acknowledged
        self._requested: set[tuple[str, str]] = set()
        self._ready = False
        self._system = "online"

    def capability(self) -> Capability:
        numbered = self.api == "v2"
        return Capability(
            channels=tuple(CHANNELS) if numbered else ("trades",),
            loss_detector="trade_id" if numbered else "none",
            scope="symbol" if numbered else "none",
            loss_size_known=numbered,
            trade_ids="contiguous" if numbered else "opaque",
            connections_max=CONNECTIONS_MAX,
            symbols_per_connection_max=SYMBOLS_PER_CONNECTION_MAX,
            subscribe_items_max=SUBSCRIBE_ITEMS_MAX,
            sends_per_second_max=5.0,
            connects_per_minute_max=15.0,
            overlap=numbered,
            snapshots=("trades", "quotes") if numbered else (),
            history="trades since any time, 1000 a request; the newest 720 bars of a timeframe",
            history_channels=() if self._base() is None else ("trades", "bars") if numbered else ("bars",),
            history_timeframes=bars.TIMEFRAMES,
            rest_per_second_max=history.PER_SECOND_MAX,
            limited_by=history.LIMITED_BY,
        )

    def _base(self) -> str | None:
        return rest_base(self.spec, INFO.hosts, history.URL)

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        base = checked(self.spec, self.capability(), self._base(), request)
        pages = bars.pages if request.channel == "bars" else history.pages
        return pages(base, pair_of(request.symbol), request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        return by_channel({"trades": history.decoder(out), "bars": bars.decoder(out)})

    def shards(self) -> list[FeedSpec]:
        return sharded(self.spec, self.capability())

    def endpoint(self) -> Endpoint:
        v1 = self.api == "v1"
        return Endpoint(
            url=self.spec.url or URLS[self.api],
            data_marks=((0, b"["),) if v1 else DATA_MARKS,
            silence_ns=SILENCE_NS,
            app_ping=b'{"event":"ping"}' if v1 else PING,
            app_ping_ns=PING_NS,
        )

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        return decoder(out)

    def templates(self, out: Scope) -> Templates | None:
        """Updates of trades and best prices."""
        return TEMPLATES if self.api == "v2" else None

    def on_open(self) -> list[Command]:
        self._wanted, self._requested = {}, set()
        self._ready, self._system = False, "online"
        return self._ask("subscribe", self._names(), self.pairs)

    def _names(self) -> list[str]:
        return [CHANNELS[channel] for channel in dict.fromkeys(self.channels)]

    def _ask(self, method: str, names: Iterable[str], pairs: Iterable[str]) -> list[Command]:
        """Subscribe to or unsubscribe from these channels, by Kraken's names, of these pairs."""
        keys = {(name, canonical(pair)): False for name in names for pair in pairs}
        if method == "subscribe":
            self._wanted |= keys
            self._requested |= keys.keys()
        return [
            Send(msgspec.json.encode(self._message(method, name, some)).decode())
            for name in names
            for some in chunks(pairs, SUBSCRIBE_ITEMS_MAX)
        ]

    def _message(self, method: str, name: str, pairs: list[str]) -> dict[str, Any]:
        if self.api == "v1":
            old = [pair.replace("BTC/", "XBT/").replace("/BTC", "/XBT") for pair in pairs]
            return {"event": method, "pair": old, "subscription": {"name": name}}
        params: dict[str, Any] = {"channel": name, "symbol": pairs}
        if method == "subscribe":
            params["snapshot"] = True
        if name == "ticker":
            params["event_trigger"] = "bbo"  # every change of the best bid or offer; by default only trades trigger
        if name == "ohlc":
            params["interval"] = self.interval
        return {"method": method, "params": params}

    def subscriptions(self) -> Subscriptions:
        ours = {name: channel for channel, name in CHANNELS.items()}
        desired = frozenset((channel, canonical(pair)) for channel in self.channels for pair in self.pairs)
        known = frozenset((ours[name], symbol) for (name, symbol), known in self._wanted.items() if known)
        return Subscriptions(desired, frozenset((ours[n], s) for n, s in self._requested) & desired, known & desired)

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        commands: list[Command] = []
        pairs = {canonical(pair): pair for pair in self.pairs}
        for channel, symbol in keys:
            for method in ("unsubscribe", "subscribe"):
                commands += self._ask(method, [CHANNELS[channel]], [pairs[symbol]])
        return commands

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        pairs = tuple(dict.fromkeys(pair_of(symbol) for symbol in symbols))
        gone = [pair for pair in self.pairs if pair not in pairs]
        fresh = [pair for pair in pairs if pair not in self.pairs]
        self.pairs, self.spec, self._ready = pairs, msgspec.structs.replace(self.spec, symbols=symbols), False
        left = {canonical(pair) for pair in gone}
        self._wanted = {key: known for key, known in self._wanted.items() if key[1] not in left}
        self._requested = {key for key in self._requested if key[1] not in left}
        names = self._names()
        return [*self._ask("unsubscribe", names, gone), *self._ask("subscribe", names, fresh), *self._settled()]

    def on_control(self, payload: bytes) -> list[Command]:
        message = fields_of(payload)
        if message.get("channel") == "status":
            data = message.get("data")
            first = data[0] if isinstance(data, list) and data else None
            return self._on_status(first.get("system") if isinstance(first, dict) else None)
        if message.get("event") == "systemStatus":
            return self._on_status(message.get("status"))
        if message.get("event") == "subscriptionStatus":
            if message.get("status") == "unsubscribed":
                return []
            subscription = message.get("subscription")
            name = subscription.get("name") if isinstance(subscription, dict) else None
            error = message.get("errorMessage") if message.get("status") == "error" else None
            return self._on_answer(name, message.get("pair"), error)
        if message.get("method") == "subscribe":
            result = message.get("result")
            result = result if isinstance(result, dict) else {}
            error = None if message.get("success") is True else message.get("error", "no reason given")
            return self._on_answer(result.get("channel"), result.get("symbol", message.get("symbol")), error)
        error = message.get("Error", message.get("error", message.get("errorMessage")))
        return [] if error is None else self._on_error(str(error)[:300])

    def _on_status(self, system: Any) -> list[Command]:
        """One notice a change: online, maintenance, cancel_only, post_only; in maintenance nothing trades."""
        if not isinstance(system, str) or system == self._system:
            return []
        self._system = system
        return [Notice("status.changed", {"system": system[:60]})]

    def _on_answer(self, name: Any, pair: Any, error: Any) -> list[Command]:
        """One answer a pair and channel; a refused pair does not stop the others."""
        try:
            symbol = canonical(pair) if isinstance(pair, str) else None
        except FrameError:
            symbol = None
        if error is None or str(error).lower().startswith("already subscribed"):
            if (name, symbol) in self._wanted:
                self._wanted[name, symbol] = True  # type: ignore[index]
            return self._settled()
        if symbol is None or any(part in str(error).lower() for part in (*RATE, *BUSY)):  # not of this pair alone
            return self._on_error(str(error)[:300])
        # An error names the pair but not always the channel: then it is the pair that Kraken does not know.
        gone = [key for key, known in self._wanted.items() if key[1] == symbol and name in (None, key[0]) and not known]
        for key in gone:
            del self._wanted[key]
        if not gone:
            return []
        refused: list[Command] = [Notice("symbol.refused", {"symbol": symbol, "reason": str(error)[:300]})]
        if not self._wanted:
            return [*refused, Fatal(f"Kraken knows none of the symbols asked for: {str(error)[:300]}")]
        return [*refused, *self._settled()]

    def _on_error(self, words: str) -> list[Command]:
        """``{"Error":"Exceeded msg rate"}`` and others that concern the whole connection."""
        if any(part in words.lower() for part in RATE):
            return [Reconnect(f"Kraken: {words}", RATE_HOLD_NS)]
        if any(part in words.lower() for part in BUSY):
            return [Reconnect(f"Kraken: {words}")]
        return [Notice("error.received", {"reason": words})]

    def _settled(self) -> list[Command]:
        if self._ready or not all(self._wanted.values()):
            return []
        self._ready = True
        return [Ready(tuple(dict.fromkeys(symbol for _, symbol in self._wanted)))]
