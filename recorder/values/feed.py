"""What a feed is made of, as values: its spec, its capability record, its endpoint, and what a session may ask for."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from recorder.values.fix import FixLogon
from recorder.values.login import OAuth1

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


class FeedSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One configured feed, or one connection's share of it. Holds no secret: it is written into the journal."""

    name: str
    provider: str
    channels: tuple[str, ...] = ("trades", "quotes")
    symbols: tuple[str, ...] = ()  # canonical, or the provider's own spelling
    options: dict[str, str] = msgspec.field(default_factory=dict)  # api, market, feed, format … by provider
    url: str | None = None  # overrides the provider's own address
    rest_url: str | None = None
    schedule: str | None = None  # None: as [schedule] says
    connection: int = 0  # which of the feed's connections


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider can and cannot do. Session, kernels and coverage read it; none knows a provider by name."""

    # How its data comes. "poll": it is asked again and again, see ``Polled``; the limits of connections are then those
    # of the askers a recorder may run beside each other.
    transport: Literal["websocket", "sse", "poll", "fix", "files"] = "websocket"
    channels: tuple[str, ...]
    loss_detector: Literal["trade_id", "sequence", "none"]
    scope: Literal["symbol", "connection", "none"]
    loss_size_known: bool
    trade_ids: Literal["contiguous", "increasing", "per_exchange_day", "opaque"]
    quotes_counted: bool = False  # quotes of a symbol are numbered one by one: see ``Scope.counted``
    connections_max: int  # that one recorder may hold open
    symbols_per_connection_max: int
    subscribe_items_max: int  # symbols (or streams) in one subscribe message
    sends_per_second_max: float
    connects_per_minute_max: float
    connects_per_second_max: float = 8.0
    sends_shared: bool = False  # that many are sent by all connections together: the provider counts by address
    hold_ns: int = 0  # wait this long after a drop before connecting again
    life_ns: int = 0  # the provider cuts a connection of this age; 0: never
    # A second connection may be open while it replaces the first: trade ids are contiguous, and quotes are numbered by
    # symbol or carry the provider's time, so that what both deliver is told from what only one does.
    overlap: bool = False
    snapshots: tuple[str, ...] = ()  # channels that answer every subscription with rows at once, even in a quiet market
    revisions: bool = False  # the stream takes trades back or corrects them, by exchange and id
    session_zone: str = "UTC"  # whose midnight starts a new VWAP session
    history: str = ""  # in words, what backfill can reach
    history_channels: tuple[str, ...] = ()  # what ``Feed.history`` can fetch
    history_window_ns: int = 0  # how far back it reaches for ticks; 0: without an end
    history_from_now: bool = False  # trades can only be paged backwards from the newest
    history_timeframes: tuple[str, ...] = ()  # of bars in its history, ours: 1m, 1h, 1d …
    rest_per_second_max: float = 1.0  # HTTP requests, over all that ask the provider
    rest_quota: int = 0  # HTTP requests in any ``rest_quota_ns``, over all that ask it; 0: without such a limit
    rest_quota_ns: int = 0
    rest_weight_max: int = 0  # of X-MBX-USED-WEIGHT-1M: from there on nothing is asked in its minute; 0: not looked at
    limited_by: tuple[bytes, ...] = ()  # words of its short answers, of any status, to one who asks too much


def polled(channels: tuple[str, ...], symbols_max: int, per_second_max: float, **more: Any) -> Capability:
    """Of a provider that is asked, not listened to: no ids tell of a loss, nothing is sent. Days are New York's."""
    given: dict[str, Any] = {
        "transport": "poll", "channels": channels, "loss_detector": "none", "scope": "none", "loss_size_known": False,
        "trade_ids": "opaque", "connections_max": 1, "symbols_per_connection_max": symbols_max,
        "subscribe_items_max": 1, "sends_per_second_max": per_second_max, "connects_per_minute_max": 60.0,
        "session_zone": "America/New_York", "rest_per_second_max": per_second_max,
    }  # fmt: skip
    return Capability(**{**given, **more})


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How to open one connection and when to give it up."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    # A frame that has one of these byte strings at its offset is data and goes to decode alone; every other frame is
    # also offered to on_control. Cheap enough to be asked of every frame.
    data_marks: tuple[tuple[int, bytes], ...] = ()
    mixed: bool = False  # an answer may stand behind data in one frame: until it is ready, data is offered as well
    open_timeout_ns: int = 10 * SECOND
    ready_timeout_ns: int = 15 * SECOND  # from open to Ready: authentication and subscription
    silence_ns: int = 60 * SECOND  # no bytes at all for this long: the connection is dead
    ping_ns: int = 20 * SECOND  # WebSocket ping of ours; 0: never
    app_ping: bytes | None = None  # a provider's own ping message, sent as text every app_ping_ns
    app_ping_ns: int = 0
    compression: bool = False
    fix: FixLogon | None = None  # of a FIX session: who logs on


