"""Coinbase: what its frames become, and how its connection is subscribed and given up."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from decoding import FRAME_END, Recorded, facts, received, same_facts
from hypothesis import given
from hypothesis import strategies as st

from recorder.core.frames import SOURCE, TEXT, frames_from_list
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.feeds.coinbase import RATE_HOLD_NS, SUBSCRIBE_ITEMS_MAX
from recorder.values.config import KernelsConfig
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import Fatal, FeedSpec, Notice, Ready, Reconnect, Send
from recorder.values.schema import LONG_NULL
from recorder.values.symbols import hashed_id
from recorder.values.tables import BACKFILLED, GAP_TRADE_ID

MATCH = (
    b'{"type":"match","trade_id":10,"sequence":50,"maker_order_id":"27fff20b-af29-4f45-8744-56dd1ef57dc0",'
    b'"taker_order_id":"1da6ce16-c8da-4732-9f71-6049f4c6aaf8","time":"2014-11-07T08:19:27.028459Z",'
    b'"product_id":"BTC-USD","size":"5.23512","price":"400.23","side":"sell"}'
)
TICKER = (
    b'{"type":"ticker","sequence":50978628538,"product_id":"BTC-USD","price":"17165.16","open_24h":"16437.94",'
    b'"volume_24h":"42492.05081975","low_24h":"16423.37","high_24h":"17259.37","volume_30d":"1093827.95195495",'
    b'"best_bid":"17165.15","best_bid_size":"0.61540890","best_ask":"17167.76","best_ask_size":"0.18528568",'
    b'"side":"sell","time":"2022-12-01T00:00:00.122581Z","trade_id":463751434,"last_size":"0.05"}'
)
HEARTBEAT = (
    b'{"type":"heartbeat","last_trade_id":%d,"product_id":"BTC-USD","sequence":29716844241,'
    b'"time":"2022-05-20T21:22:34.751219Z"}'
)
TRADES = (
    b'{"channel":"market_trades","client_id":"","timestamp":"2026-04-07T14:30:02.789012Z","sequence_num":5,"events":'
    b'[{"type":"update","trades":[{"trade_id":"995098700","product_id":"BTC-USD","price":"68900.50",'
    b'"size":"0.00150000","side":"BUY","time":"2026-04-07T14:30:02.789012Z"}]}]}'
)
GO_HEARTBEAT = (
    b'{"channel":"heartbeats","client_id":"","timestamp":"2026-04-07T14:30:10.000000Z","sequence_num":%d,"events":'
    b'[{"current_time":"2023-06-23 20:31:56.121961769 +0000 UTC m=+91717.5","heartbeat_counter":"42"}]}'
)
ROW = {
    "ts_event": 1_415_348_367_028_459_000,
    "ts_recv": FRAME_END,
    "symbol": "BTC-USD",
    "trade_id": 10,
    "price": 400.23,
    "size": 5.23512,
    "side": "buy",
    "flags": 0,
}


def spec(*symbols: str, **fields: Any) -> FeedSpec:
    return FeedSpec(**{"name": "cb", "provider": "coinbase", "symbols": symbols, **fields})


def test_a_match_is_a_trade_with_the_side_opposite_to_the_makers() -> None:
    assert Recorded("coinbase").decode(MATCH).rows("trades") == [ROW]
    sold = MATCH.replace(b'"side":"sell"', b'"side":"buy"')
    assert Recorded("coinbase").decode(sold).rows("trades") == [{**ROW, "side": "sell"}]


def test_last_match_is_stored_as_backfilled() -> None:
    assert Recorded("coinbase").decode(MATCH.replace(b"match", b"last_match", 1)).rows("trades") == [
        {**ROW, "flags": BACKFILLED}
    ]


def test_a_ticker_is_a_quote_and_its_trade_is_not_stored_again() -> None:
    feed = Recorded("coinbase").decode(TICKER)
    assert feed.rows("trades") == []
    assert feed.rows("quotes") == [
        {
            "ts_event": 1_669_852_800_122_581_000,
            "ts_recv": FRAME_END,
            "symbol": "BTC-USD",
            "sequence": 50978628538,
            "bid": 17165.15,
            "bid_size": 0.6154089,
            "ask": 17167.76,
            "ask_size": 0.18528568,
            "flags": 0,
        }
    ]


def test_a_side_of_the_book_that_is_not_there_is_null() -> None:
    [row] = Recorded("coinbase").decode(TICKER.replace(b'"17165.15"', b'"0"')).rows("quotes")
    assert "bid" not in row
    assert "bid_size" not in row
    assert row["ask"] == 17167.76


def test_an_unknown_field_is_counted_once_and_no_row_is_lost() -> None:
    feed = Recorded("coinbase")
    new = MATCH.replace(b'"trade_id"', b'"venue":{"a":[1]},"trade_id"')
    for payload in (new, new, MATCH):
        feed.decode(payload)
    assert feed.unknown == {"field match.venue": 1}
    assert feed.rows("trades") == [ROW, ROW, ROW]


def test_an_unknown_message_is_counted_and_the_next_is_read() -> None:
    feed = Recorded("coinbase").decode(b'{"type":"auction","product_id":"BTC-USD"}').decode(MATCH)
    assert feed.unknown == {"message auction": 1}
    assert feed.rows("trades") == [ROW]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"2014-11-07T08:19:27.028459Z", b"0001-01-01T00:00:00.000000Z", "year 1"),
        (b"2014-11-07", b"1970-01-01", "before the year 2000"),
        (b"2014-11-07", b"2126-11-07", "more than a day after"),
        (b'"400.23"', b'"NaN"', "price nan"),
        (b'"400.23"', b'"Infinity"', "price inf"),
        (b'"400.23"', b'"-400.23"', "price -400.23"),
        (b'"400.23"', b'"0"', "price 0.0"),
        (b'"5.23512"', b'"-1"', "size -1.0"),
        (b'"5.23512"', b'"0.-10000"', "size"),
        (b'"trade_id":10', b'"trade_id":9223372036854775808', "trade_id"),
        (b'"sell"', b'"short"', "short"),
        (b'"BTC-USD"', b'"BTC USD, a lie"', "no product"),
        (b'"time"', b'"tempo"', "time"),
        (b'"type":"match",', b"", "'type'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(old: bytes, new: bytes, reason: str) -> None:
    feed = Recorded("coinbase")
    with pytest.raises(FrameError, match=reason):
        feed.decode(MATCH.replace(old, new))
    assert feed.decode(MATCH).rows("trades") == [ROW]


@given(st.decimals(min_value="0.00000001", max_value="1e12", allow_nan=False, places=8) | st.decimals(1, 10**18))
def test_text_prices_are_the_nearest_floats(price: Any) -> None:
    text = format(price, "f")
    [row] = Recorded("coinbase").decode(MATCH.replace(b"400.23", text.encode())).rows("trades")
    assert row["price"] == float(text)


def test_a_trade_that_two_heartbeats_miss_is_a_gap() -> None:
    pipeline = Pipeline(KernelsConfig(), make)
    beats = [HEARTBEAT % last for last in (10, 13, 13, 13)]
    later = MATCH.replace(b'"trade_id":10', b'"trade_id":14')
    spec = FeedSpec(name="f", provider="coinbase", symbols=("BTC-USD",))
    frames = [(SOURCE, 0, FRAME_END, msgspec.json.encode(spec))]
    frames += [(TEXT, 0, FRAME_END, payload) for payload in (MATCH, *beats, later)]
    pipeline.consume(frames_from_list(frames))
    rows = {block.table.name: block.rows for block in pipeline.seal().tables}
    (gap,) = rows["gaps"]
    assert (gap["kind"], gap["from_id"], gap["to_id"], gap["missing"]) == (GAP_TRADE_ID, 11, 13, 3)
    assert pipeline.out.series.keys[gap["series"]] == ("f", "BTC-USD")
    assert [(row["trade_id"], row["missed"]) for row in rows["trades"]] == [(10, LONG_NULL), (14, 3)]


def test_a_heartbeat_that_overtakes_its_trade_is_no_gap() -> None:
    feed = Recorded("coinbase").decode(HEARTBEAT % 9).decode(MATCH)
    feed.decode(HEARTBEAT % 11).decode(MATCH.replace(b'"trade_id":10', b'"trade_id":11')).decode(HEARTBEAT % 11)
    assert feed.rows("gaps") == []


def test_advanced_trades_take_the_opposite_side_and_keep_ids_that_are_no_numbers() -> None:
    feed = Recorded("coinbase", api="advanced").decode(TRADES)
    odd = b"b3eb3a57-9a4a-4d0a-a5f6-7b9f7b9f7b9f"
    feed.decode(TRADES.replace(b"995098700", odd).replace(b"BUY", b"SELL").replace(b"update", b"snapshot"))
    row = {
        "ts_event": 1_775_572_202_789_012_000,
        "ts_recv": FRAME_END,
        "symbol": "BTC-USD",
        "trade_id": 995098700,
        "price": 68900.5,
        "size": 0.0015,
        "side": "sell",
        "flags": 0,
    }
    other = {"trade_id": hashed_id(odd.decode()), "trade_ref": odd.decode(), "side": "buy", "flags": BACKFILLED}
    assert feed.rows("trades") == [row, {**row, **other}]


def test_one_bad_trade_is_rejected_and_its_neighbours_are_stored() -> None:
    whole = json.loads(TRADES)
    good = whole["events"][0]["trades"][0]
    bad = [{**good, "price": "much"}, {**good, "price": "-1"}, {**good, "time": "0001-01-01T00:00:00Z"}, 5, None]
    whole["events"] = [{"type": "update", "trades": [good, *bad, {**good, "extra": 1, "trade_id": "7"}]}, 3]
    feed = Recorded("coinbase", api="advanced").decode(json.dumps(whole).encode())
    assert [row["trade_id"] for row in feed.rows("trades")] == [995098700, 7]
    rejected = feed.rows("rejected")
    assert len(rejected) == 6
    assert [row["item"] for row in rejected] == list(range(6))
    assert any('"much"' in row["excerpt"].replace("\\", "") for row in rejected)


def test_a_usdc_product_keeps_the_name_it_was_asked_by() -> None:
    asked = Recorded("coinbase", ("BTC-USDC",), api="advanced").decode(TRADES).rows("trades")
    assert [row["symbol"] for row in asked] == ["BTC-USDC"]
    both = Recorded("coinbase", ("BTC-USDC", "BTC-USD"), api="advanced").decode(TRADES).rows("trades")
    assert [row["symbol"] for row in both] == ["BTC-USD"]
    own = Recorded("coinbase", ("USDT-USDC",), api="advanced")
    own.decode(TRADES.replace(b"BTC-USD", b"USDT-USD"))
    assert [row["symbol"] for row in own.rows("trades")] == ["USDT-USD"]


def test_a_jump_of_the_connections_sequence_is_a_gap_and_control_messages_count_too() -> None:
    feed = Recorded("coinbase", api="advanced").decode(TRADES).decode(GO_HEARTBEAT % 6)
    feed.decode(b'{"channel":"subscriptions","sequence_num":7,"events":[{"subscriptions":{}}]}')
    feed.decode(b'{"channel":"status","client_id":"","sequence_num":8,"events":[{"type":"snapshot","products":[]}]}')
    feed.decode(GO_HEARTBEAT % 9)
    assert feed.rows("gaps") == []
    feed.decode(GO_HEARTBEAT % 12)
    [gap] = feed.rows("gaps")
    assert (gap["kind"], gap["from_id"], gap["to_id"], gap["missing"]) == ("sequence", 10, 11, 2)
    assert feed.unknown == {"message status": 1}


def test_documented_advanced_frames_become_the_rows_they_say(shared_data: Path) -> None:
    folder = shared_data / "nautilus" / "coinbase"
    feed = Recorded("coinbase", api="advanced")
    for name in (
        "ws_market_trades",
        "ws_ticker",
        "ws_candles",
        "ws_heartbeats",
        "ws_l2_data_update",
        "ws_subscriptions",
    ):
        feed.decode((folder / f"{name}.json").read_bytes())
        feed.scope.opened()
    assert [(r["trade_id"], r["price"], r["size"], r["side"]) for r in feed.rows("trades")] == [
        (995098700, 68900.5, 0.0015, "sell"),
        (995098701, 68900.0, 0.05, "buy"),
    ]
    [quote] = feed.rows("quotes")
    assert (quote["bid"], quote["bid_size"], quote["ask"], quote["ask_size"]) == (68900.0, 1.5, 68901.0, 0.5)
    assert quote["ts_event"] == 1_775_572_203_000_000_000
    [bar] = feed.rows("bars")
    assert bar == {
        "ts_event": 1_775_521_800 * 10**9, "ts_recv": FRAME_END, "symbol": "BTC-USD", "timeframe": "5m",
        "open": 68900.0, "high": 68950.0, "low": 68850.0, "close": 68920.5, "volume": 42.15, "flags": 0,
    }  # fmt: skip
    assert feed.unknown == {}
    assert feed.rows("rejected") == []


def test_the_recording_replays_with_the_counted_facts(shared_data: Path) -> None:
    name = "cryptofeed/COINBASE/2021-04-17_COINBASE.ws.28.0.gz"
    expected = json.loads((shared_data / "expected.json").read_bytes())["files"][name]
    feed = Recorded("coinbase", ())
    for ts_recv, payload in received(shared_data / name):
        feed.decode(payload, ts_recv)
    live: dict[str, list[dict[str, Any]]] = defaultdict(list)
    snapshots: dict[str, int] = defaultdict(int)
    for row in feed.rows("trades"):
        if row["flags"] & BACKFILLED:
            snapshots[row["symbol"]] += 1
        else:
            live[row["symbol"]].append(row)
    for symbol, counted in expected["trades_by_symbol"].items():
        same_facts(facts(live[symbol]), counted)
        assert snapshots[symbol] == counted["in_snapshots"]
    assert sum(map(len, live.values())) == expected["trades"]["total"] == 97
    assert len(feed.rows("quotes")) == expected["messages_by_type"]["ticker"]
    assert feed.rows("rejected") == []
    assert feed.unknown == {}


def test_what_another_project_maps_comes_out_the_same(shared_data: Path) -> None:
    seen = 0
    for line in gzip.decompress((shared_data / "tardis-node" / "mapper_cases.jsonl.gz").read_bytes()).splitlines():
        case = json.loads(line)
        if case["exchange"] != "coinbase":
            continue
        feed = Recorded("coinbase", ()).decode(json.dumps(case["message"]).encode())
        found = feed.rows("trades") + feed.rows("quotes")
        expected = [row for row in case["expected"] if row["type"] in ("trade", "book_ticker")]
        assert len(found) == len(expected)
        for row, other in zip(found, expected, strict=True):
            seen += 1
            assert row["symbol"] == other["symbol"]
            pairs = {"price": "price", "amount": "size", "side": "side", "bidPrice": "bid", "askPrice": "ask"}
            pairs |= {"bidAmount": "bid_size", "askAmount": "ask_size"}
            for theirs, ours in pairs.items():
                assert row.get(ours) == other.get(theirs), theirs
    assert seen == 4


# The connection


def acknowledgement(**channels: list[str]) -> bytes:
    listed = [{"name": name, "product_ids": products} for name, products in channels.items()]
    return json.dumps({"type": "subscriptions", "channels": listed}).encode()


def test_opening_subscribes_in_chunks_with_heartbeats() -> None:
    symbols = [f"C{i}-USD" for i in range(SUBSCRIBE_ITEMS_MAX + 1)]
    sent = [json.loads(command.payload) for command in make(spec(*symbols)).on_open() if isinstance(command, Send)]
    assert [len(message["product_ids"]) for message in sent] == [SUBSCRIBE_ITEMS_MAX, 1]
    assert all(message["channels"] == ["matches", "ticker", "heartbeat"] for message in sent)


def test_advanced_subscribes_one_channel_a_message() -> None:
    feed = make(spec("BTC-USD", options={"api": "advanced"}, channels=("trades", "quotes", "bars")))
    assert [json.loads(command.payload) for command in feed.on_open()] == [  # type: ignore[union-attr]
        {"type": "subscribe", "channel": "heartbeats"},
        {"type": "subscribe", "product_ids": ["BTC-USD"], "channel": "market_trades"},
        {"type": "subscribe", "product_ids": ["BTC-USD"], "channel": "ticker"},
        {"type": "subscribe", "product_ids": ["BTC-USD"], "channel": "candles"},
    ]


def test_ready_when_every_symbol_of_every_channel_is_acknowledged() -> None:
    symbols = [f"C{i}-USD" for i in range(SUBSCRIBE_ITEMS_MAX + 1)]
    feed = make(spec(*symbols))
    feed.on_open()
    assert feed.on_control(acknowledgement(matches=symbols, ticker=symbols[:-1])) == []
    assert feed.on_control(acknowledgement(matches=symbols, ticker=symbols)) == [Ready(tuple(symbols))]


def test_a_symbol_that_no_answer_acknowledges_is_named() -> None:
    feed = make(spec("BTC-USD", "ETH-USD", channels=("trades",)))
    feed.on_open()
    ready, notice = feed.on_control(acknowledgement(matches=["BTC-USD"]))
    assert ready == Ready(("BTC-USD",))
    assert isinstance(notice, Notice)
    assert notice.fields["symbol"] == "ETH-USD"


def test_a_symbol_dropped_later_is_named() -> None:
    feed = make(spec("BTC-USD", "ETH-USD", channels=("trades",)))
    feed.on_open()
    feed.on_control(acknowledgement(matches=["BTC-USD", "ETH-USD"]))
    [notice] = feed.on_control(acknowledgement(matches=["ETH-USD"]))
    assert isinstance(notice, Notice)
    assert notice.fields["symbol"] == "BTC-USD"


def test_a_wrong_product_is_named_and_the_others_are_asked_for_again() -> None:
    feed = make(spec("BTC-USD", "FOO-USD", channels=("trades",)))
    feed.on_open()
    error = b'{"type":"error","message":"Failed to subscribe","reason":"FOO-USD is not a valid product"}'
    notice, again = feed.on_control(error)
    assert isinstance(notice, Notice)
    assert notice.fields["symbol"] == "FOO-USD"
    assert isinstance(again, Send)
    assert json.loads(again.payload)["product_ids"] == ["BTC-USD"]
    assert feed.on_control(error) == []
    assert feed.on_control(acknowledgement(matches=["BTC-USD"])) == [Ready(("BTC-USD",))]


def test_no_symbol_left_is_fatal() -> None:
    feed = make(spec("FOO-USD"))
    feed.on_open()
    commands = feed.on_control(b'{"type":"error","message":"Failed to subscribe","reason":"FOO-USD is not valid"}')
    assert isinstance(commands[-1], Fatal)


def test_errors_are_told_apart() -> None:
    feed = make(spec("BTC-USD"))
    feed.on_open()
    [limited] = feed.on_control(b'{"type":"error","message":"rate limit exceeded"}')
    assert isinstance(limited, Reconnect)
    assert limited.hold_ns == RATE_HOLD_NS
    [fatal] = feed.on_control(b'{"type":"error","message":"Authentication required"}')
    assert isinstance(fatal, Fatal)
    other, again = feed.on_control(b'{"type":"error","message":"something else"}')  # all that was sent is answered
    assert isinstance(other, Notice)
    assert isinstance(again, Reconnect)
    assert "something else" in again.reason


def test_advanced_is_ready_when_a_usdc_product_is_acknowledged_under_the_shared_name() -> None:
    feed = make(spec("BTC-USDC", options={"api": "advanced"}, channels=("trades",)))
    feed.on_open()
    answer = {
        "channel": "subscriptions",
        "sequence_num": 0,
        "events": [{"subscriptions": {"market_trades": ["BTC-USD"]}}],
    }
    assert feed.on_control(json.dumps(answer).encode()) == [Ready(("BTC-USDC",))]


def test_a_new_connection_starts_over() -> None:
    feed = make(spec("BTC-USD", channels=("trades",)))
    first = feed.on_open()
    assert feed.on_control(acknowledgement(matches=["BTC-USD"])) == [Ready(("BTC-USD",))]
    assert feed.on_open() == first
    assert feed.on_control(acknowledgement(matches=["BTC-USD"])) == [Ready(("BTC-USD",))]


def test_wrong_configuration_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match="did you mean advanced"):
        make(spec("BTC-USD", options={"api": "advancd"}))
    with pytest.raises(ConfigError, match='has no channel "bars"'):
        make(spec("BTC-USD", channels=("bars",)))
    with pytest.raises(SymbolError, match="BTC-USD"):
        make(spec("BTCUSD"))


def test_symbols_are_taken_in_any_spelling() -> None:
    [sent] = make(spec("btc/usd", "BTC-USD", "eth_eur")).on_open()
    assert isinstance(sent, Send)
    assert json.loads(sent.payload)["product_ids"] == ["BTC-USD", "ETH-EUR"]
