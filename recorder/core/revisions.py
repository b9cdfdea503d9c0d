"""Trades that their provider takes back or corrects: found among the last ones, and given again as they now count.

A revision never changes what was stored first. A trade taken back gets the flag CANCELLED on its own row, all else as
it was; what took it back is a row of its own, at its own time, that never counts. The print that corrects it stands
at the time of the trade it corrects, so that every bar is that of the corrected tape.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recorder.core.batch import Output
from recorder.core.kernels import REVISED, Kernels
from recorder.values.tables import CANCELLED, CORRECTED, DUPLICATE, NAMED, NOT_VOLUME_ELIGIBLE, TRADES

# Trades of all feeds with revisions: 6 MB. The tape of 30 symbols of IEX is that long in hours, all of SIP in a minute
# at noon. What is older is not found: `sql/checks/withdrawn_but_counted.sql` names it.
RECENT_TRADES = 1 << 16
VOLUME_LEFT_MIN = 1e-9  # of a trade taken back: less volume than this part of it is what rounding left
NOT_REMEMBERED = "revision of a trade that is not remembered"


class Revised(NamedTuple):
    """What a run over live rows gave besides the columns it filled in."""

    gaps: np.ndarray  # as Kernels.trades
    again: np.ndarray  # TRADES rows to be stored again, in the order of what changed them
    replaced: list[int]  # places of rows that take the place of one stored before: no further trades


class Revisions:
    """The last trades of feeds whose capability says ``revisions``, as they were stored."""

    def __init__(self, kernels: Kernels, out: Output) -> None:
        self._kernels, self._out = kernels, out
        self._trades = np.zeros(RECENT_TRADES, TRADES.dtype)
        self._count = 0  # of all that ever came
        self.enabled = False  # any feed has revisions

    def run(self, rows: np.ndarray) -> Revised:
        """The kernels over live TRADES rows, in place, and each revision at its place among them."""
        if not self.enabled:
            return Revised(self._kernels.trades(rows), rows[:0], [])
        revised = self._of_revised(rows)
        marks = np.flatnonzero(revised & ((rows["flags"] & (CANCELLED | CORRECTED)) != 0)).tolist()
        if not marks:
            gaps = self._kernels.trades(rows)
            self._remember(rows, revised)
            return Revised(gaps, rows[:0], [])
        found, done = [], 0
        again: dict[int, np.void] = {}  # by the place of the row that takes it back
        replaced: list[int] = []
        for mark in [*marks, len(rows)]:  # a revision counts from its place on, wherever a batch was sealed
            found.append(self._kernels.trades(rows[done:mark]).copy())
            self._remember(rows[done:mark], revised[done:mark])
            if mark < len(rows):
                if rows["flags"][mark] & CORRECTED:
                    self._correct(rows, mark, again, replaced)
                else:
                    self._take_back(rows[mark], mark, again)
            done = mark
        stored = np.array([row for place, row in again.items() if place + 1 not in replaced], TRADES.dtype)
        return Revised(np.concatenate(found), stored, replaced)

    def remember(self, rows: np.ndarray) -> None:
        """Rows of history, after their kernels: a revision may name them too."""
        self._remember(rows, self._of_revised(rows))

    def _of_revised(self, rows: np.ndarray) -> np.ndarray:
        kinds: np.ndarray = self._kernels.state.scalars["id_kind"][rows["series"]]
        return (kinds & REVISED) != 0

    def _remember(self, rows: np.ndarray, revised: np.ndarray) -> None:
        kept = revised & ((rows["flags"] & (CANCELLED | DUPLICATE | NAMED)) == 0)
        # As plain bytes, in whole pieces: numpy copies rows of a record type field by field, fifty times slower.
        raw, ring = _bytes_of(rows), _bytes_of(self._trades)
        raw = (raw if kept.all() else raw[kept])[-RECENT_TRADES:]
        at = self._count % RECENT_TRADES
        first = min(len(raw), RECENT_TRADES - at)
        ring[at : at + first] = raw[:first]
        ring[: len(raw) - first] = raw[first:]
        self._count += len(raw)

    def _find(self, row: np.void) -> int | None:
        """Place of the newest trade of this series, exchange and id."""
        known = self._trades[: self._count]
        same = np.flatnonzero(
            (known["trade_id"] == row["trade_id"])
            & (known["series"] == row["series"])
            & (known["exchange"] == row["exchange"])
        )
        if not len(same):
            return None
        newest = self._count % RECENT_TRADES  # where the oldest is, once the ring is full
        return int(same[np.argmax((same - newest) % RECENT_TRADES)])

    def _take_back(self, row: np.void, at: int, again: dict[int, np.void]) -> None:
        place = self._find(row)
        if place is None:
            what = (self._out.series.keys[row["series"]][0], NOT_REMEMBERED)
            self._out.unknown[what] = self._out.unknown.get(what, 0) + 1
            return
        if not self._trades["flags"][place] & CANCELLED:
            self._out_of_vwap(self._trades[place])
            self._trades["flags"][place] |= CANCELLED
        again[at] = self._trades[place].copy()
        again[at]["trade_ref"] = row["trade_ref"]  # the same text, where this block has it

    def _out_of_vwap(self, row: np.void) -> None:
        """Take a trade out of the session's VWAP if it counts in it. Rolling figures stay: they told what was known."""
        s = self._kernels.state.scalars[row["series"] : row["series"] + 1]
        counts = not row["flags"] & (NOT_VOLUME_ELIGIBLE | CANCELLED)
        if counts and s["session_start"][0] <= row["ts_event"] < s["session_end"][0]:
            s["session_pv"] -= row["price"] * row["size"]
            s["session_v"] -= row["size"]
            if s["session_v"][0] <= VOLUME_LEFT_MIN * row["size"]:
                s["session_pv"] = s["session_v"] = 0.0

    def _correct(self, rows: np.ndarray, at: int, again: dict[int, np.void], replaced: list[int]) -> None:
        """Row ``at`` is the print in the place of what the row before it took back."""
        original = again.get(at - 1)
        same = at > 0 and bool(rows["flags"][at - 1] & CANCELLED) and rows["trade_id"][at - 1] == rows["trade_id"][at]
        if original is not None:
            rows["ts_event"][at] = original["ts_event"]
            if same:
                replaced.append(at)
        elif same:
            rows["flags"][at - 1] |= DUPLICATE  # the trade is not known: of two rows of one identity this one stays

    # For snapshots.

    def state(self) -> bytes:
        """The trades, oldest first."""
        if self._count <= RECENT_TRADES:
            return self._trades[: self._count].tobytes()
        at = self._count % RECENT_TRADES
        return self._trades[at:].tobytes() + self._trades[:at].tobytes()

    def restore(self, state: bytes) -> None:
        """Go on from a ``state``; one of another layout is empty: its trades are not found, no more."""
        if len(state) % TRADES.dtype.itemsize == 0:
            trades = np.frombuffer(state, TRADES.dtype)[-RECENT_TRADES:]
            self._trades[: len(trades)] = trades
            self._count = len(trades)


def _bytes_of(rows: np.ndarray) -> np.ndarray:
    """(n, bytes of a row) uint8, the same memory where ``rows`` is contiguous."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), rows.dtype.itemsize)
