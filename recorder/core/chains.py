"""Implied volatility and Greeks of option rows whose provider sends none, computed in the fold from the row alone.

So a replay gives the same. Only contracts with an OCC symbol are computed: their style, expiration and deliverable are
known. The price is the middle of bid and offer of the same snapshot, the underlying's is ``underlying_price``; without
either, or of an adjusted contract, everything stays null and ``iv_status`` says why. Where a provider sends a
volatility without Greeks, these are computed at that volatility.

Theta is a calendar day's, vega and rho are of one percentage point: as US providers send them.
"""

from __future__ import annotations

import math

import numpy as np

from recorder.compiled import njit
from recorder.core.batch import Output
from recorder.core.greeks import ADJUSTED, CONVERGED, EXPIRED, NO_QUOTE, NO_UNDERLYING, greeks, implied
from recorder.values.config import KernelsConfig
from recorder.values.dividends import NO_DIVIDENDS, parse_dividends
from recorder.values.errors import SymbolError
from recorder.values.occ import EUROPEAN, parse
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import CALL, OPTIONS_CHAIN

YEAR_NS = 365 * 86_400 * 10**9
DAYS_A_YEAR, POINTS = 365.0, 100.0
CONTRACTS_INITIAL = 64

UNSEEN, NOT_OURS, AMERICAN_STYLE, EUROPEAN_STYLE, ADJUSTED_CONTRACT = range(5)
CONTRACT = np.dtype([("kind", "i8"), ("dividend_yield", "f8"), ("first", "i8"), ("last", "i8")])


@njit(cache=True, nogil=True)
def fill(rows, contracts, paid_ns, amounts, rate, computed):
    """Fill iv, the Greeks, greeks_source and iv_status of OPTIONS_CHAIN rows in place.

    rows       (n,) OPTIONS_CHAIN; those with a greeks_source are left alone
    contracts  (texts,) CONTRACT by the id of a symbol; its dividends are paid_ns[first:last] and amounts[first:last]
    paid_ns    (m,) int64 ns; amounts (m,) float64
    computed   text id of "computed"
    Oracle: tests/test_chains.py
    """
    for i in range(len(rows)):
        row = rows[i]
        known = contracts[row.symbol]
        if row.greeks_source != TEXT_NULL or known.kind == NOT_OURS or known.kind == UNSEEN:
            continue
        if known.kind == ADJUSTED_CONTRACT:
            row.iv_status = ADJUSTED
            continue
        years = (row.expiration - row.ts_event) / YEAR_NS
        spot, bid, ask = row.underlying_price, row.bid, row.ask
        if years <= 0.0:
            row.iv_status = EXPIRED
            continue
        if not (spot > 0.0 and spot < math.inf):
            row.iv_status = NO_UNDERLYING
            continue
        dividends = np.empty((known.last - known.first, 2))
        for k in range(known.last - known.first):
            dividends[k, 0] = (paid_ns[known.first + k] - row.ts_event) / YEAR_NS
            dividends[k, 1] = amounts[known.first + k]
        american, sign = known.kind == AMERICAN_STYLE, 1.0 if row.option_type == CALL else -1.0
        volatility, status = row.iv, CONVERGED
        if not (volatility > 0.0 and volatility < math.inf):
            quoted = bid > 0.0 and ask >= bid and ask < math.inf  # false for NaN: no quote
            if not quoted:
                row.iv_status = NO_QUOTE
                continue
            volatility, status = implied(
                american, sign, 0.5 * (bid + ask), spot, row.strike, years, rate, known.dividend_yield, dividends
            )
        row.iv_status = status
        if status != CONVERGED:
            continue
        delta, gamma, theta, vega, rho = greeks(
            american, sign, spot, row.strike, years, rate, known.dividend_yield, volatility, dividends
        )
        row.iv, row.delta, row.gamma = volatility, delta, gamma
        row.theta, row.vega, row.rho = theta / DAYS_A_YEAR, vega / POINTS, rho / POINTS
        row.greeks_source = computed


class Chains:
    """Fills chain rows; what it knows of a contract follows from its symbol and the configuration: no state to keep."""

    def __init__(self, settings: KernelsConfig, out: Output) -> None:
        self._out, self._rate = out, settings.risk_free_rate
        self._dividends = parse_dividends(settings.dividends)
        # 32 bytes for each text, of which TEXTS_MAX are the most.
        self._contracts = np.zeros(CONTRACTS_INITIAL, CONTRACT)
        self._places: dict[str, tuple[int, int]] = {}  # underlying → its dividends in the arrays below
        paid: list[tuple[int, float]] = []
        for symbol, dividends in self._dividends.items():
            self._places[symbol] = (len(paid), len(paid) + len(dividends.paid))
            paid += dividends.paid
        self._paid_ns = np.array([at for at, _ in paid], np.int64)
        self._amounts = np.array([amount for _, amount in paid], np.float64)

    def compute(self, rows: np.ndarray) -> None:
        """Fill what is missing in OPTIONS_CHAIN rows, in place."""
        if not (rows["greeks_source"] == TEXT_NULL).any():
            return
        symbols = np.unique(rows["symbol"])
        while len(self._contracts) <= symbols[-1]:
            self._contracts = np.concatenate([self._contracts, np.zeros_like(self._contracts)])
        for number in symbols[self._contracts["kind"][symbols] == UNSEEN].tolist():
            self._contracts[number] = self._contract(self._out.texts.name(number))
        computed = self._out.texts.id("computed")
        fill(rows, self._contracts, self._paid_ns, self._amounts, self._rate, computed)

    def _contract(self, symbol: str) -> tuple[int, float, int, int]:
        try:
            found = parse(symbol)
        except SymbolError:
            return NOT_OURS, 0.0, 0, 0
        if found.adjusted:
            return ADJUSTED_CONTRACT, 0.0, 0, 0
        underlying = found.underlying
        dividends = self._dividends.get(underlying, NO_DIVIDENDS)
        kind = EUROPEAN_STYLE if underlying in EUROPEAN else AMERICAN_STYLE
        return kind, dividends.annual_yield, *self._places.get(underlying, (0, 0))

    def warm(self) -> None:
        """Compile, or load from the cache."""
        fill(np.zeros(0, OPTIONS_CHAIN.dtype), self._contracts, self._paid_ns, self._amounts, self._rate, 0)
