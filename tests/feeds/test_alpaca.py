"""Alpaca: messages → rows in both formats, and the session, against the documented exchanges of messages."""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.msgpack import Ext

from recorder.core.text_time import rfc3339_ns
from recorder.feeds.alpaca import INFO, Alpaca
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import Fatal, FeedSpec, Notice, Ready, Reconnect, Send
from recorder.values.symbols import hashed_id
from recorder.values.tables import CANCELLED, CORRECTED, HALTED, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE
from tests.feeds.decoding import FRAME_END, Recorded
from tests.feeds.fuzzing import mutations

KEYS = {"APCA_API_KEY_ID": "PKTEST", "APCA_API_SECRET_KEY": "very-secret"}
WITHDRAWN = CANCELLED | NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
# The provider's documented messages.
TRADE = '{"T":"t","S":"AAPL","i":96921,"x":"D","p":126.55,"s":1,"t":"2021-02-22T15:51:44.208Z","c":["@","I"],"z":"C"}'
QUOTE = (
    '{"T":"q","S":"AMD","bx":"U","bp":87.66,"bs":1,"ax":"Q","ap":87.68,"as":4,"t":"2021-02-22T15:51:45.335689322Z",'
    '"c":["R"],"z":"C"}'
)
BAR = (
    '{"T":"b","S":"SPY","o":388.985,"h":389.13,"l":388.975,"c":389.12,"v":49378,"n":461,"vw":389.062639,'
    '"t":"2021-02-22T19:15:00Z"}'
)
CORRECTION = (
    '{"T":"c","S":"EEM","x":"M","oi":52983525033527,"op":39.1582,"os":440000,"oc":[" ","7"],"ci":52983525034326,'
    '"cp":39.1809,"cs":440000,"cc":[" ","7"],"z":"B","t":"2023-04-06T14:25:06.542305024Z"}'
)
CANCEL = '{"T":"x","S":"GOOGL","i":465,"x":"D","p":105.31,"s":300,"a":"C","z":"C","t":"2023-04-06T13:15:42.83540958Z"}'
LULD = '{"T":"l","S":"IONM","u":3.24,"d":2.65,"i":"B","t":"2023-04-06T13:34:45.565004401Z","z":"C"}'
STATUS = (
    '{"T":"s","S":"AAPL","sc":"H","sm":"Trading Halt","rc":"T12","rm":"Trading Halted; For information","t":'
    '"2021-02-22T19:15:00Z","z":"C"}'
)
IMBALANCE = '{"T":"i","S":"INAQU","p":9.12,"z":"C","t":"2024-12-13T19:58:09.242138635Z"}'
CRYPTO_TRADE = (
    '{"T":"t","S":"AVAX/USD","p":47.299,"s":29.205707815,"t":"2024-03-12T10:27:48.858228144Z","i":3447222699101865076,'
    '"tks":"S"}'
)
ORDER_BOOK = (
    '{"T":"o","S":"MKR/USD","t":"2024-03-12T10:39:39.445492807Z","b":[],"a":[{"p":2614.587,"s":12.5308}],"r":true}'
)
ALL = [TRADE, QUOTE, BAR, CORRECTION, CANCEL, LULD, STATUS, IMBALANCE]
TABLES = ("trades", "quotes", "bars", "statuses", "rejected")


def array(*messages: str) -> bytes:
    return ("[" + ",".join(messages) + "]").encode()


def timestamp(ns: int) -> Ext:
    """The shortest MessagePack timestamp of a time, by the specification of the format."""
    seconds, nanos = divmod(ns, 10**9)
    if not 0 <= seconds < 1 << 34:
        return Ext(-1, struct.pack(">Iq", nanos, seconds))
    return Ext(-1, struct.pack(">Q", nanos << 34 | seconds) if nanos or seconds >> 32 else struct.pack(">I", seconds))


def packed(payload: bytes) -> bytes:
    """A JSON frame as the provider would send it in MessagePack: the same maps, times as extensions."""

    def turn(message: dict[str, Any]) -> dict[str, Any]:
        return {k: timestamp(rfc3339_ns(v)) if k == "t" else v for k, v in message.items()}

    return msgspec.msgpack.encode([turn(m) for m in json.loads(payload)])