# Commands: what a feed's session wants done. Values only; the shell carries them out.


@dataclass(frozen=True)
class Send:
    """Send this message: str as a text frame, bytes as a binary frame. ``secret``: never to be logged or journalled."""

    payload: str | bytes
    secret: bool = False


@dataclass(frozen=True)
class Ready:
    """Authenticated and every subscription acknowledged; ``symbols`` is what the provider said it delivers."""

    symbols: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notice:
    """Something worth a log line and a row in feed_events."""

    event: str  # noun.verb_past
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reconnect:
    """Give this connection up and open another after at least ``hold_ns``."""

    reason: str
    hold_ns: int = 0


@dataclass(frozen=True)
class Renew:
    """Replace this connection by another, which delivers before this one is closed; where the provider allows one
    connection only, like Reconnect."""

    reason: str


@dataclass(frozen=True)
class Fatal:
    """Trying again cannot help until the user changes something (bad key, feed not in plan)."""

    reason: str


Command = Send | Ready | Notice | Reconnect | Renew | Fatal


Key = tuple[str, str]  # (channel, canonical symbol)


@dataclass(frozen=True)
class Subscriptions:
    """How far a connection's subscriptions are: ``desired`` by its spec, ``requested`` of the provider since the
    connection was opened, ``acknowledged`` by it. What is delivered is seen from the rows."""

    desired: frozenset[Key]
    requested: frozenset[Key]
    acknowledged: frozenset[Key]


@dataclass(frozen=True)
class HistoryRequest:
    """What to ask of a provider's history: a range of ids where both are known, else a range of time.

    symbol       canonical
    start, end   ns, both inclusive: between which ``ts_event`` lies
    from_id, to_id  both inclusive, or None
    timeframe    of bars: 1s, 1m, 5m, 1h, 1d …; a bar's ts_event is its start
    """

    symbol: str
    channel: str
    start: int
    end: int
    from_id: int | None = None
    to_id: int | None = None
    timeframe: str = ""


@dataclass(frozen=True)
class HttpRequest:
    """A GET. ``secret_headers`` and ``secret_query`` are sent, and never logged or journalled; keys never stand in the
    URL, and are struck out of an answer that repeats them.

    secret_query  further parameters, put behind those of the URL
    sign          how the shell signs it; empty: not at all
    accepts       statuses besides 200 whose answers whoever asks wants to be sent: a session that has expired …
    private       a handshake, for a cookie or a token: its answer is sent to whoever asks, whatever its status

    Of polls only answers with status 200 that are not private are journalled.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    secret_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    secret_query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    sign: str = ""
    accepts: tuple[int, ...] = ()
    private: bool = False


@dataclass(frozen=True)
class HttpResponse:
    """What came back. ``headers`` have lower-case names; several Set-Cookie are lines of one value. Without the secrets
    it was asked with."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ProviderInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What configuration must know of a provider."""

    name: str
    channels: tuple[str, ...]
    options: dict[str, tuple[str, ...]] = {}  # option → allowed values, first is default
    credentials: tuple[str, ...] = ()  # names of environment variables; NAME_FILE reads a file
    hosts: tuple[str, ...] = ()  # host names by which a capture of this provider is recognised
    login: OAuth1 | None = None  # how a person logs in, where one must
    table: str = ""  # of its feeds, [feeds.<table>]: written into ``FeedSpec.options`` under this name as JSON
    optional: tuple[str, ...] = ()  # of the credentials, those that a feed can do without
    schemes: tuple[str, str] = ("wss", "ws")  # of ``url``: encrypted, and for this machine only


