"""The drill itself: a simulated exchange, a recorder process, a proxy before the database, and fault after fault."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from recorder.commands.coverage import completeness
from recorder.core.market import FIRST_ID
from recorder.shell.database.sql_client import SqlClient, connect
from recorder.shell.simulator import Simulator
from recorder.shell.simulator.proxy import Proxy
from recorder.shell.sink.http_client import parse_conf, parse_url
from recorder.values.config import Config
from recorder.values.errors import DatabaseError, RecorderError

FEED = "drill"
PREFIX = "drill_"  # of its tables
START_TIMEOUT_S = 300.0  # of the recorder process; the first one of an installation compiles for a minute or two
RECOVER_TIMEOUT_S = 90.0  # after a fault has ended: half a minute of judging a silence, twice over, and repair
DETECT_TIMEOUT_S = 60.0
POLL_S = 0.1
CALM_S = 2.0  # of a fault that goes on for a while
LEARN_S = 40.0  # undisturbed: a feed must be known for half a minute before its silence says something
DROPPED, DOUBLED, TURNED = 25, 200, 200  # trades
GAP = ("a row of gaps",)  # told by the table: the log says it at leisure, for many at once


@dataclass
class Step:
    """What one fault did. Times in seconds; None: not measured, or never."""

    name: str
    happened: int = 0  # trades, from its beginning until everything was queryable
    detected_s: float | None = None  # from its beginning until the recorder's log told it
    recovered_s: float | None = None  # from its end until everything that happened by then was stored once
    passed: bool = False


Fault = Callable[[], Awaitable[None]]


class Drill:
    """One drill. ``run`` gives the report; ``say`` is told a line for each step."""

    def __init__(
        self, config: Config, folder: Path, provider: str, symbols: tuple[str, ...], rate: float, outage_s: float,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.config, self.folder, self.provider, self.symbols = config, folder, provider, symbols
        self.outage_s, self.say = outage_s, say
        self.simulator = Simulator([provider], rate=rate, symbols=symbols)
        self.log_path = folder / "log" / "recorder.log"
        self._process: asyncio.subprocess.Process | None = None
        self._proxies: list[Proxy] = []
        self._read = 0  # bytes of the log that were looked at

    async def run(self) -> dict[str, Any]:
        """Raises RecorderError when not even an undisturbed recording works."""
        with ExitStack() as proxies:
            async with self.simulator:
                self._configure(proxies)
                self.say("starting an exchange and a recorder (the first time: compiling kernels, a minute or two) …")
                try:
                    await self._start()
                    steps = [await self._step(*fault) for fault in self._faults()]
                    return await self._report(steps)
                finally:
                    await self._stop()

    # What goes wrong.

    def _faults(self) -> Iterator[tuple[str, Fault, tuple[str, ...]]]:
        """(what, how, events of the log that tell it)."""
        simulator, provider = self.simulator, self.provider

        async def nothing() -> None:
            await asyncio.sleep(LEARN_S)

        async def cut() -> None:
            simulator.cut(provider)

        async def refuse() -> None:
            simulator.refuse(provider, 3)
            simulator.cut(provider)

        async def drop() -> None:
            simulator.drop(provider, DROPPED)

        async def twice() -> None:
            simulator.duplicate(provider, DOUBLED)
            simulator.reorder(provider, TURNED)
            simulator.garbage(provider)
            await asyncio.sleep(CALM_S)

        async def mute() -> None:
            simulator.mute(provider)

        yield "undisturbed", nothing, ()
        yield "connection cut", cut, ("feed.disconnected",)
        yield "connection refused", refuse, ("feed.disconnected", "feed.unreachable")
        yield f"{DROPPED} trades never sent", drop, GAP
        yield f"{DOUBLED} trades twice, {TURNED} out of order, a garbled frame", twice, ()
        yield "connection open, nothing comes", mute, ("feed.judged_dead", "feed.disconnected")
        yield "recorder killed (SIGKILL)", self._kill, ()
        if self._proxies:
            yield f"database away for {self.outage_s:g} s", self._outage, ("sink.retried", "sink.failing")
            yield "database answers cut short", self._truncate, ()

    async def _kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        await self._start()

    async def _outage(self) -> None:
        for proxy in self._proxies:
            proxy.refuse()
            proxy.cut(reset=True)
        await asyncio.sleep(self.outage_s)
        for proxy in self._proxies:
            proxy.accept()

    async def _truncate(self) -> None:
        for _ in range(3):
            for proxy in self._proxies:
                proxy.down.truncate(20)
            await asyncio.sleep(CALM_S / 4)

    # The recorder.

    def _configure(self, proxies: ExitStack) -> None:
        questdb = self.config.questdb
        ilp, sql = parse_conf(questdb.ilp), parse_url(questdb.sql)
        lines = [f"ilp = {json.dumps(questdb.ilp)}", f"sql = {json.dumps(questdb.sql)}"]
        if not ilp.secure and not sql.secure:  # a certificate is not ours to show: then the database stays undisturbed
            self._proxies = [proxies.enter_context(Proxy((each.host, each.port))) for each in (ilp, sql)]
            lines = [
                f'ilp = "http::addr=127.0.0.1:{self._proxies[0].port};"',
                f'sql = "http://127.0.0.1:{self._proxies[1].port}"',
            ]
        journal, batch = self.config.journal, self.config.batch
        (self.folder / "config.toml").write_text(
            "\n".join(
                [
                    "[journal]", f"segment_mb = {journal.segment_mb}", f"fsync_ms = {journal.fsync_ms}",
                    "[questdb]", "embedded = false", *lines, f'prefix = "{PREFIX}"', f'encoder = "{questdb.encoder}"',
                    *([f"user = {json.dumps(questdb.user)}"] if questdb.user else []),
                    "[batch]", f"window_ms = {batch.window_ms}", f"rows_max = {batch.rows_max}",
                    "[metrics]", "enabled = false",
                    "[[feeds]]", f'name = "{FEED}"', f'provider = "{self.provider}"', 'schedule = "24/7"',
                    f"symbols = {json.dumps(self.symbols)}", f'url = "{self.simulator.url(self.provider)}"',
                    f'rest_url = "{self.simulator.rest_url(self.provider)}"', 'channels = ["trades", "quotes"]', "",
                ]
            )
        )  # fmt: skip

    async def _start(self) -> None:
        """Start the recorder; it is up when the exchange has a subscriber again."""
        with (self.folder / "stderr").open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "recorder", "--config", str(self.folder / "config.toml"), "run",
                stdout=asyncio.subprocess.DEVNULL, stderr=stderr, env=environment(self.config), start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.simulator.clients(self.provider):
            status = self._process.returncode
            if status is not None or time.monotonic() > deadline:
                why = f"ended with status {status}" if status is not None else f"not connected in {START_TIMEOUT_S:g} s"
                said = (self.folder / "stderr").read_text(errors="replace")[-2000:].strip()
                raise RecorderError(f"the recorder of the drill did not start: {why}; it said: {said or 'nothing'}")
            await asyncio.sleep(POLL_S)

    async def _stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), RECOVER_TIMEOUT_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    # Measuring.

    async def _step(self, name: str, fault: Fault, told_by: tuple[str, ...]) -> Step:
        step, before = Step(name), self._happened()
        list(self._log_lines())  # what was told so far is not about this
        began = time.time_ns()
        telling = asyncio.create_task(self._told(told_by, began)) if told_by else None
        await fault()
        ended = time.monotonic()
        if telling is not None:
            step.detected_s = await telling
            ended = max(ended, began_monotonic(began, step.detected_s))
        step.passed = await self._caught_up(self._happened()) and (telling is None or step.detected_s is not None)
        step.recovered_s = round(time.monotonic() - ended, 2) if step.passed else None
        step.happened = sum(self._happened().values()) - sum(before.values())
        detected = "" if step.detected_s is None else f"told after {step.detected_s:.2f} s, "
        outcome = f"complete {step.recovered_s:.2f} s later" if step.passed else "NOT RECOVERED"
        self.say(f"{'✓' if step.passed else '✗'} {name:<58} {step.happened:>8,} trades, {detected}{outcome}")
        return step

    def _happened(self) -> dict[str, int]:
        """Trades so far by symbol, delivered or not."""
        return {symbol: truth.generated for symbol, truth in self.simulator.truth[self.provider].symbols.items()}

    async def _told(self, events: tuple[str, ...], began: int) -> float | None:
        """Seconds from ``began`` until the recorder's log tells one of ``events``."""
        deadline = time.monotonic() + DETECT_TIMEOUT_S
        while time.monotonic() < deadline:
            if events == GAP:
                noticed = await asyncio.to_thread(self._gap_noticed, began)
                if noticed is not None:
                    return round((noticed - began) / 1e9, 3)
            elif any(line.get("event") in events for line in self._log_lines()):
                return round((time.time_ns() - began) / 1e9, 2)
            await asyncio.sleep(POLL_S / 4)
        return None

    def _gap_noticed(self, since: int) -> int | None:
        """When the first gap in ids after ``since`` was noticed, ns."""
        with connect(self.config) as client:
            after = f"kind = 'trade_id' AND ts_recv > {since}::timestamp_ns"
            return client.value(f"SELECT min(ts_recv)::long FROM {PREFIX}gaps WHERE {after}")

    def _log_lines(self) -> Iterator[dict[str, Any]]:
        """Lines of the recorder's log that were not looked at yet."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError:
                continue

    async def _caught_up(self, wanted: dict[str, int]) -> bool:
        """Wait until so many trades of each symbol are stored, each once."""
        deadline = time.monotonic() + RECOVER_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                found = await asyncio.to_thread(self._stored, wanted)
            except (OSError, DatabaseError):
                found = {}
            if all(found.get(symbol, (0, 0))[1] >= count for symbol, count in wanted.items()):
                return all(stored == distinct for stored, distinct, *_ in found.values())
            await asyncio.sleep(POLL_S)
        return False

    def _stored(self, happened: dict[str, int]) -> dict[str, tuple[int, int, float, float]]:
        """By symbol: rows, distinct ids, their size and turnover, of the trades that had happened."""
        with connect(self.config) as client:
            return {symbol: _sums(client, symbol, FIRST_ID + count - 1) for symbol, count in happened.items()}

    async def _report(self, steps: list[Step]) -> dict[str, Any]:
        """Hold everything that happened against everything stored, ids and values."""
        truth = self.simulator.truth[self.provider].as_dict()["symbols"]  # it goes on; this is what must be there
        wanted = {name: each["generated"] for name, each in truth.items()}
        await self._caught_up(wanted)
        await self._stop()
        stored = await asyncio.to_thread(self._stored, wanted)
        sent, rows = sum(each["generated"] for each in truth.values()), sum(each[0] for each in stored.values())
        ids = sum(each[1] for each in stored.values())
        equal = all(
            abs(stored[name][2] - float(each["size"])) <= 1e-9 * float(each["size"])
            and abs(stored[name][3] - float(each["notional"])) <= 1e-9 * float(each["notional"])
            for name, each in truth.items()
        )
        with connect(self.config) as client:
            gaps = client.rows(f"SELECT status, count() n FROM {PREFIX}gaps WHERE status IS NOT NULL GROUP BY status")
            (ledger,) = client.rows(
                "SELECT sum(verified) verified, sum(unverifiable) unverifiable, sum(missing) missing, "
                f"sum(repaired) repaired FROM {PREFIX}coverage WHERE channel = 'trades'"
            )
        total = {
            "sent": sent, "stored": rows, "lost": sent - ids, "doubled": rows - ids, "values_equal": equal,
        }  # fmt: skip
        return {
            "provider": self.provider, "steps": [asdict(step) for step in steps], "total": total,
            "gaps": {row["status"]: row["n"] for row in gaps}, "log": str(self.log_path),
            "completeness": completeness({name: value or 0 for name, value in ledger.items()}) or 0.0,
            "passed": all(step.passed for step in steps) and equal and sent == rows == ids,
        }  # fmt: skip


def began_monotonic(began: int, after_s: float | None) -> float:
    """The monotonic time ``after_s`` seconds after the wall-clock time ``began``, ns."""
    return time.monotonic() - (time.time_ns() - began) / 1e9 + (after_s or 0.0)


def _sums(client: SqlClient, symbol: str, last_id: int) -> tuple[int, int, float, float]:
    """The trade before the first, which some providers send on subscribing, does not count."""
    (row,) = client.rows(
        "SELECT count() n, count_distinct(trade_id) ids, sum(size) size, sum(price * size) turnover "
        f"FROM {PREFIX}trades WHERE symbol = '{symbol}' AND trade_id BETWEEN {FIRST_ID} AND {last_id}"
    )
    return row["n"], row["ids"], row["size"] or 0.0, row["turnover"] or 0.0


def environment(config: Config) -> dict[str, str]:
    """Of the recorder process: ours, and no override that would lead it elsewhere."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RECORDER_")}
    if config.questdb.password:
        own["RECORDER_QUESTDB_PASSWORD"] = config.questdb.password
    return own
