"""FIX market data → rows: messages of the protocol's own documents, of venues, and of a generator of all fields."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from decoding import FRAME_END, Recorded
from fuzzing import mutations

from recorder.feeds import make
from recorder.feeds.fix.rows import STATUSES
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import Fatal, FeedSpec, Notice, Ready, Reconnect, Renew, Send
from recorder.values.fix import body_of, closed, fields_of

SECOND = 10**9
RECV = 1_790_000_000 * SECOND
SENT = 1_767_623_400 * SECOND  # 2026-01-05 14:30:00 UTC
# Of the FIX session protocol's test vectors; their checksums are real.
SNAPSHOT = (
    "8=FIX.4.4|9=156|35=W|49=FEED|56=REC|34=2|52=20260105-14:30:00.000|262=md1|55=AAPL|268=2|269=0|270=189.10|271=300|"
    "273=14:30:00.001|269=1|270=189.12|271=100|273=14:30:00.001|10=037|"
)
INCREMENT = (
    "8=FIX.4.4|9=171|35=X|49=FEED|56=REC|34=3|52=20260105-14:30:00.000|262=md1|268=2|279=1|269=0|278=b1|55=AAPL|"
    "270=189.11|271=200|279=0|269=2|55=AAPL|270=189.12|271=50|273=14:30:00.015|277=F|10=070|"
)
REFUSED = "8=FIX.4.4|9=82|35=Y|49=FEED|56=REC|34=9|52=20260105-14:30:00.000|262=md1|281=0|58=unknown symbol|10=049|"


def raw(text: str) -> bytes:
    return text.replace("|", "\x01").encode()


def message(kind: str, number: int, rest: str, sent: str = "20260105-14:30:00.000", flags: str = "") -> bytes:
    """A message with right length and checksum; ``rest`` with | for SOH."""
    return closed(raw(f"35={kind}|49=FEED|56=REC|34={number}|52={sent}|{flags}{rest}"))


def feed(**options: str) -> Recorded:
    return Recorded("fix", ("AAPL",), sender="REC", target="FEED", **options)


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in names}


def test_a_snapshot_and_an_increment_become_quotes_and_a_trade() -> None:
    found = feed().decode(raw(SNAPSHOT), RECV).decode(raw(INCREMENT), RECV + 1)
    quotes = found.rows("quotes")
    assert quotes == [
        {"ts_event": SENT + 1_000_000, "ts_recv": RECV, "symbol": "AAPL", "sequence": 2, "bid": 189.1,
         "bid_size": 300.0, "ask": 189.12, "ask_size": 100.0, "flags": 0},
        {"ts_event": SENT, "ts_recv": RECV + 1, "symbol": "AAPL", "sequence": 3, "bid": 189.11, "bid_size": 200.0,
         "ask": 189.12, "ask_size": 100.0, "flags": 0},
    ]  # fmt: skip
    (trade,) = found.rows("trades")
    assert without(trade, "trade_id", "trade_ref") == {
        "ts_event": SENT + 15_000_000, "ts_recv": RECV + 1, "symbol": "AAPL", "price": 189.12, "size": 50.0,
        "conditions": "F", "flags": 0,
    }  # fmt: skip
    assert trade["trade_ref"] == "20260105-14:30:00.000/3/1"
    assert not found.rows("gaps")


def test_the_same_messages_give_the_same_ids() -> None:
    ids = {feed().decode(raw(INCREMENT)).rows("trades")[0]["trade_id"] for _ in range(3)}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("sent", "time", "day"),
    [("20260105-00:00:00.100", "23:59:59.900", -1), ("20260105-23:59:59.900", "00:00:00.100", 1),
     ("20260105-12:00:00.000", "11:59:59.999", 0)],
)  # fmt: skip
def test_a_time_without_a_date_is_of_the_day_nearest_to_its_sending(sent: str, time: str, day: int) -> None:
    entry = f"268=1|279=0|269=2|55=A|270=1|271=1|273={time}|"
    (trade,) = feed().decode(message("X", 5, entry, sent)).rows("trades")
    midnight = 1_767_571_200 * SECOND + day * 86_400 * SECOND
    hours, minutes, seconds = time.split(":")
    assert trade["ts_event"] == midnight + round(
        (int(hours) * 3600 + int(minutes) * 60) * SECOND + float(seconds) * SECOND
    )


def test_a_symbol_holds_for_the_entries_after_it_and_from_the_message() -> None:
    """Binance's page on MarketDataIncrementalRefresh: the symbol of the entry before, TradeID and TransactTime."""
    text = (
        "35=X|49=SPOT|56=EXAMPLE|34=16|52=20241019-05:40:11.466313|262=TRADE_3|893=N|268=3|279=0|"
        "269=2|270=10.00000|271=0.01000|55=BNBBUSD|1003=0|60=20241019-05:40:11.464000|279=0|269=2|270=10.00000|"
        "271=0.01000|1003=1|60=20241019-05:40:11.464000|279=0|269=2|270=10.00000|271=0.01000|1003=2|"
        "60=20241019-05:40:11.464000|"
    )
    trades = feed().decode(closed(raw(text))).rows("trades")
    assert [(t["symbol"], t["trade_id"], t["price"], t["size"]) for t in trades] == [
        ("BNBBUSD", i, 10.0, 0.01) for i in range(3)
    ]
    assert {t["ts_event"] for t in trades} == {1_729_316_411_464_000_000}
    at_message = message("X", 2, "55=XBT/USD|268=1|279=0|269=2|270=5|271=1|278=7|2446=1|")
    (trade,) = feed().decode(at_message).rows("trades")
    assert (trade["symbol"], trade["trade_id"], trade["side"]) == ("XBT/USD", 7, "buy")


