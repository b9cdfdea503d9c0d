"""What FIX connections know that compiled code reads and changes: message numbers, and books of a single level.

One table of int64 for all connections of a pipeline. A snapshot finds it in ``Scope.kept``, and so does a new start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from recorder.values.errors import FrameError

ROWS_MAX = 1 << 18  # 50 MB of instruments; a counterparty that names more has no names

# Columns of a connection's row: its last MsgSeqNum or NOTHING, and the highest that is missing before it.
LAST, MISSING = 0, 1
# Columns of an instrument's row: whether its book has begun; whether it misses increments; then for bids and for offers
# SIDE columns from PRICE on: bits of price and size, bytes of the entry's id or one of the below, the id's words.
BEGUN, STALE, PRICE = 0, 1, 2
SIZE, LENGTH, KEY = 1, 2, 3  # from PRICE on
KEY_WORDS = 8
SIDE = KEY + KEY_WORDS
COLUMNS = PRICE + 2 * SIDE
NOTHING = -1  # no number; in LENGTH: nobody is there
ODD = -2  # in LENGTH: an id that does not fit; only Python knows it

NONE = (0.0, 0.0)  # price and size of a side that is empty
_KEY_BYTES_MAX = 8 * KEY_WORDS


class Tops:
    """The table, and who has which rows. It is replaced when it grows."""

    def __init__(self) -> None:
        self.table = np.zeros((64, COLUMNS), np.int64)
        self.floats = self.table.view(np.float64)
        self._used = 0
        self._connections: dict[tuple[str, int], Connection] = {}

    def connection(self, feed: str, number: int, kept: Callable[[str], dict[str, int]]) -> Connection:
        """Of a feed's connection, made from what was kept of it when it is asked for first."""
        key = (feed, number)
        if key not in self._connections:
            self._connections[key] = Connection(self, kept)
        return self._connections[key]

    def row(self) -> int:
        """A new one, empty. Raises FrameError past the bound."""
        if self._used >= ROWS_MAX:
            raise FrameError(f"more than {ROWS_MAX} instruments on FIX connections")
        if self._used == len(self.table):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
            self.floats = self.table.view(np.float64)
        self._used += 1
        self.table[self._used - 1, [PRICE + LENGTH, PRICE + SIDE + LENGTH]] = NOTHING
        return self._used - 1

    def settle(self) -> None:
        """Put everything into what is kept."""
        for connection in self._connections.values():
            connection.settle()


class Connection:
    """One connection's last number, and its books: of each side at most one entry, replaced by the next.

    Keys are MDEntryIDs, or "" for entries without.
    """

    def __init__(self, tops: Tops, kept: Callable[[str], dict[str, int]]) -> None:
        self._tops, self._kept = tops, kept
        self._rows: dict[str, int] = {}
        self._odd: dict[tuple[int, int], str] = {}  # row and side → an id that does not fit
        self._single = False
        self.place = tops.row()
        self.last = kept("numbers").get("last")
        self.missing(())

    @property
    def last(self) -> int | None:
        """MsgSeqNum of the newest message in order."""
        last = int(self._tops.table[self.place, LAST])
        return None if last == NOTHING else last

    @last.setter
    def last(self, number: int | None) -> None:
        self._tops.table[self.place, LAST] = NOTHING if number is None else number

    def missing(self, numbers: Iterable[int]) -> None:
        """The last numbers of ranges that did not come."""
        self._tops.table[self.place, MISSING] = max(numbers, default=NOTHING)

    def settle(self) -> None:
        if self.last is not None:
            self._kept("numbers")["last"] = self.last
        if not self._single:
            return
        prices, sizes, begun = (self._kept(name) for name in ("prices", "sizes", "books"))
        for kept in (prices, sizes, begun):
            kept.clear()
        for name, row in self._rows.items():
            if self._tops.table[row, BEGUN]:
                begun[name] = 1
            for side in range(2):
                key = self._key(row, side)
                if key is not None:
                    at = PRICE + side * SIDE
                    place = f"{name}\x01{side}\x01{key}"
                    prices[place], sizes[place] = self._tops.table[row, at : at + 2].tolist()

    def single(self) -> Connection:
        """Hold the books, too: one level was asked for."""
        if not self._single:
            self._single = True
            sizes = self._kept("sizes")
            for name in self._kept("books"):
                self._begun(name)
            for place, bits in self._kept("prices").items():
                name, side, key = place.split("\x01", 2)
                row, at = self._begun(name), PRICE + int(side) * SIDE
                self._tops.table[row, at : at + 2] = bits, sizes[place]
                self._put_key(row, int(side), key)
        return self

    def row(self, name: str) -> int:
        """Place of an instrument in the table."""
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._tops.row()
            self._tops.table[row, STALE] = name in self._kept("stale")
        return row

    def stale(self, names: Iterable[str], stale: bool) -> None:
        """Whether these books miss increments."""
        for name in names:
            self._tops.table[self.row(name), STALE] = stale

    # Books, as book.Books has them of any depth.

    def best(self, name: str) -> tuple[float, ...]:
        """(bid, bid size, ask, ask size); zeros where there is none."""
        row = self._begun(name)
        return *self._entry(row, 0), *self._entry(row, 1)

    def put(self, name: str, side: int, key: str, price: float, size: float) -> None:
        row, at = self._begun(name), PRICE + side * SIDE
        self._tops.floats[row, at : at + 2] = price, size
        self._put_key(row, side, key)

    def get(self, name: str, side: int, key: str) -> tuple[float, float] | None:
        row = self._begun(name)
        return self._entry(row, side) if self._key(row, side) == key else None

    def remove(self, name: str, side: int, key: str) -> bool:
        """Take an entry away; False if it was not there."""
        row = self._begun(name)
        if self._key(row, side) != key:
            return False
        self._tops.table[row, PRICE + side * SIDE + LENGTH] = NOTHING
        return True

    def clear(self, name: str) -> None:
        row = self._begun(name)
        self._tops.table[row, [PRICE + LENGTH, PRICE + SIDE + LENGTH]] = NOTHING

    def names(self) -> list[str]:
        return [name for name, row in self._rows.items() if self._tops.table[row, BEGUN]]

    def clear_all(self) -> None:
        for name, row in self._rows.items():
            self.clear(name)
            self._tops.table[row, BEGUN] = 0

    def _begun(self, name: str) -> int:
        row = self.row(name)
        self._tops.table[row, BEGUN] = 1
        return row

    def _entry(self, row: int, side: int) -> tuple[float, float]:
        at = PRICE + side * SIDE
        if self._tops.table[row, at + LENGTH] == NOTHING:
            return NONE
        price, size = self._tops.floats[row, at : at + 2].tolist()
        return price, size

    def _key(self, row: int, side: int) -> str | None:
        at = PRICE + side * SIDE
        length = int(self._tops.table[row, at + LENGTH])
        if length == ODD:
            return self._odd[row, side]
        return None if length < 0 else self._tops.table[row, at + KEY : at + SIDE].tobytes()[:length].decode()

    def _put_key(self, row: int, side: int, key: str) -> None:
        at, fits = PRICE + side * SIDE, key.isascii() and len(key) <= _KEY_BYTES_MAX
        if not fits:
            self._odd[row, side] = key
        words = np.frombuffer((key.encode() if fits else b"").ljust(_KEY_BYTES_MAX, b"\0"), np.int64)
        self._tops.table[row, at + KEY : at + SIDE] = words
        self._tops.table[row, at + LENGTH] = len(key) if fits else ODD
