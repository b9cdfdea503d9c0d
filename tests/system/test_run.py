"""`recorder run` as a user starts it: simulated providers, real sockets, a real QuestDB, real signals."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import QuestDB
from exchange_process import Exchange
from recorder_process import Recorder, external, until, write_config

SYMBOLS = {
    "coinbase": ["BTC-USD", "ETH-USD"],
    "coinbase-advanced": ["BTC-USD", "ETH-USD"],
    "binance": ["BTC-USDT", "ETH-USDT"],
    "binance-usdm": ["BTC-USDT-PERP", "ETH-USDT-PERP"],
    "kraken": ["BTC-USD", "ETH-USD"],
    "alpaca": ["AAPL", "SPY"],
}
OPTIONS = {
    "coinbase": {"provider": "coinbase"},
    "coinbase-advanced": {"provider": "coinbase", "api": "advanced"},
    "binance": {"provider": "binance"},
    "binance-usdm": {"provider": "binance", "market": "usdm"},
    "kraken": {"provider": "kraken"},
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


def test_every_row_of_four_providers_is_stored_exactly_once_and_no_secret_is_kept(
    start: Callable[..., Recorder], questdb: QuestDB, tmp_path: Path
) -> None:
    with (
        exchange("coinbase", "binance", "kraken", "alpaca") as first,
        exchange("coinbase-advanced", "binance-usdm", "alpaca", seed=2) as second,
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