def quoted(shared_data: Path, name: str) -> list[bytes]:
    lines = (shared_data / "fix" / name).read_text().splitlines()
    return [raw(line) for line in lines if line.startswith("8=")]


def test_every_documented_message_of_binance_is_read_or_counted(shared_data: Path) -> None:
    for payload in quoted(shared_data, "binance_spot_fix_doc_messages.txt"):
        found = feed()
        try:
            found.decode(payload)
        except FrameError as error:  # some are abridged in the document: their length is not that of the text
            assert "garbled" in str(error)  # noqa: PT017
        assert not found.rows("rejected")


def test_snapshots_of_a_venue_that_names_instruments_by_number(shared_data: Path) -> None:
    found = Recorded(
        "fix", ("EUR-USD",), sender="A", target="B", by="id", names="EUR-USD=4001", updates="full", depth="0"
    )
    good = 0
    for payload in quoted(shared_data, "quoted_venue_messages.txt"):
        try:
            found.decode(payload)
            good += 1
        except FrameError as error:
            assert "garbled" in str(error)  # noqa: PT017
    rows = found.rows("quotes")
    assert len(rows) == good > 0
    assert {row["symbol"] for row in rows} == {"EUR-USD"}
    assert all(row["bid"] < row["ask"] for row in rows)


def test_messages_with_every_field_of_the_dictionary_are_read(shared_data: Path) -> None:
    """Generated by another project: PossDup set, every group once, data fields, prices 1.1."""
    for path in sorted((shared_data / "fix" / "fixantenna" / "fixdatafix44").glob("*.fix")):
        payload = path.read_bytes().rstrip(b"\r\n")
        found = feed()
        body = body_of(payload)
        assert fields_of(body)[0][0] == b"35", path.name
        found.decode(payload)
        assert not found.rows("trades"), "sent again, and never missed: a repeat"
        assert not found.rows("quotes")
    for kind, name in (("W", "Market_Data_Snapshot_Full_Refresh_W"), ("X", "Market_Data_Incremental_Refresh_X")):
        payload = (shared_data / "fix" / "fixantenna" / "fixdatafix44" / f"{name}.fix").read_bytes().rstrip(b"\r\n")
        live = closed(body_of(payload).replace(b"\x0143=Y\x01", b"\x01"))
        (quote,) = feed().decode(live).rows("quotes")
        assert without(quote, "ts_recv") == {
            "ts_event": 978_310_861_001_000_000, "symbol": "STRING", "sequence": 1, "bid": 1.1, "bid_size": 1.1,
            "conditions": "A,B", "flags": 0,
        }, kind  # fmt: skip