def both(payload: bytes, **options: str) -> Recorded:
    """Decode in both formats, see to it that they agree, and return one of the two."""
    symbols = ("*",)
    first, second = Recorded("alpaca", symbols, **options), Recorded("alpaca", symbols, **options)
    first.decode(payload)
    second.decode(packed(payload))
    assert first.unknown == second.unknown
    kept = {table: first.rows(table) for table in TABLES}
    other = {table: second.rows(table) for table in TABLES}
    assert {t: kept[t] for t in TABLES[:-1]} == {t: other[t] for t in TABLES[:-1]}
    assert len(kept["rejected"]) == len(other["rejected"])
    first.rows = kept.__getitem__  # type: ignore[method-assign]
    return first


def test_documented_messages_become_these_rows():
    recorded = both(array(*ALL))
    recv = FRAME_END
    assert recorded.rows("trades") == [
        {
            "ts_event": 1614009104208000000, "ts_recv": recv, "symbol": "AAPL", "exchange": "D", "trade_id": 96921,
            "price": 126.55, "size": 1.0, "conditions": "@,I", "tape": "C", "flags": NOT_LAST_ELIGIBLE,
        },
        {
            "ts_event": 1680791106542305024, "ts_recv": recv, "symbol": "EEM", "exchange": "M",
            "trade_id": 52983525033527, "price": 39.1582, "size": 440000.0, "conditions": " ,7", "tape": "B",
            "flags": WITHDRAWN,
        },
        {
            "ts_event": 1680791106542305024, "ts_recv": recv, "symbol": "EEM", "exchange": "M",
            "trade_id": 52983525034326, "price": 39.1809, "size": 440000.0, "conditions": " ,7", "tape": "B",
            "flags": CORRECTED | NOT_LAST_ELIGIBLE,
        },
        {
            "ts_event": 1680786942835409580, "ts_recv": recv, "symbol": "GOOGL", "exchange": "D", "trade_id": 465,
            "price": 105.31, "size": 300.0, "tape": "C", "flags": WITHDRAWN,
        },
    ]  # fmt: skip
    assert recorded.rows("quotes") == [
        {
            "ts_event": 1614009105335689322, "ts_recv": recv, "symbol": "AMD", "bid": 87.66, "bid_size": 1.0,
            "ask": 87.68, "ask_size": 4.0, "bid_exchange": "U", "ask_exchange": "Q", "conditions": "R", "flags": 0,
        }
    ]  # fmt: skip
    assert recorded.rows("bars") == [
        {
            "ts_event": 1614021300000000000, "ts_recv": recv, "symbol": "SPY", "timeframe": "1m", "open": 388.985,
            "high": 389.13, "low": 388.975, "close": 389.12, "volume": 49378.0, "vwap": 389.062639, "trade_count": 461,
            "flags": 0,
        }
    ]  # fmt: skip
    assert recorded.rows("statuses") == [
        {
            "ts_event": 1680788085565004401, "ts_recv": recv, "symbol": "IONM", "kind": "luld", "code": "B",
            "limit_up": 3.24, "limit_down": 2.65, "tape": "C",
        },
        {
            "ts_event": 1614021300000000000, "ts_recv": recv, "symbol": "AAPL", "kind": "status", "code": "H",
            "message": "Trading Halt", "reason": "T12", "reason_message": "Trading Halted; For information",
            "tape": "C",
        },
    ]  # fmt: skip
    assert recorded.rows("rejected") == []
    assert recorded.unknown == {}


def test_crypto_trades_have_the_takers_side_and_pairs_their_canonical_name():
    recorded = both(array(CRYPTO_TRADE, CRYPTO_TRADE.replace('"S"}', '"B"}'), ORDER_BOOK), feed="crypto")
    first, second = recorded.rows("trades")
    assert (first["symbol"], first["side"], second["side"]) == ("AVAX-USD", "sell", "buy")
    assert (first["trade_id"], first["size"], first["flags"]) == (3447222699101865076, 29.205707815, 0)
    assert first["ts_event"] == 1710239268858228144
    assert "exchange" not in first
    assert recorded.unknown == {}


