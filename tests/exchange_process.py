"""A simulated exchange in a process of its own that takes commands: faults while it trades, and what it really sent.

Run as a program it reads one JSON command a line and answers each with one line; ``Exchange`` is the other end.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent


class Exchange:
    """Serves these providers on one port until closed. Commands are methods of ``Simulator``: ``cut("kraken")``."""

    def __init__(self, providers: Sequence[str], **settings: Any) -> None:
        self.providers = tuple(providers)
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps({"providers": providers, **settings})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPO, env=None, start_new_session=True,
        )  # fmt: skip
        self.urls, self.rest_urls = self._answer()  # by provider

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the simulated exchange has ended"
        return json.loads(line)

    def __getattr__(self, name: str) -> Any:
        def command(*arguments: Any, **named: Any) -> Any:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps([name, arguments, named]).encode() + b"\n")
            self._process.stdin.flush()
            return self._answer()

        return command

    def trades(self, provider: str) -> dict[str, dict[int, tuple[float, float]]]:
        """Symbol → id → (price, size) of every trade handed to a socket at least once, snapshots left out."""
        sent = self.ledger(provider)
        return {symbol: {i: (float(p), float(s)) for i, p, s in rows} for symbol, rows in sent.items()}


def _ledger() -> tuple[dict[Any, dict[int, dict[int, tuple[int, int]]]], Any]:
    """Keep what is sent, trade by trade: the simulator itself counts only."""
    import numpy as np

    from recorder.core.market import ID, KIND, PRICE, SIZE, SYMBOL, TRADE
    from recorder.shell.simulator.truth import VenueTruth

    kept: dict[Any, dict[int, dict[int, tuple[int, int]]]] = {}
    count = VenueTruth.sent

    def sent(self: VenueTruth, events: np.ndarray, frames: int, size: int) -> None:
        count(self, events, frames, size)
        own = kept.setdefault(id(self), {})
        for row in events[events[:, KIND] == TRADE][:, [SYMBOL, ID, PRICE, SIZE]].tolist():
            own.setdefault(row[0], {})[row[1]] = (row[2], row[3])

    VenueTruth.sent = sent  # type: ignore[method-assign]
    return kept, count


async def _serve(settings: dict[str, Any]) -> None:
    from recorder.core.market import PRICE_DIGITS, decimal_text
    from recorder.shell.simulator import Simulator

    kept, _ = _ledger()
    simulator = Simulator(settings.pop("providers"), **settings)

    def ledger(provider: str) -> dict[str, list[tuple[int, str, str]]]:
        truth = simulator.truth[provider]
        own = kept.get(id(truth), {})
        return {
            truth.names[symbol]: [
                (number, decimal_text(price, PRICE_DIGITS), decimal_text(size, truth.size_digits))
                for number, (price, size) in trades.items()
            ]
            for symbol, trades in own.items()
        }

    def obey(name: str, arguments: list[Any], named: dict[str, Any]) -> Any:
        if name == "ledger":
            return ledger(*arguments)
        if name == "truth":
            return simulator.truth[arguments[0]].as_dict()
        return getattr(simulator, name)(*arguments, **named)

    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with simulator:
        places = [
            {name: address(name) for name in simulator.providers} for address in (simulator.url, simulator.rest_url)
        ]
        print(json.dumps(places), flush=True)
        while line := await reader.readline():
            print(json.dumps(obey(*json.loads(line))), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(REPO))
    asyncio.run(_serve(json.loads(sys.argv[1])))
