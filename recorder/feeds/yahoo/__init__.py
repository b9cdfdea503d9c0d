"""Yahoo Finance, undocumented: bars and option chains asked over HTTP, last prices and quotes from its streamer.

Its endpoints are known from clients of others and may change or refuse. Current ones imitate a browser; this one does
not.
"""

from __future__ import annotations

from collections.abc import Mapping

from recorder.feeds.yahoo.asked import YahooAsked
from recorder.feeds.yahoo.names import INFO
from recorder.feeds.yahoo.stream import YahooStream
from recorder.values.feed import FeedSpec
from recorder.values.messages import option

__all__ = ["INFO", "YahooAsked", "YahooStream", "yahoo"]


def yahoo(spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> YahooAsked | YahooStream:
    """The feed that the option ``api`` names."""
    return YahooStream(spec) if option(INFO, spec, "api") == "stream" else YahooAsked(spec)
