"""Yahoo's charts and option chains, asked over HTTP; chains need a cookie and a crumb, which are fetched first."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from urllib.parse import quote

from recorder.core.batch import Scope
from recorder.feeds.yahoo import history
from recorder.feeds.yahoo.names import CHANNELS, INFO, TIMEFRAMES, own_names
from recorder.feeds.yahoo.rows import SECONDS, check, decoder, expirations
from recorder.values.errors import FrameError, Limited
from recorder.values.feed import (
    HOUR,
    MINUTE,
    SECOND,
    Capability,
    FeedSpec,
    HistoryRequest,
    HttpRequest,
    HttpResponse,
    Poll,
    polled,
)
from recorder.values.history import address, checked, rest_base
from recorder.values.messages import option, sharded

CRUMBS = "https://query1.finance.yahoo.com"
COOKIES = "https://fc.yahoo.com"
DAY_EVERY_NS = HOUR
CHAIN_EVERY_NS = 5 * MINUTE
EXPIRATIONS_MAX = 100  # SPY has under 40
_COOKIE = re.compile(r"([\w.-]+=[\x21-\x3a\x3c-\x7e]*)")
_CRUMB = re.compile(r"[\x21-\x3b\x3d-\x7e]{1,64}")
EXPIRED = (401, 403)  # a crumb

Asking = Generator[HttpRequest, HttpResponse, None]


class YahooAsked:
    """What is asked of Yahoo for one feed."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        self.spec = spec
        self._names = own_names(spec, "rest")
        self._options = {name: option(INFO, spec, name) for name in INFO.options}
        own = spec.rest_url.rstrip("/") if spec.rest_url else None
        self._charts, self._crumbs, self._cookies = (own or base for base in (history.URL, CRUMBS, COOKIES))
        self._cookie = self._crumb = ""

    def capability(self) -> Capability:
        return polled(
            CHANNELS["rest"],
            10_000,  # not a limit of theirs: a round of so many takes three hours
            history.PER_SECOND_MAX,
            history="bars of a minute for 7 days, of 15 minutes for 60, of an hour for 730, of a day for ever",
            history_channels=("bars",) if self._base() is not None else (),
            history_timeframes=history.NAMES,
        )

    def _base(self) -> str | None:
        return rest_base(self.spec, INFO.hosts, history.URL)

    def shards(self) -> list[FeedSpec]:
        return sharded(self.spec, self.capability())

    def polls(self) -> tuple[Poll, ...]:
        timeframe, polls = self._options["timeframe"], []
        every_ns = DAY_EVERY_NS if timeframe == "1d" else SECONDS[timeframe] * SECOND
        for name in self._names:
            if "bars" in self.spec.channels:
                polls.append(Poll(f"chart {name} {timeframe}", every_ns, self._charter(name)))
            if "options" in self.spec.channels:
                polls.append(Poll(f"options {name}", CHAIN_EVERY_NS, self._chainer(name)))
        return tuple(polls)

    def poll_decoder(self, out: Scope) -> Callable[[str, bytes, int], None]:
        return decoder(out)

    def history(self, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        return history.pages(checked(self.spec, self.capability(), self._base(), request), request)

    def history_decoder(self, out: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
        return history.decoder(out)

    def _charter(self, name: str) -> Callable[[], Asking]:
        interval, range_ = TIMEFRAMES[self._options["timeframe"]]
        extended = str(self._options["hours"] == "extended").lower()
        path = f"/v8/finance/chart/{quote(name, safe='')}"
        url = address(self._charts, path, interval=interval, range=range_, includePrePost=extended)

        def ask() -> Asking:
            answer = yield HttpRequest(url)
            check(answer.body)

        return ask

    def _chainer(self, name: str) -> Callable[[], Asking]:
        path = f"/v7/finance/options/{quote(name, safe='')}"

        def ask() -> Asking:
            first = yield from self._with_crumb(address(self._charts, path))
            check(first.body)
            if self._options["expirations"] == "all":
                for seconds in expirations(first.body)[1:EXPIRATIONS_MAX]:
                    answer = yield from self._with_crumb(address(self._charts, path, date=seconds))
                    check(answer.body)

        return ask

    def _with_crumb(self, url: str) -> Generator[HttpRequest, HttpResponse, HttpResponse]:
        """The answer; with another crumb if the one there is has expired. Raises FrameError."""
        for _ in range(2):
            if not self._crumb:
                yield from self._handshake()
            cookie, crumb = (("Cookie", self._cookie),), (("crumb", self._crumb),)
            answer = yield HttpRequest(url, secret_headers=cookie, secret_query=crumb, accepts=EXPIRED)
            if answer.status not in EXPIRED:
                return answer
            self._crumb = ""
        raise FrameError(f"HTTP {answer.status} also with a new crumb: Yahoo does not let this address ask for chains")

    def _handshake(self) -> Generator[HttpRequest, HttpResponse, None]:
        """A cookie, whatever the status it comes with, and the crumb that goes with it. Raises FrameError, Limited."""
        answer = yield HttpRequest(f"{self._cookies}/", private=True)
        found = [_COOKIE.match(line) for line in answer.headers.get("set-cookie", "").split("\n")]
        cookie = "; ".join(match[1] for match in found if match)
        if not cookie:
            raise FrameError("Yahoo gave no cookie; in Europe it wants a consent first, which is not asked for here")
        secret = (("Cookie", cookie),)
        answer = yield HttpRequest(f"{self._crumbs}/v1/test/getcrumb", secret_headers=secret, private=True)
        text = answer.body.decode("utf-8", "replace")
        if "Too Many Requests" in text:
            raise Limited("Too Many Requests for a crumb")
        if answer.status != 200 or not _CRUMB.fullmatch(text):
            raise FrameError(f"HTTP {answer.status} and no crumb")
        self._cookie, self._crumb = cookie, text
