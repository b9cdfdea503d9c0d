"""E*TRADE: what its answers become, and what it is asked; its documented errors."""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from decoding import FRAME_END, Recorded
from fuzzing import mutations
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core.batch import Output
from recorder.feeds import make
from recorder.feeds.etrade import PER_SECOND_MAX
from recorder.feeds.etrade.messages import name_of
from recorder.feeds.etrade.rows import SNAPSHOT_NS_MAX
from recorder.shell.simulator.etrade_pages import ERRORS, Contract, Instrument, Market, error, page, xml_error
from recorder.shell.simulator.rest import Answer, Refused
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import SECOND, FeedSpec, HttpRequest, HttpResponse
from recorder.values.tables import NOT_LAST_ELIGIBLE

QUOTE: dict[str, Any] = {  # as documented
    "dateTime": "15:17:00 EDT 06-20-2018", "dateTimeUTC": 1529522220, "quoteStatus": "DELAYED", "ahFlag": "false",
    "hasMiniOptions": False,
    "All": {
        "bid": 1175.29, "bidSize": 100, "bidTime": "15:17:00 EDT 06-20-2018", "ask": 1175.79, "askSize": 100,
        "askTime": "15:17:00 EDT 06-20-2018", "lastTrade": 1175.74, "totalVolume": 1167544,
        "timeOfLastTrade": 1529522220, "changeClose": 7.68, "dirLast": "2",
    },
    "Product": {"securityType": "EQ", "symbol": "GOOG"},
}  # fmt: skip
AT = 1529522220 * SECOND
CHAIN: dict[str, Any] = {  # as documented
    "OptionPair": [{"Call": {
        "optionCategory": "STANDARD", "optionRootSymbol": "IBM", "timeStamp": 1529430484, "optionType": "CALL",
        "strikePrice": 200.0, "symbol": "IBM", "bid": 0.0, "ask": 0.05, "bidSize": 0, "askSize": 138,
        "inTheMoney": "n", "volume": 0, "openInterest": 0, "lastPrice": 0.0, "osiKey": "IBM---180817C00200000",
        "OptionGreeks": {"rho": 0.001, "vega": 0.0086, "theta": -0.002, "delta": 0.0049, "gamma": 0.0008, "iv": 0.3145,
                         "currentValue": True},
    }}],
    "timeStamp": 1529430420, "quoteType": "DELAYED", "nearPrice": 200.0,
    "SelectedED": {"month": 8, "year": 2018, "day": 17},
}  # fmt: skip


class Asked(Recorded):
    """A feed's decoder of answers, and its questions."""

    def __init__(self, *symbols: str, **fields: Any) -> None:
        spec = {"name": "f", "provider": "etrade", "symbols": symbols or ("GOOG",), **fields}
        self.feed = make(FeedSpec(**spec))
        self.out = Output()
        self.scope = self.out.scope("f", 0)
        self._read = self.feed.poll_decoder(self.scope)  # type: ignore[attr-defined]

    def answer(self, body: object, ts_recv: int = FRAME_END, key: str = "quotes 0") -> Asked:
        self.scope.position += 1
        self._read(key, body if isinstance(body, bytes) else json.dumps(body).encode(), ts_recv)
        return self


def quotes(*items: Any, **more: Any) -> dict[str, Any]:
    return {"QuoteResponse": {"QuoteData": list(items), **more}}


def changed(item: dict[str, Any] = QUOTE, /, **fields: Any) -> dict[str, Any]:
    """The documented quote with other fields; those of All by name."""
    outer = {name: value for name, value in fields.items() if name in item}
    inner = {name: value for name, value in fields.items() if name not in item}
    return {**item, "All": {**item["All"], **inner}, **outer}


# Quotes


@pytest.mark.parametrize("name", ["bid", "bidExchange", "askExchange", "timeOfLastTrade", "exchgLastTrade", "osiKey"])
def test_a_field_that_is_null_is_one_that_is_not_there(name: str) -> None:
    (row,) = Asked().answer(quotes(changed(**{name: None}))).rows("quotes")
    assert row == Asked().answer(quotes({**QUOTE, "All": {k: v for k, v in QUOTE["All"].items() if k != name}})).rows(
        "quotes"
    )[0]  # fmt: skip


