"""Bybit's public WebSocket, version 5: spot, linear and inverse contracts and options, each under its own address.

https://bybit-exchange.github.io/docs/v5/ws/connect
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Generator, Iterable, Mapping
from typing import Any

import msgspec

from recorder.core.batch import Scope
from recorder.feeds.bybit import bars, history
from recorder.feeds.bybit.messages import DATA, TIMEFRAMES, decoder
from recorder.values.errors import ConfigError, nearest
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
    Notice,
    ProviderInfo,
    Ready,
    Reconnect,
    Send,
    Subscriptions,
)
from recorder.values.history import by_channel, checked, rest_base
from recorder.values.messages import chunks, fields_of, option, sharded
from recorder.values.symbols import BybitMarket, bybit_canonical, bybit_name

INFO = ProviderInfo(
    name="bybit",
    channels=("trades", "quotes", "bars", "options"),
    options={"market": ("spot", "linear", "inverse", "option"), "timeframe": tuple(TIMEFRAMES)},
    hosts=("stream.bybit.com",),
)

URL = "wss://stream.bybit.com"
PATH = "/v5/public/"
DATA_MARKS = ((0, DATA),)
SYMBOLS_PER_CONNECTION_MAX = (
    200  # three channels of 30 characters each: within the 21,000 that a connection may ask for
)
SUBSCRIBE_ITEMS_MAX = {
    "spot": 10,
    "linear": 200,
    "inverse": 200,
    "option": 200,
}  # spot's is documented; others by their characters
CONNECTIONS_MAX = 50  # of the 1000 that an address may have open
SENDS_PER_SECOND_MAX = 10.0  # no documented limit
CONNECTS_PER_MINUTE_MAX = 50.0  # half of 500 in 5 minutes
PING, PING_NS = b'{"op":"ping"}', 20 * SECOND  # who does not ping is cut off after ten minutes
SILENCE_NS = 50 * SECOND  # two pings without an answer
REFUSED_HOLD_NS = 60 * SECOND
SUBSCRIBED_ALREADY = "already subscribed"  # in the words of an error (unverified)


class Bybit:
    """One connection to Bybit."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError for an unknown option or channel, SymbolError for what is no instrument."""
        self.spec = spec
        self.market: BybitMarket = option(INFO, spec, "market")  # type: ignore[assignment]
        kinds = {
            "trades": "publicTrade.",
            "quotes": "orderbook.1.",
            "bars": f"kline.{TIMEFRAMES[option(INFO, spec, 'timeframe')]}.",
        }
        if self.market == "option":  # whose order books have 25 levels at least, and no candles
            kinds = {"trades": "publicTrade.", "options": "tickers."}
        for channel in spec.channels:
            if channel not in kinds:
                raise ConfigError(f"feed {spec.name!r}: channel {channel!r}; {nearest(channel, kinds)}")
        self._kinds = {channel: kinds[channel] for channel in spec.channels}
        self.names = self._names(spec.symbols)
        self._wanted: dict[str, bool] = {}  # topic → acknowledged
        self._requested: set[str] = set()
        self._asked: dict[str, list[str]] = {}  # req_id → topics, until it is answered
        self._ready = False
        self._number = 0  # of the last request

    def capability(self) -> Capability:
        return Capability(
            channels=("trades", "options") if self.market == "option" else ("trades", "quotes", "bars"),
            loss_detector="none" if self.market == "option" else "sequence",  # of quotes; trades have no order
            scope="none" if self.market == "option" else "symbol",
            loss_size_known=self.market != "option",
            trade_ids="opaque",
            quotes_counted=self.market != "option",
            connections_max=CONNECTIONS_MAX,
            symbols_per_connection_max=SYMBOLS_PER_CONNECTION_MAX,
            subscribe_items_max=SUBSCRIBE_ITEMS_MAX[self.market],
            sends_per_second_max=SENDS_PER_SECOND_MAX,
            connects_per_minute_max=CONNECTS_PER_MINUTE_MAX,
            history="bars; the last 60 trades (spot) or 1000: what a short interruption has missed",
            history_channels=() if self._base() is None else self._remembered(),
            history_timeframes=tuple(bars.NAMES),
            rest_per_second_max=history.PER_SECOND_MAX,
            limited_by=history.LIMITED_BY,
        )

    def _remembered(self) -> tuple[str, ...]:
        return ("trades",) if self.market == "option" else ("trades", "bars")

    def _base(self) -> str | None:
        return rest_base(self.spec, INFO.hosts, history.URL)

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        base = checked(self.spec, self.capability(), self._base(), request)
        pages = bars.pages if request.channel == "bars" else history.pages
        return pages(base, self.market, bybit_name(request.symbol, self.market), request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        return by_channel({"trades": history.decoder(out), "bars": bars.decoder(out)})

    def shards(self) -> list[FeedSpec]:
        return sharded(self.spec, self.capability())

    def endpoint(self) -> Endpoint:
        url = (self.spec.url or URL).rstrip("/")
        return Endpoint(
            url=url if PATH in url else url + PATH + self.market,
            data_marks=DATA_MARKS,
            silence_ns=SILENCE_NS,
            app_ping=PING,
            app_ping_ns=PING_NS,
        )

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        return decoder(out, self.market)

    def on_open(self) -> list[Command]:
        self._wanted, self._requested, self._asked = {}, set(), {}
        self._ready, self._number = False, 0
        return self._ask("subscribe", self._topics(self.names)) or [Ready()]

    def _names(self, symbols: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(bybit_name(symbol, self.market) for symbol in symbols))

    def _topic(self, channel: str, name: str) -> str:
        """Of options trades come by coin, those of all its contracts."""
        by_coin = self.market == "option" and channel == "trades"
        return self._kinds[channel] + (name.partition("-")[0] if by_coin else name)

    def _topics(self, names: Collection[str]) -> list[str]:
        return list(dict.fromkeys(self._topic(channel, name) for channel in self._kinds for name in names))

    def _of(self, topics: Container[str]) -> dict[Key, str]:
        """What of our names comes by these topics, and their names."""
        return {
            (channel, self._canonical(name)): name
            for channel in self._kinds
            for name in self.names
            if self._topic(channel, name) in topics
        }

    def _ask(self, op: str, topics: list[str], most: int | None = None) -> list[Command]:
        """Subscribe to or unsubscribe from these, ``most`` in a message."""
        if op == "subscribe":
            self._wanted |= dict.fromkeys(topics, False)
            self._requested.update(topics)
        commands: list[Command] = []
        for part in chunks(topics, most or SUBSCRIBE_ITEMS_MAX[self.market]):
            self._number += 1
            if op == "subscribe":
                self._asked[str(self._number)] = part
            request = {"req_id": str(self._number), "op": op, "args": part}
            commands.append(Send(msgspec.json.encode(request).decode()))
        return commands

    def subscriptions(self) -> Subscriptions:
        acknowledged = {topic for topic, known in self._wanted.items() if known}
        desired, requested, known = (
            frozenset(self._of(t)) for t in (self._topics(self.names), self._requested, acknowledged)
        )
        return Subscriptions(desired, requested, known)

    def _canonical(self, name: str) -> str:
        return bybit_canonical(name, self.market)

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        topics = list(dict.fromkeys(self._topic(channel, bybit_name(symbol, self.market)) for channel, symbol in keys))
        return [*self._ask("unsubscribe", topics), *self._ask("subscribe", topics)]

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        names = self._names(symbols)
        before, after = self._topics(self.names), self._topics(names)
        gone, fresh = [topic for topic in before if topic not in after], [t for t in after if t not in before]
        self.names, self.spec = names, msgspec.structs.replace(self.spec, symbols=symbols)
        self._ready = False
        for topic in gone:
            self._wanted.pop(topic, None)
        self._requested.difference_update(gone)
        return [*self._ask("unsubscribe", gone), *self._ask("subscribe", fresh), *self._settled()]

    def on_control(self, payload: bytes) -> list[Command]:
        """{"success":true,"ret_msg":"","conn_id":"a38867ec-…","req_id":"1","op":"subscribe"}
        {"success":true,"ret_msg":"pong","conn_id":"a38867ec-…","op":"ping"}
        """
        message = fields_of(payload)
        if isinstance(message.get("data"), dict):
            return self._on_options(message["data"], str(message.get("ret_msg"))[:300])
        success, words = message.get("success"), str(message.get("ret_msg"))[:300]
        number = message.get("req_id")
        topics = self._asked.pop(number, None) if isinstance(number, str) else None
        if topics is None:
            return [Notice("error.received", {"reason": words})] if success is False else []
        if success is True or SUBSCRIBED_ALREADY in words:
            self._wanted |= {topic: True for topic in topics if topic in self._wanted}
            return self._settled()
        still = [topic for topic in topics if topic in self._wanted]
        if len(still) != 1:  # an answer speaks for the whole request (unverified): which of them, one by one
            return [*self._ask("subscribe", still, most=1), *self._settled()]
        return self._without(still, words)

    def _on_options(self, data: dict[str, Any], words: str) -> list[Command]:
        """Options answer by topic and name no request (unverified): {"success":true,"conn_id":"…",
        "data":{"failTopics":[],"successTopics":["tickers.BTC-6JAN23-17500-C"]},"type":"COMMAND_RESP"}"""
        known, failed = data.get("successTopics"), data.get("failTopics")
        for topic in known if isinstance(known, list) else ():
            if isinstance(topic, str) and topic in self._wanted:
                self._wanted[topic] = True
        refused = [t for t in failed if isinstance(t, str) and t in self._wanted] if isinstance(failed, list) else []
        return self._without(refused, words)

    def _without(self, refused: list[str], words: str) -> list[Command]:
        commands: list[Command] = []
        for topic in refused:
            del self._wanted[topic]
            for _, symbol in self._of((topic,)):
                commands.append(Notice("symbol.refused", {"symbol": symbol, "reason": words}))
        if refused and not self._wanted:
            return [*commands, Reconnect(f"Bybit refused everything asked for: {words}", REFUSED_HOLD_NS)]
        return [*commands, *self._settled()]

    def _settled(self) -> list[Command]:
        """Ready once, when nothing asked for is without an answer."""
        if self._ready or not all(self._wanted.values()):
            return []
        self._ready = True
        return [Ready(tuple(dict.fromkeys(symbol for _, symbol in self._of(self._wanted))))]
