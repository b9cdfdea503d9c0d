"""E*TRADE over HTTP: its OAuth 1.0a with everything that ends a token, and its market pages behind it.

https://apisb.etrade.com/docs/api/authorization/{request_token,authorize,get_access_token,renew_access_token}.html
Signatures are checked by oauthlib (of the extra ``test``), which knows nothing of the signer here.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import SimpleNamespace
from urllib.parse import parse_qs, quote, unquote, urlsplit

from recorder.shell.simulator.etrade_pages import Market, page
from recorder.shell.simulator.rest import SECOND_NS, Answer, Refused
from recorder.values.feed import HOUR, MINUTE
from recorder.values.schedule import NEW_YORK, day_boundaries

CLOCK_OFF_MAX_S = 300
CODE_NS = 5 * MINUTE
IDLE_NS = 2 * HOUR
PER_SECOND_MAX = 4
_PARAMETER = re.compile(r'(oauth_\w+)="([^"]*)"')


@dataclass
class _Token:
    """A request token or an access token. ``user``: who has let it in; of the first with a code."""

    secret: str
    issued: int
    used: int
    code: str = ""
    revoked: bool = False


class Etrade:
    """The provider, at ``url`` while it is entered as a context. Its log-in page answers with the code a person sees.

    consumers   key → secret
    now         Unix ns
    per_second  market requests of a user
    """

    def __init__(
        self,
        consumers: Mapping[str, str],
        market: Market | None = None,
        *,
        now: Callable[[], int] = time.time_ns,
        port: int = 0,
        per_second: int = PER_SECOND_MAX,
    ) -> None:
        self.market, self.now = market or Market(now), now
        self.asked: list[str] = []  # paths, with their parameters, of all requests that were let in
        self.problems: list[str] = []  # why the others were not
        self.failing: list[Answer] = []  # what to answer the next market requests with, on command
        self.access: dict[str, _Token] = {}
        self._consumers, self._per_second = dict(consumers), per_second
        self._requested: dict[str, _Token] = {}
        self._nonces: set[tuple[str, str]] = set()
        self._second, self._count = 0, 0
        self._lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Put it into ``rest_url`` of a feed."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Etrade:
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def revoke(self) -> None:
        """End every token at once."""
        for token in self.access.values():
            token.revoked = True

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Answer a GET. ``headers`` by lower-case names."""
        with self._lock:
            address = urlsplit(path)
            query = {name: values[-1] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
            try:
                if address.path == "/e/t/etws/authorize":
                    return self._let_in(query)
                url = f"http://{headers.get('host', '')}{path}"
                given = self._signed(url, headers.get("authorization", ""))
                if address.path.startswith("/oauth/"):
                    return self._oauth(address.path.removeprefix("/oauth/"), given)
                self._alive(given, renewing=False)
                self._paced()
                self.asked.append(path)
                if self.failing:
                    return self.failing.pop(0)
                return page(self.market, unquote(address.path), query)
            except Refused as refused:
                return refused.answer

    # OAuth

    def _problem(self, problem: str, more: str = "") -> Refused:
        self.problems.append(problem)
        return Refused(Answer(401, {"Error": {"message": f"oauth_problem={problem}{more}"}}))

    def _signed(self, url: str, authorization: str) -> dict[str, str]:
        """The oauth parameters of a request that is signed as it must be."""
        from oauthlib.oauth1.rfc5849 import signature

        given = {name: unquote(value) for name, value in _PARAMETER.findall(authorization)}
        for name in ("consumer_key", "nonce", "timestamp", "signature_method", "signature"):
            if not given.get(f"oauth_{name}"):
                raise self._problem("parameter_absent", f"&oauth_parameters_absent=oauth_{name}")
        if given["oauth_signature_method"] != "HMAC-SHA1":
            raise self._problem("signature_method_rejected")
        consumer = self._consumers.get(given["oauth_consumer_key"])
        if consumer is None:
            raise self._problem("consumer_key_rejected")
        now_s = self.now() // SECOND_NS
        if abs(int(given["oauth_timestamp"]) - now_s) > CLOCK_OFF_MAX_S:
            around = f"{now_s - CLOCK_OFF_MAX_S}-{now_s + CLOCK_OFF_MAX_S}"
            raise self._problem("timestamp_refused", f"&oauth_acceptable_timestamps={around}")
        key = given.get("oauth_token", "")
        token = self.access.get(key) or self._requested.get(key)
        if key and token is None:
            raise self._problem("token_rejected")
        parameters = signature.collect_parameters(
            uri_query=urlsplit(url).query, headers={"Authorization": authorization}, with_realm=False
        )
        request = SimpleNamespace(http_method="GET", uri=url, params=parameters, signature=given["oauth_signature"])
        if not signature.verify_hmac_sha1(request, consumer, token.secret if token else ""):
            raise self._problem("signature_invalid")
        once = (given["oauth_nonce"], given["oauth_timestamp"])
        if once in self._nonces:
            raise self._problem("nonce_used")
        self._nonces.add(once)
        return given

    def _oauth(self, step: str, given: Mapping[str, str]) -> Answer:
        now = self.now()
        if step == "request_token":
            if given.get("oauth_callback") != "oob":
                raise self._problem("parameter_rejected")
            key, token = _random(), _Token(_random(), now, now)
            self._requested[key] = token
            return _form(key, token.secret, "&oauth_callback_confirmed=true")
        if step == "access_token":
            requested = self._requested.pop(given.get("oauth_token", ""), None)
            if requested is None or not requested.code or requested.code != given.get("oauth_verifier"):
                raise self._problem("token_rejected")
            if now - requested.issued > CODE_NS:
                raise self._problem("token_expired")
            key = _random()
            self.access[key] = _Token(_random(), now, now)
            return _form(key, self.access[key].secret, "")
        if step == "renew_access_token":
            self._alive(given, renewing=True)
            return Answer(200, "Access Token has been renewed")
        if step == "revoke_access_token":
            self._alive(given, renewing=True).revoked = True
            return Answer(200, "Revoked Access Token")
        raise Refused(Answer(404, "not found"))

    def _let_in(self, query: Mapping[str, str]) -> Answer:
        """The page on which a person logs in, and is shown a code."""
        token = self._requested.get(query.get("token", ""))
        if token is None or query.get("key") not in self._consumers:
            return Answer(400, "<html><body>Due to a logon delay or other issue, please try again.</body></html>")
        token.code = "".join(secrets.choice("ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(5))
        return Answer(200, f'<html><body>Complete Authorization <input value="{token.code}"></body></html>')

    def _alive(self, given: Mapping[str, str], renewing: bool) -> _Token:
        """The access token of a request, unless it has ended, or sleeps."""
        token, now = self.access.get(given.get("oauth_token", "")), self.now()
        if token is None or token.revoked:
            raise self._problem("token_rejected")
        midnights = day_boundaries(NEW_YORK)
        if midnights.searchsorted(now, "right") != midnights.searchsorted(token.issued, "right"):
            raise self._problem("token_expired")
        if now - token.used > IDLE_NS and not renewing:
            raise self._problem("token_expired")
        token.used = now
        return token

    def _paced(self) -> None:
        second = self.now() // SECOND_NS
        self._second, self._count = second, self._count + 1 if second == self._second else 1
        if self._count > self._per_second:
            self.problems.append("too fast")
            raise Refused(Answer(429, {"Error": {"message": "Too many requests"}}))  # unverified

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer = provider.answer(self.path, {name.lower(): value for name, value in self.headers.items()})
                response = answer.response()
                self.send_response(response.status_code)
                for name, value in response.headers.raw_items():
                    if name.lower() != "connection":
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(response.body or b"")

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        return Handler


def _random() -> str:
    """With characters that must be escaped, as E*TRADE's tokens have."""
    return secrets.token_urlsafe(24) + "+/="


def _form(key: str, secret: str, more: str) -> Answer:
    return Answer(200, f"oauth_token={quote(key, safe='')}&oauth_token_secret={quote(secret, safe='')}{more}")