def test_the_documented_quote_becomes_a_row_with_its_own_time_and_status() -> None:
    feed = Asked().answer(quotes(QUOTE))
    assert feed.rows("quotes") == [
        {
            "ts_event": AT, "ts_recv": FRAME_END, "symbol": "GOOG", "bid": 1175.29, "bid_size": 100.0, "ask": 1175.79,
            "ask_size": 100.0, "conditions": "DELAYED", "flags": 0,
        }
    ]  # fmt: skip
    assert feed.rows("trades") == []  # of one answer nobody knows what has traded


def test_numbers_as_text_and_a_list_of_one_as_that_one_are_read_alike() -> None:
    lenient = changed(bid="1175.29", askSize="100", totalVolume="1167544", dateTimeUTC="1529522220")
    expected = Asked().answer(quotes(QUOTE)).rows("quotes")
    assert Asked().answer({"QuoteResponse": {"QuoteData": lenient}}).rows("quotes") == expected


@pytest.mark.parametrize(("side", "null"), [("bid", ("bid", "bid_size")), ("ask", ("ask", "ask_size"))])
def test_a_price_of_zero_is_no_price(side: str, null: tuple[str, str]) -> None:
    [row] = Asked().answer(quotes(changed(**{side: 0.0, f"{side}Size": 0}))).rows("quotes")
    assert not set(null) & row.keys()


def test_a_quote_that_has_not_changed_is_no_new_row_whatever_its_time() -> None:
    feed = Asked().answer(quotes(QUOTE)).answer(quotes(changed(dateTimeUTC=1529522230)))
    feed.answer(quotes(changed(dateTimeUTC=1529522240, bidSize=200)))
    feed.answer(quotes(changed(dateTimeUTC=1529522250, bidSize=200, quoteStatus="CLOSING")))
    rows = [(row["ts_event"], row["bid_size"], row["conditions"]) for row in feed.rows("quotes")]
    second = AT + 20 * SECOND
    assert rows == [(AT, 100.0, "DELAYED"), (second, 200.0, "DELAYED"), (second + 10 * SECOND, 200.0, "CLOSING")]


def test_outside_of_hours_prices_and_status_are_those_of_extended_hours() -> None:
    """As an answer of 2022 has them: the regular session's last trade with a time a day ahead."""
    extended = {
        "lastPrice": 92.0, "change": -0.16, "bid": 91.5, "bidSize": 500, "ask": 92.45, "askSize": 100,
        "volume": 5272545, "timeOfLastTrade": 1646701052, "timeZone": "", "quoteStatus": "EH_BEFORE_OPEN",
    }  # fmt: skip
    item = {
        "dateTimeUTC": 1646701052, "quoteStatus": "CLOSING", "Product": {"symbol": "NET", "securityType": "EQ"},
        "All": {
            "bid": 91.5, "bidSize": 500, "bidExchange": " ", "ask": 92.45, "askSize": 100, "lastTrade": 92.15,
            "totalVolume": 5272545, "timeOfLastTrade": 1646773800, "ExtendedHourQuoteDetail": extended,
        },
    }  # fmt: skip
    later = {**item, "dateTimeUTC": 1646701060, "All": {**item["All"], "totalVolume": 5272645}}  # type: ignore[dict-item]
    for name in ("ExtendedHourQuoteDetail", "EhQuote"):
        named = json.loads(json.dumps([item, later]).replace("ExtendedHourQuoteDetail", name))
        feed = Asked("NET")
        for i, each in enumerate(named):
            feed.answer(quotes(each), FRAME_END + i * SECOND)
        [quote] = feed.rows("quotes")
        assert (quote["conditions"], quote["bid"], "bid_exchange" in quote) == ("EH_BEFORE_OPEN", 91.5, False)
        [trade] = feed.rows("trades")
        assert (trade["price"], trade["size"], trade["flags"]) == (92.0, 100.0, NOT_LAST_ELIGIBLE)
        assert (trade["ts_event"], trade["conditions"]) == (1646701052 * SECOND, "synthetic,EH_BEFORE_OPEN")


