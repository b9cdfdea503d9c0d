"""Yahoo's streamer: the last price as it changes, conflated, with bid and offer where it sends them.

Not every trade: what happened between two messages is in neither. Nothing is acknowledged; a client of others repeats
its whole subscription every 15 s, so this one does.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Generator, Iterable, Mapping

import msgspec

from recorder.core.batch import Scope
from recorder.feeds.yahoo import history
from recorder.feeds.yahoo.names import CHANNELS, INFO, canonical, own_name, own_names
from recorder.feeds.yahoo.pricing import pricing
from recorder.feeds.yahoo.rows import plain
from recorder.values.errors import FrameError, SymbolError
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
    Ready,
    Send,
    Subscriptions,
)
from recorder.values.history import checked, rest_base
from recorder.values.messages import INF, TS_AHEAD_MAX, TS_EVENT_MIN, UNREADABLE, chunks, misfit, quoted, sharded
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.tables import NOT_VOLUME_ELIGIBLE

URL = "wss://streamer.finance.yahoo.com/?version=2"
MARK = b'{"type":"pricing"'
REPEAT_NS = 15 * SECOND
SUBSCRIBE_ITEMS_MAX = 100  # not documented
SYMBOLS_MAX = 500  # not documented
MILLISECOND = 1_000_000


class Message(msgspec.Struct, frozen=True, gc=False):
    """{"type":"pricing","message":"CgRBQVBMFZoZFkMYgKCr/vliKgNOTVMwCDgBSPYB"}; the reference client reads the message
    alone."""

    type: str = "pricing"
    message: str = ""


_MESSAGE = msgspec.json.Decoder(Message)


class YahooStream:
    """One connection to the streamer."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        self.spec = spec
        self._names = own_names(spec, "stream")
        self._requested: set[str] = set()

    def capability(self) -> Capability:
        return Capability(
            channels=CHANNELS["stream"],
            loss_detector="none",
            scope="none",
            loss_size_known=False,
            trade_ids="opaque",
            connections_max=4,  # not documented
            symbols_per_connection_max=SYMBOLS_MAX,
            subscribe_items_max=SYMBOLS_MAX,  # one message repeats all of them
            sends_per_second_max=2.0,
            connects_per_minute_max=10.0,
            session_zone="America/New_York",
            history="no trades and quotes; bars, see the feed with api = rest",
            history_channels=("bars",) if self._base() is not None else (),
            history_timeframes=history.NAMES,
            rest_per_second_max=history.PER_SECOND_MAX,
        )

    def _base(self) -> str | None:
        return rest_base(self.spec, INFO.hosts, history.URL)

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        return history.pages(checked(self.spec, self.capability(), self._base(), request), request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        return history.decoder(out)

    def shards(self) -> list[FeedSpec]:
        return sharded(self.spec, self.capability())

    def endpoint(self) -> Endpoint:
        return Endpoint(
            url=self.spec.url or URL,
            data_marks=((0, MARK),),
            app_ping=_subscribe(self._names) if self._names else None,
            app_ping_ns=REPEAT_NS,
        )

    def on_open(self) -> list[Command]:
        self._requested = set(self._names)
        return [Send(_subscribe(self._names).decode()), Ready(tuple(canonical(name) for name in self._names))]

    def on_control(self, payload: bytes) -> list[Command]:
        """Nothing that is not a price is known of it."""
        return []

    def subscriptions(self) -> Subscriptions:
        """What was sent counts as acknowledged: it never says so."""
        requested = self._keys(name for name in self._names if name in self._requested)
        return Subscriptions(self._keys(self._names), requested, requested)

    def _keys(self, names: Iterable[str]) -> frozenset[Key]:
        return frozenset((channel, canonical(name)) for name in names for channel in self.spec.channels)

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        names = tuple(dict.fromkeys(own_name(symbol) for _, symbol in keys))
        return [Send(_subscribe(names).decode())] if names else []

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        spec = msgspec.structs.replace(self.spec, symbols=symbols)
        names, before = own_names(spec, "stream"), self._names
        self.spec, self._names, self._requested = spec, names, set(names)
        gone = [name for name in before if name not in names]
        commands: list[Command] = [
            Send(msgspec.json.encode({"unsubscribe": some}).decode()) for some in chunks(gone, SUBSCRIBE_ITEMS_MAX)
        ]
        return [*commands, Send(_subscribe(names).decode()), Ready(tuple(canonical(name) for name in names))]

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        return decoder(out, self.spec.channels)


def _subscribe(names: Iterable[str]) -> bytes:
    return msgspec.json.encode({"subscribe": list(names)})


def decoder(scope: Scope, channels: tuple[str, ...]) -> Callable[[bytes, int], None]:
    """decode(payload, ts_recv). Raises FrameError."""
    trades, quotes = "trades" in channels, "quotes" in channels

    def decode(payload: bytes, ts_recv: int) -> None:
        try:
            message = _MESSAGE.decode(payload)
            if message.type != "pricing":
                scope.unknown(f"message {message.type}")
                return
            found = pricing(base64.b64decode(message.message, validate=True))
            symbol = canonical(found.id)
        except (*UNREADABLE, binascii.Error, ValueError, SymbolError) as error:
            raise FrameError(f"no price: {error}") from None
        ts_event = found.time * MILLISECOND
        size, volume = found.last_size, found.day_volume
        numbers = 0.0 < found.price < INF and size >= 0 and volume >= 0
        if not (numbers and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
            raise FrameError(misfit("pricing", ts_event, ts_recv, price=found.price, size=size, day_volume=volume))
        quote = quoted(
            "pricing", ts_event, ts_recv, found.bid, found.bid_size or None, found.ask, found.ask_size or None
        )
        series = scope.series(symbol)
        if trades:  # told apart by time and the day's volume: it numbers nothing
            flags = 0 if size else NOT_VOLUME_ELIGIBLE
            exchange = scope.text(found.exchange or None)
            scope.trades.append(
                ts_event, ts_recv, series, exchange, volume, TEXT_NULL, plain(found.price), float(size), 0, TEXT_NULL,
                TEXT_NULL, flags,
            )  # fmt: skip
        if quotes and (found.bid or found.ask):
            bid, bid_size, ask, ask_size = quote
            scope.quotes.append(
                ts_event, ts_recv, series, LONG_NULL, plain(bid), bid_size, plain(ask), ask_size, TEXT_NULL, TEXT_NULL,
                TEXT_NULL, 0,
            )  # fmt: skip

    return decode
