"""IEX: documented messages byte for byte, numbers that are missing, trades that are broken."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from decoding import FRAME_END, Recorded
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import DEEP, TOPS, segment

from recorder.core.frames import BINARY, SOURCE, frames_from_list
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.values.config import KernelsConfig
from recorder.values.errors import ConfigError, FrameError
from recorder.values.feed import FeedSpec
from recorder.values.tables import CANCELLED, HALTED, NOT_LAST_ELIGIBLE

# Captured, with what they say (protocols of IEX; price in 1/10,000).
QUOTE = bytes.fromhex("5100c048e39c37b30d15415453472020202055490000ecb003000000000044b303000000000005ed0000")
TRADE = bytes.fromhex("54c0f8f29d8ae8ad0d155a49455854202020640000000e2700000000000012d60e0000000000")
LEVEL = bytes.fromhex("3801be7f13353ae25d165620202020202020be000000b4f01e0000000000")
ADDED = bytes.fromhex("61351e7711156155fa1749424b52202020200a000000000063006400000008d4140000000000")
EXECUTED = bytes.fromhex("4c409c378e7c6855fa1749424b52202020200d0000000000630064000000a00e1500000000001800000000006300")
STATUS = bytes.fromhex("4848f13dda36a7b30d154a484d55202020204e412020")
HEADER = bytes.fromhex("01000480010000000000dd4820000100918eab00000000005e6b0500000000006d1c16353ae25d16")


def decoded(*segments: bytes) -> Recorded:
    feed = Recorded("iex", ())
    for each in segments:
        feed.decode(each)
    return feed


def of(*messages: bytes, first: int = 1, **fields: Any) -> bytes:
    return segment(messages, first, **fields)


def trade(
    flags: int = 0, symbol: bytes = b"SPY     ", trade_id: int = 7, ts: int = 1517059863763350264, kind: bytes = b"T",
    size: int = 100, price: int = 2_700_001,
) -> bytes:  # fmt: skip
    return struct.pack("<cBq8sIqq", kind, flags, ts, symbol, size, price, trade_id)


def test_the_documented_quote() -> None:
    [row] = decoded(of(QUOTE, first=12)).rows("quotes")
    assert row == {
        "ts_event": 1517065700930439360, "ts_recv": FRAME_END, "symbol": "ATSG", "sequence": 12, "bid": 24.19,
        "bid_size": 18773.0, "ask": 24.25, "ask_size": 60677.0, "flags": 0,
    }  # fmt: skip


def test_the_documented_trade_of_extended_hours_sets_no_last_price() -> None:
    [row] = decoded(of(TRADE)).rows("trades")
    assert row == {
        "ts_event": 1517059863763350264, "ts_recv": FRAME_END, "symbol": "ZIEXT", "trade_id": 972306, "price": 0.9998,
        "size": 100.0, "conditions": "intermarket_sweep,extended_hours", "flags": NOT_LAST_ELIGIBLE,
    }  # fmt: skip


def test_the_documented_execution_of_an_order_is_a_trade() -> None:
    [row] = decoded(of(ADDED, EXECUTED, protocol=0x8005)).rows("trades")
    assert row == {
        "ts_event": int.from_bytes(EXECUTED[2:10], "little"), "ts_recv": FRAME_END, "symbol": "IBKR",
        "trade_id": 27866022694354968, "price": 138.0, "size": 100.0, "conditions": "extended_hours",
        "flags": NOT_LAST_ELIGIBLE,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["AAC=", "BAC-B", "GDP+", "ABC^", "BRK.B", "XYZ#", "XYZ$", "A*", "ZVZZT", "TEST~"])
def test_symbols_keep_the_suffixes_of_units_warrants_rights_and_classes(name: str) -> None:
    feed = decoded(of(trade(symbol=f"{name:8}".encode())))
    assert [row["symbol"] for row in feed.rows("trades")] == [name]


def test_the_documented_halt() -> None:
    [row] = decoded(of(STATUS)).rows("statuses")
    assert row == {
        "ts_event": int.from_bytes(STATUS[2:10], "little"), "ts_recv": FRAME_END, "symbol": "JHMU", "kind": "status",
        "code": "H", "message": "halted everywhere", "reason": "NA",
    }  # fmt: skip


def test_the_documented_header_with_its_message_is_taken_and_a_price_level_amid_a_session_is_no_row() -> None:
    assert len(LEVEL) + 2 == 32
    feed = decoded(HEADER + struct.pack("<H", len(LEVEL)) + LEVEL)
    assert sum(feed.out.counts()) == 0
    assert feed.unknown == {"price level of a book that is not whole": 1}
    assert feed.scope.newest == 355166


def level(side: bytes, price: int, size: int, complete: bool = True, symbol: bytes = b"SPY     ") -> bytes:
    return struct.pack("<cBq8sIq", side, complete, 1517059863763350264, symbol, size, price)


LEVELS = st.lists(
    st.tuples(
        st.sampled_from([b"8", b"5"]), st.integers(1, 6), st.integers(0, 3), st.booleans(), st.sampled_from("AB")
    ),
    max_size=30,
)


@given(LEVELS, st.lists(st.integers(0, 30), max_size=4))
@settings(deadline=None)
def test_best_prices_of_price_levels_are_quotes_when_a_complete_book_has_others(
    updates: list[tuple[bytes, int, int, bool, str]], cuts: list[int]
) -> None:
    messages = [
        level(side, price * 10_000, size, whole, f"{name:8}".encode()) for side, price, size, whole, name in updates
    ]
    books: dict[tuple[str, bytes], dict[int, int]] = {}
    expected, last = list[Any](), dict[str, Any]()
    for number, (side, price, size, whole, name) in enumerate(updates, 1):
        books.setdefault((name, side), {})[price] = size
        if whole:
            bids = {p: s for p, s in books.get((name, b"8"), {}).items() if s}
            asks = {p: s for p, s in books.get((name, b"5"), {}).items() if s}
            bid, ask = max(bids, default=None), min(asks, default=None)
            best = (bid, bids.get(bid), ask, asks.get(ask))  # type: ignore[arg-type]
            if best != last.get(name):
                expected.append((name, number, best))
            last[name] = best
    feed, first = Recorded("iex", ()), 1
    for end in [*sorted(cuts), len(messages)]:
        part = messages[first - 1 : end]
        feed.decode(of(*part, first=first, protocol=DEEP))
        first += len(part)
        feed._decode = feed.feed.decoder(feed.scope)  # as after a restart: what it needs is in what is kept
    found = [
        (r["symbol"], r["sequence"], (r.get("bid"), r.get("bid_size"), r.get("ask"), r.get("ask_size")))
        for r in feed.rows("quotes")
    ]
    assert found == expected


def test_a_book_that_lacks_a_message_gives_no_more_quotes_until_the_next_session() -> None:
    feed = decoded(of(level(b"8", 100, 5), first=1, protocol=DEEP), of(level(b"8", 200, 5), first=3, protocol=DEEP))
    assert len(feed.rows("quotes")) == 1
    feed.decode(of(level(b"8", 300, 5), first=1, protocol=DEEP, session=2))
    assert [row["bid"] for row in feed.rows("quotes")] == [0.03]
    late = decoded(of(level(b"8", 100, 5), first=2, protocol=DEEP))  # a capture that began late
    assert late.rows("quotes") == []
    assert late.unknown == {"price level of a book that is not whole": 1}


@pytest.mark.parametrize(
    ("side", "cut"),
    [
        ("bid", slice(18, 30)), ("bid", slice(18, 22)), ("bid", slice(22, 30)),
        ("ask", slice(30, 42)), ("ask", slice(38, 42)), ("ask", slice(30, 38)),
    ],
)  # fmt: skip
def test_a_side_without_a_price_or_without_a_size_is_null(side: str, cut: slice) -> None:
    message = bytearray(QUOTE)
    message[cut] = bytes(cut.stop - cut.start)
    [row] = decoded(of(bytes(message))).rows("quotes")
    assert not {side, f"{side}_size"} & row.keys()
    assert "bid" in row or "ask" in row


@pytest.mark.parametrize(
    ("flags", "words"),
    [(0, None), (0x80, "not_available"), (0x40, "outside_session"), (0xC0, "not_available,outside_session")],
)
def test_a_quote_says_when_it_is_of_no_use(flags: int, words: str | None) -> None:
    [row] = decoded(of(QUOTE[:1] + bytes([flags]) + QUOTE[2:])).rows("quotes")
    assert row.get("conditions") == words


@given(st.integers(0, 255))
@settings(deadline=None)
def test_every_sale_condition_is_named_and_decides_the_last_price(flags: int) -> None:
    [row] = decoded(of(trade(flags))).rows("trades")
    named = {"intermarket_sweep": 0x80, "extended_hours": 0x40, "odd_lot": 0x20, "trade_through_exempt": 0x10,
             "single_price_cross": 0x08}  # fmt: skip
    assert sum(named[word] for word in row.get("conditions", "").split(",") if word) == flags & 0xF8
    assert bool(row["flags"] & NOT_LAST_ELIGIBLE) == bool(flags & 0x60)


def test_trades_of_a_halted_symbol_are_flagged_until_it_trades_again() -> None:
    def status(code: bytes) -> bytes:
        return struct.pack("<ccq8s4s", b"H", code, 1517059863763350264, b"SPY     ", b"T1  ")

    messages = [trade(trade_id=1), status(b"H"), trade(trade_id=2), trade(symbol=b"IBM     ", trade_id=3), status(b"O"),
                trade(trade_id=4), status(b"T"), trade(trade_id=5)]  # fmt: skip
    flags = {row["trade_id"]: row["flags"] for row in decoded(of(*messages)).rows("trades")}
    assert flags == {1: 0, 2: HALTED, 3: 0, 4: HALTED, 5: 0}


def test_system_events_and_operational_halts_are_statuses() -> None:
    system = struct.pack("<ccq", b"S", b"R", 1517059863763350264)
    operation = struct.pack("<ccq8s", b"O", b"O", 1517059863763350264, b"IBM     ")
    rows = [(r["symbol"], r["kind"], r["code"], r["message"]) for r in decoded(of(system, operation)).rows("statuses")]
    assert rows == [
        ("*", "system", "R", "start of regular hours"), ("IBM", "system", "O", "operationally halted on IEX"),
    ]  # fmt: skip


def test_a_broken_trade_is_taken_back_by_its_id() -> None:
    spec = FeedSpec(name="f", provider="iex")
    pipeline = Pipeline(KernelsConfig(), make)
    payload = of(trade(trade_id=1), trade(trade_id=2), trade(kind=b"B", trade_id=1, ts=1517059863763350999))
    pipeline.consume(
        frames_from_list([(SOURCE, 0, FRAME_END, msgspec.json.encode(spec)), (BINARY, 0, FRAME_END, payload)])
    )
    [rows] = [table.rows for table in pipeline.seal().tables if table.table.name == "trades"]
    found = sorted((int(r["trade_id"]), int(r["ts_event"]), bool(r["flags"] & CANCELLED)) for r in rows)
    at = 1517059863763350264
    assert (1, at, True) in found  # the trade itself
    assert (1, at + 735, True) in found  # what took it back
    assert (2, at, False) in found


# Numbers


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=12))
@settings(deadline=None)
def test_messages_that_are_missing_are_a_gap_with_their_numbers(steps: list[tuple[int, int]]) -> None:
    """(messages in a segment, messages lost before it)"""
    feed, number, expected = decoded(of(trade(), first=1)), 2, []
    for count, lost in steps:
        if lost:
            expected.append((number, number + lost - 1, lost))
        number += lost
        feed.decode(of(*(trade(trade_id=number + i) for i in range(count)), first=number))
        number += count
    gaps = [(row["from_id"], row["to_id"], row["missing"]) for row in feed.rows("gaps")]
    assert gaps == expected
    assert all(row["kind"] == "sequence" for row in feed.rows("gaps"))


def test_a_heartbeat_tells_of_messages_lost_before_it() -> None:
    feed = decoded(of(trade(), first=1), of(first=2), of(first=5), of(trade(), first=5), of(first=2))
    [gap] = feed.rows("gaps")
    assert (gap["from_id"], gap["to_id"]) == (2, 4)
    assert len(feed.rows("trades")) == 2


def test_a_segment_that_comes_again_gives_nothing_twice() -> None:
    one, two = of(trade(trade_id=1), trade(trade_id=2)), of(trade(trade_id=2), trade(trade_id=3), first=2)
    feed = decoded(one, one, two, two)
    assert [row["trade_id"] for row in feed.rows("trades")] == [1, 2, 3]
    assert feed.unknown == {"segment that came before": 2}
    assert feed.rows("gaps") == []


def test_another_session_starts_its_numbers_over() -> None:
    feed = decoded(
        of(trade(), first=500), of(trade(trade_id=8), first=1, session=2), of(trade(trade_id=9), first=3, session=2)
    )
    assert len(feed.rows("trades")) == 3
    assert [(row["from_id"], row["to_id"]) for row in feed.rows("gaps")] == [(2, 2)]


# What does not fit


@pytest.mark.parametrize(
    "payload",
    [
        b"", bytes(40), of(trade())[:-1], of(trade()) + b"x", of(trade(), protocol=0x8001), b"\x02" + of(trade())[1:],
        of(trade(), first=-5),
    ],
)  # fmt: skip
def test_what_is_no_segment_is_refused_whole(payload: bytes) -> None:
    with pytest.raises(FrameError):
        decoded(payload)


def test_messages_that_a_segment_lacks_are_rejected_as_one_and_missing_until_it_comes_whole() -> None:
    whole = of(trade(trade_id=1), trade(trade_id=2), trade(trade_id=3))
    damaged = bytearray(whole)
    damaged[40 + 40 : 40 + 42] = bytes(2)  # the second message's length
    feed = decoded(bytes(damaged))
    assert [row["trade_id"] for row in feed.rows("trades")] == [1]
    [row] = feed.rows("rejected")
    assert row["reason"].startswith("message 2 and what follows")
    feed.decode(whole).decode(of(trade(trade_id=9), first=6))
    assert [row["trade_id"] for row in feed.rows("trades")] == [2, 3, 9]
    assert [(gap["from_id"], gap["to_id"]) for gap in feed.rows("gaps")] == [(4, 5)]
    announced = bytearray(of(trade()))
    announced[14:16] = struct.pack("<H", 2)
    feed = decoded(bytes(announced), of(trade(trade_id=9), first=3))
    assert [(gap["from_id"], gap["to_id"]) for gap in feed.rows("gaps")] == [(2, 2)]
    assert len(feed.rows("trades")) == 2


def test_a_bad_message_is_rejected_its_neighbours_are_stored_and_new_ones_are_counted() -> None:
    bad = [trade(ts=5), trade(price=-1), trade(price=0), trade(symbol=b"\xff" * 8), TRADE[:20]]
    feed = decoded(of(trade(trade_id=1), *bad, b"Z123", trade(trade_id=2) + b"more", protocol=TOPS))
    assert [row["trade_id"] for row in feed.rows("trades")] == [1, 2]  # longer messages are of a later version
    assert len(feed.rows("rejected")) == len(bad)
    assert feed.unknown == {"message b'Z'": 1}


@given(st.binary(max_size=120), st.integers(0, 400), st.binary(min_size=1, max_size=4))
@settings(deadline=None)
def test_damage_raises_nothing_but_a_frame_error(head: bytes, at: int, change: bytes) -> None:
    whole = of(QUOTE, TRADE, STATUS, LEVEL, trade(), protocol=DEEP)
    damaged = whole[: at % len(whole)] + change + whole[at % len(whole) + len(change) :]
    for payload in (head, damaged, whole[:40] + head):
        try:
            decoded(payload)
        except FrameError:
            continue


def test_it_cannot_be_configured_as_a_feed() -> None:
    with pytest.raises(ConfigError, match=r"recorder replay FILE\.pcap\.gz"):
        make(FeedSpec(name="x", provider="iex")).shards()
