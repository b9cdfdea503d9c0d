"""The numbers of a FIX connection's messages: what did not come, what came again, and when a gap is whole."""

from __future__ import annotations

from recorder.core.batch import FRAMES_LOST, Scope
from recorder.values.errors import FrameError
from recorder.values.fix import LOGON, SEQUENCE_RESET
from recorder.values.tables import GAP_REPAIRED, GAP_SEQUENCE

RANGES_MAX = 64  # of numbers that did not come, remembered until they are sent again

Fields = dict[bytes, bytes]

IN_ORDER, GAP, RESENT, REPEATED = range(4)


class Numbers:
    """MsgSeqNum of what came: what is missing, and what was sent again."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._tops = scope.tops()  # has the last number, which compiled code moves on
        self._missing = scope.kept("missing")  # first → last
        # Gaps that were told, by their first: the last, when it was told, how many of them came again.
        self._last, self._at, self._came = (scope.kept(f"gap_{name}") for name in ("last", "at", "came"))
        self._tops.missing(self._missing.values())

    def follow(self, fields: Fields, resent: bool, ts_recv: int) -> int:
        """What the message is. Raises FrameError without a number, before anything has changed."""
        number = _whole(fields.get(b"34"), "MsgSeqNum (34)")
        for first, last in self._missing.items():
            if int(first) <= number <= last:
                self._fill(first, last, number, number)
                self._settle(number)
                return RESENT
        if resent:
            return REPEATED
        before, self._tops.last = self._tops.last, number
        self._scope.sequence(number, ts_recv)
        if before is not None and number > before + 1:
            self._miss(before + 1, number - 1)
            first = str(before + 1)
            self._last[first], self._at[first], self._came[first] = number - 1, ts_recv, 0
            return GAP
        return IN_ORDER

    def control(self, kind: bytes, fields: Fields, ts_recv: int) -> bool:
        """Follow any other message; True when a session has begun whose subscriptions have, too."""
        number = _whole(fields.get(b"34"), "MsgSeqNum (34)")
        if kind == LOGON:
            fresh = int(self._scope.out.counters[self._scope.counter]) < 0
            before = self._tops.last
            if fields.get(b"141") == b"Y" or before is None:
                self._forget()
            elif number > before + 1:
                self._miss(before + 1, number - 1)
            self._begin(number, ts_recv)
            return fresh
        if kind == SEQUENCE_RESET:
            new = _whole(fields.get(b"36"), "NewSeqNo (36)")
            if fields.get(b"123") != b"Y":
                self._forget()
                self._begin(new - 1, ts_recv)
                return False
            for first, last in list(self._missing.items()):
                if number <= last and new > int(first):
                    self._fill(first, last, max(number, int(first)), min(new - 1, last))
            self._settle()
            if new - 1 > (self._tops.last or 0):
                self._begin(new - 1, ts_recv)
            return False
        self.follow(fields, fields.get(b"43") == b"Y", ts_recv)
        return False

    def _begin(self, number: int, ts_recv: int) -> None:
        """Numbers go on from here, whatever was before."""
        self._scope.opened()
        self._scope.sequence(number, ts_recv)
        self._tops.last = number

    def _miss(self, first: int, last: int) -> None:
        if len(self._missing) >= RANGES_MAX:
            given_up = next(iter(self._missing))
            del self._missing[given_up]
            for gap in [gap for gap, end in self._last.items() if int(gap) <= int(given_up) <= end]:
                self._drop(gap)
        self._missing[str(first)] = last
        self._tops.missing(self._missing.values())

    def _forget(self) -> None:
        self._missing.clear()
        self._tops.missing(())
        for gap in list(self._last):
            self._drop(gap)

    def _drop(self, gap: str) -> None:
        for kept in (self._last, self._at, self._came):
            del kept[gap]

    def _settle(self, number: int | None = None) -> None:
        """``number`` came again, or numbers were filled: a gap of which none is missing any more is repaired.

        Who sends messages again fills only the numbers of those that are no data; of who sent none again it stays
        unknown what the gap held.
        """
        for gap, last in list(self._last.items()):
            first = int(gap)
            if number is not None and first <= number <= last:
                self._came[gap] += 1
            if any(int(a) <= last and b >= first for a, b in self._missing.items()):
                continue
            if self._came[gap]:
                out, at = self._scope.out, self._at[gap]
                out.gap(
                    self._scope.series("*"), "connection", GAP_SEQUENCE, at, at, FRAMES_LOST, from_id=first,
                    to_id=last, missing=last - first + 1, status=GAP_REPAIRED, recovered=self._came[gap],
                )  # fmt: skip
            self._drop(gap)

    def _fill(self, first: str, last: int, low: int, high: int) -> None:
        """Of the missing ``first`` to ``last``, ``low`` to ``high`` are settled."""
        del self._missing[first]
        if int(first) < low:
            self._missing[first] = low - 1
        if high < last:
            self._missing[str(high + 1)] = last
        self._tops.missing(self._missing.values())


def _whole(text: bytes | None, what: str) -> int:
    if text is None or not text.isdigit() or len(text) > 18:
        raise FrameError(f"{what} is no number: {text[:30] if text else b''!r}")
    return int(text)
