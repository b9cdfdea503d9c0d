"""Chain rows without Greeks get computed ones in the fold; what providers computed themselves is what we compute."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from datetime import UTC, date, datetime

import numpy as np
import pytest

from recorder.core.batch import Output
from recorder.core.chains import Chains
from recorder.core.greeks import CONVERGED, greeks, implied, price
from recorder.values.config import KernelsConfig
from recorder.values.dividends import parse_dividends
from recorder.values.errors import ConfigError
from recorder.values.occ import contract, expires_ns
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import CALL, IV_STATUSES, OPTIONS_CHAIN, PUT

DAY = 86_400 * 10**9
NOW = int(datetime(2026, 1, 5, 20, 0, tzinfo=UTC).timestamp()) * 10**9
NONE = np.empty((0, 2))
NAN = math.nan
DERIBIT = ("2021-04-17_DERIBIT.ws.30.0.gz", "2021-07-22_DERIBIT.ws.1.0.gz")


def leg(out, root="AAPL", strike=100.0, kind=CALL, bid=4.9, ask=5.1, spot=100.0, iv=NAN, source=None, symbol=None):
    """A row as a feed appends it: a contract that expires on 2026-06-19."""
    scope = out.scope("chains", 0)
    found = contract(root, date(2026, 6, 19), kind, strike)
    scope.options.append(
        NOW, NOW, scope.feed_id, scope.text(symbol or found.symbol), scope.text(found.underlying), found.expires_ns,
        strike, kind, bid, 1.0, ask, 1.0, NAN, NAN, NAN, iv, NAN, NAN, NAN, NAN, NAN, scope.text(source), spot, 0,
    )  # fmt: skip


def computed(out, **settings):
    rows = out.batches[OPTIONS_CHAIN.name].seal().rows
    Chains(KernelsConfig(**settings), out).compute(rows)
    return rows


def status(row):
    return IV_STATUSES[row["iv_status"] - 1] if row["iv_status"] else None


def test_greeks_that_no_provider_sent_are_those_of_the_middle_of_the_quote():
    out = Output()
    leg(out, spot=100.0, bid=4.9, ask=5.1)
    leg(out, root="SPX", strike=100.0, spot=100.0, kind=PUT, bid=4.9, ask=5.1)
    american, european = computed(out, risk_free_rate=0.05)
    for row, style, sign, until in ((american, True, 1.0, False), (european, False, -1.0, True)):
        years = (expires_ns(date(2026, 6, 19), until) - NOW) / (365 * DAY)
        iv, how = implied(style, sign, 5.0, 100.0, 100.0, years, 0.05, 0.0, NONE)
        assert (how, status(row)) == (CONVERGED, "converged")
        delta, gamma, theta, vega, rho = greeks(style, sign, 100.0, 100.0, years, 0.05, 0.0, iv, NONE)
        expected = (iv, delta, gamma, theta / 365, vega / 100, rho / 100)
        assert [row[name] for name in ("iv", "delta", "gamma", "theta", "vega", "rho")] == pytest.approx(expected)
        assert out.texts.name(row["greeks_source"]) == "computed"


def test_what_a_provider_computed_is_left_alone():
    out = Output()
    leg(out, iv=0.5, source="provider")
    (row,) = computed(out)
    assert (row["iv"], status(row), out.texts.name(row["greeks_source"])) == (0.5, None, "provider")
    assert math.isnan(row["delta"])


def test_at_a_volatility_that_a_provider_sent_without_greeks_these_are_computed():
    out = Output()
    leg(out, iv=0.5, bid=NAN, ask=NAN)
    (row,) = computed(out)
    assert row["iv"] == 0.5
    assert 0.5 < row["delta"] < 0.7
    assert out.texts.name(row["greeks_source"]) == "computed"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"bid": NAN}, "no_quote"), ({"ask": NAN}, "no_quote"), ({"bid": 5.2}, "no_quote"),
        ({"spot": NAN}, "no_underlying"), ({"spot": 120.0}, "below_intrinsic"), ({"root": "AAPL1"}, "adjusted"),
        ({"bid": 120.0, "ask": 121.0}, "above_bound"), ({"symbol": "BTC-19JUN26-100-C"}, None),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_null_and_says_why(given, why):
    out = Output()
    leg(out, **given)
    (row,) = computed(out)
    assert status(row) == why
    assert all(math.isnan(row[name]) for name in ("iv", "delta", "gamma", "theta", "vega", "rho"))
    assert row["greeks_source"] == TEXT_NULL


def test_an_expired_contract_has_no_greeks():
    out = Output()
    leg(out)
    rows = out.batches[OPTIONS_CHAIN.name].seal().rows
    rows["ts_event"] = rows["expiration"]
    Chains(KernelsConfig(), out).compute(rows)
    assert status(rows[0]) == "expired"


def test_dividends_and_rates_come_from_the_configuration():
    rows = {}
    for dividends in ("", "AAPL 0.03", "MSFT 0.03", "AAPL 2026-03-02 1.5, AAPL 2026-07-01 50"):
        out = Output()
        leg(out)
        (rows[dividends],) = computed(out, dividends=dividends, risk_free_rate=0.0)
    assert rows[""]["iv"] == rows["MSFT 0.03"]["iv"]
    assert rows["AAPL 0.03"]["iv"] > rows[""]["iv"] + 0.02  # a call is worth less, so that its volatility is higher
    assert rows["AAPL 2026-03-02 1.5, AAPL 2026-07-01 50"]["iv"] > rows[""]["iv"] + 0.02


def test_dividends_are_read_and_named_where_they_do_not_fit():
    found = parse_dividends("spy 0.012, AAPL 2026-05-08 0.27, AAPL 2026-02-06 0.26,")
    assert found["SPY"].annual_yield == 0.012
    assert [amount for _, amount in found["AAPL"].paid] == [0.26, 0.27]
    assert found["AAPL"].paid[0][0] == int(datetime(2026, 2, 6, 14, 30, tzinfo=UTC).timestamp()) * 10**9
    for wrong in ("SPY", "SPY 1.2", "SPY -0.1", "AAPL 2026-02-30 0.26", "AAPL 2026-02-06 nan", "A B C D", "S,PY 0.1 2"):
        with pytest.raises(ConfigError, match="does not fit"):
            parse_dividends(wrong)


def sent_by_deribit(shared_data):
    for name in DERIBIT:
        for line in gzip.decompress((shared_data / "cryptofeed" / "DERIBIT" / name).read_bytes()).splitlines():
            found = re.fullmatch(rb"[\d.]+: (.*)", line)
            data = json.loads(found[1]).get("params", {}).get("data") if found else None
            if isinstance(data, dict) and data.get("greeks") and data["mark_iv"] > 0:
                _, day, strike, kind = data["instrument_name"].split("-")
                end = datetime.strptime(day, "%d%b%y").replace(hour=8, tzinfo=UTC).timestamp()
                yield data, 1.0 if kind == "C" else -1.0, float(strike), end - data["timestamp"] / 1000


def test_greeks_that_deribit_sent_are_ours_at_its_volatility_and_forward(shared_data):
    compared = 0
    for data, sign, strike, seconds in sent_by_deribit(shared_data):
        forward, years, sent = data["underlying_price"], seconds / (365 * 86_400), data["greeks"]
        args = (False, sign, forward, strike, years, 0.0, 0.0)
        delta, gamma, theta, vega, rho = greeks(*args, data["mark_iv"] / 100, NONE)
        worth = price(*args, data["mark_iv"] / 100, NONE)
        assert worth / forward == pytest.approx(data["mark_price"], rel=5e-3, abs=2e-5)  # its mark_iv has two digits
        assert delta == pytest.approx(sent["delta"], abs=3e-4)
        assert gamma == pytest.approx(sent["gamma"], abs=6e-6)
        assert vega / 100 == pytest.approx(sent["vega"], rel=1e-3, abs=1e-4)
        assert rho / 100 == pytest.approx(sent["rho"], rel=2e-3, abs=1e-4)
        if seconds > 2 * 86_400:  # nearer the end Deribit's is what a whole day takes away, not the slope now
            assert theta / 365 == pytest.approx(sent["theta"], rel=1e-3, abs=1e-4)
        found, how = implied(*args[:2], data["mark_price"] * forward, *args[2:], NONE)
        assert how == CONVERGED
        if 0.05 < abs(delta) < 0.95:  # beyond, the last digit of a price in coins is whole points of volatility
            assert found == pytest.approx(data["mark_iv"] / 100, abs=5e-3)
        compared += 1
    assert compared > 150


def test_volatilities_a_vendor_published_are_those_of_its_quotes(shared_data):
    """SPX puts: the vendor's own rate shows in its theta of calls that are certain to be exercised, -rKe^(-rT)."""
    text = (shared_data / "options" / "spx_vendor_sample_options_data.csv").read_text()
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["type"] == "put" and row["quotedate"] >= "2015"]
    near = 0
    for row in rows:
        spot, strike, iv = float(row["underlying_last"]), float(row["strike"]), float(row["impliedvol"])
        years = (date.fromisoformat(row["expiration"]) - date.fromisoformat(row["quotedate"])).days / 365
        args = (False, -1.0, spot, strike, years, 0.00255, 0.0)
        delta, _, theta, vega, _ = greeks(*args, iv, NONE)
        assert delta == pytest.approx(float(row["delta"]), abs=2e-4)
        assert (theta, vega) == pytest.approx((float(row["theta"]), float(row["vega"])), rel=0.02, abs=0.05)
        bid, ask = float(row["bid"]), float(row["ask"])
        found, how = implied(*args[:2], (bid + ask) / 2, *args[2:], NONE)
        assert how == CONVERGED
        near += abs(found - iv) < 2e-3
    assert len(rows) > 80
    assert near >= 20  # its volatility is smoothed: where it is the middle's, it is ours


def test_volatilities_quantconnect_published_are_near(shared_data):
    """SPX of 2015-12-22, close 2038.97. Its files of shares are of stale prices (see their README): of no use here."""
    text = (shared_data / "lean" / "indexoption" / "usa" / "universes" / "spx" / "20151222.csv").read_text()
    now, errors = int(datetime(2015, 12, 22, 21, 15, tzinfo=UTC).timestamp()) * 10**9, []
    for row in csv.DictReader(io.StringIO(text.removeprefix("#"))):
        if not 0.1 < abs(float(row["delta"])) < 0.9:
            continue
        years = (expires_ns(datetime.strptime(row["expiry"], "%Y%m%d").date(), True) - now) / (365 * DAY)
        sign = 1.0 if row["right"] == "C" else -1.0
        args = (False, sign, float(row["close"]), 2038.97, float(row["strike"]), years, 0.005, 0.021, NONE)
        found, how = implied(*args)  # a last price may be below what a contract is worth at the close
        errors.append(abs(found - float(row["implied_volatility"])) if how == CONVERGED else math.inf)
    assert len(errors) == 70
    assert np.median(errors) < 0.012
    assert np.percentile(errors, 85) < 0.03
