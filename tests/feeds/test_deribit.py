"""Deribit: what its notifications become, and how its connection is subscribed, kept and given up."""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from decoding import FRAME_END, Recorded, received
from hypothesis import given
from hypothesis import strategies as st

from recorder.core.text_time import rfc3339_ns
from recorder.feeds import make
from recorder.feeds.deribit import RATE_HOLD_NS, SUBSCRIBE_ITEMS_MAX
from recorder.feeds.deribit.messages import MONTHS, canonical, instrument_of, option_of
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import Fatal, FeedSpec, Notice, Ready, Reconnect, Send
from recorder.values.tables import NOT_LAST_ELIGIBLE

OPTION = "BTC-27SEP24-40000-C"


def spec(*symbols: str, **fields: Any) -> FeedSpec:
    return FeedSpec(**{"name": "d", "provider": "deribit", "symbols": symbols, **fields})


def notified(channel: str, data: object) -> bytes:
    message = {"jsonrpc": "2.0", "method": "subscription", "params": {"channel": channel, "data": data}}
    return json.dumps(message).encode()


TRADE: dict[str, Any] = {  # as documented
    "timestamp": 1765531356452, "price": 92294.5, "amount": 10.0, "direction": "sell", "index_price": 92276.75,
    "instrument_name": "BTC-PERPETUAL", "trade_seq": 271252854, "mark_price": 92287.11, "tick_direction": 2,
    "contracts": 1.0, "trade_id": "403691824",
}  # fmt: skip
ROW = {
    "ts_event": 1_765_531_356_452_000_000, "ts_recv": FRAME_END, "symbol": "BTC-USD-PERP", "trade_id": 271252854,
    "trade_ref": "403691824", "price": 92294.5, "size": 10.0, "side": "sell", "flags": 0,
}  # fmt: skip


def trades(*items: Any) -> bytes:
    return notified("trades.BTC-PERPETUAL.100ms", list(items))


def test_a_trade_is_numbered_by_its_instrument_and_keeps_deribits_own_id_as_text() -> None:
    other = {**TRADE, "trade_id": "ETH-284830839", "trade_seq": 5, "direction": "buy"}
    assert Recorded("deribit").decode(trades(TRADE, other)).rows("trades") == [
        ROW,
        {**ROW, "trade_id": 5, "trade_ref": "ETH-284830839", "side": "buy"},
    ]


@pytest.mark.parametrize(
    ("fields", "conditions"),
    [
        ({"liquidation": "MT"}, "liquidation:MT"),
        ({"block_trade_id": "BLOCK-6", "liquidation": "T"}, "liquidation:T,block"),
        ({"combo_id": "BTC-FS-25DEC26_PERP", "combo_trade_id": "43"}, "combo"),
    ],
)
def test_why_a_price_may_be_off_the_market_is_a_condition(fields: dict[str, str], conditions: str) -> None:
    [row] = Recorded("deribit").decode(trades({**TRADE, **fields})).rows("trades")
    flags = NOT_LAST_ELIGIBLE if "block" in conditions else 0  # at a price agreed between two parties
    assert row == {**ROW, "conditions": conditions, "flags": flags}


def test_documented_frames_become_the_rows_they_say(shared_data: Path) -> None:
    feed = Recorded("deribit")
    for path in sorted((shared_data / "nautilus" / "deribit").glob("ws_*.json")):
        feed.decode(path.read_bytes())
    assert [(r["trade_id"], r["price"], r["size"], r["side"], r["trade_ref"]) for r in feed.rows("trades")] == [
        (271252854, 92294.5, 10.0, "sell", "403691824"),
        (271252855, 92288.5, 750.0, "sell", "403691825"),
        (1, 0.0639, 0.1, "sell", "244365193"),  # a combo; its legs are trades of their own instruments
    ]
    assert feed.rows("quotes") == [
        {
            "ts_event": 1_765_541_767_174_000_000, "ts_recv": FRAME_END, "symbol": "BTC-USD-PERP", "bid": 92288.0,
            "bid_size": 133440.0, "ask": 92288.5, "ask_size": 99470.0, "flags": 0,
        },
        {  # the ticker of what is no option
            "ts_event": 1_765_541_474_086_000_000, "ts_recv": FRAME_END, "symbol": "BTC-USD-PERP", "bid": 92283.5,
            "bid_size": 117660.0, "ask": 92284.0, "ask_size": 186520.0, "flags": 0,
        },
    ]  # fmt: skip
    assert feed.rows("bars") == [
        {
            "ts_event": 1_767_200_040 * 10**9, "ts_recv": FRAME_END, "symbol": "BTC-USD-PERP", "timeframe": "1m",
            "open": 87490.0, "high": 87500.0, "low": 87465.0, "close": 87474.0, "volume": 0.95978896, "flags": 0,
        }
    ]  # fmt: skip
    assert feed.rows("options_chain") == feed.rows("rejected") == []
    assert feed.unknown == {}


