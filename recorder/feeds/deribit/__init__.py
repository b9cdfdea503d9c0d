"""Deribit's public WebSocket, JSON-RPC: trades, best prices, bars, and option tickers with Greeks.

https://docs.deribit.com/articles/json-rpc-overview , …/articles/notifications , …/articles/rate-limits
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import msgspec

from recorder.core.batch import Scope
from recorder.feeds.deribit import bars, history
from recorder.feeds.deribit.messages import TIMEFRAMES, canonical, decoder, instrument_of, option_of
from recorder.values.errors import ConfigError, SymbolError, nearest
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
from recorder.values.messages import chunks, fields_of, option, sharded

INFO = ProviderInfo(
    name="deribit",
    channels=("trades", "quotes", "bars", "options"),
    options={"interval": ("100ms", "agg2"), "timeframe": tuple(TIMEFRAMES)},  # raw needs an account
    hosts=("www.deribit.com", "test.deribit.com"),
)

URL = "wss://www.deribit.com/ws/api/v2"
CHANNELS = {
    "trades": "trades.{name}.{interval}",
    "quotes": "quote.{name}",
    "bars": "chart.trades.{name}.{resolution}",
    "options": "ticker.{name}.{interval}",  # of option contracts only
}
DATA_MARKS = ((0, b'{"jsonrpc":"2.0","method":"subscription"'),)
# A subscription costs 3000 of at most 30,000 credits, 10,000 of which come back in a second: ten at once, then three a
# second; who has no account has them by address, over all connections. https://docs.deribit.com/api-reference/subscription-management/public-subscribe
SENDS_PER_SECOND_MAX = 3.0
SUBSCRIBE_ITEMS_MAX = 100  # channels in one message; no documented limit
SYMBOLS_PER_CONNECTION_MAX = 250  # four channels each are ten messages: three seconds of those for readiness
CONNECTIONS_MAX = 16  # half of what one address may have open, requests over HTTP included
CONNECTS_PER_MINUTE_MAX = 30.0  # not documented
RATE_CODE = 10028  # too_many_requests: the session is closed
RATE_HOLD_NS = 10 * SECOND  # twice the time in which all credits come back
# Of Deribit as a whole, and soon over: retry, settlement_in_progress, matching_engine_queue_full,
# too_many_concurrent_requests, system_maintenance, internal_server_error, temporarily_unavailable, timed_out.
# https://docs.deribit.com/articles/errors
PASSING_CODES = (10040, 10041, 10047, 10066, 11051, 11094, 13028, 13888)
HEARTBEAT_S = 10  # the shortest that public/set_heartbeat takes
SILENCE_NS = 35 * SECOND  # three heartbeats and a half
HEARTBEAT_ID, TEST_ID, FIRST_ID = 1, 2, 10  # ids of requests; subscriptions count on from the last


class Deribit:
    """One connection to Deribit."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        self.spec = spec
        wrong = [channel for channel in spec.channels if channel not in CHANNELS]
        if wrong:
            raise ConfigError(f"feed {spec.name!r}: deribit has no channel {wrong[0]!r}; {nearest(wrong[0], CHANNELS)}")
        self._options = {name: option(INFO, spec, name) for name in INFO.options}
        self.instruments = self._checked(spec.symbols)
        self._wanted: dict[str, bool] = {}  # channel, as Deribit names it → acknowledged
        self._requested: set[str] = set()
        self._asked: dict[int, list[str]] = {}  # id of an unanswered request → its channels
        self._next_id = FIRST_ID
        self._ready = False

    def _checked(self, symbols: Iterable[str]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(instrument_of(symbol) for symbol in symbols))
        if set(self.spec.channels) == {"options"}:
            for name in names:
                if option_of(name) is None:
                    raise SymbolError(f"{canonical(name)!r} is no option contract; channel options is for these only")
        return names

    def capability(self) -> Capability:
        return Capability(
            channels=tuple(CHANNELS),
            loss_detector="trade_id",  # which is Deribit's trade_seq
            scope="symbol",
            loss_size_known=True,
            trade_ids="contiguous",
            connections_max=CONNECTIONS_MAX,
            symbols_per_connection_max=SYMBOLS_PER_CONNECTION_MAX,
            subscribe_items_max=SUBSCRIBE_ITEMS_MAX,
            sends_per_second_max=SENDS_PER_SECOND_MAX,
            sends_shared=True,
            connects_per_minute_max=CONNECTS_PER_MINUTE_MAX,
            overlap=True,
            snapshots=("options",),
            history="bars; trades by trade_seq or time, 1000 a request",
            history_channels=("trades", "bars") if self._base() is not None else (),
            history_timeframes=tuple(TIMEFRAMES),
            rest_per_second_max=history.PER_SECOND_MAX,
            limited_by=history.LIMITED_BY,
        )

    def _base(self) -> str | None:
        base = rest_base(self.spec, INFO.hosts, history.URL)
        return None if base is None else base.removesuffix(history.ROOT)

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        base = checked(self.spec, self.capability(), self._base(), request)
        pages = bars.pages if request.channel == "bars" else history.pages
        return pages(base, instrument_of(request.symbol), request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        return by_channel({"trades": history.decoder(out), "bars": bars.decoder(out)})

    def shards(self) -> list[FeedSpec]:
        return sharded(self.spec, self.capability())

    def endpoint(self) -> Endpoint:
        return Endpoint(url=self.spec.url or URL, data_marks=DATA_MARKS, silence_ns=SILENCE_NS)

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        return decoder(out)

    def _names(self, instruments: Iterable[str]) -> dict[str, Key]:
        """Channels of these instruments, as Deribit names them → ours."""
        given = {"interval": self._options["interval"], "resolution": TIMEFRAMES[self._options["timeframe"]]}
        some = list(instruments)
        return {
            CHANNELS[channel].format(name=name, **given): (channel, canonical(name))
            for channel in dict.fromkeys(self.spec.channels)
            for name in some
            if channel != "options" or option_of(name) is not None
        }

    def on_open(self) -> list[Command]:
        self._wanted, self._requested, self._asked = {}, set(), {}
        self._next_id, self._ready = FIRST_ID, False
        heartbeat = _request(HEARTBEAT_ID, "public/set_heartbeat", interval=HEARTBEAT_S)
        return [heartbeat, *self._subscribe(self._names(self.instruments))]

    def _subscribe(self, names: Iterable[str]) -> list[Command]:
        commands: list[Command] = []
        for some in chunks(names, SUBSCRIBE_ITEMS_MAX):
            self._wanted |= dict.fromkeys(some, False)
            self._requested |= set(some)
            self._asked[self._next_id] = some
            commands.append(_request(self._next_id, "public/subscribe", channels=some))
            self._next_id += 1
        return commands

    def _unsubscribe(self, names: Iterable[str]) -> list[Command]:
        commands: list[Command] = []
        for some in chunks(names, SUBSCRIBE_ITEMS_MAX):
            commands.append(_request(self._next_id, "public/unsubscribe", channels=some))
            self._next_id += 1
        return commands

    def subscriptions(self) -> Subscriptions:
        keys = self._names(self.instruments)
        known = frozenset(keys[name] for name, known in self._wanted.items() if known and name in keys)
        requested = frozenset(keys[name] for name in self._requested if name in keys)
        return Subscriptions(frozenset(keys.values()), requested, known)

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        asked = set(keys)
        names = [name for name, key in self._names(self.instruments).items() if key in asked]
        return [*self._unsubscribe(names), *self._subscribe(names)]

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        instruments = self._checked(symbols)
        gone = self._names(name for name in self.instruments if name not in instruments)
        fresh = self._names(name for name in instruments if name not in self.instruments)
        self.instruments, self.spec = instruments, msgspec.structs.replace(self.spec, symbols=symbols)
        self._ready, self._requested = False, self._requested - gone.keys()
        self._wanted = {name: known for name, known in self._wanted.items() if name not in gone}
        return [*self._unsubscribe(gone), *self._subscribe(fresh), *self._settled()]

    def on_control(self, payload: bytes) -> list[Command]:
        message = fields_of(payload)
        if message.get("method") == "heartbeat":
            params = message.get("params")
            tested = isinstance(params, dict) and params.get("type") == "test_request"
            return [_request(TEST_ID, "public/test")] if tested else []  # unanswered, the connection is closed
        number = message.get("id")
        asked = self._asked.pop(number, None) if isinstance(number, int) else None
        if message.get("error") is not None:
            return self._on_error(message["error"], asked)
        if asked is None:
            return []
        result = message.get("result")
        accepted = {name for name in result if isinstance(name, str)} if isinstance(result, list) else set()
        refused = [name for name in asked if name in self._wanted and name not in accepted]
        self._wanted |= {name: True for name in asked if name in self._wanted and name in accepted}
        # What Deribit does not know is left out of its answer and raises no error (unverified).
        return self._without(refused, "left out of the answer")

    def _on_error(self, error: Any, asked: list[str] | None) -> list[Command]:
        """{"code":10028,"message":"too_many_requests"}"""
        code, said = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, error)
        words = f"{str(said)[:300]} ({str(code)[:20]})"
        if code == RATE_CODE:
            return [Reconnect(f"Deribit: {words}", RATE_HOLD_NS)]
        if code in PASSING_CODES and asked is not None:
            return [Reconnect(f"Deribit: {words}")]
        if asked is None:
            return [Notice("error.received", {"reason": words})]
        names = [name for name in asked if name in self._wanted]
        if len(names) > 1:  # the error speaks for the whole request: which of them, by halves
            half = len(names) // 2
            return [*self._subscribe(names[:half]), *self._subscribe(names[half:])]
        return self._without(names, words)

    def _without(self, refused: list[str], words: str) -> list[Command]:
        keys = self._names(self.instruments)
        commands: list[Command] = []
        for name in refused:
            del self._wanted[name]
            channel, symbol = keys.get(name, ("", name))
            commands.append(Notice("symbol.refused", {"symbol": symbol, "channel": channel, "reason": words}))
        if refused and not self._wanted and not self._asked:
            return [*commands, Fatal(f"Deribit knows none of the symbols asked for: {words}")]
        return [*commands, *self._settled()]

    def _settled(self) -> list[Command]:
        if self._ready or not all(self._wanted.values()):
            return []
        self._ready = True
        keys = self._names(self.instruments)
        return [Ready(tuple(dict.fromkeys(keys[name][1] for name in self._wanted if name in keys)))]


def _request(number: int, method: str, **params: Any) -> Send:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return Send(msgspec.json.encode(message).decode())
