"""Feeds declared in a configuration: what a declaration may say, what of a message becomes which row, to the digit."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from decoding import Recorded
from fuzzing import mutations
from hypothesis import given
from hypothesis import strategies as st

from recorder.core.batch import Output
from recorder.feeds import PROVIDERS, make
from recorder.feeds.generic.rows import read_csv, time_of
from recorder.values.config import build, credentials, wanted_credentials
from recorder.values.errors import ConfigError, FrameError
from recorder.values.feed import Fatal, FeedSpec, Notice, Ready, Reconnect, Send
from recorder.values.symbols import hashed_id

SECOND = 10**9
TRADES = {"symbol": "s", "time": "t", "time_unit": "ms", "price": "p", "size": "q"}
NOW_MS = 1_789_000_000_000


def spec_of(table: dict[str, Any], **fields: Any) -> FeedSpec:
    kind = table.get("kind", "websocket")
    url = {"websocket": "wss://feed.example/ws", "files": None}.get(kind, "https://feed.example/x")
    channels = tuple(name for name in ("trades", "quotes", "bars") if name in table)
    table = {"kind": kind, **table}
    return FeedSpec(
        **{
            "name": "f", "provider": "generic", "symbols": ("BTC-USD", "ETH-USD"), "channels": channels, "url": url,
            "options": {"generic": json.dumps(table)}, **fields,
        }
    )  # fmt: skip


class Declared(Recorded):
    """A declared feed's decoder, of a stream or of answers."""

    def __init__(self, table: dict[str, Any], **fields: Any) -> None:
        self.feed = make(spec_of(table, **fields))
        self.out = Output()
        self.scope = self.out.scope("f", 0)
        if table.get("kind") in ("poll", "files"):
            read = self.feed.poll_decoder(self.scope)
            self._decode = lambda payload, ts_recv: read(fields.get("key", "all"), payload, ts_recv)
            spec = self.feed.spec

            def restarted(scope: Any) -> Any:
                read = make(spec).poll_decoder(scope)
                return lambda payload, ts_recv: read(fields.get("key", "all"), payload, ts_recv)

            self._beside(restarted)
        else:
            self._decode = self.feed.decoder(self.scope)
            self._beside(lambda scope: make(self.feed.spec).decoder(scope))

    def sent(self, message: Any) -> Declared:
        self.decode(message if isinstance(message, bytes) else json.dumps(message).encode())
        return self


