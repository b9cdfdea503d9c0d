"""E*TRADE's market interface, asked again and again: quotes of shares and options, option chains with Greeks.

https://apisb.etrade.com/docs/api/market/api-quote-v1.html , …/api-market-v1.html
There is no stream and no history. A person logs in each day (``recorder login etrade``); the shell signs the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from functools import partial

from recorder.core.batch import Scope
from recorder.feeds.etrade.messages import PASSED_OVER_ERRORS, expirations, name_of, read, taken
from recorder.feeds.etrade.rows import decoder
from recorder.values.errors import ConfigError, FrameError, SymbolError, nearest
from recorder.values.feed import (
    HOUR,
    MINUTE,
    SECOND,
    Capability,
    FeedSpec,
    HttpRequest,
    HttpResponse,
    Poll,
    ProviderInfo,
    polled,
)
from recorder.values.history import address
from recorder.values.login import OAuth1
from recorder.values.messages import chunks, option, sharded
from recorder.values.schedule import NEW_YORK

SECONDS = {"1s": 1, "2s": 2, "5s": 5, "15s": 15, "1m": 60, "5m": 300, "15m": 900, "1h": 3600}
INFO = ProviderInfo(
    name="etrade",
    channels=("trades", "quotes", "options"),
    options={
        "environment": ("live", "sandbox"),  # the sandbox gives canned answers, of other symbols too
        "interval": ("5s", "1s", "2s", "15s", "1m"),  # of quotes
        "chain_interval": ("5m", "1m", "15m", "1h"),
        "expirations": ("all", "1", "4"),  # the next ones, of a chain
    },
    credentials=("ETRADE_CONSUMER_KEY", "ETRADE_CONSUMER_SECRET"),
    hosts=("api.etrade.com", "apisb.etrade.com"),
    login=OAuth1(
        title="E*TRADE",
        base="https://api.etrade.com",  # of the sandbox too
        request="/oauth/request_token",
        access="/oauth/access_token",
        renew="/oauth/renew_access_token",
        revoke="/oauth/revoke_access_token",
        authorize="https://us.etrade.com/e/t/etws/authorize?key={key}&token={token}",
        code_ns=5 * MINUTE,
        zone=NEW_YORK,
        idle_ns=2 * HOUR,
        renew_ns=110 * MINUTE,
    ),
)

BASES = {"live": "https://api.etrade.com", "sandbox": "https://apisb.etrade.com"}
SYMBOLS_MAX, OVERRIDDEN_MAX = 25, 50  # in one question; the second with overrideSymbolCount
PER_SECOND_MAX = 2.0  # half of what an older guide allows: 4 a second and 14,000 an hour, of all a user's programs
PER_HOUR_MAX = 14_000
INVALID_SYMBOL = 1019


class Etrade:
    """The questions of one feed."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        self.spec = spec
        wrong = [channel for channel in spec.channels if channel not in INFO.channels]
        if wrong:
            raise ConfigError(
                f"feed {spec.name!r}: etrade has no channel {wrong[0]!r}; {nearest(wrong[0], INFO.channels)}"
            )
        self._options = {name: option(INFO, spec, name) for name in INFO.options}
        self._base = (spec.rest_url or BASES[self._options["environment"]]).rstrip("/")
        self._names = tuple(dict.fromkeys(name_of(symbol) for symbol in spec.symbols))
        self._underlyings = tuple(name for name in self._names if ":" not in name)
        self._unknown: set[str] = set()  # names that E*TRADE does not know: not asked for again
        if set(spec.channels) == {"options"} and len(self._underlyings) < len(self._names):
            words = "channel options is of underlyings, such as IBM; of contracts record quotes"
            raise SymbolError(f"feed {spec.name!r}: {words}")

    def capability(self) -> Capability:
        interval_s = SECONDS[self._options["interval"]]
        return polled(
            INFO.channels,
            int(PER_SECOND_MAX * interval_s) * OVERRIDDEN_MAX,
            PER_SECOND_MAX,
            rest_quota=PER_HOUR_MAX,
            rest_quota_ns=HOUR,
            subscribe_items_max=OVERRIDDEN_MAX,
        )

    def shards(self) -> list[FeedSpec]:
        return sharded(self.spec, self.capability())

    def polls(self) -> tuple[Poll, ...]:
        result: list[Poll] = []
        if {"trades", "quotes"} & set(self.spec.channels):
            every_ns = SECONDS[self._options["interval"]] * SECOND
            size = SYMBOLS_MAX if len(self._names) <= SYMBOLS_MAX else OVERRIDDEN_MAX
            shares = enumerate(chunks(self._names, size))
            result += [Poll(f"quotes {i}", every_ns, partial(self._quotes, names)) for i, names in shares]
        if "options" in self.spec.channels:
            every_ns = SECONDS[self._options["chain_interval"]] * SECOND
            result += [Poll(f"chain {name}", every_ns, partial(self._chain, name)) for name in self._underlyings]
        return tuple(result)

    def poll_decoder(self, out: Scope) -> Callable[[str, bytes, int], None]:
        return decoder(out, frozenset(self.spec.channels))

    def _get(self, path: str, **query: object) -> HttpRequest:
        return HttpRequest(address(self._base, path, **query), sign="oauth1", accepts=(400,))

    def _quotes(self, names: list[str]) -> Generator[HttpRequest, HttpResponse, None]:
        """One question, unless E*TRADE refuses all symbols for one it does not know: then halves, to find which."""
        waiting, found = [[name for name in names if name not in self._unknown]], []
        while waiting:
            some = waiting.pop()
            if not some:
                continue
            more = {"overrideSymbolCount": "true"} if len(some) > SYMBOLS_MAX else {}
            listed = ",".join(some)
            answer = yield self._get(
                f"/v1/market/quote/{listed}.json", detailFlag="ALL", skipMiniOptionsCheck="true", **more
            )
            page = read(answer.body)
            if answer.status == 200 and page.Error is None:
                continue
            if page.Error is None or page.Error.code != INVALID_SYMBOL:
                taken(page)
                raise FrameError(f"E*TRADE: HTTP {answer.status} without an error")
            if len(some) == 1:
                found.append(some[0])
            else:
                waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
        if found:
            self._unknown.update(found)
            raise FrameError(f"E*TRADE does not know {', '.join(found)} ({INVALID_SYMBOL}): not asked for any more")

    def _chain(self, name: str) -> Generator[HttpRequest, HttpResponse, None]:
        """Expiration dates, what the underlying costs (as far as it has a quote), then the contracts of each date."""
        answer = yield self._get("/v1/market/optionexpiredate.json", symbol=name, expiryType="ALL")
        days = expirations(answer.body)
        if not days:
            return
        yield self._get(f"/v1/market/quote/{name}.json", detailFlag="ALL", skipMiniOptionsCheck="true")
        wanted = self._options["expirations"]
        for day in days if wanted == "all" else days[: int(wanted)]:
            answer = yield self._get(
                "/v1/market/optionchains.json", symbol=name, expiryYear=day.year, expiryMonth=day.month,
                expiryDay=day.day, includeWeekly="true", skipAdjusted="false", optionCategory="ALL",
                chainType="CALLPUT", priceType="ALL",
            )  # fmt: skip
            page = read(answer.body)
            if page.Error is not None and page.Error.code not in PASSED_OVER_ERRORS:
                taken(page)
