"""Pages of history as the crypto exchanges give them: fields, order, cursors and errors.

https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api/products/get-product-trades
https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/rest-api/products/get-market-trades
https://developers.binance.com/docs/binance-spot-api-docs/rest-api
https://docs.kraken.com/api/docs/rest-api/get-recent-trades
"""

from __future__ import annotations

import re
from functools import lru_cache

from recorder.core.market import ID, PRICE, PRICE_DIGITS, SIDE, SIZE, TS, decimal_text
from recorder.shell.simulator.past import Past
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked, Refused, whole
from recorder.shell.simulator.venue import Venue, rfc3339

PAGE = 1000  # trades in one answer at most, of all four
HOUR_MS = 3_600_000
EVER = (1 << 63) - 1
TIMES_MAX = 1 << 43  # in ms: the year 2248, and as ns still an int64

_EXCHANGE = re.compile(r"/products/([^/]+)/trades")
_ADVANCED = re.compile(r"/api/v3/brokerage/market/products/([^/]+)/ticker")
_MAKER = ("buy", "sell")  # the side that rested: aggressor sold, aggressor bought


@lru_cache(maxsize=4096)  # an hour's seconds
def _second(seconds: int) -> str:
    return rfc3339(seconds * SECOND_NS, 0)[:19]


def time_text(ns: int, digits: int) -> str:
    """As ``rfc3339``, ten times as fast on a page: its trades share their seconds."""
    seconds, part = divmod(ns, SECOND_NS)
    return f"{_second(seconds)}.{f'{part:09d}'[:digits]}Z"


def _numbers(venue: Venue, row: list[int]) -> tuple[str, str]:
    """Price and size as text."""
    return decimal_text(row[PRICE], PRICE_DIGITS), decimal_text(row[SIZE], venue.size_digits)


def coinbase(venue: Venue, trades: Past, quotes: Past, asked: Asked) -> Answer:
    """Exchange: newest first, ``after`` an id what is older, ``before`` one what is newer; cursors in headers."""
    found = _EXCHANGE.fullmatch(asked.path)
    if found is None or found[1] not in venue.index:
        raise Refused(Answer(404, {"message": "NotFound"}))
    bad = Answer(400, {"message": "Bad Request"})
    limit = whole(asked, "limit", PAGE, bad, 1, PAGE)
    after, before = whole(asked, "after", EVER, bad), whole(asked, "before", -1, bad)
    rows = trades.rows(trades.find(venue.index[found[1]], (before + 1, after - 1))[-limit:][::-1]).tolist()
    items = []
    for row in rows:
        price, size = _numbers(venue, row)
        items.append(
            f'{{"trade_id":{row[ID]},"side":"{_MAKER[row[SIDE]]}","size":"{size}","price":"{price}",'
            f'"time":"{time_text(row[TS], 6)}"}}'
        )
    cursors = {"CB-BEFORE": str(rows[0][ID]), "CB-AFTER": str(rows[-1][ID])} if rows else {}
    return Answer(200, f"[{','.join(items)}]", cursors)


def coinbase_advanced(venue: Venue, trades: Past, quotes: Past, asked: Asked) -> Answer:
    """Advanced Trade: newest first, between two whole seconds, both inclusive."""
    found = _ADVANCED.fullmatch(asked.path)
    if found is None or found[1] not in venue.index:
        words = {"error": "NOT_FOUND", "error_details": "valid product_id is required", "message": "not found"}
        raise Refused(Answer(404, words))
    bad = Answer(400, {"error": "INVALID_ARGUMENT", "error_details": "", "message": "invalid argument"})
    limit = whole(asked, "limit", None, bad, 1, PAGE)
    seconds = EVER // SECOND_NS
    start, end = whole(asked, "start", 0, bad, 0, seconds), whole(asked, "end", seconds, bad, 0, seconds)
    places = trades.find(venue.index[found[1]], times=(start * SECOND_NS, end * SECOND_NS))
    items = []
    for row in trades.rows(places[-limit:][::-1]).tolist():
        price, size = _numbers(venue, row)
        items.append(
            f'{{"trade_id":"{row[ID]}","product_id":"{found[1]}","price":"{price}","size":"{size}",'
            f'"time":"{time_text(row[TS], 6)}","side":"{_MAKER[row[SIDE]].upper()}","bid":"","ask":"",'
            '"exchange":"coinbase"}'
        )
    return Answer(200, f'{{"trades":[{",".join(items)}],"best_bid":"","best_ask":""}}')


_BINANCE_ROOT = {"binance": "/api/v3/", "binance-usdm": "/fapi/v1/", "binance-coinm": "/dapi/v1/"}


def binance_headers(spent: int, most: int, end_ns: int) -> dict[str, str]:
    return {"X-MBX-USED-WEIGHT-1M": str(spent)}


