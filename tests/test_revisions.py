"""Trades taken back and corrected: whatever a tape did, what counts afterwards is the corrected tape."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core import revisions
from recorder.core.frames import SOURCE, TEXT, frames_from_list
from recorder.core.pipeline import Pipeline
from recorder.core.snapshot import decode as decode_snapshot
from recorder.feeds import make
from recorder.values.config import KernelsConfig
from recorder.values.feed import FeedSpec
from recorder.values.tables import CANCELLED, CORRECTED, NOT_VOLUME_ELIGIBLE

OPEN = 1_700_058_600 * 10**9  # 2023-11-15 09:30 in New York
LARGE = (1 << 63) + 5  # an id that fits no LONG
SPEC = (SOURCE, 0, 0, msgspec.json.encode(FeedSpec(name="us", provider="alpaca", symbols=("*",))))


def stamp(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09d}Z"


def trade(ts: int, number: int, price: float, size: float, place: str = "Q", conditions: Any = ("@",)) -> dict:
    message = {"T": "t", "S": "AAPL", "i": number, "x": place, "p": price, "s": size, "c": conditions}
    return message | {"t": stamp(ts), "z": "C"}


def cancel(ts: int, print_: dict) -> dict:
    return {"T": "x", "a": "C", "t": stamp(ts)} | {name: print_[name] for name in ("S", "i", "x", "p", "s", "z")}


def correct(ts: int, print_: dict, number: int, price: float, size: float) -> dict:
    message = {"T": "c", "S": "AAPL", "x": print_["x"], "oi": print_["i"], "op": print_["p"], "os": print_["s"]}
    message |= {"oc": print_["c"], "ci": number, "cp": price, "cs": size, "cc": print_["c"], "z": "C", "t": stamp(ts)}
    return message


class Server:
    """A pipeline and what its rows leave in a table that keeps the last row of an identity."""

    def __init__(self) -> None:
        self.pipeline = Pipeline(KernelsConfig(), make)
        self.stored: dict[tuple, dict] = {}
        self.first: dict[tuple, dict] = {}
        self._position = 0
        self._consume([SPEC])

    def _consume(self, frames: list[tuple]) -> None:
        block = frames_from_list(frames, position=self._position)
        self._position = block.end
        self.pipeline.consume(block)

    def send(self, ts_recv: int, *messages: dict) -> None:
        self._consume([(TEXT, 0, ts_recv, msgspec.json.encode(messages))])

    def seal(self) -> Server:
        for block in self.pipeline.seal().tables:
            if block.table.name == "trades":
                for row in block.rows:
                    values = {name: row[name].item() for name in block.rows.dtype.names}
                    start, end = (0, 0) if row["trade_ref"] < 0 else block.varchar_offsets[row["trade_ref"] :][:2]
                    values["trade_ref"] = block.varchar_heap[start:end].tobytes()
                    key = tuple(values[name] for name in ("ts_event", "series", "exchange", "trade_id"))
                    self.first.setdefault(key, values)
                    self.stored[key] = values
        return self

    def restart(self) -> None:
        self.seal()
        saved = self.pipeline.snapshot().encode()
        self.pipeline = Pipeline(KernelsConfig(), make)
        self.pipeline.restore(decode_snapshot(saved))

    def counting(self) -> list[tuple]:
        name = self.pipeline.out.texts.name
        rows = [row for row in self.stored.values() if not row["flags"] & CANCELLED]
        return sorted((r["ts_event"], name(r["exchange"]), r["price"], r["size"]) for r in rows)


def vwap(prints: list[tuple]) -> float:
    volume = math.fsum(size for *_, size in prints)
    return math.fsum(price * size for *_, price, size in prints) / volume if volume else math.nan


steps = st.lists(
    st.tuples(
        st.sampled_from(["trade", "trade", "trade", "cancel", "correct", "same id", "seal", "restart"]),
        st.integers(0, 10**6),  # which of the prints
        st.integers(1, 4000).map(lambda n: n / 8),
        st.integers(1, 500).map(float),
        st.sampled_from("QN"),
    ),
    max_size=60,
)


@given(steps=steps)
@settings(max_examples=120, deadline=None)
def test_what_counts_afterwards_is_the_corrected_tape_wherever_batches_were_sealed(steps):
    server = Server()
    tape: list[tuple[int, dict]] = []  # (time of the trade, print as it counts now)
    for i, (what, which, price, size, place) in enumerate(steps):
        now = OPEN + i * 1_000_003
        at = which % len(tape) if tape else 0
        if what == "trade":
            tape.append((now, trade(now, i, price, size, place)))
            server.send(now + 5, tape[-1][1])
        elif what == "cancel" and tape:
            server.send(now + 5, cancel(now, tape.pop(at)[1]))
        elif what in ("correct", "same id") and tape:
            ts, print_ = tape[at]
            number = print_["i"] if what == "same id" else 10_000 + i
            server.send(now + 5, correct(now, print_, number, price, size))
            tape[at] = (ts, print_ | {"i": number, "p": price, "s": size})
        elif what == "seal":
            server.seal()
        elif what == "restart":
            server.restart()
    end = OPEN + 10**9
    tape.append((end, trade(end, 9999, 100.0, 1.0)))
    server.send(end, tape[-1][1])
    server.seal()
    expected = sorted((ts, p["x"], p["p"], p["s"]) for ts, p in tape)
    assert server.counting() == expected
    [last] = [row for row in server.stored.values() if row["ts_event"] == end]
    assert last["vwap"] == pytest.approx(vwap(expected), rel=1e-9)
    assert server.pipeline.out.unknown == {}


def test_a_cancelled_trade_keeps_all_that_was_stored_first_and_gets_a_flag():
    server = Server()
    first = [trade(OPEN + i, 7 + i, 100.0 + i, 10.0, conditions=["@", "I"]) for i in range(3)]
    server.send(OPEN + 100, *first)
    server.seal()
    server.send(OPEN + 900, cancel(OPEN + 800, first[1]))
    server.seal()
    key = next(key for key in server.first if key[0] == OPEN + 1)
    before, after = server.first[key], server.stored[key]
    assert after == before | {"flags": before["flags"] | CANCELLED, "zscore": pytest.approx(math.nan, nan_ok=True)}
    withdrawal = [row for row in server.stored.values() if row["ts_event"] == OPEN + 800]
    assert [(row["price"], row["flags"] & CANCELLED) for row in withdrawal] == [(101.0, CANCELLED)]
    assert len(server.stored) == 4


@pytest.mark.parametrize("number", [8, LARGE])
def test_a_correction_has_the_time_of_its_trade_and_what_it_replaces_stays_readable(number):
    server = Server()
    server.send(OPEN + 100, trade(OPEN, number, 100.0, 10.0))
    server.seal()
    server.send(OPEN + 900, correct(OPEN + 800, trade(OPEN, number, 100.0, 10.0), LARGE + 1, 50.0, 20.0))
    server.seal()
    rows = sorted(
        (r["ts_event"] - OPEN, r["price"], r["flags"] & (CANCELLED | CORRECTED)) for r in server.stored.values()
    )
    assert rows == [(0, 50.0, CORRECTED), (0, 100.0, CANCELLED), (800, 100.0, CANCELLED)]
    refs = {(r["price"], r["trade_ref"]) for r in server.stored.values()}
    assert refs == {(50.0, str(LARGE + 1).encode()), (100.0, str(number).encode() if number == LARGE else b"")}


def test_a_revision_under_its_own_id_is_counted_once_in_coverage():
    server = Server()
    server.send(OPEN + 100, trade(OPEN, 8, 100.0, 10.0))
    server.send(OPEN + 900, correct(OPEN + 800, trade(OPEN, 8, 100.0, 10.0), 8, 50.0, 20.0))
    server.send(OPEN + 901, correct(OPEN + 801, trade(OPEN, 1, 100.0, 10.0), 1, 50.0, 20.0))  # of a trade not seen
    server.pipeline.write_coverage()
    blocks = {block.table.name: block.rows for block in server.pipeline.seal().tables}
    identities = {(r["ts_event"], r["trade_id"]) for r in blocks["trades"].tolist() and blocks["trades"]}
    ledger = blocks["coverage"]
    assert int((ledger["received"] - ledger["duplicate"]).sum()) == len(identities) == 3


def test_a_trade_that_is_not_remembered_any_more_is_told_and_both_rows_stay(monkeypatch):
    monkeypatch.setattr(revisions, "RECENT_TRADES", 4)
    server = Server()
    first = [trade(OPEN + i, 7 + i, 100.0, 10.0) for i in range(6)]
    server.send(OPEN + 100, *first)
    server.send(OPEN + 900, cancel(OPEN + 800, first[0]), cancel(OPEN + 801, first[2]))
    server.seal()
    cancelled = sorted(row["ts_event"] - OPEN for row in server.stored.values() if row["flags"] & CANCELLED)
    assert cancelled == [2, 800, 801]
    assert server.pipeline.out.unknown == {}, "the trade may yet come"
    monkeypatch.setattr(revisions, "REVISIONS_MAX", 2)
    server.send(OPEN + 1000, cancel(OPEN + 950, first[3]))
    assert server.seal().pipeline.out.unknown == {("us", revisions.NOT_FOUND): 1}


def test_of_ids_that_start_over_each_day_the_newest_trade_is_meant():
    server = Server()
    day = 86_400 * 10**9
    server.send(OPEN, trade(OPEN, 7, 100.0, 10.0))
    server.send(OPEN + day, trade(OPEN + day, 7, 200.0, 10.0), trade(OPEN + day + 1, 7, 300.0, 10.0, "N"))
    server.send(OPEN + day + 9, cancel(OPEN + day + 5, trade(OPEN + day, 7, 200.0, 10.0)))
    assert [price for _, _, price, _ in server.seal().counting()] == [100.0, 300.0]


def test_what_is_not_in_volume_is_not_taken_out_of_the_vwap():
    server = Server()
    official = trade(OPEN, 7, 500.0, 1000.0, conditions=["M"])
    server.send(OPEN, official, trade(OPEN + 1, 8, 100.0, 10.0), cancel(OPEN + 2, official))
    server.send(OPEN + 3, trade(OPEN + 3, 9, 100.0, 10.0))
    rows = server.seal().stored.values()
    assert [row["vwap"] for row in rows if row["ts_event"] == OPEN + 3] == [100.0]
    assert any(row["flags"] & NOT_VOLUME_ELIGIBLE and row["flags"] & CANCELLED for row in rows)


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8), restart=st.booleans())
@settings(max_examples=60, deadline=None)
def test_just_the_last_trades_are_remembered_however_they_came(sizes, restart):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(revisions, "RECENT_TRADES", 5)
        server, sent = Server(), []
        for size in sizes:
            block = [trade(OPEN + i, 100 + i, 100.0, 10.0) for i in range(len(sent), len(sent) + size)]
            server.send(OPEN + 10**6, *block)
            server.seal()
            sent += block
        if restart:
            server.restart()
        server.send(OPEN + 10**7, *(cancel(OPEN + 10**6 + i, print_) for i, print_ in enumerate(sent)))
        left = [ts - OPEN for ts, *_ in server.seal().counting()]
    assert left == list(range(max(0, len(sent) - 5)))
