"""Alpaca's session, sans I/O: greeting, authentication, subscription, errors; and its decoder."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from recorder.core.batch import Scope
from recorder.core.templates import Templates
from recorder.feeds.alpaca import chain, history
from recorder.feeds.alpaca.messages import CONTROL, LENIENT, MALFORMED, RAW, STRICT_READERS, explain
from recorder.feeds.alpaca.rows import rows_of, templates_of
from recorder.values import feed as values
from recorder.values import occ
from recorder.values.chains import CHANNEL, INTERVALS
from recorder.values.errors import ConfigError, FrameError, nearest
from recorder.values.feed import (
    SECOND,
    Capability,
    Command,
    Endpoint,
    FeedSpec,
    HistoryRequest,
    HttpRequest,
    HttpResponse,
    Key,
    Subscriptions,
)
from recorder.values.history import by_channel, checked, rest_base
from recorder.values.messages import option
from recorder.values.symbols import canonical_pair, pair_with, ticker

KEY_ID, SECRET_KEY = "APCA_API_KEY_ID", "APCA_API_SECRET_KEY"  # names of environment variables, as Alpaca's clients use
INFO = values.ProviderInfo(
    name="alpaca",
    channels=("trades", "quotes", "bars", "statuses", "news", CHANNEL),
    options={
        "feed": ("iex", "sip", "delayed_sip", "test", "boats", "overnight", "crypto", "opra", "indicative", "news"),
        "location": ("us", "us-1", "us-2", "eu-1", "bs-1", "global"),  # of crypto: Alpaca's own, Kraken's …
        "format": ("msgpack", "json"),
        "chains": tuple(chain.OF_STOCKS),  # of the channel options: indicative is in the free plan
        "interval": tuple(INTERVALS),  # of option chains
    },
    credentials=(KEY_ID, SECRET_KEY),
    hosts=("stream.data.alpaca.markets", "stream.data.sandbox.alpaca.markets"),
)
_BASE = "wss://stream.data.alpaca.markets"
_VERSION = dict.fromkeys(("boats", "overnight", "opra", "indicative", "news"), "v1beta1") | {
    "crypto": "v1beta3"
}  # or v2
OPTIONS = ("opra", "indicative")  # of which indicative is delayed, its quotes changed: never to be mixed
# Channels of ours → theirs. Corrections and cancels come with trades and may not be asked for.
_STOCK_CHANNELS = {
    "trades": ("trades",),
    "quotes": ("quotes",),
    "bars": ("bars", "updatedBars", "dailyBars"),
    "statuses": ("statuses", "lulds"),
}
_CHANNELS: Mapping[str, Mapping[str, tuple[str, ...]]] = {  # of the feeds that are not of stocks
    "crypto": {name: _STOCK_CHANNELS[name] for name in ("trades", "quotes", "bars")},
    **{key: {name: _STOCK_CHANNELS[name] for name in ("trades", "quotes")} for key in OPTIONS},
    "news": {"news": ("news",)},
}

SYMBOLS_MAX = 1 << 17  # of a connection: there is no documented limit beside that of the plan, which answers with 405
SUBSCRIBE_SYMBOLS_MAX = 500  # in one message: with seven channels below the 32,768 bytes at which their client splits
SENDS_PER_SECOND_MAX = 10.0  # no limit is documented; a session sends a few messages in all
CONNECTS_PER_MINUTE_MAX = 12.0
LIMIT_HOLD_NS = 10 * SECOND  # 406: the session before may linger, and holds the only connection
DROP_HOLD_NS = 2 * SECOND  # after any drop, for the same reason
PING_NS, SILENCE_NS = 10 * SECOND, 30 * SECOND  # as their clients ping; there is no heartbeat, nights are silent

_KEY_HEADERS = ("APCA-API-KEY-ID", "APCA-API-SECRET-KEY")

BRACKET = ord("[")  # starts every JSON frame and no MessagePack array


def key_headers(credentials: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Of a request over HTTP; none without both keys."""
    values_of = [credentials.get(name, "") for name in INFO.credentials]
    return tuple(zip(_KEY_HEADERS, values_of, strict=True)) if all(values_of) else ()


