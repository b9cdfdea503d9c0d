"""A feed that stays open, answers pings and delivers nothing is opened again; one that is merely quiet is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import QuestDB
from exchange_process import Exchange
from recorder_process import Recorder, external, until, write_config

BUSY, QUIET = "watch-busy", "watch-quiet"
SYMBOLS = ["BTC-USD", "ETH-USD", "SOL-USD"]
NEVER = "SOL-USD"  # nothing is ever sent of it
HISTORY_MINUTES = 20
HISTORY_PER_S = 100  # of each symbol that trades
# 4 s on a quiet machine, and bench_watch.py holds 5; pauses of a crowded one are learnt as the feed's own. A feed of
# which nothing is known has 60 s.
CROWDED_S = 40.0


@pytest.fixture
def recorder(tmp_path: Path, free_port: Callable[[], int], fresh_tables: QuestDB) -> Iterator[Callable[..., Recorder]]:
    started: list[Recorder] = []

    def start(feeds: dict[str, dict[str, Any]]) -> Recorder:
        port = free_port()
        config = write_config(tmp_path / "home", feeds, port, questdb=external(fresh_tables.sql_url))
        started.append(Recorder(config, metrics_port=port))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def write_history(questdb: QuestDB, feed: str, symbols: list[str], per_s: int) -> None:
    """Trades of the last minutes, as an earlier recording would have left them."""
    count = HISTORY_MINUTES * 60 * per_s
    for symbol in symbols:
        questdb.sql.execute(
            f"INSERT INTO trades (ts_event, ts_recv, symbol, feed, trade_id, price, size, flags) "
            f"SELECT ts, ts, '{symbol}', '{feed}', x, 100.0, 1.0, 0 FROM (SELECT x, timestamp_sequence("
            f"dateadd('m', -{HISTORY_MINUTES}, now()), {1_000_000 // per_s}) ts FROM long_sequence({count}))"
        )
    questdb.wait_applied("trades")


def test_a_mute_feed_is_opened_again_within_seconds_and_quiet_ones_are_left_alone(
    recorder: Callable[..., Recorder], fresh_tables: QuestDB
) -> None:
    questdb = fresh_tables
    write_history(questdb, BUSY, [s for s in SYMBOLS if s != NEVER], HISTORY_PER_S)
    with (
        Exchange(["coinbase"], symbols=SYMBOLS, rate=1000) as busy,
        Exchange(["kraken"], symbols=["BTC-USD"], rate=1 / 20, quotes=0) as quiet,
    ):
        started = recorder(
            {
                BUSY: {"provider": "coinbase", "url": busy.urls["coinbase"], "symbols": SYMBOLS},
                QUIET: {
                    "provider": "kraken", "url": quiet.urls["kraken"], "symbols": ["BTC-USD"], "channels": ["trades"],
                },
            }
        )  # fmt: skip
        started.wait_event("feed.connected", feed=BUSY)
        busy.mute("coinbase", NEVER)
        started.wait_event("history.learnt", feed=BUSY)
        before = started.metric("recorder_frames_total", BUSY)
        until(lambda: started.metric("recorder_frames_total", BUSY) > before + 5000, "frames")

        busy.mute("coinbase")
        muted = time.monotonic()
        (judged,) = started.wait_event("feed.judged_dead")
        assert judged["feed"] == BUSY
        assert judged["silent_s"] < CROWDED_S, judged
        assert time.monotonic() - muted < CROWDED_S + 10
        assert judged["expected"] > 100
        started.wait_event("feed.connected", 2, feed=BUSY)
        started.wait_event("feed.resumed", feed=BUSY)
        until(lambda: started.get("/health")[0] == 200, "health")
        assert started.metric("recorder_feed_judged_dead_total", BUSY) == 1
        assert busy.truth("coinbase")["connections"] == 2
        assert quiet.truth("kraken")["connections"] == 1
        assert started.end() == 0, started.text()
        assert not started.events("symbol.mute")
        (down,) = started.events("feed.disconnected")
        assert down["reason"].startswith("judged dead")
    (found,) = questdb.sql.rows("SELECT * FROM quality_events")
    assert (found["feed"], found["symbol"], found["check_name"]) == (BUSY, None, "silence")
    assert found["severity"] == "critical"
    assert found["value"] < found["threshold"] < 1e-7
    assert "judged dead: silent for" in found["message"]
