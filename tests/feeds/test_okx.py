"""OKX: what its frames become, how loss is told, and how its connections are subscribed and given up."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import websockets
from decoding import FRAME_END, Recorded, facts, received, same_facts
from hypothesis import given
from hypothesis import strategies as st

from recorder.feeds import make
from recorder.feeds.okx import BUSY_HOLD_NS, PING, SUBSCRIBE_ITEMS_MAX
from recorder.shell.simulator import Simulator
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import FeedSpec, Notice, Ready, Reconnect, Renew, Send
from recorder.values.symbols import okx_canonical, okx_name

TRADE = (
    b'{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474",'
    b'"px":"42219.9","sz":"0.12060306","side":"buy","ts":"1630048897897","count":"3","source":"0","seqId":1234}]}'
)
ROW = {
    "ts_event": 1_630_048_897_897_000_000,
    "ts_recv": FRAME_END,
    "symbol": "BTC-USDT",
    "trade_id": 130639474,
    "price": 42219.9,
    "size": 0.12060306,
    "side": "buy",
    "flags": 0,
}
DEADLINE_S = 20


def spec(*symbols: str, **fields: Any) -> FeedSpec:
    return FeedSpec(**{"name": "o", "provider": "okx", "symbols": symbols, "channels": ("trades",), **fields})


def ack(name: str, channel: str = "trades-all") -> bytes:
    return json.dumps({"id": "1", "event": "subscribe", "arg": {"channel": channel, "instId": name}}).encode()


def error(code: str, words: str) -> bytes:
    return json.dumps({"event": "error", "code": code, "msg": words, "connId": "a4d3ae55"}).encode()


def missing(name: str, channel: str = "trades-all") -> bytes:
    return error("60018", f"Wrong URL or channel:{channel},instId:{name} doesn't exist. Please use the correct URL.")


def aggregated(last: int, count: int, name: str = "BTC-USDT") -> bytes:
    item = {"instId": name, "tradeId": str(last), "px": "1", "sz": "1", "side": "buy", "ts": "1630048897897"}
    return json.dumps(
        {"arg": {"channel": "trades", "instId": name}, "data": [{**item, "count": str(count)}]}
    ).encode()  # fmt: skip


# Frames


def test_a_trade_is_a_row_with_the_takers_side() -> None:
    assert Recorded("okx").decode(TRADE).rows("trades") == [ROW]
    sold = Recorded("okx").decode(TRADE.replace(b'"buy"', b'"sell"')).rows("trades")
    assert sold == [{**ROW, "side": "sell"}]


@pytest.mark.parametrize("rest", [b'"ts":"1630048897897"', b'"source":"0","ts":"1630048897897"'])
def test_a_single_trade_is_the_same_row_in_both_forms_seen(rest: bytes) -> None:
    frame = (
        b'{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474",'
        b'"px":"42219.9","sz":"0.12060306","side":"buy",%s}]}'
    )
    feed = Recorded("okx").decode(frame % rest)
    assert feed.rows("trades") == [ROW]
    assert feed.unknown == {}


def test_documented_frames_become_the_rows_they_say(shared_data: Path) -> None:
    feed = Recorded("okx")
    for name in ("trades", "tickers", "bbo_tbt", "candle", "books_snapshot", "books_update"):
        feed.decode((shared_data / "nautilus" / "okx" / f"ws_{name}.json").read_bytes())
    assert feed.rows("trades") == [{**ROW, "symbol": "BTC-USD"}]
    at = {"ts_event": 1_597_026_383_085_000_000, "ts_recv": FRAME_END, "symbol": "BTC-USDT", "flags": 0}
    assert feed.rows("quotes") == [
        {**at, "bid": 8888.88, "bid_size": 5.0, "ask": 9999.99, "ask_size": 11.0},
        {**at, "sequence": 123456, "bid": 8476.97, "bid_size": 256.0, "ask": 8476.98, "ask_size": 415.0},
    ]
    assert feed.rows("rejected") == []
    assert feed.unknown == {"message candle1D": 1}  # a day of Hong Kong: none of our timeframes


@pytest.mark.parametrize(("channel", "timeframe"), [("candle1m", "1m"), ("candle4H", "4h"), ("candle1Dutc", "1d")])
def test_only_a_closed_candle_is_a_bar(channel: str, timeframe: str) -> None:
    frame = (
        b'{"arg":{"channel":"%s","instId":"BTC-USDT-SWAP"},"data":[["1597026383085","8533.02","8553.74","8527.17",'
        b'"8548.26","45247","529.5858061","5529.5858061","%d"]]}'
    )
    feed = Recorded("okx")
    for confirm in (0, 0, 1):
        feed.decode(frame % (channel.encode(), confirm))
    assert feed.rows("bars") == [
        {
            "ts_event": 1_597_026_383_085_000_000, "ts_recv": FRAME_END, "symbol": "BTC-USDT-PERP",
            "timeframe": timeframe, "open": 8533.02, "high": 8553.74, "low": 8527.17, "close": 8548.26,
            "volume": 45247.0, "flags": 0,
        }
    ]  # fmt: skip


def test_a_side_without_orders_is_null() -> None:
    best = b'{"arg":{"channel":"bbo-tbt","instId":"A-B"},"data":[{"asks":[],"bids":[["9","2","0","1"]],"ts":"%d",'
    [row] = Recorded("okx").decode(best % 1_597_026_383_085 + b'"seqId":7}]}').rows("quotes")
    assert {"bid": 9.0, "bid_size": 2.0, "sequence": 7}.items() <= row.items()
    assert row.keys().isdisjoint({"ask", "ask_size"})


def test_one_bad_trade_is_rejected_and_its_neighbours_are_stored() -> None:
    good = json.loads(TRADE)["data"][0]
    bad = [
        {**good, "px": "0x10"}, {**good, "px": "-1"}, {**good, "sz": None}, {**good, "ts": "0"},
        {**good, "instId": "A"}, {**good, "tradeId": str(1 << 63)}, {**good, "side": "up"}, 5,
    ]  # fmt: skip
    whole = {"arg": {"channel": "trades", "instId": "BTC-USDT"}, "data": [good, *bad, {**good, "tradeId": "130639475"}]}
    feed = Recorded("okx").decode(json.dumps(whole).encode())
    assert feed.rows("trades") == [ROW, {**ROW, "trade_id": 130639475}]
    assert len(feed.rows("rejected")) == len(bad)


def test_an_unknown_field_or_message_is_counted_and_no_row_is_lost() -> None:
    feed = Recorded("okx")
    new = TRADE.replace(b'"px"', b'"rpi":"0","px"')
    for payload in (new, new, b'{"arg":{"channel":"liquidation-orders"},"data":[]}', b'{"event":"surprise"}', TRADE):
        feed.decode(payload)
    assert feed.unknown == {"field trades.rpi": 1, "message liquidation-orders": 1, "message event surprise": 1}
    assert feed.rows("trades") == [ROW, ROW, ROW]


def test_what_is_no_message_is_refused_and_a_pong_is_one() -> None:
    feed = Recorded("okx").decode(b"pong")
    for payload in (b"ping", b"{}", b'{"arg":{"channel":"trades"}}', b'{"arg":{"channel":"trades"},"data":5}', b"["):
        with pytest.raises(FrameError):
            feed.decode(payload)


def test_the_recording_replays_with_the_counted_facts(shared_data: Path) -> None:
    name = "cryptofeed/OKX/2022-05-13_OKX.ws.1.0.gz"
    expected = json.loads((shared_data / "expected.json").read_bytes())["files"][name]
    feed = Recorded("okx", (), trades="aggregated")
    for ts_recv, payload in received(shared_data / name):
        feed.decode(payload, ts_recv)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in feed.rows("trades"):
        found[row["symbol"]].append(row)
    for instrument, entry in expected["trades_by_symbol"].items():
        same_facts(facts(found.pop(okx_canonical(instrument))), entry)
    assert not found
    assert len(feed.rows("quotes")) == expected["messages_by_type"]["tickers"]
    assert feed.rows("rejected") == feed.rows("gaps") == []
    assert feed.unknown == {}


@pytest.mark.parametrize("part", ["56", "57", "58"])
def test_recordings_of_version_3_replay_with_the_counted_facts(shared_data: Path, part: str) -> None:
    name = f"cryptofeed/OKEX/2021-04-17_OKEX.ws.{part}.0.gz"
    expected = json.loads((shared_data / "expected.json").read_bytes())["files"][name]
    feed = Recorded("okx", (), trades="aggregated")
    for ts_recv, payload in received(shared_data / name):
        feed.decode(payload, ts_recv)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in feed.rows("trades"):
        found[row["symbol"]].append(row)
    for instrument, entry in expected["trades_by_symbol"].items():
        same_facts(facts(found.pop(okx_canonical(instrument))), entry)
    assert not found
    tickers = (n for kind, n in expected["messages_by_type"].items() if kind.endswith("/ticker_None"))
    assert len(feed.rows("quotes")) == sum(tickers)
    assert feed.rows("rejected") == feed.rows("gaps") == []
    assert feed.unknown == {}


def test_a_summary_of_options_is_a_leg_with_the_greeks_in_dollars(shared_data: Path) -> None:
    items = json.loads((shared_data / "nautilus/okx/ws_opt_summary.json").read_bytes())
    # As captured, then as documented: deltaBS instead of deltaBs.
    items += [{name.replace("Bs", "BS"): value for name, value in items[0].items()} | {"fwdPx": "", "markVol": ""}]
    bad = [{**items[0], "instId": "BTC-USD"}, {**items[0], "deltaBs": "x"}, {**items[0], "ts": "0"}]
    arg = {"channel": "opt-summary", "instFamily": "BTC-USD"}
    feed = Recorded("okx", (), ("options",)).decode(json.dumps({"arg": arg, "data": items + bad}).encode())
    leg = {
        "ts_event": 1_711_612_800 * 10**9, "ts_recv": FRAME_END, "symbol": "BTC-USD-250328-92000-C",
        "underlying": "BTC-USD", "expiration": 1_743_148_800 * 10**9, "strike": 92000.0, "option_type": "call",
        "iv": 0.53, "delta": 0.5312, "gamma": 0.0000134, "theta": -0.0015, "vega": 0.0038,
        "greeks_source": "provider", "underlying_price": 92150.5, "age_ns": 0,
    }  # fmt: skip
    put = {"symbol": "BTC-USD-250328-92000-P", "option_type": "put", "iv": 0.52, "delta": -0.4688}
    bare = {name: value for name, value in leg.items() if name not in ("iv", "underlying_price")}
    assert feed.rows("options_chain") == [leg, leg | put, bare]
    assert len(feed.rows("rejected")) == len(bad)
    assert feed.unknown == {}


def test_summaries_are_subscribed_to_by_family() -> None:
    names = ("BTC-USD-250328-92000-C", "BTC-USD-250328-92000-P", "ETH-USD-250328-2000-C", "BTC-USDT")
    feed = make(spec(*names, channels=("quotes", "options")))
    [sent] = [json.loads(command.payload) for command in feed.on_open() if isinstance(command, Send)]
    families = [{"channel": "opt-summary", "instFamily": name} for name in ("BTC-USD", "ETH-USD")]
    assert sent["args"] == [*({"channel": "bbo-tbt", "instId": name} for name in names), *families]
    desired = {("quotes", name) for name in names} | {("options", name) for name in names[:3]}
    assert feed.subscriptions().desired == feed.subscriptions().requested == desired
    for arg in sent["args"][:-1]:
        assert feed.on_control(json.dumps({"event": "subscribe", "arg": arg, "connId": "c"}).encode()) == []
    words = "Wrong URL or channel:opt-summary,instFamily:ETH-USD doesn't exist."
    notice, ready = feed.on_control(json.dumps({"event": "error", "code": "60018", "msg": words}).encode())
    assert isinstance(notice, Notice)
    assert ready == Ready(names)
    assert feed.subscriptions().acknowledged == desired - {("options", names[2])}
    [gone] = [json.loads(command.payload) for command in feed.change(names[1:3]) if isinstance(command, Send)]
    assert [arg["instId"] for arg in gone["args"]] == [names[0], names[3]]  # the family stays
    assert make(spec(names[0], channels=("trades", "options"))).shards()[1].channels == ("options",)
    with pytest.raises(SymbolError):
        make(spec("BTC-USDT", channels=("options",)))


OLD = b'{"side":"%s","trade_id":"30","price":"0.011",%s"instrument_id":"BTC-USD-210423-64000-C",%s}'
OLD_TIME = b'"timestamp":"2021-04-17T15:19:04.397Z"'


def test_a_trade_of_version_3_is_a_row_deflated_or_not_and_bad_ones_are_rejected_alone() -> None:
    items = [
        OLD % (b"sell", b'"qty":"7",', OLD_TIME), OLD % (b"buy", b'"size":"7",', OLD_TIME),
        OLD % (b"buy", b"", OLD_TIME), OLD % (b"up", b'"qty":"7",', OLD_TIME),
        OLD % (b"buy", b'"qty":"7",', b'"timestamp":"0001-01-01T00:00:00Z"'),
    ]  # fmt: skip
    table = b'{"table":"option/trade","data":[%s]}' % b",".join(items)
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    for payload in (table, deflate.compress(table) + deflate.flush()):
        feed = Recorded("okx").decode(payload)
        row = {
            "ts_event": 1_618_672_744_397_000_000, "ts_recv": FRAME_END, "symbol": "BTC-USD-210423-64000-C",
            "trade_id": 30, "price": 0.011, "size": 7.0, "side": "sell", "flags": 0,
        }  # fmt: skip
        assert feed.rows("trades") == [row, {**row, "side": "buy"}]
        assert len(feed.rows("rejected")) == 3
        assert feed.unknown == {}


def test_frames_that_are_neither_text_nor_deflated_are_refused() -> None:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    cut = (deflate.compress(b'{"table":"spot/trade","data":[]}') + deflate.flush())[:-4]
    for payload in (cut, b"\xff" * 9, b'{"table":"spot/trade"}', b'{"table":"spot/trade","data":5}'):
        with pytest.raises(FrameError):
            Recorded("okx").decode(payload)
    assert Recorded("okx").decode(b'{"table":"spot/news","data":[]}').unknown == {"message spot/news": 1}


# Loss


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=12), lost=st.sets(st.integers(0, 11)))
def test_a_hole_between_aggregated_trades_is_a_gap_of_just_the_ids_that_did_not_come(
    counts: list[int], lost: set[int]
) -> None:
    feed, last, came, expected = Recorded("okx", trades="aggregated"), 100, False, []
    hole = 0
    for i, count in enumerate(counts):
        last += count
        if i in lost:
            hole += count
            continue
        feed.decode(aggregated(last, count))
        if hole and came:
            expected.append((last - count - hole + 1, last - count, hole))
        came, hole = True, 0
    gaps = feed.rows("gaps")
    assert [(gap["from_id"], gap["to_id"], gap["missing"]) for gap in gaps] == expected
    assert {(gap["kind"], gap["channel"], gap["symbol"]) for gap in gaps} <= {("sequence", "trades", "BTC-USDT")}


def test_repeated_aggregated_trades_and_other_instruments_are_no_gap() -> None:
    feed = Recorded("okx", trades="aggregated")
    for payload in (aggregated(10, 3), aggregated(10, 3), aggregated(900, 1, "ETH-USDT"), aggregated(12, 2)):
        feed.decode(payload)
    assert feed.rows("gaps") == []


def test_single_trades_are_left_to_the_kernels_and_only_they_are_repaired() -> None:
    feed = Recorded("okx").decode(aggregated(10, 1)).decode(aggregated(15, 1))
    assert feed.rows("gaps") == []
    single, together = make(spec("BTC-USDT")), make(spec("BTC-USDT", options={"trades": "aggregated"}))
    assert single.capability().trade_ids == "contiguous"
    assert single.capability().history_channels == ("trades", "bars")
    assert together.capability().trade_ids == "increasing"
    assert together.capability().history_channels == ("bars",)


# The session


@pytest.mark.parametrize(
    ("symbol", "name"),
    [("btc-usdt", "BTC-USDT"), ("BTC/USDT", "BTC-USDT"), ("BTC-USDT-PERP", "BTC-USDT-SWAP"),
     ("BTC-USD-231229-35000-C", "BTC-USD-231229-35000-C"), ("BTC-USD-220527", "BTC-USD-220527")],
)  # fmt: skip
def test_names_are_mapped_both_ways(symbol: str, name: str) -> None:
    assert okx_name(symbol) == name
    assert okx_name(okx_canonical(name)) == name


def test_wrong_settings_are_named() -> None:
    for wrong in ("BTCUSDT", "", "BTC USDT", "A-" * 40):
        with pytest.raises(SymbolError):
            make(spec(wrong))
    with pytest.raises(ConfigError, match="single"):
        make(spec("BTC-USDT", options={"trades": "single"}))
    with pytest.raises(ConfigError, match="statuses"):
        make(spec("BTC-USDT", channels=("statuses",)))


def test_channels_of_different_paths_are_connections_of_their_own() -> None:
    whole = make(spec("BTC-USDT", channels=("trades", "quotes", "bars")))
    shards = whole.shards()
    assert [(shard.channels, shard.connection) for shard in shards] == [(("trades", "bars"), 0), (("quotes",), 1)]
    assert [make(shard).endpoint().url for shard in shards] == [
        "wss://ws.okx.com:8443/ws/v5/business",
        "wss://ws.okx.com:8443/ws/v5/public",
    ]
    own = make(spec("BTC-USDT", url="ws://127.0.0.1:20001/okx/ws/v5/public")).endpoint()
    assert (own.url, own.app_ping) == ("ws://127.0.0.1:20001/okx/ws/v5/business", PING)
    together = make(spec("BTC-USDT", channels=("trades", "quotes"), options={"trades": "aggregated"}))
    assert len(together.shards()) == 1


def test_it_subscribes_in_messages_of_bounded_size_and_is_ready_when_all_is_acknowledged() -> None:
    names = [f"A{i}-USDT" for i in range(SUBSCRIBE_ITEMS_MAX + 1)]
    feed = make(spec(*names))
    sent = [json.loads(command.payload) for command in feed.on_open() if isinstance(command, Send)]
    assert [len(message["args"]) for message in sent] == [SUBSCRIBE_ITEMS_MAX, 1]
    assert sent[0]["args"][0] == {"channel": "trades-all", "instId": "A0-USDT"}
    assert [feed.on_control(ack(name)) for name in names[:-1]] == [[]] * (len(names) - 1)
    assert feed.on_control(ack(names[-1])) == [Ready(tuple(names))]
    assert len(feed.subscriptions().acknowledged) == len(names)


def test_a_refused_instrument_is_told_and_does_not_stop_the_others() -> None:
    feed = make(spec("BTC-USDT", "FOO-USDT"))
    feed.on_open()
    [notice] = feed.on_control(missing("FOO-USDT"))
    assert isinstance(notice, Notice)
    assert notice.fields["symbol"] == "FOO-USDT"
    assert feed.on_control(ack("BTC-USDT")) == [Ready(("BTC-USDT",))]
    assert feed.subscriptions().desired - feed.subscriptions().acknowledged == {("trades", "FOO-USDT")}


def test_what_refuses_everything_is_waited_for() -> None:
    feed = make(spec("FOO-USDT"))
    feed.on_open()
    notice, again = feed.on_control(missing("FOO-USDT"))
    assert isinstance(notice, Notice)
    assert isinstance(again, Reconnect)
    assert again.hold_ns == BUSY_HOLD_NS


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (error("60014", "Requests too frequent"), Reconnect),
        (b'{"event":"channel-conn-count-error","channel":"orders","connCount":"31","connId":"a"}', Reconnect),
        (b'{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade."}', Renew),
        (b'{"event":"notice","code":"1","msg":"x"}', Notice),
        (error("60012", "Invalid request"), Notice),
        (missing("OTHER-USDT"), Notice),
    ],
)
def test_what_the_provider_says_of_the_connection_is_acted_on(payload: bytes, kind: type) -> None:
    feed = make(spec("BTC-USDT"))
    feed.on_open()
    [command] = feed.on_control(payload)
    assert isinstance(command, kind)


def test_symbols_are_changed_in_every_channel() -> None:
    feed = make(spec("BTC-USDT", channels=("trades", "bars")))
    feed.on_open()
    sent = [json.loads(command.payload) for command in feed.change(("ETH-USDT",))]  # type: ignore[union-attr]
    asked = [(message["op"], [arg["channel"] for arg in message["args"]]) for message in sent]
    assert asked == [("unsubscribe", ["trades-all", "candle1m"]), ("subscribe", ["trades-all", "candle1m"])]


def test_symbols_are_changed_and_asked_for_again_on_the_open_connection() -> None:
    feed = make(spec("BTC-USDT", "ETH-USDT"))
    feed.on_open()
    for name in ("BTC-USDT", "ETH-USDT"):
        feed.on_control(ack(name))
    gone, fresh = (json.loads(command.payload) for command in feed.change(("ETH-USDT", "SOL-USDT-PERP")))  # type: ignore[union-attr]
    assert (gone["op"], [arg["instId"] for arg in gone["args"]]) == ("unsubscribe", ["BTC-USDT"])
    assert (fresh["op"], [arg["instId"] for arg in fresh["args"]]) == ("subscribe", ["SOL-USDT-SWAP"])
    assert feed.on_control(ack("SOL-USDT-SWAP")) == [Ready(("ETH-USDT", "SOL-USDT-PERP"))]
    again = [json.loads(command.payload)["op"] for command in feed.resubscribe([("trades", "SOL-USDT-PERP")])]  # type: ignore[union-attr]
    assert again == ["unsubscribe", "subscribe"]


# The simulator


async def told(ws: Any, request: Any, answers: int) -> list[Any]:
    await ws.send(request if isinstance(request, str) else json.dumps(request))
    return [json.loads(await ws.recv()) for _ in range(answers)]


def subscribe(*args: tuple[str, str]) -> dict[str, Any]:
    return {"id": "7", "op": "subscribe", "args": [{"channel": c, "instId": i} for c, i in args]}


@pytest.mark.parametrize(
    ("path", "request_", "code"),
    [
        ("public", subscribe(("trades-all", "BTC-USDT")), "60018"),
        ("business", subscribe(("bbo-tbt", "BTC-USDT")), "60018"),
        ("business", subscribe(("trades-all", "FOO-USDT")), "60018"),
        ("public", subscribe(("books-l2-tbt", "BTC-USDT")), "64003"),
        ("public", {"op": "noise", "args": []}, "60012"),
        ("public", "{", "60012"),
    ],
)
def test_the_simulator_answers_with_the_documented_errors(path: str, request_: Any, code: str) -> None:
    async def body() -> None:
        async with (
            Simulator(["okx"], total=0, symbols=["BTC-USDT"]) as sim,
            asyncio.timeout(DEADLINE_S),
            websockets.connect(f"{sim.url('okx')}/ws/v5/{path}") as ws,
        ):
            [answer] = await told(ws, request_, 1)
            assert (answer["event"], answer["code"]) == ("error", code)
            await ws.send("ping")
            assert await ws.recv() == "pong"

    asyncio.run(body())


def test_the_simulator_limits_requests_and_cuts_who_is_silent() -> None:
    elapsed = [0]

    async def body() -> None:
        async with (
            Simulator(
                ["okx"], total=0, symbols=["BTC-USDT"], rules={"okx": {"requests_max": 1}},
                wall=lambda: 1_790_000_000 * 10**9 + elapsed[0],
            ) as sim,
            asyncio.timeout(DEADLINE_S),
            websockets.connect(f"{sim.url('okx')}/ws/v5/public") as ws,
        ):  # fmt: skip
            request = subscribe(("trades", "BTC-USDT"))
            ack_, old = await told(ws, request, 2)
            assert (ack_["event"], ack_["id"], old["data"][0]["instId"]) == ("subscribe", "7", "BTC-USDT")
            assert (await told(ws, request, 1))[0]["code"] == "60014"
            elapsed[0] = 31 * 10**9
            with pytest.raises(websockets.ConnectionClosed):
                await ws.recv()

    asyncio.run(body())
