"""Questions to one provider's HTTP interface that a user waits for: paced, tried again where that can help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Generator
from typing import Any
from urllib.parse import urlsplit

from recorder.core import history, polled
from recorder.core.history import Page
from recorder.core.polled import unpacked
from recorder.shell.history_client import PASSING, HistoryClient, Signer, excerpt, limited
from recorder.shell.pace import Pace
from recorder.values.errors import ConfigError, Limited, RecorderError
from recorder.values.feed import Capability, Historian, HistoryRequest, HttpRequest, HttpResponse, Poll

ATTEMPTS_MAX = 5  # of one request
RETRY_FIRST_S = 0.5  # doubled with each further try
LIMITED_S = 15.0  # how long a provider that is asked too fast is left alone when it does not say
LIMITED_MAX_S = 300.0  # nobody waits longer at a prompt


class Unanswered(RecorderError):
    """A provider did not answer, or said no; the text says why, without the address's secrets.

    ``status``  of its answer; 0 without one
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Questions:
    """Asks one provider, one request at a time and no faster than it allows.

    pace      shared by all that ask it at once
    requests  made so far, tries included
    client    with bounds of its own, where answers are longer than a page of history
    signer    sends the requests that are to be signed, where somebody has to log in
    """

    def __init__(
        self, provider: str, capability: Capability, log: Any, pace: Pace | None = None,
        client: HistoryClient | None = None, signer: Signer | None = None,
    ) -> None:  # fmt: skip
        self.provider, self.requests = provider, 0
        self._capability, self._log, self._pace = capability, log, pace or Pace()
        self._client, self._signer = client or HistoryClient(), signer

    async def history(self, feed: Historian, request: HistoryRequest) -> AsyncIterator[bytes]:
        """Payloads of RESPONSE frames: every page of what a user asks. Raises as ``pages``."""
        number = 0
        async for http, response, last in self.pages(feed.history(request)):
            if response.status == 200:
                page = Page(gap=None, request=request, number=number, url=http.url, last=last)
                yield history.encode(page, response.body)
                number += 1

    async def poll(self, poll: Poll) -> AsyncIterator[bytes]:
        """Payloads of POLLED frames: one round of a poll. Raises as ``pages``."""
        async for http, response, _ in self.pages(poll.ask()):
            if response.status == 200 and not http.private:
                yield polled.encoded(poll.key, http, response)

    async def pages(
        self, pages: Generator[HttpRequest, HttpResponse, None]
    ) -> AsyncIterator[tuple[HttpRequest, HttpResponse, bool]]:
        """Every request of a question with its answer as received, and whether it was the last: of all there is.

        Raises Unanswered, ConfigError, and what ``pages`` says of an answer that is an error, after that answer.
        """
        http = next(pages, None)
        while http is not None:
            response = await self._get(http)
            body = unpacked(response.body, response.headers.get("content-encoding", ""))
            try:
                following = pages.send(HttpResponse(response.status, response.headers, body))
            except StopIteration:
                following = None
            except RecorderError:
                yield http, response, False
                raise
            yield http, response, following is None
            http = following

    def close(self) -> None:
        self._client.close()

    async def _get(self, http: HttpRequest) -> HttpResponse:
        why, status = "", 0
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await asyncio.sleep(RETRY_FIRST_S * 2 ** (attempt - 1))
            await self._pace.turn(self._capability)
            self.requests += 1
            try:
                response = await self._client.get_signed(http, self._signer)
            except ConfigError:
                raise
            except OSError as error:
                host, said = str(urlsplit(http.url).hostname), str(error) or type(error).__name__
                why, status = said if host in said else f"no answer from {host}: {said}", 0
                continue
            self._pace.heed(response.headers)
            status = response.status
            refused = limited(response, self._capability.limited_by, time.time())
            if refused is not None:
                why = self._paused(refused, status)
                continue
            if status == 200 or status in http.accepts or http.private:
                self._pace.answered()
                return response
            why = f"HTTP {status}: {excerpt(response)}"
            if status not in PASSING:
                break
        raise Unanswered(f"{self.provider}: {why}", status)

    def _paused(self, refused: Limited, status: int) -> str:
        """Leave the provider alone for as long as it wants. Raises Unanswered where nobody waits that long."""
        asked_s = LIMITED_S if refused.wait_s is None else refused.wait_s
        wait_s = self._pace.limited(asked_s)
        self._log.warning("history.limited", feed=self.provider, status=status, wait_s=round(wait_s, 1))
        if asked_s > LIMITED_MAX_S:
            raise Unanswered(f"{self.provider}: {refused}; it is not to be asked for {asked_s:.0f} s", status)
        return str(refused)
