"""``recorder demo``: a simulated exchange over real sockets, through the whole recorder, into the embedded QuestDB."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recorder.commands.run import duration
from recorder.values.config import Config
from recorder.values.errors import RecorderError

NEEDS_CONFIG = False
INTERRUPTED = 130  # as a shell reports Ctrl-C

PROVIDERS = ("coinbase", "binance", "kraken", "alpaca")
SYMBOLS = {
    "coinbase": ("BTC-USD", "ETH-USD", "SOL-USD"),
    "binance": ("BTC-USDT", "ETH-USDT", "SOL-USDT"),
    "kraken": ("BTC-USD", "ETH-USD", "SOL-USD"),
    "alpaca": ("AAPL", "MSFT", "NVDA", "SPY", "TSLA"),
}
KEYS = {
    "APCA_API_KEY_ID": "demo",
    "APCA_API_SECRET_KEY": "demo",
}  # the simulated Alpaca asks for some, like the real one
PORTS = {"http_port": 9000, "pg_port": 8812, "min_http_port": 9003}
PORTS_OTHER = range(20_000, 30_000)  # below the range that outgoing connections are given
REFRESH_S = 0.25
LINE_EVERY_S = 2.0  # without a terminal: a line now and then instead of a picture
CAUGHT_UP_BYTES = 1 << 20  # a backlog below this is what a burst makes
CAUGHT_UP_NS = 500_000_000  # and rows that wait no longer than this
CATCH_UP_TIMEOUT_S = 15.0  # a machine too slow for the rate never catches up: its figures say so
SIMULATOR_TIMEOUT_S = 60.0  # to print its addresses; 1 s on an idle machine

QUERIES = (
    (
        "Minute bars, with VWAP, of the busiest symbol",
        "SELECT ts_event AS minute, symbol, feed, first(price) AS open, max(price) AS high, min(price) AS low,\n"
        "       last(price) AS close, round(sum(size), 6) AS volume,\n"
        "       round(sum(price * size) / sum(size), 4) AS vwap\n"
        "FROM trades WHERE symbol = 'BTC-USD' AND feed = 'coinbase' AND ts_event > '{since}'\n"
        "SAMPLE BY 1m",
    ),
    (
        "What a buyer paid above the mid at the moment of each trade",
        "SELECT t.symbol, count() AS trades, round(avg(t.price - (q.bid + q.ask) / 2), 4) AS above_mid,\n"
        "       round(avg(q.ask - q.bid), 4) AS spread\n"
        "FROM (trades WHERE side = 'buy' AND ts_event > '{since}') t ASOF JOIN quotes q ON (symbol, feed)\n"
        "WHERE t.feed = 'binance' ORDER BY t.symbol",
    ),
    (
        "How late ticks arrive: receive time minus event time, in milliseconds",
        "SELECT feed, count() AS trades, round(approx_percentile((ts_recv - ts_event) / 1e6, 0.5, 3), 2) AS p50,\n"
        "       round(approx_percentile((ts_recv - ts_event) / 1e6, 0.99, 3), 2) AS p99\n"
        "FROM (SELECT feed, ts_recv::long AS ts_recv, ts_event::long AS ts_event FROM trades\n"
        "      WHERE ts_event > '{since}' AND ts_recv > ts_event) ORDER BY feed",
    ),
)


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo", help="a simulated exchange through the whole recorder into QuestDB; no account, no network"
    )
    parser.add_argument("--for", dest="seconds", type=duration, default=20.0, metavar="TIME", help="default 20s")
    parser.add_argument("--rate", type=float, default=1500.0, metavar="N", help="trades per second and provider (1500)")
    parser.add_argument("--dir", type=Path, default=None, metavar="FOLDER", help="where it keeps its data")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config) -> int:
    import uvloop

    with contextlib.suppress(KeyboardInterrupt):
        return uvloop.run(_demo(args))
    return INTERRUPTED


def _folder(args: argparse.Namespace) -> Path:
    import platformdirs

    return (args.dir or platformdirs.user_data_path("recorder") / "demo").resolve()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _ports(folder: Path) -> dict[str, int]:
    """The usual ports where they are free or our own server has them, others where somebody else does."""
    from recorder.shell.database import Database

    running = Database(folder / "questdb").status()
    if running.pid is not None:
        return {name: getattr(running, name) for name in PORTS}
    others = (port for port in PORTS_OTHER if _free(port))
    return {name: port if _free(port) else next(others) for name, port in PORTS.items()}


def _configuration(folder: Path, urls: dict[str, str]) -> Config:
    """Write a config.toml into the folder and load it: `recorder --config …` then works on the demo's data."""
    from recorder.feeds import PROVIDERS as INFOS
    from recorder.values.config import load

    ports = "\n".join(f"{name} = {port}" for name, port in _ports(folder).items())
    feeds = "\n".join(
        f'[[feeds]]\nname = "{name}"\nprovider = "{name}"\nsymbols = {json.dumps(SYMBOLS[name])}\n'
        f'schedule = "24/7"\nurl = "{url}"\n'
        for name, url in urls.items()
    )
    path = folder / "config.toml"
    path.write_text(
        f"# Written by `recorder demo`; its exchange is gone, its data is not.\n[questdb]\n{ports}\n"
        f"[journal]\nkeep_gb = 1\n[metrics]\nenabled = false\n\n{feeds}"
    )
    return load(path, {}, INFOS)


