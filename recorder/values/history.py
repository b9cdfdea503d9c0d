"""What every feed's history shares: addresses, times in them, which rows were asked for, and how far to page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlencode, urlsplit

from recorder.values.errors import ConfigError, nearest
from recorder.values.feed import SECOND, Capability, FeedSpec, HistoryRequest

# One request ends after so many pages: a million trades at a provider's 1000 a page, minutes at its pace. What is still
# missing then is asked for anew, by a smaller range.
PAGES_MAX = 1000


def rest_base(spec: FeedSpec, hosts: tuple[str, ...], default: str) -> str | None:
    """Where the provider's HTTP interface is: ``spec.rest_url``, else its own; without a slash at the end.

    hosts  of the provider's own streams. None where the stream comes from another host and no ``rest_url`` is set: the
           real provider's trades are not those of a simulated exchange.
    """
    if spec.rest_url is not None:
        return spec.rest_url.rstrip("/")
    if spec.url is not None and urlsplit(spec.url).hostname not in hosts:
        return None
    return default


def checked(spec: FeedSpec, capability: Capability, base: str | None, request: HistoryRequest) -> str:
    """``base``, if this can be asked for. Raises ConfigError with what to do."""
    if base is None:
        raise ConfigError(f"feed {spec.name!r} has a url of its own: set rest_url as well to fetch history")
    if request.channel not in capability.history_channels:
        offered = ", ".join(capability.history_channels) or "nothing"
        raise ConfigError(
            f"feed {spec.name!r}: {spec.provider} has no history of {request.channel!r}; it has {offered}"
        )
    if request.channel == "bars" and request.timeframe not in capability.history_timeframes:
        words = nearest(request.timeframe, capability.history_timeframes)
        raise ConfigError(f"feed {spec.name!r}: {spec.provider} has no bars of {request.timeframe!r}; {words}")
    return base


def by_channel(
    decoders: Mapping[str, Callable[[HistoryRequest, bytes, int], None]],
) -> Callable[[HistoryRequest, bytes, int], None]:
    """A ``Feed.history_decoder`` of one for each channel."""

    def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
        decoders[request.channel](request, body, ts_recv)

    return decode


def address(base: str, path: str, **query: object) -> str:
    """``base`` + ``path`` with the parameters that are not None."""
    text = urlencode({name: value for name, value in query.items() if value is not None}, quote_via=quote)
    return f"{base}{path}?{text}" if text else base + path


def by_id(request: HistoryRequest) -> bool:
    """Whether the range of ids counts; the range of time otherwise."""
    return request.from_id is not None and request.to_id is not None


def asked(request: HistoryRequest, ts_event: int, trade_id: int) -> bool:
    """Whether a row belongs to what was asked for. Pages hold more: they are cut by count or by the second."""
    if request.from_id is not None and request.to_id is not None:
        return request.from_id <= trade_id <= request.to_id
    return request.start <= ts_event <= request.end


def rfc3339(ns: int) -> str:
    """Unix ns as RFC 3339 with nine digits, in UTC."""
    seconds, part = divmod(ns, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{part:09d}Z"