def test_a_time_of_the_last_trade_after_the_answers_own_is_not_believed() -> None:
    feed = Asked().answer(quotes(QUOTE)).answer(quotes(changed(totalVolume=1167545, timeOfLastTrade=1529600000)))
    assert [row["ts_event"] for row in feed.rows("trades")] == [AT]


# Trades, as far as volumes tell


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(1, 2 * SNAPSHOT_NS_MAX), st.integers(1, 10**6)),
        min_size=1,
        max_size=12,
    )
)
def test_growths_of_the_volume_are_trades_that_add_up_unless_too_long_has_passed(
    steps: list[tuple[int, int, int]],
) -> None:
    feed, total, now, expected = Asked(), 10**6, FRAME_END, []
    feed.answer(quotes(changed(totalVolume=total)), now)
    for size, after_ns, cents in steps:
        total, now = total + size, now + after_ns
        feed.answer(quotes(changed(totalVolume=total, lastTrade=cents / 100)), now)
        if size and after_ns <= SNAPSHOT_NS_MAX:
            expected.append((total, float(size), cents / 100))
    rows = feed.rows("trades")
    assert [(row["trade_id"], row["size"], row["price"]) for row in rows] == expected
    assert all(row["conditions"] == "synthetic,DELAYED" and "side" not in row for row in rows)


def test_a_smaller_volume_starts_over_without_a_trade() -> None:
    feed = Asked()
    for total in (500, 700, 30, 30, 40):
        feed.answer(quotes(changed(totalVolume=total, quoteStatus="REALTIME")))
    rows = feed.rows("trades")
    assert [(row["trade_id"], row["size"]) for row in rows] == [(700, 200.0), (40, 10.0)]
    assert {row["conditions"] for row in rows} == {"synthetic"}


def test_only_the_channels_that_are_recorded_have_rows() -> None:
    for channel, other in (("trades", "quotes"), ("quotes", "trades")):
        feed = Asked(channels=(channel,)).answer(quotes(QUOTE)).answer(quotes(changed(totalVolume=1167550)))
        assert len(feed.rows(channel)) == 1
        assert feed.rows(other) == []


def test_an_option_is_named_by_its_occ_symbol_with_and_without_osi_key() -> None:
    product = {
        "symbol": "IBM", "securityType": "OPTN", "callPut": "CALL", "expiryYear": 2018, "expiryMonth": 8,
        "expiryDay": 17, "strikePrice": 200,
    }  # fmt: skip
    for key in ("IBM---180817C00200000", ""):
        [row] = Asked().answer(quotes(changed(osiKey=key, Product=product))).rows("quotes")
        assert row["symbol"] == "IBM   180817C00200000"


def test_a_mutual_fund_is_counted_and_passed_over() -> None:
    fund = {
        "dateTimeUTC": 1646701200,
        "MutualFund": {"netAssetValue": 32.96},
        "Product": {"symbol": "VWIGX", "securityType": "MF"},
    }
    feed = Asked().answer(quotes(fund, QUOTE))
    assert feed.unknown == {"quote of MF": 1}
    assert len(feed.rows("quotes")) == 1


def test_one_bad_quote_is_rejected_and_its_neighbours_are_stored() -> None:
    bad = [
        changed(bid=-1.0), changed(dateTimeUTC=5), changed(askSize="many"), {"All": {}}, 5,
        changed(Product={"symbol": "a b", "securityType": "EQ"}),
        changed(Product={"symbol": "IBM", "securityType": "OPTN", "callPut": "CALL"}),
        changed(osiKey="IBM", Product={"symbol": "IBM", "securityType": "OPTN"}),
    ]  # fmt: skip
    feed = Asked().answer(quotes(*bad, QUOTE))
    assert [row["symbol"] for row in feed.rows("quotes")] == ["GOOG"]
    assert len(feed.rows("rejected")) == len(bad)


