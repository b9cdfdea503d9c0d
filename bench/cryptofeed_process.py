"""cryptofeed's Binance feed with its QuestDB backend, pointed at this machine.

    python -m bench.cryptofeed_process WEBSOCKET_PORT ILP_TCP_PORT

Its own classes with its own settings and uvloop. Two things differ from how it is used: the list of symbols is given
instead of asked of Binance, and the address becomes ws://127.0.0.1 in the hook meant for authentication, because it
takes only wss:// and TLS would slow it down.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from cryptofeed import FeedHandler
from cryptofeed.backends.quest import TradeQuest
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import BINANCE, TRADES
from cryptofeed.exchanges import Binance
from cryptofeed.symbols import Symbols

from bench.traffic import VENUES


class Local(Binance):
    websocket_endpoints = [WebsocketEndpoint("wss://127.0.0.1", authentication=True, options={"compression": None})]  # noqa: RUF012
    port = 0

    async def _ws_authentication(self, address: str, ws_options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return address.replace("wss://127.0.0.1", f"ws://127.0.0.1:{self.port}"), ws_options


def main(port: int, ilp_port: int) -> None:
    venue = VENUES["binance_agg"]
    names = dict(zip(venue.spec.symbols, venue.names, strict=True))
    Symbols.set(BINANCE, names, {"instrument_type": dict.fromkeys(names, "spot")})
    Local.port = port
    handler = FeedHandler(config={"uvloop": True, "log": {"disabled": True}, "backend_multiprocessing": False})
    backend = TradeQuest(host="127.0.0.1", port=ilp_port)
    handler.add_feed(Local(channels=[TRADES], symbols=list(names), callbacks={TRADES: backend}, config=handler.config))
    asyncio.set_event_loop(asyncio.new_event_loop())  # it asks for the current one, which Python no longer makes
    handler.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