def test_quotes_and_bars_of_crypto_may_name_their_exchange():
    quote = '{"T":"q","S":"BTC/USD","x":"K","bp":1,"bs":2.5,"ap":2,"as":3,"t":"2024-03-12T10:27:48Z"}'
    bar = '{"T":"b","S":"BTC/USD","x":"K","o":1,"h":1,"l":1,"c":1,"v":0,"n":0,"vw":0,"t":"2024-03-12T10:27:00Z"}'
    recorded = both(array(quote, bar), feed="crypto")
    assert [(row["bid_exchange"], row["ask_exchange"]) for row in recorded.rows("quotes")] == [("K", "K")]
    assert [(row["volume"], "vwap" in row) for row in recorded.rows("bars")] == [(0.0, False)]
    assert recorded.unknown == {}


def test_an_updated_bar_is_flagged_and_a_daily_bar_has_its_timeframe():
    recorded = both(array(BAR, BAR.replace('"T":"b"', '"T":"u"'), BAR.replace('"T":"b"', '"T":"d"')))
    assert [(row["timeframe"], row["flags"]) for row in recorded.rows("bars")] == [
        ("1m", 0),
        ("1m", CORRECTED),
        ("1d", 0),
    ]


@pytest.mark.parametrize("nobody", ["", " "])
def test_a_side_without_anybody_is_null(nobody):
    quote = QUOTE.replace('"bp":87.66,"bs":1', '"bp":0,"bs":0').replace('"bx":"U"', f'"bx":"{nobody}"')
    for row in both(array(quote, QUOTE, quote)).rows("quotes")[::2]:
        assert not row.keys() & {"bid", "bid_size", "bid_exchange"}
        assert (row["ask"], row["ask_size"], row["ask_exchange"]) == (87.68, 4.0, "Q")


def test_a_price_band_that_is_suspended_has_no_prices():
    (row,) = both(array(LULD.replace('"u":3.24,"d":2.65,"i":"B"', '"u":0,"d":0,"i":"D"'))).rows("statuses")
    assert (row["code"], row.keys() & {"limit_up", "limit_down"}) == ("D", set())


def test_a_correction_takes_its_trade_back_just_before_it_also_under_the_same_id():
    rows = both(array(CORRECTION.replace("52983525034326", "52983525033527"))).rows("trades")
    assert [(row["price"], row["flags"]) for row in rows] == [
        (39.1582, WITHDRAWN),
        (39.1809, CORRECTED | NOT_LAST_ELIGIBLE),
    ]


def test_unsigned_ids_that_fit_no_database_long_are_hashed_and_kept():
    (row,) = both(array(TRADE.replace("96921", "18446744073709551615"))).rows("trades")
    assert row["trade_ref"] == "18446744073709551615"
    assert row["trade_id"] == hashed_id("18446744073709551615")


def test_trades_without_an_id_get_one_that_a_replay_reproduces():
    bare = TRADE.replace('"i":96921,', "")
    first, second, again = both(array(bare, bare.replace("126.55", "126.56"), bare)).rows("trades")
    assert first["trade_id"] == again["trade_id"] != second["trade_id"]


@pytest.mark.parametrize(("halt", "resumption", "tape"), [("H", "T", "C"), ("P", "T", "C"), ("2", "3", "A")])
def test_trades_of_a_halted_symbol_are_flagged_until_trading_resumes(halt, resumption, tape):
    def status(code):
        return STATUS.replace('"H"', f'"{code}"').replace('"z":"C"', f'"z":"{tape}"')

    other = TRADE.replace("AAPL", "MSFT")
    recorded = both(
        array(TRADE, status(halt), TRADE, other, status("Q"), TRADE, status("5"), status(resumption), TRADE)
    )
    flagged = [bool(row["flags"] & HALTED) for row in recorded.rows("trades")]
    assert flagged == [False, True, False, True, False]


def test_a_halt_is_forgotten_with_its_connection_because_the_resumption_may_have_been_missed():
    recorded = Recorded("alpaca")
    recorded.decode(array(STATUS)).decode(b'[{"T":"success","msg":"connected"}]').decode(array(TRADE))
    assert recorded.rows("trades")[0]["flags"] & HALTED == 0


