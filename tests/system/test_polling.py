"""`recorder run` with a provider that is asked: a simulated one over real sockets, killed and started again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import QuestDB
from recorder_process import Recorder, command, environment, external, until, write_config
from undisturbed import assert_equal, undisturbed

from recorder.commands.replay import replay
from recorder.shell.database.sql_client import SqlClient
from recorder.shell.journal.segments import read_path
from recorder.shell.simulator.alphavantage import DAILY_LIMIT, AlphaVantage, prices
from recorder.shell.simulator.asked import AskedSimulator
from recorder.shell.simulator.rest import Answer
from recorder.shell.simulator.yahoo import COOKIE, YahooPages
from recorder.values.config import Config, QuestdbConfig
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


def held(folder: Path, *secrets: str) -> list[str]:
    """Which of these are in the journal."""
    payloads = b"".join(frames.payload(i) for frames in read_path(folder / "journal") for i in range(frames.count))
    return [secret for secret in secrets if secret.encode() in payloads]


def test_answers_become_rows_also_over_kills_and_a_replay_gives_the_same(
    tmp_path: Path, market: Market, fresh_tables: QuestDB, free_port: Callable[[], int]
) -> None:
    port, sql, home = free_port(), fresh_tables.sql, tmp_path / "home"
    yahoo = YahooPages(SYMBOLS, time.time_ns)
    with AskedSimulator(yahoo) as chains:
        feeds = {"av": market.feed(), "yh": {
            "provider": "yahoo", "api": "rest", "channels": ["options"], "expirations": "all", "symbols": list(SYMBOLS),
            "rest_url": chains.url,
        }}  # fmt: skip
        config = write_config(home, feeds, port, external(fresh_tables.sql_url))
        for _ in range(2):  # killed as soon as both have been asked: what is journalled then is stored, or is not yet
            before = len(market.server.asked), len(chains.asked)
            with Recorder(config, metrics_port=port, ALPHAVANTAGE_API_KEY=KEY) as recorder:
                until(lambda: len(market.server.asked) > before[0] and len(chains.asked) > before[1] + 2, "questions")  # noqa: B023
                recorder.kill()
        with Recorder(config, metrics_port=port, ALPHAVANTAGE_API_KEY=KEY) as recorder:
            until(lambda: recorder.metric("recorder_frames_total", "av") >= 2, "answers")
            until(lambda: recorder.metric("recorder_frames_total", "yh") >= 6, "chains")
            until(lambda: len(bars(sql)) >= 2 * 99, "bars")
            assert recorder.get("/health")[0] == 200
            assert recorder.metric("recorder_poll_requests_total", "av", "200") >= 2
            assert recorder.metric("recorder_polls", "av") == 2
            assert recorder.metric("recorder_quota", "alphavantage") == 1200
            assert 2 <= recorder.metric("recorder_quota_used", "alphavantage") <= len(market.server.asked)
            began = time.monotonic()
            assert recorder.end() == 0
            assert time.monotonic() - began < 20
            assert KEY not in recorder.text()
            assert yahoo.crumb not in recorder.text()
    assert_true(bars(sql))
    assert held(home, KEY, COOKIE, yahoo.crumb) == []
    assert sql.value("SELECT count() FROM gaps") == 0
    assert sql.value("SELECT count_distinct(symbol) FROM options_chain WHERE feed = 'yh'") == 24
    assert sql.value("SELECT count() FROM options_chain WHERE greeks_source = 'computed' AND bid > 0") > 0
    expected = undisturbed(home / "journal")
    assert_equal(fresh_tables, expected)
    exported = tmp_path / "out.jsonl.zst"
    export = command("journal", "export", "--dir", home / "journal", exported)
    done = subprocess.run(export, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    fresh_tables.clear()
    server = QuestdbConfig(embedded=False, ilp=fresh_tables.ilp_url, sql=fresh_tables.sql_url)
    replay(msgspec.structs.replace(Config(), questdb=server), [exported])
    assert_equal(fresh_tables, expected)


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
    assert held(tmp_path, KEY) == []
