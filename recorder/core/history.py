"""RESPONSE frames: an answer of a provider's history, with what it was asked for, as the journal holds it.

Payload: a line of JSON (``Page``), a newline, the body exactly as received. What is said about a gap without asking,
such as that it is given up, has no body.
"""

from __future__ import annotations

import msgspec

from recorder.values.errors import FrameError
from recorder.values.feed import HistoryRequest

HISTORY_CONNECTION = -1  # of the source that answers are journalled under: no connection of the feed has this number

Identity = tuple[str, str, str, int, int, int]  # of a gap: feed, symbol, channel, kind, ts_event, from_id


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, or the decision to ask no more.

    gap      what it was asked for; None: a user asked
    request  what was asked for; may reach over several gaps of the series
    number   which of its pages, from 0
    url      without keys: these are sent in headers
    last     there is no further page
    reason   not empty: the gap is given up, for this reason
    """

    gap: Identity | None
    request: HistoryRequest
    number: int = 0
    url: str = ""
    status: int = 200
    last: bool = False
    reason: str = ""


def encode(page: Page, body: bytes = b"") -> bytes:
    """The payload of a RESPONSE frame."""
    return msgspec.json.encode(page) + b"\n" + body


def decode(payload: bytes) -> tuple[Page, bytes]:
    """What ``encode`` wrote. Raises FrameError for anything else."""
    head, newline, body = payload.partition(b"\n")
    if not newline:
        raise FrameError("answer of a history without its line of JSON")
    try:
        return msgspec.json.decode(head, type=Page), body
    except msgspec.MsgspecError as error:
        raise FrameError(f"answer of a history: {error}") from None
