"""Declared feeds through everything: real sockets and files, the journal, the pipeline, rows in a real QuestDB."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from conftest import QuestDB
from event_server import CHUNKED, HOLD, EventServer, chunk
from plain_server import serving
from recorder_process import Recorder, external, until, write_config
from test_connection import Told, connected, feed_of, reached
from test_overlap import folded

from recorder.commands.feed_runs import check_feeds
from recorder.core.market import ID, KIND, PRICE, SIDE, SIZE, SYMBOL, TRADE, TS
from recorder.feeds import PROVIDERS
from recorder.shell.journal import Journal
from recorder.shell.simulator import Simulator
from recorder.values.config import build
from recorder.values.feed import FeedSpec

CONFIG = Path(__file__).resolve().parent.parent / "config.toml"
COINBASE = {
    "kind": "websocket", "ids": "contiguous", "names": {"BTC": "BTC-USD", "ETH": "ETH-USD"},
    "subscribe": ['{"type":"subscribe","product_ids":{symbols},"channels":["matches"]}'],
    "acknowledged": {"type": "subscriptions"}, "ignore": [{"type": ["subscriptions", "last_match"]}],
    "trades": {
        "where": {"type": "match"}, "symbol": "product_id", "time": "time", "time_unit": "rfc3339",
        "price": "price", "size": "size", "id": "trade_id", "side": "side", "buy": "buy", "sell": "sell",
        "side_of": "maker",
    },
}  # fmt: skip


def test_a_declared_websocket_records_what_happened(journal: Journal, happened: list[np.ndarray]) -> None:
    """Coinbase's protocol, which knows nothing of being declared: every trade of the simulated exchange, once."""
    rows: dict[str, Any] = {}

    async def run() -> None:
        symbols = ("BTC-USD", "ETH-USD")
        async with Simulator(["coinbase"], symbols=symbols, rate=5000, total=1000) as place:
            spec = FeedSpec(
                name="f", provider="generic", symbols=("BTC", "ETH"), channels=("trades",), url=place.url("coinbase"),
                options={"generic": json.dumps(COINBASE)},
            )  # fmt: skip
            async with connected(feed_of(spec), journal, Told()) as connection:
                await reached(lambda: connection.ready)
                await place.finished()
                await reached(lambda: rows.update(folded(journal)) or len(rows["trades"]) >= 1000)

    asyncio.run(run())
    events, names = np.concatenate(happened), rows["symbols"].tolist()
    unit = 1000  # Coinbase sends microseconds
    assert sorted(
        (names[r["series"]], r["ts_event"], r["trade_id"], r["price"], r["size"], r["side"]) for r in rows["trades"]
    ) == sorted(
        (("BTC", "ETH")[e[SYMBOL]], e[TS] // unit * unit, e[ID], e[PRICE] / 100, e[SIZE] / 10**6, 1 + e[SIDE])
        for e in events[events[:, KIND] == TRADE].tolist()
    )
    assert "rejected" not in rows
    assert "gaps" not in rows


def examples() -> dict[str, Any]:
    """The declarations that config.toml explains, by name."""
    lines = CONFIG.read_text().partition("is stored once.\n")[2].splitlines()
    text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)
    return {feed["name"]: feed for feed in tomllib.loads(text)["feeds"]}


def test_the_examples_of_the_configuration_are_right_and_every_key_is_explained(tmp_path: Path) -> None:
    from recorder.feeds.generic import declared

    feeds = list(examples().values())
    config = build({"feeds": feeds}, {}, PROVIDERS, base=tmp_path, source="config.toml")
    check_feeds(config.feeds)
    assert [spec.name for spec in config.feeds] == ["lasts", "fidelity"]
    words = set(re.findall(r"[a-z_]+", CONFIG.read_text()))
    known = {*declared._ANYWHERE, *declared.SETTINGS, *(key for keys in declared._KEYS.values() for key in keys)}
    assert known - words == set()


FIDELITY = """\ufeff

Run Date,Action,Symbol,Description,Type,Price ($),Quantity,Commission ($),Amount ($),Settlement Date
06/10/2024,YOU BOUGHT APPLE INC (AAPL) (Cash),AAPL,APPLE INC,Cash,193.12,10,,-1931.20,06/11/2024
06/10/2024,DIVIDEND RECEIVED MICROSOFT CORP (MSFT) (Cash),MSFT,MICROSOFT CORP,Cash,,0,,7.50,
06/12/2024,"YOU SOLD APPLE INC (AAPL) (Cash)",AAPL,APPLE INC,Cash,"213.07",-4,,852.28,06/13/2024

"The data and information in this spreadsheet is provided to you solely for your use."
"Date downloaded 06/13/2024 8:00 am"
"""


