"""Live figures of a recording: rates, latencies, what is queryable. Read from its counters, four times a second."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import psutil

from recorder.core.histogram import Histogram

RATE_OVER_S = 2.0  # rates are means over this much


class Figures:
    """What a recording is doing, as a table for a terminal or a line for a log.

    recording  as commands.record.Recording
    seconds    how long it will go on, for the clock
    """

    def __init__(self, recording: Any, seconds: float) -> None:
        self._recording, self._seconds = recording, seconds
        self._began = time.monotonic()
        self._history: deque[tuple[float, dict[str, int], int, int]] = deque()
        self._process = psutil.Process()
        self._process.cpu_percent()

    def _sample(self) -> tuple[float, dict[str, int], int, int]:
        """Append the counters of now; return those of RATE_OVER_S ago."""
        r = self._recording
        frames = {name: run.frames for name, run in r.feeds.items()}
        now = (time.monotonic(), frames, r.engine.rows_queryable, r.journal.end)
        self._history.append(now)
        while len(self._history) > 2 and now[0] - self._history[0][0] > RATE_OVER_S:
            self._history.popleft()
        return self._history[0]

    def _rates(self) -> tuple[dict[str, float], float]:
        before = self._sample()
        now = self._history[-1]
        elapsed = max(now[0] - before[0], 1e-3)
        feeds = {name: max(0, count - before[1].get(name, 0)) / elapsed for name, count in now[1].items()}
        return feeds, (now[2] - before[2]) / elapsed

    def line(self) -> str:
        """One line for a log or a pipe."""
        feeds, rows = self._rates()
        engine = self._recording.engine
        return (
            f"{time.monotonic() - self._began:5.1f} s  "
            f"{sum(feeds.values()):8,.0f} frames/s  {rows:8,.0f} rows/s queryable  "
            f"{engine.rows_queryable:>10,} rows  wire→decoded p99 {_ms(engine.decoded, 0.99)}  "
            f"wire→queryable p50 {_ms(engine.queryable, 0.5)} p99 {_ms(engine.queryable, 0.99)}  "
            f"database {self._recording.database_state}"
        )

    def table(self) -> Any:
        """A picture for a terminal."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        r, engine = self._recording, self._recording.engine
        feeds, rows = self._rates()
        by_feed = Table(box=box.SIMPLE_HEAD, expand=False)
        for name, side in (("feed", "left"), ("state", "left"), ("frames/s", "right"), ("frames", "right")):
            by_feed.add_column(name, justify=side)  # type: ignore[arg-type]
        for name, run in r.feeds.items():
            ready = bool(run.connections) and all(c.ready for c in run.connections)
            state = Text("recording", "green") if ready else Text("connecting", "yellow")
            by_feed.add_row(name, state, f"{feeds.get(name, 0):,.0f}", f"{run.frames:,}")
        latency = Table(box=box.SIMPLE_HEAD)
        for name in ("latency from the wire", "p50", "p99", "p99.9", "max"):
            latency.add_column(name, justify="left" if name.startswith("lat") else "right")
        for words, histogram in (("to decoded", engine.decoded), ("to queryable by SQL", engine.queryable)):
            latency.add_row(words, *(_ms(histogram, q) for q in (0.5, 0.99, 0.999, 1.0)))
        tables = ", ".join(f"{count:,} {name}" for name, count in r.pipeline.rows.items() if count)
        left = max(0.0, self._seconds - (time.monotonic() - self._began))
        database = "ready" if r.database_state == "ready" else r.database_state
        cpu = self._process.cpu_percent()
        memory = self._process.memory_info().rss / 1e6
        return Group(
            Text(f"recording · {left:.0f} s left · QuestDB {database}", "bold"),
            by_feed,
            Text(f"rows queryable: {engine.rows_queryable:,} ({rows:,.0f}/s) of {tables or 'none yet'}"),
            latency,
            Text(f"journal {r.journal.end / 1e6:.1f} MB · {cpu:.0f} % of a core · {memory:.0f} MB resident", "dim"),
        )


def _ms(histogram: Histogram, q: float) -> str:
    """A percentile in milliseconds; a dash while there is nothing to measure."""
    if not histogram.count:
        return "–"
    ns = histogram.percentile(q)
    return f"{ns / 1e6:.2f} ms" if ns < 100_000_000 else f"{ns / 1e6:.0f} ms"
