"""Alpha Vantage against its simulator: what is asked becomes rows, and each of its refusals is told for what it is."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from decoding import Recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.feeds import make
from recorder.feeds.alphavantage import KEY
from recorder.shell.simulator.alphavantage import DAILY_LIMIT, PREMIUM, TOO_FAST, AlphaVantage, prices
from recorder.shell.simulator.rest import Answer, Asked
from recorder.values.errors import ConfigError, FrameError, Limited
from recorder.values.feed import HOUR, MINUTE, SECOND, FeedSpec, HttpRequest, HttpResponse, Poll
from recorder.values.local_time import local_ns

NEW_YORK = ZoneInfo("America/New_York")
NOON = int(datetime(2026, 3, 9, 12, 0, 30, tzinfo=NEW_YORK).timestamp()) * SECOND  # the day after clocks went forward
SECRET = "ABCDEF0123456789"
# https://www.alphavantage.co/documentation/ : a published answer, shortened
IBM = (
    b'{"Meta Data":{"1. Information":"Intraday (5min) open, high, low, close prices and volume","2. Symbol":"IBM",'
    b'"3. Last Refreshed":"2026-01-05 19:55:00","4. Interval":"5min","5. Output Size":"Compact",'
    b'"6. Time Zone":"US/Eastern"},"Time Series (5min)":{"2026-01-05 19:55:00":{"1. open":"294.9800",'
    b'"2. high":"295.0000","3. low":"294.9800","4. close":"294.9900","5. volume":"132"}}}'
)
# Published by a user of GLOBAL_QUOTE
AZN = (
    b'{"Global Quote":{"01. symbol":"AZN.LON","02. open":"10528.0000","03. high":"10554.0000","04. low":"10420.0000",'
    b'"05. price":"10442.0000","06. volume":"1920774","07. latest trading day":"2022-06-01",'
    b'"08. previous close":"10454.0000","09. change":"-12.0000","10. change percent":"-0.1148%"}}'
)


class Talk:
    """A feed and the simulated provider; ``ask`` makes a round and decodes what came."""

    def __init__(self, channels: tuple[str, ...] = ("bars",), now: int = NOON, quota: int = 25, **options: str) -> None:
        self.now = now
        self.pages = AlphaVantage(("IBM",), SECRET, lambda: self.now, quota)
        self.rows = Recorded("alphavantage", ("IBM",), channels=channels, **options)
        spec = FeedSpec(
            name="f", provider="alphavantage", symbols=("IBM",), channels=channels, options=options,
            rest_url="http://127.0.0.1:1",
        )  # fmt: skip
        self.feed: Any = make(spec, {KEY: SECRET})

    @property
    def polls(self) -> tuple[Poll, ...]:
        polls: tuple[Poll, ...] = self.feed.polls()
        return polls

    def answer(self, request: HttpRequest) -> bytes:
        query = dict(part.split("=") for part in request.url.partition("?")[2].split("&"))
        return self.body(self.pages.answer(Asked("/query", query | dict(request.secret_query), {})))

    @staticmethod
    def body(answer: Answer) -> bytes:
        return answer.response().body

    def ask(self, poll: Poll | None = None, body: bytes | None = None) -> None:
        poll = poll or self.polls[0]
        pages = poll.ask()
        request = next(pages)
        body = self.answer(request) if body is None else body
        error: Exception | None = None
        try:
            self.rows.poll(poll.key, body, self.now)
        except FrameError as refused:
            error = refused
        with pytest.raises(StopIteration if error is None else (FrameError, Limited)):
            pages.send(HttpResponse(200, {}, body))
        if error is not None:
            raise error

    def bars(self) -> list[dict[str, Any]]:
        return self.rows.rows("bars")


def test_the_published_answer_is_a_bar_by_its_start_in_new_york() -> None:
    talk = Talk(timeframe="5m")
    talk.rows.poll("bars IBM 5m", IBM, NOON)
    (bar,) = talk.bars()
    assert bar == {
        "ts_event": 1767660900 * SECOND, "ts_recv": NOON, "symbol": "IBM", "timeframe": "5m", "open": 294.98,
        "high": 295.0, "low": 294.98, "close": 294.99, "volume": 132.0, "flags": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "bad", [b'{"1. open":"0","2. high":"1","3. low":"1","4. close":"1","5. volume":"1"}', b'{"1. open":"x"}', b"null"]
)
def test_one_bad_bar_is_rejected_alone(bad: bytes) -> None:
    talk = Talk(timeframe="5m")
    body = IBM.replace(b'"2026-01-05 19:55:00":{', b'"2026-01-05 19:50:00":' + bad + b',"2026-01-05 19:55:00":{', 1)
    talk.rows.poll("bars IBM 5m", body, NOON)
    assert [bar["ts_event"] for bar in talk.bars()] == [1767660900 * SECOND]
    assert len(talk.rows.rows("rejected")) == 1


def test_one_bad_contract_is_rejected_alone() -> None:
    talk = Talk(channels=("options",))
    legs = ",".join(
        f'{{"contractID":"IBM260116C00{strike}000","date":"2026-01-05","bid":"146.00","open_interest":"{interest}"}}'
        for strike, interest in ((150, "7"), (155, "-1"), (160, "none"), (165, "9"))
    )
    talk.rows.poll("options IBM", f'{{"endpoint":"Historical Options","data":[{legs}]}}'.encode(), NOON)
    assert [(row["strike"], row["open_interest"]) for row in talk.rows.rows("options_chain")] == [(150, 7), (165, 9)]
    assert len(talk.rows.rows("rejected")) == 2


@pytest.mark.parametrize("nothing", ['""', "null"])
def test_what_a_contract_does_not_say_is_null_and_the_contract_is_stored(nothing: str) -> None:
    talk = Talk(channels=("options",))
    names = ("last", "ask", "ask_size", "volume", "implied_volatility", "delta", "rho")
    more = "".join(f',"{name}":{nothing}' for name in names)
    leg = f'{{"contractID":"IBM260116C00150000","date":"2026-01-05","bid":"146.00","bid_size":"7"{more}}}'
    talk.rows.poll("options IBM", f'{{"data":[{leg}]}}'.encode(), NOON)
    (row,) = talk.rows.rows("options_chain")
    assert (row["bid"], row["bid_size"]) == (146.0, 7.0)
    assert not row.keys() & {"last", "ask", "ask_size", "volume", "open_interest", "iv", "delta", "rho"}
    assert talk.rows.rows("rejected") == []


def test_the_published_quote_is_the_day_so_far() -> None:
    talk = Talk(today="yes")
    talk.rows.poll("today AZN.LON", AZN, NOON)
    (bar,) = talk.bars()
    assert (bar["timeframe"], bar["open"], bar["high"], bar["low"], bar["close"], bar["volume"]) == (
        "1d", 10528.0, 10554.0, 10420.0, 10442.0, 1920774.0,
    )  # fmt: skip
    assert bar["ts_event"] == int(datetime(2022, 6, 1, tzinfo=NEW_YORK).timestamp()) * SECOND


@pytest.mark.parametrize(("timeframe", "span"), [("1m", MINUTE), ("15m", 15 * MINUTE), ("1h", HOUR)])
def test_bars_that_have_ended_are_stored_and_the_one_under_way_is_not(timeframe: str, span: int) -> None:
    talk = Talk(timeframe=timeframe, plan="75")
    talk.ask()
    bars = talk.bars()
    starts = [bar["ts_event"] for bar in bars]
    assert starts == [starts[0] + i * span for i in range(99)]
    assert starts[-1] == NOON // span * span - span
    said = prices("IBM", starts[-1] // SECOND)
    assert [f"{bars[-1][name]:.4f}" for name in ("open", "high", "low", "close")] == list(said.values())[:4]


def test_asked_again_only_the_last_bar_and_what_is_new_are_stored_again() -> None:
    talk = Talk(timeframe="1m", plan="75")
    talk.ask()
    first = talk.bars()
    talk.now += 3 * MINUTE
    talk.ask()
    again = talk.bars()
    assert [bar["ts_event"] - first[-1]["ts_event"] for bar in again] == [0, MINUTE, 2 * MINUTE, 3 * MINUTE]


def test_a_day_is_stored_when_late_trading_has_ended() -> None:
    talk = Talk()
    talk.ask()
    before = [bar["ts_event"] for bar in talk.bars()]
    monday, sunday = (int(datetime(2026, 3, day, tzinfo=NEW_YORK).timestamp()) * SECOND for day in (9, 8))
    assert before[-1] == sunday
    assert monday - sunday == 23 * HOUR
    talk.now += 9 * HOUR
    talk.ask()
    assert [bar["ts_event"] for bar in talk.bars()] == [sunday, monday]


def test_a_chain_has_its_contracts_as_of_the_sessions_close() -> None:
    talk = Talk(channels=("options",))
    talk.ask()
    legs = talk.rows.rows("options_chain")
    assert {leg["ts_event"] for leg in legs} == {int(datetime(2026, 3, 8, 16, tzinfo=NEW_YORK).timestamp()) * SECOND}
    assert [leg["symbol"] for leg in legs] == [
        f"IBM   260408{kind}00{strike}000" for kind in "CP" for strike in (100, 150)
    ]
    traded, silent = legs[:2]
    assert (traded["iv"], traded["delta"], traded["greeks_source"], traded["bid"]) == (0.25, 0.5, "provider", 10.0)
    assert not {"iv", "delta", "greeks_source", "bid", "bid_size", "last"} & silent.keys()
    assert silent["open_interest"] == 70.0


def test_each_refusal_is_told_for_what_it_is() -> None:
    talk = Talk(quota=0)
    with pytest.raises(FrameError, match="25 requests per day"):
        talk.ask()
    pages = talk.polls[0].ask()
    next(pages)
    with pytest.raises(Limited) as limited:
        pages.send(HttpResponse(200, {}, Talk.body(Answer(200, {"Information": DAILY_LIMIT}))))
    assert limited.value.wait_s == 3600
    for words, expected in ((TOO_FAST, Limited), (PREMIUM, FrameError)):
        for name in ("Note", "Information"):
            pages = talk.polls[0].ask()
            next(pages)
            with pytest.raises(expected):
                pages.send(HttpResponse(200, {}, Talk.body(Answer(200, {name: words}))))
    talk.pages.left, talk.pages.symbols = 9, ()
    with pytest.raises(FrameError, match="Invalid API call"):
        talk.ask()
    talk.pages.key = "another"
    with pytest.raises(FrameError, match="apikey is invalid"):
        talk.ask()


def test_an_unknown_symbols_quote_is_empty_and_so_is_refused() -> None:
    talk = Talk(today="yes")
    with pytest.raises(FrameError):
        talk.ask(talk.polls[1], b'{"Global Quote":{}}')


def test_the_key_is_in_no_url_and_no_key_of_a_poll() -> None:
    talk = Talk(channels=("bars", "options"), today="yes")
    for poll in talk.polls:
        request = next(poll.ask())
        assert dict(request.secret_query) == {"apikey": SECRET}
        assert SECRET not in repr((poll.key, request))


def test_quotes_are_refused_with_what_it_has_instead() -> None:
    with pytest.raises(ConfigError, match="no bid and no offer"):
        make(FeedSpec(name="f", provider="alphavantage", symbols=("IBM",), channels=("quotes",)))


@settings(deadline=None)
@given(st.datetimes(datetime(2001, 1, 1), datetime(2037, 1, 1)))
def test_local_times_are_those_of_the_zone_and_of_an_hour_that_comes_twice_the_first(moment: datetime) -> None:
    text = f"{moment:%Y-%m-%d %H:%M:%S}"
    assert local_ns(text, "US/Eastern") // SECOND == int(moment.replace(tzinfo=NEW_YORK, fold=0).timestamp())
