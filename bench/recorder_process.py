"""`recorder` that also notes when frames were decoded and blocks queryable: a line of Python per read, none per frame.

    RECORDER_BENCH_NOTES=FILE.npz python -m bench.recorder_process … run

Writes, at its end: ``decoded`` (n, 2) int64, receive time and time of decoding of every message in order; ``queryable``
(m, 3) int64, of every block the receive time of its first frame, when it was known to be queryable, and its rows.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from recorder.commands import record
from recorder.commands.cli import main
from recorder.core.frames import TEXT, Frames
from recorder.core.histogram import Histogram
from recorder.shell.ledger import Ledger

_engines: list[Any] = []


class Noted(Histogram):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[np.ndarray, int, int]] = []

    def add(self, times_ns: np.ndarray, now_ns: int, weight: int = 1) -> None:
        self.notes.append((times_ns.copy(), now_ns, weight))
        super().add(times_ns, now_ns, weight)

    def table(self) -> np.ndarray:
        parts = [np.stack([times, np.full(len(times), now), np.full(len(times), n)], 1) for times, now, n in self.notes]
        return np.concatenate(parts)


class Messages(Noted):
    """What came through a socket: told apart by the ledger, which is told of the frames themselves."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._told, ledger.decoded = ledger.decoded, self._decoded  # type: ignore[method-assign]

    def _decoded(self, frames: Frames, now: int) -> None:
        self.notes.append((frames.ts_recv[frames.kinds == TEXT], now, 1))
        self._told(frames, now)

    def add(self, times_ns: np.ndarray, now_ns: int, weight: int = 1) -> None:
        Histogram.add(self, times_ns, now_ns, weight)


class Engine(record.Engine):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.decoded, self.queryable = Messages(self.ledger), Noted()
        _engines.append(self)


if __name__ == "__main__":
    record.Engine = Engine  # type: ignore[misc]
    try:
        code = main()
    finally:
        np.savez(
            os.environ["RECORDER_BENCH_NOTES"],
            decoded=_engines[0].decoded.table()[:, :2],
            queryable=_engines[0].queryable.table(),
        )
    sys.exit(code)