def test_a_message_about_one_symbol_is_told_once_beside_the_others() -> None:
    message = {"description": "XYZW Invalid symbol", "code": 1019, "type": "WARNING"}
    feed = Asked()
    for _ in range(3):
        feed.answer(quotes(QUOTE, Messages={"Message": [message]}))
    [row] = feed.rows("rejected")
    assert row["reason"] == "E*TRADE: XYZW Invalid symbol (1019)"
    assert len(feed.rows("quotes")) == 1


# Chains


def test_the_documented_chain_becomes_rows_with_greeks() -> None:
    [row] = (
        Asked("IBM", channels=("options",))
        .answer({"OptionChainResponse": CHAIN}, key="chain IBM")
        .rows("options_chain")
    )
    close = int(datetime(2018, 8, 17, 20, tzinfo=UTC).timestamp()) * SECOND
    assert row == {
        "ts_event": 1529430484 * SECOND, "ts_recv": FRAME_END, "symbol": "IBM   180817C00200000", "underlying": "IBM",
        "expiration": close, "strike": 200.0, "option_type": "call", "ask": 0.05, "ask_size": 138.0, "volume": 0.0,
        "open_interest": 0.0, "iv": 0.3145, "delta": 0.0049, "gamma": 0.0008, "theta": -0.002, "vega": 0.0086,
        "rho": 0.001, "greeks_source": "provider", "age_ns": 0,
    }  # fmt: skip


def test_every_leg_of_a_chain_has_its_one_time_and_its_own_age() -> None:
    call = CHAIN["OptionPair"][0]["Call"]
    put = {**call, "optionType": "PUT", "osiKey": "IBM---180817P00200000", "timeStamp": 1529430400}
    unheard_of = {**put, "strikePrice": 205, "osiKey": "IBM---180817P00205000", "timeStamp": 10**12}
    chain = {**CHAIN, "OptionPair": [{"Call": call, "Put": put}, {"Put": unheard_of}]}
    rows = Asked().answer({"OptionChainResponse": chain}).rows("options_chain")
    assert {row["ts_event"] for row in rows} == {1529430484 * SECOND}
    assert [row.get("age_ns") for row in rows] == [0, 84 * SECOND, None]


@pytest.mark.parametrize("greeks", [None, {}, dict.fromkeys(("rho", "vega", "theta", "delta", "gamma", "iv"), 0)])
def test_greeks_that_nobody_computed_are_null(greeks: dict[str, float] | None) -> None:
    call = {**CHAIN["OptionPair"][0]["Call"], "OptionGreeks": greeks}
    [row] = Asked().answer({"OptionChainResponse": {**CHAIN, "OptionPair": {"Call": call}}}).rows("options_chain")
    assert not {"iv", "delta", "gamma", "theta", "vega", "rho", "greeks_source"} & row.keys()


def test_an_adjusted_root_is_kept_and_a_leg_that_contradicts_itself_is_rejected() -> None:
    call = CHAIN["OptionPair"][0]["Call"]
    adjusted = {**call, "osiKey": "IBM1--180817C00200000"}
    other = [{**call, "optionType": "PUT"}, {**call, "strikePrice": 201}, {**call, "osiKey": "?"}, {**call, "bid": "x"}]
    pairs = [{"Call": each} for each in (*other, adjusted)] + [5]
    feed = Asked().answer({"OptionChainResponse": {**CHAIN, "OptionPair": pairs}})
    assert [row["symbol"] for row in feed.rows("options_chain")] == ["IBM1  180817C00200000"]
    assert len(feed.rows("rejected")) == len(other) + 1


def test_expiration_dates_and_an_empty_answer_make_no_rows() -> None:
    dates = {"OptionExpireDateResponse": {"ExpirationDate": [{"year": 2018, "month": 8, "day": 17}]}}
    feed = Asked().answer(dates).answer(b"").answer(b" \n")
    assert sum(feed.out.counts()) == 0


