"""Cboe's delayed chains: its file, as captured and as its simulator serves it, becomes one snapshot."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from decoding import FRAME_END, Recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.feeds import make
from recorder.shell.simulator.cboe import Cboe, spot
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked
from recorder.values.errors import ConfigError, FrameError
from recorder.values.feed import MINUTE, FeedSpec, HttpResponse, Polled

SNAPSHOT = int(datetime(2021, 5, 21, 17, 20, 11, tzinfo=UTC).timestamp()) * SECOND_NS
# An option object captured from Cboe in 2021 by a public program.
CAPTURED = {
    "option": "SPY210601P00290000", "bid": 0.0, "bid_size": 0.0, "ask": 0.01, "ask_size": 2008.0, "iv": 1.251,
    "open_interest": 202.0, "volume": 0.0, "delta": -0.0005, "gamma": 0.0, "theta": -0.0128, "rho": -0.0016,
    "vega": 0.0006, "theo": 0.0058, "change": 0.0, "open": 0.0, "high": 0.0, "low": 0.0, "tick": "no_change",
    "last_trade_price": 0.01, "last_trade_time": "2021-05-21T13:02:06", "percent_change": 0.0,
    "prev_day_close": 0.00499999988824129,
}  # fmt: skip


def file_of(*legs: dict[str, Any], **more: Any) -> bytes:
    data = {"symbol": "SPY", "current_price": 415.28, "iv30": 17.1, "options": list(legs), **more}
    return json.dumps({"timestamp": "2021-05-21 17:20:11", "data": data, "symbol": "SPY"}).encode()


def asked(*legs: dict[str, Any], **more: Any) -> Recorded:
    return Recorded("cboe", ("SPY",), channels=("options",)).poll("chain SPY", file_of(*legs, **more))


def test_a_captured_contract_becomes_a_row():
    feed = asked(CAPTURED)
    assert feed.rows("options_chain") == [
        {
            "ts_event": SNAPSHOT, "ts_recv": FRAME_END, "symbol": "SPY   210601P00290000", "underlying": "SPY",
            "expiration": int(datetime(2021, 6, 1, 20, 0, tzinfo=UTC).timestamp()) * SECOND_NS, "strike": 290.0,
            "option_type": "put", "ask": 0.01, "ask_size": 2008.0, "last": 0.01, "volume": 0.0, "open_interest": 202.0,
            "iv": 1.251, "delta": -0.0005, "gamma": 0.0, "theta": -0.0128, "vega": 0.0006, "rho": -0.0016,
            "greeks_source": "provider", "underlying_price": 415.28, "age_ns": (18 * 60 + 5) * SECOND_NS,
        }
    ]  # fmt: skip
    assert feed.rows("rejected") == []


def test_a_volatility_cboe_did_not_find_is_null_and_no_provider_is_named():
    zero = dict.fromkeys(("iv", "delta", "gamma", "theta", "vega", "rho"), 0.0)
    (row,) = asked({**CAPTURED, **zero, "last_trade_time": None, "last_trade_price": 0.0}).rows("options_chain")
    assert {"iv", "delta", "greeks_source", "age_ns", "last"} & row.keys() == set()


def test_every_leg_has_the_time_of_the_chain_and_its_own_age():
    older = {**CAPTURED, "option": "SPY210601C00290000", "last_trade_time": "2021-05-20T15:59:59"}
    rows = asked(CAPTURED, older).rows("options_chain")
    assert {row["ts_event"] for row in rows} == {SNAPSHOT}
    assert rows[1]["age_ns"] - rows[0]["age_ns"] == (21 * 3600 + 2 * 60 + 7) * SECOND_NS


@pytest.mark.parametrize(
    "change",
    [
        {"option": "SPY"},
        {"option": "SPY210631P00290000"},
        {"bid": -1.0},
        {"ask": "x"},
        {"last_trade_time": "yesterday"},
    ],
)
def test_one_bad_leg_is_rejected_and_its_neighbours_are_stored(change):
    feed = asked({**CAPTURED, **change}, CAPTURED)
    assert len(feed.rows("options_chain")) == 1
    (rejected,) = feed.rows("rejected")
    assert "SPY" in rejected["excerpt"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"timestamp":"now","data":{"options":[]}}'])
def test_what_is_no_chain_is_an_error(body):
    with pytest.raises(FrameError):
        Recorded("cboe", ("SPY",), channels=("options",)).poll("chain SPY", body)


class Talk:
    """A feed of one symbol and the simulated provider."""

    def __init__(self, symbol: str = "AAPL", **rules: Any) -> None:
        self.now = SNAPSHOT
        self.pages = Cboe(("AAPL", "SPX"), lambda: self.now, **rules)
        spec = FeedSpec(
            name="f", provider="cboe", symbols=(symbol,), channels=("options",), rest_url="http://127.0.0.1:1"
        )
        self.feed = cast(Polled, make(spec))
        self.asked: list[Asked] = []

    def round(self) -> list[Answer]:
        """All answers of one round of the only poll."""
        (poll,) = self.feed.polls() if not self.asked else (self.poll,)
        self.poll, answers = poll, []
        pages = poll.ask()
        request = next(pages)
        headers = {name.lower(): value for name, value in request.headers}
        self.asked.append(Asked(request.url.removeprefix("http://127.0.0.1:1"), {}, headers))
        answer = self.pages.answer(self.asked[-1])
        answers.append(answer)
        if answer.status not in (200, *request.accepts):
            return answers
        body = answer.body if isinstance(answer.body, bytes) else str(answer.body).encode()
        body = b"{" if answer.headers.get("Content-Encoding") else body
        lower = {name.lower(): value for name, value in answer.headers.items()}
        with pytest.raises(StopIteration):
            pages.send(HttpResponse(answer.status, lower, body))
        return answers


def test_an_index_is_asked_for_with_its_underscore():
    talk = Talk("^SPX")
    assert talk.round()[0].status == 200
    assert talk.asked[0].path == "/api/global/delayed_quotes/options/_SPX.json"
    assert talk.poll.key == "chain SPX"


def test_a_file_that_has_not_changed_is_not_sent_again():
    talk = Talk()
    first, again = talk.round()[0], talk.round()[0]
    assert (first.status, again.status) == (200, 304)
    talk.now += MINUTE
    assert talk.round()[0].status == 200


def test_what_an_answer_is_known_by_is_sent_back_as_long_as_the_answer_stands():
    (poll,) = Talk().feed.polls()
    modified = "Fri, 27 Nov 2026 18:00:00 GMT"
    sent = []
    for headers in ({"last-modified": modified}, {"last-modified": modified, "etag": '"7"'}, {}, {}):
        asked = poll.ask()
        sent.append(dict(next(asked).headers))
        with pytest.raises(StopIteration):
            asked.send(HttpResponse(200, headers, b"{}"))
    validators = [{name: value for name, value in each.items() if name.startswith("If-")} for each in sent]
    known = {"If-Modified-Since": modified}
    assert validators == [{}, known, {**known, "If-None-Match": '"7"'}, {}]


def test_a_symbol_without_options_is_an_error_of_its_own_poll():
    with pytest.raises(FrameError, match="Cboe has no options of ZZZZ: HTTP 403"):
        Talk("ZZZZ").round()


def test_too_many_requests_are_told_to_wait():
    talk = Talk(requests=1)
    assert [talk.round()[0].status, talk.round()[0].status] == [200, 429]


def test_the_simulators_chain_is_read_whole():
    pages = Cboe(("AAPL",), lambda: SNAPSHOT)
    body = json.dumps(pages.chain("AAPL", SNAPSHOT // SECOND_NS)).encode()
    feed = Recorded("cboe", ("AAPL",), channels=("options",)).poll("chain AAPL", body)
    rows = feed.rows("options_chain")
    assert (len(rows), feed.rows("rejected")) == (54, [])
    assert {row["underlying_price"] for row in rows} == {spot("AAPL", SNAPSHOT // SECOND_NS - 900)}
    assert sum("greeks_source" not in row for row in rows) == 1


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(sorted(CAPTURED)),
            st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
        )
    )
)
def test_any_change_of_a_leg_is_a_row_or_a_rejected_one(changes):
    feed = asked(*({**CAPTURED, **change} for change in changes))
    assert len(feed.rows("options_chain")) + len(feed.rows("rejected")) == len(changes)


def test_channels_and_intervals_it_does_not_have_are_named():
    with pytest.raises(ConfigError, match="cboe has no channel 'trades'"):
        make(FeedSpec(name="f", provider="cboe", symbols=("SPY",)))
    with pytest.raises(ConfigError, match="interval is '1s'"):
        make(FeedSpec(name="f", provider="cboe", symbols=("SPY",), channels=("options",), options={"interval": "1s"}))