def problems(table: dict[str, Any], **fields: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        make(spec_of(table, **fields))
    return str(caught.value).splitlines()


# Declarations


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "websockets"}, "did you mean websocket?"),
        ({"subscibe": []}, "did you mean subscribe?"),
        ({"trades": {**TRADES, "prise": "p"}}, "did you mean price?"),
        ({"trades": {"symbol": "s", "time": "t", "time_unit": "ms", "size": "q"}}, ".trades.price is missing"),
        ({"trades": {**TRADES, "time_unit": "milliseconds"}}, "known: ms, ns, rfc3339, s, us"),
        ({"trades": {**TRADES, "time_unit": ""}}, "known: s, ms, us, ns, rfc3339"),
        ({"trades": {**TRADES, "time_zone": "America/NewYork"}}, "time_zone"),
        ({"trades": {**TRADES, "price": "a..b"}}, 'generic.trades.price is "a..b"; expected'),
        ({"trades": {**TRADES, "price": 5}}, "expected a path in quotes"),
        ({"trades": {**TRADES, "price": "$x"}}, "from the top of the message"),
        ({"trades": {**TRADES, "where": {"type": {}}}}, "where.type"),
        ({"trades": {**TRADES, "where": "t"}}, "expected paths with their values"),
        ({"trades": {**TRADES, "id": "i"}}, '.ids is "none"'),
        ({"ids": "contiguous"}, "with trades.id"),
        ({"ids": "sequential"}, "known: contiguous, increasing, none, opaque"),
        ({"trades": {**TRADES, "side": "m"}}, 'needs buy = "…"'),
        ({"trades": {**TRADES, "side": "m", "buy": "b", "sell": "b"}}, 'needs buy = "…"'),
        ({"trades": {**TRADES, "timeframe": "1m"}}, "bars, and nothing else"),
        ({"trades": {k: v for k, v in TRADES.items() if k != "symbol"}}, "exactly one symbol"),
        ({"silence_s": 0}, "expected a number from 1 to 86400"),
        ({"names": {"BTC-USD": "x", "ETH-USD": "x"}}, "the same name"),
        ({"headers_from_environment": {"X-Key": "not a variable: s3cret"}}, "expected { \"X-Api-Key\""),
        ({"format": "csv"}, 'kind websocket reads "json"'),
        ({"every_s": 5}, "not a key of kind websocket"),
        ({"kind": "poll"}, "it needs url"),
        ({"kind": "files"}, ".folder is missing"),
        ({"kind": "sse", "ping": "x"}, "not a key of kind sse"),
        ({"trades": {**TRADES, "where": {"$event": "t"}}}, "expected"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_what_would(change: dict[str, Any], words: str) -> None:
    found = problems({"trades": TRADES, **change}, url="wss://feed.example/ws")
    assert any(words in line for line in found), found
    assert all(line.startswith("feed 'f': generic") for line in found)
    assert "s3cret" not in "".join(found)


def test_a_declaration_without_a_table_and_a_feed_without_a_declaration_say_what_is_missing() -> None:
    assert "declares no table" in problems({})[0]
    assert "needs a table [feeds.generic]" in problems({}, options={})[0]
    assert "declares no 'quotes'" in problems({"trades": TRADES}, channels=("quotes",))[0]


CONFIG = """
[[feeds]]
name = "x"
provider = "generic"
symbols = ["BTC-USD"]
url = "{url}"
[feeds.generic]
kind = "{kind}"
headers_from_environment = {{ "X-Api-Key" = "X_KEY" }}
{more}
[feeds.generic.trades]
symbol = "s"
time = "t"
time_unit = "ms"
price = "p"
size = "q"
"""


def configured(kind: str, url: str, base: Path, more: str = "") -> Any:
    text = CONFIG.format(kind=kind, url=url, more=more)
    return build(tomllib.loads(text), {}, PROVIDERS, base=base, source="config.toml").feeds[0]


def test_a_declaration_goes_from_the_configuration_into_the_spec_and_so_into_the_journal(tmp_path: Path) -> None:
    spec = configured("websocket", "wss://feed.example/ws", tmp_path)
    assert spec.channels == ("trades",)
    assert make(spec).capability().transport == "websocket"
    assert make(configured("sse", "https://feed.example/x?symbols={symbols}", tmp_path)).capability().transport == "sse"
    files = CONFIG.replace('url = "{url}"\n', "").format(kind="files", more='folder = "drop"')
    spec = build(tomllib.loads(files), {}, PROVIDERS, base=tmp_path, source="c").feeds[0]
    assert make(spec).folder() == (str(tmp_path / "drop"), "*.csv")
    with pytest.raises(ConfigError, match="wss://"):
        configured("websocket", "https://feed.example/ws", tmp_path)


def test_its_key_comes_from_the_environment_and_is_in_no_journal_and_no_address(tmp_path: Path) -> None:
    spec = configured("sse", "https://feed.example/x", tmp_path)
    info = PROVIDERS["generic"]
    assert wanted_credentials(info, spec) == ("X_KEY",)
    keys = credentials(info, {"X_KEY": "s3cret", "Y": "z"}, spec)
    endpoint = make(spec, keys).endpoint()
    assert ("X-Api-Key", "s3cret") in endpoint.headers
    assert "s3cret" not in repr(spec) + endpoint.url
    assert wanted_credentials(info, spec_of({"trades": TRADES})) == ()


# Sessions


def test_it_subscribes_symbol_by_symbol_and_is_ready_when_all_are_acknowledged() -> None:
    table = {
        "subscribe": ['{"op":"sub","s":"{symbol}"}'], "unsubscribe": ['{"op":"unsub","s":{symbols}}'],
        "acknowledged": {"op": ["ok", "ack"]}, "refused": {"op": "error"}, "names": {"BTC-USD": 'b"tc'},
        "trades": TRADES,
    }  # fmt: skip
    feed = make(spec_of(table))
    assert feed.on_open() == [Send('{"op":"sub","s":"b\\"tc"}'), Send('{"op":"sub","s":"ETH-USD"}')]
    assert feed.on_control(b'{"op":"other"}') == feed.on_control(b"nonsense") == []
    assert feed.on_control(b'{"op":"ok"}') == []
    assert not feed.subscriptions().acknowledged
    assert feed.on_control(b'{"op":"ack"}') == [Ready(("BTC-USD", "ETH-USD"))]
    assert ("trades", "ETH-USD") in feed.subscriptions().acknowledged
    assert feed.change(("ETH-USD", "SOL-USD")) == [
        Send('{"op":"unsub","s":["b\\"tc"]}'), Send('{"op":"sub","s":"SOL-USD"}'),
    ]  # fmt: skip
    assert feed.on_control(b'{"op":"ok"}') == [Ready(("ETH-USD", "SOL-USD"))]
    assert feed.resubscribe([("trades", "SOL-USD")])[-1] == Send('{"op":"sub","s":"SOL-USD"}')


def test_a_refusal_is_told_and_ends_it_when_nothing_else_was_asked() -> None:
    table = {"subscribe": ["all"], "acknowledged": {"ok": True}, "refused": {"ok": False}, "trades": TRADES}
    feed = make(spec_of(table))
    assert feed.on_open() == [Send("all")]
    assert [type(command) for command in feed.on_control(b'{"ok":false,"why":"no such plan"}')] == [Notice, Fatal]
    assert make(spec_of({"trades": TRADES})).on_open() == [Ready(("BTC-USD", "ETH-USD"))]
    assert make(spec_of({"trades": TRADES})).change(("A",)) == [Reconnect("its symbols have changed")]


# Rows


def test_an_item_becomes_a_row_and_times_and_numbers_stay_as_sent() -> None:
    table = {
        "ids": "opaque",
        "names": {"BTC-USD": "btc_usd"},
        "trades": {
            "where": {"$.type": ["trade", "print"]}, "items": "data.list", "symbol": "$.data.sym", "time": "0",
            "time_unit": "s", "price": "1.px", "size": "1.sz", "id": "1.id", "side": "1.maker", "buy": "b", "sell": "s",
            "side_of": "maker", "exchange": "1.x", "conditions": "1.c",
        },
    }  # fmt: skip
    message = b"""{"type":"trade","data":{"sym":"btc_usd","list":[
        [1789000000.123456789,{"px":0.1,"sz":"12","id":"a-1","maker":"b","x":"N","c":["@","I"]}],
        [1789000000.2,{"px":"3e-7","sz":0,"id":7,"maker":"?"}]]}}"""
    feed = (
        Declared(table).sent(message).sent({"type": "other"}).sent({"type": "print", "data": {"sym": "x", "list": []}})
    )
    first, second = feed.rows("trades")
    del first["ts_recv"], second["ts_recv"]
    assert first == {
        "ts_event": 1_789_000_000_123_456_789, "symbol": "BTC-USD", "trade_id": hashed_id("a-1"), "trade_ref": "a-1",
        "price": 0.1, "size": 12.0, "side": "sell", "exchange": "N", "conditions": "@,I", "flags": 0,
    }  # fmt: skip
    assert (second["ts_event"], second["trade_id"], second["price"]) == (1_789_000_000_200_000_000, 7, 3e-7)
    assert "side" not in second
    assert feed.unknown == {"message that no table takes": 2}


def test_messages_to_be_ignored_are_not_counted_and_other_symbols_are_passed_over() -> None:
    feed = Declared({"ignore": [{"type": "heartbeat"}], "trades": {**TRADES, "where": {"type": "t"}}})
    feed.sent({"type": "heartbeat"}).sent({"type": "t", "s": "DOGE-USD", "t": NOW_MS, "p": 1, "q": 1})
    assert feed.rows("trades") == []
    assert feed.unknown == {}
    everyone = Declared({"trades": TRADES}, symbols=("*",)).sent({"s": "DOGE-USD", "t": NOW_MS, "p": 1, "q": 1})
    assert [row["symbol"] for row in everyone.rows("trades")] == ["DOGE-USD"]


def test_one_message_may_hold_several_tables_and_quotes_may_have_no_time() -> None:
    quotes = {"symbol": "s", "bid": "b.0", "bid_size": "b.1", "ask": "a.0", "ask_size": "a.1", "sequence": "n"}
    bars = {
        "symbol": "s", "time": "k.t", "time_unit": "s", "timeframe": "1m", "open": "k.o", "high": "k.h", "low": "k.l",
        "close": "k.c", "volume": "k.v", "vwap": "k.vw", "trade_count": "k.n",
    }  # fmt: skip
    feed = Declared({"quotes": quotes, "bars": bars})
    message = {"s": "BTC-USD", "b": ["1.5", 2], "a": [0, 0], "n": 5}
    message["k"] = {"t": 1789000020, "o": 1, "h": 3, "l": 1, "c": 2, "v": 10, "vw": None, "n": 4}
    feed.sent(message)
    (quote,), (bar,) = feed.rows("quotes"), feed.rows("bars")
    assert quote["ts_event"] == quote["ts_recv"]
    assert {k: v for k, v in quote.items() if not k.startswith("ts_")} == {
        "symbol": "BTC-USD", "sequence": 5, "bid": 1.5, "bid_size": 2.0, "flags": 0,
    }  # fmt: skip
    assert (bar["timeframe"], bar["high"], bar["trade_count"], "vwap" in bar) == ("1m", 3.0, 4, False)


def test_bad_items_are_rejected_one_by_one_and_a_bad_message_as_a_whole() -> None:
    table = {"trades": {**TRADES, "items": "d", "symbol": "s"}}
    good = {"s": "BTC-USD", "t": NOW_MS, "p": 1, "q": 1}
    bad = [{**good, "p": p} for p in (0, -1, "1_0", "x", None, True, [], "inf", "٣")] + [
        {**good, "t": 5},
        {**good, "s": 5},
    ]
    feed = Declared(table).sent({"d": [good, *bad]})
    assert len(feed.rows("trades")) == 1
    assert len(feed.rows("rejected")) == len(bad)
    with pytest.raises(FrameError):
        Declared({"trades": TRADES}).sent(bad[0])


@pytest.mark.parametrize("ids", ["contiguous", "increasing"])
def test_ids_may_be_as_long_as_a_row_can_hold(ids: str) -> None:
    feed = Declared({"ids": ids, "trades": {**TRADES, "items": "d", "id": "i"}})
    good = [0, 9007199254740993, "1765531356452000123", "9223372036854775807"]
    trade = {"s": "BTC-USD", "t": NOW_MS, "p": 1, "q": 1}
    feed.sent({"d": [{**trade, "i": number} for number in [*good, "9223372036854775808", "1" * 20, -1, True, 1.5, ""]]})
    assert [row["trade_id"] for row in feed.rows("trades")] == [int(number) for number in good]
    assert len(feed.rows("rejected")) == 6


def test_trades_without_ids_that_are_alike_in_one_message_stay_two_and_are_the_same_when_read_again() -> None:
    trade = {"s": "BTC-USD", "t": NOW_MS, "p": 1, "q": 1}
    feed = Declared({"trades": {**TRADES, "items": "d"}})
    ids = [[row["trade_id"] for row in feed.sent({"d": [trade, trade]}).rows("trades")] for _ in range(2)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


def test_an_event_is_chosen_by_its_type_and_the_old_iex_stream_can_be_read() -> None:
    """The messages of IEX Cloud's ``last`` channel: an array of trades without ids, times in ms."""
    table = {
        "kind": "sse",
        "trades": {
            "where": {"$event": "message"}, "symbol": "symbol", "time": "time", "time_unit": "ms", "price": "price",
            "size": "size",
        },
    }  # fmt: skip
    feed = Declared(table, symbols=("AAPL", "IBM"))
    feed.sent(
        b'event: message\ndata: [{"symbol":"AAPL","price":189.37,"size":100,"time":1789000000123},\n'
        b'data: {"symbol":"IBM","price":240.5,"size":7,"time":1789000000124}]\n'
    ).sent(b'event: snapshot\ndata: [{"symbol":"IBM","price":1,"size":7,"time":1789000000124}]\n').sent(b"data\n")
    assert [(r["symbol"], r["price"], r["size"], r["ts_event"]) for r in feed.rows("trades")] == [
        ("AAPL", 189.37, 100.0, 1_789_000_000_123_000_000),
        ("IBM", 240.5, 7.0, 1_789_000_000_124_000_000),
    ]


# Files and answers

HISTORY = {
    "kind": "files", "folder": "x",
    "bars": {
        "symbol": "Symbol", "time": "Date", "time_unit": "%m/%d/%Y", "time_zone": "America/New_York", "timeframe": "1d",
        "open": "Open ($)", "high": "High ($)", "low": "Low ($)", "close": "Close ($)", "volume": "Volume",
    },
}  # fmt: skip
FILE = b"""\xef\xbb\xbf\r
Prices of my watchlist\r
\r
Symbol,Date,Open ($),High ($),Low ($),Close ($),Volume,Note\r
AAPL,06/10/2024,$196.90,"$1,197.30",192.15,193.12,"97,262,077","split, next"\r
MSFT,11/04/1999,92.31,92.75,90.31,91.75,27119700,\r
\r
"The data is provided ""as is"", for information only."\r
"""


def test_a_spreadsheets_export_is_read_between_its_preamble_and_its_small_print() -> None:
    rows = Declared(HISTORY, symbols=("*",)).sent(FILE).rows("bars")
    midnight = datetime(2024, 6, 10, tzinfo=ZoneInfo("America/New_York"))
    assert {k: v for k, v in rows[0].items() if k != "ts_recv"} == {
        "ts_event": int(midnight.timestamp()) * SECOND, "symbol": "AAPL", "timeframe": "1d", "open": 196.9,
        "high": 1197.3, "low": 192.15, "close": 193.12, "volume": 97262077.0, "flags": 0,
    }  # fmt: skip
    assert rows[1]["ts_event"] == int(datetime(1999, 11, 4, 5, tzinfo=UTC).timestamp()) * SECOND
    assert len(rows) == 2


def test_the_same_file_under_another_name_gives_no_row_again() -> None:
    feed = Declared(HISTORY, symbols=("*",)).sent(FILE)
    assert len(feed.rows("bars")) == 2
    assert feed.sent(FILE).rows("bars") == []
    assert len(feed.sent(FILE + b"\r\n").rows("bars")) == 2


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: f.replace(b"193.12", b"n/a"), "row 1: bar of"),
        (lambda f: f.replace(b"11/04/1999", b"1999-11-04"), "row 2: time is '1999-11-04', not of the form %m/%d/%Y"),
        (lambda f: f.replace(b"Close ($)", b"Last ($)"), "no line names the columns"),
        (lambda f: f.replace(b",Note", b",Volume"), "named twice"),
        (lambda f: f.replace(b"27119700,", b"27119700"), "line 6 has 7 cells, its header 8"),
        (lambda f: f.replace(b"split", b"spl\xff"), "not UTF-8"),
        (lambda f: f.replace(b'next"', b"next"), "CSV"),
        (lambda f: f.replace(b"92.75", b"nine"), "high is 'nine', no number"),
        (lambda f: f.replace(b'"97,262,077"', b'"97,26,077"'), "no number"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_whole_with_the_place(damage: Any, words: str) -> None:
    feed = Declared(HISTORY, symbols=("*",))
    with pytest.raises(FrameError, match="(?s).*" + words.replace("(", r"\(").replace("$", r"\$")):
        feed.sent(damage(FILE))


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=8).map(str.strip)


@given(st.lists(st.tuples(CELLS.filter(bool), CELLS, CELLS), max_size=8), st.sampled_from([",", ";", "\t"]))
def test_a_table_is_what_a_spreadsheet_wrote(rows: list[tuple[str, str, str]], delimiter: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([("a (x)", "b", "c"), *rows])
    found = read_csv(text.getvalue().encode(), ["a (x)", "c"], delimiter)
    assert [tuple(row.values()) for row in found] == rows


@given(st.decimals(min_value=0, max_value=9_000_000_000, places=9))
def test_a_time_keeps_every_digit(seconds: Decimal) -> None:
    utc = ZoneInfo("UTC")
    for unit, digits in (("s", 0), ("ms", 3), ("us", 6), ("ns", 9)):
        assert time_of(f"{seconds.scaleb(digits):f}", unit, utc) == int(seconds.scaleb(9))


@pytest.mark.parametrize("kind", ["sse", "poll", "websocket", "files"])
def test_damaged_messages_raise_nothing_but_a_frame_error_and_leave_the_next_good_one_alone(kind: str) -> None:
    table = {"kind": kind, "ids": "increasing", "trades": {**TRADES, "items": "d", "id": "i"}}
    good = (
        b'{"d":[{"s":"BTC-USD","t":1789000000000,"p":"1.5","q":2,"i":7},{"s":"A","t":1789000000001,"p":1,"q":2,"i":8}]}'
    )
    bad = b'{"type":"error","d":null}'
    if kind == "sse":
        good, bad = b"id: 4\ndata: " + good + b"\n", b"event: error\ndata: " + bad + b"\n"
    if kind == "files":
        table, good, bad = {**HISTORY}, FILE, b"Symbol,Date\n1,2\n"
    channel = "bars" if kind == "files" else "trades"
    symbols = ("*",)
    alone = Declared(table, symbols=symbols).sent(good).rows(channel)
    feed = Declared(table, symbols=symbols).alone()
    for damaged in mutations((good, bad), 1500, seed=11):
        before = feed.out.counts()
        try:
            feed.sent(damaged)
        except FrameError:
            if kind in ("sse", "websocket"):
                assert feed.out.counts() == before
        feed.rows(channel)
        if kind == "files":
            feed.scope.kept("files").clear()
        assert feed.sent(good).rows(channel) == alone
        if kind == "files":
            feed.scope.kept("files").clear()
