"""Yahoo's streamer over a real socket: subscribed, repeated, changed, cut, and read from the journal."""

from __future__ import annotations

import asyncio
import time

import msgspec
from test_connection import Told, connected, reached
from test_overlap import folded

from recorder.feeds import make
from recorder.shell.journal import Journal
from recorder.shell.simulator.yahoo import YahooStreamer
from recorder.values.feed import FeedSpec


def test_prices_of_those_subscribed_to_become_rows_over_a_change_and_a_cut(journal: Journal) -> None:
    told = Told()

    async def run() -> None:
        async with YahooStreamer() as place:
            spec = FeedSpec(name="f", provider="yahoo", symbols=("AAPL", "BRK.B"), url=place.url)
            now = time.time_ns() // 1_000_000

            async def say(name: str, volume: int) -> None:
                prices = {"price": 10.5, "bid": 10.0, "ask": 11.0}
                await place.say(id=name, time=now + volume, exchange="NMS", day_volume=volume, **prices)

            async with connected(make(spec), journal, told) as c:
                await reached(lambda: place.subscribed == {"AAPL", "BRK-B"})
                assert c.ready
                await say("AAPL", 1)
                await say("BRK-B", 2)
                await reached(lambda: c.frames == 2)
                c.change(msgspec.structs.replace(spec, symbols=("AAPL", "MSFT")))
                await reached(lambda: place.subscribed == {"AAPL", "MSFT"})
                assert {"unsubscribe": ["BRK-B"]} in place.heard
                assert c.session.endpoint.app_ping == b'{"subscribe":["AAPL","MSFT"]}'
                await say("BRK-B", 3)
                await say("MSFT", 4)
                await reached(lambda: c.frames == 3)
                await place.cut()
                await reached(lambda: c.reconnects == 1 and place.subscribed == {"AAPL", "MSFT"})
                await say("AAPL", 5)
                await reached(lambda: c.frames == 4)

    asyncio.run(run())
    rows = folded(journal)
    names = rows["symbols"][rows["trades"]["series"]].tolist()
    assert list(zip(names, rows["trades"]["trade_id"].tolist(), strict=True)) == [
        ("AAPL", 1), ("BRK.B", 2), ("MSFT", 4), ("AAPL", 5),
    ]  # fmt: skip
    assert rows["quotes"]["bid"].tolist() == [10.0] * 4