def test_a_status_is_stored_with_its_words() -> None:
    found = feed()
    for number, code in enumerate(STATUSES, 2):
        found.decode(message("f", number, f"55=AAPL|326={code.decode()}|60=20260105-14:30:01|"))
    rows = found.rows("statuses")
    assert [row["message"] for row in rows] == list(STATUSES.values())
    assert {row["ts_event"] for row in rows} == {SENT + SECOND}


def book(actions: list[tuple[str, str, str, float, int]], **options: str) -> list[tuple[Any, ...]]:
    """Best prices after each increment; actions: 279, 269, 278 or "", price, size."""
    found = feed(**options)
    for number, (action, side, key, price, size) in enumerate(actions, 2):
        entry = f"268=1|279={action}|269={side}|55=A|270={price}|271={size}|" + (f"278={key}|" if key else "")
        found.decode(message("X", number, entry))
    return [tuple(row.get(name) for name in ("bid", "bid_size", "ask", "ask_size")) for row in found.rows("quotes")]


def test_the_best_of_a_whole_book_follows_entries_by_id() -> None:
    assert book(
        [("0", "0", "a", 10.0, 1), ("0", "0", "b", 10.0, 2), ("0", "0", "c", 9.0, 5), ("1", "0", "a", 9.5, 1),
         ("2", "0", "b", 10.0, 2), ("2", "0", "a", 9.5, 1), ("0", "1", "z", 11.0, 3), ("2", "0", "c", 9.0, 5)],
        depth="0",
    ) == [
        (10.0, 1.0, None, None), (10.0, 3.0, None, None), (10.0, 2.0, None, None), (9.5, 1.0, None, None),
        (9.0, 5.0, None, None), (9.0, 5.0, 11.0, 3.0), (None, None, 11.0, 3.0),
    ]  # fmt: skip


def test_a_single_level_is_replaced_and_a_late_deletion_of_the_one_before_does_nothing() -> None:
    assert book(
        [("0", "0", "a", 10.0, 1), ("0", "0", "b", 9.0, 2), ("2", "0", "a", 10.0, 1), ("2", "0", "b", 9.0, 2)]
    ) == [(10.0, 1.0, None, None), (9.0, 2.0, None, None), (None, None, None, None)]


def test_the_best_price_is_that_of_a_book_kept_by_sorting() -> None:
    """Against an oracle that keeps all entries in a list: 3,000 random actions."""
    rng, found, oracle = random.Random(7), feed(depth="0"), {}
    for number in range(2, 3002):
        side, key = rng.choice("01"), str(rng.randrange(40))
        price, size = round(10 + rng.randrange(30) / 10, 2), rng.randrange(1, 9)
        action = rng.choice("0012")
        if action == "2":
            oracle.pop((side, key), None)
        else:
            oracle[side, key] = price, size
        found.decode(message("X", number, f"268=1|279={action}|269={side}|55=A|270={price}|271={size}|278={key}|"))
        best = []
        for which, pick in (("0", max), ("1", min)):
            levels = [entry for (s, _), entry in oracle.items() if s == which]
            top = pick((p for p, _ in levels), default=0.0)
            best += [top, float(sum(size for p, size in levels if p == top))]
        assert list(found._decode.__self__._books.best("A")) == best  # type: ignore[attr-defined]


