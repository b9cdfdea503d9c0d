"""Questions to one provider's HTTP interface that a user waits for: paced, tried again where that can help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Generator
from typing import Any

from recorder.core.polled import unpacked
from recorder.shell.history_client import HistoryClient, retry_after_s
from recorder.shell.pace import Pace
from recorder.values.errors import ConfigError, RecorderError
from recorder.values.feed import Capability, HttpRequest, HttpResponse

ATTEMPTS_MAX = 5  # of one request
RETRY_FIRST_S = 0.5  # doubled with each further try
LIMITED_S = 15.0  # how long a provider that is asked too fast is left alone when it does not say
LIMITED_MAX_S = 300.0  # nobody waits longer at a prompt
BUSY = (408, 413, 425, 499, 500, 502, 503, 504)
LIMITED = (418, 429)
EXCERPT_CHARS = 200  # of a refusal


class Unanswered(RecorderError):
    """A provider did not answer, or said no; the text says why, without the address's secrets."""


class Questions:
    """Asks one provider, one request at a time and no faster than it allows.

    pace      shared by all that ask it at once
    requests  made so far, tries included
    client    with bounds of its own, where answers are longer than a page of history
    signer    sends the requests that are to be signed, where somebody has to log in
    """

    def __init__(
        self, provider: str, capability: Capability, log: Any, pace: Pace | None = None,
        client: HistoryClient | None = None, signer: Any = None,
    ) -> None:  # fmt: skip
        self.provider, self.requests = provider, 0
        self._capability, self._log, self._pace = capability, log, pace or Pace()
        self._client, self._signer = client or HistoryClient(), signer

    async def pages(
        self, pages: Generator[HttpRequest, HttpResponse, None]
    ) -> AsyncIterator[tuple[HttpRequest, HttpResponse, bool]]:
        """Every request of a question with its answer as received, and whether it was the last.

        Raises Unanswered, ConfigError, FrameError.
        """
        http = next(pages, None)
        while http is not None:
            response = await self._get(http)
            body = unpacked(response.body, response.headers.get("content-encoding", ""))
            try:
                following = pages.send(HttpResponse(response.status, response.headers, body))
            except StopIteration:
                following = None
            yield http, response, following is None
            http = following

    def close(self) -> None:
        self._client.close()

    async def _get(self, http: HttpRequest) -> HttpResponse:
        why = ""
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await asyncio.sleep(RETRY_FIRST_S * 2 ** (attempt - 1))
            await self._pace.turn(self._capability)
            self.requests += 1
            try:
                signer = self._signer if http.sign else None
                response = await (signer.get(self._client, http) if signer else self._client.get(http))
            except ConfigError:
                raise
            except OSError as error:
                why = f"no answer: {error or type(error).__name__}"
                continue
            if response.status == 200 or response.status in http.accepts or http.private:
                self._pace.answered()
                return response
            why = _refusal(http, response)
            if response.status in LIMITED:
                asked_s = retry_after_s(response.headers, time.time())
                wait_s = self._pace.limited(min(LIMITED_MAX_S, LIMITED_S if asked_s is None else asked_s))
                self._log.warning(
                    "history.limited", feed=self.provider, status=response.status, wait_s=round(wait_s, 1)
                )
            elif response.status not in BUSY:
                break
        raise Unanswered(f"{self.provider}: {why}")


def _refusal(http: HttpRequest, response: HttpResponse) -> str:
    """Status and first words of a refusal, without our secrets."""
    text = response.body[:2000].decode("utf-8", "replace")
    for _, value in http.secret_headers:
        text = text.replace(value, "…") if value else text
    return f"HTTP {response.status}: {' '.join(text.split())[:EXCERPT_CHARS]}"
