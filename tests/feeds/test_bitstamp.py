"""Bitstamp: what its frames become, and how its connection is subscribed and given up."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from decoding import FRAME_END, Recorded, facts, received, same_facts
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.feeds import make
from recorder.feeds.bitstamp import PING, QUOTE_ASSETS, RATE_HOLD_NS, canonical, pair_of
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import Fatal, FeedSpec, Notice, Ready, Reconnect, Renew, Send

TRADE = (  # as documented
    b'{"event":"trade","channel":"live_trades_btcusd","data":{"id":298239842,"timestamp":"1695628177",'
    b'"amount":0.0144,"amount_str":"0.01440000","price":26242,"price_str":"26242","type":0,'
    b'"microtimestamp":"1695628177123000","buy_order_id":1,"sell_order_id":2}}'
)
ROW = {
    "ts_event": 1_695_628_177_123_000_000,
    "ts_recv": FRAME_END,
    "symbol": "BTC-USD",
    "trade_id": 298239842,
    "price": 26242.0,
    "size": 0.0144,
    "side": "buy",
    "flags": 0,
}
RECORDING = "cryptofeed/BITSTAMP/2021-04-05_BITSTAMP-b88f8b.0.gz"
RECORDED_TRADE = (
    b'{"channel": "live_trades_linketh", "data": {"amount": 7.14844933, "amount_str": "7.14844933", "buy_order_id": '
    b'1346843556691968, "id": 161009669, "microtimestamp": "1617654353577000", "price": 0.01495224, "price_str": '
    b'"0.01495224", "sell_order_id": 1346844176056322, "timestamp": "1617654353", "type": 1}, "event": "trade"}'
)


def book(channel: str = "order_book_btcusd", **data: Any) -> bytes:
    """The form of the recorded books, with levels of a test's own."""
    whole = {"timestamp": "1617654352", "microtimestamp": "1617654352439583", "bids": [], "asks": [], **data}
    return json.dumps({"data": whole, "channel": channel, "event": "data"}, separators=(",", ":")).encode()


def spec(*symbols: str, **fields: Any) -> FeedSpec:
    return FeedSpec(**{"name": "b", "provider": "bitstamp", "symbols": symbols, **fields})


def said(event: str, channel: str = "", data: Any = None) -> bytes:
    return json.dumps({"event": f"bts:{event}", "channel": channel, "data": data or {}}).encode()


def test_a_trade_is_a_row_with_the_takers_side_and_microseconds() -> None:
    assert Recorded("bitstamp").decode(TRADE).rows("trades") == [ROW]
    sold = TRADE.replace(b'"type":0', b'"type":1').replace(b"123000", b"123456")
    assert Recorded("bitstamp").decode(sold).rows("trades") == [
        {**ROW, "side": "sell", "ts_event": 1_695_628_177_123_456_000}
    ]


def test_a_recorded_trade_of_2021_is_read_too() -> None:
    assert Recorded("bitstamp", ()).decode(RECORDED_TRADE).rows("trades") == [
        {
            "ts_event": 1_617_654_353_577_000_000, "ts_recv": FRAME_END, "symbol": "LINK-ETH", "trade_id": 161009669,
            "price": 0.01495224, "size": 7.14844933, "side": "sell", "flags": 0,
        }
    ]  # fmt: skip


@given(st.decimals(min_value="0.00000001", max_value="1e12", places=8))
def test_the_price_is_the_nearest_float_of_its_text(price: Any) -> None:
    text = format(price, "f").encode()
    [row] = (
        Recorded("bitstamp").decode(TRADE.replace(b'"price_str":"26242"', b'"price_str":"%s"' % text)).rows("trades")
    )
    assert row["price"] == float(text)


def test_the_recording_replays_with_the_counted_facts(shared_data: Path) -> None:
    expected = json.loads((shared_data / "expected.json").read_bytes())["files"][RECORDING]
    feed = Recorded("bitstamp", ())
    for ts_recv, payload in received(shared_data / RECORDING):
        feed.decode(payload, ts_recv)
    live: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in feed.rows("trades"):
        live[row["symbol"]].append(row)
    counted = expected["trades_by_symbol"]
    assert sum(map(len, live.values())) == sum(entry["n"] for entry in counted.values()) == 32
    for pair, entry in counted.items():
        same_facts(facts(live[canonical(pair)]), entry)
    assert feed.rows("quotes") == feed.rows("rejected") == []  # changes of books are passed over
    assert feed.unknown == {}