@contextmanager
def rest(body: Callable[[str], bytes]) -> Iterator[str]:
    with serving(lambda path, headers: (200 if headers.get("X-Api-Key") == "k3y" else 401, {}, body(path))) as url:
        yield url


@contextmanager
def streaming(*scripts: list[bytes | None]) -> Iterator[EventServer]:
    """An event server in a thread of its own."""
    server, loop = EventServer(*scripts), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_events_answers_and_files_become_rows_that_can_be_queried(
    tmp_path: Path, fresh_tables: QuestDB, free_port: Callable[[], int]
) -> None:
    lasts, fidelity = examples()["lasts"], examples()["fidelity"]
    events = [
        b'id: 1\ndata: [{"symbol":"AAPL","price":189.37,"size":100,"time":1718000000123}]\n\n: keep-alive\n\n',
        b'id: 2\ndata: [{"symbol":"IBM","price":168.4,"size":7,"time":1718000000124},\n'
        b'data: {"symbol":"AAPL","price":"?"}]\n\n',
    ]
    bars = "time,open,high,low,close,volume\n2024-06-10,1,3,1,2,{0}\n2024-06-11,2,4,2,3,{0}\n"
    polled = {
        "name": "asked", "provider": "generic", "symbols": ["AAPL", "MSFT"], "schedule": "24/7",
        "generic": {
            "kind": "poll", "format": "csv", "every_s": 1, "per_second_max": 50,
            "headers_from_environment": {"X-Api-Key": "ASKED_KEY"},
            "bars": {
                "time": "time", "time_unit": "%Y-%m-%d", "timeframe": "1d",
                **{name: name for name in ("open", "high", "low", "close", "volume")},
            },
        },
    }  # fmt: skip
    drop = tmp_path / "fidelity"
    drop.mkdir()
    (drop / "History_for_Account_X1.csv").write_text(FIDELITY)
    with (
        streaming([CHUNKED, chunk(events[0])], [CHUNKED, chunk(events[0]), chunk(events[1]), HOLD]) as server,
        rest(lambda path: bars.format(5 if "AAPL" in path else 6).encode()) as address,
    ):
        lasts |= {"url": f"{server.url}?symbols={{symbols}}", "schedule": "24/7"}
        polled["url"] = address + "/daily?symbol={symbol}"
        port = free_port()
        config = write_config(tmp_path, {}, port, external(fresh_tables.sql_url))
        env = {
            "RECORDER_FEEDS": json.dumps([lasts, fidelity, polled]), "ASKED_KEY": "k3y", "SSE_EXAMPLE_TOKEN": "t0ken",
        }  # fmt: skip
        with Recorder(config, metrics_port=port, **env) as recorder:
            recorder.wait_event("feed.connected", 3)
            recorder.wait_event("file.recorded", rows=2)
            until(lambda: recorder.metric("recorder_frames_total", "lasts") >= 3, "events")
            until(lambda: recorder.metric("recorder_frames_total", "asked") >= 4, "answers of two rounds")
            assert recorder.end() == 0, recorder.text()
        assert server.heads[1]["last-event-id"] == "1"
        assert server.heads[0]["authorization"] == "t0ken"
    fresh_tables.wait_applied()
    query = "SELECT feed, symbol, price, size, ts_event FROM trades ORDER BY feed, ts_event"
    day = "2024-06-{}T04:00:00.000000000Z"
    assert [tuple(row) for row in fresh_tables.sql.query(query).rows] == [
        ("fidelity", "AAPL", 193.12, 10.0, day.format(10)),
        ("fidelity", "AAPL", 213.07, 4.0, day.format(12)),
        ("lasts", "AAPL", 189.37, 100.0, "2024-06-10T06:13:20.123000000Z"),
        ("lasts", "IBM", 168.4, 7.0, "2024-06-10T06:13:20.124000000Z"),
    ]
    query = "SELECT symbol, volume, ts_event FROM bars WHERE feed = 'asked' ORDER BY symbol, ts_event"
    assert [tuple(row) for row in fresh_tables.sql.query(query).rows] == [
        (symbol, volume, f"2024-06-{number}T00:00:00.000000000Z")
        for symbol, volume in (("AAPL", 5.0), ("MSFT", 6.0))
        for number in (10, 11)
    ]
    (rejected,) = fresh_tables.sql.query("SELECT feed, reason FROM rejected").rows
    assert tuple(rejected) == ("lasts", "time is None")
    written = b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir() if path.is_file())
    assert b"k3y" not in written + recorder.text().encode()
    assert b"t0ken" not in written + recorder.text().encode()
