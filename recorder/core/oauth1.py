"""OAuth 1.0a: what a signed request carries, by HMAC-SHA1. Sans I/O: the time and the nonce are passed in.

https://www.rfc-editor.org/rfc/rfc5849 (§3.4 signature, §3.5.1 header, §3.6 percent encoding)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from recorder.values.errors import FrameError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PAIRS_MAX = 64  # parameters of an answer of a token endpoint: two or three


@dataclass(frozen=True)
class Credential:
    """A key and its shared secret: of the consumer (us), or a token. ``repr`` shows neither."""

    key: str = field(repr=False)
    secret: str = field(repr=False)


NO_TOKEN = Credential("", "")


def escaped(text: str) -> str:
    """§3.6: everything but the unreserved characters, UTF-8, upper-case hexadecimal."""
    return quote(text, safe="-._~")


def base_string(method: str, url: str, parameters: Iterable[tuple[str, str]]) -> str:
    """§3.4.1: what is signed. ``parameters``: those of the header; those of the query are taken from ``url``."""
    address = urlsplit(url)
    host = (address.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = "" if address.port in (None, _DEFAULT_PORTS.get(address.scheme)) else f":{address.port}"
    given = [*parse_qsl(address.query, keep_blank_values=True), *parameters]
    pairs = sorted((escaped(name), escaped(value)) for name, value in given)
    normal = "&".join(f"{name}={value}" for name, value in pairs)
    place = f"{address.scheme.lower()}://{host}{port}{address.path or '/'}"
    return "&".join((method.upper(), escaped(place), escaped(normal)))


def signature(base: str, consumer_secret: str, token_secret: str) -> str:
    """§3.4.2: HMAC-SHA1 in base64."""
    key = f"{escaped(consumer_secret)}&{escaped(token_secret)}"
    return base64.b64encode(hmac.digest(key.encode(), base.encode(), hashlib.sha1)).decode()


def authorization(
    method: str, url: str, consumer: Credential, token: Credential, *, time_s: int, nonce: str,
    extra: Iterable[tuple[str, str]] = (),
) -> str:  # fmt: skip
    """The Authorization header of one request.

    url    as it is sent, query included
    token  NO_TOKEN while there is none
    extra  further oauth_… parameters: oauth_callback, oauth_verifier
    """
    parameters = [
        ("oauth_consumer_key", consumer.key),
        ("oauth_nonce", nonce),
        ("oauth_signature_method", "HMAC-SHA1"),
        ("oauth_timestamp", str(time_s)),
        ("oauth_version", "1.0"),
        *extra,
    ]
    if token.key:
        parameters.append(("oauth_token", token.key))
    signed = signature(base_string(method, url, parameters), consumer.secret, token.secret)
    listed = sorted([*parameters, ("oauth_signature", signed)])
    return "OAuth " + ",".join(f'{escaped(name)}="{escaped(value)}"' for name, value in listed)


def token_of(body: bytes) -> Credential:
    """The token in a form-encoded answer of a token endpoint. Raises FrameError, which repeats nothing of it."""
    try:
        pairs = dict(parse_qsl(body.decode("ascii").strip(), strict_parsing=True, max_num_fields=_PAIRS_MAX))
        return Credential(pairs["oauth_token"], pairs["oauth_token_secret"])
    except (UnicodeDecodeError, ValueError, KeyError):
        raise FrameError(f"an answer of {len(body)} bytes that holds no oauth_token and oauth_token_secret") from None


def problem_of(body: bytes) -> str:
    """``token_expired`` of ``oauth_problem=token_expired`` anywhere in an answer, HTML or JSON; empty without one."""
    _, found, rest = body[:4096].decode("utf-8", "replace").partition("oauth_problem=")
    word = "".join(c if c.isalnum() or c == "_" else " " for c in unquote(rest[:80])).split(" ")[0]
    return word if found else ""
