"""Alpha Vantage's HTTP interface over a market that follows from the time. https://www.alphavantage.co/documentation/

Every refusal is HTTP 200, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked

NEW_YORK = ZoneInfo("America/New_York")
COMPACT = 100  # bars of a short answer
INTERVALS = {"1min": 1, "5min": 5, "15min": 15, "30min": 30, "60min": 60}
DAILY_LIMIT = (
    "We have detected your API key as {key} and our standard API rate limit is 25 requests per day. "
    "Please subscribe to any of the premium plans to instantly remove all daily rate limits."
)
TOO_FAST = (
    "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per minute and 500 calls per day."
)
PREMIUM = (
    "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of the premium plans."
)


def price(symbol: str, seconds: int) -> float:
    """What it costs then: four digits, the same for ever."""
    return round(100.0 + sum(symbol.encode()) % 50 + (seconds // 60 * 7919) % 1000 / 100, 4)


def prices(symbol: str, seconds: int) -> dict[str, str]:
    """A bar that begins then, as it is written."""
    middle = price(symbol, seconds)
    values = (middle, middle + 1, middle - 1, middle + 0.5)
    names = ("1. open", "2. high", "3. low", "4. close")
    bar = {name: f"{value:.4f}" for name, value in zip(names, values, strict=True)}
    return bar | {"5. volume": str(1000 + seconds // 60 % 1000)}


class AlphaVantage:
    """symbols it knows, the key it takes, how many requests it answers at all, and the time in ns."""

    def __init__(self, symbols: tuple[str, ...], key: str, now: Callable[[], int], quota: int = 25) -> None:
        self.symbols, self.key, self.now, self.left = symbols, key, now, quota

    def answer(self, asked: Asked) -> Answer:
        function, symbol = asked.query.get("function", ""), asked.query.get("symbol", "")
        if asked.path != "/query" or asked.query.get("apikey") != self.key:
            words = "the parameter apikey is invalid or missing. Please claim your free API key."
            return Answer(200, {"Error Message": words})
        if self.left <= 0:
            return Answer(200, {"Information": DAILY_LIMIT.format(key=self.key)})
        self.left -= 1
        if symbol not in self.symbols:
            return Answer(200, {"Global Quote": {}} if function == "GLOBAL_QUOTE" else _refused(function))
        if function == "REALTIME_OPTIONS":
            return Answer(200, {"Information": PREMIUM})
        moment = datetime.fromtimestamp(self.now() // SECOND_NS, NEW_YORK)
        if function == "GLOBAL_QUOTE":
            return Answer(200, {"Global Quote": self._quote(symbol, moment)})
        if function == "TIME_SERIES_DAILY":
            return Answer(200, self._daily(symbol, moment))
        if function == "TIME_SERIES_INTRADAY" and asked.query.get("interval") in INTERVALS:
            return Answer(200, self._intraday(symbol, moment, asked.query["interval"]))
        if function == "HISTORICAL_OPTIONS":
            legs = self._legs(symbol, moment)
            return Answer(200, {"endpoint": "Historical Options", "message": "success", "data": legs})
        return Answer(200, _refused(function))

    def _quote(self, symbol: str, moment: datetime) -> dict[str, str]:
        open_, high, low, close, volume = prices(symbol, _seconds(_midnight(moment))).values()
        return {
            "01. symbol": symbol, "02. open": open_, "03. high": high, "04. low": low, "05. price": close,
            "06. volume": volume, "07. latest trading day": f"{moment:%Y-%m-%d}", "08. previous close": open_,
            "09. change": "0.5000", "10. change percent": "0.5000%",
        }  # fmt: skip

    def _daily(self, symbol: str, moment: datetime) -> dict[str, object]:
        days = [_midnight(moment) - timedelta(days=back) for back in range(COMPACT)]
        meta = {"1. Information": "Daily Prices (open, high, low, close) and Volumes", "2. Symbol": symbol}
        meta |= {"3. Last Refreshed": f"{days[0]:%Y-%m-%d}", "4. Output Size": "Compact", "5. Time Zone": "US/Eastern"}
        return {"Meta Data": meta, "Time Series (Daily)": {f"{d:%Y-%m-%d}": prices(symbol, _seconds(d)) for d in days}}

    def _intraday(self, symbol: str, moment: datetime, interval: str) -> dict[str, object]:
        size = INTERVALS[interval] * 60
        newest = int(moment.timestamp()) // size * size
        starts = [newest - back * size for back in range(COMPACT)]
        series = {f"{datetime.fromtimestamp(at, NEW_YORK):%Y-%m-%d %H:%M:%S}": prices(symbol, at) for at in starts}
        words = f"Intraday ({interval}) open, high, low, close prices and volume"
        meta = {"1. Information": words, "2. Symbol": symbol, "3. Last Refreshed": next(iter(series))}
        meta |= {"4. Interval": interval, "5. Output Size": "Compact", "6. Time Zone": "US/Eastern"}
        return {"Meta Data": meta, f"Time Series ({interval})": series}

    def _legs(self, symbol: str, moment: datetime) -> list[dict[str, str]]:
        """Four contracts of the day before, one of them without a price."""
        day, expires = moment - timedelta(days=1), moment + timedelta(days=30)
        legs = []
        for kind in ("call", "put"):
            for strike, traded in ((100, True), (150, False)):
                name = f"{symbol}{expires:%y%m%d}{kind[0].upper()}{strike * 1000:08d}"
                last = f"{strike / 10:.2f}" if traded else "0.00"
                legs.append({
                    "contractID": name, "symbol": symbol, "expiration": f"{expires:%Y-%m-%d}",
                    "strike": f"{strike:.2f}", "type": kind, "last": last, "mark": last, "bid": last, "bid_size": "10",
                    "ask": f"{strike / 10 + 0.1:.2f}", "ask_size": "12", "volume": "7", "open_interest": "70",
                    "date": f"{day:%Y-%m-%d}", "implied_volatility": "0.25000" if traded else "0.00000",
                    "delta": "0.50000", "gamma": "0.01000", "theta": "-0.02000", "vega": "0.10000", "rho": "0.05000",
                })  # fmt: skip
        return legs


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _refused(function: str) -> dict[str, str]:
    return {"Error Message": f"Invalid API call. Please retry or visit the documentation for {function}."}
