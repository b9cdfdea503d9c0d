"""Pages of history as Massive gives them: trades, quotes, bars made of the trades; option chains.

https://massive.com/docs/rest/stocks/trades-quotes/trades
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from recorder.core.market import (
    ASK,
    ASK_SIZE,
    ID,
    PRICE,
    PRICE_DIGITS,
    QUOTE,
    SIDE,
    SIZE,
    TRADE,
    TS,
    decimal_text,
)
from recorder.shell.simulator.pages import EVER
from recorder.shell.simulator.past import Past
from recorder.shell.simulator.polygon import SIDES, cluster_of
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked, Refused, whole
from recorder.shell.simulator.venue import Venue
from recorder.values.occ import parse
from recorder.values.tables import CALL

PAGE_DEFAULT, PAGE_MAX = 1000, 50_000
BARS_DEFAULT = 5000  # seconds or minutes looked at, and at most PAGE_MAX
HOST = "https://api.massive.com"  # in next_url, whatever answers
_TICKS = re.compile(r"/v3/(trades|quotes)/([\w:.-]+)")
_BARS = re.compile(r"/v2/aggs/ticker/([\w:.-]+)/range/(\d{1,3})/(second|minute|hour)/(\d{1,13})/(\d{1,13})")
_CHAIN = re.compile(r"/v3/snapshot/options/([\w:.]+)")
CHAIN_DEFAULT, CHAIN_MAX = 10, 250
_UNITS_NS = {"second": SECOND_NS, "minute": 60 * SECOND_NS, "hour": 3600 * SECOND_NS}
_REQUEST = "6a7e466379af0a71039d60cc78e72282"


def polygon(venue: Venue, trades: Past, quotes: Past, asked: Asked) -> Answer:
    """By time; a page's ``next_url`` holds a cursor that stands for all parameters."""
    _authorise(venue, asked)
    ticks, bars = _TICKS.fullmatch(asked.path), _BARS.fullmatch(asked.path)
    if ticks is not None:
        return _ticks(venue, quotes if ticks[1] == "quotes" else trades, asked, ticks[1], ticks[2])
    chain = _CHAIN.fullmatch(asked.path)
    if chain is not None:
        return _chain(venue, asked, chain[1].removeprefix("I:"))
    if bars is not None:
        return _bars(venue, trades, asked, bars)
    raise Refused(Answer(404, {"status": "NOT_FOUND", "request_id": _REQUEST, "message": "Data not found."}))


def _authorise(venue: Venue, asked: Asked) -> None:
    rules: dict[str, Any] = venue.rules
    scheme, _, key = asked.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or not key or ("keys" in rules and key not in rules["keys"]):
        raise Refused(Answer(401, {"status": "ERROR", "request_id": _REQUEST, "error": "Unknown API Key"}))
    if cluster_of(venue) in rules.get("not_in_plan", ()):
        words = "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing"
        raise Refused(Answer(403, {"status": "NOT_AUTHORIZED", "request_id": _REQUEST, "message": words}))


def _bad(words: str) -> Answer:
    return Answer(400, {"status": "ERROR", "request_id": _REQUEST, "error": words})


def _page(path: str, items: Sequence[str], cursor: dict[str, int | str] | None, **more: object) -> Answer:
    """``results`` is left out where there are none."""
    results = f'"results":[{",".join(items)}],' if items else ""
    following = ""
    if cursor is not None:
        text = base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode()
        following = f',"next_url":"{HOST}{path}?cursor={text}"'
    extra = "".join(f'"{name}":{json.dumps(value)},' for name, value in more.items())
    return Answer(200, f'{{{extra}{results}"status":"OK","request_id":"{_REQUEST}"{following}}}')


def _cursor(asked: Asked) -> dict[str, Any]:
    try:
        found = json.loads(base64.urlsafe_b64decode(asked.query["cursor"]))
    except (binascii.Error, ValueError):
        found = None
    if not isinstance(found, dict):
        raise Refused(_bad("cursor is not valid"))
    return found


def _ticks(venue: Venue, past: Past, asked: Asked, channel: str, name: str) -> Answer:
    cluster = cluster_of(venue)
    symbol = venue.index.get(name.removeprefix("X:") if cluster == "crypto" else name)
    if channel == "quotes" and cluster == "crypto":
        raise Refused(Answer(404, {"status": "NOT_FOUND", "request_id": _REQUEST, "message": "Data not found."}))
    if symbol is None:
        return _page(asked.path, (), None)
    if "cursor" in asked.query:
        state = _cursor(asked)
    else:
        order = asked.query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise Refused(_bad("order must be asc or desc"))
        state = {
            "gte": whole(asked, "timestamp.gte", 0, _bad("timestamp.gte is not valid"), 0, EVER),
            "lte": whole(asked, "timestamp.lte", EVER, _bad("timestamp.lte is not valid"), 0, EVER),
            "limit": whole(asked, "limit", PAGE_DEFAULT, _bad("limit must be between 1 and 50000"), 1, PAGE_MAX),
            "order": order, "skip": 0,
        }  # fmt: skip
    places = past.find(symbol, times=(state["gte"], state["lte"]))
    if state["order"] == "desc":
        places = places[::-1]
    end = state["skip"] + state["limit"]
    item = (_trade if channel == "trades" else _quote)(venue, cluster)
    items = [item(row) for row in past.rows(places[state["skip"] : end]).tolist()]
    return _page(asked.path, items, {**state, "skip": end} if len(places) > end else None)


