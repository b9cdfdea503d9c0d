"""Massive, once Polygon.io: US stocks, US options and crypto, each a cluster of its own, live or 15 minutes late.

https://massive.com/docs/websocket/quickstart
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import msgspec

from recorder.core.batch import Scope
from recorder.core.templates import Templates
from recorder.feeds.polygon import history
from recorder.feeds.polygon.chain import Chains
from recorder.feeds.polygon.messages import LENIENT_READER, PARTS, STRICT_READER, explain
from recorder.feeds.polygon.names import EVERY, canonical, name_of
from recorder.feeds.polygon.rows import stores, templates_of
from recorder.values.chains import CHANNEL, INTERVALS
from recorder.values.errors import ConfigError, FrameError, nearest
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
from recorder.values.history import checked, rest_base
from recorder.values.messages import UNREADABLE, chunks, option, sharded

KEY = "POLYGON_API_KEY"
INFO = ProviderInfo(
    name="polygon",
    channels=("trades", "quotes", "bars", "statuses", "valuations", CHANNEL),
    options={
        "cluster": ("stocks", "options", "crypto"),
        "timing": ("realtime", "delayed"),
        "timeframe": ("1m", "1s"),  # of bars
        "interval": tuple(INTERVALS),  # of option chains
    },
    credentials=(KEY,),
    hosts=("socket.massive.com", "delayed.massive.com", "socket.polygon.io", "delayed.polygon.io"),
)
_URLS = {"realtime": "wss://socket.massive.com", "delayed": "wss://delayed.massive.com"}
# Channels of ours → topics. Best known last: see ``_settled``.
_TOPICS = {
    "stocks": {"valuations": "FMV", "statuses": "LULD", "bars": "AM", "quotes": "Q", "trades": "T"},
    "options": {"valuations": "FMV", "bars": "AM", "quotes": "Q", "trades": "T"},
    "crypto": {"bars": "XA", "quotes": "XQ", "trades": "XT"},
}
_SECONDS = {"AM": "A", "XA": "XAS"}
_HISTORY = {
    "stocks": ("trades", "quotes", "bars"), "options": ("trades", "quotes", "bars"), "crypto": ("trades", "bars"),
}  # fmt: skip
# A frame begins [{"ev":" and the name of its first message.
DATA_MARKS = tuple((8, tag + b'"') for tag in (b"T", b"Q", b"A", b"AM", b"LULD", b"FMV", b"XT", b"XQ", b"XA", b"XAS"))

SYMBOLS_MAX = 1 << 16  # of a connection: no limit is documented; there are 12,000 stocks, and who wants all asks for *
OPTION_QUOTES_MAX = 1000  # contracts of a connection, each by name
SUBSCRIBE_TOKENS_MAX = 500  # in one message: 12 kB of contracts; no limit is documented
SENDS_PER_SECOND_MAX = 10.0
CONNECTS_PER_MINUTE_MAX = 12.0
DROP_HOLD_NS = 2 * SECOND  # the connection before may linger, and counts
LIMIT_HOLD_NS = 60 * SECOND  # another connection of the account is open, here or elsewhere
PING_NS, SILENCE_NS = 10 * SECOND, 30 * SECOND  # there is no heartbeat, nights are silent; their clients wait as long

_ACKNOWLEDGED = "subscribed to: "
_TOKEN = re.compile(r"\b[A-Z]+\.[^\s,]+")  # topic and symbol in the words of an error


def polygon(spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> Polygon | Chains:
    """What streams, or, for the channel ``options`` alone, what asks. Raises ConfigError, SymbolError."""
    if spec.channels == (CHANNEL,):
        return Chains(INFO, KEY, spec, credentials)
    return Polygon(spec, credentials)


class Polygon:
    """One connection to a cluster. An account may have one to each.

    Trades are flagged ``halted`` only where the channel ``statuses`` is recorded as well, and of Nasdaq's stocks alone.
    """

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError for an unknown option or channel, SymbolError for what is no symbol of the cluster."""
        self.spec, self.credentials = spec, credentials or {}
        self.cluster, self.timing, self.timeframe = (
            option(INFO, spec, name) for name in ("cluster", "timing", "timeframe")
        )
        topics = _TOPICS[self.cluster]
        for channel in spec.channels:
            if channel == CHANNEL:
                raise ConfigError(f"feed {spec.name!r}: option chains are asked for: make them a feed of their own")
            if channel not in topics:
                words = nearest(channel, topics)
                raise ConfigError(f"feed {spec.name!r}: polygon {self.cluster} has no channel {channel!r}; {words}")
        seconds = _SECONDS if self.timeframe == "1s" else {}
        self._topics = {ours: seconds.get(topic, topic) for ours, topic in topics.items() if ours in spec.channels}
        self.names = self._names(spec.symbols)
        self._wanted: dict[str, bool] = {}  # token → acknowledged
        self._requested: set[str] = set()
        self._last = ""  # token asked for
        self._subscribed = self._ready = False

    def _names(self, symbols: Iterable[str]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name_of(self.cluster, symbol) for symbol in symbols))
        if EVERY in names and self.cluster == "options" and "quotes" in self._topics:
            raise ConfigError(
                f"feed {self.spec.name!r}: quotes of options are sent by contract only, not for *; name up to "
                f"{OPTION_QUOTES_MAX} contracts, or leave quotes out"
            )
        return names

    def capability(self) -> Capability:
        by_contract = self.cluster == "options" and "quotes" in self._topics
        return Capability(
            channels=tuple(_TOPICS[self.cluster]),
            loss_detector="none",  # ``q`` grows and leaves numbers out
            scope="none",
            loss_size_known=False,
            trade_ids="per_exchange_day",
            connections_max=1,
            symbols_per_connection_max=OPTION_QUOTES_MAX if by_contract else SYMBOLS_MAX,
            subscribe_items_max=SUBSCRIBE_TOKENS_MAX,
            sends_per_second_max=SENDS_PER_SECOND_MAX,
            connects_per_minute_max=CONNECTS_PER_MINUTE_MAX,
            hold_ns=DROP_HOLD_NS,
            session_zone="UTC" if self.cluster == "crypto" else "America/New_York",
            history="trades, quotes and bars by time, as far back as the plan; crypto: trades and bars",
            history_channels=_HISTORY[self.cluster] if self._base() is not None else (),
            history_timeframes=tuple(history.TIMEFRAMES),
            rest_per_second_max=history.PER_SECOND_MAX,
        )

    def _base(self) -> str | None:
        return rest_base(self.spec, INFO.hosts, history.URL)

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        if request.channel == "bars" and not request.timeframe:  # of a gap: those that the stream has
            request = replace(request, timeframe=self.timeframe)
        base = checked(self.spec, self.capability(), self._base(), request)
        key = self.credentials.get(KEY)
        if not key:
            raise ConfigError(f"feed {self.spec.name!r}: history needs {KEY}")
        name_of(self.cluster, request.symbol)
        secret = (("Authorization", f"Bearer {key}"),)
        return history.pages(base, self.cluster, secret, request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        return history.decoder(out, self._base() or history.URL, self.cluster, self.timeframe)

    def shards(self) -> list[FeedSpec]:
        symbols = tuple(dict.fromkeys(canonical(self.cluster, name) for name in self.names))
        return sharded(msgspec.structs.replace(self.spec, symbols=symbols), self.capability())

    def endpoint(self) -> Endpoint:
        url = (self.spec.url or _URLS[self.timing]).rstrip("/")
        if urlsplit(url).path.rpartition("/")[2] in _TOPICS:
            url = url.rpartition("/")[0]
        # That acknowledgements have frames of their own is documented nowhere.
        return Endpoint(
            url=f"{url}/{self.cluster}", data_marks=DATA_MARKS, mixed=True, ping_ns=PING_NS, silence_ns=SILENCE_NS
        )

    def on_open(self) -> list[Command]:
        """The server greets first. Without a key there is no point in waiting for it."""
        self._wanted, self._requested, self._last = {}, set(), ""
        self._subscribed = self._ready = False
        return [] if self.credentials.get(KEY) else [Fatal(f"{KEY} not set; polygon needs a key")]

    def on_control(self, payload: bytes) -> list[Command]:
        """[{"ev":"status","status":"success","message":"subscribed to: T.AAPL"},…], one for each token asked for."""
        try:
            messages = msgspec.json.decode(payload)
        except UNREADABLE:
            return []  # decode sees it too and keeps it among the rejected
        commands: list[Command] = []
        for message in messages if isinstance(messages, list) else ():
            if isinstance(message, dict) and message.get("ev") == "status":
                commands += self._on_status(str(message.get("status")), str(message.get("message"))[:300])
        return [*commands, *self._settled()]

    def _on_status(self, status: str, words: str) -> list[Command]:
        match status:
            case "connected":
                request = {"action": "auth", "params": self.credentials.get(KEY, "")}
                return [Send(msgspec.json.encode(request).decode(), secret=True)]
            case "auth_success":
                self._subscribed = True
                return self._ask("subscribe", self._tokens(self.names))
            case "success":
                for token in words.removeprefix(_ACKNOWLEDGED).split(",") if words.startswith(_ACKNOWLEDGED) else ():
                    if token.strip() in self._wanted:
                        self._wanted[token.strip()] = True
                return []
            case "auth_failed":
                return [Fatal(f"Massive refused the key, or the plan has no {self.cluster} ({words}); check {KEY}")]
            case "max_connections":
                return [Reconnect(f"another connection of the account is open ({words})", LIMIT_HOLD_NS)]
            case "auth_timeout" | "force_disconnect":
                return [Reconnect(f"Massive: {status} {words}")]
            case "slow_consumer":  # nothing comes behind it but the end
                return [Notice("reader.slow", {"message": words}), Reconnect(f"Massive: {status} {words}")]
            case "error":
                return self._on_error(words)
        return [Notice("status.received", {"status": status[:40], "message": words})]

    def _on_error(self, words: str) -> list[Command]:
        """Of a subscription where its words name it (how they do is unverified)."""
        token = next((found for found in _TOKEN.findall(words) if self._wanted.get(found) is False), None)
        if token is None:
            return [Notice("error.received", {"reason": words})]
        del self._wanted[token]
        symbol = canonical(self.cluster, token.partition(".")[2])
        refused = Notice("symbol.refused", {"symbol": symbol, "reason": words})
        if self._wanted:
            return [refused]
        self._subscribed = False
        return [refused, Reconnect(f"everything was refused: {words}", LIMIT_HOLD_NS)]

    def _settled(self) -> list[Command]:
        """Ready when everything is acknowledged, or what was asked for last.

        Topics that the provider does not know, or not in this plan, it passes over in silence: those most likely to be
        are asked for first, so that they hold up nothing else. If the last is one, readiness times out.
        """
        whole = all(self._wanted.values())
        if self._ready or not self._subscribed or not (whole or self._wanted.get(self._last)):
            return []
        missing = [token for token, known in self._wanted.items() if not known]
        self._ready = True
        symbols = dict.fromkeys(token.partition(".")[2] for token, known in self._wanted.items() if known)
        ready = Ready(tuple(canonical(self.cluster, name) for name in symbols))
        if not missing:
            return [ready]
        return [Notice("subscription.incomplete", {"missing": len(missing), "tokens": missing[:20]}), ready]

    def _tokens(self, names: Iterable[str]) -> list[str]:
        every = list(names)
        return [f"{topic}.{name}" for topic in self._topics.values() for name in every]

    def _ask(self, action: str, tokens: list[str]) -> list[Command]:
        if action == "subscribe" and tokens:
            self._wanted |= dict.fromkeys(tokens, False)
            self._requested.update(tokens)
            self._last, self._ready = tokens[-1], False
        requests = [{"action": action, "params": ",".join(part)} for part in chunks(tokens, SUBSCRIBE_TOKENS_MAX)]
        return [Send(msgspec.json.encode(request).decode()) for request in requests]

    def subscriptions(self) -> Subscriptions:
        ours = {topic: channel for channel, topic in self._topics.items()}

        def keys(tokens: Iterable[str]) -> frozenset[Key]:
            parts = (token.partition(".") for token in tokens)
            return frozenset((ours[topic], canonical(self.cluster, name)) for topic, _, name in parts)

        acknowledged = keys(token for token, known in self._wanted.items() if known)
        return Subscriptions(keys(self._tokens(self.names)), keys(self._requested), acknowledged)

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        tokens = [f"{self._topics[channel]}.{name_of(self.cluster, symbol)}" for channel, symbol in keys]
        return [*self._ask("unsubscribe", tokens), *self._ask("subscribe", tokens)]

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        names = self._names(symbols)
        gone = self._tokens(name for name in self.names if name not in names)
        fresh = self._tokens(name for name in names if name not in self.names)
        self.names, self.spec = names, msgspec.structs.replace(self.spec, symbols=symbols)
        if not self._subscribed:  # not authenticated yet: what is asked for then are the new ones
            return []
        for token in gone:
            self._wanted.pop(token, None)
        self._requested.difference_update(gone)
        self._ready = False
        return [*self._ask("unsubscribe", gone), *self._ask("subscribe", fresh), *self._settled()]

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        """decode(payload, ts_recv). Strict about fields until the first unknown one was counted, then lenient.

        Of an array, good messages are stored, bad ones rejected one by one.
        """
        rows: Mapping[Any, Callable[[Any, int], None]] = stores(out, self.cluster)
        read = STRICT_READER

        def decode(payload: bytes, ts_recv: int) -> None:
            try:
                messages = read(payload)
            except UNREADABLE:
                one_by_one(payload, ts_recv)
                return
            for message in messages:
                try:
                    rows[message.__class__](message, ts_recv)
                except FrameError as error:
                    out.reject(str(error), msgspec.json.encode(message), ts_recv)

        def one_by_one(payload: bytes, ts_recv: int) -> None:
            nonlocal read
            try:
                parts = PARTS(payload)
            except UNREADABLE as error:
                raise FrameError(f"not an array of messages: {error}") from None
            for part in parts:
                try:
                    message, unknown = explain(bytes(part))
                    for what in unknown:
                        out.unknown(what)
                    if message is not None:
                        if unknown:
                            read = LENIENT_READER
                        rows[message.__class__](message, ts_recv)
                except FrameError as error:
                    out.reject(str(error), bytes(part), ts_recv)

        return decode

    def templates(self, out: Scope) -> Templates:
        return templates_of(out, self.cluster)