levels = st.lists(st.tuples(st.decimals("0.01", "1e6", places=2), st.decimals("0", "1e4", places=8)), max_size=5)


@settings(deadline=None)
@given(bids=levels, asks=levels, spaced=st.booleans())
def test_a_quote_is_the_first_level_of_each_side(bids: Any, asks: Any, spaced: bool) -> None:
    sides = {name: [[str(p), format(s, "f")] for p, s in side] for name, side in (("bids", bids), ("asks", asks))}
    payload = book(**sides)
    payload = payload.replace(b"[", b" [ ").replace(b",", b", ") if spaced else payload
    [row] = Recorded("bitstamp").decode(payload).rows("quotes")
    expected = {"ts_event": 1_617_654_352_439_583_000, "ts_recv": FRAME_END, "symbol": "BTC-USD", "flags": 0}
    for name, size, side in (("bid", "bid_size", bids), ("ask", "ask_size", asks)):
        expected |= {name: float(side[0][0]), size: float(side[0][1])} if side else {}
    assert row == expected


def test_other_books_are_known_and_passed_over() -> None:
    feed = Recorded("bitstamp")
    for channel in ("diff_order_book_btcusd", "detail_order_book_btcusd"):
        feed.decode(book(channel, bids=[["1.5", "2", "1346844176056322"]]))
    for event in ("heartbeat", "subscription_succeeded", "unsubscription_succeeded", "error", "request_reconnect"):
        feed.decode(said(event))
    assert (feed.rows("quotes"), feed.unknown) == ([], {})


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (TRADE.replace(b'"price_str":"26242"', b'"price_str":"-1"'), "price -1.0"),
        (TRADE.replace(b"1695628177123000", b"0"), "2000"),
        (TRADE.replace(b'"type":0', b'"type":2'), "type"),
        (TRADE.replace(b"live_trades_btcusd", b"live_orders_btcusd"), "live_trades_"),
        (TRADE.replace(b"live_trades_btcusd", b"live_trades_surprise"), "surprise"),
        (book(bids=[["x", "1"]]), "order book"),
        (book(bids=5), "no array of levels"),
        (book(asks=[[]]), "order book"),
        (b'{"data":{}}', "event"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(payload: bytes, words: str) -> None:
    feed = Recorded("bitstamp")
    with pytest.raises(FrameError, match=words):
        feed.decode(payload)
    assert feed.decode(TRADE).rows("trades") == [ROW]


def test_an_unknown_field_or_message_is_counted_and_no_row_is_lost() -> None:
    feed = Recorded("bitstamp")
    new = TRADE.replace(b'"id"', b'"maker":"x","id"')
    for payload in (new, new, b'{"event":"order_created","channel":"live_orders_btcusd","data":{}}', TRADE):
        feed.decode(payload)
    assert feed.unknown == {"field trade.data.maker": 1, "message order_created": 1}
    assert feed.rows("trades") == [ROW, ROW, ROW]


# Symbols


@pytest.mark.parametrize(
    ("name", "pair", "symbol"),
    [
        ("BTC-USD", "btcusd", "BTC-USD"),
        ("btc/usdc", "btcusdc", "BTC-USDC"),
        ("linketh", "linketh", "LINK-ETH"),
        ("usdcusdt", "usdcusdt", "USDC-USDT"),
        ("paxusd", "paxusd", "PAX-USD"),
        ("XBT_EUR", "btceur", "BTC-EUR"),
    ],
)
def test_every_spelling_of_a_pair_is_taken(name: str, pair: str, symbol: str) -> None:
    assert (pair_of(name), canonical(name), canonical(pair)) == (pair, symbol, symbol)


@given(st.from_regex(r"[A-Z0-9]{2,6}", fullmatch=True), st.sampled_from(QUOTE_ASSETS))
def test_a_configured_pair_keeps_its_name_however_it_could_be_split(base: str, asset: str) -> None:
    symbol = canonical(f"{base}-{asset}")
    feed: Any = make(spec(symbol))
    assert feed.canonical(pair_of(symbol)) == symbol


@pytest.mark.parametrize("name", ["", "usd", "BTC-", "btc usd", "BTC-USD-PERP", 'B"-USD', "x" * 40 + "-USD"])
def test_what_is_no_pair_is_refused(name: str) -> None:
    with pytest.raises(SymbolError):
        make(spec(name))


# The connection


def test_opening_subscribes_each_channel_of_each_pair() -> None:
    feed = make(spec("BTC-USD", "ETH-EUR"))
    sent = [json.loads(command.payload) for command in feed.on_open() if isinstance(command, Send)]
    names = ["live_trades_btcusd", "live_trades_etheur", "order_book_btcusd", "order_book_etheur"]
    assert sent == [{"event": "bts:subscribe", "data": {"channel": name}} for name in names]
    assert feed.endpoint().app_ping == PING


def test_ready_when_everything_is_acknowledged() -> None:
    feed = make(spec("BTC-USD"))
    feed.on_open()
    assert feed.on_control(said("subscription_succeeded", "live_trades_btcusd")) == []
    assert feed.on_control(said("subscription_succeeded", "live_trades_btcusd")) == []  # of the same
    assert feed.on_control(said("subscription_succeeded", "order_book_btcusd")) == [Ready(("BTC-USD",))]
    sets = feed.subscriptions()
    assert sets.desired == sets.requested == sets.acknowledged == {("trades", "BTC-USD"), ("quotes", "BTC-USD")}


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_a_refused_pair_does_not_stop_the_others(named: bool) -> None:
    feed = make(spec("FOO-USD", "BTC-USD", channels=("trades",)))
    feed.on_open()
    words = {"code": None, "message": "Bad subscription string."}
    [notice] = feed.on_control(said("error", "live_trades_foousd" if named else "", words))
    assert isinstance(notice, Notice)
    assert notice.fields["reason"] == "Bad subscription string."
    ready, *notices = feed.on_control(said("subscription_succeeded", "live_trades_btcusd"))
    assert ready == Ready(("BTC-USD",))
    assert len(notices) == (0 if named else 1)


def test_no_pair_left_is_fatal() -> None:
    feed = make(spec("FOO-USD", channels=("trades",)))
    feed.on_open()
    commands = feed.on_control(
        said("error", "live_trades_foousd", {"code": None, "message": "Bad subscription string."})
    )
    assert isinstance(commands[-1], Fatal)


def test_a_rate_limit_reconnects_after_a_hold_and_a_request_to_reconnect_at_once() -> None:
    feed = make(spec("BTC-USD"))
    feed.on_open()
    [held] = feed.on_control(said("error", "", {"code": 4, "message": "Rate limit exceeded."}))
    assert isinstance(held, Reconnect)
    assert held.hold_ns == RATE_HOLD_NS
    assert isinstance(feed.on_control(b'{"event":"bts:request_reconnect","channel":"","data":""}')[0], Renew)
    assert not feed.capability().overlap  # so that the session closes this connection before it opens the next


def test_symbols_come_and_go_on_the_open_connection() -> None:
    feed = make(spec("BTC-USD", "ETH-USD", channels=("trades",)))
    feed.on_open()
    for pair in ("btcusd", "ethusd"):
        feed.on_control(said("subscription_succeeded", f"live_trades_{pair}"))
    sent = [json.loads(c.payload) for c in feed.change(("ETH-USD", "XRP-USD")) if isinstance(c, Send)]
    assert [(m["event"], m["data"]["channel"]) for m in sent] == [
        ("bts:unsubscribe", "live_trades_btcusd"),
        ("bts:subscribe", "live_trades_xrpusd"),
    ]
    assert feed.on_control(said("unsubscription_succeeded", "live_trades_btcusd")) == []
    assert feed.on_control(said("subscription_succeeded", "live_trades_xrpusd")) == [Ready(("ETH-USD", "XRP-USD"))]
    again = [json.loads(c.payload)["event"] for c in feed.resubscribe([("trades", "XRP-USD")]) if isinstance(c, Send)]
    assert again == ["bts:unsubscribe", "bts:subscribe"]
    assert feed.subscriptions().acknowledged == {("trades", "ETH-USD")}


def test_a_channel_it_does_not_have_is_named() -> None:
    with pytest.raises(ConfigError, match="bars"):
        make(spec("BTC-USD", channels=("bars",)))
