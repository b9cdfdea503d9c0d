"""What providers remember: trades of a simulated exchange, fetched over its HTTP and decoded, each exactly once."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import websockets
from decoding import Recorded
from hypothesis import given, settings
from hypothesis import strategies as st
from test_conformance import ANYTHING, feed_of, variants

from recorder.core.batch import Output
from recorder.core.market import FIRST_ID, ID, KIND, PRICE, QUOTE, SIDE, SIZE, TRADE, TS
from recorder.feeds import make
from recorder.shell.simulator import Simulator
from recorder.shell.simulator.past import Past
from recorder.shell.simulator.truth import VenueTruth
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import Feed, FeedSpec, HistoryRequest, HttpRequest, HttpResponse, Send
from recorder.values.tables import BACKFILLED

BASE = 1_790_000_000 * 10**9
# Between two looks at the exchange's clocks: some 200 trades a look, and three looks to a second of their times.
ELAPSED_NS, STEP_NS = 10_000_000, 400_000_000
TOTAL = 2600  # three pages of 1000
DEADLINE_S = 30
KEYS = {"APCA_API_KEY_ID": "k", "APCA_API_SECRET_KEY": "s"}
# simulated provider, provider, options, symbol, what a time is cut down to in the stream
CASES: dict[str, tuple[str, str, dict[str, str], str, int]] = {
    "coinbase-exchange": ("coinbase", "coinbase", {}, "BTC-USD", 1_000),
    "coinbase-advanced": ("coinbase-advanced", "coinbase", {"api": "advanced"}, "BTC-USD", 1_000),
    "binance-spot": ("binance", "binance", {}, "BTC-USDT", 1_000_000),
    "binance-spot-agg": ("binance", "binance", {"trades": "agg"}, "BTC-USDT", 1_000_000),
    "binance-usdm": ("binance-usdm", "binance", {"market": "usdm"}, "BTC-USDT-PERP", 1_000_000),
    "binance-coinm": ("binance-coinm", "binance", {"market": "coinm"}, "BTC-USD-PERP", 1_000_000),
    "kraken": ("kraken", "kraken", {}, "BTC-USD", 1_000),
    "alpaca-stocks": ("alpaca", "alpaca", {"feed": "iex"}, "AAPL", 1),
    "alpaca-crypto": ("alpaca", "alpaca", {"feed": "crypto"}, "BTC-USD", 1),
}
BY_ID = [name for name in CASES if not name.startswith("alpaca")]
every = pytest.mark.parametrize("case", list(CASES))


class Exchange:
    """A simulated provider that trades one symbol, what it did, and a feed of its."""

    def __init__(self, case: str, rules: dict[str, object] | None = None, url: str = "") -> None:
        self.key, self.provider, self.options, self.symbol, self.unit = CASES[case]
        self.events: list[np.ndarray] = []
        self._looks = 0
        self.sim = Simulator(
            [self.key], rate=20_000, burst=1, total=TOTAL, quotes=0.2, symbols=[self.symbol], wall=self._wall,
            clock=itertools.count(0, ELAPSED_NS).__next__,
            rules={self.key: {"requests": (1 << 30, 1), "keys": {"k": "s"}, **(rules or {})}},
        )  # fmt: skip
        self._url = url

    def _wall(self) -> int:
        self._looks += 1
        return BASE + self._looks * STEP_NS

    def feed(self, **fields: Any) -> Feed:
        own = {"url": self.sim.url(self.key) + self._url, "rest_url": self.sim.rest_url(self.key)}
        channels = ("trades",)
        spec = {"name": "f", "provider": self.provider, "options": self.options, "symbols": (self.symbol,)}
        return make(FeedSpec(**{**spec, "channels": channels, **own, **fields}), KEYS)

    def happened(self, kind: int = TRADE) -> list[dict[str, Any]]:
        """Rows that a feed should give for what happened, by this test's own arithmetic."""
        events = np.concatenate(self.events)
        digits = 1 if self.symbol == "AAPL" else 10**6
        rows = events[events[:, KIND] == kind].tolist()
        if kind == QUOTE:
            return [{"ts_event": row[TS], "bid": row[PRICE] / 100, "bid_size": row[SIZE] / digits} for row in rows]
        return [
            {
                "ts_event": row[TS] // self.unit * self.unit, "trade_id": row[ID], "price": row[PRICE] / 100,
                "size": row[SIZE] / digits, "side": "buy" if row[SIDE] else "sell",
            }
            for row in rows
        ]  # fmt: skip

    async def trade(self) -> tuple[list[dict[str, Any]], list[int]]:
        """Let everything happen to a subscribed client; (rows of its stream, ids that it was not sent)."""
        feed, recorded = self.feed(channels=("trades",)), Recorded(self.provider, (self.symbol,), **self.options)
        endpoint, rows = feed.endpoint(), []
        truth = self.sim.truth[self.key]
        async with websockets.connect(endpoint.url, additional_headers=endpoint.headers) as ws:
            commands = feed.on_open()
            while not self.sim._stages[self.key].finished.is_set() or len(rows) < TOTAL - len(truth.dropped):
                for command in commands:
                    if isinstance(command, Send):
                        await ws.send(command.payload)
                message = await ws.recv()
                payload = message.encode() if isinstance(message, str) else message
                commands = feed.on_control(payload)
                recorded.decode(payload, BASE + 10**15)
                rows += [row for row in recorded.rows("trades") if row["trade_id"] >= FIRST_ID]
        return rows, [number for _, number in truth.dropped]

    async def fetch(self, request: HistoryRequest, table: str = "trades") -> list[dict[str, Any]]:
        """Rows of history."""
        return await asyncio.to_thread(fetch, self.feed(), self, request, table)

    def request(self, first: int, last: int, rows: list[dict[str, Any]], ids: bool) -> HistoryRequest:
        """For the trades at two places of ``rows``."""
        numbers = (rows[first]["trade_id"], rows[last]["trade_id"]) if ids else (None, None)
        return HistoryRequest(self.symbol, "trades", rows[first]["ts_event"], rows[last]["ts_event"], *numbers)


