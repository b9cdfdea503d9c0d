"""One GET of a provider's HTTP interface, in a thread of its own, every wait and every size bounded."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Protocol
from urllib.parse import quote, urlencode, urlsplit

from recorder import __version__
from recorder.core.polled import unpacked
from recorder.shell.sink.http_client import Address, HttpConnection
from recorder.values.config_check import is_loopback
from recorder.values.errors import ConfigError, FrameError, Limited
from recorder.values.feed import HttpRequest, HttpResponse

BODY_BYTES_MAX = 8 << 20  # 10,000 trades of Alpaca are under 2 MB; what is journalled must fit a frame
TIMEOUT_S = 10.0  # for a whole answer
SECRET_CHARS_MIN = 8  # shorter words are no secrets: struck out, they would mangle an answer
EXCERPT_CHARS = 200
BUSY = (408, 425, 500, 502, 503, 504)  # statuses of a server that has a problem: another try may succeed
PASSING = (*BUSY, 413, 499)  # also of those in between that gave up on the provider
LIMITED = (418, 429)  # statuses of one that is asked too much
BANNED_S = {418: 300.0, 403: 600.0}  # the shortest pauses after these, whatever else is said: who asks is banned
WORDS_BYTES_MAX = 1000  # of an answer that can hold a provider's words for that; those with data are longer
# When a limit is over, of providers that name the moment: since 1970, in parts of a second.
RESETS = {"x-ratelimit-reset": 1, "x-bapi-limit-reset-timestamp": 1000}
_HEADER_NAME = re.compile(r"[!#-'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


class Signer(Protocol):
    """A login's session, see shell/login.py."""

    async def get(self, client: HistoryClient, request: HttpRequest) -> HttpResponse: ...


class HistoryClient:
    """Keeps one connection to the server asked last. For one task at a time; ``close`` may come at any moment."""

    def __init__(self, body_bytes_max: int = BODY_BYTES_MAX, timeout_s: float = TIMEOUT_S) -> None:
        self._connection: HttpConnection | None = None
        self._body_bytes_max, self._timeout_s = body_bytes_max, timeout_s

    async def get(self, request: HttpRequest) -> HttpResponse:
        """The answer, whatever its status. Raises OSError, or ConfigError for what must not be asked."""
        parts = urlsplit(request.url)
        secure = parts.scheme == "https"
        if not parts.hostname or not (secure or (parts.scheme == "http" and is_loopback(parts.hostname))):
            raise ConfigError(f"{parts.scheme}://{parts.hostname} is not encrypted: set rest_url to https://…")
        port = parts.port or (443 if secure else 80)
        address = Address(parts.hostname, port, secure, request_timeout_s=self._timeout_s)
        if self._connection is None or self._connection.address != address:
            self.close()
            self._connection = HttpConnection(address, self._body_bytes_max)
        query = "&".join(part for part in (parts.query, urlencode(request.secret_query, quote_via=quote)) if part)
        target = (parts.path or "/") + (f"?{query}" if query else "")
        headers = {"User-Agent": f"recorder/{__version__}", "Accept": "application/json"}
        headers |= dict((*request.headers, *request.secret_headers))
        lines = [_line(*header) for header in headers.items()]
        answer = await asyncio.to_thread(self._connection.request, "GET", target, b"", "".join(lines))
        return without_secrets(request, HttpResponse(answer.status, answer.headers, answer.body))

    async def get_signed(self, request: HttpRequest, signer: Signer | None) -> HttpResponse:
        """As ``get``, by ``signer`` where the request wants to be signed."""
        return await (signer.get(self, request) if signer is not None and request.sign else self.get(request))

    def close(self) -> None:
        """End a request under way: it raises OSError where it is awaited."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None


def _line(name: str, value: str) -> str:
    if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        raise ConfigError(f"header {name!r} holds characters that HTTP forbids; is its secret read rightly?")
    return f"{name}: {value}\r\n"


def without_secrets(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """The answer with every secret it was asked with struck out: some providers repeat a key in their refusals."""
    values = (value for _, value in (*request.secret_headers, *request.secret_query))
    words = {word.encode() for value in values for word in value.split() if len(word) >= SECRET_CHARS_MIN}
    if not words:
        return response
    body, headers = response.body, response.headers
    if headers.get("content-encoding"):
        try:
            body = unpacked(body, headers["content-encoding"])
        except FrameError:
            return response  # nobody can read it
    found = [word for word in words if word in body]
    if not found:
        return response
    for word in found:
        body = body.replace(word, "…".encode())
    return HttpResponse(response.status, {**headers, "content-encoding": ""}, body)


def excerpt(response: HttpResponse) -> str:
    """The first words of an answer, for a log line."""
    try:
        body = unpacked(response.body, response.headers.get("content-encoding", ""))
    except FrameError:
        return "unreadable"
    return " ".join(body[:2000].decode("utf-8", "replace").split())[:EXCERPT_CHARS]


def limited(response: HttpResponse, words: tuple[bytes, ...], now_s: float) -> Limited | None:
    """How an answer says that its provider is asked too much: by its status, or by one of ``words``; else None."""
    status, body = response.status, response.body
    if status not in LIMITED and not (len(body) <= WORDS_BYTES_MAX and any(word in body for word in words)):
        return None
    asked_s = retry_after_s(response.headers, now_s)
    if status in BANNED_S:
        asked_s = max(BANNED_S[status], asked_s or 0.0)
    return Limited(f"HTTP {status} {excerpt(response)}".strip(), asked_s)


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """RFC 9110 §10.2.3: seconds, or a date; else of a provider's own header; None when it says neither."""
    text = headers.get("retry-after", "")
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    for name, parts in RESETS.items():
        if re.fullmatch(r"[0-9]{10,13}", headers.get(name, "")) and (wait_s := int(headers[name]) / parts - now_s) > 0:
            return wait_s
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, OverflowError, TypeError):
        return None
