"""OAuth 1.0a with a provider's server: the steps of a login, and the session that signs requests from then on."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from urllib.parse import quote

import msgspec

from recorder.core.oauth1 import NO_TOKEN, Credential, authorization, problem_of, token_of
from recorder.shell.history_client import HistoryClient
from recorder.shell.tokens import TokenStore
from recorder.values.errors import FrameError, LoginNeeded, RecorderError
from recorder.values.feed import SECOND, HttpRequest, HttpResponse
from recorder.values.login import OAuth1, Token

NONCE_BYTES = 16  # never twice, by far
GONE = (400, 401, 403)  # statuses of a token endpoint that asking again will not change

# What a server says, in words that help. What a token's problems mean depends on what was asked; see the callers.
_WORDS = {
    "consumer_key_rejected": "it does not take the consumer key: check it, keys end without notice",
    "consumer_key_unknown": "it does not know the consumer key",
    "signature_invalid": "the signature does not fit: check the consumer secret",
    "timestamp_refused": "this machine's clock is off by minutes: run chrony or ntpd",
    "nonce_used": "it takes the request for a repeated one",
}


def nonce() -> str:
    return secrets.token_hex(NONCE_BYTES)


class Login:
    """The steps of a login. Each makes one request.

    base   of the token endpoints instead of the provider's own
    """

    def __init__(
        self,
        how: OAuth1,
        consumer: Credential,
        base: str | None = None,
        now: Callable[[], int] = time.time_ns,
        nonce: Callable[[], str] = nonce,
    ) -> None:
        self.how, self.base = how, base or how.base
        self._consumer, self._now, self._nonce = consumer, now, nonce
        self._client = HistoryClient()

    def header(self, url: str, token: Credential, extra: Sequence[tuple[str, str]] = ()) -> tuple[str, str]:
        """The header that signs one GET."""
        time_s, nonce = self._now() // SECOND, self._nonce()
        return "Authorization", authorization(
            "GET", url, self._consumer, token, time_s=time_s, nonce=nonce, extra=extra
        )

    async def request_token(self) -> Credential:
        """Raises RecorderError, OSError."""
        answer = await self._ask(self.how.request, NO_TOKEN, [("oauth_callback", "oob")])
        return _token(answer, self.how.title)

    def page(self, token: Credential) -> str:
        """The address a person opens to log in."""
        page = self.how.authorize.format(key=quote(self._consumer.key, safe=""), token=quote(token.key, safe=""))
        return page if self.base == self.how.base else self.base + page[page.index("/", len("https://")) :]

    async def access_token(self, token: Credential, code: str) -> Token:
        """What the person's code gives. Raises RecorderError, OSError."""
        answer = await self._ask(self.how.access, token, [("oauth_verifier", code)])
        found, now = _token(answer, self.how.title), self._now()
        return Token(key=found.key, secret=found.secret, issued_ns=now, used_ns=now)

    async def renew(self, token: Token) -> HttpResponse:
        return await self._ask(self.how.renew, Credential(token.key, token.secret))

    async def revoke(self, token: Token) -> HttpResponse:
        return await self._ask(self.how.revoke, Credential(token.key, token.secret))

    async def _ask(self, path: str, token: Credential, extra: Sequence[tuple[str, str]] = ()) -> HttpResponse:
        url = self.base + path
        return await self._client.get(HttpRequest(url, secret_headers=(self.header(url, token, extra),)))

    def close(self) -> None:
        self._client.close()


def refusal(answer: HttpResponse, title: str) -> str:
    """Why a token endpoint said no, in words; nothing of its answer but a word that it is known to use."""
    problem = problem_of(answer.body)
    known = _WORDS.get(problem)
    return f"{title} answered {answer.status}" + (f": {known} ({problem})" if known else f" {problem}".rstrip())


def _token(answer: HttpResponse, title: str) -> Credential:
    if answer.status != 200:
        raise RecorderError(refusal(answer, title))
    try:
        return token_of(answer.body)
    except FrameError as error:
        raise RecorderError(f"{title} sent {error}") from None


class Session:
    """Signs requests with the token that the store holds, and renews it before it falls asleep.

    For any number of tasks of one event loop. A token that has ended is never tried again: ``get`` raises
    LoginNeeded without asking anybody, until somebody has logged in and the store holds another.
    """

    def __init__(self, login: Login, store: TokenStore, now: Callable[[], int] = time.time_ns) -> None:
        self._login, self._store, self._now = login, store, now
        self._stamp: tuple[int, int] | None = None
        self._token: Token | None = None
        self._used_ns = 0
        self._ended = ""  # why the token is of no use any more
        self._renewing = asyncio.Lock()
        self.renewals = 0

    def token(self) -> Token:
        """The token to be used now. Raises LoginNeeded."""
        stamp = self._store.stamp()
        if self._token is None or stamp != self._stamp:
            token = self._store.load()
            if self._token is None or token.key != self._token.key:
                self._ended = ""
            self._token, self._stamp = token, stamp
            self._used_ns = max(self._used_ns, token.used_ns)
        how = self._login.how
        if not self._ended and self._now() >= how.ends_ns(self._token.issued_ns):
            self._ended = f"the login at {how.title} ended at midnight ({how.zone})"
        if self._ended:
            raise LoginNeeded(f"{self._ended}; run `{self._store.command}`")
        return self._token

    async def _refused(self, answer: HttpResponse, again: bool) -> bool:
        """After a 401: whether to ask once more. ``again``: that was done, the token is of no use."""
        problem, how = problem_of(answer.body), self._login.how
        if problem in _WORDS:  # nothing that another token would change
            return problem == "nonce_used" and not again
        if again:
            self._ended = f"{how.title} does not take the login any more ({problem or answer.status})"
        else:
            await self._renew(self.token(), self.renewals)
        self.token()
        return True

    async def _renew(self, token: Token, before: int) -> None:
        """``before``: renewals that there had been when this one was wanted."""
        async with self._renewing:
            if self.renewals != before or token is not self._token:
                return  # done meanwhile
            answer = await self._login.renew(token)
            words = refusal(answer, self._login.how.title)
            if answer.status in GONE and problem_of(answer.body) not in _WORDS:
                self._ended = f"the login has ended: {words}"
                self.token()
            if answer.status != 200:
                raise ConnectionError(f"renewing the login: {words}")  # later, perhaps
            self.renewals += 1
            self._used_ns = self._now()
            if self._store.stamp() == self._stamp:  # else somebody has logged in meanwhile
                self._token = msgspec.structs.replace(token, used_ns=self._used_ns)
                await asyncio.to_thread(self._store.save, self._token)
                self._stamp = self._store.stamp()

    async def get(self, client: HistoryClient, request: HttpRequest) -> HttpResponse:
        """The answer to a signed GET, whatever its status but that of a token that is of no use.

        Raises LoginNeeded, OSError, ConfigError.
        """
        answer = await client.get(await self._signed(request))
        if answer.status == 401 and await self._refused(answer, again=False):
            answer = await client.get(await self._signed(request))
            if answer.status == 401:
                await self._refused(answer, again=True)
        return answer

    async def _signed(self, request: HttpRequest) -> HttpRequest:
        """Renews the token first where it may have fallen asleep."""
        token = self.token()
        if self._now() - self._used_ns >= self._login.how.renew_ns:
            await self._renew(token, self.renewals)
            token = self.token()
        self._used_ns = self._now()
        header = self._login.header(request.url, Credential(token.key, token.secret))
        return replace(request, secret_headers=(*request.secret_headers, header))

    def close(self) -> None:
        self._login.close()