def test_of_an_array_the_good_messages_are_stored_and_the_bad_ones_rejected_one_by_one():
    bad = [
        TRADE.replace("126.55", "-1"),
        TRADE.replace("126.55", "0"),
        TRADE.replace('"s":1', '"s":-1'),
        TRADE.replace("2021-02-22", "1999-12-31"),
        TRADE.replace("2021-02-22", "2222-02-22"),
        TRADE.replace('"AAPL"', '"A A"'),
        TRADE.replace("96921", "-5"),
        QUOTE.replace("87.66", "-87.66"),
        BAR.replace("389.13", "-1"),
        LULD.replace("3.24", "-3.24"),
        CANCEL.replace("105.31", "-1"),
        CORRECTION.replace("39.1809", "0"),
    ]
    recorded = both(array(TRADE, *bad, QUOTE))
    assert len(recorded.rows("trades")) == 1
    assert len(recorded.rows("quotes")) == 1
    assert len(recorded.rows("rejected")) == len(bad)
    reasons = [row["reason"] for row in recorded.rows("rejected")]
    assert reasons[0] == "trade of 1.0 at -1.0"
    assert [row["item"] for row in recorded.rows("rejected")] == list(range(len(bad)))


def test_a_message_of_the_wrong_shape_does_not_stop_its_array():
    recorded = Recorded("alpaca")
    recorded.decode(array(TRADE, TRADE.replace("126.55", '"x"'), "7", '{"T":5}', '{"S":"A"}', "null", QUOTE))
    assert (len(recorded.rows("trades")), len(recorded.rows("quotes"))) == (1, 1)
    rejected = recorded.rows("rejected")
    assert len(rejected) == 4
    assert "$.p" in rejected[0]["reason"]
    assert "96921" in rejected[0]["excerpt"]
    assert recorded.unknown == {"message without T": 1}


def test_new_kinds_and_fields_are_counted_and_stop_nothing():
    newer = TRADE.replace('"z":"C"', '"z":"C","new":{"a":[1]}')
    recorded = both(array('{"T":"future","S":"A"}', TRADE, newer, newer, QUOTE))
    assert (len(recorded.rows("trades")), len(recorded.rows("quotes"))) == (3, 1)
    assert recorded.unknown == {"message future": 1, "field t.new": 2}
    lenient = Recorded("alpaca").decode(array(newer)).decode(array(newer, TRADE))
    assert len(lenient.rows("trades")) == 3
    assert lenient.unknown == {"field t.new": 1}


def test_an_unknown_sale_condition_keeps_the_tick_out_of_prices_and_is_counted():
    recorded = both(array(TRADE.replace('["@","I"]', '["@","?"]')))
    assert recorded.rows("trades")[0]["flags"] == NOT_LAST_ELIGIBLE
    assert recorded.unknown == {"condition ? on tape C": 1}


def test_an_internal_receive_time_of_the_server_is_known():
    assert both(array(TRADE.replace('"z":"C"', '"z":"C","r":"2021-02-22T15:51:44.3Z"'))).unknown == {}


@pytest.mark.parametrize("payload", [b"", b"{}", b"[", b"null", b"\xc1", b"\x91", b"\x80", b"[" * 9999, b"\x91" * 9999])
def test_what_is_no_array_is_refused(payload):
    recorded = Recorded("alpaca")
    with pytest.raises(FrameError):
        recorded.decode(payload)


@settings(deadline=None)
@given(ns=st.integers(946_684_800 * 10**9, FRAME_END))
def test_every_nanosecond_survives_in_both_formats(ns):
    seconds, nanos = divmod(ns, 10**9)
    for stamp in (timestamp(ns), Ext(-1, struct.pack(">Iq", nanos, seconds))):
        message = json.loads(TRADE) | {"t": stamp}
        (row,) = Recorded("alpaca").decode(msgspec.msgpack.encode([message])).rows("trades")
        assert row["ts_event"] == ns


