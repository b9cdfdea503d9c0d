"""Alpaca's option chains: the underlying's last trade and pages of snapshots, over a market that follows from time.

https://docs.alpaca.markets/reference/optionchain
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

from recorder.shell.simulator.cboe import VOLATILITY, spot
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked, Refused, whole
from recorder.values.history import rfc3339
from recorder.values.occ import contract
from recorder.values.tables import CALL, PUT

PAGE_DEFAULT, PAGE_MAX = 100, 1000
TRADES, SNAPSHOTS = "/v2/stocks/trades/latest", re.compile(r"/v1beta1/options/snapshots/([A-Z.]+)")
QUOTE_AGE_NS = 3 * SECOND_NS


class AlpacaChains:
    """Chains of some underlyings, two contracts for each of ``strikes``, that expire in 30 days, in 60 …

    opra  whether the plan has OPRA and SIP
    Contracts with an odd strike have no Greeks, as where Alpaca's solver fails.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        keys: tuple[str, str],
        now: Callable[[], int],
        strikes: int = 9,
        opra: bool = False,
        expirations: int = 1,
    ) -> None:
        self._symbols, self._keys, self._now = set(symbols), keys, now
        self._strikes, self._opra, self._expirations = strikes, opra, expirations

    def answer(self, asked: Asked) -> Answer:
        try:
            return self._answer(asked)
        except Refused as refused:
            return refused.answer

    def _answer(self, asked: Asked) -> Answer:
        headers = asked.headers
        if (headers.get("apca-api-key-id"), headers.get("apca-api-secret-key")) != self._keys:
            return Answer(403, {"message": "forbidden."})
        if asked.query.get("feed") in ("opra", "sip") and not self._opra:
            words = "subscription does not permit querying recent SIP data"
            return Answer(403, {"code": 42210000, "message": words})
        if asked.path == TRADES:
            name = asked.query.get("symbols", "")
            trade = {"t": rfc3339(self._now() - SECOND_NS), "x": "V", "p": self._price(name), "s": 100, "c": ["@"]}
            return Answer(200, {"trades": {name: {**trade, "i": 1, "z": "C"}} if name in self._symbols else {}})
        found = SNAPSHOTS.fullmatch(asked.path)
        if found is None:
            return Answer(404, {"message": "endpoint not found."})
        limit = whole(asked, "limit", PAGE_DEFAULT, Answer(400, {"message": "invalid limit"}), 1, PAGE_MAX)
        first = whole(asked, "page_token", 0, Answer(400, {"message": "invalid page token"}))
        legs = list(self.legs(found[1]).items()) if found[1] in self._symbols else []
        token = str(first + limit) if first + limit < len(legs) else None
        return Answer(200, {"snapshots": dict(legs[first : first + limit]), "next_page_token": token})

    def _price(self, symbol: str) -> float:
        return spot(symbol, self._now() // SECOND_NS)

    def legs(self, symbol: str) -> dict[str, dict[str, Any]]:
        """Snapshots by compact OCC symbol."""
        today, result = datetime.fromtimestamp(self._now() // SECOND_NS, UTC).date(), {}
        for month, i in product(range(self._expirations), range(self._strikes)):
            day = today + timedelta(30 * (month + 1))
            strike = float(round(self._price(symbol)) - self._strikes // 2 + i)
            for kind in (CALL, PUT):
                at = rfc3339(self._now() - QUOTE_AGE_NS)
                quote = {"t": at, "ax": "C", "ap": 5.1 + i, "as": 20, "bx": "C", "bp": 4.9 + i, "bs": 10, "c": " "}
                leg: dict[str, Any] = {"latestQuote": quote, "dailyBar": {"v": 7 * i, "t": at}}
                if strike % 2 == 0:
                    leg["latestTrade"] = {"t": at, "x": "C", "p": 5.0 + i, "s": 1, "c": "I"}
                    leg["impliedVolatility"] = VOLATILITY
                    leg["greeks"] = {"delta": 0.5, "gamma": 0.02, "rho": 0.05, "theta": -0.06, "vega": 0.13}
                result[contract(symbol, day, kind, strike).compact] = leg
        return result
