"""Child processes of bench_backfill: a history of bars, and `recorder backfill` without Alpaca's pace.

python -m bench.backfill_process serve     prints where its history is, and serves it until its input ends
python -m bench.backfill_process ARGUMENTS  `recorder ARGUMENTS`
"""

from __future__ import annotations

import asyncio
import json
import sys

from recorder.commands import cli
from recorder.feeds.alpaca import history
from recorder.shell.simulator import Simulator

UNPACED = 1e6  # requests a second
KEYS = {"k": "s"}


async def serve() -> None:
    rules = {"alpaca": {"requests": (1 << 40, 1), "keys": KEYS}}
    async with Simulator(["alpaca"], rate=1, symbols={"alpaca": ["AAPL", "MSFT"]}, rules=rules) as simulator:
        print(json.dumps({"url": simulator.url("alpaca"), "rest_url": simulator.rest_url("alpaca")}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        history.PER_SECOND_MAX = UNPACED
        sys.exit(cli.main())