def binance_weight(path: str) -> int:
    if path.startswith("/api/"):
        return 25 if path.endswith("/historicalTrades") else 4
    return 20


def binance(venue: Venue, trades: Past, quotes: Past, asked: Asked) -> Answer:
    """historicalTrades of spot and aggTrades: oldest first from an id or a time on, or the newest."""
    root, _, name = asked.path.rpartition("/")
    single = name == "historicalTrades" and venue.key == "binance"
    if f"{root}/" != _BINANCE_ROOT[venue.key] or not (single or name == "aggTrades"):
        raise Refused(Answer(404, {"code": -5000, "msg": f"Path {asked.path}, Method GET is invalid"}))
    if not asked.query.get("symbol"):
        words = "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
        raise Refused(Answer(400, {"code": -1102, "msg": words}))
    symbol = venue.index.get(asked.query["symbol"])
    if symbol is None:
        raise Refused(Answer(400, {"code": -1121, "msg": "Invalid symbol."}))

    def number(name: str, default: int, low: int = 0, high: int = TIMES_MAX) -> int:
        words = f"Data sent for parameter '{name}' is not valid."
        return whole(asked, name, default, Answer(400, {"code": -1130, "msg": words}), low, high)

    limit, first = number("limit", 500, 1, PAGE), number("fromId", 0)
    start, end = (0, TIMES_MAX) if single else (number("startTime", 0), number("endTime", TIMES_MAX))
    if venue.key != "binance" and {"startTime", "endTime"} <= asked.query.keys() and end - start > HOUR_MS:
        words = "More than 1 hours between startTime and endTime."
        raise Refused(Answer(400, {"code": -1127, "msg": words}))
    places = trades.find(symbol, (first, EVER), (start * 1_000_000, min(end * 1_000_000 + 999_999, EVER)))
    known = {"fromId"} if single else {"fromId", "startTime", "endTime"}
    places = places[:limit] if asked.query.keys() & known else places[-limit:]
    headers = {name.lower(): value for name, value in asked.headers.items()}
    unit = (
        1_000 if headers.get("x-mbx-time-unit", "").lower() == "microsecond" and venue.key == "binance" else 1_000_000
    )
    items = []
    for row in trades.rows(places).tolist():
        price, size = _numbers(venue, row)
        time, maker = row[TS] // unit, "false" if row[SIDE] else "true"  # whether the buyer rested
        if single:
            digits = PRICE_DIGITS + venue.size_digits
            items.append(
                f'{{"id":{row[ID]},"price":"{price}","qty":"{size}",'
                f'"quoteQty":"{decimal_text(row[PRICE] * row[SIZE], digits)}","time":{time},"isBuyerMaker":{maker},'
                '"isBestMatch":true}'
            )
        else:
            best = ',"M":true' if venue.key == "binance" else ""
            items.append(
                f'{{"a":{row[ID]},"p":"{price}","q":"{size}","f":{row[ID]},"l":{row[ID]},"T":{time},"m":{maker}{best}}}'
            )
    return Answer(200, f"[{','.join(items)}]")


def kraken(venue: Venue, trades: Past, quotes: Past, asked: Asked) -> Answer:
    """Oldest first after ``since``, or the newest; errors are HTTP 200."""

    def refused(words: str) -> Refused:
        return Refused(Answer(200, {"error": [words]}))

    if asked.path != "/0/public/Trades":
        raise refused("EGeneral:Unknown method")
    names = {kraken_name(name): i for i, name in enumerate(venue.names)}
    pair = asked.query.get("pair", "")
    if pair not in names:
        raise refused("EQuery:Unknown asset pair")
    bad = Answer(200, {"error": ["EGeneral:Invalid arguments"]})
    count, since = whole(asked, "count", PAGE, bad, 1, PAGE), whole(asked, "since", 0, bad, 0, EVER)
    after = since if since > 1 << 40 else since * SECOND_NS  # seconds are taken as well
    places = trades.find(names[pair], times=(after + 1, EVER))
    rows = trades.rows(places[:count] if "since" in asked.query else places[-count:]).tolist()
    items = []
    for row in rows:
        price, size = _numbers(venue, row)
        time = decimal_text(row[TS] // 100, 7)
        items.append(f'["{price}","{size}",{time},"{"b" if row[SIDE] else "s"}","m","",{row[ID]}]')
    last = rows[-1][TS] if rows else after
    long = "XXBTZUSD" if pair == "XBTUSD" else pair
    return Answer(200, f'{{"error":[],"result":{{"{long}":[{",".join(items)}],"last":"{last}"}}}}')


def kraken_name(pair: str) -> str:
    """BTC/USD → XBTUSD, as the HTTP interface names it."""
    return "".join({"BTC": "XBT", "DOGE": "XDG"}.get(asset, asset) for asset in pair.split("/"))
