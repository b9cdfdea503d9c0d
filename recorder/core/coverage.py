"""How complete each minute is: counts of rows by series, channel and minute, made while they pass.

A ledger: every minute of reception adds entries about the minutes its rows belong to. What comes late, or as a repair
days later, is an entry of its own, so nothing written before is ever read or changed, and entries of a minute add up.
The past that a user asks for (``recorder backfill``) is no reception, and not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from recorder.compiled import njit
from recorder.core.batch import Output
from recorder.values.feed import MINUTE
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import (
    BACKFILLED,
    BARS,
    CANCELLED,
    CORRECTED,
    COVERAGE,
    DUPLICATE,
    FILLS,
    FOLLOWS,
    LATE,
    QUOTES,
    TRADES,
)

CHANNELS = (TRADES.name, QUOTES.name, BARS.name)
PASSED_MAX = 1 << 16  # minutes put aside before entries about the same minute are added up

# How rows of a channel are verified.
BY_NOTHING, BY_ID, BY_SEQUENCE, BY_NUMBER = 0, 1, 2, 3

# Columns of a slot, the minute of a series and channel being counted, and of one put aside.
PLACE, MINUTE_START, RECEIVED, VERIFIED, REPAIRED, REPEATED, WAS_LATE = range(7)
COLUMNS = 7


@njit(cache=True, nogil=True)
def count_rows(series, ts_event, flags, channel, verify, slots, known, passed):
    """Count rows into the slots of their series; a slot whose minute is over is put aside.

    series, ts_event, flags  (n,) columns of sealed rows after their kernels, repeats included
    verify   (series, channels) int64, BY_…
    slots    (series * channels, 7) int64; known (series * channels,) bool: a row came before
    passed   (n, 7) int64, filled; returns how many
    A row that was counted as missing before it came, from history or late by the stream, is repaired.
    A row is verified when what came before it is known: of a series with contiguous ids each but the first, of one
    whose connection counts its messages each but the first since that was opened, of numbered rows those that FOLLOW.
    """
    full = 0
    channels = verify.shape[1]
    for i in range(len(series)):
        place = series[i] * channels + channel
        slot = slots[place]
        minute = ts_event[i] - ts_event[i] % MINUTE
        if slot[MINUTE_START] != minute:
            if slot[RECEIVED] > 0:
                passed[full] = slot
                full += 1
            slot[:] = 0
            slot[PLACE] = place
            slot[MINUTE_START] = minute
        slot[RECEIVED] += 1
        if flags[i] & DUPLICATE:
            slot[REPEATED] += 1
            continue
        if flags[i] & LATE:
            slot[WAS_LATE] += 1
        if (flags[i] & BACKFILLED and flags[i] & LATE) or flags[i] & FILLS:
            slot[REPAIRED] += 1
        elif verify[series[i], channel] == BY_NUMBER:
            slot[VERIFIED] += (flags[i] & FOLLOWS) != 0
        elif known[place] and (
            verify[series[i], channel] == BY_SEQUENCE
            or (verify[series[i], channel] == BY_ID and not flags[i] & (CORRECTED | CANCELLED))
        ):
            slot[VERIFIED] += 1
        known[place] = True
    return full


@dataclass
class Told:
    """What is known of a minute by other means than its rows."""

    missing: int = 0
    rejected: int = 0
    cause: int = TEXT_NULL


@dataclass
class Coverage:
    """The ledger of a pipeline. ``out`` gets the entries, rows of COVERAGE."""

    out: Output
    verify: np.ndarray = field(default_factory=lambda: np.zeros((64, len(CHANNELS)), np.int64))
    told: dict[tuple[int, int, int], Told] = field(default_factory=dict)  # (series, channel's text, minute)

    def __post_init__(self) -> None:
        self.known_series = 0
        self.slots = np.zeros((self.verify.size, COLUMNS), np.int64)
        self.known = np.zeros(self.verify.size, np.bool_)
        self._passed: list[np.ndarray] = []
        self._passed_rows = 0

    def add_series(self, verify: tuple[int, ...]) -> None:
        """One more series, whose id is the number of those before it; ``verify`` says how, by channel."""
        if self.known_series == len(self.verify):
            self.verify = np.concatenate([self.verify, np.zeros_like(self.verify)])
            self.slots = np.concatenate([self.slots, np.zeros_like(self.slots)])
            self.known = np.concatenate([self.known, np.zeros_like(self.known)])
        self.verify[self.known_series] = verify
        self.known_series += 1

    def rows(self, table: str, rows: np.ndarray) -> None:
        """Count rows of a channel's table, after its kernel."""
        passed = np.empty((len(rows), COLUMNS), np.int64)
        full = count_rows(
            rows["series"], rows["ts_event"], rows["flags"], CHANNELS.index(table), self.verify, self.slots, self.known,
            passed,
        )  # fmt: skip
        if full:
            self._put_aside(passed[:full].copy())

    def interrupted(self, series: np.ndarray) -> None:
        """Of these, (n,) ids, rows may be missing here that no later one tells of: a count of messages began anew."""
        own = series[series < self.known_series]
        places = own[:, None] * len(CHANNELS) + np.arange(len(CHANNELS))
        self.known[places[self.verify[own] == BY_SEQUENCE]] = False

    def tell(self, series: int, channel: int, ts_event: int, missing: int, rejected: int, cause: int) -> None:
        """Something is missing, or did not fit. ``channel`` and ``cause`` are ids of texts."""
        told = self.told.setdefault((series, channel, ts_event - ts_event % MINUTE), Told())
        told.missing += missing
        told.rejected += rejected
        told.cause = cause if cause != TEXT_NULL else told.cause

    def write(self, noticed: int) -> None:
        """Append the entries of the minute of reception that starts at ``noticed``; they stay, see ``clear``."""
        live = self.slots[self.slots[:, RECEIVED] > 0]
        counts = _added_up(np.concatenate([*self._passed, live]))
        text, append = self.out.texts.id, self.out.batches[COVERAGE.name].append
        channels, entries = [text(name) for name in CHANNELS], dict(self.told)
        for place, minute, received, verified, repaired, repeated, late in counts.tolist():
            series, channel = divmod(place, len(CHANNELS))
            told = entries.pop((series, channels[channel], minute), NOTHING_TOLD)
            append(
                minute, series, channels[channel], noticed, received, verified,
                received - repeated - repaired - verified, told.missing, repaired, repeated, late, told.rejected,
                told.cause,
            )  # fmt: skip
        for (series, channel, minute), told in entries.items():
            append(minute, series, channel, noticed, 0, 0, 0, told.missing, 0, 0, 0, told.rejected, told.cause)

    def clear(self) -> None:
        """Begin the next minute of reception."""
        self.slots[:, RECEIVED:] = 0
        self._passed, self._passed_rows = [], 0
        self.told = {}

    def _put_aside(self, rows: np.ndarray) -> None:
        self._passed.append(rows)
        self._passed_rows += len(rows)
        if self._passed_rows > PASSED_MAX:
            self._passed = [_added_up(np.concatenate(self._passed))]
            self._passed_rows = 0

    # For snapshots.

    def state(self) -> dict[str, Any]:
        """Everything a later ``restore`` needs; arrays are copies."""
        used = self.known_series * len(CHANNELS)
        passed = np.concatenate([*self._passed, np.zeros((0, COLUMNS), np.int64)])
        told = [[*key, told.missing, told.rejected, told.cause] for key, told in self.told.items()]
        return {
            "verify": self.verify[: self.known_series].tobytes(), "slots": self.slots[:used].tobytes(),
            "known": self.known[:used].tobytes(), "passed": passed.tobytes(), "told": told,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``, of a pipeline whose series and texts have the same ids."""
        verify = np.frombuffer(state["verify"], np.int64).reshape(-1, len(CHANNELS))
        for row in verify.tolist():
            self.add_series(tuple(row))
        used = len(verify) * len(CHANNELS)
        self.slots[:used] = np.frombuffer(state["slots"], np.int64).reshape(-1, COLUMNS)
        self.known[:used] = np.frombuffer(state["known"], np.bool_)
        passed = np.frombuffer(state["passed"], np.int64).reshape(-1, COLUMNS)
        if len(passed):
            self._put_aside(passed.copy())
        self.told = {(a, b, c): Told(missing, rejected, cause) for a, b, c, missing, rejected, cause in state["told"]}

    def warm(self) -> None:
        """Compile, or load from the cache, for each table's rows."""
        for table, size in product((TRADES, QUOTES, BARS), (1, 2)):  # of one row a column is contiguous: another type
            rows = np.zeros(size, table.dtype)
            count_rows(
                rows["series"], rows["ts_event"], rows["flags"], 0, np.zeros_like(self.verify),
                np.zeros_like(self.slots), np.zeros_like(self.known), np.empty((size, COLUMNS), np.int64),
            )  # fmt: skip


NOTHING_TOLD = Told()


def _added_up(rows: np.ndarray) -> np.ndarray:
    """One row for each (place, minute) of (n, 7) int64, sums of the others."""
    if len(rows) < 2:
        return rows
    ordered = rows[np.lexsort((rows[:, MINUTE_START], rows[:, PLACE]))]
    fresh = np.any(ordered[1:, : MINUTE_START + 1] != ordered[:-1, : MINUTE_START + 1], axis=1)
    starts = np.concatenate([[0], np.flatnonzero(fresh) + 1])
    result = ordered[starts]
    result[:, RECEIVED:] = np.add.reduceat(ordered[:, RECEIVED:], starts, axis=0)
    return result
