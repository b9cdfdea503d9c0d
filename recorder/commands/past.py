"""Who is asked for a provider's past, and by which names: what ``backfill`` and the library share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from recorder.feeds import PROVIDERS, make
from recorder.values.errors import ConfigError, SymbolError
from recorder.values.feed import FeedSpec

EVERY = "*"  # all that a provider has: streams have it, histories do not


def historian(spec: FeedSpec, channel: str, keys: Mapping[str, str]) -> tuple[FeedSpec, Any]:
    """The feed that knows a channel's past, and its spec: with a channel that goes with its options.

    Raises SymbolError, ConfigError.
    """
    first = PROVIDERS[spec.provider].channels[0]
    plain, own = (msgspec.structs.replace(spec, channels=(name,)) for name in (first, channel))
    try:
        return plain, make(plain, keys)
    except ConfigError:
        if channel == first or channel not in PROVIDERS[spec.provider].channels:
            raise
    return own, make(own, keys)


def canonical(spec: FeedSpec, symbols: Iterable[str], keys: Mapping[str, str]) -> tuple[str, ...]:
    """Canonical symbols of the feed's provider, each once, in this order: ``btc-usd`` and ``BTC/USD`` are BTC-USD.

    spec  of the feed; its own symbols do not matter. One that is polled names them in its answers: they stay as given
    Raises SymbolError for what the provider cannot have, ConfigError.
    """
    found: dict[str, None] = {}
    for symbol in symbols:
        if symbol.strip() == EVERY:
            raise SymbolError(f"{symbol!r} is no symbol whose past can be asked for: name each of them")
        feed: Any = make(msgspec.structs.replace(spec, symbols=(symbol,)), keys)
        listened = hasattr(feed, "subscriptions")
        found |= dict.fromkeys([name for _, name in feed.subscriptions().desired] if listened else [symbol])
    return tuple(found)
