"""Bars of the simulated providers' history: a market that has been open since 2020, the same each time it is asked.

Prices follow from the time alone, so that any range can be asked for without anything being kept. Pages have the
providers' fields, order and limits; the bar of now is among them, as it is with those who send it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from recorder.core.text_time import rfc3339_ns
from recorder.shell.simulator.alpaca_pages import authorise
from recorder.shell.simulator.pages import kraken_name
from recorder.shell.simulator.past import Past
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked, Refused, whole
from recorder.shell.simulator.venue import Venue
from recorder.values.errors import FrameError

BEGIN_S = 1_577_836_800  # 2020-01-01
TICKS = 100  # to a unit of price
ALPACA_PAGE = 10_000
KRAKEN_BARS = 720
EVER_S = 1 << 34

_UNITS_S = {"m": 60, "h": 3600, "H": 3600, "d": 86400, "D": 86400, "w": 7 * 86400, "s": 1}
_COINBASE = re.compile(r"(?:/api/v3/brokerage/market)?/products/([^/]+)/candles")
_GRANULARITY = {
    "ONE_MINUTE": 60, "FIVE_MINUTE": 300, "FIFTEEN_MINUTE": 900, "THIRTY_MINUTE": 1800, "ONE_HOUR": 3600,
    "TWO_HOUR": 7200, "SIX_HOUR": 21600, "ONE_DAY": 86400,
}  # fmt: skip
_ALPACA = re.compile(r"/v2/stocks/bars|/v1beta3/crypto/[a-z0-9-]+/bars")
_ALPACA_UNITS = {"Min": 60, "Hour": 3600, "Day": 86400, "Week": 7 * 86400}


Page = Callable[[Venue, Past, Past, Asked], Answer]


class Made(NamedTuple):
    """Prices as text; ``start`` in s."""

    start: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    trades: int


def price(symbol: int, at_s: np.ndarray) -> np.ndarray:
    """Ticks, at whole seconds."""
    wave = np.sin(at_s / 3_000.0 + symbol) + 0.3 * np.sin(at_s / 37.0)
    return (10_000 * (symbol + 1) + 500 * wave).astype(np.int64)


def made(symbol: int, first_s: int, last_s: int, step_s: int) -> list[Made]:
    """Bars that begin from ``first_s`` to ``last_s``, both included, of whole multiples of ``step_s``."""
    first = -(-max(first_s, BEGIN_S) // step_s) * step_s
    starts = np.arange(first, last_s + 1, step_s, dtype=np.int64)
    opened, closed = price(symbol, starts), price(symbol, starts + step_s)
    counts = (starts // step_s * 2_654_435_761 + symbol) % 97 + 1
    high, low = np.maximum(opened, closed) + counts % 7, np.minimum(opened, closed) - counts % 5
    columns = [opened, high, low, closed]
    texts = [[f"{tick // TICKS}.{tick % TICKS:02d}" for tick in column.tolist()] for column in columns]
    volumes = [f"{count * 3}.{count:03d}" for count in counts.tolist()]
    return [Made(*each) for each in zip(starts.tolist(), *texts, volumes, counts.tolist(), strict=True)]


def beside(page: Page) -> Page:
    """A provider's page of ticks, and its bars where these are asked for."""

    def answer(venue: Venue, trades: Past, quotes: Past, asked: Asked) -> Answer:
        find = _PAGES.get(venue.key)
        found = None if find is None else find(venue, asked)
        return page(venue, trades, quotes, asked) if found is None else found

    return answer


def _now_s(venue: Venue) -> int:
    return venue.now() // SECOND_NS


def _step(text: str, bad: Answer) -> int:
    found = re.fullmatch(r"(\d{1,2})([smhHdDw])(?:utc)?", text)
    if found is None:
        raise Refused(bad)
    return int(found[1]) * _UNITS_S[found[2]]


