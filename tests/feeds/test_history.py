"""What providers remember: trades of a simulated exchange, fetched over its HTTP and decoded, each exactly once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from history_exchange import BASE, CASES, DEADLINE_S, TOTAL, Exchange, get
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core.market import FIRST_ID, ID, QUOTE, TRADE, TS
from recorder.feeds import make
from recorder.shell.simulator.past import Past
from recorder.shell.simulator.truth import VenueTruth
from recorder.values.feed import FeedSpec, HistoryRequest, HttpRequest
from recorder.values.tables import BACKFILLED, QUOTES

BY_ID = [name for name in CASES if not name.startswith(("alpaca", "polygon"))]
SIDELESS = ("alpaca-stocks", "polygon-stocks", "polygon-options")
every = pytest.mark.parametrize("case", list(CASES))


def identities(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((row["trade_id"], row["ts_event"], row["symbol"], row.get("exchange")) for row in rows)


def facts(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = ("trade_id", "ts_event", "price", "size", "side")
    return sorted(tuple(row.get(name) for name in names) for row in rows)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a test of an exchange, and let that keep what happened."""

    def bounded(exchange: Exchange, test: Callable[[Exchange], Any]) -> None:
        count = VenueTruth.happened

        def happened(self: VenueTruth, events: np.ndarray) -> None:
            exchange.events.append(events.copy())
            count(self, events)

        monkeypatch.setattr(VenueTruth, "happened", happened)

        async def body() -> None:
            async with asyncio.timeout(DEADLINE_S), exchange.sim:
                await test(exchange)

        asyncio.run(body())

    return bounded


@every
@pytest.mark.parametrize("ids", [True, False], ids=["by-id", "by-time"])
def test_history_gives_the_trades_asked_for_and_no_other_and_none_twice(run: Any, case: str, ids: bool) -> None:
    if ids and case not in BY_ID:
        pytest.skip("its ids do not order")

    async def test(exchange: Exchange) -> None:
        exchange.sim.drop(exchange.key, 7)
        streamed, dropped = await exchange.trade()
        expected = exchange.happened()
        assert len(expected) == TOTAL
        assert len(dropped) == 7
        request = exchange.request(2, TOTAL - 30, expected, ids)
        rows = await exchange.fetch(request)
        wanted = [row for row in expected if request.start <= row["ts_event"] <= request.end]
        if ids:
            wanted = expected[2 : TOTAL - 29]
        found = [{"side": None, **row} if case in SIDELESS else row for row in rows]
        if case in SIDELESS:  # knows no side
            wanted = [row | {"side": None} for row in wanted]
        assert facts(found) == facts(wanted)
        assert {row["flags"] for row in rows} == {BACKFILLED}
        # What came both ways is one row, and what the stream lost is there.
        wanted_ids = {row["trade_id"] for row in wanted}
        kept = [row for row in rows if row["trade_id"] not in dropped]
        assert identities(kept) == identities([row for row in streamed if row["trade_id"] in wanted_ids])
        assert set(dropped) & wanted_ids == set(dropped) & {row["trade_id"] for row in rows}

    run(Exchange(case), test)


@every
def test_a_single_trade_is_found(run: Any, case: str) -> None:
    async def test(exchange: Exchange) -> None:
        await exchange.trade()
        expected = exchange.happened()
        row = expected[1234]
        request = exchange.request(1234, 1234, expected, case in BY_ID)
        rows = await exchange.fetch(request)
        assert row["trade_id"] in {found["trade_id"] for found in rows}
        if case in BY_ID:
            assert len(rows) == 1

    run(Exchange(case), test)


@pytest.mark.parametrize("case", ["alpaca-stocks", "alpaca-crypto", "polygon-stocks", "polygon-options"])
def test_quotes_are_remembered_where_the_provider_sells_them(run: Any, case: str) -> None:
    async def test(exchange: Exchange) -> None:
        await exchange.trade()
        expected = exchange.happened(QUOTE)
        request = HistoryRequest(exchange.symbol, "quotes", expected[3]["ts_event"], expected[-3]["ts_event"])
        rows = await exchange.fetch(request, "quotes")
        names = ("ts_event", "bid", "bid_size")
        first, last = request.start, request.end
        wanted = [row for row in expected if first <= row["ts_event"] <= last]
        assert [[row[name] for name in names] for row in rows] == [[r[name] for name in names] for r in wanted]

    run(Exchange(case), test)