def test_state_is_in_what_is_kept_and_nowhere_else() -> None:
    whole, cut = feed(depth="0"), feed(depth="0")
    rng = random.Random(3)
    frames = [
        message("X", n, f"268=1|279={rng.choice('012')}|269={rng.choice('01')}|55=A|270={rng.randrange(5, 9)}|271=1|")
        for n in range(2, 200)
    ]
    for payload in frames:
        whole.decode(payload)
        cut._decode = cut.feed.decoder(cut.scope)  # as after a restart
        cut.decode(payload)
    assert whole.rows("quotes") == cut.rows("quotes")


def test_after_a_gap_a_book_is_silent_until_its_snapshot_and_trades_go_on() -> None:
    found = feed().decode(raw(SNAPSHOT))
    entries = "268=2|279=1|269=0|55=AAPL|270=189.50|271=1|279=0|269=2|55=AAPL|270=189.4|271=1|278=9|"
    found.decode(message("X", 7, entries))
    assert [(g["from_id"], g["to_id"], g["missing"]) for g in found.rows("gaps")] == [(3, 6, 4)]
    assert len(found.rows("trades")) == 1
    assert len(found.rows("quotes")) == 1  # the first snapshot's
    found.decode(message("W", 8, "262=q2|55=AAPL|268=1|269=0|270=190|271=5|"))
    assert [row["bid"] for row in found.rows("quotes")] == [190.0]


def gap_fill(number: int, new: int) -> bytes:
    return message("4", number, f"123=Y|36={new}|", flags="43=Y|122=20260105-14:29:59.000|")


@pytest.mark.parametrize(
    ("again", "recovered"),
    [
        ([5, 3, 4, 6], 4),
        ([3, 4, gap_fill(5, 7)], 2),  # heartbeats are not sent again
        ([gap_fill(3, 5), 6, 5], 2),
        ([gap_fill(3, 7)], None),  # of what it held nobody knows
        ([3, 4, 6], None),
        ([3, 4, 4, 3], None),
    ],
)
def test_a_gap_is_repaired_once_all_of_it_was_sent_again(again: list[int | bytes], recovered: int | None) -> None:
    whole, cut = feed(), feed()
    late = ("X", "268=1|279=0|269=2|55=A|270=1|271=1|", "43=Y|122=20260105-14:29:59.000|")
    frames = [raw(SNAPSHOT), message("X", 7, late[1])]
    frames += [n if isinstance(n, bytes) else message(late[0], n, late[1], flags=late[2]) for n in again]
    for at, payload in enumerate(frames):
        whole.decode(payload, FRAME_END + at)
        cut._decode = cut.feed.decoder(cut.scope)  # as after a restart
        cut.decode(payload, FRAME_END + at)
    told, *closed = whole.rows("gaps")
    assert [told, *closed] == cut.rows("gaps")
    assert (told["from_id"], told["to_id"], told["missing"], told["ts_event"]) == (3, 6, 4, FRAME_END + 1)
    assert closed == ([] if recovered is None else [{**told, "status": "repaired", "recovered": recovered}])


def test_what_is_sent_again_is_stored_once_and_never_moves_the_book() -> None:
    found = feed().decode(raw(SNAPSHOT)).decode(message("X", 5, "268=1|279=0|269=2|55=A|270=1|271=1|278=5|"))
    again = "268=2|279=1|269=0|55=AAPL|270=1|271=1|279=0|269=2|55=A|270=1|271=1|278=4|"
    flags = "43=Y|122=20260105-14:29:59.000|"
    for _ in range(2):
        found.decode(message("X", 4, again, flags=flags))
        found.decode(message("X", 2, again, flags=flags))
    trades = found.rows("trades")
    assert [(t["trade_id"], t["flags"], t["ts_event"]) for t in trades] == [(5, 0, SENT), (4, 8, SENT - SECOND)]
    assert len(found.rows("quotes")) == 1