def _binance(venue: Venue, asked: Asked) -> Answer | None:
    if not asked.path.endswith("/klines"):
        return None
    symbol = venue.index.get(asked.query.get("symbol", ""))
    if symbol is None:
        raise Refused(Answer(400, {"code": -1121, "msg": "Invalid symbol."}))
    step = _step(asked.query.get("interval", ""), Answer(400, {"code": -1120, "msg": "Invalid interval."}))
    bad = Answer(400, {"code": -1130, "msg": "Data sent for a parameter is not valid."})
    limit = whole(asked, "limit", 500, bad, 1, 1000)
    first, last = whole(asked, "startTime", 0, bad), whole(asked, "endTime", EVER_S * 1000, bad)
    bars = made(symbol, -(-first // 1000), min(last // 1000, _now_s(venue)), step)[:limit]
    return Answer(
        200,
        _listed(
            f'[{b.start * 1000},"{b.open}","{b.high}","{b.low}","{b.close}","{b.volume}",{(b.start + step) * 1000 - 1},'
            f'"{float(b.volume) * float(b.close):.6f}",{b.trades},"0.5","0.5","0"]'
            for b in bars
        ),
    )


def _coinbase(venue: Venue, asked: Asked) -> Answer | None:
    found = _COINBASE.fullmatch(asked.path)
    if found is None:
        return None
    advanced = asked.path.startswith("/api/")
    symbol = venue.index.get(found[1])
    if symbol is None:
        raise Refused(Answer(404, {"message": "NotFound"}))
    bad = Answer(400, {"message": "Unsupported granularity"})
    granularity = asked.query.get("granularity", "60")
    step = _GRANULARITY.get(granularity, 0) if advanced else int(granularity) if granularity.isdecimal() else 0
    if step not in _GRANULARITY.values():
        raise Refused(bad)
    first, last = whole(asked, "start", 0, bad, 0, EVER_S), whole(asked, "end", EVER_S, bad, 0, EVER_S)
    most = 350 if advanced else 300
    if (last - first) // step >= most:
        words = f"granularity too small for the requested time range. Count of aggregations requested exceeds {most}"
        raise Refused(Answer(400, {"message": words}))
    bars = made(symbol, first, min(last, _now_s(venue)), step)[::-1]
    if advanced:
        items = _listed(
            f'{{"start":"{b.start}","low":"{b.low}","high":"{b.high}","open":"{b.open}","close":"{b.close}",'
            f'"volume":"{b.volume}"}}'
            for b in bars
        )
        return Answer(200, f'{{"candles":{items}}}')
    return Answer(200, _listed(f"[{b.start},{b.low},{b.high},{b.open},{b.close},{b.volume}]" for b in bars))


def _kraken(venue: Venue, asked: Asked) -> Answer | None:
    if asked.path != "/0/public/OHLC":
        return None
    names = {kraken_name(name): i for i, name in enumerate(venue.names)}
    pair = asked.query.get("pair", "")
    if pair not in names:
        raise Refused(Answer(200, {"error": ["EQuery:Unknown asset pair"]}))
    bad = Answer(200, {"error": ["EGeneral:Invalid arguments"]})
    step = whole(asked, "interval", 1, bad, 1, 21_600) * 60
    since = whole(asked, "since", 0, bad, 0, EVER_S)
    now = _now_s(venue)
    bars = made(names[pair], max(since + 1, now - KRAKEN_BARS * step), now, step)[-KRAKEN_BARS:]
    items = _listed(
        f'[{b.start},"{b.open}","{b.high}","{b.low}","{b.close}","{b.close}","{b.volume}",{b.trades}]' for b in bars
    )
    last = bars[-2].start if len(bars) > 1 else since
    return Answer(200, f'{{"error":[],"result":{{"{pair}":{items},"last":{last}}}}}')


def _okx(venue: Venue, asked: Asked) -> Answer | None:
    if asked.path != "/api/v5/market/history-candles":
        return None
    symbol = venue.index.get(asked.query.get("instId", ""))
    if symbol is None:
        raise Refused(Answer(200, {"code": "51001", "msg": "Instrument ID doesn't exist.", "data": []}))
    bad = Answer(200, {"code": "51000", "msg": "Parameter error", "data": []})
    step = _step(asked.query.get("bar", "1m"), bad)
    limit = whole(asked, "limit", 100, bad, 1, 300)
    older, newer = whole(asked, "after", EVER_S * 1000, bad), whole(asked, "before", 0, bad)
    bars = made(symbol, newer // 1000 + 1, min((older - 1) // 1000, _now_s(venue)), step)[::-1][:limit]
    items = _listed(
        f'["{b.start * 1000}","{b.open}","{b.high}","{b.low}","{b.close}","{b.volume}","0","0",'
        f'"{int(b.start + step <= _now_s(venue))}"]'
        for b in bars
    )
    return Answer(200, f'{{"code":"0","msg":"","data":{items}}}')


def _bybit(venue: Venue, asked: Asked) -> Answer | None:
    if asked.path != "/v5/market/kline":
        return None

    def refused(words: str) -> Answer:
        return Answer(200, {"retCode": 10001, "retMsg": words, "result": {}, "retExtInfo": {}})

    symbol = venue.index.get(asked.query.get("symbol", ""))
    if symbol is None:
        raise Refused(refused("Not supported symbols"))
    interval = asked.query.get("interval", "")
    step = int(interval) * 60 if interval.isdecimal() else {"D": 86_400, "W": 7 * 86_400}.get(interval, 0)
    if not step:
        raise Refused(refused("Invalid period!"))
    bad = refused("params error")
    limit = whole(asked, "limit", 200, bad, 1, 1000)
    first, last = whole(asked, "start", 0, bad), whole(asked, "end", EVER_S * 1000, bad)
    bars = made(symbol, -(-first // 1000), min(last // 1000, _now_s(venue)), step)[::-1][:limit]
    items = _listed(
        f'["{b.start * 1000}","{b.open}","{b.high}","{b.low}","{b.close}","{b.volume}","0.5"]' for b in bars
    )
    name = asked.query["symbol"]
    return Answer(200, f'{{"retCode":0,"retMsg":"OK","result":{{"symbol":"{name}","list":{items}}},"retExtInfo":{{}}}}')


def _deribit(venue: Venue, asked: Asked) -> Answer | None:
    if asked.path != "/api/v2/public/get_tradingview_chart_data":
        return None
    symbol = venue.index.get(asked.query.get("instrument_name", ""))
    bad = Answer(400, {"jsonrpc": "2.0", "error": {"code": -32602, "message": "Invalid params"}})
    resolution = asked.query.get("resolution", "")
    if symbol is None or not (resolution == "1D" or resolution.isdecimal()):
        raise Refused(bad)
    step = 86_400 if resolution == "1D" else int(resolution) * 60
    first = whole(asked, "start_timestamp", None, bad) // 1000
    last = whole(asked, "end_timestamp", None, bad) // 1000
    bars = made(symbol, first, min(last, _now_s(venue)), step)[-5000:]
    lists = ",".join(
        f'"{name}":[{",".join(getattr(b, name) for b in bars)}]' for name in ("open", "high", "low", "close", "volume")
    )
    ticks, status = ",".join(str(b.start * 1000) for b in bars), "ok" if bars else "no_data"
    result = f'{{{lists},"cost":[],"ticks":[{ticks}],"status":"{status}"}}'
    return Answer(200, f'{{"jsonrpc":"2.0","result":{result},"usIn":1,"usOut":2,"usDiff":1,"testnet":false}}')


def _bitstamp(venue: Venue, asked: Asked) -> Answer | None:
    found = re.fullmatch(r"/api/v2/ohlc/([^/]+)/?", asked.path)
    if found is None:
        return None
    symbol = venue.index.get(found[1])
    if symbol is None:
        raise Refused(Answer(404, {"code": "Not found"}))
    bad = Answer(400, {"code": "validation-error", "errors": [{"message": "Missing or invalid parameter."}]})
    step, limit = whole(asked, "step", None, bad, 60, 259_200), whole(asked, "limit", None, bad, 1, 1000)
    first, last = whole(asked, "start", 0, bad, 0, EVER_S), whole(asked, "end", EVER_S, bad, 0, EVER_S)
    bars = made(symbol, first, min(last, _now_s(venue)), step)[:limit]
    items = _listed(
        f'{{"timestamp":"{b.start}","open":"{b.open}","high":"{b.high}","low":"{b.low}","close":"{b.close}",'
        f'"volume":"{b.volume}"}}'
        for b in bars
    )
    return Answer(200, f'{{"data":{{"ohlc":{items},"pair":"{found[1]}"}}}}')


def _alpaca(venue: Venue, asked: Asked) -> Answer | None:
    """Of one symbol; the token of a page is the time at which the next one begins."""
    if _ALPACA.fullmatch(asked.path) is None:
        return None
    if asked.path.startswith("/v2/"):
        authorise(venue, asked)
    symbol = venue.index.get(asked.query.get("symbols", ""))
    found = re.fullmatch(r"(\d{1,2})(Min|Hour|Day|Week)", asked.query.get("timeframe", ""))
    if found is None:
        raise Refused(Answer(400, {"message": "invalid timeframe"}))
    limit = whole(asked, "limit", 1000, Answer(400, {"message": "invalid limit"}), 1, ALPACA_PAGE)
    try:
        first, last = (rfc3339_ns(asked.query[name]) // SECOND_NS for name in ("start", "end"))
    except (FrameError, KeyError):
        raise Refused(Answer(400, {"message": "invalid start or end"})) from None
    token = asked.query.get("page_token")
    bars: list[Made] = []
    if symbol is not None:
        step = int(found[1]) * _ALPACA_UNITS[found[2]]
        bars = made(symbol, int(token) if token else first, min(last, _now_s(venue)), step)
    following = str(bars[limit].start) if len(bars) > limit else None
    items = _listed(
        f'{{"t":"{datetime.fromtimestamp(b.start, UTC):%Y-%m-%dT%H:%M:%SZ}","o":{b.open},"h":{b.high},"l":{b.low},'
        f'"c":{b.close},"v":{b.volume},"n":{b.trades},"vw":{b.close}}}'
        for b in bars[:limit]
    )
    lists = f'{{"{asked.query["symbols"]}":{items}}}' if bars else "{}"
    return Answer(200, f'{{"bars":{lists},"next_page_token":{json.dumps(following)}}}')


def _listed(items: Iterable[str]) -> str:
    return f"[{','.join(items)}]"


_PAGES: dict[str, Callable[[Venue, Asked], Answer | None]] = {
    "alpaca": _alpaca, "binance": _binance, "binance-usdm": _binance, "binance-coinm": _binance, "bitstamp": _bitstamp,
    "coinbase": _coinbase, "coinbase-advanced": _coinbase, "deribit": _deribit, "kraken": _kraken, "okx": _okx,
    "bybit": _bybit, "bybit-linear": _bybit, "bybit-inverse": _bybit,
}  # fmt: skip
