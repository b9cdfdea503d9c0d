"""What Yahoo offers, and how it spells symbols."""

from __future__ import annotations

import re
from collections.abc import Iterable

from recorder.values.errors import ConfigError, SymbolError, nearest
from recorder.values.feed import FeedSpec, ProviderInfo

TIMEFRAMES = {  # ours → interval, range; not 30m, which its server makes wrongly
    "1d": ("1d", "1mo"), "1m": ("1m", "1d"), "2m": ("2m", "1d"), "5m": ("5m", "1d"), "15m": ("15m", "5d"),
    "1h": ("1h", "5d"), "90m": ("90m", "5d"),
}  # fmt: skip
CHANNELS = {"stream": ("trades", "quotes"), "rest": ("bars", "options")}
INFO = ProviderInfo(
    name="yahoo",
    channels=("trades", "quotes", "bars", "options"),
    options={
        "api": tuple(CHANNELS),
        "timeframe": tuple(TIMEFRAMES),
        "hours": ("regular", "extended"),  # of bars within a day
        "expirations": ("nearest", "all"),
    },
    hosts=("query1.finance.yahoo.com", "query2.finance.yahoo.com", "streamer.finance.yahoo.com"),
)

SYMBOL_CHARS_MAX = 32
_NAME = re.compile(r"\^?[A-Z0-9][A-Z0-9.=-]*")
_CLASS_SHARE = re.compile(r"([A-Z]{1,5})[.-]([AB])")


def own_name(symbol: str) -> str:
    """As Yahoo spells it: ``BRK.B`` is BRK-B; a suffix such as that of VOD.L is an exchange's. Raises SymbolError."""
    name = symbol.strip().upper()
    if not _NAME.fullmatch(name) or len(name) > SYMBOL_CHARS_MAX:
        raise SymbolError(f"{symbol[:SYMBOL_CHARS_MAX]!r} is not a symbol of Yahoo; write for example AAPL or BTC-USD")
    share = _CLASS_SHARE.fullmatch(name)
    return f"{share[1]}-{share[2]}" if share else name


def canonical(name: str) -> str:
    """As rows carry it. Raises SymbolError."""
    share = _CLASS_SHARE.fullmatch(own_name(name))
    return f"{share[1]}.{share[2]}" if share else name


def own_names(spec: FeedSpec, api: str) -> tuple[str, ...]:
    """Of the feed's symbols, each once. Raises ConfigError for a channel that is not of this interface."""
    for channel in spec.channels:
        if channel not in CHANNELS[api]:
            others = [name for name, channels in CHANNELS.items() if channel in channels]
            words = f"is of api = {others[0]!r}, give it a feed of its own" if others else "is not known"
            known = nearest(channel, CHANNELS[api])
            raise ConfigError(f"feed {spec.name!r}: yahoo's channel {channel!r} with api = {api!r} {words}; {known}")
    return _once(own_name(symbol) for symbol in spec.symbols)


def _once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
