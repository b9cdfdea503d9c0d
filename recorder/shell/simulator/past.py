"""What has happened on a simulated exchange, as far as it remembers: the source of its history."""

from __future__ import annotations

import numpy as np

from recorder.core.market import COLUMNS, ID, KIND, SYMBOL, TS

REMEMBERED_MAX = 1 << 20  # events of one kind and provider: 75 MB, twenty seconds of 50,000 a second, hours of 100
_ALWAYS = (0, (1 << 63) - 1)


class Past:
    """The last events of one kind in the order they happened, delivered or not; older ones are forgotten."""

    def __init__(self, kind: int, remembered_max: int = REMEMBERED_MAX) -> None:
        self._kind = kind
        self._ring = np.empty((COLUMNS, remembered_max), np.int64)  # pages of memory are taken as they are written
        self._at = self._count = 0

    def add(self, events: np.ndarray) -> None:
        """(n, COLUMNS) int64, TS in Unix ns."""
        size = self._ring.shape[1]
        own = events[events[:, KIND] == self._kind][-size:]
        first = min(len(own), size - self._at)
        self._ring[:, self._at : self._at + first] = own[:first].T
        self._ring[:, : len(own) - first] = own[first:].T
        self._at = (self._at + len(own)) % size
        self._count = min(size, self._count + len(own))

    def find(self, symbol: int, ids: tuple[int, int] = _ALWAYS, times: tuple[int, int] = _ALWAYS) -> np.ndarray:
        """Places of a symbol's events within both inclusive ranges, oldest first; for ``rows``."""
        parts = [slice(0, self._at)]
        if self._count == self._ring.shape[1]:
            parts.insert(0, slice(self._at, None))
        found = [np.flatnonzero(self._ring[SYMBOL, part] == symbol) + (part.start or 0) for part in parts]
        places = np.concatenate(found)
        for column, (low, high) in ((ID, ids), (TS, times)):
            if (low, high) != _ALWAYS:
                values = self._ring[column, places]
                places = places[(values >= low) & (values <= high)]
        return places

    def rows(self, places: np.ndarray) -> np.ndarray:
        """(n, COLUMNS) int64."""
        return self._ring[:, places].T
