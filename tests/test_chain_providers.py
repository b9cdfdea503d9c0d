"""`recorder chain` of the providers that are asked for chains, each simulated over real sockets: what is printed and
what QuestDB holds is what the provider holds."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QuestDB
from recorder_process import external, write_config

from recorder.commands import cli
from recorder.commands.logins import login_of, store_of
from recorder.core.greeks import greeks, implied
from recorder.feeds import PROVIDERS
from recorder.shell.pace import Pace
from recorder.shell.simulator.alpaca_chains import AlpacaChains
from recorder.shell.simulator.alphavantage import AlphaVantage
from recorder.shell.simulator.asked import AskedSimulator
from recorder.shell.simulator.cboe import spot
from recorder.shell.simulator.etrade import Etrade
from recorder.shell.simulator.etrade_pages import Contract, Instrument
from recorder.shell.simulator.rest import Answer, Asked
from recorder.shell.simulator.yahoo import COOKIE, YahooPages
from recorder.values.feed import SECOND, FeedSpec

RATE = 0.04
LETTERS = ("delta", "gamma", "theta", "vega", "rho")
NONE = dict.fromkeys(("iv", *LETTERS))
SECRET = "a-secret-of-these-tests"


@dataclass
class Place:
    """A simulated provider, whose clock stands from its start, so that nothing moves between two questions.

    sent     what it has: columns by compact OCC symbol; those of computed Greeks are left out
    unknown  what is said of a symbol that it does not have
    refuse   have it refuse our key from now on; returns what is said then
    """

    name: str
    server: AbstractContextManager[Any]
    sent: dict[str, dict[str, Any]]
    unknown: str
    refuse: Callable[[], str]
    keys: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def sent_by_provider(values: dict[str, float]) -> dict[str, Any]:
    return {**values, "greeks_source": "provider", "iv_status": None}


def alpaca() -> Place:
    now = time.time_ns()
    keys = {"APCA_API_KEY_ID": "AKIDOFTHETEST", "APCA_API_SECRET_KEY": SECRET}
    pages = AlpacaChains(("AAPL",), ("AKIDOFTHETEST", SECRET), lambda: now, strikes=5, expirations=2)
    sent = {}
    for name, leg in pages.legs("AAPL").items():
        quote = leg["latestQuote"]
        sent[name] = {
            "bid": quote["bp"], "ask": quote["ap"], "bid_size": quote["bs"], "ask_size": quote["as"],
            "last": leg.get("latestTrade", {}).get("p"), "volume": leg["dailyBar"]["v"], "open_interest": None,
            "underlying_price": spot("AAPL", now // SECOND),
        } | (
            sent_by_provider({"iv": leg["impliedVolatility"], **leg["greeks"]})
            if "greeks" in leg
            else {"greeks_source": "computed", "iv_status": "converged"}
        )  # fmt: skip

    def refuse() -> str:
        pages._keys = ("other", "keys")
        return "alpaca: HTTP 403: .*forbidden"

    return Place("alpaca", AskedSimulator(pages), sent, "alpaca sent no contract of ZZZZ$", refuse, keys)


def yahoo() -> Place:
    class Pages(YahooPages):
        """Without a chain for this address, whatever the crumb, once it is told to."""

        refusing = False

        def answer(self, asked: Asked) -> Answer:
            if self.refusing and asked.path.startswith("/v7/"):
                words = {"code": "Unauthorized", "description": "Invalid Crumb"}
                return Answer(401, {"finance": {"result": None, "error": words}})
            return super().answer(asked)

    now = time.time_ns()
    pages, sent = Pages(("AAPL",), lambda: now), {}

    def asked(**query: str) -> Any:
        answer = pages.answer(
            Asked("/v7/finance/options/AAPL", {"crumb": pages.crumb, **query}, {"cookie": COOKIE})
        ).body
        return answer["optionChain"]["result"][0]

    for seconds in asked()["expirationDates"]:
        result = asked(date=str(seconds))
        for leg in (*result["options"][0]["calls"], *result["options"][0]["puts"]):
            quoted = leg["bid"] > 0
            sent[leg["contractSymbol"]] = {
                "bid": leg["bid"] or None, "ask": leg["ask"] or None, "bid_size": None, "ask_size": None,
                "last": leg["lastPrice"], "volume": leg.get("volume"), "open_interest": leg["openInterest"],
                "underlying_price": result["quote"]["regularMarketPrice"],
            } | (
                {"iv": leg["impliedVolatility"], "greeks_source": "computed", "iv_status": "converged"}
                if quoted
                else {**NONE, "greeks_source": None, "iv_status": "no_quote"}
            )  # fmt: skip

    def refuse() -> str:
        pages.refusing = True
        return "HTTP 401 also with a new crumb: Yahoo does not let this address ask for chains"

    return Place("yahoo", AskedSimulator(pages), sent, "an empty answer", refuse, options={"api": "rest"})


def alphavantage() -> Place:
    now = time.time_ns()
    pages = AlphaVantage(("AAPL",), SECRET, lambda: now, quota=1000)
    query = {"function": "HISTORICAL_OPTIONS", "symbol": "AAPL", "apikey": SECRET}
    sent = {}
    for leg in pages.answer(Asked("/query", query, {})).body["data"]:
        number = {name: float(leg[name]) for name in leg if re.fullmatch(r"-?\d+\.?\d*", leg[name])}
        sent[leg["contractID"]] = {
            "bid": number["bid"] or None, "ask": number["ask"], "last": number["last"] or None,
            "bid_size": number["bid_size"] if number["bid"] else None, "ask_size": number["ask_size"],
            "volume": number["volume"], "open_interest": number["open_interest"], "underlying_price": None,
        } | (
            sent_by_provider({"iv": number["implied_volatility"], **{name: number[name] for name in LETTERS}})
            if number["implied_volatility"]
            else {**NONE, "greeks_source": None, "iv_status": "no_underlying"}
        )  # fmt: skip

    def refuse() -> str:
        pages.key = "another"
        return "Error Message: the parameter apikey is invalid or missing"

    said = "Error Message: Invalid API call.*HISTORICAL_OPTIONS"
    return Place(
        "alphavantage", AskedSimulator(pages), sent, said, refuse, {"ALPHAVANTAGE_API_KEY": SECRET}, {"plan": "1200"}
    )


def etrade() -> Place:
    now = time.time_ns()
    today = datetime.fromtimestamp(now // SECOND, UTC).date()
    provider = Etrade({"consumer": SECRET}, now=lambda: now, per_second=1000)
    market, sent = provider.market, {}
    market.trade("AAPL", 190.25, 100)
    for days, strike, kind in ((d, s, k) for d in (7, 35) for s in (180.0, 190.0) for k in ("CALL", "PUT")):
        day, given = today + timedelta(days), strike == 190.0
        at = Instrument(bid=11.0 + days / 70, bid_size=3, ask=11.2 + days / 70, ask_size=4, last=11.1, volume=7)
        values = {"rho": 0.01, "vega": 0.1, "theta": -0.02, "delta": 0.5, "gamma": 0.03, "iv": 0.3 + days / 1000}
        market.chains.setdefault("AAPL", {}).setdefault(day, []).append(
            Contract(strike, kind, at, 10, values if given else None)
        )
        sent[f"AAPL{day:%y%m%d}{kind[0]}{int(strike * 1000):08d}"] = {
            "bid": at.bid, "ask": at.ask, "bid_size": 3.0, "ask_size": 4.0, "last": 11.1, "volume": 7.0,
            "open_interest": 10.0, "underlying_price": 190.25,
        } | (
            sent_by_provider(values) if given else {"greeks_source": "computed", "iv_status": "converged"}
        )  # fmt: skip

    def refuse() -> str:
        provider.revoke()
        return r"the login has ended: E\*TRADE answered 401 token_rejected; run `recorder login etrade`"

    keys = {"ETRADE_CONSUMER_KEY": "consumer", "ETRADE_CONSUMER_SECRET": SECRET}
    return Place("etrade", provider, sent, r"E\*TRADE: The symbol is not valid \(10033\)", refuse, keys)


def log_in(place: Place, url: str, folder: Path) -> None:
    """As a person does it, where the provider wants that."""
    how = PROVIDERS[place.name].login
    if how is None:
        return
    spec = FeedSpec(name="f", provider=place.name, rest_url=url)

    async def steps() -> Any:
        login = login_of(how, spec, place.keys)
        asked = await login.request_token()
        with urllib.request.urlopen(login.page(asked)) as page:
            code = re.search(r'value="(\w+)"', page.read().decode())
        assert code
        return await login.access_token(asked, code[1])

    store_of(spec, place.keys, folder).save(asyncio.run(steps()))


@pytest.fixture(params=[alpaca, yahoo, alphavantage, etrade], ids=lambda each: each.__name__)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    made: Place = request.param()
    with made.server:
        yield made


def computed_by_reference(leg: dict[str, Any], iv: float | None) -> dict[str, float]:
    """At the volatility that was sent, else that of the middle of the quote."""
    ns = {name: int(np.datetime64(leg[name].rstrip("Z"), "ns").astype(int)) for name in ("ts_event", "expiration")}
    years = (ns["expiration"] - ns["ts_event"]) / (365 * 86_400e9)
    sign, none = 1.0 if leg["option_type"] == "call" else -1.0, np.empty((0, 2))
    at = (leg["underlying_price"], leg["strike"], years, RATE, 0.0)
    if iv is None:
        iv, _ = implied(True, sign, (leg["bid"] + leg["ask"]) / 2, *at, none)
    delta, gamma, theta, vega, rho = greeks(True, sign, *at, iv, none)
    return {"iv": iv, "delta": delta, "gamma": gamma, "theta": theta / 365, "vega": vega / 100, "rho": rho / 100}


def test_what_a_provider_holds_is_printed_and_stored_and_what_it_refuses_is_said(
    place: Place, questdb: QuestDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questdb.sql.execute("TRUNCATE TABLE options_chain")
    questdb.wait_applied()
    url = place.server.url  # type: ignore[attr-defined]
    feed = {"provider": place.name, "channels": ["options"], "symbols": ["MSFT"], "rest_url": url, **place.options}
    config = write_config(tmp_path, {"asked": feed}, 20001, external(questdb.sql_url), kernels={"risk_free_rate": RATE})
    monkeypatch.setattr(Pace, "wait_s", lambda pace, capability: 0.0)  # what it waits is tested in test_pace
    for name, value in place.keys.items():
        monkeypatch.setenv(name, value)

    def chain(*words: str) -> tuple[int, str, str]:
        code = cli.main(["--config", str(config), "chain", *words, "--provider", place.name])
        said = capsys.readouterr()
        assert SECRET not in said.out + said.err
        return code, said.out, said.err

    if PROVIDERS[place.name].login is not None:
        code, _, said = chain("AAPL")
        assert (code, "run `recorder login" in said) == (1, True)
    log_in(place, url, tmp_path / "login")

    code, out, said = chain("AAPL", "--json")
    assert (code, said) == (0, "")
    legs = {leg["symbol"].replace(" ", ""): leg for leg in json.loads(out)}
    assert legs.keys() == place.sent.keys()
    assert len({leg["ts_event"] for leg in legs.values()}) == 1
    for name, expected in place.sent.items():
        leg = legs[name]
        assert {column: leg[column] for column in expected} == expected, name
        if leg["greeks_source"] == "computed":
            reference = computed_by_reference(leg, expected.get("iv"))
            assert {column: leg[column] for column in reference} == reference, name
        assert (leg["feed"], leg["underlying"], leg["option_type"][0].upper()) == ("asked", "AAPL", name[10])
        assert (leg["expiration"][2:10].replace("-", ""), leg["strike"]) == (name[4:10], int(name[11:]) / 1000)
        assert leg["age_ns"] is None or 0 <= leg["age_ns"] <= 60 * SECOND
    columns = ", ".join(next(iter(legs.values())))
    stored = questdb.sql.rows(f"SELECT {columns} FROM options_chain WHERE feed = 'asked'")
    assert sorted(stored, key=lambda row: row["symbol"]) == sorted(legs.values(), key=lambda row: row["symbol"])

    last = max(leg["expiration"][:10] for leg in legs.values())
    code, out, _ = chain("AAPL", "--expiration", last, "--json")
    assert code == 0
    assert {leg["symbol"] for leg in json.loads(out)} == {
        leg["symbol"] for leg in legs.values() if leg["expiration"].startswith(last)
    }
    code, out, _ = chain("aapl", "--expiration", last)
    assert (code, f"from {place.name}" in out, f"expires {last}" in out) == (0, True, True)
    code, _, said = chain("AAPL", "--expiration", "2031-01-01")
    assert (code, said) == (1, f"recorder: {place.name} sent no contract of AAPL that expires on 2031-01-01\n")

    code, out, said = chain("ZZZZ")
    assert (code, out) == (1, "")
    assert re.search(place.unknown, said.strip()), said
    words = place.refuse()
    code, out, said = chain("AAPL")
    assert (code, out) == (1, "")
    assert re.search(words, said), said
