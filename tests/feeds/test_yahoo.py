"""Yahoo: charts and chains against its simulator, its vendor's own bars, and the streamer's published message."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from decoding import Recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.feeds import make
from recorder.feeds.yahoo.names import canonical, own_name
from recorder.feeds.yahoo.pricing import pricing
from recorder.feeds.yahoo.rows import plain
from recorder.shell.simulator.rest import Answer, Asked
from recorder.shell.simulator.yahoo import COOKIE, DOWN, TOO_MANY, YahooPages, price, pricing_data
from recorder.values.errors import ConfigError, FrameError, Limited, SymbolError
from recorder.values.feed import MINUTE, SECOND, FeedSpec, HistoryRequest, HttpRequest, HttpResponse
from recorder.values.tables import BACKFILLED, NOT_VOLUME_ELIGIBLE, SPLIT_ADJUSTED

NOON = int(datetime(2026, 6, 3, 16, 0, 30, tzinfo=UTC).timestamp()) * SECOND  # of New York's
# The wire test vector of the streamer's protocol.
PUBLISHED = b"CgRBQVBMFZoZFkMYgKCr/vliKgNOTVMwCDgBSPYB"


class Talk:
    """A feed and the simulated provider."""

    def __init__(self, *channels: str, now: int = NOON, symbols: tuple[str, ...] = ("AAPL",), **options: str) -> None:
        options = {"api": "rest", **options}
        self.now = now
        self.pages = YahooPages(symbols, lambda: self.now)
        self.rows = Recorded("yahoo", symbols, channels=channels, **options)
        spec = FeedSpec(
            name="f", provider="yahoo", symbols=symbols, channels=channels, options=options, rest_url="http://127.0.0.1:1",
        )  # fmt: skip
        self.feed: Any = make(spec)
        self.asked: list[HttpRequest] = []

    def respond(self, request: HttpRequest) -> HttpResponse:
        self.asked.append(request)
        address = urlsplit(request.url)
        query = {name: values[0] for name, values in parse_qs(address.query).items()} | dict(request.secret_query)
        headers = {name.lower(): value for name, value in request.secret_headers}
        answer = self.pages.answer(Asked(unquote(address.path), query, headers))
        return response(answer)

    def ask(self, place: int = 0) -> int:
        """A round; return how many of its answers were decoded."""
        poll, count = self.feed.polls()[place], 0
        pages = poll.ask()
        request = next(pages, None)
        while request is not None:
            answer = self.respond(request)
            if not request.private and answer.status == 200:
                self.rows.poll(poll.key, answer.body, self.now)
                count += 1
            try:
                request = pages.send(answer)
            except StopIteration:
                return count
        return count

    def refused(self, body: bytes) -> None:
        pages = self.feed.polls()[0].ask()
        next(pages)
        pages.send(HttpResponse(200, {}, body))


def response(answer: Answer) -> HttpResponse:
    headers: Mapping[str, str] = {name.lower(): value for name, value in answer.headers.items()}
    return HttpResponse(answer.status, headers, answer.response().body)


@pytest.mark.parametrize(("timeframe", "seconds"), [("1m", 60), ("5m", 300), ("15m", 900)])
def test_bars_that_have_ended_are_stored_without_the_last_price_and_without_nulls(timeframe: str, seconds: int) -> None:
    talk = Talk("bars", timeframe=timeframe)
    talk.ask()
    now = NOON // SECOND
    newest = now // seconds * seconds
    expected = [at for at in range(newest - 49 * seconds, newest, seconds) if at // seconds % 17]
    bars = talk.rows.rows("bars")
    assert [bar["ts_event"] // SECOND for bar in bars] == expected
    middle = price("AAPL", expected[-1])
    assert {name: bars[-1][name] for name in ("open", "high", "low", "close", "volume", "timeframe", "symbol")} == {
        "open": middle, "high": round(middle + 1, 4), "low": round(middle - 1, 4), "close": round(middle + 0.5, 4),
        "volume": 1000.0 + expected[-1] // 60 % 1000, "timeframe": timeframe, "symbol": "AAPL",
    }  # fmt: skip
    talk.now += 2 * seconds * SECOND
    talk.ask()
    again = [bar["ts_event"] // SECOND for bar in talk.rows.rows("bars")]
    assert again == [at for at in range(expected[-1], newest + 2 * seconds, seconds) if at // seconds % 17]


def test_a_bar_of_zeros_and_a_contract_that_cannot_be_read_are_rejected_alone() -> None:
    talk = Talk("bars")
    talk.ask()
    good = len(talk.rows.rows("bars"))
    body = talk.respond(talk.asked[0]).body
    broken = re.sub(rb'"open":\[[^,]+,', b'"open":[0,', body, count=1)
    assert broken != body
    fresh = Recorded("yahoo", ("AAPL",), channels=("bars",), api="rest").poll("chart AAPL 1d", broken, NOON)
    assert (len(fresh.rows("bars")), len(fresh.rows("rejected"))) == (good - 1, 1)

    chain = (
        b'{"optionChain":{"result":[{"underlyingSymbol":"AAPL","expirationDates":[1726790400],"quote":{},"options":['
        b'{"expirationDate":1726790400,"calls":[{"contractSymbol":"AAPL240920C00220000","lastPrice":1.5,"bid":"x"},'
        b'{"contractSymbol":"AAPL240920C00230000","lastPrice":0.5,"bid":null}],"puts":[{"contractSymbol":"AAPL240920P00220000"}]}'
        b']}],"error":null}}'
    )
    feed = Recorded("yahoo", ("AAPL",), channels=("options",), api="rest").poll("options AAPL", chain, NOON)
    assert [(row["strike"], row["option_type"]) for row in feed.rows("options_chain")] == [(230, "call"), (220, "put")]
    assert len(feed.rows("rejected")) == 1


def test_todays_bar_is_stored_once_its_session_has_ended() -> None:
    talk = Talk("bars")
    talk.ask()
    before = talk.rows.rows("bars")[-1]["ts_event"]
    assert datetime.fromtimestamp(before // SECOND, UTC) == datetime(2026, 6, 2, 13, 30, tzinfo=UTC)
    talk.now += 5 * 60 * MINUTE
    talk.ask()
    after = talk.rows.rows("bars")[-1]["ts_event"]
    assert datetime.fromtimestamp(after // SECOND, UTC) == datetime(2026, 6, 3, 13, 30, tzinfo=UTC)


def test_a_chain_is_asked_for_with_a_cookie_and_a_crumb_that_are_in_no_url() -> None:
    talk = Talk("options", expirations="all")
    assert talk.ask() == 3
    assert [urlsplit(request.url).path for request in talk.asked[:3]] == [
        "/", "/v1/test/getcrumb", "/v7/finance/options/AAPL",
    ]  # fmt: skip
    assert not any(COOKIE in repr(request) or talk.pages.crumb in repr(request) for request in talk.asked)
    legs = talk.rows.rows("options_chain")
    assert [leg["symbol"] for leg in legs] == [
        f"AAPL  26{day}{kind}00{strike}000"
        for day in ("0610", "0617", "0708")
        for kind in "CP"
        for strike in (100, 150)
    ]
    assert {leg["ts_event"] for leg in legs} == {NOON}
    market, none = legs[:2]
    assert (market["bid"], market["ask"], market["last"], market["iv"]) == (1.45, 1.55, 1.5, 0.25)
    assert (market["volume"], market["open_interest"]) == (12.0, 345.0)
    assert (market["underlying"], market["underlying_price"]) == ("AAPL", price("AAPL", NOON // SECOND))
    assert market["age_ns"] == 60 * SECOND
    assert not {"bid", "ask", "iv", "volume", "delta", "greeks_source"} & none.keys()


def test_all_legs_of_a_round_have_the_time_of_its_first_answer() -> None:
    talk = Talk("options", expirations="all")
    respond = talk.respond

    def later(request: HttpRequest) -> HttpResponse:
        talk.now += 5 * SECOND
        return respond(request)

    talk.respond = later  # type: ignore[method-assign]
    talk.ask()
    assert {leg["ts_event"] for leg in talk.rows.rows("options_chain")} == {NOON + 15 * SECOND}


def test_a_crumb_that_has_expired_is_fetched_anew_once() -> None:
    talk = Talk("options")
    talk.ask()
    talk.asked.clear()
    assert talk.ask() == 1
    assert len(talk.asked) == 1
    talk.pages.expire()
    talk.asked.clear()
    assert talk.ask() == 1
    assert [urlsplit(request.url).path[:4] for request in talk.asked] == ["/v7/", "/", "/v1/", "/v7/"]
    talk.pages.answer = lambda asked: Answer(401, "")  # type: ignore[method-assign]
    with pytest.raises(FrameError, match="no cookie"):
        talk.ask()


def test_an_address_that_yahoo_refuses_is_told_so() -> None:
    talk = Talk("options")
    answer = talk.pages.answer

    def refusing(asked: Asked) -> Answer:
        return Answer(401, "") if "/v7/" in asked.path else answer(asked)

    talk.pages.answer = refusing  # type: ignore[method-assign]
    with pytest.raises(FrameError, match="HTTP 401 also with a new crumb"):
        talk.ask()
    assert len(talk.asked) == 6


@pytest.mark.parametrize(
    ("crumb", "status", "error"),
    [
        (b"<html>", 200, FrameError),
        (b"", 200, FrameError),
        (b"", 401, FrameError),
        (b"Too Many Requests", 200, Limited),
    ],
)
def test_what_is_no_crumb_is_not_taken_for_one(crumb: bytes, status: int, error: type[Exception]) -> None:
    talk = Talk("options")
    pages = talk.feed.polls()[0].ask()
    pages.send(talk.respond(next(pages)))
    with pytest.raises(error):
        pages.send(HttpResponse(status, {}, crumb))


def test_without_a_cookie_it_says_what_yahoo_wants() -> None:
    pages = Talk("options").feed.polls()[0].ask()
    next(pages)
    with pytest.raises(FrameError, match="consent"):
        pages.send(HttpResponse(200, {}, b""))


def test_errors_are_told_in_yahoos_words() -> None:
    talk = Talk("bars")
    for symbol, interval, words in (("ZZZZ", "1d", "No data found"), ("AAPL", "7m", "interval=7m is not supported")):
        answer = talk.pages.answer(Asked(f"/v8/finance/chart/{symbol}", {"interval": interval}, {}))
        assert answer.status in (404, 422)
        with pytest.raises(FrameError, match=words):
            talk.rows.poll("chart ZZZZ 1d", answer.response().body)
        with pytest.raises(FrameError, match=words):
            talk.refused(answer.response().body)
    with pytest.raises(Limited):
        talk.refused(DOWN.response().body)
    with pytest.raises(FrameError):
        talk.refused(TOO_MANY.response().body)
    with pytest.raises(FrameError):
        talk.rows.poll("chart AAPL 1d", DOWN.response().body)
    with pytest.raises(FrameError, match="empty"):
        talk.refused(b'{"optionChain":{"result":[],"error":null}}')


def test_bars_of_another_symbol_or_columns_of_other_lengths_are_refused() -> None:
    talk = Talk("bars")
    answer = talk.pages.answer(Asked("/v8/finance/chart/AAPL", {"interval": "1d"}, {})).response().body
    with pytest.raises(FrameError, match="not asked for"):
        talk.rows.poll("chart MSFT 1d", answer, NOON)
    cut = json.loads(answer)
    cut["chart"]["result"][0]["indicators"]["quote"][0]["high"].pop()
    with pytest.raises(FrameError, match="columns"):
        talk.rows.poll("chart AAPL 1d", json.dumps(cut).encode(), NOON)


def test_bars_of_its_history_are_those_that_are_over_and_were_asked_for() -> None:
    talk = Talk("bars")
    now = NOON // SECOND
    first, last = now // 3600 * 3600 - 20 * 3600, now // 3600 * 3600 - 5 * 3600
    request = HistoryRequest("AAPL", "bars", first * SECOND, last * SECOND, timeframe="1h")
    pages = talk.feed.history(request)
    http = next(pages)
    query = {name: values[0] for name, values in parse_qs(urlsplit(http.url).query).items()}
    assert (query["interval"], int(query["period1"]), int(query["period2"])) == ("1h", first - 3600, last + 3600)
    answer = talk.respond(http)
    with pytest.raises(StopIteration):
        pages.send(answer)
    decode = talk.rows.feed.history_decoder(talk.rows.scope)  # type: ignore[attr-defined]
    decode(request, answer.body, NOON)
    bars = talk.rows.rows("bars")
    assert [bar["ts_event"] // SECOND for bar in bars] == [at for at in range(first, last + 1, 3600) if at // 3600 % 17]
    assert {bar["flags"] for bar in bars} == {BACKFILLED | SPLIT_ADJUSTED}
    assert bars[-1]["close"] == round(price("AAPL", bars[-1]["ts_event"] // SECOND) + 0.5, 4)
    with pytest.raises(FrameError, match="not asked for"):
        decode(HistoryRequest("MSFT", "bars", 0, NOON, timeframe="1h"), answer.body, NOON)


# Prices


@settings(deadline=None)
@given(st.floats(0.0001, 1e6).map(lambda value: round(value, 4)))
def test_the_noise_of_a_32_bit_float_goes_and_no_digit_that_it_can_hold(value: float) -> None:
    single = struct.unpack("<f", struct.pack("<f", value))[0]
    assert struct.pack("<f", plain(single)) == struct.pack("<f", single)
    assert len(repr(plain(single))) <= len(repr(single))
    if value < 1000:  # seven digits, which every 32-bit float holds
        assert plain(single) == pytest.approx(value, rel=1e-7)
        assert plain(single) == float(f"{value:.7g}")


def test_yahoos_own_prices_of_a_share_become_whole_cents(shared_data: Path) -> None:
    folder = shared_data / "corporate_actions" / "yfinance"
    with gzip.open(folder / "CALM-1d-no-bad-divs.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    prices = [float(row[name]) for row in rows for name in ("Open", "High", "Low", "Close")]
    assert len(prices) > 2000
    off = [value for value in prices if abs(plain(value) * 10_000 - round(plain(value) * 10_000)) > 1e-6]
    assert not off
    assert sum(plain(value) == round(value, 2) for value in prices) > 0.98 * len(prices)
    assert plain(217.5500030517578) == 217.55


@pytest.mark.parametrize(("canonically", "own"), [("BRK.B", "BRK-B"), ("AAPL", "AAPL"), ("BTC-USD", "BTC-USD")])
def test_symbols_are_spelled_as_yahoo_does(canonically: str, own: str) -> None:
    assert own_name(canonically) == own_name(own) == own
    assert canonical(own) == canonically


def test_a_suffix_of_an_exchange_stays_and_nonsense_is_refused() -> None:
    assert own_name("vod.l") == canonical("VOD.L") == "VOD.L"
    for text in ("", "A B", "../x", "A?b=c", "A" * 40):
        with pytest.raises(SymbolError):
            own_name(text)


def test_channels_of_the_other_interface_are_refused_with_where_they_are() -> None:
    for api, channel, other in (("rest", "trades", "stream"), ("stream", "bars", "rest")):
        with pytest.raises(ConfigError, match=f"is of api = '{other}'"):
            make(FeedSpec(name="f", provider="yahoo", symbols=("AAPL",), channels=(channel,), options={"api": api}))


# The streamer


def message(raw: bytes) -> bytes:
    return b'{"type":"pricing","message":"' + raw + b'"}'


def test_the_published_message_is_what_it_is_said_to_be() -> None:
    found = pricing(base64.b64decode(PUBLISHED))
    assert (found.id, found.exchange, found.time, found.day_volume) == ("AAPL", "NMS", 1_700_000_000_000, 123)
    assert plain(found.price) == 150.1
    assert (found.bid, found.ask, found.last_size) == (0.0, 0.0, 0)
    (trade,) = Recorded("yahoo", ("AAPL",)).decode(message(PUBLISHED)).rows("trades")
    assert (trade["ts_event"], trade["price"], trade["size"]) == (1_700_000_000 * SECOND, 150.1, 0.0)
    assert (trade["trade_id"], trade["exchange"], trade["flags"]) == (123, "NMS", NOT_VOLUME_ELIGIBLE)


def test_the_message_alone_is_enough_as_the_reference_client_reads_no_more() -> None:
    rows = Recorded("yahoo", ("AAPL",)).decode(b'{"message":"' + PUBLISHED + b'","more":1}').rows("trades")
    assert [row["trade_id"] for row in rows] == [123]


def test_a_message_with_bid_and_offer_is_a_quote_too() -> None:
    raw = pricing_data(
        id="BTC-USD", price=60_000.5, time=1_700_000_000_123, exchange="CCC", quote_type=41, day_volume=9, last_size=3,
        bid=60_000.0, bid_size=2, ask=60_001.0, circulating_supply=19e6,
    )  # fmt: skip
    rows = Recorded("yahoo", ("BTC-USD",)).decode(message(base64.b64encode(raw)))
    (quote,) = rows.rows("quotes")
    assert (quote["bid"], quote["bid_size"], quote["ask"], "ask_size" in quote) == (60_000.0, 2.0, 60_001.0, False)
    (trade,) = rows.rows("trades")
    assert (trade["size"], trade["flags"]) == (3.0, 0)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {"id": st.text("ABC-", min_size=1), "time": st.integers(-(1 << 62), 1 << 62), "exchange": st.text(max_size=9)},
        optional={
            "price": st.floats(0, 1e6, width=32), "bid": st.floats(0, 1e6, width=32), "market_hours": st.integers(0, 3),
            "day_volume": st.integers(-(1 << 62), 1 << 62), "ask_size": st.integers(0, 1 << 40),
            "circulating_supply": st.floats(0, 1e15), "short_name": st.text(max_size=9),
        },
    )
)  # fmt: skip
def test_every_field_that_is_written_is_read_and_others_are_passed_over(fields: dict[str, Any]) -> None:
    found = pricing(pricing_data(**fields))._asdict()
    read = {name: fields.get(name, 0) for name in found if name not in ("id", "exchange")}
    assert {name: found[name] for name in read} == read
    assert (found["id"], found["exchange"]) == (fields["id"], fields["exchange"])


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_make_it_raise_anything_but_a_frame_error(raw: bytes) -> None:
    try:
        pricing(raw)
    except FrameError:
        return


def test_a_message_cut_within_a_field_is_refused() -> None:
    whole, ends, fields = base64.b64decode(PUBLISHED), {0}, {}
    said = {"id": "AAPL", "price": 150.1, "time": 1_700_000_000_000, "exchange": "NMS", "quote_type": 8}
    for name, value in {**said, "market_hours": 1, "day_volume": 123}.items():
        fields[name] = value
        ends.add(len(pricing_data(**fields)))
    assert pricing_data(**fields) == whole
    refused = set()
    for size in range(len(whole) + 1):
        try:
            pricing(whole[:size])
        except FrameError:
            refused.add(size)
    assert refused == set(range(len(whole) + 1)) - ends