# Errors and nonsense


@pytest.mark.parametrize("code", sorted(ERRORS))
@pytest.mark.parametrize("form", [error, xml_error], ids=["json", "xml"])
def test_every_documented_error_with_status_200_is_an_error(code: int, form: Any) -> None:
    body = form(code, 200).response().body
    with pytest.raises(FrameError, match=rf"{ERRORS[code]} \({code}\)"):
        Asked().answer(body)


@pytest.mark.parametrize("body", [b"<html>down for maintenance</html>", b"{", b"[]", b'{"a":1}', b"null", b"\xff\xfe"])
def test_what_is_no_answer_is_a_frame_error(body: bytes) -> None:
    with pytest.raises(FrameError):
        Asked().answer(body)


def test_damaged_answers_raise_nothing_else_and_disturb_no_good_one() -> None:
    bodies = tuple(json.dumps(each).encode() for each in (quotes(QUOTE, QUOTE), {"OptionChainResponse": CHAIN}))
    feed = Asked()
    for body in mutations(bodies, 4000, seed=7):
        before = feed.out.counts()
        try:
            feed.answer(body)
        except FrameError:
            assert feed.out.counts() == before, body
    for table in ("quotes", "trades", "options_chain"):
        feed.rows(table)
    feed.answer(quotes(changed(bid=0.01, Product={"securityType": "EQ", "symbol": "FRESH"})))
    assert [row["symbol"] for row in feed.rows("quotes")] == ["FRESH"]


# Questions


def venue(*names: str, invalid: str = "refuse") -> Market:
    market = Market(lambda: AT, invalid)
    for name in names:
        market.quote(name, 1.0, 1, 2.0, 1)
    return market


def answered(market: Market, request: HttpRequest) -> HttpResponse:
    assert request.sign == "oauth1"
    address = urlsplit(request.url)
    assert address.hostname == "api.etrade.com"
    query = {name: values[-1] for name, values in parse_qs(address.query).items()}
    try:
        answer = page(market, unquote(address.path), query)
    except Refused as refused:
        answer = refused.answer
    assert answer.status == 200 or answer.status in request.accepts, answer
    return HttpResponse(answer.status, {}, bytes(answer.response().body or b""))


def ask(
    market: Market, pages: Generator[HttpRequest, HttpResponse, None]
) -> Generator[tuple[HttpRequest, bytes], None, None]:
    """Every question of a round with its answer."""
    request = next(pages, None)
    while request is not None:
        response = answered(market, request)
        yield request, response.body if response.status == 200 else b""
        try:
            request = pages.send(response)
        except StopIteration:
            return


def polls(*symbols: str, **fields: Any) -> tuple[Any, ...]:
    return Asked(*symbols, **fields).feed.polls()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (25, [25]), (26, [26]), (50, [50]), (51, [50, 1])])
def test_so_many_symbols_are_asked_for_at_once_as_are_allowed(count: int, sizes: list[int]) -> None:
    names = [f"A{chr(65 + i // 26)}{chr(65 + i % 26)}" for i in range(count)]
    market, found = venue(*names), []
    for poll in polls(*names):
        for request, body in ask(market, poll.ask()):
            listed = urlsplit(request.url).path.removeprefix("/v1/market/quote/").removesuffix(".json").split(",")
            found.append(listed)
            data = json.loads(body)["QuoteResponse"]["QuoteData"]
            assert len(data) == len(listed) or len(listed) == 1
    assert [len(listed) for listed in found] == sizes
    assert [name for listed in found for name in listed] == names


def test_what_was_asked_for_comes_back_as_the_symbols_of_the_feed() -> None:
    symbols = ("BRK.B", "IBM   180817C00200000", "SPXW  260821P05000500")
    feed = Asked(*symbols)
    market = venue(*(name_of(symbol) for symbol in symbols))
    for poll in feed.feed.polls():  # type: ignore[attr-defined]
        for _, body in ask(market, poll.ask()):
            feed.answer(body, key=poll.key)
    found = {row["symbol"] for row in feed.rows("quotes")}
    assert {"BRK.B", "IBM   180817C00200000"} <= found
    assert name_of(symbols[2]) == "SPX:2026:8:21:PUT:5000.500000"


