"""``recorder run``: record the configured feeds on market hours until stopped."""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import time
from typing import Any

from recorder.values.config import SECTIONS, Config
from recorder.values.errors import ConfigError
from recorder.values.feed import FeedSpec
from recorder.values.schedule import ALWAYS, Schedule

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def duration(text: str) -> float:
    """Seconds of ``60s``, ``5m``, ``1.5h`` or ``90``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write 60s, 5m or 1.5h")
    return float(match[1]) * _UNITS[match[2]]


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("run", help="record the configured feeds on market hours until stopped")
    parser.add_argument("--now", action="store_true", help="record at once, whatever the calendar says")
    parser.add_argument(
        "--for", dest="seconds", type=duration, metavar="TIME", help="stop by itself after 60s, 5m or 1.5h"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config) -> int:
    import uvloop

    if not config.feeds:
        raise ConfigError(f"{config.source or 'config.toml'}: no [[feeds]] is enabled; add one, see the comments there")
    return uvloop.run(_run(args, config))


def schedules(config: Config, now: bool) -> Any:
    """How each feed's Schedule is found; with ``now`` every one is always open."""
    from recorder.shell import calendars

    def schedule_for(spec: FeedSpec) -> Schedule:
        name = spec.schedule or config.schedule.calendar
        if now or name == ALWAYS:
            return Schedule(None)
        return calendars.schedule(name, config.schedule, time.time_ns())

    return schedule_for


async def _run(args: argparse.Namespace, config: Config) -> int:
    from recorder.commands.record import Recording, wait_first
    from recorder.shell import log as logs
    from recorder.shell.monitor import Monitor

    logs.setup(config.log, file=True)
    log = logs.get("recorder")
    loop, stop, hurry, reload = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    recording = Recording(config, log, schedules(config, args.now))
    monitor = Monitor(recording, config.metrics)
    monitor.listen()
    await recording.start()
    monitor.start()
    log.info("recorder.started", feeds=len(config.feeds), journal=str(config.journal.dir), metrics=monitor.url)
    deadline = None if args.seconds is None else loop.time() + args.seconds
    while not stop.is_set():
        left = None if deadline is None else deadline - loop.time()
        if left is not None and left <= 0:
            break
        await wait_first(stop.wait(), reload.wait(), timeout_s=left)
        if reload.is_set():
            reload.clear()
            config = _reload(args, config, recording, log)
    log.info(
        "recorder.stopping", reason="signal" if stop.is_set() else "time is up",
        hint="waiting until QuestDB has everything; a second signal leaves it to the next start",
    )  # fmt: skip
    stop.set()
    drained = await recording.stop(hurry)
    monitor.stop()
    running = {"questdb": "still running; `recorder db stop` stops it"} if config.questdb.embedded else {}
    log.info("recorder.stopped", rows=recording.engine.rows_queryable, drained=drained, **running)
    return 0


def _reload(args: argparse.Namespace, before: Config, recording: Any, log: Any) -> Config:
    """SIGHUP: read the file again; feeds and symbols change without a restart, other sections need one."""
    from recorder.commands.cli import load_config

    try:
        config = load_config(args.config)
        if not config.feeds:
            raise ConfigError(f"{config.source}: no [[feeds]] is enabled")
        recording.set_feeds(config.feeds, config.written)
    except ConfigError as error:
        log.error("config.rejected", reason=str(error), action="the configuration before stays in force")
        return before
    waiting = [name for name in SECTIONS if getattr(config, name) != getattr(recording.config, name)]
    if waiting:
        log.warning("config.deferred", sections=waiting, action="these take effect at the next start")
    log.info("config.reloaded", feeds=len(config.feeds))
    return config
