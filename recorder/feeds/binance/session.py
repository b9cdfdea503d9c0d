"""Binance's session, sans-I/O: address, limits, subscriptions and their answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import cast
from urllib.parse import urlsplit

import msgspec

from recorder.core.batch import Scope
from recorder.core.templates import Templates
from recorder.feeds.binance import bars, history
from recorder.feeds.binance.messages import MALFORMED, TEMPLATES
from recorder.feeds.binance.rows import decoder
from recorder.values import feed as values
from recorder.values.errors import ConfigError, nearest
from recorder.values.feed import (
    HOUR,
    MINUTE,
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
)  # fmt: skip
from recorder.values.history import by_channel, checked, rest_base
from recorder.values.messages import option
from recorder.values.symbols import BinanceMarket, binance_canonical, binance_name

INFO = values.ProviderInfo(
    name="binance",
    channels=("trades", "quotes", "bars"),
    options={
        "market": ("spot", "usdm", "coinm"),
        # auto: single trades on spot, aggregated ones on futures, whose documentation knows no other
        "trades": ("auto", "trade", "agg"),
    },
    hosts=("stream.binance.com", "data-stream.binance.vision", "fstream.binance.com", "dstream.binance.com"),
)
MARKET_OF_HOST: Mapping[str, BinanceMarket] = {  # for captures, whose frames do not say
    "stream.binance.com": "spot",
    "data-stream.binance.vision": "spot",
    "fstream.binance.com": "usdm",
    "dstream.binance.com": "coinm",
}

_BASE = {
    "spot": "wss://stream.binance.com:9443",
    "usdm": "wss://fstream.binance.com",
    "coinm": "wss://dstream.binance.com",
}
# Since 2026-04-23 USD-M streams are served on two paths: /public has bookTicker and depth, /market the rest; on the
# wrong one a subscription is acknowledged and stays silent (…/Important-WebSocket-Change-Notice beside the above).
# @trade is documented nowhere; other clients find it on /public (unverified).
_USDM_PUBLIC = frozenset({"trade", "bookTicker"})

_STREAMS_MAX = {"spot": 1024, "usdm": 200, "coinm": 200}  # of one connection, as documented
SUBSCRIBE_STREAMS_MAX = 200  # in one message: 5 to 10 kB; all messages of a spot connection fit into its ready timeout
SENDS_PER_SECOND_MAX = 3.0  # spot allows 5 inbound messages, of which a ping and a pong of ours may be two; futures 10
CONNECTS_PER_MINUTE_MAX = 60.0  # 300 in 5 minutes and IP
CONNECTIONS_MAX = (
    32  # of one recorder: 32 × 1024 streams is every pair there is, at a tenth of the connects of 5 minutes
)
LIFE_NS = 23 * HOUR + 50 * MINUTE  # the provider cuts at 24 h
REFUSED_HOLD_NS = 10 * SECOND  # all subscriptions refused: the same would be refused again at once
DATA_MARKS_MAX = 8  # first letters of streams asked of every frame; others cost a look by on_control


class Binance:
    """One connection to Binance. Spec as ``shards`` gave it: on USD-M all its channels are served on one path."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError for an unknown market or channel, SymbolError for what is no symbol."""
        self.spec = spec
        market, trades = option(INFO, spec, "market"), option(INFO, spec, "trades")
        self.market = cast(BinanceMarket, market)
        self._aggregated = trades == "agg" or (trades == "auto" and market != "spot")
        kinds = {"trades": "aggTrade" if self._aggregated else "trade", "quotes": "bookTicker", "bars": "kline_1m"}
        for channel in spec.channels:
            if channel not in kinds:
                raise ConfigError(f"feed {spec.name!r}: channel {channel!r}; {nearest(channel, kinds)}")
        self._kinds = {channel: kinds[channel] for channel in spec.channels}
        self.names = tuple(dict.fromkeys(binance_name(symbol, self.market) for symbol in spec.symbols))
        self._waiting: dict[int, tuple[str, ...]] = {}  # id of a SUBSCRIBE not answered yet → its streams
        self._refused: dict[str, str] = {}  # stream → why
        self._acknowledged: set[str] = set()  # streams
        self._number = 0  # of the last request

    def capability(self) -> Capability:
        pace = history.PER_SECOND_MAX.get((self.market, self._aggregated))  # none: single trades of futures need a key
        return Capability(
            channels=INFO.channels,
            loss_detector="trade_id",
            scope="symbol",
            loss_size_known=True,
            trade_ids="contiguous",
            connections_max=CONNECTIONS_MAX,
            symbols_per_connection_max=_STREAMS_MAX[self.market] // max(1, len(self._kinds)),
            subscribe_items_max=SUBSCRIBE_STREAMS_MAX,
            sends_per_second_max=SENDS_PER_SECOND_MAX,
            connects_per_minute_max=CONNECTS_PER_MINUTE_MAX,
            life_ns=LIFE_NS,
            overlap=True,
            history="bars; trades by id: of spot all, of futures aggregated ones of a year",
            history_channels=() if self._base() is None else ("trades", "bars") if pace else ("bars",),
            history_timeframes=bars.SPOT_TIMEFRAMES if self.market == "spot" else bars.TIMEFRAMES,
            history_window_ns=history.WINDOW_NS[self.market],
            rest_per_second_max=pace or 1.0,
            rest_weight_max=history.WEIGHT_MAX[self.market],
        )

    def _base(self) -> str | None:
        return rest_base(self.spec, INFO.hosts, history.URLS[self.market])

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        base = checked(self.spec, self.capability(), self._base(), request)
        microseconds = "timeunit=microsecond" in (self.spec.url or "").lower()
        name = binance_name(request.symbol, self.market)
        if request.channel == "bars":
            return bars.pages(base, self.market, name, request)
        return history.pages(base, self.market, self._aggregated, name, microseconds, request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        return by_channel({"trades": history.decoder(out, self._aggregated), "bars": bars.decoder(out, self.market)})

    def shards(self) -> list[FeedSpec]:
        """By path first (USD-M), then so many symbols a connection as its limit of streams holds."""
        groups: dict[str, list[str]] = {}
        for channel, kind in self._kinds.items():
            groups.setdefault(self._path(kind), []).append(channel)
        result: list[FeedSpec] = []
        for channels in groups.values():
            step = _STREAMS_MAX[self.market] // len(channels)
            for first in range(0, max(1, len(self.names)), step):
                shard = {
                    "channels": tuple(channels),
                    "symbols": tuple(binance_canonical(n, self.market) for n in self.names[first : first + step]),
                    "connection": self.spec.connection + len(result),
                }
                result.append(msgspec.structs.replace(self.spec, **shard))
        most = self.capability().connections_max
        if len(result) > most:
            raise ConfigError(
                f"feed {self.spec.name!r} asks binance for {len(self.names)} symbols, which take {len(result)} "
                f"connections of {_STREAMS_MAX[self.market]} streams; at most {most} are opened: "
                "split it or record fewer"
            )
        return result

    def endpoint(self) -> Endpoint:
        """The combined endpoint, so that every frame names its stream; subscriptions follow as messages."""
        path = self._path(next(iter(self._kinds.values()), "bookTicker"))
        address = urlsplit(self.spec.url or _BASE[self.market])
        if address.path in ("", "/"):
            address = address._replace(path=path)
        return Endpoint(url=address.geturl(), data_marks=self._data_marks())

    def on_open(self) -> list[Command]:
        """SUBSCRIBE to everything, in messages of SUBSCRIBE_STREAMS_MAX; the shell keeps their pace."""
        self._waiting, self._refused, self._acknowledged, self._number = {}, {}, set(), 0
        return self._ask("SUBSCRIBE", self._streams(self.names)) or [values.Ready()]

    def _streams(self, names: Iterable[str]) -> list[str]:
        return [f"{name.lower()}@{kind}" for name in names for kind in self._kinds.values()]

    def _ask(self, method: str, streams: list[str]) -> list[Command]:
        """SUBSCRIBE or UNSUBSCRIBE these, in messages of SUBSCRIBE_STREAMS_MAX."""
        commands: list[Command] = []
        for first in range(0, len(streams), SUBSCRIBE_STREAMS_MAX):
            part = streams[first : first + SUBSCRIBE_STREAMS_MAX]
            self._number += 1
            if method == "SUBSCRIBE":
                self._waiting[self._number] = tuple(part)
            request = msgspec.json.encode({"method": method, "params": part, "id": self._number})
            commands.append(values.Send(request.decode()))
        return commands

    def subscriptions(self) -> Subscriptions:
        waiting = [stream for streams in self._waiting.values() for stream in streams]
        keys = {
            f"{name.lower()}@{kind}": (channel, binance_canonical(name, self.market))
            for name in self.names
            for channel, kind in self._kinds.items()
        }
        requested = {*self._acknowledged, *self._refused, *waiting} & keys.keys()
        acknowledged = self._acknowledged & keys.keys()
        return Subscriptions(
            frozenset(keys.values()), frozenset(keys[s] for s in requested), frozenset(keys[s] for s in acknowledged)
        )

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        streams = [f"{binance_name(symbol, self.market).lower()}@{self._kinds[channel]}" for channel, symbol in keys]
        self._acknowledged -= set(streams)
        return [*self._ask("UNSUBSCRIBE", streams), *self._ask("SUBSCRIBE", streams)]

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        """Streams keep their order: what is gone first, so that their number stays within the limit."""
        names = tuple(dict.fromkeys(binance_name(symbol, self.market) for symbol in symbols))
        gone = self._streams(name for name in self.names if name not in names)
        fresh = self._streams(name for name in names if name not in self.names)
        self.names, self.spec = names, msgspec.structs.replace(self.spec, symbols=symbols)
        self._acknowledged -= set(gone)
        for stream in gone:
            self._refused.pop(stream, None)
        sends = [*self._ask("UNSUBSCRIBE", gone), *self._ask("SUBSCRIBE", fresh)]
        return sends if fresh or self._waiting else [*sends, *self._answered()]

    def on_control(self, payload: bytes) -> list[Command]:
        """Acknowledgements, errors, the announced shutdown; data that had no mark is passed over.

        {"result":null,"id":1}
        {"error":{"code":2,"msg":"Invalid request: too many parameters"},"id":1}, documented without the inner object
        {"e":"serverShutdown","E":1770123456789}, as a stream "!serverShutdown"
        """
        if payload.startswith(b'{"stream":"') and payload[11:12] != b"!":
            return []
        try:
            message = msgspec.json.decode(payload)
        except MALFORMED:
            message = None
        if not isinstance(message, dict):
            return []  # decode sees it too and keeps it among the rejected
        if message.get("e") == "serverShutdown" or message.get("stream") == "!serverShutdown":
            return [values.Renew("the provider announced a shutdown")]
        number = message.get("id")
        streams = self._waiting.pop(number, ()) if isinstance(number, int) else ()
        fault = message.get("error", message if "code" in message and "msg" in message else None)
        if fault is None:
            self._acknowledged.update(streams)
            return self._answered() if streams else []
        code, words = (fault.get("code"), fault.get("msg")) if isinstance(fault, dict) else (None, fault)
        words = str(words)[:200]
        self._refused.update(dict.fromkeys(streams, f"{code}: {words}"))
        notice = values.Notice("subscription.refused", {"code": code, "message": words, "streams": len(streams)})
        return [notice, *(self._answered() if streams else [])]

    def _answered(self) -> list[Command]:
        """Ready once no subscription is open, with those symbols of which no stream was refused."""
        if self._waiting:
            return []
        kinds = self._kinds.values()
        accepted = [n for n in self.names if not any(f"{n.lower()}@{kind}" in self._refused for kind in kinds)]
        if self._refused and not accepted:
            return [
                values.Reconnect(f"all subscriptions refused, {next(iter(self._refused.values()))}", REFUSED_HOLD_NS)
            ]
        return [values.Ready(tuple(binance_canonical(name, self.market) for name in accepted))]

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        return decoder(out, self.market)

    def templates(self, out: Scope) -> Templates:
        """Single and aggregated trades and best prices, by the order of fields of the spec's market."""
        return TEMPLATES[self.market]

    def _path(self, kind: str) -> str:
        if self.market != "usdm":
            return "/stream"
        return "/public/stream" if kind in _USDM_PUBLIC else "/market/stream"

    def _data_marks(self) -> tuple[tuple[int, bytes], ...]:
        """The first letters of our streams, commonest first: "!serverShutdown" comes as a stream too and is no data."""
        counts: dict[bytes, int] = {}
        for name in self.names:
            letter = name[:1].lower().encode()
            counts[letter] = counts.get(letter, 0) + 1
        letters = sorted(counts, key=lambda letter: (-counts[letter], letter))[:DATA_MARKS_MAX]
        return tuple((0, b'{"stream":"' + letter) for letter in letters)
