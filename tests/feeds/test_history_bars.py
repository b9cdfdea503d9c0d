"""Bars of a provider's history: recorded and documented answers, ranges cut into pages, and what must not be stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from decoding import FRAME_END, Recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core.past_bars import windows
from recorder.feeds import make
from recorder.values.errors import ConfigError, FrameError
from recorder.values.feed import FeedSpec, HistoryRequest, HttpRequest, HttpResponse
from recorder.values.tables import BACKFILLED
from recorder.values.timeframes import LENGTHS, end_of

SECOND, MILLISECOND = 10**9, 10**6
EVER = 1 << 62
OPEN, HIGH, LOW, CLOSE, VOLUME = "open", "high", "low", "close", "volume"
Row = dict[str, Any]


def decoded(
    provider: str, body: bytes, symbol: str, timeframe: str, start: int = 0, end: int = EVER, now: int = FRAME_END,
    **options: str,
) -> tuple[list[Row], Recorded]:  # fmt: skip
    recorded = Recorded(provider, (symbol,), **options)
    request = HistoryRequest(symbol, "bars", start, end, timeframe=timeframe)
    recorded.feed.history_decoder(recorded.scope)(request, body, now)  # type: ignore[attr-defined]
    return recorded.rows("bars"), recorded


def row(start: int, symbol: str, timeframe: str, prices: list[Any], **more: Any) -> Row:
    """``prices``: open, high, low, close, volume."""
    values = dict(zip((OPEN, HIGH, LOW, CLOSE, VOLUME), map(float, prices), strict=True))
    common = {"ts_event": start, "ts_recv": FRAME_END, "symbol": symbol, "timeframe": timeframe, "flags": BACKFILLED}
    return {**common, **values, **more}


# What each provider's answers were recorded or documented as → rows, read from the same JSON by hand.


def test_klines_of_binance(shared_data: Path) -> None:
    body = (shared_data / "nautilus/binance/spot/http_json/klines_response.json").read_bytes()
    rows, _ = decoded("binance", body, "BTC-USDT", "1w")
    expected = [
        row(k[0] * MILLISECOND, "BTC-USDT", "1w", k[1:6], vwap=float(k[7]) / float(k[5]), trade_count=k[8])
        for k in json.loads(body)
    ]
    assert rows == expected
    assert len(rows) >= 1


def test_contracts_of_binance_tell_no_average_price(shared_data: Path) -> None:
    body = (shared_data / "nautilus/binance/spot/http_json/klines_response.json").read_bytes()
    rows, _ = decoded("binance", body, "BTC-USD-PERP", "1w", market="coinm")
    assert [set(each) & {"vwap", "trade_count"} for each in rows] == [{"trade_count"}]


def test_candles_of_coinbase(shared_data: Path) -> None:
    body = (shared_data / "nautilus/coinbase/http_candles.json").read_bytes()
    rows, _ = decoded("coinbase", body, "BTC-USD", "1h", api="advanced")
    assert rows == [
        row(int(c["start"]) * SECOND, "BTC-USD", "1h", [c[name] for name in (OPEN, HIGH, LOW, CLOSE, VOLUME)])
        for c in json.loads(body)["candles"]
    ]
    documented = b"[[1415398768,0.32,4.2,0.35,4.2,12.3]]"
    rows, _ = decoded("coinbase", documented, "BTC-USD", "1m")
    assert rows == [row(1415398768 * SECOND, "BTC-USD", "1m", [0.35, 4.2, 0.32, 4.2, 12.3])]


def test_candles_of_kraken(shared_data: Path) -> None:
    body = (shared_data / "nautilus/kraken/http_ohlc.json").read_bytes()
    rows, _ = decoded("kraken", body, "BTC-USDT", "1m")
    [candles] = [value for name, value in json.loads(body)["result"].items() if name != "last"]
    expected = []
    for start, o, h, low, c, vwap, volume, count in candles:
        more = {"vwap": float(vwap)} if count else {}
        expected.append(row(start * SECOND, "BTC-USDT", "1m", [o, h, low, c, volume], trade_count=count, **more))
    assert rows == expected
    assert len(rows) > 100


@pytest.mark.parametrize("name", ["http_get_candlesticks", "http_get_candlesticks_full"])
def test_candles_of_okx(shared_data: Path, name: str) -> None:
    body = (shared_data / f"nautilus/okx/{name}.json").read_bytes()
    rows, _ = decoded("okx", body, "BTC-USDT", "1m")
    assert rows == [row(int(c[0]) * MILLISECOND, "BTC-USDT", "1m", c[1:6]) for c in json.loads(body)["data"]]


def test_charts_of_deribit(shared_data: Path) -> None:
    body = (shared_data / "nautilus/deribit/http_get_tradingview_chart_data.json").read_bytes()
    rows, _ = decoded("deribit", body, "BTC-USD-PERP", "1m")
    chart = json.loads(body)["result"]
    columns = [chart[name] for name in (OPEN, HIGH, LOW, CLOSE, VOLUME)]
    assert rows == [
        row(start * MILLISECOND, "BTC-USD-PERP", "1m", prices)
        for start, *prices in zip(chart["ticks"], *columns, strict=True)
    ]


def test_candles_of_bitstamp() -> None:
    body = (
        b'{"data":{"ohlc":[{"close":"0.5117","high":"0.5121","low":"0.5116","open":"0.5119","timestamp":"1695628140",'
        b'"volume":"40.1"}],"pair":"XRP/USD"}}'
    )
    rows, _ = decoded("bitstamp", body, "XRP-USD", "1m")
    assert rows == [row(1695628140 * SECOND, "XRP-USD", "1m", [0.5119, 0.5121, 0.5116, 0.5117, 40.1])]


def test_bars_of_alpaca(shared_data: Path) -> None:
    compared = 0
    for name in ("alpaca_py_fixtures.jsonl", "alpaca_trade_api_go_rest_fixtures.jsonl"):
        for line in (shared_data / "alpaca" / name).read_text().splitlines():
            response = json.loads(line)["response"]
            bars = response.get("bars") if isinstance(response, dict) else None
            for symbol, items in (bars or {}).items():
                if not isinstance(items, list) or len(symbol) > 10:
                    continue
                ours = symbol.replace("/", "-")
                feed = "crypto" if "/" in symbol else "iex"
                rows, _ = decoded("alpaca", json.dumps(response).encode(), ours, "1m", feed=feed)
                assert [[r[c] for c in (OPEN, HIGH, LOW, CLOSE, VOLUME, "vwap", "trade_count")] for r in rows] == [
                    [b["o"], b["h"], b["l"], b["c"], b["v"], b["vw"], b["n"]] for b in items
                ]
                compared += len(rows)
    assert compared > 20


# What is left out


def candle(start_s: int, prices: str = '"1","2","0.5","1.5","7"') -> bytes:
    return b'["' + str(start_s * 1000).encode() + b'",' + prices.encode() + b',"0","0","1"]'


def page(*candles: bytes) -> bytes:
    return b'{"code":"0","msg":"","data":[' + b",".join(candles) + b"]}"


def test_a_bar_that_is_not_over_is_not_stored() -> None:
    now = 1_700_000_100 * SECOND
    starts = [1_699_999_980, 1_700_000_040, 1_700_000_100]  # the middle one is over at this very moment
    rows, recorded = decoded("okx", page(*map(candle, starts)), "BTC-USDT", "1m", now=now)
    assert [each["ts_event"] for each in rows] == [start * SECOND for start in starts[:2]]
    assert recorded.rows("rejected") == []


def test_bars_that_were_not_asked_for_are_left_out() -> None:
    starts = range(1_700_000_040, 1_700_000_640, 60)
    wanted = [s * SECOND for s in starts[2:5]]
    rows, _ = decoded("okx", page(*map(candle, starts)), "BTC-USDT", "1m", wanted[0], wanted[-1])
    assert [each["ts_event"] for each in rows] == wanted


@pytest.mark.parametrize(
    "prices", ['"0","2","0.5","1.5","7"', '"1","0.4","0.5","1","7"', '"1","2","0.5","1.5","-7"', '"x","2","0","1","7"',
               '"NaN","2","0.5","1.5","7"', '"1","1e999","0.5","1.5","7"']
)  # fmt: skip
def test_a_bar_that_cannot_be_is_rejected_alone(prices: str) -> None:
    rows, recorded = decoded("okx", page(candle(1_700_000_040, prices), candle(1_700_000_100)), "BTC-USDT", "1m")
    assert [each["ts_event"] for each in rows] == [1_700_000_100 * SECOND]
    assert len(recorded.rows("rejected")) == 1


@pytest.mark.parametrize(
    ("provider", "options", "body"),
    [
        ("binance", {}, b'{"code":-1121,"msg":"Invalid symbol."}'),
        ("coinbase", {}, b'{"message":"NotFound"}'),
        ("coinbase", {"api": "advanced"}, b'{"error":"NOT_FOUND"}'),
        ("kraken", {}, b'{"error":["EGeneral:Too many requests"]}'),
        ("okx", {}, b'{"code":"51001","msg":"Instrument ID does not exist","data":[]}'),
        ("deribit", {}, b'{"jsonrpc":"2.0","error":{"message":"Invalid params","code":-32602}}'),
        ("deribit", {}, b'{"result":{"ticks":[1],"open":[],"high":[],"low":[],"close":[],"volume":[]}}'),
        ("bitstamp", {}, b'{"code":"Not found"}'),
        ("alpaca", {}, b'{"message":"forbidden."}'),
    ],
)
def test_an_error_is_an_error_also_as_http_200(provider: str, options: dict[str, str], body: bytes) -> None:
    symbol, _ = SYMBOLS[provider]
    with pytest.raises(FrameError):
        decoded(provider, body, symbol, "1m", **options)


# Pages


@given(
    timeframe=st.sampled_from([name for name, length in LENGTHS.items() if length <= LENGTHS["1d"]]),
    start=st.integers(0, 10**18), bars=st.integers(1, 40), span=st.integers(0, 2000),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_pages_hold_every_bar_of_a_range_once(timeframe: str, start: int, bars: int, span: int) -> None:
    step = LENGTHS[timeframe]
    end = start + span * step // 7
    asked: list[tuple[int, int]] = []

    def ask(first: int, last: int) -> HttpRequest:
        asked.append((first, last))
        return HttpRequest("https://x")

    request = HistoryRequest("A", "bars", start, end, timeframe=timeframe)
    pages: Any = windows(request, bars, ask, lambda body: None)
    with suppress(StopIteration):
        next(pages)
        while True:
            pages.send(HttpResponse(200, {}, b""))
    listed = [each for first, last in asked for each in range(first, last + 1, step)]
    assert listed == [each * step for each in range(-(-start // step), end // step + 1)]
    assert all(last - first < bars * step for first, last in asked)


def test_months_end_where_the_next_begins() -> None:
    begins = [1_704_067_200, 1_706_745_600, 1_709_251_200]  # January, February, March of 2024: a leap year
    assert [end_of(each * SECOND, "1M") for each in begins[:2]] == [each * SECOND for each in begins[1:]]
    assert end_of(1_701_388_800 * SECOND, "1M") == begins[0] * SECOND  # December


SYMBOLS: dict[str, tuple[str, dict[str, str]]] = {
    "alpaca": ("AAPL", {}), "binance": ("BTC-USDT", {}), "bitstamp": ("BTC-USD", {}), "coinbase": ("BTC-USD", {}),
    "deribit": ("BTC-USD-PERP", {}), "kraken": ("BTC-USD", {}), "okx": ("BTC-USDT", {}),
    "polygon": ("AAPL", {}), "yahoo": ("BRK.B", {}),
    "bybit": ("BTC-USD-PERP", {"market": "inverse"}),
}  # fmt: skip


@pytest.mark.parametrize("provider", list(SYMBOLS))
def test_every_timeframe_can_be_asked_for_and_another_is_refused_in_words(provider: str) -> None:
    symbol, options = SYMBOLS[provider]
    keys = {"APCA_API_KEY_ID": "k", "APCA_API_SECRET_KEY": "s3cret", "POLYGON_API_KEY": "s3cret"}
    feed: Any = make(FeedSpec(name="f", provider=provider, symbols=(symbol,), options=options), keys)
    known = feed.capability().history_timeframes
    assert "1m" in known
    assert set(known) <= set(LENGTHS)
    urls = set()
    for timeframe in known:
        request = HistoryRequest(symbol, "bars", 1_700_000_000 * SECOND, 1_710_000_000 * SECOND, timeframe=timeframe)
        url = next(feed.history(request)).url
        assert url.startswith("https://")
        assert "s3cret" not in url
        urls.add(url)
    assert len(urls) == len(known)
    ask: Callable[[], object] = lambda: next(  # noqa: E731
        feed.history(HistoryRequest(symbol, "bars", 0, EVER, timeframe="7m"))
    )
    with pytest.raises(ConfigError, match=r"known: .*1m"):
        ask()
