"""OKX's public WebSocket, version 5: spot, perpetuals, dated futures and options on the same connections.

https://www.okx.com/docs-v5/en/#overview-websocket-connect , …-subscribe , …-notification
Single trades and candles are served on the path /business, best prices and aggregated trades on /public.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container, Generator, Iterable, Mapping

import msgspec

from recorder.core.batch import Scope
from recorder.core.templates import Templates
from recorder.feeds.okx import bars, history
from recorder.feeds.okx.messages import DATA, TEMPLATES, TIMEFRAMES, decoder
from recorder.feeds.okx.options import CHANNEL as SUMMARIES
from recorder.feeds.okx.options import family_of
from recorder.values.errors import ConfigError, SymbolError, nearest
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
    Renew,
    Send,
    Subscriptions,
)
from recorder.values.history import by_channel, checked, rest_base
from recorder.values.messages import chunks, fields_of, option, sharded
from recorder.values.symbols import okx_canonical, okx_name

INFO = ProviderInfo(
    name="okx",
    channels=("trades", "quotes", "bars", "options"),
    options={
        "trades": ("all", "aggregated"),  # each fill; or the fills of one order at one price together
        "timeframe": tuple(TIMEFRAMES),
    },
    hosts=("ws.okx.com",),
)

URL = "wss://ws.okx.com:8443"
PUBLIC, BUSINESS = "/ws/v5/public", "/ws/v5/business"
DATA_MARKS = ((0, DATA),)
SYMBOLS_PER_CONNECTION_MAX = 200  # no documented limit; so many answers come well within the time for readiness
SUBSCRIBE_ITEMS_MAX = 100  # in one message: 5 kB of the 64 kB that the names of its channels may take
CONNECTIONS_MAX = 30  # that may ask for one channel
SENDS_PER_SECOND_MAX = 3.0  # subscribing and unsubscribing may be asked for 480 times an hour: few messages, much each
CONNECTS_PER_MINUTE_MAX = 60.0  # a third of 3 a second and address
CONNECTS_PER_SECOND_MAX = 2.0  # of these three
SILENCE_NS = 30 * SECOND  # the provider's own rule; a ping of ours is answered in between
PING, PING_NS = b"ping", 15 * SECOND
BUSY_HOLD_NS = 60 * SECOND  # after too many requests or connections: their windows are a second and an hour

Pair = tuple[str, str]  # OKX's channel, and an instrument or a family of options

SERVICE_UPGRADE = "64008"
RATE = ("60014", "60023")
_NAMED = re.compile(r"channel:([^,\s]+),\s*inst(?:Id|Family):([^,\s]+)")  # in the words of an error


class Okx:
    """One connection to OKX. Spec as ``shards`` gave it: all its channels are served on one path."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError for an unknown option or channel, SymbolError for what is no instrument."""
        self.spec = spec
        self._aggregated = option(INFO, spec, "trades") == "aggregated"
        kinds = {
            "trades": "trades" if self._aggregated else "trades-all",
            "quotes": "bbo-tbt",
            "bars": TIMEFRAMES[option(INFO, spec, "timeframe")],
            "options": SUMMARIES,
        }
        for channel in spec.channels:
            if channel not in kinds:
                raise ConfigError(f"feed {spec.name!r}: channel {channel!r}; {nearest(channel, kinds)}")
        self._kinds = {channel: kinds[channel] for channel in spec.channels}
        self.names = self._names(spec.symbols)
        self._wanted: dict[Pair, bool] = {}  # (OKX's channel, instrument) → acknowledged
        self._requested: set[Pair] = set()
        self._asked: dict[str, list[Pair]] = {}  # id of a request to subscribe → what, until it is refused
        self._ready = False
        self._number = 0  # of the last request

    def capability(self) -> Capability:
        single = not self._aggregated
        return Capability(
            channels=INFO.channels,
            loss_detector="trade_id",
            scope="symbol",
            loss_size_known=True,
            trade_ids="contiguous" if single else "increasing",
            connections_max=CONNECTIONS_MAX,
            symbols_per_connection_max=SYMBOLS_PER_CONNECTION_MAX,
            subscribe_items_max=SUBSCRIBE_ITEMS_MAX,
            sends_per_second_max=SENDS_PER_SECOND_MAX,
            connects_per_minute_max=CONNECTS_PER_MINUTE_MAX,
            connects_per_second_max=CONNECTS_PER_SECOND_MAX,
            overlap=single,
            history="bars; single trades by id or time, 100 a request, about three months",
            # History has single trades only: among aggregated ones they would count twice.
            history_channels=() if self._base() is None else ("trades", "bars") if single else ("bars",),
            history_timeframes=tuple(bars.NAMES),
            history_window_ns=history.WINDOW_NS,
            rest_per_second_max=history.PER_SECOND_MAX,
            limited_by=history.LIMITED_BY,
        )

    def _base(self) -> str | None:
        return rest_base(self.spec, INFO.hosts, history.URL)

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        base = checked(self.spec, self.capability(), self._base(), request)
        pages = bars.pages if request.channel == "bars" else history.pages
        return pages(base, okx_name(request.symbol), request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        return by_channel({"trades": history.decoder(out), "bars": bars.decoder(out)})

    def shards(self) -> list[FeedSpec]:
        """By path first, then so many symbols a connection as it carries."""
        groups: dict[str, list[str]] = {}
        for channel, kind in self._kinds.items():
            groups.setdefault(_path(kind), []).append(channel)
        result: list[FeedSpec] = []
        for channels in groups.values():
            connection = self.spec.connection + len(result)
            share = msgspec.structs.replace(self.spec, channels=tuple(channels), connection=connection)
            result += sharded(share, self.capability())  # its limit is one of each channel
        return result

    def endpoint(self) -> Endpoint:
        url = (self.spec.url or URL).rstrip("/")
        for path in (PUBLIC, BUSINESS):
            url = url.removesuffix(path)
        return Endpoint(
            url=url + _path(next(iter(self._kinds.values()), "bbo-tbt")),
            data_marks=DATA_MARKS,
            silence_ns=SILENCE_NS,
            app_ping=PING,
            app_ping_ns=PING_NS,
        )

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        return decoder(out, self._aggregated)

    def templates(self, out: Scope) -> Templates:
        """Single trades and best prices."""
        return TEMPLATES

    def on_open(self) -> list[Command]:
        self._wanted, self._requested, self._asked = {}, set(), {}
        self._ready, self._number = False, 0
        return self._ask("subscribe", self._pairs(self.names)) or [Ready()]

    def _names(self, symbols: Iterable[str]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(okx_name(symbol) for symbol in symbols))
        if set(self._kinds) == {"options"}:
            for name in names:
                if family_of(name) is None:
                    raise SymbolError(f"{name!r} is no option contract; channel options is for these only")
        return names

    def _pair(self, channel: str, name: str) -> Pair | None:
        """By what it comes: summaries by family, those of all its contracts. None: it has no such channel."""
        kind = self._kinds[channel]
        asked = family_of(name) if kind == SUMMARIES else name
        return None if asked is None else (kind, asked)

    def _pairs(self, names: Collection[str]) -> list[Pair]:
        pairs = (self._pair(channel, name) for channel in self._kinds for name in names)
        return list(dict.fromkeys(pair for pair in pairs if pair is not None))

    def _keys(self, pairs: Container[Pair]) -> frozenset[Key]:
        """What of our symbols comes by these."""
        every = ((channel, name) for channel in self._kinds for name in self.names)
        return frozenset((c, okx_canonical(n)) for c, n in every if (pair := self._pair(c, n)) and pair in pairs)

    def _ask(self, op: str, pairs: list[Pair], most: int = SUBSCRIBE_ITEMS_MAX) -> list[Command]:
        """Subscribe to or unsubscribe from these, ``most`` in a message."""
        if op == "subscribe":
            self._wanted |= dict.fromkeys(pairs, False)
            self._requested.update(pairs)
        commands: list[Command] = []
        for part in chunks(pairs, most):
            self._number += 1
            if op == "subscribe":
                self._asked[str(self._number)] = part
            args = [{"channel": k, "instFamily" if k == SUMMARIES else "instId": name} for k, name in part]
            request = {"id": str(self._number), "op": op, "args": args}
            commands.append(Send(msgspec.json.encode(request).decode()))
        return commands

    def subscriptions(self) -> Subscriptions:
        known = {pair for pair, acknowledged in self._wanted.items() if acknowledged}
        return Subscriptions(self._keys(self._pairs(self.names)), self._keys(self._requested), self._keys(known))

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        asked = (self._pair(channel, okx_name(symbol)) for channel, symbol in keys)
        pairs = list(dict.fromkeys(pair for pair in asked if pair is not None))
        return [*self._ask("unsubscribe", pairs), *self._ask("subscribe", pairs)]

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        names = self._names(symbols)
        before, after = dict.fromkeys(self._pairs(self.names)), dict.fromkeys(self._pairs(names))
        gone, fresh = [pair for pair in before if pair not in after], [pair for pair in after if pair not in before]
        self.names, self.spec = names, msgspec.structs.replace(self.spec, symbols=symbols)
        self._ready = False
        for pair in gone:
            self._wanted.pop(pair, None)
        self._requested.difference_update(gone)
        return [*self._ask("unsubscribe", gone), *self._ask("subscribe", fresh), *self._settled()]

    def on_control(self, payload: bytes) -> list[Command]:
        """{"id":"1512","event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"},"connId":"a4d3ae55"}
        {"event":"error","code":"60012","msg":"…","connId":"a4d3ae55"}
        {"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade. …"}
        """
        message = fields_of(payload)
        event, code, words = message.get("event"), str(message.get("code"))[:20], str(message.get("msg"))[:300]
        if event == "subscribe":
            arg = message.get("arg")
            arg = arg if isinstance(arg, dict) else {}
            pair = (str(arg.get("channel")), str(arg.get("instId") or arg.get("instFamily")))
            if pair in self._wanted:
                self._wanted[pair] = True
            return self._settled()
        if event == "notice":
            if code == SERVICE_UPGRADE:
                return [Renew(f"OKX: {words}")]
            return [Notice("notice.received", {"code": code, "message": words})]
        if event == "channel-conn-count-error":
            return [Reconnect(f"OKX: too many connections ask for {str(message.get('channel'))[:60]}", BUSY_HOLD_NS)]
        return self._on_error(code, words, str(message.get("id"))) if event == "error" else []

    def _on_error(self, code: str, words: str, number: str) -> list[Command]:
        """Of one subscription where its words name it (each is answered by itself: unverified), else of a request."""
        if code in RATE:
            return [Reconnect(f"OKX: {code} {words}", BUSY_HOLD_NS)]
        named = _NAMED.search(words)
        pair = (named[1], named[2]) if named else None
        if pair is None:
            open_ = [each for each in self._asked.pop(number, ()) if self._wanted.get(each) is False]
            if len(open_) > 1:  # which of them, one by one; whatever else is said of this request says no more
                return self._ask("subscribe", open_, most=1)
            pair = open_[0] if open_ else None
        if pair is None or self._wanted.get(pair, True):
            return [Notice("error.received", {"code": code, "reason": words})]
        del self._wanted[pair]
        refused = Notice("symbol.refused", {"symbol": okx_canonical(pair[1]), "reason": f"{code} {words}"})
        if not self._wanted:
            return [refused, Reconnect(f"OKX refused everything asked for: {code} {words}", BUSY_HOLD_NS)]
        return [refused, *self._settled()]

    def _settled(self) -> list[Command]:
        """Ready once, when nothing asked for is without an answer."""
        if not all(self._wanted.values()):
            return []
        self._asked.clear()
        if self._ready:
            return []
        self._ready = True
        there = {symbol for _, symbol in self._keys(self._wanted)}
        return [Ready(tuple(symbol for symbol in map(okx_canonical, self.names) if symbol in there))]


def _path(kind: str) -> str:
    return BUSINESS if kind == "trades-all" or kind.startswith("candle") else PUBLIC
