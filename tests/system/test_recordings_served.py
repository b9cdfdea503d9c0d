"""Recordings served as the provider's own WebSocket to a recorder over sockets, and replayed by the command.

Invariants
  complete  the trades of the recording are stored, each once, with the figures counted from its file, also by a
            recorder that is killed while they come
  the same  a replay of the file gives the rows that the recorder stored
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import QuestDB
from recorded import Recordings, canonical, trade_of
from recorder_process import Recorder, command, environment, external, until, write_config

from recorder.shell.captures import merge, open_capture
from recorder.shell.journal import Journal
from recorder.values.tables import BACKFILLED

USDM = "hftbacktest/usdm_btcusdt_20230404.gz"
COINBASE = "cryptofeed/COINBASE/2021-04-17_COINBASE.ws.28.0.gz"
STORED_AS = {USDM: "fut", COINBASE: "cb"}
DEADLINE_S = 300
SEED = 20261202
KILLS = 3
COLUMNS = "symbol, trade_id, ts_event::long ts, price, size, side, conditions, flags"
FIGURES = f"""
SELECT symbol, count() n, min(price) low, max(price) high, ksum(size) size, ksum(price * size) / ksum(size) vwap,
    min(ts_event)::long first_event, max(ts_event)::long last_event
FROM trades WHERE {{feed}} AND flags & {BACKFILLED} = 0
"""


@contextmanager
def served(*paths: Path, speed: str) -> Iterator[tuple[dict[str, str], subprocess.Popen[str]]]:
    """Provider → address of `recorder simulate`, and its process."""
    with subprocess.Popen(
        command("simulate", *paths, "--speed", speed), stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            assert process.stdout is not None
            yield dict(process.stdout.readline().split() for _ in paths), process
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def feed(name: str, provider: str, url: str, symbols: list[str], **more: Any) -> dict[str, Any]:
    rest = "http" + url.removeprefix("ws").partition(f"/{name}")[0] + f"/{name}"
    return {"provider": provider, "url": url, "rest_url": rest, "symbols": symbols, **more}


def assert_figures(recordings: Recordings, name: str, stored_as: str) -> None:
    found = {row["symbol"]: row for row in recordings.questdb.sql.rows(FIGURES.format(feed=f"feed = '{stored_as}'"))}
    assert set(found) == {symbol for symbol, facts in recordings.symbols(name).items() if facts["n"]}
    for symbol, row in found.items():
        counted, where = recordings.symbols(name)[symbol], f"{name} {symbol}"
        assert row["n"] == counted["n"], where
        assert (row["low"], row["high"]) == (float(counted["min_price"]), float(counted["max_price"])), where
        assert row["size"] == pytest.approx(float(counted["sum_size"]), rel=1e-14), where
        assert row["vwap"] == pytest.approx(float(counted["vwap"]), rel=1e-14), where
        times = (counted["first_exchange_ns"], counted["last_exchange_ns"])
        assert (row["first_event"], row["last_event"]) == times, where


@pytest.mark.timeout(900)  # several processes one after the other, which a busy machine starts slowly
def test_recordings_served_to_a_recorder_that_is_killed_give_their_figures_and_the_rows_of_a_replay(
    tmp_path: Path, fresh_tables: QuestDB, shared_data: Path, free_port: Callable[[], int]
) -> None:
    """Each connection is served from the recording's start: what was stored before a kill comes a second time."""
    recordings, rng, port = Recordings(fresh_tables, shared_data), random.Random(SEED), free_port()
    sql = fresh_tables.sql
    trades = {name: recordings.facts[name]["trades"]["total"] for name in (USDM, COINBASE)}
    with served(*(shared_data / name for name in (USDM, COINBASE)), speed="40") as (urls, process):
        feeds = {
            "fut": feed(
                "binance-usdm", "binance", urls["binance-usdm"], ["BTC-USDT-PERP"], market="usdm", trades="trade"
            ),
            "cb": feed("coinbase", "coinbase", urls["coinbase"], list(recordings.symbols(COINBASE)), api="exchange"),
        }
        path = write_config(tmp_path, feeds, port, external(fresh_tables.sql_url), repair={"enabled": False})

        def frames(recorder: Recorder, least: int, name: str = "fut") -> bool:
            return recorder.metric("recorder_frames_total", name) >= least

        for least in sorted(rng.sample(range(500, 8000, 500), KILLS)):
            with Recorder(path, metrics_port=port) as recorder:
                until(partial(frames, recorder, least), f"{least} frames", DEADLINE_S)
                recorder.kill()
        kinds = {name: recordings.facts[name]["messages_by_type"] for name in (USDM, COINBASE)}
        asked = {
            stored_as: sum(
                kinds[name].get(kind, 0) for kind in ("trade", "bookTicker", "match", "last_match", "ticker")
            )
            for name, stored_as in STORED_AS.items()
        }
        with Recorder(path, metrics_port=port) as recorder:
            for stored_as, count in asked.items():
                until(partial(frames, recorder, count, stored_as), f"{count} frames of {stored_as}", DEADLINE_S)
            assert recorder.end() == 0, recorder.text()
        assert process.poll() is None
    for name, stored_as in STORED_AS.items():
        assert_figures(recordings, name, stored_as)
    assert sql.value("SELECT count() FROM rejected") == 0
    assert sql.value("SELECT count() FROM gaps WHERE kind = 'trade_id'") == 0
    query = f"SELECT {COLUMNS} FROM trades WHERE flags & {BACKFILLED} = 0 ORDER BY symbol, trade_id"
    live = sql.rows(query)
    assert len(live) == sum(trades.values())

    fresh_tables.clear()
    replayed = subprocess.run(
        command("replay", "--config", path, "--json", *(shared_data / name for name in (USDM, COINBASE))),
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert replayed.returncode == 0, replayed.stderr
    assert sql.rows(query) == live


def test_what_no_client_asked_for_is_told_when_the_simulator_ends(shared_data: Path) -> None:
    """A recording of an older protocol: today's client subscribes to nothing that is in it."""
    import asyncio

    import websockets

    async def listen(url: str) -> None:
        async with asyncio.timeout(DEADLINE_S), websockets.connect(url) as ws:
            await ws.send(json.dumps({"op": "subscribe", "args": ["publicTrade.BTCUSD"]}))
            await ws.recv()
            await asyncio.sleep(1)

    path = shared_data / "cryptofeed/BYBIT/2021-04-17_BYBIT.ws.26.0.gz"
    with subprocess.Popen(
        command("simulate", path, "--once", "--speed", "max"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        asyncio.run(listen(process.stdout.readline().split()[1]))
        _, told = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "bybit-inverse: not sent, as no client asked for it" in told
    assert "trade BTCUSD (" in told


def test_a_damaged_recording_is_stored_as_far_as_it_can_be_read_and_the_command_fails(
    tmp_path: Path, fresh_tables: QuestDB, shared_data: Path, free_port: Callable[[], int]
) -> None:
    """Lines overwritten and the end cut off: every whole trade before the cut is queryable, and the exit code is 1."""
    recordings, rng = Recordings(fresh_tables, shared_data), random.Random(SEED)
    lines = gzip.decompress((shared_data / USDM).read_bytes()).splitlines()[:6000]
    damaged = [b"#" * 20 if rng.random() < 0.01 else line for line in lines]
    packed = gzip.compress(b"\n".join(damaged))
    (cut := tmp_path / "usdm_cut.gz").write_bytes(packed[: len(packed) * 3 // 4])
    (whole := tmp_path / "usdm_whole").write_bytes(b"\n".join(damaged))
    config = write_config(tmp_path, {}, free_port(), external(fresh_tables.sql_url))
    expected = [trade[1] for line in damaged if line[:1].isdigit() for trade in [trade_of(line)] if trade is not None]
    symbol = canonical(recordings.specs[USDM], "BTCUSDT")
    for path, words in ((cut, "cut short after line"), (whole, "lines do not fit and were passed over")):
        fresh_tables.clear()
        done = subprocess.run(
            command("replay", "--config", config, path), capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 1
        assert words in done.stderr
        assert f"recorder: {path}:" in done.stderr
        assert "Traceback" not in done.stderr
        assert "frames →" in done.stdout
        stored = [
            row["trade_id"] for row in fresh_tables.sql.rows("SELECT trade_id FROM trades ORDER BY ts_event, trade_id")
        ]
        assert set(stored) == set(expected[: len(stored)])
        assert len(stored) > len(expected) // 2
        gone = set(range(min(stored), max(stored))) - set(stored)
        gaps = fresh_tables.sql.rows("SELECT symbol, from_id, to_id FROM gaps WHERE kind = 'trade_id'")
        assert {i for gap in gaps for i in range(gap["from_id"], gap["to_id"] + 1)} == gone
        assert {gap["symbol"] for gap in gaps} == {symbol}
    assert len(stored) == len(expected)


def test_the_command_takes_provider_market_and_api_from_each_recording(
    tmp_path: Path, fresh_tables: QuestDB, shared_data: Path, free_port: Callable[[], int]
) -> None:
    """Without --provider and --option what the recordings say of themselves holds, journals included."""
    recordings = Recordings(fresh_tables, shared_data)
    names = [
        "cryptofeed/BINANCE_DELIVERY/2021-07-22_BINANCE_DELIVERY.ws.1.0.gz",
        "cryptofeed/BINANCE_FUTURES/2021-07-22_BINANCE_FUTURES.ws.1.0.gz",
        "cryptofeed/BYBIT/2021-04-17_BYBIT.ws.26.0.gz",
        "cryptofeed/KRAKEN/2021-04-17_KRAKEN.ws.48.0.gz",
        "cryptofeed/OKX/2022-05-13_OKX.ws.1.0.gz",
    ]
    config = write_config(tmp_path, {}, free_port(), external(fresh_tables.sql_url))
    whole = merge(open_capture(shared_data / name) for name in names)
    with Journal.open(tmp_path / "journal", compress=False) as journal:
        sources = [journal.source(spec) for spec in whole.specs]
        for index, kind, ts_recv, payload in whole:
            journal.append(sources[index], kind, ts_recv, payload)
    expected = {
        (open_capture(shared_data / name).specs[0].name, symbol): facts["n"]
        for name in names
        for symbol, facts in recordings.symbols(name).items()
        if facts["n"]
    }
    for paths in ([shared_data / name for name in names], [tmp_path / "journal"]):
        fresh_tables.clear()
        done = subprocess.run(
            command("replay", "--config", config, *paths), capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, done.stderr
        found = fresh_tables.sql.rows(f"SELECT feed, symbol, count() n FROM trades WHERE flags & {BACKFILLED} = 0")
        assert {(row["feed"], row["symbol"]): row["n"] for row in found} == expected
        assert fresh_tables.sql.value("SELECT count() FROM rejected") == 0
