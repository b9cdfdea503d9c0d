"""SIGKILL at random moments: whatever dies, the database ends up as if nothing had.

Invariants of every test here
  complete  what was journalled is stored: by a fold of the journal, and by ids read from it without our decoders
  once      no key twice, nothing that was not journalled
  right     every column of every table, derived ones included, is to the bit what an undisturbed run would have stored
  baseline  no snapshot or segment is left behind half written; what is kept is readable

RECORDER_SOAK=100 in the environment makes it a hundred kills, and prints what was measured.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reference
from conftest import QuestDB
from journalled import Seen, Trade
from rig import KERNELS, SYMBOLS, Rig, exchange

from recorder.shell.simulator.proxy import Proxy
from recorder.values.config import KernelsConfig
from recorder.values.feed import SECOND

KILLS = int(os.environ.get("RECORDER_SOAK", "7"))
SEED = 20261123
RATE = 500  # trades and as many quotes a second, of each provider
MOMENTS = ("load", "start", "snapshot", "outage", "outage over the restart")
RUN_S_MAX = 2.5  # of load before a kill: with a state kept every 2 s some kills follow one, some precede the first
START_S_MAX = 1.5  # an idle machine has every feed connected by then
SAMPLES = 100  # rows whose derived columns are worked out anew from all trades before them
DAY = 86_400 * SECOND


@pytest.fixture
def rig(tmp_path: Path, fresh_tables: QuestDB, free_port: Any) -> Iterator[Rig]:
    with (
        Proxy(("127.0.0.1", fresh_tables.http_port)) as proxy,
        exchange(*SYMBOLS, rate=RATE, seed=SEED) as place,
        Rig(tmp_path / "home", fresh_tables, proxy, place, free_port()) as rig,
    ):
        yield rig


def moments(count: int, rng: random.Random) -> list[str]:
    """Every kind of moment about as often, in any order."""
    kinds = [MOMENTS[i % len(MOMENTS)] for i in range(count)]
    rng.shuffle(kinds)
    return kinds


def kill_at(rig: Rig, moment: str, rng: random.Random) -> None:
    """Run the recorder and kill it at a moment of this kind."""
    rig.start()
    if moment == "start":
        time.sleep(rng.uniform(0.0, START_S_MAX))
        rig.kill()
        return
    rig.wait_live()
    rig.proxy.accept()  # the outage before may have lasted until here
    provider = rng.choice(rig.exchange.providers)
    getattr(rig.exchange, rng.choice(("drop", "duplicate", "reorder")))(provider, rng.randrange(1, 9))
    if rng.random() < 0.5:
        rig.exchange.garbage(provider)
    if rng.random() < 0.3:
        rig.exchange.cut(provider)
    if moment == "load":
        time.sleep(rng.uniform(0.0, RUN_S_MAX))
    elif moment == "snapshot":
        rig.wait_caught_up()
        scratch, deadline = rig.journal / "state.tmp", time.monotonic() + 30
        while not scratch.exists():
            assert time.monotonic() < deadline, "no state is kept"
        time.sleep(rng.uniform(0.0, 0.004))
    else:
        time.sleep(rng.uniform(0.0, 1.0))
        rig.outage()
        time.sleep(rng.uniform(0.0, 1.5))
    rig.kill()
    if moment == "outage":
        rig.proxy.accept()


@pytest.mark.timeout(300 + 20 * KILLS)
def test_after_kills_at_random_moments_every_table_is_that_of_an_undisturbed_run(rig: Rig) -> None:
    """Complete, once, right, back to baseline: kills under load, while starting, amid a snapshot, in outages."""
    rng = random.Random(SEED)
    for moment in moments(KILLS, rng):
        kill_at(rig, moment, rng)
    rig.settle()
    seen, compared = rig.verify()
    assert all(compared[name] for name in ("trades", "quotes", "gaps", "feed_events", "rejected", "coverage")), compared
    assert not [path.name for path in rig.journal.iterdir() if "unreadable" in path.name]
    assert_like_plain_python(rig.questdb, seen)
    told = {
        "kills": KILLS, "rows": sum(compared.values()), "by table": compared,
        "start to live, s": spread(rig.live_s), "start to backlog queryable, s": spread(rig.queryable_s),
    }  # fmt: skip
    print(json.dumps(told))


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 2),
        "p99": round(ordered[math.ceil(0.99 * len(ordered)) - 1], 2),
        "max": round(ordered[-1], 2),
    }


def assert_like_plain_python(questdb: QuestDB, seen: Seen) -> None:
    """Derived columns of rows picked over all crashes are what their definition gives for the trades before them."""
    rng = random.Random(SEED)
    for feed, symbol in (("coinbase", "BTC-USD"), ("binance", "ETH-USDT")):
        in_order: list[Trade] = []  # once each, without those that are late: they change no rolling state
        counted: list[Trade] = []  # with them: they count in the session's VWAP
        at: list[int] = []  # how many were counted up to each one in order
        ids: set[int] = set()
        for trade in seen.of(feed, symbol):
            if trade.id not in ids:
                ids.add(trade.id)
                counted.append(trade)
                if not in_order or trade.ts >= in_order[-1].ts:
                    in_order.append(trade)
                    at.append(len(counted))
        stored = {
            row["trade_id"]: (row["vwap"], row["rolling_vwap"], row["zscore"])
            for row in questdb.sql.rows(
                f"SELECT trade_id, vwap, rolling_vwap, zscore FROM trades WHERE feed = '{feed}' AND symbol = '{symbol}'"
            )
        }
        window, width = KERNELS["zscore_window"], KERNELS["rolling_vwap_s"] * SECOND // reference.VWAP_BUCKETS
        for i in rng.sample(range(len(in_order)), SAMPLES):
            trade = in_order[i]
            today = [t for t in counted[: at[i]] if t.ts // DAY == trade.ts // DAY]
            near = [t for t in in_order[: i + 1] if trade.ts // width - t.ts // width < reference.VWAP_BUCKETS]
            prices = [t.price for t in in_order[max(0, i - window - 1) : i + 1]]
            z = reference.zscores(prices, window, KernelsConfig().min_samples)[-1]
            expected = (vwap(today), vwap(near), z)
            found = tuple(math.nan if value is None else value for value in stored[trade.id])
            assert found == pytest.approx(expected, rel=1e-7, nan_ok=True), (feed, trade)


def vwap(trades: list[Trade]) -> float:
    return math.fsum(t.price * t.size for t in trades) / math.fsum(t.size for t in trades)
