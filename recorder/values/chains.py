"""What providers that are asked for option chains have in common: underlyings, each asked for again and again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

from recorder.values.feed import (
    HOUR,
    MINUTE,
    Capability,
    FeedSpec,
    HttpRequest,
    HttpResponse,
    Poll,
    ProviderInfo,
    polled,
)
from recorder.values.messages import option, sharded

CHANNEL = "options"
# Between two chains of an underlying: the option "interval", whose first is the default.
INTERVALS = {"15m": 15 * MINUTE, "5m": 5 * MINUTE, "30m": 30 * MINUTE, "1h": HOUR}


class ChainFeed:
    """What is asked of a provider for one feed whose channel is ``options``; symbols are underlyings.

    symbols         canonical, and those given twice once
    symbols_max     as many as can be asked for in the default interval
    per_second_max  requests
    A provider's class adds ``asker(symbol)``, which gives what ``Poll.ask`` calls, and ``poll_decoder``.
    """

    asker: Callable[[str], Callable[[], Generator[HttpRequest, HttpResponse, None]]]

    def __init__(
        self, info: ProviderInfo, spec: FeedSpec, symbols: Iterable[str], symbols_max: int, per_second_max: float
    ) -> None:
        """Raises ConfigError, SymbolError."""
        self.spec = spec
        self._every_ns = INTERVALS[option(info, spec, "interval")]
        self._symbols = tuple(dict.fromkeys(symbols))
        self._capability = polled((CHANNEL,), symbols_max, per_second_max)

    def capability(self) -> Capability:
        return self._capability

    def shards(self) -> list[FeedSpec]:
        return sharded(self.spec, self._capability)

    def polls(self) -> tuple[Poll, ...]:
        return tuple(Poll(f"chain {symbol}", self._every_ns, self.asker(symbol)) for symbol in self._symbols)