@pytest.mark.parametrize(
    ("entry", "reason"),
    [("279=0|269=2|55=A|270=x|271=1|", "MDEntryPx"), ("279=0|269=2|55=A|270=1|", "MDEntrySize"),
     ("279=0|269=2|55=A|270=0|271=1|", "not above 0"), ("279=9|269=2|55=A|270=1|271=1|", "MDUpdateAction"),
     ("279=0|269=2|270=1|271=1|", "without an instrument"), ("279=0|269=0|55=A|270=-1|271=1|", "MDEntryPx"),
     ("279=0|269=2|55=A|270=1|271=1|273=25:00:00|", "past the end"), ("279=0|269=2|55=A|270=1_0|271=1|", "MDEntryPx")],
)  # fmt: skip
def test_an_entry_that_does_not_fit_is_rejected_and_its_neighbours_are_stored(entry: str, reason: str) -> None:
    good = "279=0|269=2|55=B|270=2|271=1|278=1|"
    found = feed().decode(message("X", 2, f"268=2|{entry}{good}"))
    assert [t["symbol"] for t in found.rows("trades")] == ["B"]
    (rejected,) = found.rows("rejected")
    assert reason in rejected["reason"]


@pytest.mark.parametrize(
    "payload",
    [b"", b"8=FIX.4.4", raw(SNAPSHOT)[:-1], raw(SNAPSHOT).replace(b"189", b"188"), b"x" + raw(SNAPSHOT),
     message("X", 2, "268=3|279=0|269=2|55=A|270=1|271=1|"), message("X", 2, "55=A|"),
     closed(b"35=X\x0149=F\x0156=R\x0134=x\x0152=20260105-14:30:00\x01268=0\x01"),
     closed(b"35=W\x0149=F\x0156=R\x0134=5\x0155=A\x01268=0\x01")],
)  # fmt: skip
def test_a_message_that_is_garbled_or_incomplete_is_refused_whole(payload: bytes) -> None:
    found = feed()
    before = found.out.counts()
    with pytest.raises(FrameError):
        found.decode(payload)
    assert found.out.counts() == before


def test_damage_under_right_lengths_and_checksums_raises_nothing_but_frame_errors() -> None:
    """Where only bytes are damaged the checksum tells; here it is made right again."""
    bodies = [body_of(raw(text)) for text in (SNAPSHOT, INCREMENT, REFUSED)]
    bodies += [body_of(message("4", 9, "36=12|123=Y|", flags="43=Y|122=20260105-14:30:00|"))]
    for depth in ("1", "0"):
        found = feed(depth=depth)
        read = 0
        for body in mutations(bodies, 4000, seed=11):
            before = found.out.counts()
            try:
                found.decode(closed(b"35=" + body[3:]), RECV)
                read += 1
            except FrameError:
                assert found.out.counts() == before, body
        assert read > 100
        for row in found.rows("trades"):
            assert 0 < row["price"] < float("inf")
            assert 0 <= row["size"] < float("inf")
        for row in found.rows("quotes"):
            assert all(0 <= row.get(name, 0) < float("inf") for name in ("bid", "bid_size", "ask", "ask_size"))


# What the feed asks for and what it makes of answers.


def session(symbols: tuple[str, ...] = ("AAPL", "EUR-USD"), **options: str) -> Any:
    spec = FeedSpec(
        name="f", provider="fix", symbols=symbols, url="tcp+tls://fix.example.com:9000",
        options={"sender": "REC", "target": "FEED", "names": "EUR-USD=EUR/USD", **options},
    )  # fmt: skip
    return make(spec, {"FIX_USERNAME": "u", "FIX_PASSWORD": "p"})


def requests(commands: list[Any]) -> list[str]:
    return [c.payload.decode().replace("\x01", "|") for c in commands if isinstance(c, Send)]


