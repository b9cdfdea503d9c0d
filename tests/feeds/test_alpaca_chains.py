"""Alpaca's option chains: pages become one snapshot, with the underlying's price and the age of each leg."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from decoding import FRAME_END, Recorded

from recorder.core.pipeline import Pipeline
from recorder.core.text_time import rfc3339_ns
from recorder.feeds import make
from recorder.shell.simulator.alpaca_chains import QUOTE_AGE_NS, AlpacaChains
from recorder.shell.simulator.cboe import spot
from recorder.shell.simulator.rest import SECOND_NS, Asked
from recorder.values.config import KernelsConfig
from recorder.values.errors import ConfigError, FrameError
from recorder.values.feed import FeedSpec, HttpResponse, Polled

KEYS = {"APCA_API_KEY_ID": "AKIDOFTHETEST", "APCA_API_SECRET_KEY": "not-a-real-secret"}
NOW = 1_790_000_000 * SECOND_NS
BASE = "http://127.0.0.1:1"


def feed_of(*symbols: str, **options: str) -> Polled:
    spec = FeedSpec(name="f", provider="alpaca", symbols=symbols, channels=("options",), options=options, rest_url=BASE)
    return cast(Polled, make(spec, KEYS))


def answers(feed: Polled, pages: AlpacaChains, page: int = 1000) -> list[tuple[Asked, int, bytes]]:
    """What is asked in one round of the first poll, with status and body of the answers, pages shortened."""
    result, talk = [], feed.polls()[0].ask()
    request = next(talk, None)
    while request is not None:
        path, _, text = request.url.removeprefix(BASE).partition("?")
        query = dict(part.split("=") for part in text.split("&"))
        headers = {name.lower(): value for name, value in request.secret_headers}
        asked = Asked(path, query | ({"limit": str(page)} if "limit" in query else {}), headers)
        answer = pages.answer(asked)
        body = json.dumps(answer.body).encode()
        result.append((asked, answer.status, body))
        if answer.status != 200:
            break
        try:
            request = talk.send(HttpResponse(200, {}, body))
        except StopIteration:
            break
    return result


@pytest.fixture
def pages() -> AlpacaChains:
    return AlpacaChains(("AAPL", "SPX"), tuple(KEYS.values()), lambda: NOW)


def test_all_pages_are_one_snapshot_with_the_price_of_the_underlying(pages):
    feed = Recorded("alpaca", ("AAPL",), channels=("options",))
    for i, (_, status, body) in enumerate(answers(feed_of("AAPL"), pages, 5)):
        assert status == 200
        feed.poll("chain AAPL", body, NOW + i * SECOND_NS)
    rows = feed.rows("options_chain")
    assert len(rows) == 18
    assert feed.rows("rejected") == []
    assert {row["ts_event"] for row in rows} == {NOW}  # of the first answer's receipt
    assert {row["underlying_price"] for row in rows} == {spot("AAPL", NOW // SECOND_NS)}
    assert {row["age_ns"] for row in rows} == {QUOTE_AGE_NS}
    assert {row["ts_recv"] for row in rows} > {NOW + SECOND_NS}
    sent = pages.legs("AAPL")
    assert [row["symbol"].replace(" ", "") for row in rows] == list(sent)
    for row, leg in zip(rows, sent.values(), strict=True):
        assert (row["bid"], row["ask_size"]) == (leg["latestQuote"]["bp"], leg["latestQuote"]["as"])
        assert row.get("delta") == leg.get("greeks", {}).get("delta")
        assert row.get("greeks_source") == ("provider" if "greeks" in leg else None)


def test_the_next_round_is_a_snapshot_of_its_own(pages):
    feed = Recorded("alpaca", ("AAPL",), channels=("options",))
    for begin in (NOW, NOW + 900 * SECOND_NS):
        for _, _, body in answers(feed_of("AAPL"), pages):
            feed.poll("chain AAPL", body, begin)
    assert sorted({row["ts_event"] for row in feed.rows("options_chain")}) == [NOW, NOW + 900 * SECOND_NS]


def test_a_round_that_broke_off_does_not_lend_its_time_to_the_next(pages):
    feed, round_ = Recorded("alpaca", ("AAPL",), channels=("options",)), answers(feed_of("AAPL"), pages, 5)
    for _, _, body in round_[:2]:
        feed.poll("chain AAPL", body, NOW)
    for _, _, body in round_:
        feed.poll("chain AAPL", body, NOW + 60 * SECOND_NS)
    assert [row["ts_event"] for row in feed.rows("options_chain")] == [NOW] * 5 + [NOW + 60 * SECOND_NS] * 18


def test_an_index_is_asked_for_without_a_trade(pages):
    asked = answers(feed_of("SPX"), pages)
    assert [each.path for each, _, _ in asked] == ["/v1beta1/options/snapshots/SPX"]
    feed = Recorded("alpaca", ("SPX",), channels=("options",)).poll("chain SPX", asked[0][2], NOW)
    assert all("underlying_price" not in row for row in feed.rows("options_chain"))


def test_a_captured_snapshot_becomes_a_row(shared_data):
    line = next(
        json.loads(line)
        for line in (shared_data / "alpaca" / "alpaca_py_fixtures.jsonl").read_text().splitlines()
        if '"AAPL240126P00050000": {"greeks"' in line
    )
    body = json.dumps(line["response"]).encode()
    (row,) = Recorded("alpaca", ("AAPL",), channels=("options",)).poll("chain AAPL", body).rows("options_chain")
    sent = line["response"]["snapshots"]["AAPL240126P00050000"]
    assert row["symbol"] == "AAPL  240126P00050000"
    assert (row["strike"], row["option_type"], row["iv"]) == (50.0, "put", sent["impliedVolatility"])
    assert {name: row[name] for name in sent["greeks"]} == sent["greeks"]
    assert (row["bid"], row["bid_size"], row["ask"], row["last"]) == (0.48, 396, 0.59, 0.52)
    assert row["age_ns"] == FRAME_END - rfc3339_ns("2024-02-02T20:59:59.731674112Z")


@pytest.mark.parametrize(
    ("keys", "options", "status"), [(("a", "b"), {}, 403), (tuple(KEYS.values()), {"chains": "opra"}, 403)]
)
def test_a_key_or_plan_that_is_refused_ends_the_round(keys, options, status):
    pages = AlpacaChains(("AAPL",), keys, lambda: NOW)
    assert [answer for _, answer, _ in answers(feed_of("AAPL", **options), pages)] == [status]


def test_a_page_without_contracts_is_an_empty_one_whether_it_says_so_by_null_or_not():
    feed = Recorded("alpaca", ("AAPL",), channels=("options",))
    for nothing in (b"null", b"{}"):
        feed.poll("chain AAPL", b'{"trades":%s}' % nothing)
        feed.poll("chain AAPL", b'{"snapshots":%s,"next_page_token":"more"}' % nothing)
        feed.poll("chain AAPL", b'{"snapshots":{"AAPL240126C00050000":{}},"next_page_token":null}')
    assert len(feed.rows("options_chain")) == 2
    assert feed.rows("rejected") == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"message":"too many requests."}', b'{"snapshots":5}'])
def test_what_is_no_chain_is_an_error(body):
    with pytest.raises(FrameError):
        Recorded("alpaca", ("AAPL",), channels=("options",)).poll("chain AAPL", body)


@pytest.mark.parametrize(
    ("name", "leg"),
    [
        ("AAPL", {}), ("AAPL240126P00050000", 5), ("AAPL240126P00050000", {"latestQuote": {"t": "now"}}),
        ("AAPL240126P00050000", {"latestQuote": {"t": "2024-02-02T20:59:59Z", "bp": -1}}),
    ],
)  # fmt: skip
def test_one_bad_leg_is_rejected_and_its_neighbours_are_stored(name: str, leg: Any):
    body = json.dumps({"snapshots": {name: leg, "AAPL240126C00050000": {}}, "next_page_token": None}).encode()
    feed = Recorded("alpaca", ("AAPL",), channels=("options",)).poll("chain AAPL", body)
    assert len(feed.rows("options_chain")) == len(feed.rows("rejected")) == 1


def test_what_is_null_in_a_leg_is_not_there():
    leg = {
        "latestQuote": {"t": "2024-02-02T20:59:59Z", "bp": 0.48, "bs": 396, "ap": None, "as": None, "bx": None},
        "latestTrade": None, "dailyBar": {"v": None}, "greeks": {"delta": None}, "impliedVolatility": None,
    }  # fmt: skip
    body = json.dumps({"snapshots": {"AAPL240126P00050000": leg}, "next_page_token": None}).encode()
    feed = Recorded("alpaca", ("AAPL",), channels=("options",)).poll("chain AAPL", body)
    (row,) = feed.rows("options_chain")
    assert (row["bid"], row["bid_size"]) == (0.48, 396.0)
    assert not row.keys() & {"ask", "ask_size", "last", "volume", "iv", "delta", "greeks_source"}
    assert feed.rows("rejected") == []


def test_chains_are_a_feed_of_their_own():
    with pytest.raises(ConfigError, match="make them a feed of their own"):
        make(FeedSpec(name="f", provider="alpaca", symbols=("AAPL",), channels=("trades", "options")))


def test_a_state_between_two_pages_is_kept_by_snapshots():
    pipeline = Pipeline(KernelsConfig(), make)
    scope = pipeline.out.scope("f", 0)
    decode = feed_of("AAPL").poll_decoder(scope)
    decode("chain AAPL", b'{"trades":{"AAPL":{"t":"2026-09-21T13:33:19Z","p":150.25}}}', NOW)
    assert pipeline.out.kept[("f", 0)]["rounds"] == {"at AAPL": NOW, "price AAPL": 150_250_000}