@pytest.mark.parametrize(
    "stamp",
    [
        Ext(5, b"\0" * 8),
        Ext(-1, b"\0" * 5),
        Ext(-1, b"\xff" * 8),
        Ext(-1, b"\xff" * 12),
        Ext(-1, b""),
        Ext(-1, b"\0" * 4),
    ],
)
def test_an_extension_that_is_no_plausible_time_is_rejected(stamp):
    recorded = Recorded("alpaca").decode(msgspec.msgpack.encode([json.loads(TRADE) | {"t": stamp}]))
    assert len(recorded.rows("rejected")) == 1


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_seeded_mutations_never_raise_anything_but_a_frame_error(form):
    frames = [array(*ALL), array(CRYPTO_TRADE, ORDER_BOOK), array(TRADE), b'[{"T":"success","msg":"connected"}]']
    if form == "msgpack":
        frames = [packed(frame) for frame in frames]
    recorded, refused = Recorded("alpaca"), 0
    feed = Alpaca(FeedSpec(name="a", provider="alpaca", symbols=("*",)), KEYS)
    for frame in mutations(frames, 20_000, seed=11):
        try:
            recorded.decode(frame)
        except FrameError:
            refused += 1
        feed.on_control(frame)
        if len(recorded.out.batches["rejected"]) > 5_000:
            rejected = recorded.rows("rejected")
            assert all(row["reason"] for row in rejected)
    recorded.decode(frames[2])
    rows = recorded.out.batches["trades"].seal().rows
    assert refused > 1_000
    assert rows[-1]["trade_id"] == 96921
    assert ((rows["price"] >= 0) & (rows["size"] >= 0) & (rows["trade_id"] >= 0)).all()
    assert ((rows["ts_event"] > 946684800 * 10**9) & (rows["ts_event"] <= FRAME_END + 86400 * 10**9)).all()


# The session.


def spec(channels=("trades", "quotes"), symbols=("AAPL", "AMD"), **options):
    return FeedSpec(name="al", provider="alpaca", channels=channels, symbols=symbols, options=options)


class Talk:
    """A session in one format: says what the server says, returns what the client does, sends decoded."""

    def __init__(self, form: str, **keywords: Any) -> None:
        self.feed = Alpaca(spec(format=form, **keywords), KEYS)
        self._codec = msgspec.json if form == "json" else msgspec.msgpack
        self._text = str if form == "json" else bytes
        assert self.feed.on_open() == []

    def says(self, message: dict[str, Any]) -> list[Any]:
        payload = self._codec.encode([message])
        assert not any(payload.startswith(mark, at) for at, mark in self.feed.endpoint().data_marks)
        result = []
        for command in self.feed.on_control(payload):
            if isinstance(command, Send):
                assert isinstance(command.payload, self._text)
                result.append((self._codec.decode(command.payload), command.secret))
            else:
                result.append(command)
        return result

    def error(self, code: int, text: str = "words") -> list[Any]:
        return self.says({"T": "error", "code": code, "msg": text})

    def authenticate(self) -> list[Any]:
        self.says({"T": "success", "msg": "connected"})
        return self.says({"T": "success", "msg": "authenticated"})


both_formats = pytest.mark.parametrize("form", ["json", "msgpack"])


@both_formats
def test_it_greets_authenticates_subscribes_and_is_ready_as_documented(form):
    talk = Talk(form, channels=("trades", "quotes", "bars", "statuses"))
    assert talk.says({"T": "success", "msg": "connected"}) == [
        ({"action": "auth", "key": "PKTEST", "secret": "very-secret"}, True)
    ]
    both_symbols = ["AAPL", "AMD"]
    channels = ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds")
    assert talk.says({"T": "success", "msg": "authenticated"}) == [
        ({"action": "subscribe"} | dict.fromkeys(channels, both_symbols), False)
    ]
    full = {"T": "subscription", "corrections": both_symbols, "cancelErrors": both_symbols}
    assert talk.says(full | dict.fromkeys(channels, both_symbols)) == [Ready(("AAPL", "AMD"))]
    assert talk.says(full | dict.fromkeys(channels, both_symbols)) == []


@both_formats
def test_many_symbols_are_subscribed_in_parts_and_all_answers_are_awaited(form):
    symbols = tuple(f"S{i}" for i in range(1200))
    talk = Talk(form, symbols=symbols, channels=("trades",))
    sends = talk.authenticate()
    assert [len(message["trades"]) for message, _ in sends] == [500, 500, 200]
    assert talk.says({"T": "subscription", "trades": symbols[:500]}) == []
    assert talk.says({"T": "subscription", "trades": symbols[:1000]}) == []
    assert talk.says({"T": "subscription", "trades": symbols}) == [Ready(symbols)]


