"""Bybit: what its frames become, how its connections are subscribed, and what its last trades repair."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import websockets
from decoding import FRAME_END, Recorded, facts, received, same_facts
from history_exchange import get
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core.text_time import rfc3339_ns
from recorder.feeds import make
from recorder.feeds.bybit import PING, SUBSCRIBE_ITEMS_MAX
from recorder.feeds.bybit.history import PAGE, PAGE_OF_SPOT
from recorder.shell.simulator import Simulator
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import FeedSpec, HistoryRequest, HttpRequest, HttpResponse, Notice, Ready, Reconnect, Send
from recorder.values.symbols import bybit_canonical, bybit_name, hashed_id
from recorder.values.tables import BACKFILLED, NOT_LAST_ELIGIBLE

UUID = "20f43950-d8dd-5b31-9112-a178eb6023af"
TRADE = (  # as documented
    b'{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865,"s":"BTCUSDT",'
    b'"S":"Buy","v":"0.001","p":"16578.50","L":"PlusTick","i":"20f43950-d8dd-5b31-9112-a178eb6023af","BT":false,'
    b'"seq":1783284617}]}'
)
ROW = {
    "ts_event": 1_672_304_486_865_000_000, "ts_recv": FRAME_END, "symbol": "BTC-USDT", "trade_id": hashed_id(UUID),
    "trade_ref": UUID, "price": 16578.5, "size": 0.001, "side": "buy", "flags": 0,
}  # fmt: skip
KLINE = {
    "start": 1672324800000, "end": 1672325099999, "interval": "5", "open": "16649.5", "close": "16677",
    "high": "16677.5", "low": "16608", "volume": "2.081", "turnover": "34666.4005", "confirm": True,
    "timestamp": 1672324988882,
}  # fmt: skip
DEADLINE_S = 20
DAY_NS = 86_400 * 10**9


def spec(*symbols: str, **fields: Any) -> FeedSpec:
    return FeedSpec(**{"name": "b", "provider": "bybit", "symbols": symbols, "channels": ("trades",), **fields})


def book(type_: str, bids: list[Any], asks: list[Any], name: str = "BTCUSDT", u: int = 7) -> bytes:
    data = {"s": name, "b": bids, "a": asks, "u": u, "seq": 9}
    message = {"topic": f"orderbook.1.{name}", "type": type_, "ts": 1680673820717, "data": data}
    return json.dumps(message, separators=(",", ":")).encode()


def ack(number: int, success: bool = True, words: str = "") -> bytes:
    answer = {"success": success, "ret_msg": words, "conn_id": "c", "req_id": str(number), "op": "subscribe"}
    return json.dumps(answer).encode()


# Frames


def test_a_trade_is_a_row_with_the_takers_side_and_its_uuid() -> None:
    assert Recorded("bybit").decode(TRADE).rows("trades") == [ROW]
    sold = Recorded("bybit", market="linear").decode(TRADE.replace(b'"Buy"', b'"Sell"')).rows("trades")
    assert sold == [{**ROW, "symbol": "BTC-USDT-PERP", "side": "sell"}]


def test_on_spot_an_id_is_a_number() -> None:
    [row] = Recorded("bybit").decode(TRADE.replace(UUID.encode(), b"2290000000061666327")).rows("trades")
    assert row.get("trade_ref") in (None, "2290000000061666327")
    short = TRADE.replace(UUID.encode(), b"229000000006166632")
    [row] = Recorded("bybit").decode(short).rows("trades")
    assert row == {key: value for key, value in ROW.items() if key != "trade_ref"} | {"trade_id": 229000000006166632}


@pytest.mark.parametrize(
    ("fields", "conditions", "flags"),
    [(b'"BT":true', "block", NOT_LAST_ELIGIBLE), (b'"BT":false,"RPI":true', "rpi", 0)],
)
def test_a_price_agreed_outside_the_book_sets_no_price(fields: bytes, conditions: str, flags: int) -> None:
    [row] = Recorded("bybit").decode(TRADE.replace(b'"BT":false', fields)).rows("trades")
    assert row == ROW | {"conditions": conditions, "flags": flags}


LEVELS = st.tuples(st.integers(1, 4).map(float), st.integers(0, 3).map(float))


@settings(deadline=None)
@given(changes=st.lists(st.tuples(st.lists(LEVELS, max_size=2), st.lists(LEVELS, max_size=2)), max_size=12))
def test_changes_of_the_best_prices_are_added_up_also_across_a_restart(changes: list[Any]) -> None:
    def texts(levels: list[tuple[float, float]]) -> list[list[str]]:
        return [[str(price), str(size)] for price, size in levels]

    feed = Recorded("bybit").decode(book("snapshot", [["2", "1"]], [["3", "1"]]))
    expected = {"bid": (2.0, 1.0), "ask": (3.0, 1.0)}
    sides: list[dict[str, Any]] = [expected.copy()]
    for bids, asks in changes:
        for side, levels in (("bid", bids), ("ask", asks)):
            left = [level for level in levels if level[1]]
            gone = any(level == (expected[side][0], 0.0) for level in levels)
            expected[side] = left[-1] if left else (0.0, 0.0) if gone else expected[side]
        sides.append(expected.copy())
        feed._decode = feed.feed.decoder(feed.scope)  # as after a restart: what it knows is what was kept
        feed.decode(book("delta", texts(bids), texts(asks)))
    found = [
        {side: (row.get(side, 0.0), row.get(f"{side}_size", 0.0)) for side in ("bid", "ask")}
        for row in feed.rows("quotes")
    ]
    assert found == sides


def test_a_quote_has_the_time_of_the_matching_engine_where_it_is_sent() -> None:
    old = book("snapshot", [["2", "1"]], [])
    feed = Recorded("bybit").decode(old).decode(old.replace(b'"ts":', b'"cts":1680673820700,"ts":'))
    assert [row["ts_event"] for row in feed.rows("quotes")] == [1_680_673_820_717_000_000, 1_680_673_820_700_000_000]


def test_a_change_before_its_snapshot_is_refused() -> None:
    for payload in (
        book("delta", [["2", "1"]], []),
        b'{"topic":"tickers.BTCUSD","type":"delta","data":{"symbol":"BTCUSD","bid1Price":"2"},"cs":1,"ts":1680673820717}',
    ):
        with pytest.raises(FrameError, match="before its snapshot"):
            Recorded("bybit").decode(payload)


@pytest.mark.parametrize(("interval", "timeframe"), [("1", "1m"), ("240", "4h"), ("D", "1d")])
def test_only_a_confirmed_candle_is_a_bar(interval: str, timeframe: str) -> None:
    feed = Recorded("bybit", market="inverse")
    for confirm in (False, True):
        data = [{**KLINE, "confirm": confirm}]
        message = {"topic": f"kline.{interval}.BTCUSD", "data": data, "ts": 1672324988882, "type": "snapshot"}
        feed.decode(json.dumps(message).encode())
    assert feed.rows("bars") == [
        {
            "ts_event": 1_672_324_800_000_000_000, "ts_recv": FRAME_END, "symbol": "BTC-USD-PERP",
            "timeframe": timeframe, "open": 16649.5, "high": 16677.5, "low": 16608.0, "close": 16677.0,
            "volume": 2.081, "flags": 0,
        }
    ]  # fmt: skip


def test_one_bad_trade_is_rejected_and_its_neighbours_are_stored() -> None:
    message = json.loads(TRADE)
    good = message["data"][0]
    bad = [
        {**good, "p": "0x10"}, {**good, "p": "-1"}, {**good, "v": None}, {**good, "T": 0}, {**good, "s": "A.B"},
        {**good, "i": ""}, {**good, "S": "up"}, 5,
    ]  # fmt: skip
    feed = Recorded("bybit").decode(json.dumps({**message, "data": [good, *bad, {**good, "i": "7"}]}).encode())
    assert [row["trade_id"] for row in feed.rows("trades")] == [hashed_id(UUID), 7]
    assert len(feed.rows("rejected")) == len(bad)


def test_an_unknown_field_or_message_is_counted_and_no_row_is_lost() -> None:
    feed = Recorded("bybit")
    new = TRADE.replace(b'"S":', b'"new":1,"S":')
    for payload in (new, new, b'{"topic":"surprise.BTCUSDT","data":[]}', b'{"op":"surprise","success":true}', TRADE):
        feed.decode(payload)
    assert feed.unknown == {"field publicTrade.new": 1, "message surprise": 1, "message op surprise": 1}
    assert feed.rows("trades") == [ROW, ROW, ROW]


def test_answers_and_pongs_of_every_market_are_no_data_and_nonsense_is_refused() -> None:
    feed = Recorded("bybit")
    for payload in (
        b'{"success":true,"ret_msg":"pong","conn_id":"c","op":"ping"}', b'{"args":["1"],"op":"pong"}',
        b'{"success":true,"ret_msg":"","conn_id":"c","request":{"op":"subscribe","args":["trade.BTCUSD"]}}',
        b'{"topic":"allLiquidation.BTCUSDT","type":"snapshot","ts":1,"data":[]}',
        b'{"topic":"orderbook.50.BTCUSDT","type":"delta","ts":1,"data":{}}',
    ):  # fmt: skip
        feed.decode(payload)
    assert feed.unknown == {}
    for payload in (b"pong", b"{}", b'{"topic":"publicTrade.BTCUSDT"}', b'{"topic":"publicTrade.B","data":5}', b"["):
        with pytest.raises(FrameError):
            feed.decode(payload)


@pytest.mark.parametrize(
    ("name", "market", "quotes"),
    [
        ("2021-04-17_BYBIT.ws.25.0.gz", "linear", 0),  # before version 5: its trades are read
        ("2021-04-17_BYBIT.ws.26.0.gz", "inverse", 0),
        ("2025-06-13_BYBIT.ws.1.0.gz", "linear", 198),
        ("2025-06-13_BYBIT.ws.2.0.gz", "spot", 139),
    ],
)
def test_recordings_replay_with_the_counted_facts(shared_data: Path, name: str, market: Any, quotes: int) -> None:
    path = f"cryptofeed/BYBIT/{name}"
    expected = json.loads((shared_data / "expected.json").read_bytes())["files"][path]
    feed = Recorded("bybit", (), market=market)
    for ts_recv, payload in received(shared_data / path):
        feed.decode(payload, ts_recv)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in feed.rows("trades"):
        found[row["symbol"]].append(row)
    for instrument, entry in expected.get("trades_by_symbol", {}).items():
        same_facts(facts(found.pop(bybit_canonical(instrument, market))), entry)
    assert not found
    assert len(feed.rows("quotes")) == expected["messages_by_type"].get("orderbook_snapshot", 0) == quotes
    assert feed.rows("rejected") == []
    assert feed.unknown == {}


def test_messages_become_what_another_project_makes_of_them(shared_data: Path) -> None:
    """Cases of one name run in order, because changes lean on what came before."""
    lines = gzip.decompress((shared_data / "tardis-node/mapper_cases.jsonl.gz").read_bytes()).splitlines()
    cases = [case for case in map(json.loads, lines) if case["exchange"] == "bybit"]
    feed, trades, quotes = Recorded("bybit", (), market="linear"), 0, 0
    for case in cases:
        topic = case["message"].get("topic", "")
        if not topic.startswith(("trade.", "publicTrade.", "orderbook.1.")):
            continue
        feed.decode(json.dumps(case["message"]).encode())
        for row, other in zip(feed.rows("trades"), [e for e in case["expected"] if e["type"] == "trade"], strict=True):
            assert (row["trade_ref"], row["price"], row["size"]) == (other["id"], other["price"], other["amount"])
            assert (row["side"], row["ts_event"]) == (other["side"], rfc3339_ns(other["timestamp"]))
            trades += 1
        for row, other in zip(
            feed.rows("quotes"), [e for e in case["expected"] if e["type"] == "book_ticker"], strict=True
        ):
            prices = tuple(other[name] for name in ("bidPrice", "bidAmount", "askPrice", "askAmount"))
            assert tuple(row[name] for name in ("bid", "bid_size", "ask", "ask_size")) == prices
            assert row["ts_event"] == rfc3339_ns(other["timestamp"])
            quotes += 1
    assert (trades, quotes) == (9, 3)


def test_best_prices_in_tickers_change_by_what_is_sent(shared_data: Path) -> None:
    lines = gzip.decompress((shared_data / "tardis-node/mapper_cases.jsonl.gz").read_bytes()).splitlines()
    cases = [case["message"] for case in map(json.loads, lines) if case["exchange"] == "bybit"]
    feed = Recorded("bybit", (), market="inverse")
    for message in cases:
        if message.get("topic", "").startswith("tickers.BTCUSD"):
            feed.decode(json.dumps(message).encode())
    rows = [(row["symbol"], row["bid"], row["bid_size"], row["ask"]) for row in feed.rows("quotes")]
    assert rows[:2] == [("BTC-USD-PERP", 28560.0, 340549.0, 28560.5)] * 2
    less = {
        "topic": "tickers.BTCUSD",
        "type": "delta",
        "data": {"symbol": "BTCUSD", "ask1Price": ""},
        "ts": 1680673822777,
    }
    [row] = feed.decode(json.dumps(less).encode()).rows("quotes")
    assert (row["bid"], row.get("ask")) == (28560.0, None)


# The session


@pytest.mark.parametrize(
    ("symbol", "market", "name"),
    [
        ("btc-usdt", "spot", "BTCUSDT"), ("BTC/USDC", "spot", "BTCUSDC"), ("TUSDUSDT", "spot", "TUSDUSDT"),
        ("BTC-USDT-PERP", "linear", "BTCUSDT"), ("BTC-USDC-PERP", "linear", "BTCPERP"),
        ("1000PEPE-USDT-PERP", "linear", "1000PEPEUSDT"), ("BTC-26SEP25", "linear", "BTC-26SEP25"),
        ("BTC-USD-PERP", "inverse", "BTCUSD"), ("BTCUSDU23", "inverse", "BTCUSDU23"),
    ],
)  # fmt: skip
def test_names_are_mapped_both_ways(symbol: str, market: Any, name: str) -> None:
    assert bybit_name(symbol, market) == name
    assert bybit_name(bybit_canonical(name, market), market) == name


def test_wrong_settings_are_named() -> None:
    for wrong in ("", "BTC USDT", "A-" * 40, "BTC-USDT-PERP", "A.B"):
        with pytest.raises(SymbolError):
            make(spec(wrong))
    with pytest.raises(ConfigError, match="linear"):
        make(spec("BTC-USDT", options={"market": "linaer"}))
    with pytest.raises(ConfigError, match="statuses"):
        make(spec("BTC-USDT", channels=("statuses",)))


def test_each_market_has_an_address_of_its_own() -> None:
    for market in ("spot", "linear", "inverse"):
        feed = make(spec(options={"market": market}))
        assert feed.endpoint().url == f"wss://stream.bybit.com/v5/public/{market}"
        assert feed.endpoint().app_ping == PING
        own = make(spec(options={"market": market}, url="ws://127.0.0.1:20001/bybit")).endpoint().url
        assert own == f"ws://127.0.0.1:20001/bybit/v5/public/{market}"


def test_spot_takes_ten_topics_a_request_and_is_ready_when_all_are_acknowledged() -> None:
    feed = make(spec(*(f"A{i}-USDT" for i in range(6)), channels=("trades", "quotes")))
    sent = [json.loads(command.payload) for command in feed.on_open() if isinstance(command, Send)]
    assert [len(message["args"]) for message in sent] == [SUBSCRIBE_ITEMS_MAX["spot"], 2]
    assert sent[0]["args"][0] == "publicTrade.A0USDT"
    assert sent[1]["args"] == ["orderbook.1.A4USDT", "orderbook.1.A5USDT"]
    assert feed.on_control(ack(2)) == []
    assert feed.on_control(b'{"success":true,"ret_msg":"pong","conn_id":"c","op":"ping"}') == []
    assert feed.on_control(ack(1)) == [Ready(tuple(f"A{i}-USDT" for i in range(6)))]
    assert feed.subscriptions().acknowledged == feed.subscriptions().desired


def test_of_a_refused_request_the_wrong_topic_is_found_and_does_not_stop_the_others() -> None:
    feed = make(spec("BTC-USDT", "FOO-USDT"))
    feed.on_open()
    again = [json.loads(command.payload) for command in feed.on_control(ack(1, False, "error:handler not found"))]  # type: ignore[union-attr]
    assert [message["args"] for message in again] == [["publicTrade.BTCUSDT"], ["publicTrade.FOOUSDT"]]
    assert feed.on_control(ack(2)) == []
    notice, ready = feed.on_control(ack(3, False, "error:handler not found,topic:publicTrade.FOOUSDT"))
    assert isinstance(notice, Notice)
    assert notice.fields["symbol"] == "FOO-USDT"
    assert ready == Ready(("BTC-USDT",))
    assert feed.subscriptions().desired - feed.subscriptions().acknowledged == {("trades", "FOO-USDT")}


def test_what_refuses_everything_is_waited_for_and_what_is_subscribed_already_is_not_refused() -> None:
    feed = make(spec("FOO-USDT"))
    feed.on_open()
    notice, again = feed.on_control(ack(1, False, "error:handler not found"))
    assert isinstance(notice, Notice)
    assert isinstance(again, Reconnect)
    feed.on_open()
    assert feed.on_control(ack(1, False, "error:already subscribed,topic:publicTrade.FOOUSDT")) == [
        Ready(("FOO-USDT",))
    ]
    [notice] = feed.on_control(b'{"success":false,"ret_msg":"error:request format","op":""}')
    assert isinstance(notice, Notice)


def test_symbols_are_changed_and_asked_for_again_on_the_open_connection() -> None:
    feed = make(spec("BTC-USDT-PERP", "ETH-USDT-PERP", options={"market": "linear"}))
    feed.on_open()
    feed.on_control(ack(1))
    gone, fresh = (json.loads(command.payload) for command in feed.change(("ETH-USDT-PERP", "SOL-USDC-PERP")))  # type: ignore[union-attr]
    assert (gone["op"], gone["args"]) == ("unsubscribe", ["publicTrade.BTCUSDT"])
    assert (fresh["op"], fresh["args"]) == ("subscribe", ["publicTrade.SOLPERP"])
    assert feed.on_control(ack(int(fresh["req_id"]))) == [Ready(("ETH-USDT-PERP", "SOL-USDC-PERP"))]
    again = [json.loads(command.payload)["op"] for command in feed.resubscribe([("trades", "SOL-USDC-PERP")])]  # type: ignore[union-attr]
    assert again == ["unsubscribe", "subscribe"]


# Options

CONTRACT = "BTC-6JAN23-17500-C"
TICKER = {  # as documented
    "symbol": CONTRACT, "bidPrice": "0", "bidSize": "0", "bidIv": "0", "askPrice": "10", "askSize": "5.1",
    "askIv": "0.514", "lastPrice": "10", "highPrice24h": "25", "lowPrice24h": "5", "markPrice": "7.86976724",
    "indexPrice": "16823.73", "markPriceIv": "0.4896", "underlyingPrice": "16815.1", "openInterest": "49.85",
    "turnover24h": "446802.8473", "volume24h": "26.55", "totalVolume": "86", "totalTurnover": "1437431",
    "delta": "0.047831", "gamma": "0.00021453", "vega": "0.81351067", "theta": "-19.9115368",
    "predictedDeliveryPrice": "0", "change24h": "-0.33333334",
}  # fmt: skip
LEG = {
    "ts_event": 1_672_917_511_074_000_000, "ts_recv": FRAME_END, "symbol": CONTRACT, "underlying": "BTC",
    "expiration": 1_672_992_000 * 10**9, "strike": 17500.0, "option_type": "call", "ask": 10.0, "ask_size": 5.1,
    "last": 10.0, "volume": 26.55, "open_interest": 49.85, "iv": 0.4896, "delta": 0.047831, "gamma": 0.00021453,
    "theta": -19.9115368, "vega": 0.81351067, "greeks_source": "provider", "underlying_price": 16815.1, "age_ns": 0,
}  # fmt: skip


def option_ticker(**fields: Any) -> bytes:
    return json.dumps(
        {
            "id": f"tickers.{CONTRACT}-2480334983-1672917511074", "topic": f"tickers.{CONTRACT}", "ts": 1672917511074,
            "data": {**TICKER, **fields}, "type": "snapshot",
        },
        separators=(",", ":"),
    ).encode()  # fmt: skip


def test_the_ticker_of_an_option_is_a_leg_with_its_greeks() -> None:
    feed = Recorded("bybit", (), ("trades", "options"), market="option").decode(option_ticker())
    assert feed.rows("options_chain") == [LEG]
    assert feed.rows("quotes") == []
    put = {"symbol": "BTC-6JAN23-0.5-P-USDT", "lastPrice": "0", "bidPrice": "3", "bidSize": "2", "askPrice": ""}
    [row] = feed.decode(option_ticker(**put, delta="", underlyingPrice="")).rows("options_chain")
    gone = ("ask", "ask_size", "last", "delta", "underlying_price")
    changed = {"symbol": put["symbol"], "strike": 0.5, "option_type": "put", "bid": 3.0, "bid_size": 2.0}
    assert row == {key: value for key, value in LEG.items() if key not in gone} | changed
    assert feed.unknown == {}


@pytest.mark.parametrize("fields", [{"symbol": "BTCUSDT"}, {"askPrice": "-1"}, {"delta": "x"}, {"gamma": []}])
def test_a_ticker_of_an_option_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(FrameError):
        Recorded("bybit", (), ("trades", "options"), market="option").decode(option_ticker(**fields))


def test_trades_of_options_come_by_coin() -> None:
    item = {
        "p": "1085", "v": "0.5", "i": "ab3f9d5c", "T": 1672304486865, "BT": False, "s": CONTRACT, "S": "Sell",
        "mP": "1080.1", "iP": "16823.7", "mIv": "0.48", "iv": "0.49",
    }  # fmt: skip
    frame = {"topic": "publicTrade.BTC", "ts": 1672304486868, "type": "snapshot", "data": [item]}
    feed = Recorded("bybit", (), ("trades", "options"), market="option").decode(
        json.dumps(frame, separators=(",", ":")).encode()
    )
    changed = {"symbol": CONTRACT, "price": 1085.0, "size": 0.5, "side": "sell"}
    changed |= {"trade_id": hashed_id("ab3f9d5c"), "trade_ref": "ab3f9d5c"}
    assert feed.rows("trades") == [{**ROW, **changed}]
    assert feed.unknown == {}


def test_options_are_subscribed_to_by_contract_and_coin_and_answered_by_topic() -> None:
    names = (CONTRACT, "BTC-6JAN23-17500-P", "ETH-6JAN23-1000-P")
    feed = make(spec(*names, channels=("trades", "options"), options={"market": "option"}))
    [sent] = [json.loads(command.payload) for command in feed.on_open()]  # type: ignore[union-attr]
    assert sent["args"] == ["publicTrade.BTC", "publicTrade.ETH", *(f"tickers.{name}" for name in names)]
    subscriptions = feed.subscriptions()
    assert subscriptions.desired == subscriptions.requested == {(c, n) for c in ("trades", "options") for n in names}

    def answered(known: list[str], failed: list[str]) -> bytes:
        data = {"failTopics": failed, "successTopics": known}
        return json.dumps({"success": True, "conn_id": "c", "data": data, "type": "COMMAND_RESP"}).encode()

    assert feed.on_control(answered(sent["args"][:4], [])) == []
    notice, ready = feed.on_control(answered([], sent["args"][4:]))
    assert isinstance(notice, Notice)
    assert notice.fields["symbol"] == names[2]
    assert ready == Ready(names)
    assert feed.subscriptions().acknowledged == subscriptions.desired - {("options", names[2])}
    [gone] = [json.loads(command.payload) for command in feed.change(names[1:]) if isinstance(command, Send)]
    assert (gone["op"], gone["args"]) == ("unsubscribe", [f"tickers.{CONTRACT}"])
    assert feed.on_control(b'{"args":["1672916271846"],"op":"pong"}') == []
    for channel in ("quotes", "bars"):
        with pytest.raises(ConfigError):
            make(spec(CONTRACT, channels=(channel,), options={"market": "option"}))
    with pytest.raises(SymbolError):
        make(spec("BTC-USDT", options={"market": "option"}))


# History


def past(times: list[int]) -> bytes:
    items = [
        {"execId": str(i), "symbol": "BTCUSDT", "price": "1.5", "size": "2", "side": "Sell", "time": str(ms)}
        for i, ms in enumerate(times)
    ]
    return json.dumps({"retCode": 0, "retMsg": "OK", "result": {"category": "spot", "list": items}}).encode()


def test_the_same_trade_is_the_same_row_from_stream_and_history() -> None:
    body = json.loads(past([1672304486865]))
    body["result"]["list"][0] |= {"execId": UUID, "price": "16578.50", "size": "0.001", "side": "Buy"}
    feed = Recorded("bybit")
    request = HistoryRequest("BTC-USDT", "trades", 0, FRAME_END)
    feed.feed.history_decoder(feed.scope)(request, json.dumps(body).encode(), FRAME_END)  # type: ignore[attr-defined]
    assert feed.rows("trades") == [ROW | {"flags": BACKFILLED}]


@pytest.mark.parametrize(("market", "limit"), [("spot", PAGE_OF_SPOT), ("linear", PAGE)])
def test_a_page_that_does_not_reach_back_gives_what_it_has_and_is_not_the_last(market: str, limit: int) -> None:
    feed: Any = make(spec(options={"market": market}))
    symbol = "BTC-USDT" if market == "spot" else "BTC-USDT-PERP"
    request = HistoryRequest(symbol, "trades", 1_672_304_486 * 10**9, 1_672_304_500 * 10**9)
    for first, whole in ((1672304485999, True), (1672304486001, False)):
        pages = feed.history(request)
        assert f"category={market}&symbol=BTCUSDT&limit={limit}" in next(pages).url
        body = past([first + 5 * i for i in range(limit)][::-1])
        with pytest.raises(StopIteration if whole else FrameError):
            pages.send(HttpResponse(200, {}, body))
    recorded = Recorded("bybit", (), market=market)
    recorded.feed.history_decoder(recorded.scope)(request, body, FRAME_END)  # type: ignore[attr-defined]
    assert len(recorded.rows("trades")) == limit


@pytest.mark.parametrize(
    "body",
    [b'{"retCode":10006,"retMsg":"Too many visits!","result":{}}', b"[]", b'{"retCode":0,"result":{"list":5}}', b"{"],
)
def test_an_error_inside_http_200_is_an_error(body: bytes) -> None:
    feed = Recorded("bybit")
    request = HistoryRequest("BTC-USDT", "trades", 0, DAY_NS)
    with pytest.raises(FrameError):
        feed.feed.history_decoder(feed.scope)(request, body, FRAME_END)  # type: ignore[attr-defined]
    pages = feed.feed.history(request)  # type: ignore[attr-defined]
    next(pages)
    with pytest.raises(FrameError):
        pages.send(HttpResponse(200, {}, body))


def test_documented_bars_become_rows_and_their_pages_name_first_and_last() -> None:
    day = [["1670608800000", "17071", "17073", "17027", "17055.5", "268611", "15.74462667"],
           ["1670605200000", "17071.5", "17071.5", "17061", "17071", "4177", "0.24469757"]]  # fmt: skip
    body = {"retCode": 0, "retMsg": "OK", "result": {"symbol": "BTCUSD", "category": "inverse", "list": day}}
    feed = Recorded("bybit", (), market="inverse")
    request = HistoryRequest("BTC-USD-PERP", "bars", 1_670_605_200 * 10**9, FRAME_END, timeframe="1h")
    url = next(feed.feed.history(request)).url  # type: ignore[attr-defined]
    assert "/v5/market/kline?category=inverse&symbol=BTCUSD&interval=60&start=1670605200000&end=1674201600000" in url
    feed.feed.history_decoder(feed.scope)(request, json.dumps(body).encode(), FRAME_END)  # type: ignore[attr-defined]
    rows = [(r["ts_event"], r["open"], r["high"], r["low"], r["close"], r["volume"]) for r in feed.rows("bars")]
    assert rows == [
        (1_670_608_800 * 10**9, 17071.0, 17073.0, 17027.0, 17055.5, 268611.0),
        (1_670_605_200 * 10**9, 17071.5, 17071.5, 17061.0, 17071.0, 4177.0),
    ]


# The simulator


async def told(ws: Any, request: Any) -> Any:
    await ws.send(request if isinstance(request, str) else json.dumps(request))
    return json.loads(await ws.recv())


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"op": "subscribe", "req_id": "5", "args": ["publicTrade.FOOUSDT"]}, "handler not found"),
        ({"op": "subscribe", "args": ["noise.BTCUSDT"]}, "handler not found"),
        ({"op": "subscribe", "args": ["publicTrade.BTCUSDT"] * 11}, "args size >10"),
        ({"op": "noise", "args": []}, "not found"),
        ("{", "request format"),
    ],
)
def test_the_simulator_answers_with_errors_and_goes_on(request_: Any, words: str) -> None:
    async def body() -> None:
        async with (
            Simulator(["bybit"], total=0, symbols=["BTC-USDT"]) as sim,
            asyncio.timeout(DEADLINE_S),
            websockets.connect(f"{sim.url('bybit')}/v5/public/spot") as ws,
        ):
            answer = await told(ws, request_)
            assert answer["success"] is False
            assert words in answer["ret_msg"]
            assert (await told(ws, PING.decode()))["ret_msg"] == "pong"
            subscribe = {"op": "subscribe", "req_id": "6", "args": ["publicTrade.BTCUSDT"]}
            assert (await told(ws, subscribe))["success"] is True
            assert "already subscribed" in (await told(ws, subscribe))["ret_msg"]

    asyncio.run(body())


def test_every_minute_of_two_days_is_fetched_from_the_simulator_once() -> None:
    start, bars = 1_700_000_040 * 10**9, 2881

    async def body() -> None:
        async with Simulator(["bybit-inverse"], total=0, symbols=["BTC-USD-PERP"]) as sim, asyncio.timeout(DEADLINE_S):
            own = {"url": sim.url("bybit-inverse"), "rest_url": sim.rest_url("bybit-inverse")}
            feed: Any = make(spec("BTC-USD-PERP", options={"market": "inverse"}, **own))
            recorded = Recorded("bybit", (), market="inverse")
            end = start + (bars - 1) * 60 * 10**9
            request = HistoryRequest("BTC-USD-PERP", "bars", start, end, timeframe="1m")
            decode, asked = feed.history_decoder(recorded.scope), 0
            pages = feed.history(request)
            page = next(pages)
            with suppress(StopIteration):
                while True:
                    answer = await asyncio.to_thread(get, page)
                    decode(request, answer.body, FRAME_END)
                    asked += 1
                    page = pages.send(answer)
            times = [row["ts_event"] for row in recorded.rows("bars")]
            assert (asked, sorted(times)) == (3, [start + i * 60 * 10**9 for i in range(bars)])
            assert recorded.rows("rejected") == []
            for wrong in ("symbol=FOO&interval=1", "symbol=BTCUSD&interval=x", "symbol=BTCUSD&interval=1&limit=1001"):
                bad = HttpRequest(f"{own['rest_url']}/v5/market/kline?category=inverse&{wrong}")
                answer = await asyncio.to_thread(get, bad)
                assert (answer.status, json.loads(answer.body)["retCode"]) == (200, 10001)

    asyncio.run(body())


def test_the_simulator_cuts_who_does_not_ping_and_refuses_who_asks_too_fast() -> None:
    elapsed = [0]

    async def body() -> None:
        async with (
            Simulator(
                ["bybit-linear"], total=0, symbols=["BTC-USDT-PERP"], rules={"bybit-linear": {"requests": (3, 5)}},
                wall=lambda: 1_790_000_000 * 10**9 + elapsed[0],
            ) as sim,
            asyncio.timeout(DEADLINE_S),
            websockets.connect(f"{sim.url('bybit-linear')}/v5/public/linear") as ws,
        ):  # fmt: skip
            base = f"{sim.rest_url('bybit-linear')}/v5/market/recent-trade"
            asked = [f"{base}?category=linear&symbol={name}" for name in ("BTCUSDT", "FOOUSDT", "BTCUSDT&limit=1001")]
            answers = [await asyncio.to_thread(get, HttpRequest(url)) for url in [*asked, asked[0]]]
            assert [json.loads(a.body)["retCode"] for a in answers[:3]] == [0, 10001, 10001]
            assert [a.status for a in answers] == [200, 200, 200, 403]
            elapsed[0] = 601 * 10**9
            with pytest.raises(websockets.ConnectionClosed):
                await ws.recv()

    asyncio.run(body())
