"""Revisions that come before their trades: whatever came first, what counts afterwards is the tape in order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_revisions import LARGE, OPEN, Server, cancel, correct, trade, vwap

from recorder.core import history, revisions
from recorder.core.frames import CLOSED, OPENED, RESPONSE
from recorder.core.pipeline import Pipeline
from recorder.core.snapshot import decode as decode_snapshot
from recorder.feeds import make
from recorder.values.config import KernelsConfig
from recorder.values.feed import HistoryRequest
from recorder.values.tables import CANCELLED, CORRECTED

DAY = 86_400 * 10**9
AFTERWARDS = OPEN + 10**9


class Late(Server):
    """A server whose provider's history can be asked, too."""

    def past(self, ts_recv: int, *messages: dict, gap: history.Identity | None = None) -> None:
        request = HistoryRequest("AAPL", "trades", OPEN - 2 * DAY, ts_recv)
        body = msgspec.json.encode({"trades": {"AAPL": messages}, "next_page_token": None})
        page = history.encode(history.Page(gap=gap, request=request, last=True), body)
        self._consume([(RESPONSE, 0, ts_recv, page)])

    def connected(self, ts_recv: int) -> None:
        self._consume([(OPENED, 0, ts_recv, b"")])

    def disconnected(self, ts_recv: int) -> None:
        self._consume([(CLOSED, 0, ts_recv, b"1006 abnormal closure")])

    def rows(self) -> dict[tuple, dict]:
        """Identity → what is the same whatever came first."""
        name = self.pipeline.out.texts.name
        kept = ("price", "size", "trade_ref")
        return {
            (ts - OPEN, name(exchange), number): {n: row[n] for n in kept}
            | {"cancelled": bool(row["flags"] & CANCELLED), "corrected": bool(row["flags"] & CORRECTED)}
            for (ts, _, exchange, number), row in self.seal().stored.items()
        }


@st.composite
def tapes(draw: Any) -> tuple[list[dict], list[tuple], list[dict]]:
    """Messages in order; the prints that count at the end as (time, exchange, price, size); the trades among them."""
    sent: list[dict] = []
    standing: list[tuple[int, dict]] = []
    trades: list[dict] = []
    for i in range(draw(st.integers(2, 14))):
        now = OPEN + i * 1_000_003
        what = draw(st.sampled_from(["trade", "trade", "cancel", "correct", "same id"])) if standing else "trade"
        price, size = draw(st.integers(1, 4000)) / 8, float(draw(st.integers(1, 500)))
        number = LARGE + i if i % 3 == 0 else i
        if what == "trade":
            trades.append(trade(now, number, price, size, draw(st.sampled_from("QN"))))
            standing.append((now, trades[-1]))
            sent.append(trades[-1])
            continue
        at = draw(st.integers(0, len(standing) - 1))
        ts, print_ = standing[at]
        if what == "cancel":
            sent.append(cancel(now, standing.pop(at)[1]))
            continue
        number = print_["i"] if what == "same id" else number
        sent.append(correct(now, print_, number, price, size))
        standing[at] = ts, print_ | {"i": number, "p": price, "s": size}
    return sent, [(ts, p["x"], p["p"], p["s"]) for ts, p in standing], trades