class Alpaca:
    """The one connection that Alpaca allows to an endpoint.

    Trades are flagged ``halted`` only where the channel ``statuses`` is recorded as well.
    """

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError for an unknown option or channel, SymbolError for what is no symbol."""
        self.spec = spec
        self.credentials = credentials or {}
        self.feed, self.location, self.format = (option(INFO, spec, name) for name in ("feed", "location", "format"))
        channels = _CHANNELS.get(self.feed, _STOCK_CHANNELS)
        for channel in spec.channels:
            if channel == CHANNEL:
                raise ConfigError(f"feed {spec.name!r}: option chains are asked for: make them a feed of their own")
            if channel not in channels:
                words = nearest(channel, channels)
                raise ConfigError(f"feed {spec.name!r}: alpaca {self.feed} has no channel {channel!r}; {words}")
        if self.feed in OPTIONS and self.format != "msgpack":
            raise ConfigError(
                f'feed {spec.name!r}: alpaca sends {self.feed} as MessagePack only; set format = "msgpack"'
            )
        if self.feed in OPTIONS and "quotes" in spec.channels and "*" in (symbol.strip() for symbol in spec.symbols):
            raise ConfigError(f"feed {spec.name!r}: alpaca does not send quotes of all options; name the contracts")
        self._theirs = {ours: channels[ours] for ours in spec.channels}
        self._channels = tuple(theirs for ours in spec.channels for theirs in channels[ours])
        self.names = tuple(dict.fromkeys(self._name(symbol) for symbol in spec.symbols))
        self._open: list[tuple[str, tuple[str, ...], list[str]]] = []  # asked and not answered: action, channels, names
        self._subscribed = False
        self._refusal = ""  # why a subscribe was refused
        self._delivered: dict[str, Any] = {}  # the last acknowledgement, which holds everything

    def capability(self) -> Capability:
        return Capability(
            channels=tuple(name for name in INFO.channels if name != CHANNEL),
            loss_detector="none",
            scope="none",
            loss_size_known=False,
            trade_ids="per_exchange_day",
            connections_max=1,
            symbols_per_connection_max=SYMBOLS_MAX,
            subscribe_items_max=SUBSCRIBE_SYMBOLS_MAX,
            sends_per_second_max=SENDS_PER_SECOND_MAX,
            connects_per_minute_max=CONNECTS_PER_MINUTE_MAX,
            hold_ns=DROP_HOLD_NS,
            revisions=self.feed != "crypto",
            session_zone="UTC" if self.feed == "crypto" else "America/New_York",
            history="trades, quotes and bars since 2016; options: no quotes; the last 15 minutes only with a paid plan",
            history_channels=history.channels_of(self.feed) if self._base() is not None else (),
            history_timeframes=tuple(history.TIMEFRAMES),
            rest_per_second_max=history.PER_SECOND_MAX,
        )

    def _base(self) -> str | None:
        sandbox = "sandbox" in (urlsplit(self.spec.url or "").hostname or "")
        return rest_base(self.spec, INFO.hosts, history.SANDBOX_URL if sandbox else history.URL)

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        base = checked(self.spec, self.capability(), self._base(), request)
        headers = key_headers(self.credentials)
        if not headers and self.feed != "crypto":  # whose history is open to all
            raise ConfigError(f"feed {self.spec.name!r}: history needs {' and '.join(INFO.credentials)}")
        return history.pages(base, self.feed, self.location, self._name(request.symbol), headers, request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        ticks = history.decoder(out, self._name, self.feed in OPTIONS)
        return by_channel({"trades": ticks, "quotes": ticks, "bars": history.bars_decoder(out, self._name)})

    def shards(self) -> list[FeedSpec]:
        symbols = tuple(dict.fromkeys(self._canonical(name) for name in self.names))
        return [msgspec.structs.replace(self.spec, symbols=symbols)]

    def endpoint(self) -> Endpoint:
        path = f"/{_VERSION.get(self.feed, 'v2')}/{self.feed}" + (f"/{self.location}" if self.feed == "crypto" else "")
        url = self.spec.url or _BASE
        if urlsplit(url).path in ("", "/"):
            url = url.rstrip("/") + path
        # Data messages have types of one letter, control messages long ones. MessagePack: array of up to 15, 2¹⁶ or
        # 2³² messages, then a map of up to 15 fields, then T.
        packed = ((2, b"\xa1T\xa1"), (4, b"\xa1T\xa1"), (6, b"\xa1T\xa1"))
        return Endpoint(
            url=url,
            headers=(("Content-Type", f"application/{self.format}"),),
            data_marks=packed if self.format == "msgpack" else ((8, b'",'),),
            ping_ns=PING_NS,
            silence_ns=SILENCE_NS,
        )

    def on_open(self) -> list[Command]:
        """The server greets first. Without keys there is no point in waiting for it."""
        self._open, self._subscribed, self._refusal, self._delivered = [], False, "", {}
        missing = [name for name in INFO.credentials if not self.credentials.get(name)]
        return [values.Fatal(f"{' and '.join(missing)} not set; alpaca needs a key")] if missing else []

    def on_control(self, payload: bytes) -> list[Command]:
        """Greeting → auth → subscribe → acknowledgement; errors by their code."""
        if payload[:1] == b"[":
            if payload[8:10] == b'",':
                return []
        elif b"\xa1T\xa1" in (payload[2:5], payload[4:7], payload[6:9]):
            return []
        try:
            messages = CONTROL[payload[0] != BRACKET](payload)
        except MALFORMED:
            return []  # decode sees it too and keeps it among the rejected
        commands: list[Command] = []
        for message in messages:
            match message.get("T"), message.get("msg"):
                case "success", "connected":
                    key, secret = (self.credentials.get(name, "") for name in INFO.credentials)
                    commands.append(self._send({"action": "auth", "key": key, "secret": secret}, secret=True))
                case "success", "authenticated":
                    commands += self._subscribe()
                case "subscription", _:
                    self._delivered = message
                    commands += self._answered()
                case "error", text:
                    commands += self._on_error(message.get("code"), str(text)[:200])
        return commands

    def _send(self, message: dict[str, Any], secret: bool = False) -> values.Send:
        if self.format == "json":
            return values.Send(msgspec.json.encode(message).decode(), secret)
        return values.Send(msgspec.msgpack.encode(message), secret)

    def _subscribe(self) -> list[Command]:
        if self._subscribed:
            return []
        self._subscribed = True
        return self._ask("subscribe", self._channels, self.names) or [values.Ready()]

    def _ask(self, action: str, channels: Iterable[str], names: Sequence[str]) -> list[Command]:
        parts = [list(names[i : i + SUBSCRIBE_SYMBOLS_MAX]) for i in range(0, len(names), SUBSCRIBE_SYMBOLS_MAX)]
        self._open += [(action, tuple(channels), part) for part in parts]
        return [self._send({"action": action} | dict.fromkeys(channels, part)) for part in parts]

    def subscriptions(self) -> Subscriptions:
        desired = {(ours, self._canonical(name)): name for ours in self._theirs for name in self.names}
        known = {theirs: self._names_of(theirs) for theirs in self._channels}
        acknowledged = {
            key for key, name in desired.items() if all(name in known[theirs] for theirs in self._theirs[key[0]])
        }
        requested = desired if self._subscribed else ()
        return Subscriptions(frozenset(desired), frozenset(requested), frozenset(acknowledged))

    def _names_of(self, channel: str) -> set[str]:
        """What the last acknowledgement holds of a channel of theirs."""
        names = self._delivered.get(channel)
        return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        by_channel: dict[str, list[str]] = {}
        for channel, symbol in keys:
            by_channel.setdefault(channel, []).append(self._name(symbol))
        return [
            command
            for channel, names in by_channel.items()
            for action in ("unsubscribe", "subscribe")
            for command in self._ask(action, self._theirs[channel], names)
        ]

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        names = tuple(dict.fromkeys(self._name(symbol) for symbol in symbols))
        gone = [name for name in self.names if name not in names]
        fresh = [name for name in names if name not in self.names]
        self.names, self.spec = names, msgspec.structs.replace(self.spec, symbols=symbols)
        if not self._subscribed:  # not authenticated yet: what is asked for then are the new ones
            return []
        self._refusal = ""
        return [*self._ask("unsubscribe", self._channels, gone), *self._ask("subscribe", self._channels, fresh)]

    def _answered(self) -> list[Command]:
        """Ready when every subscribe has its answer; what is delivered is in the last acknowledgement."""
        if not self._open:
            return []
        del self._open[0]
        if self._open:
            return []
        sets = [self._names_of(channel) for channel in self._channels]
        accepted = [name for name in self.names if all(name in names for names in sets)]
        if not accepted and self._refusal:
            return [values.Fatal(f"every subscription was refused, {self._refusal}")]
        missing = [name for name in self.names if name not in accepted]
        ready = values.Ready(tuple(self._canonical(name) for name in accepted))
        if not missing:
            return [ready]
        return [values.Notice("subscription.incomplete", {"missing": len(missing), "symbols": missing[:20]}), ready]

    def _on_error(self, code: Any, text: str) -> list[Command]:
        words = f"{code}: {text}"
        notice = values.Notice("subscription.refused", {"code": code, "message": text})
        match code:
            case 402:
                return [values.Fatal(f"the key was refused ({words}); check {KEY_ID} and {SECRET_KEY}")]
            case 408 | 409 | 411:
                return [values.Fatal(f"the account may not use alpaca {self.feed} ({words})")]
            case 412:
                return [values.Fatal(f'this feed needs format = "msgpack" ({words})')]
            case 403:
                return self._subscribe()  # authenticated already: benign, and what we wanted
            case 406:
                return [values.Reconnect(f"another session is open ({words})", LIMIT_HOLD_NS)]
            case 407:  # to reconnect now would lose what comes; if we do not catch up, they cut us
                return [values.Notice("reader.slow", {"code": code, "message": text})]
            case 401 | 404 | 500:
                return [values.Reconnect(words, DROP_HOLD_NS)]
            case 400 if not self._subscribed:
                return [values.Fatal(f"the authentication was not understood ({words})")]
            case 400 if self._open and self._open[0][0] == "subscribe":
                return self._malformed(words)
            case 400 | 405 | 410 | 413:
                self._refusal = words
                return [notice, *self._answered()]
        return [values.Notice("feed.error_received", {"code": code, "message": text})]

    def _malformed(self, words: str) -> list[Command]:
        """One malformed symbol fails a whole message: which of its symbols, by halves."""
        action, channels, names = self._open[0]
        if len(names) > 1:
            del self._open[0]
            half = len(names) // 2
            return [*self._ask(action, channels, names[:half]), *self._ask(action, channels, names[half:])]
        self._refusal = words
        refused = values.Notice("symbol.refused", {"symbol": self._canonical(names[0]), "reason": words})
        return [refused, *self._answered()]

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        """decode(payload, ts_recv) for both formats.

        Strict about fields until the first unknown one was counted, then lenient. Of an array, good messages are
        stored, bad ones rejected one by one.
        """
        rows = rows_of(out, self._canonical, self.feed in OPTIONS)
        readers = STRICT_READERS

        def decode(payload: bytes, ts_recv: int) -> None:
            try:
                messages = readers[payload[0] != BRACKET](payload)
            except MALFORMED:
                one_by_one(payload, ts_recv)
                return
            for message in messages:
                try:
                    rows[message.__class__](message, ts_recv)
                except FrameError as error:
                    out.reject(str(error), msgspec.json.encode(message, enc_hook=_hex), ts_recv)

        def one_by_one(payload: bytes, ts_recv: int) -> None:
            nonlocal readers
            packed = payload[:1] != b"["
            try:
                parts = RAW[packed](payload)
            except MALFORMED as error:
                raise FrameError(f"not an array of messages: {error}") from None
            for part in parts:
                try:
                    message, unknown = explain(bytes(part), packed)
                    for what in unknown:
                        out.unknown(what)
                    if message is not None:
                        if unknown:
                            readers = LENIENT
                        rows[message.__class__](message, ts_recv)
                except FrameError as error:
                    out.reject(str(error), bytes(part), ts_recv)

        return decode

    def templates(self, out: Scope) -> Templates | None:
        if self.feed in (*OPTIONS, "news"):
            return None
        return templates_of(out, self.feed == "crypto", self.format == "msgpack")

    def _name(self, symbol: str) -> str:
        """As Alpaca writes it."""
        if symbol.strip() == "*":
            return "*"
        if self.feed in OPTIONS:
            return occ.parse(symbol).compact
        return pair_with("/", symbol) if self.feed == "crypto" else ticker(symbol)

    def _canonical(self, name: str) -> str:
        """As rows carry it. Raises SymbolError."""
        if name == "*":
            return name
        if self.feed in OPTIONS:
            return occ.parse(name).symbol
        return canonical_pair(name) if self.feed == "crypto" else ticker(name)


def _hex(value: Any) -> Any:
    return value.data.hex()