@settings(deadline=None)
@given(st.sets(st.integers(0, 29), max_size=4), st.sampled_from(["refuse", "error"]))
def test_a_symbol_that_is_none_is_found_told_and_left_out_from_then_on(wrong: set[int], invalid: str) -> None:
    names = [f"A{chr(65 + i // 26)}{chr(65 + i % 26)}" for i in range(30)]
    bad = sorted(names[i] for i in wrong)
    market = venue(*(name for name in names if name not in bad), invalid=invalid)
    [poll] = polls(*names)
    seen: list[str] = []
    told = ""
    try:
        for _, body in ask(market, poll.ask()):
            data = json.loads(body or b"{}").get("QuoteResponse", {"QuoteData": []})["QuoteData"]
            seen += [each["Product"]["symbol"] for each in (data if isinstance(data, list) else [data])]
    except FrameError as caught:
        told = str(caught)
    assert sorted(seen) == sorted(set(names) - set(bad))
    assert all(name in told for name in bad)
    assert bool(told) == bool(bad)
    assert len(list(ask(market, poll.ask()))) == 1  # the next round


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (error(1002), "product details"),
        (error(1025), "exceeds"),
        (xml_error(1002), "product"),
        (Answer(400, ""), "HTTP 400"),
    ],
)
def test_other_refusals_of_quotes_end_the_round_with_their_words(refusal: Answer, words: str) -> None:
    pages = polls("GOOG")[0].ask()
    next(pages)
    with pytest.raises(FrameError, match=words):
        pages.send(HttpResponse(400, {}, bytes(refusal.response().body or b"")))


DAYS = [date(2026, 8, 21), date(2026, 9, 18), date(2026, 12, 18)]


def chained() -> Market:
    market = venue("IBM", "NONE")
    at = Instrument(bid=1.0, bid_size=3, ask=1.2, ask_size=4, last=1.1, volume=7)
    for i, day in enumerate(DAYS):
        legs = [Contract(200.0 + 2.5 * k, kind, at, 10) for k in range(i + 1) for kind in ("CALL", "PUT")]
        market.chains.setdefault("IBM", {})[day] = legs
    return market


@pytest.mark.parametrize(("wanted", "days"), [("all", DAYS), ("1", DAYS[:1]), ("4", DAYS)])
def test_a_chain_is_asked_for_by_its_expiration_dates(wanted: str, days: list[date]) -> None:
    feed = Asked("IBM", channels=("options",), options={"expirations": wanted})
    [poll] = feed.feed.polls()  # type: ignore[attr-defined]
    assert poll.key == "chain IBM"
    for _, body in ask(chained(), poll.ask()):
        feed.answer(body, key=poll.key)
    rows = feed.rows("options_chain")
    expected = [
        (f"IBM   {day:%y%m%d}{kind}{round((200 + 2.5 * k) * 1000):08d}")
        for day in days for k in range(DAYS.index(day) + 1) for kind in "CP"
    ]  # fmt: skip
    assert [row["symbol"] for row in rows] == expected
    assert all((row["bid"], row["volume"], row["open_interest"]) == (1.0, 7.0, 10.0) for row in rows)
    assert feed.rows("rejected") == []


