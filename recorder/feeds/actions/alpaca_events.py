"""Alpaca's corporate actions as they change: a stream of server-sent events.

https://docs.alpaca.markets/us/reference/subscribetocorporateactionseventssse

Events are inclusive of the one asked to go on after, and each is an insertion, an update or a deletion of an action: a
row is a version, what says the same again gives none. That the stream numbers its events by ``id:`` lines is
unverified: their ``event_id`` is asked for as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from recorder.core.batch import Scope
from recorder.core.event_stream import read_event
from recorder.feeds.actions.alpaca import KEY_ID, SECRET_KEY, _action
from recorder.feeds.actions.asking import Action, Store
from recorder.values.errors import ConfigError, FrameError, nearest
from recorder.values.feed import (
    MINUTE,
    SECOND,
    Capability,
    Command,
    Endpoint,
    FeedSpec,
    HistoryRequest,
    Key,
    ProviderInfo,
    Ready,
    Subscriptions,
)
from recorder.values.history import address
from recorder.values.messages import UNREADABLE, option
from recorder.values.schedule import NEW_YORK
from recorder.values.symbols import ticker

CHANNEL = "corporate_actions"
URL = "https://stream.data.alpaca.markets"  # not the host of the other answers, which knows no events
PATH = "/v1beta1/events/corporate-actions"
INFO = ProviderInfo(
    name="alpaca_events",
    channels=(CHANNEL,),
    options={"region": ("us", "non_us", "all")},
    credentials=(KEY_ID, SECRET_KEY),
    hosts=("stream.data.alpaca.markets", "stream.data.sandbox.alpaca.markets"),
    schemes=("https", "http"),
)
SYMBOLS_MAX = 1 << 17  # none are asked for: the stream is whole, and what is not wanted is passed over
CONNECTS_PER_MINUTE_MAX = 12.0
DROP_HOLD_NS = 2 * SECOND
SILENCE_NS = 5 * MINUTE  # how often comments keep a quiet stream alive is not documented
_SUFFIX = "_corporateaction_event"
_IRREGULAR = {"equity_partial_call": "partial_calls"}  # types that are not their list's name in the singular
EVER = HistoryRequest(symbol="*", channel=CHANNEL, start=-(1 << 62), end=1 << 62)


class _Event(msgspec.Struct):
    """{"event_type":"forward_split_corporateaction_event","event_id":"01KM5CDQXQAE67Z5NHCJZHQ5XV","at":
    "2026-03-19T22:50:11.729329Z","action":"update","region":"us","ca":{"id":"78467a10-…","symbol":"NVDA",
    "old_rate":"1","new_rate":"10","ex_date":"2026-06-10",…}}: decimals are texts here"""

    event_type: str
    event_id: str
    action: Literal["insert", "update", "delete"]
    ca: dict[str, Any]
    at: str = ""
    region: str = ""


_one = msgspec.json.Decoder(_Event).decode
_some = msgspec.json.Decoder(list[msgspec.Raw]).decode
_id = msgspec.json.Decoder(list[dict[str, Any]]).decode


class AlpacaEvents:
    """The stream. A connection goes on after the last event that was journalled, ``after``."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError, SymbolError."""
        self.spec, self._credentials = spec, credentials or {}
        self._region = option(INFO, spec, "region")
        for channel in spec.channels:
            if channel != CHANNEL:
                raise ConfigError(
                    f"feed {spec.name!r}: alpaca_events has no {channel!r}; {nearest(channel, (CHANNEL,))}"
                )
        self._symbols = tuple(dict.fromkeys(symbol if symbol == "*" else ticker(symbol) for symbol in spec.symbols))
        self.after = ""  # event_id of the last one that came
        self._open = False

    def capability(self) -> Capability:
        return Capability(
            channels=(CHANNEL,),
            transport="sse",
            loss_detector="none",
            scope="none",
            loss_size_known=False,
            trade_ids="opaque",
            connections_max=1,
            symbols_per_connection_max=SYMBOLS_MAX,
            subscribe_items_max=SYMBOLS_MAX,
            sends_per_second_max=1.0,
            connects_per_minute_max=CONNECTS_PER_MINUTE_MAX,
            hold_ns=DROP_HOLD_NS,
            session_zone=NEW_YORK,
            history="the events since the last one that came",
        )

    def shards(self) -> list[FeedSpec]:
        return [msgspec.structs.replace(self.spec, symbols=self._symbols)]

    def endpoint(self) -> Endpoint:
        url = self.spec.url or URL
        if urlsplit(url).path in ("", "/"):
            url = url.rstrip("/") + PATH
        names = ("APCA-API-KEY-ID", "APCA-API-SECRET-KEY")
        keys = zip(names, (self._credentials.get(name, "") for name in INFO.credentials), strict=True)
        return Endpoint(
            url=address(url, "", region=self._region, since_id=self.after or None),
            headers=tuple(keys),
            silence_ns=SILENCE_NS,
        )

    def on_open(self) -> list[Command]:
        self._open = True
        return [Ready(self._symbols)]

    def on_control(self, payload: bytes) -> list[Command]:
        """Every event: the last one is where the next connection goes on."""
        try:
            events = _id(_listed(read_event(payload).data))
        except UNREADABLE:
            return []  # decode says what is wrong with it
        found = events[-1].get("event_id") if events else None
        if isinstance(found, str) and found.isalnum() and found.isascii() and len(found) <= 64:
            self.after = found
        return []

    def subscriptions(self) -> Subscriptions:
        keys = frozenset((CHANNEL, symbol) for symbol in self._symbols)
        asked = keys if self._open else frozenset()
        return Subscriptions(keys, asked, asked)

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        return []  # an event a week is much for a symbol: silence says nothing

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        self._symbols = tuple(dict.fromkeys(symbol if symbol == "*" else ticker(symbol) for symbol in symbols))
        self.spec = msgspec.structs.replace(self.spec, symbols=symbols)
        return [Ready(self._symbols)]

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        store = Store(out)
        wanted = None if "*" in self._symbols or not self._symbols else frozenset(self._symbols)

        def decode(payload: bytes, ts_recv: int) -> None:
            data = read_event(payload).data
            if not data:
                return
            try:
                events = _some(_listed(data))
            except UNREADABLE as error:
                raise FrameError(f"no events: {error}") from None
            for raw in events:
                try:
                    action = _told(_one(raw))
                    if wanted is None or action.symbol in wanted:
                        store(EVER, action, ts_recv)
                except (
                    *UNREADABLE,
                    FrameError,
                    KeyError,
                    TypeError,
                    ValueError,
                    ArithmeticError,
                    StopIteration,
                ) as error:
                    out.reject(f"{type(error).__name__}: {error}", bytes(raw), ts_recv)

        return decode


def _listed(data: bytes) -> bytes:
    """Documented as an array of events, shown as one: both are read."""
    return b"[" + data + b"]" if data.lstrip()[:1] == b"{" else data


def _told(event: _Event) -> Action:
    """A version of an action; of a deleted one what it was, without what it would have changed."""
    type_ = event.event_type.removesuffix(_SUFFIX)
    kind = _IRREGULAR.get(type_, type_ + "s")
    action = _action(kind, event.ca)
    if event.action != "delete":
        return action
    return Action(
        symbol=action.symbol,
        action_type=action.action_type,
        day=action.day,
        action_id=action.action_id,
        details={**action.details, "deleted": True},
    )