@both_formats
def test_what_the_provider_did_not_acknowledge_is_named(form):
    talk = Talk(form)
    talk.authenticate()
    assert talk.says({"T": "subscription", "trades": ["AAPL", "AMD"], "quotes": ["AMD"]}) == [
        Notice("subscription.incomplete", {"missing": 1, "symbols": ["AAPL"]}),
        Ready(("AMD",)),
    ]


@both_formats
@pytest.mark.parametrize("code", [402, 408, 409, 411, 412])
def test_errors_that_only_the_user_can_mend_are_fatal_and_tell_no_secret(form, code):
    (command,) = Talk(form).error(code, "auth failed")
    assert isinstance(command, Fatal)
    assert f"{code}: auth failed" in command.reason
    assert not any(secret in command.reason for secret in KEYS.values())


@both_formats
def test_a_taken_connection_is_tried_again_after_some_seconds(form):
    (command,) = Talk(form).error(406, "connection limit exceeded")
    assert isinstance(command, Reconnect)
    assert command.hold_ns >= 5 * 10**9


@both_formats
def test_a_slow_reader_is_told_and_not_cut_by_ourselves(form):
    (notice,) = Talk(form).error(407)
    assert notice.event == "reader.slow"


@both_formats
@pytest.mark.parametrize("code", [401, 404, 500])
def test_passing_errors_connect_again(form, code):
    (command,) = Talk(form).error(code)
    assert isinstance(command, Reconnect)
    assert str(code) in command.reason


@both_formats
def test_being_authenticated_already_is_benign(form):
    talk = Talk(form)
    talk.says({"T": "success", "msg": "connected"})
    assert [message["action"] for message, _ in talk.error(403, "already authenticated")] == ["subscribe"]
    assert talk.error(403) == []


@both_formats
@pytest.mark.parametrize("code", [405, 410, 413])
def test_a_refused_part_is_noticed_and_the_rest_goes_on(form, code):
    symbols = tuple(f"S{i}" for i in range(600))
    talk = Talk(form, symbols=symbols, channels=("trades",))
    talk.authenticate()
    assert talk.error(code) == [Notice("subscription.refused", {"code": code, "message": "words"})]
    notice, ready = talk.says({"T": "subscription", "trades": symbols[500:]})
    assert isinstance(notice, Notice)
    assert notice.fields["missing"] == 500
    assert ready == Ready(symbols[500:])


@both_formats
def test_when_nothing_at_all_was_accepted_it_says_so_and_stops(form):
    talk = Talk(form)
    talk.authenticate()
    notice, fatal = talk.error(405, "symbol limit exceeded")
    assert isinstance(notice, Notice)
    assert fatal == Fatal("every subscription was refused, 405: symbol limit exceeded")


@both_formats
def test_a_malformed_authentication_is_fatal_and_an_unknown_error_a_notice(form):
    talk = Talk(form)
    assert isinstance(talk.error(400)[0], Fatal)
    assert talk.error(499, "novel") == [Notice("feed.error_received", {"code": 499, "message": "novel"})]


def test_without_keys_it_does_not_even_try():
    (command,) = Alpaca(spec()).on_open()
    assert command == Fatal("APCA_API_KEY_ID and APCA_API_SECRET_KEY not set; alpaca needs a key")


@both_formats
def test_data_frames_have_a_mark_and_are_no_control(form):
    feed = Alpaca(spec(format=form), KEYS)
    for message in ALL:
        for count in (1, 20, 70_000):
            frame = array(*[message] * count)
            frame = packed(frame) if form == "msgpack" else frame
            assert any(frame.startswith(mark, at) for at, mark in feed.endpoint().data_marks)
            assert feed.on_control(frame) == []
            if count == 20 and message is not TRADE:
                break  # the widest array header once