@given(tape=tapes(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_came_first_what_counts_is_the_tape_in_order(tape, data):
    """Trades may be lost and come by history; blocks are sealed and the recorder is killed anywhere."""
    sent, standing, trades = tape
    straight, server = Late(), Late()
    first = trade(OPEN - 1, 500, 50.0, 1.0)
    last = trade(AFTERWARDS, 501, 100.0, 1.0)
    for each in (straight, server):
        each.send(OPEN, first)
    straight.send(AFTERWARDS, *sent)
    lost = data.draw(st.lists(st.sampled_from(trades), unique_by=lambda t: t["i"]), "lost")
    for message in data.draw(st.permutations(sent), "order"):
        (server.past if message in lost else server.send)(AFTERWARDS, message)
        then = data.draw(st.sampled_from(["", "", "seal", "restart"]))
        if then == "seal":
            server.seal()
        elif then == "restart":
            server.restart()
    for each in (straight, server):
        each.send(AFTERWARDS, last)
    expected, rows = straight.rows(), server.rows()
    assert {identity: row for identity, row in rows.items() if identity in expected} == expected
    assert all(row["cancelled"] for identity, row in rows.items() if identity not in expected)
    counted = sorted([*standing, (OPEN - 1, "Q", 50.0, 1.0), (AFTERWARDS, "Q", 100.0, 1.0)])
    assert server.counting() == counted
    [newest] = [row for row in server.stored.values() if row["ts_event"] == AFTERWARDS]
    assert newest["vwap"] == pytest.approx(vwap(counted), rel=1e-9)
    assert server.pipeline.out.unknown == {}


def test_a_print_put_in_place_late_leaves_a_row_that_never_counts():
    server = Late()
    print_ = trade(OPEN, 7, 900.0, 10.0)
    server.send(OPEN + 900, correct(OPEN + 800, print_, 77, 99.0, 1.0))
    assert [(ts - OPEN, price) for ts, _, price, _ in server.seal().counting()] == [(800, 99.0)]
    server.send(OPEN + 1000, print_)
    assert server.rows() == {
        (0, "Q", 7): {"price": 900.0, "size": 10.0, "trade_ref": b"", "cancelled": True, "corrected": False},
        (0, "Q", 77): {"price": 99.0, "size": 1.0, "trade_ref": b"", "cancelled": False, "corrected": True},
        (800, "Q", 7): {"price": 900.0, "size": 10.0, "trade_ref": b"", "cancelled": True, "corrected": False},
        (800, "Q", 77): {"price": 99.0, "size": 1.0, "trade_ref": b"", "cancelled": True, "corrected": True},
    }


def test_a_trade_known_to_be_taken_back_when_it_comes_moves_no_figure():
    """A fat finger a thousand times the price, after its cancel: what it would have set is as if it had not come."""
    one, other = Late(), Late()
    wrong = trade(OPEN + 50, 99, 90_000.0, 1e6)
    for server in (one, other):
        for i in range(60):
            server.send(OPEN + i, trade(OPEN + i, i, 90.0 + i % 7, 10.0 + i % 3))
            if server is one and i == 50:
                server.send(OPEN + 50, cancel(OPEN + 50, wrong), wrong)
    rows, right = ({row["trade_id"]: row for row in server.seal().stored.values()} for server in (one, other))
    figures = ("vwap", "rolling_vwap", "zscore", "flags")
    for number in range(60):
        assert [rows[number][n] for n in figures] == pytest.approx([right[number][n] for n in figures], nan_ok=True)
    assert rows[99]["flags"] & CANCELLED


def test_a_trade_of_another_day_with_the_same_id_is_not_the_one_that_is_waited_for():
    server = Late()
    lost = trade(OPEN, 7, 100.0, 10.0)
    server.send(OPEN + 10, cancel(OPEN + 9, lost))
    server.send(OPEN + DAY, trade(OPEN + DAY, 7, 100.0, 10.0))
    server.past(OPEN + DAY, trade(OPEN - DAY, 7, 100.0, 10.0))
    assert len(server.seal().counting()) == 2
    server.past(OPEN + DAY, lost)
    assert len(server.seal().counting()) == 2


def test_yesterdays_trade_is_not_taken_for_one_of_today_that_was_lost():
    server = Late()
    server.send(OPEN - DAY, trade(OPEN - DAY, 7, 50.0, 10.0))
    lost = trade(OPEN, 7, 100.0, 10.0)
    server.send(OPEN + 10, cancel(OPEN + 9, lost))
    server.past(OPEN + 20, lost)
    assert [price for _, _, price, _ in server.seal().counting()] == [50.0]


def test_a_trade_of_the_day_before_is_taken_back_by_its_id_price_and_size():
    server = Late()
    before = trade(OPEN - DAY, 7, 50.0, 10.0)
    server.send(OPEN - DAY, before)
    server.send(OPEN + 10, cancel(OPEN + 9, before))
    assert server.seal().counting() == []


def test_history_that_brings_a_trade_again_does_not_bring_it_back():
    server = Late()
    first, second = trade(OPEN, 7, 100.0, 10.0), trade(OPEN + 1, 8, 200.0, 10.0)
    server.send(OPEN + 5, first, second, cancel(OPEN + 2, first), correct(OPEN + 3, second, 8, 150.0, 5.0))
    server.past(OPEN + 9, first, second)
    server.past(OPEN + 9, second | {"i": 8, "p": 150.0, "s": 5.0, "u": "corrected"})
    server.send(OPEN + 10, trade(OPEN + 10, 9, 150.0, 5.0))
    assert [(p, s) for _, _, p, s in server.seal().counting()] == [(150.0, 5.0)] * 2
    assert [row["vwap"] for row in server.stored.values() if row["trade_id"] == 9] == [150.0]


def test_history_tells_where_a_correction_belongs_whose_trade_it_no_longer_has():
    server = Late()
    server.send(OPEN + 900, correct(OPEN + 800, trade(OPEN, 7, 900.0, 10.0), 77, 99.0, 1.0))
    server.past(OPEN + 950, trade(OPEN, 77, 99.0, 1.0) | {"u": "corrected"})
    assert server.seal().counting() == [(OPEN, "Q", 99.0, 1.0)]
    server.send(OPEN + 960, trade(OPEN, 7, 900.0, 10.0))
    assert server.seal().counting() == [(OPEN, "Q", 99.0, 1.0)]


def test_history_that_has_a_corrected_print_whose_cancel_was_received_does_not_bring_it_back():
    server = Late()
    print_ = trade(OPEN, 77, 99.0, 1.0)
    server.send(OPEN + 900, cancel(OPEN + 850, print_))
    server.past(OPEN + 950, print_ | {"u": "corrected"})
    assert server.seal().counting() == []
    server.send(OPEN + 960, correct(OPEN + 800, trade(OPEN, 7, 900.0, 10.0), 77, 99.0, 1.0))
    server.send(OPEN + 970, trade(OPEN, 7, 900.0, 10.0))
    assert server.seal().counting() == []
    assert {ts for ts, *_, number in server.rows() if number == 77} == {0, 850}


def test_the_same_correction_by_two_connections_counts_once():
    server = Late()
    print_ = trade(OPEN, 7, 900.0, 10.0)
    message = correct(OPEN + 800, print_, 77, 99.0, 1.0)
    server.send(OPEN + 900, print_, message, message, trade(OPEN + 900, 8, 99.0, 1.0))
    assert len(server.seal().counting()) == 2
    assert [row["vwap"] for row in server.stored.values() if row["trade_id"] == 8] == [99.0]


@pytest.mark.parametrize("number", [7, 77])
def test_what_is_counted_as_received_is_what_was(number):
    """In either order two prints and a withdrawal, or a print that took the place of another and a withdrawal."""
    print_ = trade(OPEN, 7, 900.0, 10.0)
    message = correct(OPEN + 800, print_, number, 99.0, 1.0)
    received = []
    for order in ((print_, message), (message, print_)):
        server = Late()
        server.send(OPEN + 900, *order)
        server.pipeline.write_coverage()
        [ledger] = [block.rows for block in server.pipeline.seal().tables if block.table.name == "coverage"]
        received.append(int((ledger["received"] - ledger["duplicate"]).sum()))
    assert received == [2 if number == 7 else 3] * 2


@pytest.mark.parametrize("late", ["too many", "too old"])
def test_only_what_is_forgotten_without_its_trade_is_told_of(late, monkeypatch):
    server = Late()
    lost, known = trade(OPEN, 7, 100.0, 10.0), trade(OPEN + 1, 8, 200.0, 10.0)
    server.send(OPEN + 5, known, cancel(OPEN + 2, lost), cancel(OPEN + 3, known))
    server.restart()
    after = OPEN + 5 + revisions.KEPT_NS
    if late == "too many":
        monkeypatch.setattr(revisions, "REVISIONS_MAX", 2)
        after = OPEN + 10
    server.seal()
    assert server.pipeline.out.unknown == {}
    server.send(after, cancel(after, known))
    server.seal()
    assert server.pipeline.out.unknown == {("us", revisions.NOT_FOUND): 1}
    server.past(after, lost)
    assert [price for _, _, price, _ in server.seal().counting()] == [100.0]


def test_a_snapshot_of_a_version_that_kept_no_revisions_is_gone_on_from():
    server = Late()
    print_ = trade(OPEN, 7, 100.0, 10.0)
    server.send(OPEN, print_)
    server.seal()
    content = decode_snapshot(server.pipeline.snapshot().encode())
    content.revisions = b""
    server.pipeline = Pipeline(KernelsConfig(), make)
    server.pipeline.restore(content)
    server.send(OPEN + 5, cancel(OPEN + 3, print_))
    assert server.seal().counting() == []


def test_a_gap_brings_trades_whose_revisions_came_first_and_prints_that_were_corrected_before_it_was_asked():
    server = Late()
    prints = [trade(OPEN + 10 * i, 7 + i, 100.0 + i, 10.0) for i in range(6)]
    server.connected(OPEN)
    server.send(OPEN + 5, prints[0])
    server.disconnected(OPEN + 6)
    server.connected(OPEN + 46)
    server.send(OPEN + 50, cancel(OPEN + 47, prints[1]), correct(OPEN + 48, prints[2], 77, 50.0, 5.0), prints[5])
    server.seal()
    [gap] = [gap for gap in server.pipeline.gaps.open.values() if gap.channel == "trades"]
    corrected = prints[4] | {"i": 78, "p": 60.0, "u": "corrected"}
    history_ = [prints[0], prints[1], prints[2], prints[3], prints[4] | {"u": "incorrect"}, corrected, prints[5]]
    server.past(OPEN + 60, *history_, gap=gap.identity)
    counting = [(ts - OPEN, price, size) for ts, _, price, size in server.seal().counting()]
    assert counting == [(0, 100.0, 10.0), (20, 50.0, 5.0), (30, 103.0, 10.0), (40, 60.0, 10.0), (50, 105.0, 10.0)]
    assert not server.pipeline.gaps.open
