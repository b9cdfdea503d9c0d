"""`recorder run` with a provider that is asked: a simulated one over real sockets, killed and started again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import QuestDB
from recorder_process import Recorder, external, until, write_config

from recorder.shell.database.sql_client import SqlClient
from recorder.shell.journal import Journal
from recorder.shell.simulator.alphavantage import DAILY_LIMIT, AlphaVantage, prices
from recorder.shell.simulator.asked import AskedSimulator
from recorder.shell.simulator.rest import Answer
from recorder.values.feed import MINUTE, SECOND

KEY = "ABCDEF0123456789"
SYMBOLS = ("IBM", "KO")


class Market:
    """A simulated Alpha Vantage whose clock the test turns."""

    def __init__(self) -> None:
        self.ahead = 0
        self.pages = AlphaVantage(SYMBOLS, KEY, lambda: time.time_ns() + self.ahead, quota=10_000)
        self.server = AskedSimulator(self.pages)

    def feed(self, **settings: Any) -> dict[str, Any]:
        return {
            "provider": "alphavantage", "channels": ["bars"], "symbols": list(SYMBOLS), "timeframe": "1m",
            "plan": "1200", "rest_url": self.server.url, **settings,
        }  # fmt: skip


@pytest.fixture
def market() -> Iterator[Market]:
    market = Market()
    with market.server:
        yield market


def bars(sql: SqlClient) -> dict[tuple[str, int], tuple[float, ...]]:
    rows = sql.query("SELECT symbol, ts_event::long, open, high, low, close, volume FROM bars WHERE feed = 'av'").rows
    found = {(symbol, ts): tuple(values) for symbol, ts, *values in rows}
    assert len(found) == len(rows)
    return found


def assert_true(found: dict[tuple[str, int], tuple[float, ...]]) -> None:
    """Every bar that was stored is one of the market's, and none between two is missing."""
    for (symbol, ts), values in found.items():
        assert values == tuple(float(text) for text in prices(symbol, ts // SECOND).values())
    for symbol in SYMBOLS:
        starts = sorted(ts for name, ts in found if name == symbol)
        assert starts == list(range(starts[0], starts[-1] + MINUTE, MINUTE))


def journalled(folder: Path) -> bytes:
    found, position = b"", 0
    with Journal.open(folder / "journal") as journal:
        while (frames := journal.read(position)) is not None:
            found += b"".join(frames.payload(i) for i in range(frames.count))
            position = frames.end
    return found


def test_answers_become_rows_also_over_kills_and_their_replay_is_the_same(
    tmp_path: Path, market: Market, fresh_tables: QuestDB, free_port: Callable[[], int]
) -> None:
    port, sql = free_port(), fresh_tables.sql
    config = write_config(tmp_path, {"av": market.feed()}, port, external(fresh_tables.sql_url))

    def asked_since(count: int) -> bool:
        return len(market.server.asked) > count

    for _ in range(2):  # killed as soon as it has been answered: what is journalled then is not stored yet, or is
        before = len(market.server.asked)
        with Recorder(config, metrics_port=port, ALPHAVANTAGE_API_KEY=KEY) as recorder:
            until(lambda before=before: asked_since(before), "questions")
            recorder.kill()
    with Recorder(config, metrics_port=port, ALPHAVANTAGE_API_KEY=KEY) as recorder:
        until(lambda: recorder.metric("recorder_frames_total", "av") >= 2, "answers")
        until(lambda: len(bars(sql)) >= 2 * 99, "rows")
        assert recorder.get("/health")[0] == 200
        assert recorder.metric("recorder_poll_requests_total", "av", "200") >= 2
        assert recorder.metric("recorder_polls", "av") == 2
        assert recorder.metric("recorder_quota", "alphavantage") == 1200
        assert 2 <= recorder.metric("recorder_quota_used", "alphavantage") <= len(market.server.asked)
        began = time.monotonic()
        assert recorder.end() == 0
        assert time.monotonic() - began < 20
        assert KEY not in recorder.text()
    found = bars(sql)
    assert_true(found)
    assert KEY.encode() not in journalled(tmp_path)
    assert sql.query("SELECT count() FROM gaps WHERE feed = 'av'").rows == [[0]]


def test_a_provider_that_wants_a_pause_gets_it_says_so_and_is_asked_again(
    tmp_path: Path, market: Market, fresh_tables: QuestDB, free_port: Callable[[], int]
) -> None:
    port, sql = free_port(), fresh_tables.sql
    config = write_config(tmp_path, {"av": market.feed(symbols=["IBM"])}, port, external(fresh_tables.sql_url))
    market.server.failing = [Answer(429, "slow down", {"Retry-After": "1"})]
    with Recorder(config, metrics_port=port, ALPHAVANTAGE_API_KEY=KEY) as recorder:
        (limited,) = recorder.wait_event("poll.limited")
        assert limited["reason"] == "bars IBM 1m: HTTP 429 slow down"
        recorder.wait_event("poll.resumed")
        until(lambda: len(bars(sql)) >= 99, "rows")
        market.server.failing = [Answer(200, {"Information": DAILY_LIMIT.format(key=KEY)})]
        market.ahead += 2 * MINUTE
        recorder.process.send_signal(signal.SIGHUP)  # without a change it does nothing; with one more symbol it asks
        recorder.wait_event("config.reloaded")
        before = len(market.server.asked)
        write_config(tmp_path, {"av": market.feed()}, port, external(fresh_tables.sql_url))
        recorder.process.send_signal(signal.SIGHUP)
        (_, exhausted) = recorder.wait_event("poll.limited", 2)
        assert len(market.server.asked) == before + 1
        assert exhausted["retry_s"] >= 3600
        assert recorder.metric("recorder_provider_held_seconds", "alphavantage") > 3500
        began = time.monotonic()
        assert recorder.end() == 0
        assert time.monotonic() - began < 20
        assert KEY not in recorder.text()
    events = sql.query("SELECT event, reason FROM feed_events WHERE feed = 'av' ORDER BY ts_event").rows
    assert [event for event, _ in events] == ["poll.limited", "poll.resumed", "poll.limited"]
    (rejected,) = sql.query("SELECT reason FROM rejected WHERE feed = 'av'").rows
    assert rejected[0].startswith("bars KO 1m: Information: We have detected your API key as …")
    assert KEY.encode() not in journalled(tmp_path)