@pytest.mark.parametrize("case", ["alpaca-stocks", "alpaca-crypto", "polygon-stocks", "polygon-options"])
def test_a_quote_of_history_is_the_row_that_the_stream_gave(run: Any, case: str) -> None:
    identity = [name for name in QUOTES.dedup if name != "feed"]

    async def test(exchange: Exchange) -> None:
        await exchange.trade("quotes")
        streamed = [tuple(row.get(name) for name in identity) for row in exchange.quotes]
        assert len(streamed) > 100
        times = [row["ts_event"] for row in exchange.quotes]
        rows = await exchange.fetch(HistoryRequest(exchange.symbol, "quotes", min(times), max(times)), "quotes")
        assert set(streamed) <= {tuple(row.get(name) for name in identity) for row in rows}

    run(Exchange(case), test)


def test_microseconds_in_the_stream_are_asked_of_history_too(run: Any) -> None:
    async def test(exchange: Exchange) -> None:
        exchange.unit = 1_000
        streamed, _ = await exchange.trade()
        expected = exchange.happened()
        rows = await exchange.fetch(exchange.request(0, 50, expected, ids=True))
        assert identities(rows) == identities(streamed[:51])
        assert any(row["ts_event"] % 1_000_000 for row in rows)

    run(Exchange("binance-spot", url="?timeUnit=MICROSECOND"), test)


# Limits and faults of the simulated providers


