"""Chain rows without Greeks get computed ones in the fold; what providers computed themselves is what we compute."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from datetime import UTC, date, datetime
from itertools import pairwise

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


# QuantConnect's files. Its inputs show in its Greeks: 1 % a year (the Federal Reserve's primary credit rate), no
# dividends, the close of the day; times are the exchange's, of SPX at the close in Chicago, of shares at the end of the
# day, and a contract ends when its day begins. A contract in the money has the volatility of the one of the other side,
# which often is not in the file: of SPY it has nothing but calls far in the money, see below. Volatilities of shares
# are not those of the prices beside them (three neighbouring strikes have 1.06, 3.19, 3.20); their Greeks are sound,
# made with a tree that is not ours.


def universe(shared_data, path, day):
    """(days until it expires, row) of a file's contracts."""
    text = (shared_data / "lean" / path / f"{day:%Y%m%d}.csv").read_text()
    for row in csv.DictReader(io.StringIO(text.removeprefix("#"))):
        if row["expiry"]:
            yield (datetime.strptime(row["expiry"], "%Y%m%d").date() - day).days, row


def published(shared_data, path, day, hours):
    """(sign, strike, years, row) of its contracts that have a volatility, ``hours`` after the midnight of its day."""
    for days, row in universe(shared_data, path, day):
        if float(row["implied_volatility"]) > 0.01:
            yield 1.0 if row["right"] == "C" else -1.0, float(row["strike"]), (days - hours / 24) / 365, row


def test_greeks_quantconnect_published_of_an_index_are_ours_to_the_last_digit_and_volatilities_those_of_its_prices(
    shared_data,
):
    near, equal, spot = [], 0, 2038.97
    for sign, strike, years, row in published(shared_data, "indexoption/usa/universes/spx", date(2015, 12, 22), 15.25):
        args, volatility = (False, sign, spot, strike, years, 0.01, 0.0), float(row["implied_volatility"])
        delta, gamma, theta, vega, rho = greeks(*args, volatility, NONE)
        ours = {"delta": delta, "gamma": gamma, "theta": theta / 365, "vega": vega / 100, "rho": rho / 100}
        equal += ours == pytest.approx({name: float(row[name]) for name in ours}, abs=6e-8, rel=0)
        if sign * (strike - spot) > 0 and abs(delta) > 0.1:  # out of the money
            found, how = implied(*args[:2], float(row["close"]), *args[2:], NONE)
            assert how == CONVERGED
            near.append(abs(found - volatility))
    assert (equal, len(near)) == (232, 37)  # of 233: the Greeks of one put far in the money are at another volatility
    assert max(near) < 1.5e-3
    assert np.median(near) < 2e-4


@pytest.mark.parametrize(("day", "close"), [(23, 750.31), (24, 748.40), (28, 762.51)])
def test_greeks_quantconnect_published_of_american_options_are_near_ours_at_its_volatility(shared_data, day, close):
    apart = []
    for sign, strike, years, row in published(shared_data, "option/usa/universes/goog", date(2015, 12, day), 24.0):
        if 0.1 < abs(float(row["delta"])) < 0.9:
            args = (True, sign, close, strike, years, 0.01, 0.0)
            delta, gamma, theta, vega, _ = greeks(*args, float(row["implied_volatility"]), NONE)
            relative = [gamma / float(row["gamma"]), theta / 365 / float(row["theta"]), vega / 100 / float(row["vega"])]
            apart.append([delta - float(row["delta"]), *(each - 1 for each in relative)])
    assert len(apart) > 1000
    assert (np.median(np.abs(apart), axis=0) < (1e-3, 2e-3, 3e-3, 1e-3)).all()
    assert (np.percentile(np.abs(apart), 95, axis=0) < (0.01, 0.05, 0.05, 0.03)).all()