def test_control_frames_leave_no_rows_and_nothing_unknown():
    recorded = Recorded("alpaca")
    for frame in (
        b'[{"T":"success","msg":"connected"}]',
        b'[{"T":"success","msg":"authenticated"}]',
        b'[{"T":"error","code":406,"msg":"connection limit exceeded"}]',
        b'[{"T":"subscription","trades":["AAPL"],"quotes":[],"bars":["*"],"corrections":["AAPL"]}]',
    ):
        recorded.decode(frame).decode(packed(frame))
    assert recorded.unknown == {}
    assert all(recorded.rows(table) == [] for table in TABLES)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({}, "/v2/iex"),
        ({"feed": "sip"}, "/v2/sip"),
        ({"feed": "delayed_sip"}, "/v2/delayed_sip"),
        ({"feed": "test"}, "/v2/test"),
        ({"feed": "boats"}, "/v1beta1/boats"),
        ({"feed": "overnight"}, "/v1beta1/overnight"),
        ({"feed": "crypto"}, "/v1beta3/crypto/us"),
        ({"feed": "crypto", "location": "eu-1"}, "/v1beta3/crypto/eu-1"),
    ],
)
def test_each_feed_has_its_endpoint_and_the_format_its_header(options, path):
    symbols = ("BTC-USD",) if options.get("feed") == "crypto" else ("AAPL",)
    for form in ("msgpack", "json"):
        endpoint = Alpaca(spec(symbols=symbols, format=form, **options), KEYS).endpoint()
        assert endpoint.url == "wss://stream.data.alpaca.markets" + path
        assert endpoint.headers == (("Content-Type", f"application/{form}"),)


def test_crypto_symbols_are_sent_as_the_provider_writes_them_and_acknowledged_canonically():
    talk = Talk("json", symbols=("BTC-USD", "ETH/USD"), feed="crypto", channels=("trades",))
    ((message, _),) = talk.authenticate()
    assert message["trades"] == ["BTC/USD", "ETH/USD"]
    assert talk.says({"T": "subscription", "trades": ["BTC/USD", "ETH/USD"]}) == [Ready(("BTC-USD", "ETH-USD"))]


def test_wrong_options_channels_and_symbols_name_themselves():
    with pytest.raises(ConfigError, match="did you mean sip"):
        Alpaca(spec(feed="spi"))
    with pytest.raises(ConfigError, match="has no channel 'statuses'"):
        Alpaca(spec(feed="crypto", symbols=("BTC-USD",), channels=("statuses",)))
    with pytest.raises(SymbolError, match="not a pair"):
        Alpaca(spec(feed="crypto", symbols=("BTCUSD",)))


def test_there_is_one_connection_and_its_capability_says_so():
    feed = Alpaca(spec(symbols=("aapl", "AAPL", "msft")))
    assert [shard.symbols for shard in feed.shards()] == [("AAPL", "MSFT")]
    assert feed.capability().connections_max == 1
    assert feed.capability().hold_ns > 0
    assert INFO.credentials == tuple(KEYS)


def test_trades_of_the_providers_own_client_tests_are_read_whole(shared_data):
    body = json.loads(gzip.decompress((shared_data / "alpaca" / "go_testdata_trades.json.gz").read_bytes()))
    read = 0
    for symbol, trades in body["trades"].items():
        recorded = both(json.dumps([{"T": "t", "S": symbol} | trade for trade in trades]).encode())
        rows = recorded.rows("trades")
        assert recorded.unknown == {}
        assert [(r["trade_id"], r["price"], r["size"], r["exchange"], r["conditions"], r["tape"]) for r in rows] == [
            (t["i"], t["p"], t["s"], t["x"], ",".join(t["c"]), t["z"]) for t in trades
        ]
        assert [row["ts_event"] for row in rows] == [rfc3339_ns(trade["t"]) for trade in trades]
        read += len(rows)
    assert read == 5


def test_quotes_bars_and_trades_of_the_providers_python_client_are_read_whole(shared_data):
    kinds, read = {"trades": "t", "quotes": "q", "bars": "b"}, 0
    for line in (shared_data / "alpaca" / "alpaca_py_fixtures.jsonl").read_text().splitlines():
        case = json.loads(line)
        if "/options/" in (case["url"] or "") or not isinstance(case["response"], dict):
            continue
        options = {"feed": "crypto"} if "/crypto/" in (case["url"] or "") else {}
        for table, tag in kinds.items():
            for symbol, items in (case["response"].get(table) or {}).items():
                items = items if isinstance(items, list) else [items]
                recorded = both(json.dumps([{"T": tag, "S": symbol} | item for item in items]).encode(), **options)
                assert recorded.unknown == {}
                assert len(recorded.rows(table)) == len(items)
                read += len(items)
    assert read == 16