class Feed(Protocol):
    """One file each under recorder/feeds/. An instance serves one connection."""

    def capability(self) -> Capability: ...

    def shards(self) -> list[FeedSpec]:
        """Split the spec over as many connections as the provider's limits ask for."""

    def endpoint(self) -> Endpoint: ...

    def on_open(self) -> list[Command]: ...

    def on_control(self, payload: bytes) -> list[Command]:
        """A frame that is not data: acknowledgement, error, heartbeat. Never raises on a provider's nonsense."""

    def subscriptions(self) -> Subscriptions: ...

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        """Ask again for these, on the open connection."""

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        """From now on these are the symbols of the spec: unsubscribe what is gone, subscribe what is new.

        Raises SymbolError, before anything has changed. Ready follows when all is acknowledged.
        """

    def decoder(self, out: Any) -> Callable[[bytes, int], None]:
        """Return decode(payload, ts_recv): frame → rows into ``out``. Raises FrameError for what does not fit."""

    # A feed whose transport is "fix" may also have ``lost() -> list[Command]``, called when messages did not come, and
    # ``waiting``, true while ``on_control`` must see data because it may be an answer.

    # A feed whose transport is "sse" may also have ``after: str``: what it asks for besides the protocol's
    # Last-Event-ID, learnt from every event; set when a stream goes on where an earlier process left it.

    # A feed may also have ``templates(out) -> recorder.core.templates.Templates | None``, asked for after ``decoder``
    # with the same ``out``: its commonest messages as they look, which compiled code then turns into rows without a
    # call of decode. What they match, decode must read just so; every other frame goes to decode.


class Historian(Protocol):
    """What a feed has besides when its capability names ``history_channels``."""

    def capability(self) -> Capability: ...

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        """Yield a request, be sent its response (status 200 only), yield the next page, return when there is no more.

        Raises SymbolError, ConfigError, and FrameError for an answer that is an error.
        """

    def history_decoder(self, out: Any) -> Callable[[HistoryRequest, bytes, int], None]:
        """Return decode(request, body, ts_recv): one page → rows into ``out``.

        Rows have the flag BACKFILLED and the identity they have from the stream. Raises FrameError, also for an error
        that comes as HTTP 200.
        """


@dataclass(frozen=True)
class Poll:
    """A question asked again and again of a provider that cannot be listened to.

    key       names it in the journal beside every answer: "chart AAPL"; holds no secret
    every_ns  between the beginnings of two rounds
    ask       makes a round: yields requests, is sent their answers (status 200, and what a request accepts), returns
              when there is no more. Raises FrameError for an answer that is an error, Limited for one that asks to be
              asked less
    """

    key: str
    every_ns: int
    ask: Callable[[], Generator[HttpRequest, HttpResponse, None]]


class Polled(Protocol):
    """A feed whose capability says transport "poll". One task asks all its questions, one after the other."""

    def capability(self) -> Capability: ...

    def shards(self) -> list[FeedSpec]:
        """As of a Feed: who asks beside each other. One, unless a provider answers so slowly that more are needed."""

    def polls(self) -> tuple[Poll, ...]:
        """What to ask; no two with the same key."""

    def poll_decoder(self, out: Any) -> Callable[[str, bytes, int], None]:
        """Return decode(key, body, ts_recv): one answer → rows into ``out``.

        Raises FrameError for what does not fit and for an error that comes as HTTP 200: then none of its rows is kept.
        The same is answered again and again: identity columns must be the provider's own, its time above all.
        """
