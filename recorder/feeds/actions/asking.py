"""What every provider of corporate actions shares: its place as a source of the journal, and how an action is stored.

A version of an action is stored when its content is new; an answer that says the same again gives no row. What was said
last is kept with the decoder's state, so a replay of the journal gives the same versions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import msgspec

from recorder.core.batch import Scope
from recorder.values.errors import FrameError
from recorder.values.feed import Capability, FeedSpec, HistoryRequest, HttpRequest, HttpResponse, ProviderInfo
from recorder.values.history import checked, rest_base
from recorder.values.schedule import NEW_YORK
from recorder.values.schema import TEXT_NULL
from recorder.values.symbols import hashed_id
from recorder.values.tables import ACTION_TYPES

CHANNEL = "actions"
ID_CHARS_MAX = 128  # of ids and symbols: a uuid has 36, Polygon's hashes 65
_CODES = {name: code for code, name in enumerate(ACTION_TYPES, 1)}
_NAN = math.nan


@dataclass(frozen=True, kw_only=True)
class Action:
    """One action as a provider tells it; fields as in the table corporate_actions.

    day      its ex date, else its effective date, ``2024-06-10``
    details  further fields, of which a change makes a new version
    """

    symbol: str
    action_type: str
    day: str
    action_id: str | None = None
    ratio: float | None = None
    amount: float | None = None
    currency: str | None = None
    new_symbol: str | None = None
    zone: str = NEW_YORK
    details: Mapping[str, Any] = field(default_factory=dict)


class Asked(ABC):
    """A provider that is asked for actions. Has what the journal and the fold need of a feed, and no stream."""

    INFO: ClassVar[ProviderInfo]
    URL: ClassVar[str]
    PER_SECOND_MAX: ClassVar[float]
    REACHES: ClassVar[str]

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        self.spec, self.credentials = spec, credentials or {}

    def capability(self) -> Capability:
        return Capability(
            channels=(CHANNEL,),
            loss_detector="none",
            scope="none",
            loss_size_known=False,
            trade_ids="opaque",
            connections_max=0,
            symbols_per_connection_max=1,
            subscribe_items_max=1,
            sends_per_second_max=1.0,
            connects_per_minute_max=1.0,
            session_zone=NEW_YORK,
            history=self.REACHES,
            history_channels=(CHANNEL,),
            rest_per_second_max=self.PER_SECOND_MAX,
        )

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        def decode(payload: bytes, ts_recv: int) -> None:
            raise FrameError(f"{self.spec.provider} has no stream of corporate actions")

        return decode

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        """Raises ConfigError."""
        base = rest_base(self.spec, self.INFO.hosts, self.URL)
        yield from self.pages(checked(self.spec, self.capability(), base, request), request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        store = Store(out)

        def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
            for action in self.actions(request, body, lambda why, part: out.reject(why, part, ts_recv)):
                try:
                    store(request, action, ts_recv)
                except FrameError as error:
                    out.reject(str(error), repr(action).encode(), ts_recv)

        return decode

    @abstractmethod
    def pages(self, base: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        """As ``Historian.history``. ``request.symbol`` is canonical; its times are of ``ts_event``."""

    @abstractmethod
    def actions(self, request: HistoryRequest, body: bytes, refuse: Callable[[str, bytes], None]) -> list[Action]:
        """What an answer tells; what does not fit goes to ``refuse(reason, its bytes)``. Raises FrameError."""


class Store:
    """Appends rows of corporate_actions, one for each version of an action."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._said = scope.kept(CHANNEL)  # symbol, type and id of an action → what was said of it last, hashed
        self._known = scope.kept("known")  # the same → ts_known of that

    def __call__(self, request: HistoryRequest, action: Action, ts_recv: int) -> None:
        """Raises FrameError for what cannot be an action."""
        ts_event = midnight(action.day, action.zone)
        if not request.start <= ts_event <= request.end:
            return
        action_id = action.action_id or f"{action.action_type} {action.day}"
        checked_texts(action, action_id)
        details = msgspec.json.encode(dict(sorted(action.details.items()))).decode()
        numbers = (action.ratio, action.amount)
        if any(number is not None and not 0.0 < number < math.inf for number in numbers):
            raise FrameError(f"{action.symbol} {action_id}: ratio {action.ratio}, amount {action.amount}: not above 0")
        key = f"{action.symbol} {action.action_type} {action_id}"
        said = hashed_id(repr((ts_event, numbers, action.currency, action.new_symbol, details)))
        if self._said.get(key) == said:
            return
        scope, text = self._scope, self._scope.text
        # Several versions may come in one read, as after a break: each has a time of its own, in their order.
        ts_known = self._known[key] = max(ts_recv, self._known.get(key, 0) + 1)
        scope.actions.append(
            ts_event, ts_recv, scope.series(action.symbol), _CODES[action.action_type], text(action_id), ts_known,
            _NAN if action.ratio is None else action.ratio, _NAN if action.amount is None else action.amount,
            text(action.currency), text(action.new_symbol),
            scope.actions.varchar(details) if action.details else TEXT_NULL,
        )  # fmt: skip
        self._said[key] = said


def checked_texts(action: Action, action_id: str) -> None:
    """Raises FrameError for a name or an id that cannot be one: a provider may send anything in its place."""
    for text in (action.symbol, action_id, action.currency, action.new_symbol):
        if text is not None and (
            not isinstance(text, str) or not text.isprintable() or not 0 < len(text) <= ID_CHARS_MAX
        ):
            raise FrameError(f"{str(text)[:80]!r} is neither a symbol nor an id")


def midnight(day: str, zone: str) -> int:
    """ns of the midnight that begins ``2024-06-10`` in a zone. Raises FrameError, also before 1970."""
    try:
        moment = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=ZoneInfo(zone))
        seconds = int(moment.timestamp())
    except (ValueError, TypeError, LookupError, OSError, OverflowError) as error:
        raise FrameError(f"{day!r} in {zone!r} is no day: {error}") from None
    if seconds < 0:
        raise FrameError(f"{day} is before 1970, which the database cannot hold")
    return seconds * 1_000_000_000