def test_what_another_project_maps_comes_out_the_same(shared_data: Path) -> None:
    compared = {"trade": 0, "option_summary": 0}
    for line in gzip.decompress((shared_data / "tardis-node" / "mapper_cases.jsonl.gz").read_bytes()).splitlines():
        case = json.loads(line)
        if case["exchange"] != "deribit":
            continue
        feed = Recorded("deribit", ()).decode(json.dumps(case["message"]).encode())
        expected = {name: [e for e in case["expected"] if e["type"] == name] for name in compared}
        found = {"trade": feed.rows("trades"), "option_summary": feed.rows("options_chain")}
        assert feed.rows("rejected") == []
        for kind, rows in found.items():
            assert len(rows) == len(expected[kind]), case["test"]
            compared[kind] += len(rows)
        for row, other in zip(found["trade"], expected["trade"], strict=True):
            assert (row["trade_ref"], row["price"], row["size"], row["side"], row["ts_event"]) == (
                other["id"], other["price"], other["amount"], other["side"], rfc3339_ns(other["timestamp"])
            )  # fmt: skip
        for row, other in zip(found["option_summary"], expected["option_summary"], strict=True):
            assert row["symbol"].upper() == other["symbol"]
            assert (row["option_type"], row["strike"]) == (other["optionType"], other["strikePrice"])
            assert row["expiration"] == rfc3339_ns(other["expirationDate"])
            assert row["ts_event"] == rfc3339_ns(other["timestamp"])
            assert row["iv"] == pytest.approx(other["markIV"] / 100, rel=1e-15)
            assert row["greeks_source"] == "provider"
            theirs = {
                "bid": "bestBidPrice", "bid_size": "bestBidAmount", "ask": "bestAskPrice", "ask_size": "bestAskAmount",
                "last": "lastPrice", "open_interest": "openInterest", "underlying_price": "underlyingPrice",
            }  # fmt: skip
            theirs |= {name: name for name in ("delta", "gamma", "theta", "vega", "rho")}
            for ours, name in theirs.items():
                assert row.get(ours) == other.get(name), (name, case["test"])
    assert compared == {"trade": 4, "option_summary": 5}


@pytest.mark.parametrize("name", ["2021-04-17_DERIBIT.ws.30.0.gz", "2021-07-22_DERIBIT.ws.1.0.gz"])
def test_every_recorded_ticker_of_an_option_is_a_row_with_greeks(shared_data: Path, name: str) -> None:
    expected = json.loads((shared_data / "expected.json").read_bytes())["files"][f"cryptofeed/DERIBIT/{name}"]
    feed, sent = Recorded("deribit", ()), []
    for ts_recv, payload in received(shared_data / "cryptofeed" / "DERIBIT" / name):
        feed.decode(payload, ts_recv)
        params = json.loads(payload).get("params", {})
        sent += [params["data"]] if params.get("channel", "").startswith("ticker.") else []
    rows = feed.rows("options_chain")
    assert len(rows) == len(sent) == expected["messages_with_greeks"]
    for row, data in zip(rows, sent, strict=True):
        assert row["symbol"] == data["instrument_name"]
        for greek, value in data["greeks"].items():
            assert row[greek] == value
        assert row.get("volume") == data["stats"]["volume"]
        assert row.get("bid") == (data["best_bid_price"] or None)
    assert feed.rows("rejected") == []
    assert feed.unknown == {}


def test_one_bad_trade_is_rejected_and_its_neighbours_are_stored() -> None:
    bad = [
        {**TRADE, "price": -1},
        {**TRADE, "amount": None},
        {**TRADE, "timestamp": 0},
        {**TRADE, "trade_seq": 1 << 63},
        {**TRADE, "instrument_name": "x" * 100},
        {**TRADE, "direction": "both"},
        5,
    ]
    feed = Recorded("deribit").decode(trades(TRADE, *bad, {**TRADE, "trade_seq": 271252855}))
    assert feed.rows("trades") == [ROW, {**ROW, "trade_id": 271252855}]
    assert len(feed.rows("rejected")) == len(bad)


