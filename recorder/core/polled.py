"""POLLED frames: an answer to a poll, as the journal holds it.

Payload: a line of JSON (``Answer``), a newline, the body exactly as received, still packed if it was sent packed.
"""

from __future__ import annotations

import zlib

import msgspec

from recorder.values.errors import FrameError
from recorder.values.feed import HttpRequest, HttpResponse

UNPACKED_BYTES_MAX = 256 << 20  # the largest option chain seen is some tens of MB; a body of 16 MB may claim 16 GB
GZIP = 16 + zlib.MAX_WBITS  # of zlib: with gzip's header and checksum


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the body answers.

    key       of the poll
    url       what was asked, without secrets
    encoding  the answer's Content-Encoding, "gzip" or empty
    """

    key: str
    url: str = ""
    encoding: str = ""


def encode(answer: Answer, body: bytes) -> bytes:
    """The payload of a POLLED frame."""
    return msgspec.json.encode(answer) + b"\n" + body


def encoded(key: str, request: HttpRequest, response: HttpResponse) -> bytes:
    """The payload of the frame of an answer as received. ``key``: of the poll."""
    encoding = response.headers.get("content-encoding", "")
    return encode(Answer(key=key, url=request.url, encoding=encoding), response.body)


def decode(payload: bytes) -> tuple[Answer, bytes]:
    """What was answered, unpacked. Raises FrameError for anything that ``encode`` did not write."""
    head, newline, body = payload.partition(b"\n")
    if not newline:
        raise FrameError("answer to a poll without its line of JSON")
    try:
        answer = msgspec.json.decode(head, type=Answer)
    except msgspec.MsgspecError as error:
        raise FrameError(f"answer to a poll: {error}") from None
    return answer, unpacked(body, answer.encoding)


def unpacked(body: bytes, encoding: str) -> bytes:
    """A body as it was before its Content-Encoding. Raises FrameError where that is unknown or it is damaged."""
    if not encoding:
        return body
    if encoding != "gzip":
        raise FrameError(f"body in the unknown encoding {encoding[:40]!r}")
    reader = zlib.decompressobj(GZIP)
    try:
        plain = reader.decompress(body, UNPACKED_BYTES_MAX)
    except zlib.error as error:
        raise FrameError(f"damaged gzip: {error}") from None
    if not reader.eof:
        raise FrameError(f"gzip cut short, or of more than {UNPACKED_BYTES_MAX} bytes")
    return plain
