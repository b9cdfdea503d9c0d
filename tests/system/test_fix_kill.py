"""FIX through the whole recorder into a real QuestDB: killed amid, started again, nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import QuestDB
from recorder_process import Recorder, external, until, write_config
from undisturbed import assert_equal, undisturbed

from recorder.shell.simulator.fix import FixSimulator
from recorder.values.config import KernelsConfig

USER, PASSWORD = "someone", "s3cr3t-OfTheTests"


@contextmanager
def counterparty(**settings: Any) -> Iterator[FixSimulator]:
    """A simulated counterparty in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    place = FixSimulator(**settings)
    asyncio.run_coroutine_threadsafe(place.start(), loop).result(60)
    try:
        yield place
    finally:
        asyncio.run_coroutine_threadsafe(place.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)


def test_a_recorder_killed_amid_stores_what_it_received_once(
    fresh_tables: QuestDB, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    rules = {"user": USER, "password": PASSWORD, "replay": True}
    with counterparty(rate=300, rules=rules) as place:
        feed = {
            "provider": "fix", "url": place.url, "sender": "RECORDER", "target": "FEED", "numbers": "keep",
            "symbols": ["EUR-USD", "GBP/USD", "AAPL"], "names": "EUR-USD=EUR/USD",
        }  # fmt: skip
        port = free_port()
        config = write_config(tmp_path, {"venue": feed}, port, external(fresh_tables.sql_url))
        keys = {"FIX_USERNAME": USER, "FIX_PASSWORD": PASSWORD}

        def frames(recorder: Recorder) -> float:
            return recorder.metric("recorder_frames_total", "venue")

        for more in (150, 300):
            with Recorder(config, metrics_port=port, **keys) as recorder:
                until(lambda r=recorder, n=more: frames(r) > n, "frames")
                recorder.kill()
        with Recorder(config, metrics_port=port, **keys) as recorder:
            until(lambda: frames(recorder) > 100, "frames")
            until(lambda: recorder.metric("recorder_rows_queryable_total") > 0, "rows")
            assert recorder.end() == 0, recorder.text()
            assert PASSWORD not in recorder.text()
    fresh_tables.wait_applied()
    assert_equal(fresh_tables, undisturbed(tmp_path / "journal", KernelsConfig()))
    rows = fresh_tables.sql.query("SELECT symbol, trade_id, count() n FROM trades").rows
    assert len(rows) > 300
    assert {row[2] for row in rows} == {1}
    assert {row[0] for row in rows} == {"EUR-USD", "GBP/USD", "AAPL"}
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size < 100 << 20]
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
