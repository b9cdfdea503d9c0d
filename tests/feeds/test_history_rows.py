"""Pages of history become the rows that the stream would have given, whatever a provider sends as a page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from decoding import Recorded
from history_exchange import BASE, CASES, KEYS, Exchange
from hypothesis import given, settings
from hypothesis import strategies as st
from test_conformance import ANYTHING, feed_of, variants

from recorder.core.batch import Output
from recorder.feeds import make
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import Feed, FeedSpec, HistoryRequest, HttpRequest, HttpResponse
from recorder.values.tables import BACKFILLED, CORRECTED

every = pytest.mark.parametrize("case", list(CASES))

# The same trade as both interfaces write it: formats and digits of the documentation.
PAIRED: dict[str, tuple[bytes, bytes]] = {
    "coinbase-exchange": (
        b'{"type":"match","trade_id":10,"sequence":50,"maker_order_id":"a","taker_order_id":"b",'
        b'"time":"2014-11-07T08:19:27.028459Z","product_id":"BTC-USD","size":"5.23512","price":"400.23","side":"sell"}',
        b'[{"time":"2014-11-07T08:19:27.028459Z","trade_id":10,"price":"400.23000000","size":"5.23512000",'
        b'"side":"sell"}]',
    ),
    "coinbase-advanced": (
        b'{"channel":"market_trades","client_id":"","timestamp":"2026-04-07T14:30:02.789012Z","sequence_num":5,"events":'
        b'[{"type":"update","trades":[{"trade_id":"995098700","product_id":"BTC-USD","price":"68900.50",'
        b'"size":"0.00150000","side":"BUY","time":"2026-04-07T14:30:02.789012Z"}]}]}',
        b'{"trades":[{"trade_id":"995098700","product_id":"BTC-USD","price":"68900.5","size":"0.0015",'
        b'"time":"2026-04-07T14:30:02.789012Z","side":"BUY","bid":"","ask":"","exchange":"coinbase"}],"best_bid":"1",'
        b'"best_ask":"2"}',
    ),
    "binance-spot": (
        b'{"stream":"bnbbtc@trade","data":{"e":"trade","E":1672515782137,"s":"BNBBTC","t":12345,"p":"0.001",'
        b'"q":"100","T":1672515782136,"m":true,"M":true}}',
        b'[{"id":12345,"price":"0.00100000","qty":"100.00000000","quoteQty":"0.1","time":1672515782136,'
        b'"isBuyerMaker":true,"isBestMatch":true}]',
    ),
    "binance-usdm": (
        b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1672515782137,"a":12345,"s":"BTCUSDT","p":"16500.1",'
        b'"q":"100","f":100,"l":105,"T":1672515782136,"m":false}}',
        b'[{"a":12345,"p":"16500.10","q":"100","f":100,"l":105,"T":1672515782136,"m":false}]',
    ),
    "kraken": (  # the seventh digit is cut off, not rounded
        b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":0.5117,"qty":40.0,'
        b'"ord_type":"market","trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"}]}',
        b'{"error":[],"result":{"XXBTZUSD":[["0.51170","40.00000000",1695628177.7087069,"s","m","",4665906]],'
        b'"last":"1695628177708706912"}}',
    ),
    "okx": (
        b'{"arg":{"channel":"trades-all","instId":"BTC-USDT-SWAP"},"data":[{"instId":"BTC-USDT-SWAP",'
        b'"tradeId":"734864333","px":"102537.9","sz":"0.00013669","side":"sell","source":"0","ts":"1747087163557"}]}',
        b'{"code":"0","msg":"","data":[{"instId":"BTC-USDT-SWAP","side":"sell","sz":"0.00013669","px":"102537.9",'
        b'"tradeId":"734864333","ts":"1747087163557"}]}',
    ),
    "deribit": (
        b'{"jsonrpc":"2.0","method":"subscription","params":{"channel":"trades.BTC-PERPETUAL.100ms","data":[{"timestamp":'
        b'1766332040636,"price":2968.3,"amount":1.0,"direction":"sell","index_price":2967.73,"instrument_name":'
        b'"BTC-PERPETUAL","trade_seq":203024587,"mark_price":2968.01,"tick_direction":0,"contracts":1.0,"liquidation":'
        b'"T","trade_id":"ETH-284830839"}]}}',
        b'{"jsonrpc":"2.0","result":{"has_more":true,"trades":[{"amount":1.0,"contracts":1.0,"direction":"sell",'
        b'"index_price":2967.73,"instrument_name":"BTC-PERPETUAL","mark_price":2968.01,"price":2968.3,"liquidation":"T",'
        b'"tick_direction":0,"timestamp":1766332040636,"trade_id":"ETH-284830839","trade_seq":203024587}]}}',
    ),
    "alpaca-stocks": (
        b'[{"T":"t","S":"AAPL","i":96921,"x":"D","p":126.55,"s":1,"t":"2021-02-22T15:51:44.20800001Z","c":["@","I"],'
        b'"z":"C"}]',
        b'{"trades":{"AAPL":[{"t":"2021-02-22T15:51:44.208000010Z","x":"D","p":126.55,"s":1,"c":["@","I"],"i":96921,'
        b'"z":"C"}]},"next_page_token":null}',
    ),
    "alpaca-crypto": (
        b'[{"T":"t","S":"BTC/USD","p":47.299,"s":29.205707815,"t":"2024-03-12T10:27:48.858228144Z",'
        b'"i":3447222699101865076,"tks":"S"}]',
        b'{"trades":{"BTC/USD":[{"t":"2024-03-12T10:27:48.858228144Z","p":47.299,"s":29.205707815,"tks":"S",'
        b'"i":3447222699101865076}]},"next_page_token":null}',
    ),
    "polygon-stocks": (
        b'[{"ev":"T","sym":"AAPL","i":"40161","x":4,"p":225.63,"s":0,"c":[37],"t":1786649956459,"pt":1786649956458,'
        b'"q":9059424,"z":3,"trfi":202,"trft":1786649956459,"ds":"0.740474"}]',
        b'{"results":[{"conditions":[37],"exchange":4,"id":"40161","participant_timestamp":1786649956458123456,"price":'
        b'225.63,"sequence_number":9059424,"sip_timestamp":1786649956459987654,"size":0,"decimal_size":"0.740474",'
        b'"tape":3,"trf_id":202,"trf_timestamp":1786649956459000001}],"status":"OK"}',
    ),
    "polygon-options": (
        b'[{"ev":"T","sym":"O:AAPL251219C00150000","x":65,"p":1.54,"s":1,"c":[233],"t":1629820676333,"q":651921857}]',
        b'{"results":[{"conditions":[233],"exchange":65,"participant_timestamp":1629820676332000001,"price":1.54,'
        b'"sequence_number":651921857,"sip_timestamp":1629820676333999999,"size":1,"id":"17"}],"status":"DELAYED"}',
    ),
    "polygon-crypto": (
        b'[{"ev":"XT","pair":"BTC-USD","p":43575.6,"t":1706649628023,"s":4.522e-05,"c":[2],"i":'
        b'"1b254a48-7258-4465-8215-2610ccf9ab21","x":23,"r":1706649628068}]',
        b'{"results":[{"conditions":[2],"exchange":23,"id":"1b254a48-7258-4465-8215-2610ccf9ab21",'
        b'"participant_timestamp":1706649628023000000,"price":43575.6,"size":4.522e-05}],"status":"OK"}',
    ),
}


def decoded(case: str, body: bytes, symbol: str | None = None) -> tuple[list[dict[str, Any]], Recorded]:
    _, provider, options, own, _ = CASES[case]
    recorded = Recorded(provider, (symbol or own,), **options)
    request = HistoryRequest(symbol or own, "trades", 0, BASE + 10**15)
    recorded.feed.history_decoder(recorded.scope)(request, body, BASE)  # type: ignore[attr-defined]
    return recorded.rows("trades"), recorded


@pytest.mark.parametrize("case", list(PAIRED))
def test_the_same_trade_is_the_same_row_from_stream_and_history(case: str) -> None:
    frame, body = PAIRED[case]
    symbol = "BNB-BTC" if case == "binance-spot" else None
    [past], recorded = decoded(case, body, symbol)
    [live] = recorded.decode(frame, BASE).rows("trades")
    assert past == {**live, "flags": live.get("flags", 0) | BACKFILLED}


def test_recorded_answers_of_providers_are_read(shared_data: Path) -> None:
    rows, _ = decoded("coinbase-advanced", (shared_data / "nautilus/coinbase/http_ticker.json").read_bytes())
    # The newest trade names SELL at the price that is the best offer: a resting order's side, so a buyer's trade.
    assert [(row["trade_id"], row["side"], row["ts_event"]) for row in rows] == [
        (995098663, "buy", 1775521738_544778_000),
        (995098662, "buy", 1775521738_250358_000),
        (995098661, "sell", 1775521737_296283_000),
    ]
    rows, _ = decoded("kraken", (shared_data / "nautilus/kraken/http_trades.json").read_bytes(), "BTC-USDT")
    first = {"ts_event": 1762795433_971744_000, "trade_id": 10218208, "price": 105433.6, "size": 0.00027625}
    assert first.items() <= rows[0].items()
    assert rows[0]["side"] == "buy"
    rows, _ = decoded("okx", (shared_data / "nautilus/okx/http_get_trades.json").read_bytes(), "BTC-USDT")
    assert [(r["trade_id"], r["side"], r["price"], r["size"], r["ts_event"]) for r in rows] == [
        (734864333, "sell", 102537.9, 0.00013669, 1747087163557_000_000),
        (734864332, "buy", 102537.9, 0.0000125, 1747087161666_000_000),
    ]
    rows, _ = decoded("deribit", (shared_data / "nautilus/deribit/http_get_last_trades.json").read_bytes())
    first = {"ts_event": 1766332040_636_000_000, "trade_id": 203024587, "trade_ref": "ETH-284830839", "side": "sell"}
    assert first.items() <= rows[0].items()
    lines = (shared_data / "alpaca/alpaca_trade_api_go_rest_fixtures.jsonl").read_text().splitlines()
    page = next(json.loads(line)["response"] for line in lines if '"TestGetTrades"' in line)
    rows, _ = decoded("alpaca-stocks", json.dumps(page).encode())
    assert [(row["ts_event"], row["exchange"], row["trade_id"]) for row in rows] == [(1634112000_089607_680, "P", 1)]


@pytest.mark.parametrize("name", ["future_combo", "historical_combo", "option_combo", "perpetual_with_combo_tags"])
def test_trades_of_deribits_combos_and_of_their_legs_are_read(shared_data: Path, name: str) -> None:
    body = (shared_data / f"nautilus/deribit/http_get_last_trades_{name}.json").read_bytes()
    rows, recorded = decoded("deribit", body)
    expected = [
        {
            "trade_id": t["trade_seq"], "trade_ref": t["trade_id"], "ts_event": t["timestamp"] * 10**6,
            "price": t["price"], "size": t["amount"], "side": t["direction"],
        }
        for t in json.loads(body)["result"]["trades"]
    ]  # fmt: skip
    assert [{name: row[name] for name in expected[0]} for row in rows] == expected
    tagged = ["combo" if "combo_id" in t else None for t in json.loads(body)["result"]["trades"]]
    assert [row.get("conditions") for row in rows] == tagged
    assert recorded.rows("rejected") == []


def test_recorded_trades_of_binance_are_read(shared_data: Path) -> None:
    body = (shared_data / "nautilus/binance/spot/http_json/trades_response.json").read_bytes()
    [row] = decoded("binance-spot", body, "BNB-BTC")[0]
    assert (row["trade_id"], row["price"], row["size"], row["side"]) == (28457, 4.000001, 12.0, "sell")
    assert row["ts_event"] == 1499865549590 * 10**6


def test_withdrawn_trades_of_alpaca_are_left_out_and_replacements_are_flagged() -> None:
    items = [
        {"t": f"2026-01-01T00:00:0{i}Z", "x": "V", "p": 1.5, "s": 2, "c": ["@"], "i": i, "z": "C", **more}
        for i, more in enumerate([{}, {"u": "canceled"}, {"u": "incorrect"}, {"u": "corrected"}])
    ]
    rows, _ = decoded("alpaca-stocks", json.dumps({"trades": {"AAPL": items}, "next_page_token": None}).encode())
    assert [(row["trade_id"], row["flags"]) for row in rows] == [(0, BACKFILLED), (3, BACKFILLED | CORRECTED)]


def test_one_bad_trade_does_not_cost_the_page() -> None:
    good, bad = PAGES[0][1:-1], b'{"trade_id":"x"}'
    rows, recorded = decoded("coinbase-exchange", b"[" + good + b"," + bad + b"]")
    assert [row["trade_id"] for row in rows] == [7]
    [rejected] = recorded.rows("rejected")
    assert rejected["excerpt"].replace("\\", "") == bad.decode()


# Every feed


def remembering() -> list[tuple[str, dict[str, str]]]:
    return [(name, o) for name, o in variants() if feed_of(name, o).capability().history_channels]


feeds = pytest.mark.parametrize(
    ("name", "options"), remembering(), ids=lambda v: v if isinstance(v, str) else "-".join(v.values())
)


def request_of(feed: Feed, name: str, options: dict[str, str]) -> HistoryRequest:
    symbol = "AAPL" if name == "alpaca" and options.get("feed") != "crypto" else "BTC-USD"
    if (name, options.get("cluster") or options.get("feed")) in (("polygon", "options"), ("alpaca", "opra")):
        symbol = "AAPL  251219C00150000"
    if name == "bybit" and options.get("market") == "option":
        symbol = "BTC-26SEP25-90000-C"
    if name == "binance":
        symbol = {"usdm": "BTC-USDT-PERP", "coinm": "BTC-USD-PERP"}.get(options.get("market", ""), "BTC-USDT")
    channel = feed.capability().history_channels[0]
    if channel == "bars":
        return HistoryRequest(symbol, channel, BASE, BASE + 3600 * 10**9, timeframe="1m")
    return HistoryRequest(symbol, channel, BASE, BASE + 10**9, 5, 9)


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
        feed.history(HistoryRequest("no symbol at all!", request.channel, 0, 1, timeframe="1m"))  # type: ignore[attr-defined]


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
    b'{"code":"0","msg":"","data":[{"instId":"BTC-USDT","side":"buy","sz":"2","px":"1.5","tradeId":"7","ts":'
    b'"1767225600000"}]}', b'{"code":"51001","msg":"Instrument ID does not exist","data":[]}',
    b'{"trades":{"AAPL":null},"next_page_token":"x"}', b'{"trades":null,"next_page_token":null}',
    b'{"jsonrpc":"2.0","error":{"code":10028,"message":"too_many_requests"}}',
    b'{"jsonrpc":"2.0","result":{"trades":[{"timestamp":1767225600000,"price":1.5,"amount":2,"direction":"buy",'
    b'"instrument_name":"BTC-PERPETUAL","trade_seq":7,"trade_id":"7"}],"has_more":true}}',
    b'{"results":[{"price":1.5,"size":2,"exchange":4,"id":"7","sip_timestamp":1767225600000000000,"sequence_number":7,'
    b'"tape":3}],"status":"OK","next_url":"https://api.massive.com/v3/trades/X?cursor=x"}',
    b'{"status":"NOT_AUTHORIZED","request_id":"a","message":"You are not entitled to this data."}',
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
        except (StopIteration, FrameError):
            break


def _next(pages: Any, body: bytes) -> HttpRequest | None:
    try:
        asked: HttpRequest = pages.send(HttpResponse(200, {}, body))
    except (StopIteration, FrameError):
        return None
    return asked


@every
def test_a_page_that_repeats_itself_ends_the_search(case: str) -> None:
    exchange = Exchange(case)
    feed = make(FeedSpec(name="f", provider=exchange.provider, options=exchange.options, channels=("trades",)), KEYS)
    for page in (*PAGES[:7], PAGES[12], PAGES[13]):
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