def test_an_unknown_field_or_channel_is_counted_and_no_row_is_lost() -> None:
    feed = Recorded("deribit")
    quote = {
        "timestamp": 1765541767174,
        "instrument_name": "BTC-PERPETUAL",
        "best_ask_price": None,
        "best_bid_price": 1,
    }
    for payload in (
        trades({**TRADE, "new": 1}), trades(TRADE), notified("surprise.BTC-PERPETUAL.100ms", {}),
        notified("quote.BTC-PERPETUAL", {**quote, "new": 1}), notified("quote.BTC-PERPETUAL", {**quote, "new": 1}),
        b'{"jsonrpc":"2.0","id":1,"result":"ok"}', b'{"jsonrpc":"2.0","method":"surprise"}',
    ):  # fmt: skip
        feed.decode(payload)
    assert feed.rows("trades") == [ROW, ROW]
    assert [(row["bid"], row.get("ask")) for row in feed.rows("quotes")] == [(1.0, None)] * 2
    assert {what.split(":")[0]: count for what, count in feed.unknown.items()} == {
        "field trades.new": 1, "channel surprise": 1, "field of quote": 1, "message surprise": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "payload",
    [
        trades()[:-3], notified("trades.X.100ms", 5), notified("quote.X", []), notified("chart.trades.X.7", {}),
        notified("chart.trades.BTC-PERPETUAL.7", {"tick": 1, "open": 1, "high": 1, "low": 1, "close": 1, "volume": 0}),
        notified(f"ticker.{OPTION}.100ms", {"timestamp": 1, "instrument_name": OPTION}),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(payload: bytes) -> None:
    feed = Recorded("deribit")
    with pytest.raises(FrameError):
        feed.decode(payload)
    assert feed.decode(trades(TRADE)).rows("trades") == [ROW]


# Symbols


@pytest.mark.parametrize(
    ("symbol", "instrument"),
    [
        ("BTC-USD-PERP", "BTC-PERPETUAL"),
        ("SOL-USDC-PERP", "SOL_USDC-PERPETUAL"),
        ("BTC-USDC", "BTC_USDC"),
        ("BTC-27DEC24", "BTC-27DEC24"),
        (OPTION, OPTION),
        ("XRP_USDC-30JUN23-0d625-C", "XRP_USDC-30JUN23-0d625-C"),
    ],
)
def test_symbols_and_instruments_are_each_others(symbol: str, instrument: str) -> None:
    assert (instrument_of(symbol), canonical(instrument)) == (instrument, symbol)
    assert instrument_of(instrument.lower()) == instrument


@pytest.mark.parametrize("name", ["", "BTC", "BTC-27XXX24-1-C", "BTC-FS-25DEC26_PERP", "BTC PERP", "x" * 50 + "-USD"])
def test_what_is_no_instrument_is_refused(name: str) -> None:
    with pytest.raises(SymbolError, match="Deribit"):
        make(spec(name))


@given(
    st.dates(min_value=date(2016, 1, 1), max_value=date(2099, 1, 1)),
    st.integers(1, 10**6) | st.decimals("0.01", "99", places=3),
    st.sampled_from("CP"),
)
def test_an_options_name_says_when_it_expires_at_what_price(day: Any, strike: Any, kind: str) -> None:
    month = next(name for name, number in MONTHS.items() if number == day.month)
    name = f"BTC_USDC-{day.day}{month}{day:%y}-{str(strike).replace('.', 'd')}-{kind}"
    at_eight = rfc3339_ns(f"{day.isoformat()}T08:00:00Z")
    assert option_of(name) == ("BTC_USDC", at_eight, float(strike), 1 if kind == "C" else 2)
    assert instrument_of(name) == name
    assert option_of(name.rsplit("-", 2)[0]) is None


# The connection


def sent(commands: list[Any]) -> list[dict[str, Any]]:
    return [json.loads(command.payload) for command in commands if isinstance(command, Send)]


def answer(number: int, result: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": result, "usDiff": 1000}).encode()


def test_opening_asks_for_heartbeats_and_subscribes_in_chunks() -> None:
    symbols = [f"C{i}-USD-PERP" for i in range(SUBSCRIBE_ITEMS_MAX)]
    feed = make(spec(*symbols, OPTION, channels=("trades", "options"), options={"interval": "agg2"}))
    heartbeat, *subscriptions = sent(feed.on_open())
    assert (heartbeat["method"], heartbeat["params"]) == ("public/set_heartbeat", {"interval": 10})
    assert [len(m["params"]["channels"]) for m in subscriptions] == [SUBSCRIBE_ITEMS_MAX, 2]
    assert subscriptions[1]["params"]["channels"] == [f"trades.{OPTION}.agg2", f"ticker.{OPTION}.agg2"]
    assert len({m["id"] for m in (heartbeat, *subscriptions)}) == 3


def test_every_channel_has_deribits_name() -> None:
    feed = make(spec(OPTION, channels=("trades", "quotes", "bars", "options"), options={"timeframe": "1h"}))
    assert sent(feed.on_open())[1]["params"]["channels"] == [
        f"trades.{OPTION}.100ms", f"quote.{OPTION}", f"chart.trades.{OPTION}.60", f"ticker.{OPTION}.100ms",
    ]  # fmt: skip
    assert {channel for channel, _ in feed.subscriptions().desired} == {"trades", "quotes", "bars", "options"}


def test_ready_when_acknowledged_and_what_the_answer_leaves_out_is_named() -> None:
    feed = make(spec("BTC-USD-PERP", "FOO-USD-PERP", channels=("trades",)))
    [_, asked] = sent(feed.on_open())
    notice, ready = feed.on_control(answer(asked["id"], ["trades.BTC-PERPETUAL.100ms"]))
    assert isinstance(notice, Notice)
    assert notice.fields["symbol"] == "FOO-USD-PERP"
    assert ready == Ready(("BTC-USD-PERP",))
    assert feed.subscriptions().acknowledged == {("trades", "BTC-USD-PERP")}
    assert feed.on_control(answer(asked["id"], [])) == []  # answered already


def test_no_symbol_left_is_fatal() -> None:
    feed = make(spec("FOO-USD-PERP", channels=("trades",)))
    [_, asked] = sent(feed.on_open())
    assert isinstance(feed.on_control(answer(asked["id"], []))[-1], Fatal)


def test_a_test_request_is_answered_and_a_plain_heartbeat_is_not() -> None:
    feed = make(spec("BTC-USD-PERP"))
    feed.on_open()
    [reply] = sent(feed.on_control(b'{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}'))
    assert reply["method"] == "public/test"
    assert feed.on_control(b'{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"heartbeat"}}') == []
    assert feed.on_control(answer(reply["id"], {"version": "1.2.26"})) == []


def test_too_many_requests_reconnects_after_a_hold_and_other_errors_are_told(shared_data: Path) -> None:
    feed = make(spec("BTC-USD-PERP"))
    feed.on_open()
    [command] = feed.on_control((shared_data / "nautilus/deribit/ws_error.json").read_bytes())
    assert isinstance(command, Reconnect)
    assert command.hold_ns == RATE_HOLD_NS
    [notice] = feed.on_control(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Invalid params"}}')
    assert isinstance(notice, Notice)
    assert notice.fields["reason"] == "Invalid params (-32602)"


def test_symbols_come_and_go_on_the_open_connection() -> None:
    feed = make(spec("BTC-USD-PERP", "ETH-USD-PERP", channels=("trades",)))
    [_, asked] = sent(feed.on_open())
    feed.on_control(answer(asked["id"], asked["params"]["channels"]))
    gone, fresh = sent(feed.change(("ETH-USD-PERP", "SOL-USDC-PERP")))
    assert (gone["method"], gone["params"]["channels"]) == ("public/unsubscribe", ["trades.BTC-PERPETUAL.100ms"])
    assert (fresh["method"], fresh["params"]["channels"]) == ("public/subscribe", ["trades.SOL_USDC-PERPETUAL.100ms"])
    assert feed.on_control(answer(gone["id"], gone["params"]["channels"])) == []
    ready = feed.on_control(answer(fresh["id"], fresh["params"]["channels"]))
    assert ready == [Ready(("ETH-USD-PERP", "SOL-USDC-PERP"))]
    again = sent(feed.resubscribe([("trades", "ETH-USD-PERP")]))
    assert [m["method"] for m in again] == ["public/unsubscribe", "public/subscribe"]


def test_wrong_configuration_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match="did you mean 100ms"):
        make(spec("BTC-USD-PERP", options={"interval": "10ms"}))
    with pytest.raises(ConfigError, match="statuses"):
        make(spec("BTC-USD-PERP", channels=("statuses",)))
    with pytest.raises(SymbolError, match="no option contract"):
        make(spec("BTC-USD-PERP", channels=("options",)))