def test_what_quantconnect_published_of_calls_on_spy_is_of_the_puts_at_their_strikes(shared_data):
    """Why the volatilities of these calls' own prices are others, by 0.03 in the middle: all are far in the money, and
    their file gives them the volatility and the Greeks of the put at the strike (delta as one more), whose price it
    does not have. Rates and dividends as of January 2024: 5.5 % (primary credit) and 1.4 %."""
    signs, put_theta, call_theta, put_vega, apart = [], [], [], [], []
    for path in sorted((shared_data / "lean" / "option/usa/universes/spy").glob("*.csv")):
        day = datetime.strptime(path.stem, "%Y%m%d").date()
        spot = float(next(csv.DictReader(io.StringIO(path.read_text().removeprefix("#"))))["close"])
        for sign, strike, years, row in published(shared_data, "option/usa/universes/spy", day, 24.0):
            if float(row["delta"]) > 0.995 or row["rho"].count(".") > 1:  # sure to be exercised; a number that is none
                continue
            at, volatility = (spot, strike, years, 0.055, 0.014), float(row["implied_volatility"])
            put, call = greeks(True, -1.0, *at, volatility, NONE), greeks(True, 1.0, *at, volatility, NONE)
            signs.append((sign, np.sign(float(row["rho"])), np.sign(put[4]), np.sign(call[4])))
            put_theta.append(put[2] / 365 / float(row["theta"]))
            call_theta.append(call[2] / 365 / float(row["theta"]))
            put_vega.append(put[3] / 100 / float(row["vega"]))
            apart.append(abs(implied(True, 1.0, float(row["close"]), *at, NONE)[0] - volatility))
    assert len(signs) == 22
    assert set(signs) == {(1.0, -1.0, -1.0, 1.0)}  # calls, with the rho of puts
    assert 0.85 < np.median(put_theta) < 1.05
    assert min(call_theta) > 2.0
    assert 0.8 < np.median(put_vega) < 0.95
    assert 0.02 < np.median(apart) < 0.04


def paid_dividends(shared_data, symbol, day):
    """(years after ``day``, amount in the money of that day) of each dividend, out of a published factor file."""
    path = shared_data / "lean" / "equity/usa/factor_files" / f"{symbol}.csv"
    lines = [(datetime.strptime(a, "%Y%m%d").date(), *map(float, b)) for a, *b in csv.reader(path.open())]
    then = next(split for last, _, split, _ in lines if last >= day)
    for (last, factor, split, close), (_, later, later_split, _) in pairwise(lines):
        part = 1 - factor / later
        if last > day and 0 < part < 0.02 and split == later_split:  # the rest are splits and a spin-off
            yield (last - day).days / 365, part * close * split / then


@pytest.mark.parametrize(("symbol", "expiries", "with_them"), [("aapl", 5, 0.01), ("twx", 3, 0.035)])
def test_calls_and_puts_of_one_strike_have_one_volatility_when_the_dividends_that_were_paid_are_given(
    shared_data, symbol, expiries, with_them
):
    """Prices of 2014-06-05 as recorded, dividends as they were paid afterwards (Apple 3.29 a quarter before its split,
    Time Warner about 0.32). The price of the share is the one of the expiry before the first dividend: the file's is
    of another minute."""
    day, rate = date(2014, 6, 5), 0.004  # LIBOR of six to twelve months
    pairs: dict[int, dict[float, dict[str, float]]] = {}
    for days, row in universe(shared_data, f"option/usa/universes/{symbol}", day):
        if float(row["close"]) > 0:
            pairs.setdefault(days, {}).setdefault(float(row["strike"]), {})[row["right"]] = float(row["close"])
    parity = [(abs(of["C"] - of["P"]), of["C"] - of["P"] + strike) for strike, of in pairs[16].items() if len(of) == 2]
    spot = np.median([price for _, price in sorted(parity)[:3]])
    known = np.array(list(paid_dividends(shared_data, symbol, day)))
    compared, apart = set(), []
    for days, strikes in pairs.items():
        years = days / 365
        for strike, of in strikes.items():
            dividends = known[known[:, 0] < years]
            if len(of) == 2 and len(dividends) and abs(strike / spot - 1) < 0.06:
                args = (spot, strike, years, rate, 0.0)
                apart.append(
                    [
                        implied(True, 1.0, of["C"], *args, given)[0] - implied(True, -1.0, of["P"], *args, given)[0]
                        for given in (dividends, NONE)
                    ]
                )
                compared.add(days)
    right, without = np.median(np.abs(apart), axis=0)
    assert len(compared) == expiries
    assert right < with_them
    assert without > 1.5 * right
