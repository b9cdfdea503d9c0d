"""One GET of a provider's history, in a thread of its own, every wait and every size bounded."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from recorder import __version__
from recorder.shell.sink.http_client import Address, HttpConnection
from recorder.values.config_check import is_loopback
from recorder.values.errors import ConfigError
from recorder.values.feed import HttpRequest, HttpResponse

BODY_BYTES_MAX = 8 << 20  # 10,000 trades of Alpaca are under 2 MB; what is journalled must fit a frame
TIMEOUT_S = 10.0  # for a whole answer
_HEADER_NAME = re.compile(r"[!#-'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


class HistoryClient:
    """Keeps one connection to the server asked last. For one task at a time; ``close`` may come at any moment."""

    def __init__(self) -> None:
        self._connection: HttpConnection | None = None

    async def get(self, request: HttpRequest) -> HttpResponse:
        """The answer, whatever its status. Raises OSError, or ConfigError for what must not be asked."""
        parts = urlsplit(request.url)
        secure = parts.scheme == "https"
        if not parts.hostname or not (secure or (parts.scheme == "http" and is_loopback(parts.hostname))):
            raise ConfigError(f"{parts.scheme}://{parts.hostname} is not encrypted: set rest_url to https://…")
        address = Address(parts.hostname, parts.port or (443 if secure else 80), secure, request_timeout_s=TIMEOUT_S)
        if self._connection is None or self._connection.address != address:
            self.close()
            self._connection = HttpConnection(address, BODY_BYTES_MAX)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        own = (("User-Agent", f"recorder/{__version__}"), ("Accept", "application/json"))
        lines = [_line(*header) for header in (*own, *request.headers, *request.secret_headers)]
        answer = await asyncio.to_thread(self._connection.request, "GET", target, b"", "".join(lines))
        return HttpResponse(answer.status, answer.headers, answer.body)

    def close(self) -> None:
        """End a request under way: it raises OSError where it is awaited."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None


def _line(name: str, value: str) -> str:
    if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        raise ConfigError(f"header {name!r} holds characters that HTTP forbids; is its secret read rightly?")
    return f"{name}: {value}\r\n"


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """RFC 9110 §10.2.3: seconds, or a date; None when it is neither."""
    text = headers.get("retry-after", "")
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, OverflowError, TypeError):
        return None
