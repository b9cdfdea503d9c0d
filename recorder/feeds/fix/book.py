"""The best bid and offer of a book that comes as entries: put, changed, taken away. Of one level: core/fix_tops.py."""

from __future__ import annotations

import struct

BID, ASK = 0, 1
ENTRIES_MAX = 20_000  # of one side; the deepest documented book has 5,000

_BITS, _DOUBLE = struct.Struct("<q"), struct.Struct("<d")
_to_bits, _to_double = _BITS.unpack, _DOUBLE.pack
NONE = (0.0, 0.0)  # price and size of a side that is empty


class Side:
    """One side of one book: entry key → (price, size)."""

    __slots__ = ("entries", "known", "sign", "top")

    def __init__(self, sign: float) -> None:
        self.entries: dict[str, tuple[float, float]] = {}
        self.sign = sign  # of a better price: 1 of bids, -1 of offers
        self.top = NONE
        self.known = True  # ``top`` is right

    def best(self) -> tuple[float, float]:
        """(price, size of all entries at it)."""
        if not self.known:
            self.known = True
            if not self.entries:
                self.top = NONE
            else:
                price = max(self.entries.values(), key=lambda entry: entry[0] * self.sign)[0]
                self.top = price, sum(size for other, size in self.entries.values() if other == price)
        return self.top


class Books:
    """All books of a connection. What is in them is also in these dictionaries, which outlive this object.

    prices, sizes  place of an entry → bits of a float64
    begun          the instruments, those whose books are empty, too
    """

    def __init__(self, prices: dict[str, int], sizes: dict[str, int], begun: dict[str, int]) -> None:
        self._prices, self._sizes, self._begun = prices, sizes, begun
        self._books: dict[str, tuple[Side, Side]] = {}
        for name in begun:
            self.sides(name)
        for place, bits in prices.items():
            name, side, key = place.split("\x01", 2)
            at = self.sides(name)[int(side)]
            at.entries[key] = _float(bits), _float(sizes[place])
            at.known = False

    def sides(self, name: str) -> tuple[Side, Side]:
        book = self._books.get(name)
        if book is None:
            book = self._books[name] = Side(1.0), Side(-1.0)
            self._begun[name] = 1
        return book

    def best(self, name: str) -> tuple[float, float, float, float]:
        """(bid, bid size, ask, ask size); zeros where there is none."""
        bids, asks = self.sides(name)
        return *bids.best(), *asks.best()

    def put(self, name: str, side: int, key: str, price: float, size: float) -> None:
        """An entry is there, or has another price or size."""
        at = self.sides(name)[side]
        old = at.entries.get(key)
        if old is None and len(at.entries) >= ENTRIES_MAX:
            return  # nobody's best
        at.entries[key] = price, size
        if not at.top[0] or price * at.sign >= at.top[0] * at.sign or (old is not None and old[0] == at.top[0]):
            at.known = False
        place = f"{name}\x01{side}\x01{key}"
        self._prices[place], self._sizes[place] = _bits(price), _bits(size)

    def get(self, name: str, side: int, key: str) -> tuple[float, float] | None:
        return self.sides(name)[side].entries.get(key)

    def remove(self, name: str, side: int, key: str) -> bool:
        """Take an entry away; False if it was not there."""
        if key not in self.sides(name)[side].entries:
            return False
        self._forget(name, side, [key])
        return True

    def clear(self, name: str) -> None:
        for side, at in enumerate(self.sides(name)):
            self._forget(name, side, list(at.entries))

    def names(self) -> list[str]:
        return list(self._books)

    def clear_all(self) -> None:
        self._books.clear()
        self._begun.clear()
        self._prices.clear()
        self._sizes.clear()

    def _forget(self, name: str, side: int, keys: list[str]) -> None:
        at = self.sides(name)[side]
        at.known = False
        for key in keys:
            del at.entries[key]
            place = f"{name}\x01{side}\x01{key}"
            del self._prices[place], self._sizes[place]


def _bits(number: float) -> int:
    bits: int = _to_bits(_to_double(number))[0]
    return bits


def _float(bits: int) -> float:
    return float(_DOUBLE.unpack(_BITS.pack(bits))[0])
