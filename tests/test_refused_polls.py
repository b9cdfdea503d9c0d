"""Refusals of providers that can only be asked, over real sockets through the poller: what a user is told, how long
they are left alone, that nothing is stored of it, and that an answer which was one is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import pytest
from test_poller import Rig, Server, events

from recorder.feeds import make
from recorder.feeds.etrade.messages import PASSED_OVER_ERRORS
from recorder.shell.journal import Journal
from recorder.shell.pace import Pace
from recorder.shell.simulator.alphavantage import PREMIUM, TOO_FAST, AlphaVantage
from recorder.shell.simulator.asked import AskedSimulator, Pages
from recorder.shell.simulator.cboe import Cboe
from recorder.shell.simulator.etrade_pages import ERRORS, Contract, Instrument, Market, error, page, xml_error
from recorder.shell.simulator.rest import Answer, Asked, Refused
from recorder.shell.simulator.yahoo import DOWN, TOO_MANY, YahooPages
from recorder.values.feed import Capability, FeedSpec
from recorder.values.tables import BARS, OPTIONS_CHAIN, QUOTES, REJECTED

KEY = "ABCDEF0123456789"
KEYS = {"ALPHAVANTAGE_API_KEY": KEY, "ETRADE_CONSUMER_KEY": "c", "ETRADE_CONSUMER_SECRET": "s"}


@dataclass
class Refusing:
    """A provider that answers questions of one path so at first."""

    pages: Pages
    refusals: list[Answer]
    path: str = "/"

    def answer(self, asked: Asked) -> Answer:
        matches = asked.path.startswith(self.path)
        return self.refusals.pop(0) if matches and self.refusals else self.pages.answer(asked)


class Etrade:
    """Its market pages, for anybody: who may ask is tested in test_login."""

    def __init__(self, invalid: str = "refuse") -> None:
        self.market = Market(time.time_ns, invalid)
        self.market.quote("IBM", 1.0, 3, 1.2, 4)
        at = Instrument(bid=1.0, bid_size=3, ask=1.2, ask_size=4, last=1.1, volume=7)
        expires = date.today() + timedelta(30)
        self.market.chains.setdefault("IBM", {})[expires] = [Contract(200.0, "CALL", at, 10)]

    def answer(self, asked: Asked) -> Answer:
        try:
            return page(self.market, asked.path, asked.query)
        except Refused as refused:
            return refused.answer


@dataclass(frozen=True)
class Case:
    """What is asked of whom; then: what is told with which words, how many answers are kept, the pause in seconds."""

    provider: str
    pages: Callable[[], Any]
    event: str
    words: str
    kept: int
    wait_s: tuple[float, float] = (30.0, 3600.0)
    symbols: tuple[str, ...] = ("IBM",)
    channels: tuple[str, ...] = ("bars",)
    options: dict[str, str] = field(default_factory=dict)


def av(*refusals: dict[str, str], key: str = KEY, quota: int = 25) -> Callable[[], Any]:
    return lambda: Refusing(AlphaVantage(("IBM",), key, time.time_ns, quota), [Answer(200, each) for each in refusals])


def yahoo(*refusals: Answer, path: str = "/v") -> Callable[[], Any]:
    return lambda: Refusing(YahooPages(("IBM",), time.time_ns), list(refusals), path)


def cboe(*refusals: Answer, requests: int = 100) -> Callable[[], Any]:
    return lambda: Refusing(Cboe(("IBM",), time.time_ns, requests=requests), list(refusals))


def etrade(*refusals: Answer, path: str = "/v1/market/quote") -> Callable[[], Any]:
    return lambda: Refusing(Etrade(), list(refusals), path)


def chart_error(status: int, code: str, words: str) -> Answer:
    return Answer(status, {"chart": {"result": None, "error": {"code": code, "description": words}}})


HOUR = (3600.0, 3960.0)
MINUTE = (60.0, 66.0)
MINUTES_1 = {"timeframe": "1m", "plan": "1200"}
REST = {"api": "rest"}
WORDS_401 = {"finance": {"result": None, "error": {"code": "Unauthorized", "description": "Invalid Crumb"}}}
CASES: dict[str, Case] = {
    "alphavantage-wrong-symbol": Case(
        "alphavantage", av(), "poll.failed", "Error Message: Invalid API call.", 1, symbols=("ZZZ",), options=MINUTES_1
    ),
    "alphavantage-wrong-key": Case(
        "alphavantage", av(key="another"), "poll.failed", "Error Message: the parameter apikey is invalid", 1,
        options=MINUTES_1,
    ),
    "alphavantage-day": Case(
        "alphavantage", av(quota=0), "poll.limited", "Information: We have detected your API key as … and our", 1, HOUR,
        options=MINUTES_1,
    ),
    "alphavantage-minute": Case(
        "alphavantage", av({"Note": TOO_FAST}), "poll.limited", "Note: Thank you for using Alpha Vantage!", 1, MINUTE,
        options=MINUTES_1,
    ),
    "alphavantage-premium": Case(
        "alphavantage", av({"Information": PREMIUM}), "poll.failed", "This is a premium endpoint", 1, options=MINUTES_1
    ),
    "yahoo-404": Case(
        "yahoo", yahoo(), "poll.failed", "No data found, symbol may be delisted", 0, symbols=("ZZZ",), options=REST
    ),
    "yahoo-400": Case(
        "yahoo", yahoo(chart_error(400, "Bad Request", "no data")), "poll.failed", "HTTP 400", 0, options=REST
    ),
    "yahoo-422": Case(
        "yahoo", yahoo(chart_error(422, "Unprocessable Entity", "1m data not available")), "poll.failed",
        "1m data not available", 0, options=REST,
    ),
    "yahoo-429": Case("yahoo", yahoo(TOO_MANY), "poll.limited", "HTTP 429 Too Many Requests", 0, MINUTE, options=REST),
    "yahoo-down": Case("yahoo", yahoo(DOWN), "poll.limited", "Will be right back", 1, MINUTE, options=REST),
    "yahoo-error-as-200": Case(
        "yahoo", yahoo(chart_error(200, "Internal", "something went wrong")), "poll.failed", "something went wrong", 1,
        options=REST,
    ),
    "yahoo-crumb-refused-twice": Case(
        "yahoo", yahoo(*[Answer(401, WORDS_401)] * 2, path="/v7"), "poll.failed", "HTTP 401 also with a new crumb", 0,
        channels=("options",), options=REST,
    ),
    "yahoo-no-crumb": Case(
        "yahoo", yahoo(Answer(401, ""), path="/v1/test"), "poll.failed", "HTTP 401 and no crumb", 0,
        channels=("options",), options=REST,
    ),
    "yahoo-crumb-429": Case(
        "yahoo", yahoo(Answer(429, "Too Many Requests"), path="/v1/test"), "poll.limited", "Too Many Requests", 0,
        MINUTE, channels=("options",), options=REST,
    ),
    "cboe-403": Case(
        "cboe", cboe(), "poll.failed", "Cboe has no options of ZZZ: HTTP 403", 0, symbols=("ZZZ",),
        channels=("options",),
    ),
    "cboe-404": Case(
        "cboe", cboe(Answer(404, "no")), "poll.failed", "Cboe has no options of IBM: HTTP 404", 0, channels=("options",)
    ),
    "cboe-429": Case(
        "cboe", cboe(requests=0), "poll.limited", "HTTP 429 Too Many Requests", 0, (1.0, 1.2), channels=("options",)
    ),
    "cboe-page": Case(
        "cboe", cboe(Answer(200, "<html>Access Denied</html>")), "poll.failed", "no chain of IBM", 1,
        channels=("options",),
    ),
    "etrade-429": Case(
        "etrade", etrade(Answer(429, {"Error": {"message": "Too many requests"}})), "poll.limited",
        "HTTP 429", 0, MINUTE, channels=("quotes",),
    ),
    "etrade-token": Case(
        "etrade", etrade(Answer(401, {"Error": {"message": "oauth_problem=token_rejected"}})), "poll.failed",
        "HTTP 401", 0, channels=("quotes",),
    ),
    "etrade-wrong-symbol": Case(
        "etrade", etrade(), "poll.failed", "E*TRADE does not know ZZZ (1019)", 0, symbols=("ZZZ",), channels=("quotes",)
    ),
    "etrade-wrong-symbol-as-200": Case(
        "etrade", lambda: Etrade("error"), "poll.failed", "E*TRADE does not know ZZZ (1019)", 1, symbols=("ZZZ",),
        channels=("quotes",),
    ),
}  # fmt: skip
for code, words in ERRORS.items():
    if code in PASSED_OVER_ERRORS or code == 1019:
        continue  # that there are none is no error; a symbol that is none: above
    channel = "options" if code >= 10_000 else "quotes"
    path = "/v1/market/optionchains" if channel == "options" else "/v1/market/quote"
    for status, form in ((400, error), (200, error), *(((400, xml_error), (200, xml_error)) if code == 10033 else ())):
        before = 2 if channel == "options" else 0  # dates of expiration and the underlying's quote came first
        CASES[f"etrade-{code}-{status}-{form.__name__}"] = Case(
            "etrade", etrade(form(code, status), path=path), "poll.failed", f"E*TRADE: {words} ({code})",
            before + (status == 200), channels=(channel,),
        )  # fmt: skip


class Hurried(Pace):
    """Waits for pauses only."""

    def wait_s(self, capability: Capability) -> float:
        return self.held_s


def rigged(journal: Journal, case: Case, url: str) -> Rig:
    rig = Rig(journal, Server(url=url), *case.symbols)
    rig.spec = FeedSpec(
        name="f", provider=case.provider, channels=case.channels, symbols=case.symbols, options=case.options,
        rest_url=url,
    )  # fmt: skip
    rig.feed, rig.pace = lambda spec: make(spec, KEYS), Hurried(uniform=lambda: 0.0)
    return rig


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_is_told_waited_for_and_stores_nothing(journal: Journal, name: str) -> None:
    case = CASES[name]
    with AskedSimulator(case.pages()) as provider:
        rig = rigged(journal, case, provider.url)
        rig.run(lambda: bool(rig.told.of(case.event)))
    ((event, fields),) = [each for each in rig.told.lines if each[0] != "feed.connected"]
    assert (event, case.words in fields["reason"]) == (case.event, True), fields
    assert case.wait_s[0] <= fields["retry_s"] <= case.wait_s[1]
    assert (rig.pace.held_s > 0) == (event == "poll.limited")
    assert case.words in rig.poller.reason
    assert len(rig.kept()) == case.kept
    rows = rig.fold()
    assert [table for table in (BARS, QUOTES, OPTIONS_CHAIN) if table.name in rows] == []
    told = 1 if case.kept and "-400-" not in name else 0
    assert len(rows.get(REJECTED.name, ())) == told
    ((said, reason),) = events(rig)
    assert (said, case.words in reason) == (case.event, True)
    assert KEY not in repr(rig.told.lines) + repr(rig.kept()) + repr(rig.observed)


GOES_ON: dict[str, Case] = {
    "yahoo-crumb-expired": Case("yahoo", yahoo(Answer(401, WORDS_401), path="/v7"), "", "", 1, channels=("options",),
                                options=REST),
    "cboe-not-modified": Case("cboe", cboe(Answer(304, "")), "", "", 0, channels=("options",)),
    **{
        f"etrade-{code}": Case("etrade", etrade(error(code), path="/v1/market/optionchains"), "", "", 2,
                               channels=("options",))
        for code in sorted(PASSED_OVER_ERRORS)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GOES_ON)
def test_what_is_no_refusal_is_not_told_as_one(journal: Journal, name: str) -> None:
    case = GOES_ON[name]
    with AskedSimulator(case.pages()) as provider:
        rig = rigged(journal, case, provider.url)
        rig.run(lambda: bool(rig.told.of("feed.connected")))
    assert [event for event, _ in rig.told.lines] == ["feed.connected"]
    assert len(rig.kept()) == case.kept
    rows = rig.fold()
    assert REJECTED.name not in rows
    assert (OPTIONS_CHAIN.name in rows) == (name == "yahoo-crumb-expired")
    assert rig.pace.held_s == 0.0
