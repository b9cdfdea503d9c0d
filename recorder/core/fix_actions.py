"""What a FIX session wants done, as values; the shell carries them out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Transmit:
    """Write these bytes. ``secret``: never to be logged or journalled."""

    payload: bytes
    secret: bool = False


@dataclass(frozen=True)
class LoggedOn:
    """The counterparty has answered our Logon."""


@dataclass(frozen=True)
class Deliver:
    """A message for the application, or the counterparty's word about one of ours (Reject, answered TestRequest)."""

    payload: bytes


@dataclass(frozen=True)
class Lost:
    """Messages with these numbers, both included, have not come; they have been asked for again."""

    first: int
    last: int


@dataclass(frozen=True)
class Drop:
    """Close the connection. ``refused``: our Logon was answered with no."""

    reason: str
    refused: bool = False


Action = Transmit | LoggedOn | Deliver | Lost | Drop
