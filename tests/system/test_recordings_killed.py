"""Recordings in the journal of a recorder that is killed again and again: SQL gives the figures counted from the files.

expected.json is what others counted. The rows are those of a recorder whose process was killed while it stored them,
five times, at places chosen by how many rows were queryable.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import QuestDB
from recorded import Recordings, short
from recorder_process import Recorder, external, until, write_config

from recorder.shell.captures import merge, open_capture
from recorder.shell.journal import Journal
from recorder.values.tables import BACKFILLED

NAMES = (
    "hftbacktest/spot_btcusdt_20240808.gz",
    "hftbacktest/usdm_btcusdt_20240808.gz",
    "hftbacktest/cm_btcusd_perp_20240808.gz",
    "cryptofeed/COINBASE/2021-04-17_COINBASE.ws.28.0.gz",
    "cryptofeed/BINANCE/2021-04-05_BINANCE-b38f7c.0.gz",
)
KILLS = 5
SEED = 20261124
FIGURES = f"""
SELECT symbol, count() n, min(price) low, max(price) high, ksum(size) size, ksum(price * size) / ksum(size) vwap,
    min(ts_event)::long first_event, max(ts_event)::long last_event
FROM trades WHERE {{feed}} AND flags & {BACKFILLED} = 0
"""


def journalled(folder: Path, recordings: Recordings) -> int:
    """The journal of a recorder that received all of them at once and stored nothing. Returns its frames."""
    parts = [open_capture(recordings.folder / name) for name in NAMES]
    for part, name in zip(parts, NAMES, strict=True):
        part.specs[:] = [recordings.specs[name]]
    whole = merge(parts)
    with Journal.open(folder / "journal", compress=False) as journal:
        sources = [journal.source(spec) for spec in whole.specs]
        count = 0
        for source, kind, ts_recv, payload in whole:
            journal.append(sources[source], kind, ts_recv, payload)
            count += 1
    return count


def test_the_figures_of_recordings_outlive_kills(
    tmp_path: Path, fresh_tables: QuestDB, shared_data: Path, free_port: Callable[[], int]
) -> None:
    recordings, rng = Recordings(fresh_tables, shared_data), random.Random(SEED)
    frames = journalled(tmp_path, recordings)
    sql, port = fresh_tables.sql, free_port()
    idle = {"provider": "coinbase", "symbols": ["BTC-USD"], "url": f"ws://127.0.0.1:{free_port()}"}  # nobody listens
    batch = {"rows_max": 1000}  # many small blocks, to be killed amid
    path = write_config(tmp_path, {"idle": idle}, port, external(fresh_tables.sql_url), batch=batch)

    def stored() -> int:
        return sum(int(sql.value(f"SELECT count() FROM {table}")) for table in ("trades", "quotes"))

    def reached(rows: int) -> bool:
        return stored() >= rows

    facts = {name: recordings.facts[name] for name in NAMES}
    trades = {name: sum(each["n"] for each in recordings.symbols(name).values()) for name in NAMES}
    for stop in sorted(rng.sample(range(1000, frames // 3, 1000), KILLS)):
        with Recorder(path, metrics_port=port) as recorder:
            until(partial(reached, stop), f"{stop} rows")
            recorder.kill()
    before = stored()
    with Recorder(path, metrics_port=port) as recorder:
        recorder.wait_event("feed.unreachable", feed="idle")
        until(lambda: recorder.metric("recorder_backlog_bytes") == 0, "everything stored")
        assert recorder.end() == 0
    assert before < stored()  # the last kill was amid

    for name in NAMES:
        found = {row["symbol"]: row for row in recordings.rows(FIGURES, name)}
        assert sum(row["n"] for row in found.values()) == trades[name] == facts[name]["trades"]["total"], name
        for symbol, row in found.items():
            counted, where = recordings.symbols(name)[symbol], f"{short(name)} {symbol}"
            assert row["n"] == counted["n"], where
            assert (row["low"], row["high"]) == (float(counted["min_price"]), float(counted["max_price"])), where
            times = (counted["first_exchange_ns"], counted["last_exchange_ns"])
            assert (row["first_event"], row["last_event"]) == times, where
            assert row["size"] == pytest.approx(float(counted["sum_size"]), rel=1e-14), where
            assert row["vwap"] == pytest.approx(float(counted["vwap"]), rel=1e-14), where
        sent = sum(facts[name]["messages_by_type"].get(kind, 0) for kind in ("bookTicker", "ticker"))
        [quotes] = recordings.rows("SELECT count() n FROM quotes WHERE {feed}", name)
        assert quotes["n"] == sent, name
    assert sql.value("SELECT count() FROM rejected") == 0