def get(request: HttpRequest) -> HttpResponse:
    address = urlsplit(request.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=DEADLINE_S)
    target = f"{address.path}?{address.query}"
    connection.request("GET", target, headers=dict((*request.headers, *request.secret_headers)))
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return HttpResponse(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)


def fetch(feed: Feed, exchange: Exchange, request: HistoryRequest, table: str) -> list[dict[str, Any]]:
    recorded = Recorded(exchange.provider, (exchange.symbol,), **exchange.options)
    decode = feed.history_decoder(recorded.scope)  # type: ignore[attr-defined]
    pages = feed.history(request)  # type: ignore[attr-defined]
    asked = next(pages)
    try:
        while True:
            response = get(asked)
            while response.status != 200:
                assert response.status in (418, 429, 503), (asked.url, response)
                time.sleep(float(response.headers["retry-after"]))
                response = get(asked)
            recorded.scope.position += 1
            decode(request, response.body, BASE + 10**15)
            asked = pages.send(response)
    except StopIteration:
        pass
    assert recorded.rows("rejected") == []
    return recorded.rows(table)


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
        found = [{"side": None, **row} if case == "alpaca-stocks" else row for row in rows]
        if case == "alpaca-stocks":  # knows no side
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


@pytest.mark.parametrize("case", ["alpaca-stocks", "alpaca-crypto"])
def test_quotes_are_remembered_where_the_provider_sells_them(run: Any, case: str) -> None:
    async def test(exchange: Exchange) -> None:
        await exchange.trade()
        expected = exchange.happened(QUOTE)
        request = HistoryRequest(exchange.symbol, "quotes", expected[3]["ts_event"], expected[-3]["ts_event"])
        rows = await exchange.fetch(request, "quotes")
        names = ("ts_event", "bid", "bid_size")
        assert [[row[name] for name in names] for row in rows] == [[r[name] for name in names] for r in expected[3:-2]]

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
    ("alpaca-stocks", "/v2/stocks/trades?symbols=AAPL", 401, "unauthorized"),
    ("alpaca-crypto", "/v1beta3/crypto/us/trades?symbols=BTC/USD&limit=10001", 400, "limit"),
    ("alpaca-crypto", "/v1beta3/crypto/us/trades?symbols=BTC/USD&start=yesterday", 400, "start"),
    ("alpaca-crypto", "/v1beta3/crypto/us/trades?symbols=BTC/USD&page_token=%25", 400, "page_token"),
]


@pytest.mark.parametrize(("case", "target", "status", "words"), WRONG, ids=[w[1] for w in WRONG])
def test_wrong_requests_are_refused_as_the_provider_would(
    run: Any, case: str, target: str, status: int, words: str
) -> None:
    async def test(exchange: Exchange) -> None:
        answer = await asyncio.to_thread(get, HttpRequest(exchange.sim.rest_url(exchange.key) + target))
        assert (answer.status, words in json.dumps(json.loads(answer.body))) == (status, True)

    run(Exchange(case), test)


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


# Every feed


def remembering() -> list[tuple[str, dict[str, str]]]:
    return [(name, o) for name, o in variants() if feed_of(name, o).capability().history_channels]


feeds = pytest.mark.parametrize(
    ("name", "options"), remembering(), ids=lambda v: v if isinstance(v, str) else "-".join(v.values())
)


def request_of(feed: Feed, name: str, options: dict[str, str]) -> HistoryRequest:
    symbol = "AAPL" if name == "alpaca" and options.get("feed") != "crypto" else "BTC-USD"
    if name == "binance":
        symbol = {"usdm": "BTC-USDT-PERP", "coinm": "BTC-USD-PERP"}.get(options.get("market", ""), "BTC-USDT")
    return HistoryRequest(symbol, feed.capability().history_channels[0], BASE, BASE + 10**9, 5, 9)


@feeds
def test_its_requests_go_to_the_provider_without_keys_in_the_address(name: str, options: dict[str, str]) -> None:
    feed = feed_of(name, options)
    asked = next(feed.history(request_of(feed, name, options)))  # type: ignore[attr-defined]
    assert isinstance(asked, HttpRequest)
    assert asked.url.startswith("https://")
    assert "not-a-real-value" not in asked.url + str(asked.headers)
    assert feed.capability().rest_per_second_max > 0
    assert feed.capability().history_window_ns >= 0


