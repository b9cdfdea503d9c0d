"""A provider of a simulated exchange: who is connected to it, what was sent, and the faults it commits on command."""

from __future__ import annotations

import asyncio

from recorder.shell.captures import Capture
from recorder.shell.simulator.client import Client
from recorder.shell.simulator.faults import Faults
from recorder.shell.simulator.rest import Answer
from recorder.shell.simulator.truth import VenueTruth
from recorder.shell.simulator.venue import Conversation, Venue
from recorder.shell.simulator.venues import make_rest


class Stage:
    """A provider with its clients, its truth and its faults."""

    def __init__(self, venue: Venue, conversation: type[Conversation], capture: Capture | None) -> None:
        self.venue, self.conversation, self.capture = venue, conversation, capture
        self.truth = VenueTruth(venue.symbols, venue.size_digits)
        self.rest = make_rest(venue)
        self.faults = Faults()
        self.clients: list[Client] = []
        self.arrived = asyncio.Event()  # somebody has subscribed at least once
        self.finished = asyncio.Event()
        self.limit: float | None = None
        self.life_s: float | None = None


class Commanded:
    """Faults on command; each names a provider."""

    def __init__(self) -> None:
        self._stages: dict[str, Stage] = {}

    def drop(self, provider: str, count: int = 1, symbol: str | None = None) -> None:
        """Leave out the next trades (of a canonical symbol): they happen and are never sent."""
        stage = self._stages[provider]
        index = None if symbol is None else stage.venue.symbols.index(symbol)
        stage.faults.drop += [index] * count

    def withhold(self, provider: str, symbol: str, connections: int = 1) -> None:
        """Acknowledge a canonical symbol on the next connections and deliver nothing of it there."""
        stage = self._stages[provider]
        stage.faults.withhold += [stage.venue.symbols.index(symbol)] * connections

    def duplicate(self, provider: str, count: int = 1) -> None:
        """Send the next trades twice."""
        self._stages[provider].faults.duplicate += count

    def reorder(self, provider: str, count: int = 2) -> None:
        """Send the next trades last one first, as far as they are sent together."""
        self._stages[provider].faults.reorder += count

    def garbage(self, provider: str, payload: str | bytes = '{"type":"match","trade_id":') -> None:
        """Send every client a frame that no decoder can read, or any other message."""
        for client in self._stages[provider].clients:
            client.say([payload])

    def cut(self, provider: str, code: int | None = None) -> None:
        """Cut every connection: reset it, or close it with a code."""
        for client in list(self._stages[provider].clients):
            client.cut() if code is None else client.close(code, "closed on command")

    def slow(self, provider: str, bytes_per_second: float | None) -> None:
        """Send at most so many bytes a second, to those connected and those to come; 0 is a stall, None ends it."""
        stage = self._stages[provider]
        stage.limit = bytes_per_second
        for client in stage.clients:
            client.limit(bytes_per_second)

    def stall(self, provider: str) -> None:
        """Keep connections open and say nothing, not even pongs."""
        self.slow(provider, 0)

    def mute(self, provider: str, symbol: str | None = None, until_asked: bool = False) -> None:
        """Send those connected nothing of a canonical symbol, or of any, and go on answering, pings included.

        until_asked  a symbol that is unsubscribed from, and subscribed to again, is sent again
        """
        stage = self._stages[provider]
        index = slice(None) if symbol is None else stage.venue.symbols.index(symbol)
        for client in stage.clients:
            client.muted[index] = True
            client.forgotten[index] = until_asked

    def resume(self, provider: str) -> None:
        """End a stall or slowness; what was held back is sent at once."""
        self.slow(provider, None)

    def refuse(self, provider: str, count: int = 1, status: int = 503, retry_after: str | None = None) -> None:
        """Answer the next connection attempts with this HTTP status."""
        faults = self._stages[provider].faults
        faults.refuse, faults.status, faults.retry_after = faults.refuse + count, status, retry_after

    def live(self, provider: str, seconds: float | None) -> None:
        """Cut connections of this age, to the second, as Binance does at 24 hours; None: never."""
        self._stages[provider].life_s = seconds

    def fail_http(self, provider: str, answer: int | Answer = 503, count: int = 1) -> None:
        """Answer the next requests for history with this, or with this HTTP status."""
        self._stages[provider].rest.failing += [answer] * count

    def fail(self, provider: str, *codes: int | str, coming: bool = False) -> None:
        """Answer the next requests of every connected client, or of the next one to come, with these errors: the
        provider's own codes or words; 0: as it should be answered."""
        stage = self._stages[provider]
        for errors in [stage.faults.fail] if coming else [client.conversation.forced for client in stage.clients]:
            errors += codes

    def say(self, provider: str, what: str) -> None:
        """Send every client something that the provider says of its own accord, see ``notices`` in its file."""
        for client in list(self._stages[provider].clients):
            client.say(client.conversation.said(what))