@pytest.mark.parametrize("case", ["coinbase-exchange", "binance-usdm", "alpaca-crypto"])
def test_who_asks_too_fast_is_told_when_to_come_back(run: Any, case: str) -> None:
    async def test(exchange: Exchange) -> None:
        exchange._wall = lambda: BASE  # type: ignore[method-assign]
        exchange.sim._stages[exchange.key].venue.now = lambda: BASE + 250_000_000
        feed = exchange.feed()
        end = HistoryRequest(exchange.symbol, "trades", BASE, BASE + 1)
        first = next(feed.history(end))  # type: ignore[attr-defined]
        answers = [await asyncio.to_thread(get, first) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        if case == "alpaca-crypto":
            assert answers[2].headers["x-ratelimit-reset"] == str(BASE // 10**9 + 5)
            assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
        else:
            assert answers[2].headers["retry-after"] == "5"
        if case == "binance-usdm":
            assert [answer.headers["x-mbx-used-weight-1m"] for answer in answers] == ["20", "40", "60"]

    most = 40 if case == "binance-usdm" else 2
    run(Exchange(case, {"requests": (most, 5)}), test)


def test_a_failing_interface_is_asked_again(run: Any) -> None:
    async def test(exchange: Exchange) -> None:
        await exchange.trade()
        expected = exchange.happened()
        exchange.sim.fail_http(exchange.key, 503, 1)
        assert len(await exchange.fetch(exchange.request(0, 9, expected, ids=True))) == 10

    run(Exchange("coinbase-exchange"), test)


WRONG: list[tuple[str, str, int, str]] = [
    ("coinbase-exchange", "/products/FOO-USD/trades", 404, "NotFound"),
    ("coinbase-exchange", "/products/BTC-USD/trades?limit=1001", 400, "Bad Request"),
    ("coinbase-exchange", "/products/BTC-USD/trades?after=x", 400, "Bad Request"),
    ("coinbase-advanced", "/api/v3/brokerage/market/products/FOO-USD/ticker?limit=1", 404, "NOT_FOUND"),
    ("coinbase-advanced", "/api/v3/brokerage/market/products/BTC-USD/ticker", 400, "INVALID_ARGUMENT"),
    ("binance-spot", "/api/v3/historicalTrades?symbol=FOO", 400, "-1121"),
    ("binance-spot", "/api/v3/historicalTrades", 400, "-1102"),
    ("binance-spot", "/api/v3/historicalTrades?symbol=BTCUSDT&limit=1001", 400, "-1130"),
    ("binance-usdm", "/fapi/v1/historicalTrades?symbol=BTCUSDT", 404, "-5000"),
    ("binance-usdm", "/fapi/v1/aggTrades?symbol=BTCUSDT&startTime=1&endTime=3600002", 400, "-1127"),
    ("kraken", "/0/public/Trades?pair=FOO", 200, "EQuery:Unknown asset pair"),
    ("kraken", "/0/public/Trades?pair=XBTUSD&count=2000", 200, "EGeneral:Invalid arguments"),
    ("okx", "/api/v5/market/history-trades?instId=FOO-USDT", 200, "51001"),
    ("okx", "/api/v5/market/history-trades?type=1", 200, "50014"),
    ("okx", "/api/v5/market/history-trades?instId=BTC-USDT-SWAP&limit=101", 200, "51000"),
    ("okx", "/api/v5/market/history-trades?instId=BTC-USDT-SWAP&type=3", 200, "51000"),
    ("deribit", "/api/v2/public/get_last_trades_by_instrument?instrument_name=FOO", 400, "Invalid params"),
    ("deribit", "/api/v2/public/get_last_trades_by_instrument?instrument_name=BTC-PERPETUAL&count=1001", 400, "-32602"),
    ("deribit", "/api/v2/public/get_last_trades_by_instrument_and_time?instrument_name=BTC-PERPETUAL", 400, "-32602"),
    ("deribit", "/public/get_trades", 404, "Method not found"),
    ("alpaca-stocks", "/v2/stocks/trades?symbols=AAPL", 401, "unauthorized"),
    ("alpaca-crypto", "/v1beta3/crypto/us/trades?symbols=BTC/USD&limit=10001", 400, "limit"),
    ("alpaca-crypto", "/v1beta3/crypto/us/trades?symbols=BTC/USD&start=yesterday", 400, "start"),
    ("alpaca-crypto", "/v1beta3/crypto/us/trades?symbols=BTC/USD&page_token=%25", 400, "page_token"),
    ("polygon-stocks", "/v3/trades/AAPL", 401, "Unknown API Key"),
]


@pytest.mark.parametrize(("case", "target", "status", "words"), WRONG, ids=[w[1] for w in WRONG])
def test_wrong_requests_are_refused_as_the_provider_would(
    run: Any, case: str, target: str, status: int, words: str
) -> None:
    async def test(exchange: Exchange) -> None:
        answer = await asyncio.to_thread(get, HttpRequest(exchange.sim.rest_url(exchange.key) + target))
        assert (answer.status, words in json.dumps(json.loads(answer.body))) == (status, True)

    run(Exchange(case), test)


# Where each history is, as the provider documents it: the simulators would answer at another address, too.
DOCUMENTED = {
    ("binance", "spot", "trades"): "https://api.binance.com/api/v3/historicalTrades?symbol=BTCUSDT&fromId=7&limit=3",
    ("binance", "usdm", "trades"): "https://fapi.binance.com/fapi/v1/aggTrades?symbol=BTCUSDT&fromId=7&limit=3",
    ("binance", "coinm", "trades"): "https://dapi.binance.com/dapi/v1/aggTrades?symbol=BTCUSD_PERP&fromId=7&limit=3",
    ("binance", "spot", "bars"): "https://api.binance.com/api/v3/klines?",
    ("binance", "usdm", "bars"): "https://fapi.binance.com/fapi/v1/klines?",
    ("binance", "coinm", "bars"): "https://dapi.binance.com/dapi/v1/klines?",
    ("coinbase", "exchange", "trades"): "https://api.exchange.coinbase.com/products/BTC-USD/trades?limit=3&after=10",
    ("coinbase", "exchange", "bars"): "https://api.exchange.coinbase.com/products/BTC-USD/candles?",
    ("coinbase", "advanced", "trades"): "https://api.coinbase.com/api/v3/brokerage/market/products/BTC-USD/ticker?",
    ("coinbase", "advanced", "bars"): "https://api.coinbase.com/api/v3/brokerage/market/products/BTC-USD/candles?",
    ("kraken", "", "trades"): "https://api.kraken.com/0/public/Trades?pair=XBTUSD&since=",
    ("kraken", "", "bars"): "https://api.kraken.com/0/public/OHLC?pair=XBTUSD&interval=1&since=",
    ("bybit", "spot", "trades"): "https://api.bybit.com/v5/market/recent-trade?category=spot&symbol=BTCUSDT&limit=60",
    ("bybit", "linear", "trades"): "https://api.bybit.com/v5/market/recent-trade?category=linear&symbol=BTCUSDT&limit=",
    ("bybit", "inverse", "bars"): "https://api.bybit.com/v5/market/kline?category=inverse&symbol=BTCUSD&interval=1&",
    ("okx", "", "trades"): "https://www.okx.com/api/v5/market/history-trades?instId=BTC-USDT&type=1&after=10&limit=3",
    ("okx", "", "bars"): "https://www.okx.com/api/v5/market/history-candles?instId=BTC-USDT&bar=1m&",
    ("deribit", "", "trades"): "https://www.deribit.com/api/v2/public/get_last_trades_by_instrument?"
    "instrument_name=BTC-PERPETUAL&start_seq=7&end_seq=9&count=1000&sorting=asc",
    ("deribit", "", "bars"): "https://www.deribit.com/api/v2/public/get_tradingview_chart_data?"
    "instrument_name=BTC-PERPETUAL&",
    ("bitstamp", "", "bars"): "https://www.bitstamp.net/api/v2/ohlc/btcusd/?step=60&limit=1000&",
}  # fmt: skip
OPTION = {"binance": "market", "bybit": "market", "coinbase": "api"}
SYMBOLS = {
    "spot": "BTC-USDT", "usdm": "BTC-USDT-PERP", "linear": "BTC-USDT-PERP", "coinm": "BTC-USD-PERP",
    "inverse": "BTC-USD-PERP", "deribit": "BTC-USD-PERP", "okx": "BTC-USDT",
}  # fmt: skip


@pytest.mark.parametrize("asked", DOCUMENTED, ids=" ".join)
def test_history_is_asked_for_where_the_provider_documents_it(asked: tuple[str, str, str]) -> None:
    provider, value, channel = asked
    options = {OPTION[provider]: value} if value else {}
    symbol = SYMBOLS.get(value, SYMBOLS.get(provider, "BTC-USD"))
    ids: tuple[Any, ...] = (7, 9) if channel == "trades" else (None, None)
    request = HistoryRequest(symbol, channel, 1_700_000_000 * 10**9, 1_700_000_600 * 10**9, *ids, timeframe="1m")
    spec = FeedSpec(name="f", provider=provider, symbols=(symbol,), options=options)
    assert next(make(spec).history(request)).url.startswith(DOCUMENTED[asked])
    mine = msgspec.structs.replace(spec, rest_url="http://127.0.0.1:1234/", url="ws://127.0.0.1:1234")
    path = DOCUMENTED[asked].removeprefix("https://").partition("/")[2]
    assert next(make(mine).history(request)).url.startswith(f"http://127.0.0.1:1234/{path}")


def test_an_address_of_deribit_may_end_as_its_documentation_writes_it() -> None:
    spec = FeedSpec(name="f", provider="deribit", symbols=("BTC-USD-PERP",), rest_url="https://test.deribit.com/api/v2")
    request = HistoryRequest("BTC-USD-PERP", "trades", 0, 1, 7, 9)
    assert next(make(spec).history(request)).url.startswith("https://test.deribit.com/api/v2/public/get_last_trades")


def test_a_cursor_of_coinbase_names_the_ends_of_its_page(run: Any) -> None:
    async def test(exchange: Exchange) -> None:
        await exchange.trade()
        base = f"{exchange.sim.rest_url(exchange.key)}/products/BTC-USD/trades"
        page = await asyncio.to_thread(get, HttpRequest(f"{base}?limit=3&after={FIRST_ID + 10}"))
        assert [trade["trade_id"] - FIRST_ID for trade in json.loads(page.body)] == [9, 8, 7]
        assert (page.headers["cb-before"], page.headers["cb-after"]) == (str(FIRST_ID + 9), str(FIRST_ID + 7))
        newer = await asyncio.to_thread(get, HttpRequest(f"{base}?before={FIRST_ID + TOTAL - 3}"))
        assert [trade["trade_id"] - FIRST_ID for trade in json.loads(newer.body)] == [TOTAL - 1, TOTAL - 2]

    run(Exchange("coinbase-exchange"), test)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 25), max_size=12))
def test_an_exchange_remembers_its_last_events_however_they_came(sizes: list[int]) -> None:
    past, everything = Past(TRADE, 20), np.empty((0, 9), np.int64)
    for size in sizes:
        events = np.zeros((size, 9), np.int64)
        events[:, ID] = len(everything) + np.arange(size)
        events[:, TS] = events[:, ID] * 10
        events[:, 1] = events[:, ID] % 3  # symbol
        past.add(events)
        everything = np.concatenate([everything, events])
    for symbol in range(3):
        kept = [row for row in everything[-20:].tolist() if row[1] == symbol]
        assert past.rows(past.find(symbol)).tolist() == kept
        assert past.rows(past.find(symbol, (5, 30), (0, 250))).tolist() == [r for r in kept if 5 <= r[ID] <= 25]
