"""Prices, volatilities and Greeks: against published values, another model's tree, parity and differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from recorder.core.greeks import (
    ABOVE_BOUND,
    BELOW_INTRINSIC,
    CONVERGED,
    EXPIRED,
    NO_QUOTE,
    NO_UNDERLYING,
    greeks,
    implied,
    price,
    tree,
)
from recorder.values.tables import IV_STATUSES

CALL, PUT = 1.0, -1.0
NONE = np.empty((0, 2))


def european(sign, spot, strike, years, rate, dividend_yield, volatility, dividends=NONE):
    return price(False, sign, float(spot), float(strike), years, rate, dividend_yield, volatility, dividends)


def american(sign, spot, strike, years, rate, dividend_yield, volatility, dividends=NONE):
    return price(True, sign, float(spot), float(strike), years, rate, dividend_yield, volatility, dividends)


# Hull, Options, Futures, and Other Derivatives (8th ed.): examples 14.6, 14.10 (two dividends of 0.50), chapter 18;
# Haug, The Complete Guide to Option Pricing Formulas (2nd ed.): 1.1.1, 1.1.2, 1.1.3 (a future: yield = rate).
@pytest.mark.parametrize(
    ("args", "published", "digits"),
    [
        ((CALL, 42, 40, 0.5, 0.10, 0.0, 0.20), 4.76, 2),
        ((PUT, 42, 40, 0.5, 0.10, 0.0, 0.20), 0.81, 2),
        ((CALL, 40, 40, 0.5, 0.09, 0.0, 0.30, np.array([[2 / 12, 0.5], [5 / 12, 0.5]])), 3.67, 2),
        ((CALL, 49, 50, 0.3846, 0.05, 0.0, 0.20), 2.40, 2),
        ((CALL, 60, 65, 0.25, 0.08, 0.0, 0.30), 2.1334, 4),
        ((PUT, 100, 95, 0.5, 0.10, 0.05, 0.20), 2.4648, 4),
        ((CALL, 19, 19, 0.75, 0.10, 0.10, 0.28), 1.7011, 4),
        ((PUT, 19, 19, 0.75, 0.10, 0.10, 0.28), 1.7011, 4),
    ],
)
def test_european_prices_are_the_published_ones(args, published, digits):
    assert european(*args) == pytest.approx(published, abs=0.5001 * 10**-digits)


# Haug, sections 2.1 to 2.6; Hull, chapter 18 (a call of 49 on 50, 20 weeks, 5 %, 20 %).
@pytest.mark.parametrize(
    ("args", "place", "published", "digits"),
    [
        ((CALL, 105.0, 100.0, 0.5, 0.10, 0.10, 0.36), 0, 0.5946, 4),
        ((PUT, 105.0, 100.0, 0.5, 0.10, 0.10, 0.36), 0, -0.3566, 4),
        ((CALL, 55.0, 60.0, 0.75, 0.10, 0.0, 0.30), 1, 0.0278, 4),
        ((PUT, 430.0, 405.0, 0.0833, 0.07, 0.05, 0.20), 2, -31.1924, 4),
        ((CALL, 55.0, 60.0, 0.75, 0.10, 0.0, 0.30), 3, 18.9358, 4),
        ((CALL, 72.0, 75.0, 1.0, 0.09, 0.0, 0.19), 4, 38.7325, 4),
        ((CALL, 49.0, 50.0, 0.3846, 0.05, 0.0, 0.20), 0, 0.522, 3),
        ((CALL, 49.0, 50.0, 0.3846, 0.05, 0.0, 0.20), 1, 0.066, 3),
        ((CALL, 49.0, 50.0, 0.3846, 0.05, 0.0, 0.20), 2, -4.31, 2),
        ((CALL, 49.0, 50.0, 0.3846, 0.05, 0.0, 0.20), 3, 12.1, 1),
        ((CALL, 49.0, 50.0, 0.3846, 0.05, 0.0, 0.20), 4, 8.91, 2),
    ],
)
def test_european_greeks_are_the_published_ones(args, place, published, digits):
    assert greeks(False, *args, NONE)[place] == pytest.approx(published, abs=0.5001 * 10**-digits)


# Cox and Rubinstein, Options Markets, p. 248, quoted by Geske and Johnson (1984): American puts on 40 at 4.88 %.
PUTS_ON_40 = {
    (35, 0.2): (0.0062, 0.2004, 0.4329), (40, 0.2): (0.8522, 1.5798, 1.9904), (45, 0.2): (5.0000, 5.0883, 5.2670),
    (35, 0.3): (0.0774, 0.6975, 1.2198), (40, 0.3): (1.3099, 2.4825, 3.1696), (45, 0.3): (5.0597, 5.7056, 6.2436),
    (35, 0.4): (0.2466, 1.3460, 2.1549), (40, 0.4): (1.7681, 3.3874, 4.3526), (45, 0.4): (5.2868, 6.5099, 7.3830),
}  # fmt: skip


@pytest.mark.parametrize(("contract", "published"), PUTS_ON_40.items())
def test_american_puts_are_the_published_ones(contract, published):
    strike, volatility = contract
    for years, value in zip((0.0833, 0.3333, 0.5833), published, strict=True):
        assert american(PUT, 40, strike, years, 0.0488, 0.0, volatility) == pytest.approx(value, abs=1e-3)


def test_an_american_put_is_hulls_and_a_call_with_a_dividend_roll_geske_whaleys():
    # Hull, example 20.1: 4.283 by 500 steps. Haug 2.7.1: 4.3860 (80, strike 82, dividend 4 after a quarter).
    assert american(PUT, 50, 50, 5 / 12, 0.10, 0.0, 0.40) == pytest.approx(4.283, abs=2e-3)
    dividend = np.array([[0.25, 4.0]])
    assert american(CALL, 80, 82, 0.3333, 0.06, 0.0, 0.30, dividend) == pytest.approx(4.3860, abs=1e-2)


# Ju, An Approximate Formula for Pricing American Options (1999), Exhibit 6: his approximation, three years to go.
@pytest.mark.parametrize(
    ("spot", "dividend_yield", "rate", "volatility", "published"),
    [
        (80, 0.07, 0.03, 0.2, 2.605), (100, 0.07, 0.03, 0.2, 9.065), (120, 0.07, 0.03, 0.2, 21.398),
        (80, 0.07, 0.03, 0.4, 11.336), (120, 0.07, 0.03, 0.4, 32.709), (100, 0.07, 0.00001, 0.3, 13.158),
        (80, 0.03, 0.07, 0.3, 12.177), (120, 0.03, 0.07, 0.3, 37.177),
    ],
)  # fmt: skip
def test_long_american_calls_are_near_the_approximation_published(spot, dividend_yield, rate, volatility, published):
    assert american(CALL, spot, 100, 3.0, rate, dividend_yield, volatility) == pytest.approx(published, abs=0.08)


def cox_ross_rubinstein(sign, spot, strike, years, rate, dividend_yield, volatility, dividends, steps=1500):
    """Another tree, in numpy: up and down by the volatility alone, the mean of two neighbouring numbers of steps."""

    def value(n):
        step = years / n
        up = math.exp(volatility * math.sqrt(step))
        p = (math.exp((rate - dividend_yield) * step) - 1 / up) / (up - 1 / up)
        live = [(at, amount) for at, amount in dividends if 0 < at <= years]
        moving = spot - sum(amount * math.exp(-rate * at) for at, amount in live)
        values = np.maximum(0, sign * (moving * up ** np.arange(-n, n + 1, 2.0) - strike))
        for i in range(n - 1, -1, -1):
            now = i * step
            held = sum(amount * math.exp(-rate * (at - now)) for at, amount in live if at > now)
            values = math.exp(-rate * step) * (p * values[1:] + (1 - p) * values[:-1])
            values = np.maximum(values, sign * (moving * up ** np.arange(-i, i + 1, 2.0) + held - strike))
        return float(values[0])

    return (value(steps) + value(steps + 1)) / 2


def test_american_prices_are_within_two_cents_of_another_tree_for_a_strike_of_100():
    random, errors = np.random.default_rng(11), []
    for case in range(40):
        sign, spot = (CALL, PUT)[case % 2], 100 * math.exp(random.normal() * 0.2)
        years, rate = float(random.choice([7 / 365, 30 / 365, 0.25, 1.0, 2.0])), random.uniform(0, 0.08)
        volatility = random.uniform(0.15, 0.9)
        paid = np.array([[at, random.uniform(0.1, 1)] for at in np.arange(0.1, years, 0.25)]).reshape(-1, 2)
        dividends = paid if case % 4 < 2 else NONE
        dividend_yield = 0.0 if len(dividends) else random.uniform(0, 0.06)
        args = (sign, spot, 100.0, years, rate, dividend_yield, volatility, dividends)
        errors.append(abs(price(True, *args) - cox_ross_rubinstein(*args)))
    assert np.median(errors) < 1e-3
    assert max(errors) < 2e-2


years_ = st.floats(2 / 365, 3.0)
spots = st.floats(20.0, 500.0)
rates, yields, volatilities = st.floats(-0.02, 0.12), st.floats(0.0, 0.08), st.floats(0.05, 2.0)
distances = st.floats(0.6, 1.6)


@settings(deadline=None)
@given(spots, distances, years_, rates, yields, volatilities)
def test_calls_and_puts_keep_parity(spot, distance, years, rate, dividend_yield, volatility):
    strike = spot * distance
    args = (spot, strike, years, rate, dividend_yield, volatility)
    forward = spot * math.exp(-dividend_yield * years) - strike * math.exp(-rate * years)
    call, put = (european(sign, *args) for sign in (CALL, PUT))
    assert call - put == pytest.approx(forward, abs=1e-9 * spot)
    deltas = [greeks(False, sign, *args, NONE) for sign in (CALL, PUT)]
    assert deltas[0][0] - deltas[1][0] == pytest.approx(math.exp(-dividend_yield * years), abs=1e-9)
    assert deltas[0][1] == pytest.approx(deltas[1][1], rel=1e-9)
    calls, puts = american(CALL, *args), american(PUT, *args)
    least, most = spot * math.exp(-dividend_yield * years) - strike, spot - strike * math.exp(-rate * years)
    if rate >= 0:
        assert least - 2e-4 * spot <= calls - puts <= most + 2e-4 * spot  # the inequalities of American options


@settings(deadline=None)
@given(
    st.booleans(), st.sampled_from([CALL, PUT]), spots, distances, years_, rates, yields, volatilities,
    st.floats(0.0, 0.02), st.floats(0.0, 1.0),
)  # fmt: skip
def test_the_volatility_found_gives_the_price_it_was_found_for(
    style, sign, spot, distance, years, rate, dividend_yield, volatility, amount, at
):
    strike, dividends = spot * distance, np.array([[at * years, amount * spot]])
    args = (spot, strike, years, rate, dividend_yield)
    target = price(style, sign, *args, volatility, dividends)
    found, status = implied(style, sign, target, *args, dividends)
    if status == CONVERGED:
        assert price(style, sign, *args, found, dividends) == pytest.approx(target, abs=1e-6 * strike)
        _, _, _, vega, _ = greeks(style, sign, *args, volatility, dividends)
        if vega > 0.01 * spot:
            assert found == pytest.approx(volatility, abs=1e-4)
    else:  # no time value left that a price could show
        assert status in (BELOW_INTRINSIC, NO_QUOTE)
        assert math.isnan(found)
        assert target <= price(style, sign, *args, 1e-3, dividends) + 1e-8 * strike or target <= 0


@settings(deadline=None, max_examples=60)
@given(
    st.booleans(), st.sampled_from([CALL, PUT]), spots, st.floats(0.85, 1.15), st.floats(0.1, 2.0),
    st.floats(0.01, 0.1), st.floats(0.1, 0.8), st.floats(0.0, 0.01),
)  # fmt: skip
@example(True, PUT, 20.0, 1.0703125, 1.625, 0.052734375, 0.1953125, 0.0)  # where the trees' unevenness bends vega most
def test_greeks_are_the_differences_of_the_price(style, sign, spot, distance, years, rate, volatility, amount):
    strike, paid = spot * distance, np.array([[years / 2, amount * spot]])
    worth = price(style, sign, spot, strike, years, rate, 0.0, volatility, paid)
    assume(worth > sign * (spot - strike) + 0.02 * spot)  # away from where it would be exercised now

    def at(spot=spot, ahead=0.0, volatility=volatility, rate=rate):
        args = (spot, strike, years - ahead, rate, 0.0, volatility, paid - np.array([ahead, 0.0]))
        return tree(sign, *args, 1001) if style else price(False, sign, *args)

    delta, gamma, theta, vega, rho = greeks(style, sign, spot, strike, years, rate, 0.0, volatility, paid)
    deviation = spot * volatility * math.sqrt(years)  # over steps of more than a part of it the price bends
    h, loose = min(0.03 * spot, deviation / 4) if style else 0.002 * spot, 20 if style else 1

    def slope(name, step, here):
        return (at(**{name: here + step}) - at(**{name: here - step})) / (2 * step)

    assert delta == pytest.approx(slope("spot", h, spot), abs=0.002 * loose)
    assert gamma * spot == pytest.approx((at(spot + h) - 2 * at() + at(spot - h)) / h**2 * spot, abs=0.05 * loose)
    assert vega / spot == pytest.approx(
        slope("volatility", 5e-3 if style else 1e-3, volatility) / spot, abs=0.001 * loose
    )
    assert rho / spot == pytest.approx(slope("rate", 4e-3 if style else 1e-3, rate) / spot, abs=0.004 * loose)
    assert theta / spot == pytest.approx(slope("ahead", 4e-3 if style else 1e-3, 0.0) / spot, abs=0.001 * loose)


@pytest.mark.parametrize(
    ("status", "style", "sign", "target", "spot", "strike", "years"),
    [
        (NO_QUOTE, True, CALL, math.nan, 100.0, 100.0, 0.5),
        (NO_QUOTE, True, CALL, 0.0, 100.0, 100.0, 0.5),
        (NO_QUOTE, True, PUT, -1.0, 100.0, 100.0, 0.5),
        (NO_QUOTE, True, PUT, math.inf, 100.0, 100.0, 0.5),
        (EXPIRED, True, CALL, 5.0, 100.0, 100.0, 0.0),
        (EXPIRED, True, CALL, 5.0, 100.0, 100.0, -0.1),
        (BELOW_INTRINSIC, True, PUT, 19.99, 80.0, 100.0, 0.5),
        (BELOW_INTRINSIC, True, PUT, 20.0, 80.0, 100.0, 0.5),
        (BELOW_INTRINSIC, False, CALL, 20.0, 120.0, 100.0, 0.5),
        (CONVERGED, False, PUT, 19.5, 80.0, 100.0, 0.5),  # a European put may be worth less than its exercise
        (ABOVE_BOUND, False, CALL, 100.0, 100.0, 100.0, 0.5),
        (ABOVE_BOUND, True, PUT, 100.0, 80.0, 100.0, 0.5),
        (ABOVE_BOUND, True, PUT, 99.99999, 80.0, 100.0, 0.001),
        (NO_UNDERLYING, True, CALL, 5.0, math.nan, 100.0, 0.5),
        (NO_UNDERLYING, True, CALL, 5.0, 0.0, 100.0, 0.5),
        (NO_UNDERLYING, True, CALL, 5.0, math.inf, 100.0, 0.5),
    ],
)
def test_what_has_no_volatility_says_why(status, style, sign, target, spot, strike, years):
    found, how = implied(style, sign, target, spot, strike, years, 0.05, 0.0, NONE)
    assert IV_STATUSES[how - 1] == IV_STATUSES[status - 1]
    assert math.isnan(found) == (status != CONVERGED)


@settings(deadline=None)
@given(st.booleans(), st.sampled_from([CALL, PUT]), *[st.floats(allow_nan=True)] * 6)
def test_any_numbers_end_in_a_status(style, sign, target, spot, strike, years, rate, dividend_yield):
    try:
        found, how = implied(style, sign, target, spot, strike, years, rate, dividend_yield, NONE)
    except (ZeroDivisionError, ValueError, OverflowError) as error:
        pytest.fail(f"{type(error).__name__}: {error}")
    assert 1 <= how <= len(IV_STATUSES)
    assert math.isnan(found) == (how != CONVERGED)
