"""Cboe's delayed quotes over a market that follows from the time: whole chains, packed, with their ETag.

https://cdn.cboe.com/api/global/delayed_quotes/options/AAPL.json , not documented
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from recorder.core.greeks import greeks, price
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked
from recorder.values.occ import contract
from recorder.values.tables import CALL, PUT

NEW_YORK = ZoneInfo("America/New_York")
DELAY_S = 900
REFRESH_S = 60  # a file is made anew this often
RATE, YIELD = 0.04, 0.01
VOLATILITY = 0.3
DENIED = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
)
PREFIX, SUFFIX = "/api/global/delayed_quotes/options/", ".json"
INDICES = ("SPX", "VIX", "XSP", "NDX", "RUT")
NONE = np.empty((0, 2))


def spot(symbol: str, seconds: int) -> float:
    """What the underlying costs then, the same for ever."""
    return round(100.0 + sum(symbol.encode()) % 50 + seconds // REFRESH_S * 7919 % 100 / 100, 2)


class Cboe:
    """The files of some underlyings.

    now          ns
    expirations, strikes  how many of each; two contracts for every pair
    requests     in any second, before 429
    Of every chain one put at the money has no volatility (iv 0), as Cboe has where it did not find one.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        now: Callable[[], int],
        expirations: int = 3,
        strikes: int = 9,
        requests: int = 100,
    ) -> None:
        self._names = {f"_{symbol}" if symbol in INDICES else symbol: symbol for symbol in symbols}
        self._now, self._expirations, self._strikes, self._requests = now, expirations, strikes, requests
        self._second, self._spent = 0, 0
        self._files: dict[str, tuple[int, bytes]] = {}  # name → its minute, packed

    def answer(self, asked: Asked) -> Answer:
        now = self._now()
        if now // SECOND_NS != self._second:
            self._second, self._spent = now // SECOND_NS, 0
        self._spent += 1
        if self._spent > self._requests:
            return Answer(429, "Too Many Requests", {"Retry-After": "1"})
        name = asked.path.removeprefix(PREFIX).removesuffix(SUFFIX)
        if name not in self._names or asked.path != PREFIX + name + SUFFIX:
            return Answer(403, DENIED, {"Content-Type": "application/xml"})
        minute = now // SECOND_NS // REFRESH_S
        etag = f'"{minute}-{name}"'
        if asked.headers.get("if-none-match") == etag:
            return Answer(304, "", {"ETag": etag})
        known = self._files.get(name)
        if known is None or known[0] != minute:
            text = json.dumps(self.chain(self._names[name], minute * REFRESH_S))
            known = self._files[name] = (minute, gzip.compress(text.encode(), 1))
        if "gzip" in asked.headers.get("accept-encoding", ""):
            return Answer(200, known[1], {"ETag": etag, "Content-Encoding": "gzip"})
        return Answer(200, gzip.decompress(known[1]), {"ETag": etag})

    def chain(self, symbol: str, seconds: int) -> dict[str, object]:
        """The file as it is at this time, Unix seconds."""
        seen = seconds - DELAY_S
        worth, made = spot(symbol, seen), datetime.fromtimestamp(seconds, UTC)
        legs = []
        for i in range(self._expirations):
            day = made.date() + timedelta(30 * (i + 1))
            for j in range(self._strikes):
                strike = round(worth * (0.8 + 0.4 * j / max(1, self._strikes - 1)), 0)
                legs += [self._leg(symbol, day, strike, kind, worth, seconds) for kind in (CALL, PUT)]
        legs[2 * (self._strikes // 2) + 1] |= {
            "iv": 0.0,
            "delta": 0.0,
            "gamma": 0.0,
            "theta": 0.0,
            "rho": 0.0,
            "vega": 0.0,
        }
        data = {"symbol": symbol, "security_type": "stock", "current_price": worth, "bid": worth, "ask": worth}
        time = f"{made:%Y-%m-%d %H:%M:%S}"
        return {"timestamp": time, "data": {**data, "iv30": VOLATILITY * 100, "options": legs}, "symbol": symbol}

    def _leg(self, symbol: str, day: date, strike: float, kind: int, worth: float, seconds: int) -> dict[str, object]:
        found, sign = contract(symbol, day, kind, strike), 1.0 if kind == CALL else -1.0
        years = (found.expires_ns // SECOND_NS - seconds) / (365 * 86_400)
        args = (symbol not in INDICES, sign, worth, strike, years, RATE, YIELD, VOLATILITY, NONE)
        middle, (delta, gamma, theta, vega, rho) = price(*args), greeks(*args)
        traded = datetime.fromtimestamp(seconds - DELAY_S - 60 * (int(strike) % 50), NEW_YORK)
        return {
            "option": found.compact, "bid": round(max(0.0, middle - 0.02), 2), "bid_size": 10.0,
            "ask": round(middle + 0.02, 2), "ask_size": 12.0, "iv": VOLATILITY, "open_interest": strike,
            "volume": float(int(strike) % 7), "delta": round(delta, 4), "gamma": round(gamma, 4),
            "theta": round(theta / 365, 4), "rho": round(rho / 100, 4), "vega": round(vega / 100, 4),
            "theo": round(middle, 4), "change": 0.0, "open": 0.0, "high": 0.0, "low": 0.0, "tick": "no_change",
            "last_trade_price": round(middle, 2), "last_trade_time": f"{traded:%Y-%m-%dT%H:%M:%S}",
            "percent_change": 0.0, "prev_day_close": round(middle, 2),
        }  # fmt: skip
