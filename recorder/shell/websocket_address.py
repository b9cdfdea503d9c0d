"""Before and around a WebSocket: which addresses and headers are right, TLS, and refusals in words without secrets."""

from __future__ import annotations

import ipaddress
import re
from email.utils import parsedate_to_datetime
from ssl import SSLContext, TLSVersion, create_default_context

from websockets.http11 import Response
from websockets.uri import WebSocketURI, parse_uri

from recorder.values.errors import ConfigError, UpgradeRefused
from recorder.values.feed import SECOND, Endpoint

BODY_EXCERPT_CHARS = 300  # of a refusal's body in the error: enough for a provider's sentence
REASON_BYTES_MAX = 123  # RFC 6455 §5.5: a control frame's payload without the code
SECRET_CHARS_MIN = 6  # a shorter header value ("1", "gzip") is no secret, and blanking it would garble the excerpt


def tls_context() -> SSLContext:
    """TLS 1.2 at least, 1.3 where the provider has it, certificates and host names verified by the system's store."""
    context = create_default_context()
    context.minimum_version = TLSVersion.TLSv1_2
    return context


def parse_address(endpoint: Endpoint, secure: str = "wss", plain: str = "ws") -> WebSocketURI:
    """Parse and check an endpoint's address and headers. Raises ConfigError; its text holds no secret.

    secure, plain  the schemes that it may have
    """
    where = place(endpoint.url)
    scheme, separator, rest = endpoint.url.partition("://")
    theirs = {secure: "wss", plain: "ws"}.get(scheme)
    try:
        address = parse_uri(f"{theirs}{separator}{rest}" if theirs else endpoint.url if secure == "wss" else "")
    except Exception as error:
        why = getattr(error, "msg", None) or "it cannot be parsed"
        kind = "WebSocket" if secure == "wss" else "HTTPS"
        raise ConfigError(f"url {where!r} is no {kind} address: {why}; write {secure}://host/path") from None
    if not address.secure and not _is_loopback(address.host):
        raise ConfigError(
            f"url {where!r} is not encrypted: {plain}:// is only for this machine (127.0.0.1, ::1); write {secure}://"
        )
    for name, value in endpoint.headers:
        if not re.fullmatch(r"[!#-'*+.^_`|~0-9A-Za-z-]+", name) or not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value):
            raise ConfigError(
                f"header {name!r} for {where} holds characters that HTTP forbids; is its secret read rightly?"
            )
    return address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def place(url: str) -> str:
    """An address for error texts, without user, query or fragment: keys live there."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])


def cut_reason(reason: str) -> str:
    return reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore")


def refusal(
    response: Response, endpoint: Endpoint, now_ns: int, wanted: str = "an upgrade", fatal: bool = False
) -> UpgradeRefused:
    """Another answer than wanted as an error: status, excerpt of the body without our secrets, Retry-After."""
    status, body = response.status_code, bytes(response.body).decode("utf-8", "replace")
    for _, value in endpoint.headers:
        if len(value) >= SECRET_CHARS_MIN:
            body = body.replace(value, "…")
    excerpt = " ".join(body.split())[:BODY_EXCERPT_CHARS]
    text = f"{place(endpoint.url)}: HTTP {status} {response.reason_phrase} instead of {wanted}"
    if 300 <= status < 400:
        target = place(next(iter(response.headers.get_all("Location")), "nowhere"))
        text += f", a redirect to {target}: redirects are not followed; set url to the provider's present address"
    wait = next(iter(response.headers.get_all("Retry-After")), "")
    retry_after_ns = _retry_after_ns(wait, now_ns)
    if retry_after_ns is not None:
        text += f", try again after {retry_after_ns / SECOND:g} s"
    return UpgradeRefused(f"{text}: {excerpt}" if excerpt else text, status, retry_after_ns, fatal)


def _retry_after_ns(wait: str, now_ns: int) -> int | None:
    """RFC 9110 §10.2.3: seconds, or a date; None when it is neither."""
    if re.fullmatch(r"[0-9]{1,9}", wait):
        return int(wait) * SECOND
    try:
        return max(0, int(parsedate_to_datetime(wait).timestamp()) * SECOND - now_ns)
    except (ValueError, OverflowError):
        return None
