"""Pages of history as Alpaca gives them: trades and quotes of stocks and crypto, trades of options.

https://docs.alpaca.markets/reference/stocktrades , https://docs.alpaca.markets/reference/cryptotrades-1 ,
https://docs.alpaca.markets/reference/optiontrades
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from recorder.core.market import ASK, ASK_SIZE, ID, PRICE, PRICE_DIGITS, SIDE, SIZE, TS, decimal_text
from recorder.core.text_time import rfc3339_ns
from recorder.shell.simulator.pages import EVER, time_text
from recorder.shell.simulator.past import Past
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked, Refused, whole
from recorder.shell.simulator.venue import Venue
from recorder.values.errors import FrameError

PAGE_DEFAULT, PAGE_MAX = 1000, 10_000
FEEDS = ("sip", "iex", "boats", "otc")
_STOCKS = re.compile(r"/v2/stocks/(trades|quotes)")
_CRYPTO = re.compile(r"/v1beta3/crypto/[a-z0-9-]+/(trades|quotes)")
_OPTIONS = re.compile(r"/v1beta1/options/(trades)")
_SYMBOL = re.compile(r"[A-Z0-9./]{1,32}")


def alpaca(venue: Venue, trades: Past, quotes: Past, asked: Asked) -> Answer:
    """By symbol, then time, oldest first or newest first; the token of a page tells where the next one begins."""
    stocks, crypto, options = (known.fullmatch(asked.path) for known in (_STOCKS, _CRYPTO, _OPTIONS))
    found = stocks or crypto or options
    if found is None:
        raise Refused(Answer(404, {"message": "endpoint not found."}))
    if not crypto:
        authorise(venue, asked)
    channel = found[1]
    names = asked.query.get("symbols", "").split(",")
    if not all(_SYMBOL.fullmatch(name) for name in names):
        raise Refused(Answer(400, {"message": f"invalid symbol(s): {asked.query.get('symbols', '')}"}))
    limit = whole(asked, "limit", PAGE_DEFAULT, _bad("limit"), 1, PAGE_MAX)
    times = _time(asked, "start", 0), _time(asked, "end", EVER)
    newest_first = asked.query.get("sort", "asc") == "desc"
    from_name, from_id = _token(asked.query.get("page_token"))
    past = trades if channel == "trades" else quotes
    lists: dict[str, list[str]] = {}
    token, left = None, limit
    for name in sorted(set(names)):
        if name not in venue.index or name < from_name:
            continue
        places = past.find(venue.index[name], times=times)
        places = places[::-1] if newest_first else places
        if name == from_name:
            ids = past.rows(places)[:, ID]
            places = places[ids < from_id] if newest_first else places[ids > from_id]
        rows = past.rows(places[:left]).tolist()
        item = _contract_trade if options else (_trade if channel == "trades" else _quote)(venue, bool(crypto))
        if rows:
            lists[name] = [item(row) for row in rows]
        left -= len(rows)
        if len(places) > len(rows):
            last = rows[-1][ID] if rows else (EVER if newest_first else -1)
            token = base64.b64encode(f"{name}|{last}".encode()).decode()
            break
    listed = ",".join(f'"{name}":[{",".join(items)}]' for name, items in lists.items())
    return Answer(200, f'{{"{channel}":{{{listed}}},"next_page_token":{json.dumps(token)}}}')


def alpaca_headers(spent: int, most: int, end_ns: int) -> dict[str, str]:
    """Of every answer; the end of the window in whole seconds, rounded up."""
    left = {"X-RateLimit-Limit": str(most), "X-RateLimit-Remaining": str(max(0, most - spent))}
    return {**left, "X-RateLimit-Reset": str(-(-end_ns // SECOND_NS))}


def _bad(name: str) -> Answer:
    return Answer(400, {"message": f"invalid {name}"})


def authorise(venue: Venue, asked: Asked) -> None:
    """Raises Refused for keys and feeds that are not this user's."""
    key, secret = (asked.headers.get(name) for name in ("apca-api-key-id", "apca-api-secret-key"))
    rules: dict[str, Any] = venue.rules
    keys = rules.get("keys")
    if not key or not secret:
        raise Refused(Answer(401, {"message": "unauthorized."}))
    if keys is not None and keys.get(key) != secret:
        raise Refused(Answer(403, {"message": "forbidden."}))
    feed = asked.query.get("feed", "sip")
    if feed not in FEEDS:
        raise Refused(_bad("feed"))
    if feed in rules.get("not_in_plan", ()):
        words = "subscription does not permit querying recent SIP data"
        raise Refused(Answer(403, {"code": 42210000, "message": words}))


def _time(asked: Asked, name: str, default: int) -> int:
    text = asked.query.get(name)
    if text is None:
        return default
    try:
        return rfc3339_ns(text if "T" in text else f"{text}T00:00:00Z")
    except FrameError:
        raise Refused(_bad(name)) from None


def _token(text: str | None) -> tuple[str, int]:
    """(symbol, id of the last row before) of a page's token."""
    if text is None:
        return "", 0
    try:
        name, _, number = base64.b64decode(text, validate=True).decode().partition("|")
        return name, int(number)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Refused(_bad("page_token")) from None


def _trade(venue: Venue, crypto: bool) -> Any:
    def item(row: list[int]) -> str:
        common = f'"t":"{time_text(row[TS], 9)}","p":{decimal_text(row[PRICE], PRICE_DIGITS)}'
        common += f',"s":{decimal_text(row[SIZE], venue.size_digits)},"i":{row[ID]}'
        if crypto:
            return f'{{{common},"tks":"{"B" if row[SIDE] else "S"}"}}'
        return f'{{{common},"x":"V","c":["@"],"z":"C"}}'

    return item


def _contract_trade(row: list[int]) -> str:
    """Of an option: without an id, as in the stream."""
    price = decimal_text(row[PRICE], PRICE_DIGITS)
    return f'{{"t":"{time_text(row[TS], 9)}","p":{price},"s":{row[SIZE]},"x":"N","c":"S"}}'


def _quote(venue: Venue, crypto: bool) -> Any:
    def item(row: list[int]) -> str:
        digits = venue.size_digits
        common = f'"t":"{time_text(row[TS], 9)}","bp":{decimal_text(row[PRICE], PRICE_DIGITS)}'
        common += f',"bs":{decimal_text(row[SIZE], digits)},"ap":{decimal_text(row[ASK], PRICE_DIGITS)}'
        common += f',"as":{decimal_text(row[ASK_SIZE], digits)}'
        return f"{{{common}}}" if crypto else f'{{{common},"bx":"V","ax":"V","c":["R"],"z":"C"}}'

    return item
