"""What a journal holds, read by the standard library from the frames themselves: none of the project's decoders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from undisturbed import frames_of

from recorder.core.frames import SOURCE, TEXT, Frames


class Trade(NamedTuple):
    """A trade as its frame says it. ``live`` is False of what a provider repeats on subscribing."""

    feed: str
    symbol: str
    id: int
    ts: int  # ns
    price: float
    size: float
    live: bool


@dataclass
class Seen:
    """Trades in the order they were received, repeats included, and frames that are not JSON."""

    trades: list[Trade] = field(default_factory=list)
    unreadable: int = 0
    damages: list[dict[str, Any]] = field(default_factory=list)  # stretches of the journal that were passed over

    def of(self, feed: str, symbol: str) -> list[Trade]:
        return [trade for trade in self.trades if (trade.feed, trade.symbol) == (feed, symbol)]

    @property
    def ids(self) -> set[tuple[str, str, int]]:
        return {trade[:3] for trade in self.trades}


def seen_in(folder: Path) -> Seen:
    """Every trade in the journal of a recorder that has ended."""
    seen = Seen()
    feeds: dict[int, tuple[str, str]] = {}  # source → feed, provider

    def each(frames: Frames) -> None:
        for i in range(frames.count):
            kind, number = int(frames.kinds[i]), int(frames.sources[i])
            if kind == SOURCE:
                spec = json.loads(frames.payload(i))
                feeds[number] = (spec["name"], spec["provider"])
            elif kind == TEXT and number in feeds:
                feed, provider = feeds[number]
                try:
                    message = json.loads(bytes(frames.payload(i)))
                except ValueError:
                    seen.unreadable += 1
                    continue
                seen.trades += (Trade(feed, *rest) for rest in PROVIDERS[provider](message))

    events = frames_of(folder, each)
    seen.damages = [fields for event, fields in events if event == "journal.corrupt"]
    return seen


Found = Iterator[tuple[str, int, int, float, float, bool]]


def _coinbase(m: dict[str, Any]) -> Found:
    if m.get("type") in ("match", "last_match"):
        live = m["type"] == "match"
        yield m["product_id"], m["trade_id"], rfc3339(m["time"]), float(m["price"]), float(m["size"]), live


def _binance(m: dict[str, Any]) -> Found:
    data = m.get("data", {})
    if data.get("e") == "trade":
        symbol = data["s"].removesuffix("USDT") + "-USDT"
        yield symbol, data["t"], data["T"] * 1_000_000, float(data["p"]), float(data["q"]), True


def _kraken(m: dict[str, Any]) -> Found:
    if m.get("channel") == "trade":
        for t in m["data"]:
            symbol, live = t["symbol"].replace("/", "-"), m["type"] == "update"
            yield symbol, t["trade_id"], rfc3339(t["timestamp"]), t["price"], t["qty"], live


def _alpaca(messages: list[dict[str, Any]]) -> Found:
    for m in messages:
        if m["T"] == "t":
            yield m["S"], m["i"], rfc3339(m["t"]), m["p"], m["s"], True


PROVIDERS = {"coinbase": _coinbase, "binance": _binance, "kraken": _kraken, "alpaca": _alpaca}


def rfc3339(text: str) -> int:
    """ns of ``2024-03-05T12:00:00.123456Z`` with any number of fraction digits."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(f"{fraction or 0:0<9}")
