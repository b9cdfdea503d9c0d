"""Kraken: what its frames become, and how its connection is subscribed and given up."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from decoding import FRAME_END, Recorded, facts, received, same_facts
from hypothesis import given
from hypothesis import strategies as st

from recorder.feeds import make
from recorder.feeds.kraken import PING, RATE_HOLD_NS, SUBSCRIBE_ITEMS_MAX
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import Fatal, FeedSpec, Notice, Ready, Reconnect, Send
from recorder.values.tables import BACKFILLED

TRADE = (
    b'{"channel":"trade","type":"update","data":[{"symbol":"MATIC/USD","side":"sell","price":0.5117,"qty":40.0,'
    b'"ord_type":"market","trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"}]}'
)
ROW = {
    "ts_event": 1_695_628_177_708_706_000,
    "ts_recv": FRAME_END,
    "symbol": "MATIC-USD",
    "trade_id": 4665906,
    "price": 0.5117,
    "size": 40.0,
    "side": "sell",
    "flags": 0,
}
V1_TRADES = (
    b'[993,[["354.04000000","0.28245396","1618678150.826417","s","m",""],'
    b'["353.81000000","1.71754604","1618678150.827816","b","m",""]],"trade","XMR/XBT"]'
)


def spec(*symbols: str, **fields: Any) -> FeedSpec:
    return FeedSpec(**{"name": "k", "provider": "kraken", "symbols": symbols, **fields})


def ack(symbol: str, channel: str = "trade", **fields: Any) -> bytes:
    result = {"channel": channel, "symbol": symbol, "snapshot": True}
    return json.dumps({"method": "subscribe", "result": result, "success": True, "req_id": 1, **fields}).encode()


def refusal(symbol: str, error: str) -> bytes:
    return json.dumps({"method": "subscribe", "success": False, "symbol": symbol, "error": error}).encode()


def test_a_trade_is_a_row_with_the_takers_side() -> None:
    assert Recorded("kraken").decode(TRADE).rows("trades") == [ROW]
    bought = Recorded("kraken").decode(TRADE.replace(b'"sell"', b'"buy"')).rows("trades")
    assert bought == [{**ROW, "side": "buy"}]


def test_a_snapshot_is_stored_as_backfilled() -> None:
    rows = Recorded("kraken").decode(TRADE.replace(b"update", b"snapshot")).rows("trades")
    assert rows == [{**ROW, "flags": BACKFILLED}]


@given(st.floats(min_value=1e-9, max_value=1e15) | st.decimals(min_value="0.00000001", max_value="1e12", places=10))
def test_number_prices_are_the_nearest_floats(price: Any) -> None:
    text = repr(price) if isinstance(price, float) else format(price, "f")
    [row] = Recorded("kraken").decode(TRADE.replace(b"0.5117", text.encode())).rows("trades")
    assert row["price"] == float(text)


def test_documented_frames_become_the_rows_they_say(shared_data: Path) -> None:
    folder = shared_data / "nautilus" / "kraken"
    feed = Recorded("kraken")
    for name in ("trade_update", "ticker_snapshot", "ohlc_update", "book_update", "pong", "subscribe_response"):
        feed.decode((folder / f"ws_{name}.json").read_bytes())
    assert [(r["trade_id"], r["price"], r["size"], r["side"], r["ts_event"]) for r in feed.rows("trades")] == [
        (10218208, 105944.2, 0.00027625, "buy", 1_696_613_755_440_295_000),
        (10218209, 105910.5, 0.0001246, "sell", 1_696_613_756_123_456_000),
    ]
    assert feed.rows("quotes") == [
        {
            "ts_event": 1_671_960_659_123_456_000, "ts_recv": FRAME_END, "symbol": "BTC-USD", "bid": 105944.2,
            "bid_size": 2.5, "ask": 105944.3, "ask_size": 3.2, "flags": BACKFILLED,
        }
    ]  # fmt: skip
    assert feed.rows("bars") == [
        {
            "ts_event": 1_696_436_700 * 10**9, "ts_recv": FRAME_END, "symbol": "BTC-USD", "timeframe": "1m",
            "open": 106038.2, "high": 106044.3, "low": 106038.1, "close": 106040.1, "volume": 30927.68066226,
            "vwap": 106039.6, "trade_count": 12, "flags": 0,
        }
    ]  # fmt: skip
    assert feed.unknown == {}


def test_a_ticker_without_a_time_takes_the_receive_time() -> None:
    item = b'{"symbol":"BTC/USD","bid":99.9,"bid_qty":1.2,"ask":0,"ask_qty":0}'
    frame = b'{"channel":"ticker","type":"update","data":[%s]}' % item
    assert Recorded("kraken").decode(frame).rows("quotes") == [
        {"ts_event": FRAME_END, "ts_recv": FRAME_END, "symbol": "BTC-USD", "bid": 99.9, "bid_size": 1.2, "flags": 0}
    ]


def test_one_bad_trade_is_rejected_and_its_neighbours_are_stored() -> None:
    good = json.loads(TRADE)["data"][0]
    bad = [
        {**good, "price": "0x10"},
        {**good, "price": -1},
        {**good, "qty": None},
        {**good, "timestamp": "0001-01-01T00:00:00Z"},
        {**good, "symbol": "MATIC"},
        {**good, "trade_id": 1 << 63},
        5,
    ]
    whole = {"channel": "trade", "type": "update", "data": [good, *bad, {**good, "trade_id": 4665907}]}
    feed = Recorded("kraken").decode(json.dumps(whole).encode())
    assert feed.rows("trades") == [ROW, {**ROW, "trade_id": 4665907}]
    reasons = [row["reason"] for row in feed.rows("rejected")]
    assert len(reasons) == len(bad)
    for words in ("price -1.0", "0001", "MATIC", "trade_id", "qty"):
        assert any(words in reason for reason in reasons), words


def test_an_unknown_field_or_message_is_counted_and_no_row_is_lost() -> None:
    feed = Recorded("kraken")
    new = TRADE.replace(b'"qty"', b'"liquidity":"maker","qty"')
    for payload in (new, new, b'{"channel":"executions","data":[]}', b'{"channel":"heartbeat"}', TRADE):
        feed.decode(payload)
    assert feed.unknown == {"field trade.data.liquidity": 1, "message executions": 1}
    assert feed.rows("trades") == [ROW, ROW, ROW]


def test_version_1_trades_get_ids_that_a_replay_repeats() -> None:
    feed = Recorded("kraken", api="v1").decode(V1_TRADES).decode(V1_TRADES)
    first, second, *again = feed.rows("trades")
    assert [first, second] == again
    assert first["trade_id"] != second["trade_id"]
    assert {k: v for k, v in first.items() if k != "trade_id"} == {
        "ts_event": 1_618_678_150_826_417_000, "ts_recv": FRAME_END, "symbol": "XMR-BTC", "price": 354.04,
        "size": 0.28245396, "side": "sell", "flags": 0,
    }  # fmt: skip
    assert second["side"] == "buy"


@pytest.mark.parametrize(
    ("frame", "row"),
    [
        (
            b'[325,["43770.20000","43770.30000","1633053779.916349","0.00917717","0.31670440"],"spread","XBT/USD"]',
            {"ts_event": 1_633_053_779_916_349_000, "bid": 43770.2, "bid_size": 0.00917717, "ask": 43770.3,
             "ask_size": 0.3167044},
        ),
        (
            b'[325,["43770.20000","43770.30000","1633053779.916349"],"spread","XBT/USD"]',
            {"ts_event": 1_633_053_779_916_349_000, "bid": 43770.2, "ask": 43770.3},
        ),
        (
            b'[3,{"a":["13.253900",35,"35.72892241"],"b":["13.232900",185,"185.18432037"],"c":["13.2539","3.71"]},'
            b'"ticker","XBT/USD"]',
            {"ts_event": FRAME_END, "bid": 13.2329, "bid_size": 185.18432037, "ask": 13.2539, "ask_size": 35.72892241},
        ),
        (b'[3,["0.00000","0.00000","0.000000","0.00000000","0.00000000"],"spread","XBT/USD"]', None),
    ],
)  # fmt: skip
def test_best_prices_of_version_1_are_quotes(frame: bytes, row: dict[str, Any] | None) -> None:
    feed = Recorded("kraken", api="v1").decode(frame)
    common = {"ts_recv": FRAME_END, "symbol": "BTC-USD", "flags": 0}
    assert feed.rows("quotes") == ([] if row is None else [{**common, **row}])
    assert feed.unknown == {}


@pytest.mark.parametrize("item", [b'["x","1","1633053779.9"]', b"{}", b"5", b'{"a":[],"b":[]}', b'["-1","1","1.5"]'])
@pytest.mark.parametrize("name", [b"spread", b"ticker"])
def test_best_prices_of_version_1_that_cannot_be_are_refused(item: bytes, name: bytes) -> None:
    with pytest.raises(FrameError):
        Recorded("kraken", api="v1").decode(b'[3,%s,"%s","XBT/USD"]' % (item, name))


def test_equal_version_1_trades_of_one_frame_stay_two() -> None:
    item = b'["354.04000000","0.28245396","1618678150.826417","s","m",""]'
    rows = Recorded("kraken", api="v1").decode(b'[993,[%s,%s],"trade","XMR/USD"]' % (item, item)).rows("trades")
    assert len({row["trade_id"] for row in rows}) == 2


def test_one_bad_version_1_trade_is_rejected_and_its_neighbours_are_stored() -> None:
    good = ["354.04", "0.28", "1618678150.826417", "s", "m", ""]
    bad = [["1_0", *good[1:]], [*good[:2], "soon", "s"], [*good[:3], "x"], [1, 2, 3, 4], [], None, ["-1", *good[1:]]]
    frame = json.dumps([993, [good, *bad, good], "trade", "XMR/USD"]).encode()
    feed = Recorded("kraken", api="v1").decode(frame)
    assert len(feed.rows("trades")) == 2
    assert len(feed.rows("rejected")) == len(bad)


def test_other_version_1_messages_are_known_or_counted() -> None:
    feed = Recorded("kraken", api="v1")
    for payload in (
        b'{"event":"heartbeat"}',
        b'{"channelID":1665,"channelName":"trade","event":"subscriptionStatus","pair":"WAVES/EUR","status":"subscribed"}',
        b'[923,{"as":[["0.102987","3.00000000","1561939199.992830"]],"bs":[]},null,"book-1000","ADA/CAD"]',
        b'[325,["43770.20000","43770.30000","1633053779.916349","0.00917717","0.31670440"],"spread","XBT/USD"]',
        b'[42,{},"liquidations","XBT/USD"]',
        b'{"event":"surprise"}',
    ):
        feed.decode(payload)
    assert feed.unknown == {"message liquidations": 1, "message event surprise": 1}
    for payload in (b"[]", b"[1,2,3,4]", b'[1,5,"trade","XBT/USD"]', b'[1,[],"trade","nonsense"]', b"[1,"):
        with pytest.raises(FrameError):
            feed.decode(payload)


@pytest.mark.parametrize("number", [48, 49, 50])
def test_the_recordings_replay_with_the_counted_facts(shared_data: Path, number: int) -> None:
    name = f"cryptofeed/KRAKEN/2021-04-17_KRAKEN.ws.{number}.0.gz"
    expected = json.loads((shared_data / "expected.json").read_bytes())["files"][name]
    feed = Recorded("kraken", (), api="v1")
    for ts_recv, payload in received(shared_data / name):
        feed.decode(payload, ts_recv)
    live: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in feed.rows("trades"):
        live[row["symbol"]].append(row)
    counted = expected.get("trades_by_symbol", {})
    assert sum(map(len, live.values())) == sum(entry["n"] for entry in counted.values())
    for pair, entry in counted.items():
        same_facts(facts(live[pair.replace("/", "-")]), entry)
    assert len(feed.rows("quotes")) == expected["messages_by_type"].get("ticker", 0)
    assert feed.rows("rejected") == []
    assert feed.unknown == {}


def test_what_another_project_maps_comes_out_the_same(shared_data: Path) -> None:
    seen = 0
    for line in gzip.decompress((shared_data / "tardis-node" / "mapper_cases.jsonl.gz").read_bytes()).splitlines():
        case = json.loads(line)
        if case["exchange"] != "kraken":
            continue
        feed = Recorded("kraken", ()).decode(json.dumps(case["message"]).encode())
        found = [row for row in feed.rows("trades") if not row["flags"]]  # they leave snapshots out
        if isinstance(case["message"], dict):
            found += feed.rows("quotes")
            expected = [row for row in case["expected"] if row["type"] in ("trade", "book_ticker")]
        else:
            expected = [row for row in case["expected"] if row["type"] == "trade"]
        assert len(found) == len(expected), case["message"]
        for row, other in zip(found, expected, strict=True):
            seen += 1
            assert row["symbol"] == other["symbol"].replace("/", "-").replace("XBT", "BTC")
            pairs = {"price": "price", "amount": "size", "side": "side", "bidPrice": "bid", "askPrice": "ask"}
            pairs |= {"bidAmount": "bid_size", "askAmount": "ask_size"}
            for theirs, ours in pairs.items():
                assert row.get(ours) == other.get(theirs), theirs
    assert seen == 5


# The connection


def test_opening_subscribes_in_chunks_and_asks_for_every_change_of_the_best_prices() -> None:
    symbols = [f"C{i}-USD" for i in range(SUBSCRIBE_ITEMS_MAX + 1)]
    feed = make(spec(*symbols, channels=("trades", "quotes", "bars"), options={"timeframe": "1h"}))
    sent = [json.loads(command.payload)["params"] for command in feed.on_open() if isinstance(command, Send)]
    assert [(p["channel"], len(p["symbol"])) for p in sent] == [
        (name, count) for name in ("trade", "ticker", "ohlc") for count in (SUBSCRIBE_ITEMS_MAX, 1)
    ]
    assert sent[2]["event_trigger"] == "bbo"
    assert sent[4]["interval"] == 60
    assert feed.endpoint().app_ping == PING


def test_every_spelling_of_a_pair_is_taken() -> None:
    [sent] = make(spec("XBT/USD", "BTC-USD", "eth_eur", "AAPLx/USD", "XDG-USD", channels=("trades",))).on_open()
    assert isinstance(sent, Send)
    assert json.loads(sent.payload)["params"]["symbol"] == ["BTC/USD", "ETH/EUR", "AAPLx/USD", "DOGE/USD"]
    with pytest.raises(SymbolError, match="BTC-USD"):
        make(spec("XXBTZUSD"))


def test_ready_when_every_pair_of_every_channel_is_acknowledged() -> None:
    feed = make(spec("BTC-USD", "ETH-USD"))
    feed.on_open()
    for payload in (ack("BTC/USD"), ack("ETH/USD"), ack("BTC/USD", "ticker")):
        assert feed.on_control(payload) == []
    assert feed.on_control(ack("ETH/USD", "ticker")) == [Ready(("BTC-USD", "ETH-USD"))]
    assert feed.on_control(ack("ETH/USD", "ticker")) == []


def test_a_refused_pair_is_named_once_and_the_others_go_on() -> None:
    feed = make(spec("BTC-USD", "FOO-USD"))
    feed.on_open()
    [notice] = feed.on_control(refusal("FOO/USD", "Currency pair not supported FOO/USD"))
    assert isinstance(notice, Notice)
    assert notice.fields["symbol"] == "FOO-USD"
    assert feed.on_control(refusal("FOO/USD", "Currency pair not supported FOO/USD")) == []
    feed.on_control(ack("BTC/USD"))
    assert feed.on_control(ack("BTC/USD", "ticker")) == [Ready(("BTC-USD",))]


def test_no_pair_left_is_fatal_and_already_subscribed_is_fine() -> None:
    feed = make(spec("FOO-USD", channels=("trades",)))
    feed.on_open()
    assert isinstance(feed.on_control(refusal("FOO/USD", "Currency pair not supported FOO/USD"))[-1], Fatal)
    result = {"channel": "trade", "symbol": "FOO/USD"}
    feed.on_open()
    answer = {"method": "subscribe", "success": False, "error": "Already subscribed", "result": result}
    assert feed.on_control(json.dumps(answer).encode()) == [Ready(("FOO-USD",))]


def test_a_message_rate_exceeded_reconnects_after_a_hold() -> None:
    feed = make(spec("BTC-USD"))
    feed.on_open()
    for payload in (b'{"Error":"Exceeded msg rate"}', refusal("BTC/USD", "Exceeded msg rate")):
        [command] = feed.on_control(payload)
        assert isinstance(command, Reconnect)
        assert command.hold_ns == RATE_HOLD_NS
    [busy] = feed.on_control(b'{"error":"EService:Unavailable"}')
    assert isinstance(busy, Reconnect)
    [other] = feed.on_control(b'{"error":"Malformed request"}')
    assert isinstance(other, Notice)


def test_maintenance_is_told_once_and_so_is_its_end() -> None:
    feed = make(spec("BTC-USD"))
    feed.on_open()

    def status(system: str) -> bytes:
        data = [{"system": system, "api_version": "v2", "version": "2.0.0", "connection_id": 1}]
        return json.dumps({"channel": "status", "type": "update", "data": data}).encode()

    assert feed.on_control(status("online")) == []
    assert feed.on_control(status("maintenance")) == [Notice("status.changed", {"system": "maintenance"})]
    assert feed.on_control(status("maintenance")) == []
    assert feed.on_control(status("online")) == [Notice("status.changed", {"system": "online"})]


def test_version_1_subscribes_in_its_own_words_and_declares_that_ids_say_nothing() -> None:
    feed = make(spec("BTC-USD", "ADA-BTC", options={"api": "v1"}))
    [sent] = feed.on_open()
    assert isinstance(sent, Send)
    assert json.loads(sent.payload) == {
        "event": "subscribe",
        "pair": ["XBT/USD", "ADA/XBT"],
        "subscription": {"name": "trade"},
    }
    assert feed.capability().trade_ids == "opaque"
    answer = '{"channelID":465,"channelName":"trade","event":"subscriptionStatus","pair":"%s","status":"%s",%s}'
    rest = '"subscription":{"name":"trade"}'
    assert feed.on_control((answer % ("XBT/USD", "subscribed", rest)).encode()) == []
    assert feed.on_control((answer % ("ADA/XBT", "subscribed", rest)).encode()) == [Ready(("BTC-USD", "ADA-BTC"))]


def test_wrong_configuration_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match="did you mean 1m"):
        make(spec("BTC-USD", options={"timeframe": "1min"}))
    with pytest.raises(ConfigError, match="known: v1, v2"):
        make(spec("BTC-USD", options={"api": "3"}))
