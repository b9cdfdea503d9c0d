"""Scheduled chains of two providers in one running recorder: whole, each at one time, within each provider's rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from conftest import QuestDB
from recorder_process import Recorder, external, until, write_config

from recorder.feeds.alpaca.history import PER_SECOND_MAX
from recorder.shell.simulator.alpaca_chains import PAGE_MAX, AlpacaChains
from recorder.shell.simulator.asked import AskedSimulator
from recorder.shell.simulator.cboe import Cboe
from recorder.shell.simulator.rest import Answer, Asked

NOW = time.time_ns()
STRIKES, EXPIRATIONS = 129, 4
CONTRACTS = 2 * STRIKES * EXPIRATIONS
assert PAGE_MAX < CONTRACTS < 2 * PAGE_MAX
QUESTIONS = 3  # of a chain of Alpaca: the underlying's last trade and both pages
KEYS = {"APCA_API_KEY_ID": "AKIDOFTHETEST", "APCA_API_SECRET_KEY": "not-a-real-secret"}


class Timed(AlpacaChains):
    """When it was asked."""

    times: list[float]

    def answer(self, asked: Asked) -> Answer:
        self.times.append(time.monotonic())
        return super().answer(asked)


def test_chains_of_two_providers_are_whole_at_one_time_and_feeds_of_one_share_its_rate(
    tmp_path: Path, fresh_tables: QuestDB, free_port: Callable[[], int]
) -> None:
    port, sql = free_port(), fresh_tables.sql
    alpaca = Timed(("AAPL", "MSFT"), (*KEYS.values(),), lambda: NOW, STRIKES, False, EXPIRATIONS)  # type: ignore[arg-type]
    alpaca.times = []
    cboe = Cboe(("AAPL", "SPX"), lambda: NOW)
    with AskedSimulator(alpaca) as of_alpaca, AskedSimulator(cboe) as of_cboe:
        asked = {"provider": "alpaca", "channels": ["options"], "rest_url": of_alpaca.url}
        feeds = {
            "first": {**asked, "symbols": ["AAPL"]},
            "second": {**asked, "symbols": ["MSFT"], "interval": "1h"},
            "delayed": {
                "provider": "cboe", "channels": ["options"], "symbols": ["AAPL", "SPX"], "rest_url": of_cboe.url
            },
        }  # fmt: skip
        config = write_config(tmp_path, feeds, port, external(fresh_tables.sql_url))
        expected = {
            ("first", "AAPL"): CONTRACTS,
            ("second", "MSFT"): CONTRACTS,
            ("delayed", "AAPL"): 2 * 3 * 9,
            ("delayed", "SPX"): 2 * 3 * 9,
        }

        def stored() -> dict[tuple[str, str], int]:
            rows = sql.rows("SELECT feed, underlying, count() n FROM options_chain")
            return {(row["feed"], row["underlying"]): row["n"] for row in rows}

        with Recorder(config, metrics_port=port, **KEYS) as recorder:
            until(lambda: stored() == expected, "chains")
            assert recorder.get("/health")[0] == 200
            asked_for = {name: recorder.metric("recorder_poll_requests_total", name, "200") for name in feeds}
            assert recorder.end() == 0
    assert asked_for == {"first": QUESTIONS, "second": QUESTIONS, "delayed": 2}
    assert len(alpaca.times) == 2 * QUESTIONS
    assert alpaca.times[-1] - alpaca.times[0] > 0.9 * (len(alpaca.times) - 1) / PER_SECOND_MAX
    each = sql.rows(
        "SELECT feed, underlying, count_distinct(ts_event) times, count_distinct(ts_recv) answers, "
        "count_distinct(underlying_price::string) prices FROM options_chain"
    )
    assert {(r["feed"], r["underlying"]): (r["times"], r["answers"], r["prices"]) for r in each} == {
        ("first", "AAPL"): (1, 2, 1), ("second", "MSFT"): (1, 2, 1),
        ("delayed", "AAPL"): (1, 1, 1), ("delayed", "SPX"): (1, 1, 1),
    }  # fmt: skip
    for feed, symbol in (("first", "AAPL"), ("second", "MSFT")):
        found = sql.rows(f"SELECT symbol, bid, delta, greeks_source FROM options_chain WHERE feed = '{feed}'")
        sent = alpaca.legs(symbol)
        assert {row["symbol"].replace(" ", "") for row in found} == sent.keys()
        for row in found:
            leg = sent[row["symbol"].replace(" ", "")]
            assert row["bid"] == leg["latestQuote"]["bp"]
            assert (row["greeks_source"] == "provider") == ("greeks" in leg)
