"""Massive (Polygon): what its messages and pages become, its session, and the simulated clusters."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import websockets
from decoding import FRAME_END, Recorded
from history_exchange import get
from hypothesis import given
from hypothesis import strategies as st

from recorder.feeds import make
from recorder.feeds.polygon import KEY, LIMIT_HOLD_NS, SUBSCRIBE_TOKENS_MAX
from recorder.feeds.polygon.conditions import option_flags, stock_flags
from recorder.feeds.polygon.rows import unix_ns
from recorder.shell.simulator import Simulator
from recorder.shell.simulator.polygon import CONTRACTS_MAX
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import Fatal, FeedSpec, HistoryRequest, HttpResponse, Notice, Ready, Reconnect, Send
from recorder.values.tables import (
    BACKFILLED,
    CANCELLED,
    CORRECTED,
    DAY_HIGH_LOW,
    HALTED,
    NOT_LAST_ELIGIBLE,
    NOT_VOLUME_ELIGIBLE,
)

SECRET = "a-key-of-these-tests"
DEADLINE_S = 20
OPTION = "AAPL  251219C00150000"
BARRED = NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
# As sent on 2026-08-13 and, the last one, in February 2024.
QUOTE = (
    b'{"ev":"Q","sym":"NVDA","i":[604],"bx":10,"ax":15,"bp":225.62,"ap":225.64,"bs":100,"as":500,"t":1786649956446,'
    b'"pt":1786649956446,"q":106078192,"z":3}'
)
TRADE = (
    b'{"ev":"T","sym":"NVDA","i":"40161","x":4,"p":225.63,"s":129,"t":1786649956459,"pt":1786649956458,"q":9059424,'
    b'"z":3,"trfi":202,"trft":1786649956459,"ds":"129.0"}'
)
ODD_LOT = b'{"ev":"T","sym":"BMBL","i":"2784","x":12,"p":13.485,"s":5,"c":[37],"t":1708453945554,"q":4958601,"z":3}'
NVDA = {
    "ts_event": 1_786_649_956_459_000_000, "ts_recv": FRAME_END, "symbol": "NVDA", "exchange": "4/202",
    "trade_id": 40161, "price": 225.63, "size": 129.0, "tape": "C", "flags": 0,
}  # fmt: skip


def spec(*symbols: str, **fields: Any) -> FeedSpec:
    return FeedSpec(**{"name": "p", "provider": "polygon", "symbols": symbols, "channels": ("trades",), **fields})


def feed_of(*symbols: str, **fields: Any) -> Any:
    return make(spec(*symbols, **fields), {KEY: SECRET})


def said(*messages: tuple[str, str]) -> bytes:
    return json.dumps([{"ev": "status", "status": status, "message": words} for status, words in messages]).encode()


def subscribed(*tokens: str) -> bytes:
    return said(*(("success", f"subscribed to: {token}") for token in tokens))


def opened(*symbols: str, **fields: Any) -> tuple[Any, list[Any]]:
    """A feed that is authenticated, and what it has asked for."""
    feed = feed_of(*symbols, **fields)
    assert feed.on_open() == []
    [auth] = feed.on_control(said(("connected", "Connected Successfully")))
    assert auth == Send(f'{{"action":"auth","params":"{SECRET}"}}', secret=True)
    return feed, feed.on_control(said(("auth_success", "authenticated")))


def asked(commands: list[Any]) -> list[tuple[str, list[str]]]:
    requests = [json.loads(command.payload) for command in commands if isinstance(command, Send)]
    return [(request["action"], request["params"].split(",")) for request in requests]


def rows(payload: bytes, table: str, **options: str) -> list[dict[str, Any]]:
    recorded = Recorded("polygon", (), **options).decode(b"[" + payload + b"]")
    assert recorded.rows("rejected") == []
    assert recorded.unknown == {}
    return recorded.rows(table)


# Messages


def test_trades_as_sent_are_rows_with_fractions_of_shares_and_the_tapes_letter() -> None:
    assert rows(TRADE, "trades") == [NVDA]
    half = TRADE.replace(b'"s":129', b'"s":0').replace(b'"129.0"', b'"0.740474"')
    assert rows(half, "trades") == [{**NVDA, "size": 0.740474}]
    [odd] = rows(ODD_LOT, "trades")
    assert (odd["trade_id"], odd["size"], odd["conditions"], odd["flags"]) == (2784, 5.0, "37", NOT_LAST_ELIGIBLE)


def test_documented_messages_are_read() -> None:
    [trade] = rows(
        b'{"ev":"T","sym":"MSFT","x":4,"i":"12345","z":3,"p":114.125,"s":100,"c":[0,12],"t":1536036818784,"q":3681328}',
        "trades",
    )
    assert (trade["conditions"], trade["flags"], trade["trade_id"]) == ("0,12", NOT_LAST_ELIGIBLE, 12345)
    [quote] = rows(
        b'{"ev":"Q","sym":"MSFT","bx":4,"bp":114.125,"bs":100,"ax":7,"ap":114.128,"as":160,"c":0,"i":[604],'
        b'"t":1536036818784,"q":50385480,"z":3}',
        "quotes",
    )
    assert quote == {
        "ts_event": 1_536_036_818_784_000_000, "ts_recv": FRAME_END, "symbol": "MSFT", "sequence": 50385480,
        "bid": 114.125, "bid_size": 100.0, "ask": 114.128, "ask_size": 160.0, "bid_exchange": "4", "ask_exchange": "7",
        "conditions": "0,604", "flags": 0,
    }  # fmt: skip
    [bar] = rows(
        b'{"ev":"AM","sym":"GTE","v":4110,"av":9470157,"op":0.4372,"vw":0.4488,"o":0.4488,"c":0.4486,"h":0.4489,'
        b'"l":0.4486,"a":0.4352,"z":685,"s":1610144640000,"e":1610144700000}',
        "bars",
    )
    assert bar == {
        "ts_event": 1_610_144_640_000_000_000, "ts_recv": FRAME_END, "symbol": "GTE", "timeframe": "1m", "open": 0.4488,
        "high": 0.4489, "low": 0.4486, "close": 0.4486, "volume": 4110.0, "vwap": 0.4488, "flags": 0,
    }  # fmt: skip
    [value] = rows(b'{"ev":"FMV","fmv":189.22,"sym":"AAPL","t":1678220098130}', "valuations")
    assert (value["kind"], value["value"], value["ts_event"]) == ("fmv", 189.22, 1_678_220_098_130_000_000)


def test_a_second_as_sent_counts_fractions_of_shares() -> None:
    [bar] = rows(
        b'{"ev":"A","sym":"FCX","v":4989,"av":4332125,"op":75.98,"vw":78.0894,"o":78.1,"c":78.08,"h":78.125,"l":78.07,'
        b'"a":76.8404,"z":62,"s":1788877043000,"e":1788877044000,"dv":"4989.5","dav":"4332125.038360"}',
        "bars",
    )
    assert (bar["timeframe"], bar["volume"], bar["ts_event"]) == ("1s", 4989.5, 1_788_877_043_000_000_000)


def test_options_carry_occ_symbols_and_their_sequence_as_id() -> None:
    [trade] = rows(
        b'{"ev":"T","sym":"O:AMC210827C00037000","x":65,"p":1.54,"s":1,"c":[209],"t":1629820676333,"q":651921857}',
        "trades",
        cluster="options",
    )
    assert (trade["symbol"], trade["trade_id"], trade["exchange"], trade["flags"]) == (
        "AMC   210827C00037000", 651921857, "65", 0,
    )  # fmt: skip
    [quote] = rows(
        b'{"ev":"Q","sym":"O:SPY241220P00720000","bx":302,"ax":302,"bp":0,"ap":9.81,"bs":0,"as":24,"t":1644506128351,'
        b'"q":844090872}',
        "quotes",
        cluster="options",
    )
    assert quote.keys().isdisjoint({"bid", "bid_size", "conditions"})  # nobody bids
    assert (quote["symbol"], quote["ask"], quote["ask_exchange"]) == ("SPY   241220P00720000", 9.81, "302")


@pytest.mark.parametrize(
    ("codes", "side"), [("[2]", "buy"), ("[1]", "sell"), ("[0]", None), ("[]", None), ("2", "buy")]
)
def test_coins_have_a_side_and_any_id(codes: str, side: str | None) -> None:
    text = (
        f'{{"ev":"XT","pair":"BTC-USD","p":43575.6,"t":1706649628023,"s":4.522e-05,"c":{codes},"i":'
        '"1b254a48-7258-4465-8215-2610ccf9ab21","x":23,"r":1706649628068}'
    )
    [trade] = rows(text.encode(), "trades", cluster="crypto")
    assert (trade["symbol"], trade.get("side"), trade["size"]) == ("BTC-USD", side, 4.522e-05)
    assert trade["trade_ref"] == "1b254a48-7258-4465-8215-2610ccf9ab21"
    assert "conditions" not in trade


def test_coins_quotes_name_the_exchange_and_bars_come_by_the_minute_and_second() -> None:
    [quote] = rows(
        b'{"ev":"XQ","pair":"CHZ-USD","lp":0,"ls":0,"bp":0.0771,"bs":41650.4,"ap":0.0773,"as":142883.4,'
        b'"t":1690409119847,"x":1,"r":1690409119856}',
        "quotes",
        cluster="crypto",
    )
    assert (quote["bid"], quote["bid_exchange"], quote["ask_exchange"]) == (0.0771, "1", "1")
    bar = b'{"ev":"%s","pair":"BTC-USD","v":2,"vw":9114.5,"z":0.65,"o":1,"c":2,"h":3,"l":1,"s":1594917720000,"e":0}'
    for tag, timeframe in ((b"XA", "1m"), (b"XAS", "1s")):
        assert [row["timeframe"] for row in rows(bar % tag, "bars", cluster="crypto")] == [timeframe]


@given(ns=st.integers(946_684_800 * 10**9, 4_000_000_000 * 10**9))
def test_the_unit_of_a_time_is_told_by_its_size(ns: int) -> None:
    assert unix_ns(ns) == ns
    assert unix_ns(ns // 1000) == ns // 1000 * 1000
    assert unix_ns(ns // 10**6) == ns // 10**6 * 10**6


@pytest.mark.parametrize("name", ["BACpB", "BACPB", "BRK.A", "AAPLw", "NTEST.Q"])
def test_a_preferred_share_is_not_the_stock_of_the_same_letters(name: str) -> None:
    [row] = rows(TRADE.replace(b"NVDA", name.encode()), "trades")
    assert row["symbol"] == name


@pytest.mark.parametrize("t", ["1601316752683746", "1601316752683746000"])
def test_price_bands_are_statuses_in_either_unit_seen(t: str) -> None:
    text = f'{{"ev":"LULD","T":"MSFT","h":218.96,"l":198.11,"i":[21],"z":3,"t":{t},"q":290317}}'
    assert rows(text.encode(), "statuses") == [
        {
            "ts_event": 1_601_316_752_683_746_000, "ts_recv": FRAME_END, "symbol": "MSFT", "kind": "luld", "code": "21",
            "limit_up": 218.96, "limit_down": 198.11, "tape": "C",
        }
    ]  # fmt: skip


def test_trades_between_halt_and_resumption_are_flagged_until_the_connection_ends() -> None:
    band = b'[{"ev":"LULD","T":"NVDA","h":1,"l":1,"i":[%d],"z":3,"t":1786649956459,"q":1}]'
    feed = Recorded("polygon", ())
    trade, greeting = b"[" + TRADE + b"]", said(("connected", "Connected Successfully"))
    for payload in (trade, band % 17, trade, band % 18, trade, band % 17, greeting, trade):
        feed.decode(payload)
    assert [row["flags"] for row in feed.rows("trades")] == [0, HALTED, 0, 0]


def test_one_bad_message_is_rejected_and_its_neighbours_are_stored() -> None:
    bad = [
        b'{"ev":"T","sym":"NVDA","p":-1,"s":1,"t":1786649956459}',
        b'{"ev":"T"}',
        b"5",
        b'{"ev":5}',
    ]
    feed = Recorded("polygon", ()).decode(b"[" + b",".join([TRADE, *bad, QUOTE]) + b"]")
    assert feed.rows("trades") == [NVDA]
    assert len(feed.rows("quotes")) == 1
    assert len(feed.rows("rejected")) == len(bad)


def test_a_side_that_is_null_is_one_that_is_not_there() -> None:
    quote = {"ev": "Q", "sym": "MSFT", "bx": 4, "bp": 114.125, "bs": 100, "ax": None, "ap": None, "as": None,
             "t": 1536036818784, "q": 5}  # fmt: skip
    feed = Recorded("polygon", ()).decode(json.dumps([quote]).encode())
    [row] = feed.rows("quotes")
    assert (row["bid"], row["bid_size"]) == (114.125, 100)
    assert not {"ask", "ask_size", "ask_exchange"} & row.keys()
    assert feed.rows("rejected") == []


def test_an_unknown_field_or_message_is_counted_and_no_row_is_lost() -> None:
    new = TRADE.replace(b'"p"', b'"rpi":1,"p"')
    feed = Recorded("polygon", ())
    for payload in (b"[" + new + b"]", b"[" + new + b"]", b'[{"ev":"NEW","a":1}]', b'[{"ev":"NOI","T":"A","at":930}]'):
        feed.decode(payload)
    assert feed.unknown == {"field T.rpi": 1, "message NEW": 1}
    assert feed.rows("trades") == [NVDA, NVDA]
    for payload in (b"{}", b"5", b"[", b'"text"'):
        with pytest.raises(FrameError):
            feed.decode(payload)


# Conditions


def test_conditions_agree_with_the_rules_that_massive_publishes(shared_data: Path) -> None:
    page = json.loads((shared_data / "polygon/v3/reference/conditions_asset_class=stocks.json").read_bytes())
    assert len(page["results"]) == 10
    for condition in page["results"]:
        rules = condition["update_rules"]["consolidated"]
        for tape in (1, 2, 3):
            flags, unknown = stock_flags((condition["id"],), tape)
            assert unknown == []
            assert (not flags & NOT_LAST_ELIGIBLE) == rules["updates_open_close"], condition
            assert (not flags & NOT_LAST_ELIGIBLE or bool(flags & DAY_HIGH_LOW)) == rules["updates_high_low"], condition
            assert (not flags & NOT_VOLUME_ELIGIBLE) == rules["updates_volume"], condition


@pytest.mark.parametrize(
    ("code", "flags"),
    [(201, BARRED), (202, NOT_LAST_ELIGIBLE), (203, BARRED), (207, BARRED), (208, 0), (209, 0), (219, 0), (227, 0),
     (231, 0), (232, NOT_LAST_ELIGIBLE), (245, NOT_LAST_ELIGIBLE), (248, NOT_LAST_ELIGIBLE), (3, NOT_LAST_ELIGIBLE)],
)  # fmt: skip
def test_cancels_of_options_count_nowhere_and_packages_set_no_price(code: int, flags: int) -> None:
    assert option_flags((code,), None) == (flags, [3] if code == 3 else [])
    assert option_flags((209, code), None)[0] == flags


def test_an_unknown_condition_is_counted_once_by_its_number() -> None:
    feed = Recorded("polygon", ())
    for tape in (1, 3):
        feed.decode(b"[" + ODD_LOT.replace(b"[37]", b"[999]").replace(b'"z":3', b'"z":%d' % tape) + b"]")
    assert feed.unknown == {"condition 999": 1}


# The session


def test_settings_and_symbols_are_those_of_the_cluster() -> None:
    assert feed_of("aapl").endpoint().url == "wss://socket.massive.com/stocks"
    late = feed_of(OPTION, options={"cluster": "options", "timing": "delayed"})
    assert late.endpoint().url == "wss://delayed.massive.com/options"
    for cluster in ("stocks", "crypto"):
        own = feed_of(url="ws://127.0.0.1:20001/polygon/stocks", options={"cluster": cluster})
        assert own.endpoint().url == f"ws://127.0.0.1:20001/polygon/{cluster}"
    for cluster, written in (("stocks", "O:X Y"), ("options", "AAPL"), ("crypto", "BTCUSD")):
        with pytest.raises(SymbolError):
            feed_of(written, options={"cluster": cluster})
    with pytest.raises(ConfigError, match="crypto has no channel 'statuses'"):
        feed_of("BTC-USD", channels=("statuses",), options={"cluster": "crypto"})
    with pytest.raises(ConfigError, match="by contract only"):
        feed_of("*", channels=("quotes",), options={"cluster": "options"})
    assert feed_of("*", options={"cluster": "options"}).names == ("*",)


@pytest.mark.parametrize(
    ("cluster", "written", "name"),
    [("stocks", " brk.b", "BRK.B"), ("stocks", "BACpB", "BACpB"), ("stocks", "Aapl", "AAPL"),
     ("options", "AAPL251219C00150000", "O:AAPL251219C00150000"),
     ("options", OPTION, "O:AAPL251219C00150000"), ("options", "O:TSLA1251219P00007500", "O:TSLA1251219P00007500"),
     ("crypto", "btc/usd", "BTC-USD"), ("crypto", "X:ETH-USD", "ETH-USD")],
)  # fmt: skip
def test_symbols_are_asked_for_as_massive_writes_them(cluster: str, written: str, name: str) -> None:
    _, commands = opened(written, options={"cluster": cluster})
    assert asked(commands) == [("subscribe", [("XT." if cluster == "crypto" else "T.") + name])]


def test_it_authenticates_subscribes_in_parts_and_is_ready_when_all_is_acknowledged() -> None:
    names = [f"A{i}" for i in range(SUBSCRIBE_TOKENS_MAX)]
    feed, commands = opened(*names, "BRK.B", channels=("trades", "quotes"))
    requests = asked(commands)
    assert [len(tokens) for _, tokens in requests] == [500, 500, 2]
    tokens = [token for _, some in requests for token in some]
    assert tokens == [f"{topic}.{name}" for topic in ("Q", "T") for name in [*names, "BRK.B"]]
    assert feed.on_control(subscribed(*tokens[:-1])) == []
    assert feed.on_control(subscribed(tokens[-1])) == [Ready((*names, "BRK.B"))]
    sets = feed.subscriptions()
    assert sets.desired == sets.requested == sets.acknowledged
    assert ("quotes", "BRK.B") in sets.desired


def test_topics_passed_over_in_silence_hold_up_nothing_and_are_told() -> None:
    feed, commands = opened("AAPL", channels=("trades", "quotes", "bars", "statuses", "valuations"))
    [(_, tokens)] = asked(commands)
    assert tokens == ["FMV.AAPL", "LULD.AAPL", "AM.AAPL", "Q.AAPL", "T.AAPL"]
    notice, ready = feed.on_control(subscribed("AM.AAPL", "Q.AAPL", "T.AAPL"))
    assert notice == Notice("subscription.incomplete", {"missing": 2, "tokens": ["FMV.AAPL", "LULD.AAPL"]})
    assert ready == Ready(("AAPL",))
    sets = feed.subscriptions()
    assert sets.desired - sets.acknowledged == {("valuations", "AAPL"), ("statuses", "AAPL")}
    assert asked(feed.resubscribe([("statuses", "AAPL")])) == [
        ("unsubscribe", ["LULD.AAPL"]), ("subscribe", ["LULD.AAPL"]),
    ]  # fmt: skip


def test_a_session_without_its_key_does_not_start() -> None:
    [fatal] = make(spec("AAPL"), {}).on_open()
    assert isinstance(fatal, Fatal)
    assert KEY in fatal.reason


@pytest.mark.parametrize(
    ("status", "words", "kinds"),
    [
        ("auth_failed", "authentication failed", [Fatal]),
        ("auth_failed", "Your plan doesn't include websocket access.", [Fatal]),
        ("auth_timeout", "No authentication request received.", [Reconnect]),
        ("max_connections", "Maximum number of websocket connections exceeded.", [Reconnect]),
        ("slow_consumer", "", [Notice, Reconnect]),
        ("force_disconnect", "", [Reconnect]),
        ("error", "something else", [Notice]),
        ("unheard_of", "", [Notice]),
    ],
)
def test_each_documented_status_is_acted_on(status: str, words: str, kinds: list[type]) -> None:
    feed, _ = opened("AAPL")
    commands = feed.on_control(said((status, words)))
    assert [type(command) for command in commands] == kinds
    assert SECRET not in repr(commands)
    if status == "max_connections":
        assert commands[0].hold_ns == LIMIT_HOLD_NS


def test_a_refused_subscription_is_told_and_all_refused_is_waited_for() -> None:
    feed, _ = opened("AAPL", "MSFT")
    [notice] = feed.on_control(said(("error", "not entitled to T.AAPL")))
    assert (notice.event, notice.fields["symbol"]) == ("symbol.refused", "AAPL")
    assert feed.on_control(subscribed("T.MSFT")) == [Ready(("MSFT",))]
    feed, _ = opened("AAPL")
    _, again = feed.on_control(said(("error", "not entitled to T.AAPL")))
    assert again.hold_ns == LIMIT_HOLD_NS


def test_symbols_are_changed_on_the_open_connection() -> None:
    feed, _ = opened("AAPL", "MSFT")
    feed.on_control(subscribed("T.AAPL", "T.MSFT"))
    commands = feed.change(("MSFT", "BRK.B"))
    assert asked(commands) == [("unsubscribe", ["T.AAPL"]), ("subscribe", ["T.BRK.B"])]
    assert feed.on_control(said(("success", "unsubscribed to: T.AAPL"))) == []
    assert feed.on_control(subscribed("T.BRK.B")) == [Ready(("MSFT", "BRK.B"))]
    early = feed_of("AAPL")
    assert early.change(("MSFT",)) == []


# History


def page_rows(name: str, channel: str, shared_data: Path, **options: str) -> tuple[list[dict[str, Any]], Recorded]:
    recorded = Recorded("polygon", (), **options)
    request = HistoryRequest("AAPL", channel, 0, FRAME_END, timeframe="1d" if channel == "bars" else "")
    decode = recorded.feed.history_decoder(recorded.scope)  # type: ignore[attr-defined]
    decode(request, (shared_data / "polygon" / name).read_bytes(), FRAME_END)
    assert recorded.rows("rejected") == []
    return recorded.rows(channel), recorded


def test_recorded_pages_of_quotes_are_read_and_chained_by_their_cursor(shared_data: Path) -> None:
    first = shared_data / "polygon/v3/quotes/AAPL.json"
    page = json.loads(first.read_bytes())
    found, _ = page_rows("v3/quotes/AAPL.json", "quotes", shared_data)
    assert [(r["sequence"], r["bid"], r["bid_size"], r["ask"], r["ask_size"]) for r in found] == [
        (q["sequence_number"], q["bid_price"], q["bid_size"], q["ask_price"], q["ask_size"]) for q in page["results"]
    ]
    assert [r["ts_event"] for r in found] == [q["sip_timestamp"] // 10**6 * 10**6 for q in page["results"]]
    assert {row["flags"] for row in found} == {BACKFILLED}
    pages = feed_of("AAPL").history(HistoryRequest("AAPL", "quotes", 5 * 10**6 + 7, 9 * 10**6))
    request = next(pages)
    assert request.url == (
        "https://api.massive.com/v3/quotes/AAPL?timestamp.gte=5000000&timestamp.lte=9999999&order=asc&sort=timestamp"
        "&limit=50000"
    )
    assert request.secret_headers == (("Authorization", f"Bearer {SECRET}"),)
    following = pages.send(HttpResponse(200, {}, first.read_bytes()))
    assert following.url == page["next_url"]
    assert SECRET not in request.url + following.url
    [last] = (shared_data / "polygon/v3/quotes").glob("AAPL_cursor*")
    with pytest.raises(StopIteration):
        pages.send(HttpResponse(200, {}, last.read_bytes()))


def test_recorded_bars_of_a_day_are_read(shared_data: Path) -> None:
    found, _ = page_rows("v2/aggs/ticker/AAPL/range/1/day/2005-04-01/2005-04-04.json", "bars", shared_data)
    assert found[0] == {
        "ts_event": 1_112_331_600_000_000_000, "ts_recv": FRAME_END, "symbol": "AAPL", "timeframe": "1d",
        "open": 1.5032, "high": 1.5064, "low": 1.4489, "close": 1.4604, "volume": 642646396.0, "vwap": 1.469,
        "trade_count": 82132, "flags": BACKFILLED,
    }  # fmt: skip
    assert len(found) == 2
    asked_for = HistoryRequest("AAPL", "bars", 10**15, 2 * 10**15, timeframe="5m")
    assert next(feed_of("AAPL").history(asked_for)).url == (
        "https://api.massive.com/v2/aggs/ticker/AAPL/range/5/minute/1000000000/2000000000?adjusted=false&sort=asc"
        "&limit=50000"
    )


@pytest.mark.parametrize(
    ("cluster", "channel", "symbol", "path"),
    [("options", "trades", OPTION, "/v3/trades/O:AAPL251219C00150000"), ("crypto", "trades", "BTC-USD",
      "/v3/trades/X:BTC-USD"), ("crypto", "bars", "BTC-USD", "/v2/aggs/ticker/X:BTCUSD/range/1/minute/0/0")],
)  # fmt: skip
def test_addresses_name_symbols_as_http_does(cluster: str, channel: str, symbol: str, path: str) -> None:
    feed = feed_of(symbol, options={"cluster": cluster})
    assert next(feed.history(HistoryRequest(symbol, channel, 0, 1))).url.startswith(f"https://api.massive.com{path}?")


def test_withdrawn_trades_are_flagged_records_of_it_left_out_and_replacements_named() -> None:
    base = {"price": 1.5, "size": 2, "exchange": 11, "sip_timestamp": 1_767_225_600_123_456_789, "tape": 1}
    items = [{**base, "id": str(i), **({"correction": i} if i else {})} for i in (0, 1, 7, 8, 10, 11, 12)]
    recorded = Recorded("polygon", ())
    decode = recorded.feed.history_decoder(recorded.scope)  # type: ignore[attr-defined]
    decode(HistoryRequest("AAPL", "trades", 0, FRAME_END), json.dumps({"results": items}).encode(), FRAME_END)
    flags = {row["trade_id"]: row["flags"] & ~BACKFILLED for row in recorded.rows("trades")}
    assert flags == {0: 0, 1: CANCELLED, 7: CANCELLED, 8: CANCELLED, 12: CORRECTED}


def test_equal_ids_of_two_reporting_facilities_are_two_trades() -> None:
    frame = b"[" + TRADE + b"," + TRADE.replace(b'"trfi":202', b'"trfi":201') + b"]"
    found = Recorded("polygon", ()).decode(frame).rows("trades")
    assert [(row["trade_id"], row["exchange"]) for row in found] == [(40161, "4/202"), (40161, "4/201")]


def test_a_trade_of_an_option_that_cannot_be_told_from_the_streams_is_rejected() -> None:
    recorded = Recorded("polygon", (), cluster="options")
    decode = recorded.feed.history_decoder(recorded.scope)  # type: ignore[attr-defined]
    body = b'{"results":[{"price":1.5,"size":2,"exchange":4,"sip_timestamp":1767225600123456789}],"status":"OK"}'
    decode(HistoryRequest(OPTION, "trades", 0, FRAME_END), body, FRAME_END)
    [rejected] = recorded.rows("rejected")
    assert "sequence_number" in rejected["reason"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"status": "NOT_AUTHORIZED", "message": "You are not entitled"}, "not entitled"),
        ({"status": "ERROR", "error": "Unknown API Key"}, "Unknown API Key"),
        ({"status": "OK", "results": 5}, "array"),
        ({"status": "OK", "next_url": "https://elsewhere.example/v3/trades/A?cursor=x"}, "not Massive's"),
        ([], "no page"),
    ],
)
def test_what_is_no_page_is_refused_and_ends_the_search_and_the_key_goes_nowhere_else(body: Any, words: str) -> None:
    recorded, payload = Recorded("polygon", ()), json.dumps(body).encode()
    request = HistoryRequest("AAPL", "trades", 0, FRAME_END)
    with pytest.raises(FrameError, match=words):
        recorded.feed.history_decoder(recorded.scope)(request, payload, FRAME_END)  # type: ignore[attr-defined]
    pages = feed_of("AAPL").history(request)
    next(pages)
    with pytest.raises(StopIteration if words == "array" else FrameError):  # its results are the decoder's to judge
        pages.send(HttpResponse(200, {}, payload))


def test_no_results_are_no_rows_and_the_next_page_is_asked_of_the_same_server() -> None:
    feed = feed_of("AAPL", url="ws://127.0.0.1:20001/polygon/stocks", rest_url="http://127.0.0.1:20001/polygon")
    pages = feed.history(HistoryRequest("AAPL", "trades", 0, 1))
    assert next(pages).url.startswith("http://127.0.0.1:20001/polygon/v3/trades/AAPL?")
    body = b'{"status":"OK","next_url":"https://api.polygon.io/v3/trades/AAPL?cursor=YXA9"}'
    assert pages.send(HttpResponse(200, {}, body)).url == "http://127.0.0.1:20001/polygon/v3/trades/AAPL?cursor=YXA9"
    with pytest.raises(ConfigError, match=KEY):
        make(spec("AAPL"), {}).history(HistoryRequest("AAPL", "trades", 0, 1))  # type: ignore[attr-defined]


# The simulator


async def told(ws: Any, request: dict[str, str]) -> list[tuple[str, str]]:
    """Statuses in the frame that answers."""
    await ws.send(json.dumps(request))
    return [(message["status"], message["message"]) for message in json.loads(await ws.recv())]


async def greeted(ws: Any) -> None:
    assert json.loads(await ws.recv())[0]["status"] == "connected"
    assert await told(ws, auth()) == [("auth_success", "authenticated")]


def auth(key: str = "k") -> dict[str, str]:
    return {"action": "auth", "params": key}


def simulated(test: Any, rules: dict[str, object] | None = None, **settings: Any) -> None:
    async def body() -> None:
        async with (
            Simulator(["polygon"], total=0, rules={"polygon": {"keys": {"k": ""}, **(rules or {})}}, **settings) as sim,
            asyncio.timeout(DEADLINE_S),
        ):
            await test(sim)

    asyncio.run(body())


def test_the_simulator_acknowledges_each_token_and_passes_over_unknown_topics() -> None:
    async def test(sim: Simulator) -> None:
        async with websockets.connect(sim.url("polygon")) as ws:
            await greeted(ws)
            params = "T.AAPL,ZZ.AAPL,AM.*,T.NOBODY"
            assert await told(ws, {"action": "subscribe", "params": params}) == [
                ("success", f"subscribed to: {token}") for token in ("T.AAPL", "AM.*", "T.NOBODY")
            ]
            assert await told(ws, {"action": "unsubscribe", "params": "T.AAPL"}) == [
                ("success", "unsubscribed to: T.AAPL")
            ]
            assert (await told(ws, {"action": "noise", "params": ""}))[0][0] == "error"

    simulated(test)


@pytest.mark.parametrize(
    ("rules", "request_", "words"),
    [({}, auth("other"), "authentication failed"), ({"not_in_plan": ("stocks",)}, auth(), "plan"),
     ({}, {"action": "subscribe", "params": "T.AAPL"}, "not authenticated")],
)  # fmt: skip
def test_the_simulator_refuses_and_drops_the_connection_without_a_handshake(
    rules: dict[str, object], request_: dict[str, str], words: str
) -> None:
    async def test(sim: Simulator) -> None:
        async with websockets.connect(sim.url("polygon")) as ws:
            await ws.recv()
            await ws.send(json.dumps(request_))
            [answer] = json.loads(await ws.recv())
            assert answer["status"] == "auth_failed"
            assert words in answer["message"]
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                await ws.recv()
            assert closed.value.rcvd is None  # no close frame

    simulated(test, rules)


def test_the_simulator_sends_one_connection_too_many_away_after_its_acknowledgements() -> None:
    async def test(sim: Simulator) -> None:
        async with websockets.connect(sim.url("polygon")) as first, websockets.connect(sim.url("polygon")) as second:
            await greeted(first)
            await greeted(second)
            await second.send('{"action":"subscribe","params":"T.AAPL"}')
            statuses = [json.loads(await second.recv())[0]["status"] for _ in range(2)]
            assert statuses == ["success", "max_connections"]
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                await second.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008

    simulated(test)


def test_the_simulator_closes_who_does_not_authenticate() -> None:
    elapsed = [0]

    async def test(sim: Simulator) -> None:
        async with websockets.connect(sim.url("polygon")) as ws:
            await ws.recv()
            elapsed[0] = 11 * 10**9
            assert json.loads(await ws.recv())[0]["status"] == "auth_timeout"
            with pytest.raises(websockets.ConnectionClosed):
                await ws.recv()

    simulated(test, wall=lambda: 1_790_000_000 * 10**9 + elapsed[0])


def test_the_simulator_limits_contracts_whose_quotes_one_connection_has() -> None:
    async def test(sim: Simulator) -> None:
        async with websockets.connect(sim.url("polygon")) as ws:
            assert "options" in sim.url("polygon")
            await greeted(ws)
            tokens = [f"Q.O:AAPL251219C{i:08d}" for i in range(CONTRACTS_MAX + 1)]
            answers = await told(ws, {"action": "subscribe", "params": ",".join(tokens)})
            assert [status for status, _ in answers] == ["success"] * CONTRACTS_MAX + ["error"]
            assert (await told(ws, {"action": "subscribe", "params": "Q.*"}))[0][0] == "error"

    simulated(test, symbols=[OPTION])


# Option chains


CHAIN_AT = 1_651_254_263_172_073_152  # underlying_asset.last_updated of the recorded contract


def recorded_leg(shared_data: Path) -> dict[str, Any]:
    [name] = (shared_data / "polygon/v3/snapshot/options/AAPL").glob("*.json")
    leg: dict[str, Any] = json.loads(name.read_bytes())["results"]
    return leg


def chain_of(*pages: dict[str, Any], at: int = FRAME_END, **fields: Any) -> Recorded:
    """Rows of pages that came one second after the other."""
    recorded = Recorded("polygon", ())
    decode = feed_of("AAPL", channels=("options",), **fields).poll_decoder(recorded.scope)
    for i, page in enumerate(pages):
        decode("chain AAPL", json.dumps({"status": "OK", **page}).encode(), at + i * 10**9)
    return recorded


def test_a_recorded_contract_is_a_row_of_the_chain_with_the_providers_greeks(shared_data: Path) -> None:
    leg = recorded_leg(shared_data)
    recorded = chain_of({"results": [leg]})
    assert recorded.rows("rejected") == []
    assert recorded.rows("options_chain") == [
        {
            "ts_event": CHAIN_AT, "ts_recv": FRAME_END, "symbol": "AAPL  230616C00150000",
            "underlying": "AAPL", "expiration": 1_686_945_600 * 10**9, "strike": 150.0, "option_type": "call",
            "bid": leg["last_quote"]["bid"], "bid_size": 294.0, "ask": leg["last_quote"]["ask"], "ask_size": 209.0,
            "last": leg["last_trade"]["price"], "volume": 8.0, "open_interest": 8133.0,
            "iv": leg["implied_volatility"], **leg["greeks"], "greeks_source": "provider",
            "underlying_price": 159.9606, "age_ns": CHAIN_AT - leg["last_quote"]["last_updated"],
        }
    ]  # fmt: skip


def test_what_a_plan_or_a_contract_does_not_have_is_null(shared_data: Path) -> None:
    leg = recorded_leg(shared_data)
    bare = {"details": leg["details"], "day": {}, "greeks": {}, "open_interest": 5}
    [row] = chain_of({"results": [bare]}).rows("options_chain")
    assert row["ts_event"] == FRAME_END  # nobody tells another
    assert row.keys().isdisjoint({"bid", "ask", "last", "volume", "iv", "delta", "greeks_source", "age_ns"})
    index = {**leg, "underlying_asset": {"ticker": "I:SPX", "value": 3822.39}}
    [row] = chain_of({"results": [index]}).rows("options_chain")
    assert row["underlying_price"] == 3822.39


def test_pages_of_a_snapshot_share_its_time_and_the_next_snapshot_has_its_own(shared_data: Path) -> None:
    leg = recorded_leg(shared_data)
    later = {**leg, "underlying_asset": {**leg["underlying_asset"], "last_updated": CHAIN_AT + 5}}
    more = {"next_url": "https://api.massive.com/v3/snapshot/options/AAPL?cursor=x"}
    pages: list[dict[str, Any]] = [{"results": [leg], **more}, {"results": [later]}, {"results": [later]}]
    rows = chain_of(*pages).rows("options_chain")
    assert [row["ts_event"] for row in rows] == [CHAIN_AT, CHAIN_AT, CHAIN_AT + 5]
    # One that broke off goes into no later one.
    recorded = chain_of(pages[0])
    decode = feed_of("AAPL", channels=("options",)).poll_decoder(recorded.scope)
    decode("chain AAPL", json.dumps({"results": [later]}).encode(), FRAME_END + 10**12)
    assert [row["ts_event"] for row in recorded.rows("options_chain")] == [CHAIN_AT, CHAIN_AT + 5]


def test_a_leg_that_cannot_be_is_rejected_alone_and_an_error_is_refused(shared_data: Path) -> None:
    leg = recorded_leg(shared_data)
    bad = [{**leg, "details": {"ticker": "O:NO"}}, {**leg, "last_quote": {"bid": -1}}, {"details": 5}]
    recorded = chain_of({"results": [*bad, leg]})
    assert len(recorded.rows("options_chain")) == 1
    assert len(recorded.rows("rejected")) == len(bad)
    with pytest.raises(FrameError, match="not entitled"):
        chain_of({"status": "NOT_AUTHORIZED", "message": "not entitled"})


def test_chains_are_a_feed_of_their_own_that_asks() -> None:
    feed = feed_of("aapl", "I:SPX", channels=("options",), options={"interval": "5m"})
    assert feed.capability().transport == "poll"
    polls = feed.polls()
    assert [(poll.key, poll.every_ns) for poll in polls] == [
        ("chain AAPL", 300 * 10**9), ("chain SPX", 300 * 10**9),
    ]  # fmt: skip
    first = next(polls[1].ask())
    assert first.url == "https://api.massive.com/v3/snapshot/options/I:SPX?limit=250&order=asc&sort=ticker"
    assert first.secret_headers == (("Authorization", f"Bearer {SECRET}"),)
    assert SECRET not in repr(first)
    with pytest.raises(ConfigError, match="a feed of their own"):
        feed_of("AAPL", channels=("trades", "options"))


def test_a_simulated_chain_is_read_page_by_page() -> None:
    symbols = (*(f"AAPL  251219C00{strike:03d}000" for strike in range(100, 360)), "MSFT  251219P00400000")

    async def test(sim: Simulator) -> None:
        recorded = Recorded("polygon", ())
        feed = make(spec("AAPL", channels=("options",), rest_url=sim.rest_url("polygon")), {KEY: "k"})
        decode = feed.poll_decoder(recorded.scope)  # type: ignore[attr-defined]
        [poll] = feed.polls()  # type: ignore[attr-defined]
        asking = poll.ask()
        request, answers = next(asking), 0
        while request is not None:
            answer = await asyncio.to_thread(get, request)
            assert answer.status == 200
            answers += 1
            decode(poll.key, answer.body, FRAME_END)
            try:
                request = asking.send(answer)
            except StopIteration:
                request = None
        rows = recorded.rows("options_chain")
        assert answers == 2
        assert sorted(row["symbol"] for row in rows) == sorted(symbols[:-1])
        assert len({row["ts_event"] for row in rows}) == 1

    simulated(test, symbols=symbols)