@feeds
def test_a_stream_from_elsewhere_is_not_repaired_from_the_real_provider(name: str, options: dict[str, str]) -> None:
    feed = feed_of(name, options, url="ws://127.0.0.1:20001/x")
    assert feed.capability().history_channels == ()
    with pytest.raises(ConfigError, match="rest_url"):
        next(feed.history(request_of(feed_of(name, options), name, options)))  # type: ignore[attr-defined]
    own = feed_of(name, options, url="ws://127.0.0.1:20001/x", rest_url="http://127.0.0.1:20002/y/")
    asked = next(own.history(request_of(own, name, options)))  # type: ignore[attr-defined]
    assert asked.url.startswith("http://127.0.0.1:20002/y/")
    assert "/y//" not in asked.url


@feeds
def test_what_is_not_remembered_is_refused_in_words(name: str, options: dict[str, str]) -> None:
    feed = feed_of(name, options)
    request = request_of(feed, name, options)
    with pytest.raises(ConfigError, match="no history of 'statuses'"):
        feed.history(HistoryRequest(request.symbol, "statuses", 0, 1))  # type: ignore[attr-defined]
    with pytest.raises(SymbolError):
        feed.history(HistoryRequest("no symbol at all!", request.channel, 0, 1))  # type: ignore[attr-defined]


PAGES = (
    b'[{"time":"2026-01-01T00:00:00.000001Z","trade_id":7,"price":"1.5","size":"2","side":"buy"}]',
    b'{"trades":[{"trade_id":"7","product_id":"BTC-USD","price":"1.5","size":"2","time":"2026-01-01T00:00:00.1Z",'
    b'"side":"SELL"}]}',
    b'[{"id":7,"price":"1.5","qty":"2","time":1767225600000,"isBuyerMaker":true}]',
    b'[{"a":7,"p":"1.5","q":"2","f":7,"l":7,"T":1767225600000,"m":true}]',
    b'{"error":[],"result":{"XXBTZUSD":[["1.5","2",1767225600.1234567,"b","m","",7]],"last":"1767225600123456789"}}',
    b'{"error":["EGeneral:Too many requests"]}',
    b'{"trades":{"AAPL":[{"t":"2026-01-01T00:00:00Z","p":1.5,"s":2,"i":7,"x":"V","c":["@"],"z":"C"}]},'
    b'"next_page_token":null}',
    b'{"trades":{"AAPL":null},"next_page_token":"x"}', b'{"trades":null,"next_page_token":null}',
    b'{"message":"NotFound"}', b'{"code":-1121,"msg":"Invalid symbol."}', *ANYTHING,
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    page = draw(st.sampled_from(PAGES))
    at = draw(st.integers(0, len(page)))
    return page[:at] + draw(st.binary(max_size=4) | JSON) + page[at + draw(st.integers(0, 12)) :]


@every
@settings(deadline=None, max_examples=50)
@given(bodies=st.lists(st.sampled_from(PAGES) | damaged() | JSON, min_size=1, max_size=3))
def test_no_body_makes_it_raise_anything_but_a_frame_error(case: str, bodies: list[bytes]) -> None:
    _, name, options, _, _ = CASES[case]
    feed, out = feed_of(name, options), Output()
    decode = feed.history_decoder(out.scope("f", 0))  # type: ignore[attr-defined]
    request = request_of(feed, name, options)
    pages = feed.history(request)  # type: ignore[attr-defined]
    next(pages)
    for body in bodies:
        before = out.counts()
        try:
            decode(request, body, BASE)
        except FrameError:
            assert out.counts() == before
        try:
            pages.send(HttpResponse(200, {}, body))
        except StopIteration:
            break


def _next(pages: Any, body: bytes) -> HttpRequest | None:
    try:
        asked: HttpRequest = pages.send(HttpResponse(200, {}, body))
    except StopIteration:
        return None
    return asked


@every
def test_a_page_that_repeats_itself_ends_the_search(case: str) -> None:
    exchange = Exchange(case)
    feed = make(FeedSpec(name="f", provider=exchange.provider, options=exchange.options, channels=("trades",)), KEYS)
    for page in PAGES[:7]:
        # As often as makes a full page; its own copies of one trade, and of Alpaca its own token.
        body = re.sub(rb"\[(\{.*?\}|\[\".*?\])\]", lambda m: b"[" + b",".join([m[1]] * 1000) + b"]", page, count=1)
        body = body.replace(b'"next_page_token":null', b'"next_page_token":"x"')
        assert len(body) > 30_000 or b"EGeneral" in body
        for ids in ((None, None), (1, 10**6)):
            pages = feed.history(HistoryRequest(exchange.symbol, "trades", 0, BASE, *ids))  # type: ignore[attr-defined]
            next(pages)
            asked = 1
            while _next(pages, body) is not None:
                asked += 1
                assert asked < 5, body[:200]
