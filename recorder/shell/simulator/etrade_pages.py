"""E*TRADE's market pages: quotes, expiration dates and option chains of a market that is moved by whoever simulates.

https://apisb.etrade.com/docs/api/market/api-quote-v1.html , …/api-market-v1.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from xml.sax.saxutils import escape
from zoneinfo import ZoneInfo

from recorder.shell.simulator.rest import SECOND_NS, Answer, Refused
from recorder.values.schedule import NEW_YORK

# Codes as documented; the words are ours.
ERRORS = {
    1002: "An error occurred while getting the product details",
    1019: "Invalid symbol",
    1025: "The number of symbols exceeds what is allowed",
    10031: "There are no options for this month",
    10032: "There are no options for this symbol",
    10033: "The symbol is not valid",
    10034: "An error occurred while getting the product",
    10035: "You are not authorized",
    10036: "An error occurred while getting the expirations",
    10037: "There are no standard options",
    10038: "There are no mini options",
    10039: "The expiration is not valid",
    10040: "The option type is not valid",
    10041: "The option type is missing",
    10042: "The option type is not supported",
    10043: "The symbol is missing",
    10044: "There are no options for this symbol and date",
    10045: "An error occurred while getting the top five",
    10046: "There is no top five",
}
SYMBOLS_MAX, OVERRIDDEN_MAX = 25, 50
_OPTION = re.compile(r"([A-Z.]+):(\d{4}):(\d{1,2}):(\d{1,2}):(CALL|PUT):(\d+(?:\.\d+)?)")
_QUOTE = re.compile(r"/v1/market/quote/([^/]+)\.json")


@dataclass
class Instrument:
    """What one symbol is at. ``time_s`` of its last trade; ``status``: quoteStatus; ``extended``: outside of hours."""

    bid: float = 0.0
    bid_size: int = 0
    ask: float = 0.0
    ask_size: int = 0
    last: float = 0.0
    volume: int = 0
    time_s: int = 0
    status: str = "REALTIME"
    extended: dict[str, Any] | None = None


@dataclass
class Contract:
    """An option of a chain, beside what an Instrument has."""

    strike: float
    kind: str  # CALL or PUT
    at: Instrument = field(default_factory=Instrument)
    open_interest: int = 0
    greeks: dict[str, float] | None = None
    time_s: int = 0  # of this leg; 0: the chain's


class Market:
    """Instruments by E*TRADE's names, and option chains by underlying and day.

    invalid  how a symbol is refused that is none: "refuse" all of them, "message" beside the others (unverified), or
             an "error" with status 200
    """

    def __init__(self, now: Callable[[], int], invalid: str = "refuse") -> None:
        self.now, self.invalid = now, invalid
        self.instruments: dict[str, Instrument] = {}
        self.chains: dict[str, dict[date, list[Contract]]] = {}

    def quote(self, name: str, bid: float, bid_size: int, ask: float, ask_size: int) -> None:
        at = self.instruments.setdefault(name, Instrument())
        at.bid, at.bid_size, at.ask, at.ask_size = bid, bid_size, ask, ask_size

    def trade(self, name: str, price: float, size: int) -> None:
        at = self.instruments.setdefault(name, Instrument())
        at.last, at.volume, at.time_s = price, at.volume + size, self.now() // SECOND_NS


def page(market: Market, path: str, query: Mapping[str, str]) -> Answer:
    """Answer a GET of JSON that is let in. Raises Refused."""
    found = _QUOTE.fullmatch(path)
    if found:
        return _quotes(market, found[1].split(","), query)
    if path == "/v1/market/optionexpiredate.json":
        return _expirations(market, query)
    if path == "/v1/market/optionchains.json":
        return _chain(market, query)
    raise Refused(Answer(404, {"Error": {"message": "The requested resource could not be found"}}))


def error(code: int, status: int = 400) -> Answer:
    return Answer(status, {"Error": {"code": code, "message": ERRORS[code]}})


def xml_error(code: int, status: int = 400) -> Answer:
    """In XML, as errors come sometimes where JSON was asked for."""
    return Answer(status, f"<Error><code>{code}</code><message>{escape(ERRORS[code])}</message></Error>")


def _quotes(market: Market, names: list[str], query: Mapping[str, str]) -> Answer:
    most = OVERRIDDEN_MAX if query.get("overrideSymbolCount") == "true" else SYMBOLS_MAX
    if len(names) > most:
        raise Refused(error(1025))
    if query.get("detailFlag", "ALL") != "ALL":
        raise Refused(error(1002))
    wrong = [name for name in names if name not in market.instruments]
    if wrong and market.invalid != "message":
        raise Refused(error(1019, 200 if market.invalid == "error" else 400))
    response: dict[str, Any] = {"QuoteData": [_quote(market, n) for n in names if n not in wrong]}
    if len(response["QuoteData"]) == 1:
        response["QuoteData"] = response["QuoteData"][0]  # as some of their answers are
    if wrong:
        response["Messages"] = {
            "Message": [{"description": f"{name} {ERRORS[1019]}", "code": 1019, "type": "WARNING"} for name in wrong]
        }
    return Answer(200, {"QuoteResponse": response})


def _quote(market: Market, name: str) -> dict[str, Any]:
    at, now_s = market.instruments[name], market.now() // SECOND_NS
    local = datetime.fromtimestamp(now_s, ZoneInfo(NEW_YORK))
    text = f"{local:%H:%M:%S %Z %m-%d-%Y}"
    details: dict[str, Any] = {
        "ask": at.ask, "askSize": at.ask_size, "askTime": text, "bid": at.bid, "bidExchange": " ",
        "bidSize": at.bid_size, "bidTime": text, "dirLast": "1", "lastTrade": at.last, "totalVolume": at.volume,
        "timeOfLastTrade": at.time_s, "primaryExchange": "NSDQ", "openInterest": 0, "companyName": f"{name} COM",
    }  # fmt: skip
    product: dict[str, Any] = {"symbol": name, "securityType": "EQ"}
    option = _OPTION.fullmatch(name)
    if option:
        day = date(int(option[2]), int(option[3]), int(option[4]))
        product = {
            "symbol": option[1], "securityType": "OPTN", "callPut": option[5], "expiryYear": day.year,
            "expiryMonth": day.month, "expiryDay": day.day, "strikePrice": float(option[6]),
        }  # fmt: skip
        details["osiKey"] = osi_key(option[1], day, option[5], float(option[6]))
    if at.extended is not None:
        details["ExtendedHourQuoteDetail"] = at.extended
    return {
        "dateTime": text, "dateTimeUTC": now_s, "quoteStatus": at.status, "ahFlag": str(bool(at.extended)).lower(),
        "hasMiniOptions": False, "All": details, "Product": product,
    }  # fmt: skip


def osi_key(root: str, day: date, kind: str, strike: float) -> str:
    return f"{root.replace('.', ''):-<6}{day:%y%m%d}{kind[0]}{round(strike * 1000):08d}"


def _expirations(market: Market, query: Mapping[str, str]) -> Answer:
    if not query.get("symbol"):
        raise Refused(error(10043))
    if query["symbol"] not in market.instruments:
        raise Refused(error(10033))
    days = sorted(market.chains.get(query["symbol"], {}))
    if not days:
        return Answer(200, "")  # nothing at all
    dates = [{"year": d.year, "month": d.month, "day": d.day, "expiryType": "WEEKLY"} for d in days]
    return Answer(200, {"OptionExpireDateResponse": {"ExpirationDate": dates}})


def _chain(market: Market, query: Mapping[str, str]) -> Answer:
    symbol = query.get("symbol")
    if not symbol:
        raise Refused(error(10043))
    if symbol not in market.instruments:
        raise Refused(error(10033))
    if not market.chains.get(symbol):
        raise Refused(error(10032))
    if query.get("chainType", "CALLPUT") not in ("CALL", "PUT", "CALLPUT"):
        raise Refused(error(10040))
    try:
        day = date(*(int(query[f"expiry{part}"]) for part in ("Year", "Month", "Day")))
    except KeyError:
        day = min(market.chains[symbol])
    except ValueError:
        raise Refused(error(10039)) from None
    contracts = market.chains[symbol].get(day)
    if contracts is None:
        raise Refused(error(10044))
    now_s = market.now() // SECOND_NS
    pairs: dict[float, dict[str, Any]] = {}
    for contract in contracts:
        pairs.setdefault(contract.strike, {})[contract.kind.title()] = _details(symbol, day, contract, now_s)
    response = {
        "OptionPair": [pairs[strike] for strike in sorted(pairs)], "timeStamp": now_s, "quoteType": "REALTIME",
        "nearPrice": market.instruments[symbol].last,
        "SelectedED": {"month": day.month, "year": day.year, "day": day.day},
    }  # fmt: skip
    return Answer(200, {"OptionChainResponse": response})


def _details(symbol: str, day: date, contract: Contract, now_s: int) -> dict[str, Any]:
    at = contract.at
    result: dict[str, Any] = {
        "optionCategory": "STANDARD", "optionRootSymbol": symbol, "timeStamp": contract.time_s or now_s,
        "adjustedFlag": False, "optionType": contract.kind, "strikePrice": contract.strike, "symbol": symbol,
        "bid": at.bid, "ask": at.ask, "bidSize": at.bid_size, "askSize": at.ask_size, "inTheMoney": "n",
        "volume": at.volume, "openInterest": contract.open_interest, "netChange": 0.0, "lastPrice": at.last,
        "osiKey": osi_key(symbol, day, contract.kind, contract.strike),
    }  # fmt: skip
    if contract.greeks is not None:
        result["OptionGreeks"] = {**contract.greeks, "currentValue": True}
    return result
