"""Trades that their provider takes back or corrects: found among the last ones, and given again as they now count.

A revision never changes what was stored first. A trade taken back gets the flag CANCELLED on its own row, all else as
it was; what took it back is a row of its own, at its own time, that never counts. The print that corrects it stands
at the time of the trade it corrects, so that every bar is that of the corrected tape.

A revision may come before its trade: a stream that is not in order, a trade lost in a gap and brought by history. It is
kept; a print that corrects stands at the time of its correction for so long. When the trade comes it counts in nothing,
and the print goes to its place: a row with its id stays where it stood, CANCELLED.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import numpy as np

from recorder.core.batch import Output, Rows
from recorder.core.kernels import REVISED, Kernels
from recorder.core.revised import ALWAYS, Again, Case, Key, Print, Stored, stored
from recorder.values.feed import MINUTE
from recorder.values.tables import (
    CANCELLED,
    CORRECTED,
    DUPLICATE,
    HISTORY,
    NAMED,
    NOT_LAST_ELIGIBLE,
    NOT_VOLUME_ELIGIBLE,
    TRADES,
)

# Trades of all feeds with revisions: 6 MB. The tape of 30 symbols of IEX is that long in hours, all of SIP in a minute
# at noon. What is older is not found: `sql/checks/withdrawn_but_counted.sql` names it.
RECENT_TRADES = 1 << 16
# Revisions of all feeds, whether their trade was found or not: SIP has some thousand a day, each is a kB at most.
REVISIONS_MAX = 8192
KEPT_NS = 24 * 60 * MINUTE  # ids are given again the next day, and history is asked within minutes
PLACES = 1 << 16  # of a table that tells of nearly every other id at once that nothing waits for it: 128 kB
VOLUME_LEFT_MIN = 1e-9  # of a trade taken back: less volume than this part of it is what rounding left
NOT_FOUND = "trade that did not come until its revision was forgotten"
INELIGIBLE = NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE  # counts in no figure


class Revised(NamedTuple):
    """What a run over live rows gave besides the columns it filled in."""

    gaps: np.ndarray  # as Kernels.trades
    again: Rows | None  # to be stored after them
    replaced: list[int]  # places of rows that take the place of one stored before: no further trades


class Revisions:
    """The last trades of feeds whose capability says ``revisions``, as they were stored, and what revised them."""

    def __init__(self, kernels: Kernels, out: Output) -> None:
        self._kernels, self._out = kernels, out
        self._trades = np.zeros(RECENT_TRADES, TRADES.dtype)
        self._count = 0  # of all that ever came
        self.enabled = False  # any feed has revisions
        self._cases: dict[int, Case] = {}  # by object, the one revised longest ago first
        self._by_id: dict[Key, Case] = {}
        self._total = 0  # revisions of all cases
        self._waiting = 0  # cases whose trade has not come
        self._awaited = np.zeros(PLACES, np.int16)  # how many of them, by the last bits of the trade's id

    def run(self, sealed: Rows) -> Revised:
        """The kernels over live TRADES rows, in place, and each revision at its place among them."""
        rows = sealed.rows
        if not self.enabled:
            return Revised(self._kernels.trades(rows), None, [])
        revised = self._of_revised(rows)
        marked = revised & ((rows["flags"] & (CANCELLED | CORRECTED)) != 0)
        if marked.any():  # a trade may come behind its revision in one batch
            marked |= revised & np.isin(rows["trade_id"], rows["trade_id"][marked])
        if self._waiting:
            marked |= revised & (self._awaited[rows["trade_id"] & (PLACES - 1)] > 0)
        if not marked.any():
            gaps = self._kernels.trades(rows)
            self._remember(rows, revised)
            return Revised(gaps, None, [])
        found: list[np.ndarray] = []
        again, done = Again(), 0
        replaced: list[int] = []
        pair: tuple[int, Case] | None = None  # place of the print that belongs to a withdrawal, and its case
        for at in np.flatnonzero(marked).tolist():  # a revision counts from its place on, wherever a batch was sealed
            flags = int(rows["flags"][at])
            corrects = pair is not None and pair[0] == at and flags & CORRECTED
            case = pair[1] if pair is not None and corrects else self._case_awaiting(rows[at])
            if not flags & CANCELLED and case is None:
                continue
            found.append(self._kernels.trades(rows[done:at]).copy())
            self._remember(rows[done:at], revised[done:at])
            done = at + 1
            if flags & CANCELLED:
                pair = done, self._withdraw(sealed, at, again, found)
            elif corrects and case is not None:
                self._correct(sealed, at, case, again, found, replaced)
            elif case is not None:
                with _counting_nowhere(rows[at:done]):
                    found.append(self._kernels.trades(rows[at:done]).copy())
                self._arrived(case, sealed, at, again)
        found.append(self._kernels.trades(rows[done:]).copy())
        self._remember(rows[done:], revised[done:])
        return Revised(np.concatenate(found), again.rows(), replaced)

    def past(self, sealed: Rows) -> Rows | None:
        """The kernels over rows of history, in place; what they make of revisions is to be stored after them."""
        rows, again = sealed.rows, Again()
        revised = self._of_revised(rows)
        cases: dict[int, Case] = {}
        if self._by_id:
            for at in np.flatnonzero(revised & np.isin(rows["trade_id"], [key[2] for key in self._by_id])).tolist():
                if (case := self._case_of(rows[at])) is not None:
                    cases[at] = case
        own = list(cases)
        before = rows["flags"][own]
        rows["flags"][own] |= INELIGIBLE  # what counts of them has been counted
        self._kernels.trades(rows)
        rows["flags"][own] &= before | ~INELIGIBLE
        rows["flags"] &= ~HISTORY
        for at, case in cases.items():
            self._arrived(case, sealed, at, again)
        revised[own] = False
        self._remember(rows, revised)
        return again.rows()

    # Revisions

    def _withdraw(self, sealed: Rows, at: int, again: Again, found: list[np.ndarray]) -> Case:
        """Row ``at`` takes back what has its id; if the next one is its correction, that comes by ``_correct``."""
        rows = sealed.rows
        row = rows[at]
        number, ts = int(row["trade_id"]), int(row["ts_event"])
        self._forget(int(row["ts_recv"]))
        case = self._case_named(row) or self._new_case(row, stored(sealed, at).ref)
        self._touch(case, int(row["ts_recv"]))
        following = rows[at + 1 : at + 2]
        same = bool(((following["flags"] & CORRECTED) != 0).any()) and int(following["trade_id"][0]) == number
        counted = case.counts(number)
        if not same:
            case.ended[number] = max(ts, case.ended.get(number, ts))
            if counted and not case.counts(number):
                self._out_of_vwap(case, number)
        found.append(self._kernels.trades(rows[at : at + 1]).copy())
        if ts == case.place and not case.placed:
            case.owed.append(stored(sealed, at))
        if ts == case.place and (same or number in case.prints):
            rows["flags"][at] |= DUPLICATE  # of two rows of one identity the print stays
        elif (ts, case.key(number)) in again:
            again.put(stored(sealed, at))
        if not same:
            again.show(case, [number])
        return case

    def _correct(
        self, sealed: Rows, at: int, case: Case, again: Again, found: list[np.ndarray], replaced: list[int]
    ) -> None:
        """Row ``at`` is the print in the place of what the row before it took back."""
        row = sealed.rows[at]
        number, made = int(row["trade_id"]), int(row["ts_event"])
        if number in case.prints or (not case.placed and number == case.root and made != case.place):
            replaced.append(at)
        other = self._by_id.get(case.key(number))
        if other is not None and other is not case and other.waiting and other.root == number:
            self._merge(case, other, again)
        self._by_id[case.key(number)] = case
        sealed.rows["ts_event"][at] = case.place
        before = case.prints.get(number)
        newer = before is None or made > before.made or (made == before.made and not _alike(row, before.stored))
        if newer:
            if case.counts(number):
                self._out_of_vwap(case, number)
            case.prints[number] = Print(stored(sealed, at), made)
        if newer and case.counts(number):
            found.append(self._kernels.trades(sealed.rows[at : at + 1]).copy())
        else:
            with _counting_nowhere(sealed.rows[at : at + 1]):
                found.append(self._kernels.trades(sealed.rows[at : at + 1]).copy())
        if newer:
            case.prints[number] = Print(stored(sealed, at), made)
        if not (newer and case.counts(number)) or (case.place, case.key(number)) in again:
            again.show(case, [number])

    def _arrived(self, case: Case, sealed: Rows, at: int, again: Again) -> None:
        """Row ``at`` is the trade that a case has waited for, or one of its prints once more."""
        ts, number = int(sealed.rows["ts_event"][at]), int(sealed.rows["trade_id"][at])
        if case.waiting:
            again.move(case, ts)
            case.placed = True
            if not sealed.rows["flags"][at] & CORRECTED:  # else of history, which no longer has the trade itself
                self._wait(case, -1)
        if number == case.root and number not in case.prints:
            kept = stored(sealed, at)
            row = np.frombuffer(kept.row, TRADES.dtype).copy()
            row["flags"] &= ~DUPLICATE
            case.prints[number] = Print(Stored(row.tobytes(), kept.ref), ALWAYS)
        again.show(case, case.prints)

    def _merge(self, case: Case, other: Case, again: Again) -> None:
        """What ``other`` waits for is a print of ``case``."""
        if other.placed and not case.placed:
            again.move(case, other.place)
            case.placed = True
        again.move(other, case.place)
        case.prints |= other.prints
        case.ended |= {number: max(ts, case.ended.get(number, ts)) for number, ts in other.ended.items()}
        case.owed += other.owed
        case.revisions += other.revisions
        for number in other.ids:
            self._by_id[case.key(number)] = case
        self._wait(other, -1)
        del self._cases[id(other)]

    # Cases

    def _case_of(self, row: np.void) -> Case | None:
        """The case that has the row's id, in its session."""
        case = self._by_id.get((int(row["series"]), int(row["exchange"]), int(row["trade_id"])))
        return case if case is not None and case.session == self._session(row) else None

    def _case_named(self, row: np.void) -> Case | None:
        """The case that a withdrawal means. One of another session has a print of its price and size."""
        number = int(row["trade_id"])
        case = self._by_id.get((int(row["series"]), int(row["exchange"]), number))
        if case is None or case.session == self._session(row):
            return case
        print_ = case.prints.get(number)
        return case if print_ is not None and _alike(row, print_.stored) else None

    def _case_awaiting(self, row: np.void) -> Case | None:
        case = self._case_of(row) if self._waiting else None
        return case if case is not None and case.waiting and case.root == row["trade_id"] else None

    def _new_case(self, row: np.void, ref: bytes) -> Case:
        """Of the trade that a withdrawal names, or waiting for it."""
        number, found = int(row["trade_id"]), self._find(row)
        trade = row if found is None else self._trades[found]
        case = Case(int(row["series"]), int(row["exchange"]), self._session(trade), number, int(trade["ts_event"]))
        if found is not None:
            case.prints[number] = Print(Stored(trade.tobytes(), ref), ALWAYS)
            if trade["flags"] & CANCELLED:
                case.ended[number] = ALWAYS
        else:
            case.placed = False
            self._wait(case, 1)
        self._cases[id(case)] = self._by_id[case.key(number)] = case
        return case

    def _touch(self, case: Case, ts_recv: int) -> None:
        case.revisions, case.ts_recv = case.revisions + 1, ts_recv
        self._total += 1
        self._cases[id(case)] = self._cases.pop(id(case))

    def _wait(self, case: Case, one: int) -> None:
        """``one`` more case waits, or one less."""
        case.waiting = one > 0
        self._waiting += one
        self._awaited[case.root & (PLACES - 1)] += one

    def _forget(self, now: int) -> None:
        """Make room for one more revision; what is too old goes too. Its prints are trades like any other then."""
        while self._cases:
            case = next(iter(self._cases.values()))
            if self._total < REVISIONS_MAX and now - case.ts_recv < KEPT_NS:
                return
            del self._cases[id(case)]
            self._total -= case.revisions
            for number in case.ids:
                if self._by_id.get(case.key(number)) is case:
                    del self._by_id[case.key(number)]
            last = Again()
            last.show(case, case.prints)
            if (prints := last.rows()) is not None:
                self._put(_bytes_of(prints.rows))
            if case.waiting:
                self._wait(case, -1)
            if not case.placed:
                what = (self._out.series.keys[case.series][0], NOT_FOUND)
                self._out.unknown[what] = self._out.unknown.get(what, 0) + 1

    def _session(self, row: np.void) -> int:
        return self._kernels.session_start(int(row["series"]), int(row["ts_event"]))

    # Trades

    def _of_revised(self, rows: np.ndarray) -> np.ndarray:
        kinds: np.ndarray = self._kernels.state.scalars["id_kind"][rows["series"]]
        return (kinds & REVISED) != 0

    def _remember(self, rows: np.ndarray, revised: np.ndarray) -> None:
        kept = revised & ((rows["flags"] & (CANCELLED | DUPLICATE | NAMED)) == 0)
        # As plain bytes, in whole pieces: numpy copies rows of a record type field by field, fifty times slower.
        raw = _bytes_of(rows)
        self._put(raw if kept.all() else raw[kept])

    def _put(self, raw: np.ndarray) -> None:
        raw, ring = raw[-RECENT_TRADES:], _bytes_of(self._trades)
        at = self._count % RECENT_TRADES
        first = min(len(raw), RECENT_TRADES - at)
        ring[at : at + first] = raw[:first]
        ring[: len(raw) - first] = raw[first:]
        self._count += len(raw)

    def _find(self, row: np.void) -> int | None:
        """Place of the newest trade of this series, exchange and id; one of another session has price and size too."""
        known = self._trades[: self._count]
        same = np.flatnonzero(
            (known["trade_id"] == row["trade_id"])
            & (known["series"] == row["series"])
            & (known["exchange"] == row["exchange"])
        )
        newest = self._count % RECENT_TRADES  # where the oldest is, once the ring is full
        session = self._session(row)
        for place in sorted(same.tolist(), key=lambda place: (newest - 1 - place) % RECENT_TRADES):
            trade = known[place]
            if self._session(trade) == session or _same_print(row, trade):
                return place
        return None

    def _out_of_vwap(self, case: Case, number: int) -> None:
        """Take a print out of the session's VWAP if it counts in it. Rolling figures stay: they told what was known."""
        row = np.frombuffer(case.prints[number].stored.row, TRADES.dtype)[0]
        s = self._kernels.state.scalars[case.series : case.series + 1]
        counts = not row["flags"] & (NOT_VOLUME_ELIGIBLE | CANCELLED)
        if counts and s["session_start"][0] <= case.place < s["session_end"][0]:
            s["session_pv"] -= row["price"] * row["size"]
            s["session_v"] -= row["size"]
            if s["session_v"][0] <= VOLUME_LEFT_MIN * row["size"]:
                s["session_pv"] = s["session_v"] = 0.0

    # For snapshots.

    def state(self) -> bytes:
        """The trades, oldest first."""
        if self._count <= RECENT_TRADES:
            return self._trades[: self._count].tobytes()
        at = self._count % RECENT_TRADES
        return self._trades[at:].tobytes() + self._trades[:at].tobytes()

    def cases(self) -> bytes:
        """What revised them, and what waits for its trade."""
        entries = [
            (case, [number for number in case.ids if self._by_id.get(case.key(number)) is case])
            for case in self._cases.values()
        ]
        return msgspec.msgpack.encode(entries)

    def restore(self, state: bytes, cases: bytes) -> None:
        """Go on from a ``state`` and ``cases``; one of another layout is empty: its trades are not found, no more."""
        size = TRADES.dtype.itemsize
        if len(state) % size == 0:
            trades = np.frombuffer(state, TRADES.dtype)[-RECENT_TRADES:]
            self._trades[: len(trades)] = trades
            self._count = len(trades)
        for case, numbers in msgspec.msgpack.decode(cases, type=list[tuple[Case, list[int]]]) if cases else ():
            rows = [*(print_.stored for print_ in case.prints.values()), *case.owed]
            if all(len(each.row) == size for each in rows):
                self._cases[id(case)] = case
                self._total += case.revisions
                self._by_id |= {case.key(number): case for number in numbers}
                if case.waiting:
                    self._wait(case, 1)


@contextmanager
def _counting_nowhere(rows: np.ndarray) -> Iterator[None]:
    """Kernels know the rows as the trades they are and count them in no figure."""
    before = rows["flags"].copy()
    rows["flags"] |= INELIGIBLE
    yield
    rows["flags"] &= before | ~INELIGIBLE


def _alike(row: np.void, known: Stored) -> bool:
    return _same_print(row, np.frombuffer(known.row, TRADES.dtype)[0])


def _same_print(row: np.void, other: np.void) -> bool:
    return bool(row["price"] == other["price"] and row["size"] == other["size"])


def _bytes_of(rows: np.ndarray) -> np.ndarray:
    """(n, bytes of a row) uint8, the same memory where ``rows`` is contiguous."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), rows.dtype.itemsize)
