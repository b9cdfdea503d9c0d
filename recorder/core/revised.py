"""A trade, what took its place and what took it back: the same rows whichever of it came first."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from recorder.core.encode import Rows
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.tables import CANCELLED, TRADES

Key = tuple[int, int, int]  # series, exchange, trade_id
ALWAYS = LONG_NULL  # ``made`` of a trade: whatever names its id comes after it, be the clocks as they may


class Stored(msgspec.Struct):
    """A row of TRADES as bytes, with the text of its trade_ref, escaped; empty: it has none."""

    row: bytes
    ref: bytes


class Print(msgspec.Struct):
    """What stands under an id: a trade, or what its newest correction has put there. ``made``: time of the latter."""

    stored: Stored
    made: int


class Case(msgspec.Struct):
    """What is known of one trade. A function of what has come, not of the order in which it came.

    session    start of the session that its ids are of: they are given again in the next
    root       id of the trade itself
    place      time of all its prints: the trade's. While it is not known (``placed``): of the first revision
    waiting    the trade itself has not come; history may have told its place
    prints     by id. A correction under another id leaves the old one, taken back; one under the same replaces it
    ended      id → time of the newest message that took it back, but for corrections under the same id
    owed       withdrawals of the time ``place`` until it is known: a print may take their time and id for so long
    revisions  how many there were; ``ts_recv`` of the newest
    """

    series: int
    exchange: int
    session: int
    root: int
    place: int
    placed: bool = True
    waiting: bool = False
    ts_recv: int = 0
    revisions: int = 0
    prints: dict[int, Print] = {}
    ended: dict[int, int] = {}
    owed: list[Stored] = []

    def key(self, number: int) -> Key:
        return self.series, self.exchange, number

    @property
    def ids(self) -> set[int]:
        return {self.root, *self.prints, *self.ended}

    def counts(self, number: int) -> bool:
        """Whether the id has a print that nothing has taken back."""
        print_ = self.prints.get(number)
        return print_ is not None and (number not in self.ended or self.ended[number] < print_.made)


class Again:
    """Rows to be stored after those of a block, each identity once: as it was told last."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, Key], Stored] = {}

    def __contains__(self, identity: tuple[int, Key]) -> bool:
        return identity in self._rows

    def show(self, case: Case, numbers: Iterable[int]) -> None:
        """Prints as they now stand."""
        for number in numbers:
            if number in case.prints:
                flags = 0 if case.counts(number) else CANCELLED
                self.put(case.prints[number].stored, case.place, flags)

    def move(self, case: Case, place: int) -> None:
        """Everything of a case to the time that turns out to be its trade's. What stood elsewhere never counts."""
        if place != case.place:
            for print_ in case.prints.values():
                self.put(print_.stored, case.place, CANCELLED)
            for withdrawal in case.owed:
                self.put(withdrawal)
            case.place, case.owed = place, []
            self.show(case, case.prints)

    def put(self, stored: Stored, place: int | None = None, flags: int = 0) -> None:
        row = np.frombuffer(stored.row, TRADES.dtype).copy()
        row["ts_event"] = row["ts_event"] if place is None else place
        row["flags"] |= flags
        ts, *key = row[["ts_event", "series", "exchange", "trade_id"]][0].tolist()
        self._rows[ts, (key[0], key[1], key[2])] = Stored(row.tobytes(), stored.ref)

    def rows(self) -> Rows | None:
        """They, with texts of their own."""
        if not self._rows:
            return None
        rows = np.frombuffer(b"".join(each.row for each in self._rows.values()), TRADES.dtype).copy()
        refs = [each.ref for each in self._rows.values()]
        own = np.array([bool(ref) for ref in refs])
        rows["trade_ref"] = np.where(own, np.cumsum(own) - 1, TEXT_NULL)
        offsets = np.cumsum([0, *(len(ref) for ref in refs if ref)])
        return Rows(TRADES, rows, np.frombuffer(b"".join(refs), np.uint8), offsets)


def stored(rows: Rows, place: int) -> Stored:
    """A copy of a row."""
    row = rows.rows[place : place + 1]
    ref = int(row["trade_ref"][0])
    text = b"" if ref == TEXT_NULL else rows.varchar_heap[slice(*rows.varchar_offsets[ref : ref + 2])].tobytes()
    return Stored(row.tobytes(), text)