def test_it_asks_for_each_channel_of_each_symbol_and_to_be_told_when_all_was_read() -> None:
    feed_ = session()
    sent = requests(feed_.on_open())
    assert sent == [
        "35=V|262=t1|263=1|264=1|265=1|267=1|269=2|146=1|55=AAPL|",
        "35=V|262=t2|263=1|264=1|265=1|267=1|269=2|146=1|55=EUR/USD|",
        "35=V|262=q3|263=1|264=1|265=1|267=2|269=0|269=1|146=1|55=AAPL|",
        "35=V|262=q4|263=1|264=1|265=1|267=2|269=0|269=1|146=1|55=EUR/USD|",
        "35=1|112=asked4|",
    ]
    assert feed_.waiting
    assert feed_.on_control(message("W", 2, "262=q3|55=AAPL|268=0|")) == []
    assert feed_.on_control(message("0", 3, "112=asked4|")) == [Ready(("AAPL", "EUR-USD"))]
    assert not feed_.waiting
    again = requests(feed_.lost())
    assert sorted(r[5:19] for r in again[:2]) == ["262=q3|263=2|2", "262=q4|263=2|2"]
    assert sorted(r[5:17] for r in again[2:4]) == ["262=q5|263=1", "262=q6|263=1"]
    assert again[4:] == ["35=1|112=asked6|"]
    feed_.on_control(message("0", 4, "112=asked6|"))
    gone = requests(feed_.change(("AAPL",)))
    assert [r[-16:] for r in gone] == ["46=1|55=EUR/USD|"] * 2
    assert all("|263=2|" in r for r in gone)


def test_answers_that_refuse() -> None:
    feed_ = session(("AAPL",))
    feed_.on_open()
    (notice,) = feed_.on_control(message("Y", 2, "262=t1|281=0|58=who|"))
    assert notice == Notice("symbol.refused", {"symbol": "AAPL", "channel": "trades", "reason": "unknown symbol: who"})
    last = feed_.on_control(message("Y", 3, "262=q2|281=2|"))
    assert isinstance(last[-1], Reconnect)
    feed_.on_open()
    feed_.on_control(message("Y", 2, "262=t1|281=3|"))
    assert isinstance(feed_.on_control(message("Y", 3, "262=q2|281=3|"))[-1], Fatal)
    feed_.on_open()
    assert isinstance(feed_.on_control(message("j", 2, "45=2|372=V|380=6|58=not yours|"))[0], Fatal)
    assert isinstance(feed_.on_control(message("3", 2, "45=2|371=264|372=V|373=5|"))[0], Fatal)
    assert isinstance(feed_.on_control(message("j", 2, "45=2|372=V|380=4|"))[0], Notice)


def test_an_announced_close_is_obeyed() -> None:
    text = "148=Your connection is about to be closed. Please reconnect.|"
    assert isinstance(session().on_control(message("B", 4, text))[0], Renew)


@pytest.mark.parametrize(
    "options",
    [{"heartbeat": "x"}, {"depth": "-1"}, {"names": "A"}, {"names": "A=B, C=B"}, {"numbers": "other"}, {"by": "isin"}],
)
def test_options_that_cannot_be_are_named(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        session(**options)


def test_a_feed_without_parties_address_or_sound_names_is_refused() -> None:
    for change in ({"sender": ""}, {"target": "a\x01b"}):
        with pytest.raises(ConfigError):
            session(**change).shards()
    with pytest.raises(ConfigError, match="url"):
        make(FeedSpec(name="f", provider="fix", options={"sender": "A", "target": "B"})).shards()  # type: ignore[attr-defined]
    with pytest.raises(SymbolError):
        session(("A\x01B",))


def test_a_password_shows_nowhere() -> None:
    endpoint = session().endpoint()
    assert endpoint.fix.password == "p"
    assert "'p'" not in repr(endpoint.fix) + repr(endpoint)