def _trade(venue: Venue, cluster: str) -> Callable[[list[int]], str]:
    def item(row: list[int]) -> str:
        size = decimal_text(row[SIZE], venue.size_digits)
        common = f'"price":{decimal_text(row[PRICE], PRICE_DIGITS)},"size":{size},"participant_timestamp":{row[TS]}'
        if cluster == "crypto":
            return f'{{{common},"conditions":[{SIDES[row[SIDE]].decode()}],"exchange":1,"id":"{row[ID]}"}}'
        common += f',"sip_timestamp":{row[TS]},"sequence_number":{row[ID]}'
        if cluster == "options":
            return f'{{{common},"conditions":[209],"exchange":65}}'
        return f'{{{common},"conditions":[14],"exchange":11,"id":"{row[ID]}","tape":3,"decimal_size":"{size}.0"}}'

    return item


def _quote(venue: Venue, cluster: str) -> Callable[[list[int]], str]:
    bid, ask, rest = (10, 15, ',"indicators":[604],"tape":3') if cluster == "stocks" else (302, 302, "")

    def item(row: list[int]) -> str:
        return (
            f'{{"bid_price":{decimal_text(row[PRICE], PRICE_DIGITS)},"bid_exchange":{bid},'
            f'"bid_size":{decimal_text(row[SIZE], venue.size_digits)},'
            f'"ask_price":{decimal_text(row[ASK], PRICE_DIGITS)},"ask_exchange":{ask},'
            f'"ask_size":{decimal_text(row[ASK_SIZE], venue.size_digits)},"participant_timestamp":{row[TS]},'
            f'"sip_timestamp":{row[TS]},"sequence_number":{row[ID]}{rest}}}'
        )

    return item


def _bars(venue: Venue, trades: Past, asked: Asked, found: re.Match[str]) -> Answer:
    """Of the trades, oldest first; windows without trades are left out, and count in ``limit``."""
    crypto = cluster_of(venue) == "crypto"
    names = {f"X:{own.replace('-', '')}" if crypto else own: i for own, i in venue.index.items()}
    unit = max(1, int(found[2])) * _UNITS_NS[found[3]]
    first, last = int(found[4]) * 1_000_000, int(found[5]) * 1_000_000
    limit = whole(asked, "limit", BARS_DEFAULT, _bad("limit must be between 1 and 50000"), 1, PAGE_MAX)
    cursor: dict[str, int | str] | None = None
    if "cursor" in asked.query:
        state = _cursor(asked)
        first, limit = state["from"], state["limit"]
    times = first // unit * unit, last // unit * unit + unit - 1
    rows = trades.rows(trades.find(names[found[1]], times=times)).tolist() if found[1] in names else []
    windows: dict[int, list[list[int]]] = {}
    for row in rows:
        windows.setdefault(row[TS] // unit * unit, []).append(row)
    begin = min(windows, default=0)
    shown = {start: own for start, own in windows.items() if start < begin + limit * unit}
    if len(shown) < len(windows):
        cursor = {"from": begin + limit * unit, "limit": limit}
    items = [_bar(venue, start, own) for start, own in sorted(shown.items())]
    more = {"ticker": found[1], "adjusted": asked.query.get("adjusted", "true") != "false"}
    return _page(asked.path, items, cursor, **more, queryCount=len(rows), resultsCount=len(items))


def _bar(venue: Venue, start: int, rows: list[list[int]]) -> str:
    prices, volume = [row[PRICE] for row in rows], sum(row[SIZE] for row in rows)
    o, h, low, c = (decimal_text(p, PRICE_DIGITS) for p in (prices[0], max(prices), min(prices), prices[-1]))
    worth = sum(row[PRICE] * row[SIZE] for row in rows) / volume / 10**PRICE_DIGITS
    return (
        f'{{"v":{decimal_text(volume, venue.size_digits)},"vw":{worth:.4f},"o":{o},"c":{c},"h":{h},"l":{low},'
        f'"t":{start // 1_000_000},"n":{len(rows)}}}'
    )


def _chain(venue: Venue, asked: Asked, underlying: str) -> Answer:
    """Contracts of the underlying that are traded here, by name. Greeks and volatility are what tests know."""
    limit = whole(asked, "limit", CHAIN_DEFAULT, _bad("limit must be between 1 and 250"), 1, CHAIN_MAX)
    state = _cursor(asked) if "cursor" in asked.query else {"skip": 0, "limit": limit}
    names = [name for name in sorted(venue.names) if name.startswith("O:") and parse(name).underlying == underlying]
    end = state["skip"] + state["limit"]
    items = [json.dumps(_leg(venue, name, underlying)) for name in names[state["skip"] : end]]
    return _page(asked.path, items, {**state, "skip": end} if len(names) > end else None)


def _leg(venue: Venue, name: str, underlying: str) -> dict[str, Any]:
    contract, cents = parse(name), 10**PRICE_DIGITS
    quote, trade = venue.last[[QUOTE, TRADE], venue.index[name]].tolist()
    details = {
        "contract_type": "call" if contract.option_type == CALL else "put", "exercise_style": "american",
        "expiration_date": f"{contract.expiration}", "strike_price": contract.strike, "shares_per_contract": 100,
        "ticker": name,
    }  # fmt: skip
    return {
        "break_even_price": contract.strike, "day": {"close": trade[PRICE] / cents, "volume": 8}, "details": details,
        "greeks": {"delta": 0.6436, "gamma": 0.0062, "theta": -0.0282, "vega": 0.6381}, "implied_volatility": 0.357,
        "last_quote": {
            "bid": quote[PRICE] / cents, "bid_size": quote[SIZE], "ask": quote[ASK] / cents,
            "ask_size": quote[ASK_SIZE], "last_updated": quote[TS], "timeframe": "REAL-TIME",
        },
        "open_interest": 8133,
        "underlying_asset": {"ticker": underlying, "price": 159.9606, "last_updated": venue.now()},
    }  # fmt: skip
