"""``recorder simulate``: recordings or a synthetic market, served as the providers' own WebSockets and history."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recorder.values.errors import CaptureError, ConfigError

if TYPE_CHECKING:
    from recorder.shell.simulator import Simulator
    from recorder.shell.simulator.fix import FixSimulator

NEEDS_CONFIG = False
UNASKED_MAX = 12  # subscriptions named


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "simulate",
        help="serve a journal or capture as the provider's own WebSocket",
        description="Prints one line a provider, its name and its address, then serves until stopped (SIGINT, "
        "SIGTERM). Put the address into `url` of a feed in config.toml. What a synthetic market has traded is also "
        "served as the provider's history: `rest_url` is http://HOST:PORT/PROVIDER with the same host and port.",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="journals, segments or captures to serve")
    parser.add_argument("--speed", default="1", metavar="N", help="of recordings: 1 (default), 10, … or max")
    parser.add_argument("--provider", help="whose messages the recordings are, where they do not say")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="provider option such as market=usdm; repeatable",
    )
    parser.add_argument(
        "--synthetic",
        metavar="A,B",
        help="a synthetic market at these providers instead of recordings; fix, by itself, is a FIX 4.4 counterparty",
    )
    parser.add_argument("--rate", default="1000", metavar="N", help="mean trades per second of each provider, or max")
    parser.add_argument("--burst", type=float, default=10.0, metavar="N", help="how many times faster bursts are (10)")
    parser.add_argument("--quotes", type=float, default=1.0, metavar="N", help="mean quotes per trade (1)")
    parser.add_argument(
        "--items", type=int, default=50, metavar="N", help="trades in one message at most, where it has several"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another seed is another market (1)")
    parser.add_argument(
        "--symbols",
        action="append",
        default=[],
        metavar="[PROVIDER=]A,B",
        help="canonical symbols that trade; repeatable",
    )
    parser.add_argument("--total", type=int, metavar="N", help="trades of each provider, then silence")
    parser.add_argument(
        "--once", action="store_true", help="stop when the total or the recording has been sent and taken"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=0, metavar="N", help="port to listen on (a free one of 20000-29999)"
    )
    parser.add_argument("--truth", type=Path, metavar="FILE", help="on exit, write what was really sent as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Any) -> int:
    import uvloop

    from recorder.shell.simulator import Simulator

    simulator = _fix(args) if (args.synthetic or "").strip() == "fix" else _simulator(args)
    uvloop.run(_serve(simulator, args.once))
    if args.truth is not None:
        truths = simulator.truth if isinstance(simulator.truth, dict) else {"fix": simulator.truth}
        truth = {name: truth.as_dict() for name, truth in truths.items()}
        args.truth.write_text(json.dumps(truth, indent=1) + "\n")
    return _told(simulator) if isinstance(simulator, Simulator) and args.paths else 0


def _told(simulator: Simulator) -> int:
    """Say what of the recordings was not sent, and why. Raises CaptureError for what could not be read."""
    for provider, truth in simulator.truth.items():
        if truth.unasked:
            names = sorted(name for name in truth.unasked if name)
            shown = [f"{name} ({truth.unasked[name]:,})" for name in names[:UNASKED_MAX]]
            shown += [f"{len(names) - UNASKED_MAX:,} more"] if len(names) > UNASKED_MAX else []
            shown += [f"no subscription ({truth.unasked['']:,})"] if "" in truth.unasked else []
            print(f"{provider}: not sent, as no client asked for it: frames of {', '.join(shown)}", file=sys.stderr)
    if simulator.unread:
        raise CaptureError("\n".join(simulator.unread.values()))
    return 0


def _simulator(args: argparse.Namespace) -> Simulator:
    from recorder.shell.captures import open_capture
    from recorder.shell.simulator import Simulator

    if bool(args.paths) == bool(args.synthetic):
        raise ConfigError("simulate needs recordings (PATH …) or --synthetic with providers, not both")
    options = dict(_pair(text, "--option", "KEY=VALUE") for text in args.option) or None
    providers = [name.strip() for name in (args.synthetic or "").split(",") if name.strip()]
    return Simulator(
        providers,
        host=args.host,
        port=args.port,
        rate=_number(args.rate, "--rate"),
        burst=args.burst,
        quotes=args.quotes,
        seed=args.seed,
        symbols=_symbols(args.symbols, providers),
        total=args.total,
        rules={name: {"items_max": args.items} for name in providers},
        captures=[open_capture(path, args.provider, options) for path in args.paths],
        speed=_number(args.speed, "--speed"),
    )


def _fix(args: argparse.Namespace) -> FixSimulator:
    """A FIX counterparty, by itself: SenderCompID FEED, of the recorder RECORDER, symbols as it names them."""
    from recorder.shell.simulator.fix import SYMBOLS, FixSimulator

    if args.paths:
        raise ConfigError("simulate needs recordings (PATH …) or --synthetic with providers, not both")
    rate = _number(args.rate, "--rate")
    if rate is None:
        raise ConfigError('--rate is "max"; give a number: a FIX counterparty is paced')
    named = [name for names in (_symbols(args.symbols, ["fix"]) or {}).values() for name in names]
    return FixSimulator(
        named or SYMBOLS, host=args.host, port=args.port, rate=rate, quotes=args.quotes, seed=args.seed,
        total=args.total,
    )  # fmt: skip


async def _serve(simulator: Simulator | FixSimulator, once: bool) -> None:
    from recorder.shell.simulator.fix import FixSimulator

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with simulator:
        if isinstance(simulator, FixSimulator):
            print("fix", simulator.url, flush=True)
        else:
            for provider in simulator.providers:
                print(provider, simulator.url(provider), flush=True)
        waits: list[asyncio.Task[Any]] = [loop.create_task(stop.wait())]
        if once:
            waits.append(loop.create_task(simulator.finished()))
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
    print("stopped", file=sys.stderr)


def _number(text: str, option: str) -> float | None:
    """A factor or rate above 0; None for ``max``."""
    if text == "max":
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError(f'{option} is {text!r}; give a number above 0 or "max"')
    return number


def _pair(text: str, option: str, shape: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"{option} is {text!r}; write {shape}")
    return name, value


def _symbols(given: list[str], providers: list[str]) -> dict[str, tuple[str, ...]] | None:
    """By provider; what names no provider holds for all that are not named. None: nothing given."""
    if not given:
        return None
    result: dict[str, tuple[str, ...]] = {}
    common: tuple[str, ...] = ()
    for text in given:
        if "=" in text:
            provider, names = _pair(text, "--symbols", "PROVIDER=A,B")
            if provider not in providers:
                raise ConfigError(f"--symbols {text!r}: {provider!r} is none of {', '.join(providers)}")
            result[provider] = tuple(name for name in names.split(",") if name)
        else:
            common += tuple(name for name in text.split(",") if name)
    return {**({name: common for name in providers} if common else {}), **result}