def test_a_round_is_one_snapshot_with_the_price_of_the_underlying() -> None:
    feed, market = Asked("IBM", channels=("options",)), chained()
    [poll] = feed.feed.polls()  # type: ignore[attr-defined]
    now_s = [AT // SECOND]
    market.now = lambda: now_s[0] * SECOND
    for begun_s in (AT // SECOND, AT // SECOND + 60):
        now_s[0] = begun_s
        market.trade("IBM", begun_s % 1000 + 0.25, 100)
        for _, body in ask(market, poll.ask()):
            feed.answer(body, key=poll.key)
            now_s[0] += 1
    rows = feed.rows("options_chain")
    times = sorted({row["ts_event"] for row in rows})
    assert [time - times[0] for time in times] == [0, 60 * SECOND]
    legs = sum(map(len, market.chains["IBM"].values()))
    for time, begun_s in zip(times, (AT // SECOND, AT // SECOND + 60), strict=True):
        snapshot = [row for row in rows if row["ts_event"] == time]
        assert len(snapshot) == legs
        assert {row["underlying_price"] for row in snapshot} == {begun_s % 1000 + 0.25}
    assert feed.rows("quotes") == feed.rows("rejected") == []


def test_a_quote_that_is_refused_leaves_the_chain_without_a_price() -> None:
    feed, market = Asked("IBM", channels=("options",)), chained()
    [poll] = feed.feed.polls()  # type: ignore[attr-defined]
    pages = poll.ask()
    request = next(pages)
    while request is not None:
        refused = "/quote/" in request.url
        response = HttpResponse(400, {}, b"") if refused else answered(market, request)
        if not refused:
            feed.answer(response.body, key=poll.key)
        try:
            request = pages.send(response)
        except StopIteration:
            break
    assert len(feed.rows("options_chain")) == sum(map(len, market.chains["IBM"].values()))
    assert all("underlying_price" not in row for row in feed.rows("options_chain"))


def test_an_underlying_without_options_has_none() -> None:
    [poll] = polls("NONE", channels=("options",))
    assert [body for _, body in ask(chained(), poll.ask())] == [b""]


@pytest.mark.parametrize("code", sorted(code for code in ERRORS if code > 10000))
@pytest.mark.parametrize("step", [0, 2], ids=["expirations", "chain"])
def test_errors_of_chains_are_told_but_those_that_say_there_are_none(code: int, step: int) -> None:
    pages = polls("IBM", channels=("options",), options={"expirations": "1"})[0].ask()
    request = next(pages)
    for _ in range(step):
        request = pages.send(answered(chained(), request))
    refused = HttpResponse(400, {}, bytes(error(code).response().body or b""))
    nothing = code in (10031, 10032, 10037, 10038, 10044)
    with pytest.raises(StopIteration if nothing else FrameError):
        pages.send(refused)
    assert 400 in request.accepts


def test_the_sandbox_and_an_address_of_ones_own_are_used() -> None:
    [poll] = polls("GOOG", options={"environment": "sandbox"})
    assert next(poll.ask()).url.startswith("https://apisb.etrade.com/v1/market/quote/GOOG.json?")
    [poll] = polls("GOOG", rest_url="http://127.0.0.1:20001/")
    assert next(poll.ask()).url.startswith("http://127.0.0.1:20001/v1/")


@pytest.mark.parametrize("symbol", ["a/b", "", "AAPL?x=1", "A,B", "../x", "IBM:2018"])
def test_a_symbol_that_could_change_the_address_is_refused(symbol: str) -> None:
    with pytest.raises(SymbolError):
        make(FeedSpec(name="f", provider="etrade", symbols=(symbol,)))


def test_a_contract_has_no_chain() -> None:
    with pytest.raises(SymbolError, match="underlyings"):
        make(FeedSpec(name="f", provider="etrade", symbols=("IBM   180817C00200000",), channels=("options",)))


@pytest.mark.parametrize(("interval", "most"), [("1s", 100), ("5s", 500)])
def test_more_symbols_than_the_rate_limit_lets_ask_for_are_refused(interval: str, most: int) -> None:
    names = tuple(f"A{chr(65 + i // 26 % 26)}{chr(65 + i % 26)}{chr(65 + i // 676)}" for i in range(most + 1))
    fits = Asked(*names[:most], options={"interval": interval}).feed
    assert len(fits.shards()) == 1
    each = fits.polls()  # type: ignore[attr-defined]
    assert sum(SECOND / poll.every_ns for poll in each) == pytest.approx(PER_SECOND_MAX)
    with pytest.raises(ConfigError, match="symbols"):
        Asked(*names, options={"interval": interval}).feed.shards()