class Exchange:
    """The simulated exchange: ``recorder simulate`` in a process of its own, so that it costs the recorder nothing."""

    def __init__(self, folder: Path, rate: float) -> None:
        self.truth_path = folder / "truth.json"
        self._rate = rate
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> dict[str, str]:
        """Return the address of each provider."""
        symbols = [f"{name}={','.join(values)}" for name, values in SYMBOLS.items()]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "recorder", "simulate", "--synthetic", ",".join(PROVIDERS), "--rate", str(self._rate),
            *(part for text in symbols for part in ("--symbols", text)), "--truth", str(self.truth_path),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        urls: dict[str, str] = {}
        try:
            async with asyncio.timeout(SIMULATOR_TIMEOUT_S):
                while len(urls) < len(PROVIDERS):
                    line = (await self._process.stdout.readline()).decode()
                    if not line:
                        raise RecorderError(
                            "the simulated exchange ended before it listened; run `recorder simulate` to see why"
                        )
                    name, _, url = line.strip().partition(" ")
                    if name in PROVIDERS and url.strip().startswith("ws"):
                        urls[name] = url.strip()
        except TimeoutError:
            raise RecorderError(f"the simulated exchange gave no address within {SIMULATOR_TIMEOUT_S:.0f} s") from None
        return urls

    async def stop(self) -> dict[str, Any]:
        """Stop it and return what it really sent."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        await self._process.wait()
        return json.loads(self.truth_path.read_text()) if self.truth_path.exists() else {}

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


async def _demo(args: argparse.Namespace) -> int:
    from recorder.commands.record import Recording, wait_first
    from recorder.shell import log as logs
    from recorder.values.schedule import Schedule

    folder = _folder(args)
    folder.mkdir(parents=True, exist_ok=True)
    stop, hurry = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    exchange = Exchange(folder, args.rate)
    print(f"recorder demo: {', '.join(PROVIDERS)} simulated over real sockets; data in {folder}", flush=True)
    try:
        print(
            "starting the exchange and QuestDB (the first time: compiling kernels, fetching the server) …", flush=True
        )
        urls = await exchange.start()
        if stop.is_set():
            return INTERRUPTED
        config = _configuration(folder, urls)
        with open(os.devnull, "w") as quiet:
            logs.setup(config.log, file=True, stream=quiet)
            recording = Recording(config, logs.get("recorder"), lambda spec: Schedule(None), env=KEYS)
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1))
            await recording.start()
            view = asyncio.create_task(_show(recording, args.seconds))
            await _caught_up(recording, stop)
            if recording.sink is not None:
                await wait_first(stop.wait(), timeout_s=args.seconds)
            truth = await exchange.stop()
            stop.set()  # from here on a signal means that what is not stored yet is left in the journal
            drained = await recording.stop(hurry)
            view.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await view
        return await asyncio.to_thread(_conclude, recording, config, since, truth, drained)
    finally:
        exchange.kill()


async def _caught_up(recording: Any, stop: asyncio.Event) -> None:
    """Wait until QuestDB has what came while it was starting, say so, and begin the latencies anew."""
    from recorder.commands.record import wait_first

    engine, ready_at = None, 0.0
    while not stop.is_set():
        await wait_first(stop.wait(), timeout_s=REFRESH_S / 5)
        if recording.sink is None:
            if recording.database_error:
                break
            continue
        engine = recording.engine
        if not ready_at:
            ready_at = time.monotonic()
            waiting = recording.journal.end - engine.released
        behind_ns = time.time_ns() - (engine.waiting_since or time.time_ns())
        caught_up = engine.backlog < CAUGHT_UP_BYTES and behind_ns < CAUGHT_UP_NS and engine.rows_queryable
        if caught_up or time.monotonic() - ready_at > CATCH_UP_TIMEOUT_S:
            break
    if engine is not None:
        took = time.monotonic() - ready_at
        print(f"QuestDB is ready; {waiting / 1e6:.1f} MB journalled meanwhile were loaded in {took:.1f} s", flush=True)
        engine.decoded.clear()
        engine.queryable.clear()


async def _show(recording: Any, seconds: float) -> None:
    """Live figures until cancelled: a picture on a terminal, a line now and then elsewhere."""
    from recorder.commands.live import Figures

    figures = Figures(recording, seconds)
    if not sys.stdout.isatty():
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            print(figures.line(), flush=True)
    from rich.live import Live

    with Live(figures.table(), refresh_per_second=1 / REFRESH_S, transient=False) as live:
        while True:
            await asyncio.sleep(REFRESH_S)
            live.update(figures.table())


def _conclude(recording: Any, config: Config, since: str, truth: dict[str, Any], drained: bool) -> int:
    """Compare what was sent with what can be queried, then show where to look."""
    from recorder.shell.database.sql_client import connect

    if recording.sink is None:
        if recording.database_error:
            raise RecorderError(f"QuestDB could not be started: {recording.database_error}")
        print("stopped before QuestDB was ready; the frames that came are in the journal, the next demo loads them")
        return INTERRUPTED
    with connect(config) as client:
        right = True
        for line, same in _comparison(client, truth, since):
            print(line)
            right = right and same
        print()
        for title, query in QUERIES:
            _answer(client, title, query.format(since=since))
    path = config.questdb.dir.parent / "config.toml"
    print(f"SQL console  {config.questdb.sql}   (QuestDB keeps running)")
    print(f"more SQL     recorder --config {path} sql")
    print(f"stop it      recorder --config {path} db stop")
    print(f"the log      recorder --config {path} logs")
    return int(not (right and drained))


def _comparison(client: Any, truth: dict[str, Any], since: str) -> Iterator[tuple[str, bool]]:
    """A line a provider: trades sent, stored, lost, doubled; and whether that is as it should be."""
    rows = client.rows(
        f"SELECT feed, symbol, count() AS stored, count_distinct(trade_id) AS ids FROM trades "
        f"WHERE ts_event > '{since}' AND flags & 8 = 0 ORDER BY feed, symbol"
    )
    stored: dict[str, list[int]] = {}
    for row in rows:
        count = stored.setdefault(row["feed"], [0, 0])
        count[0] += row["stored"]
        count[1] += row["ids"]
    for provider, sent in truth.items():
        rows_stored, ids = stored.get(provider, [0, 0])
        lost, doubled = sent["trades"] - ids, rows_stored - ids
        mark = "✓" if not lost and not doubled else "✗"
        yield (
            f"{mark} {provider:<9} {sent['trades']:>9,} trades sent, {rows_stored:>9,} stored, "
            f"{lost} lost, {doubled} doubled",
            not lost and not doubled,
        )


def _answer(client: Any, title: str, query: str) -> None:
    from recorder.commands.sql import show

    print(f"-- {title}\n{query};")
    show(client, query, "table")
    print()
