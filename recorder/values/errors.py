"""Errors a user may meet. Each message says what, where, the value, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecorderError(Exception):
    """Base of every error this project raises on purpose; its text is meant for the user."""


class ConfigError(RecorderError):
    """A configuration file, an environment override or a command-line value that does not fit."""


class FrameError(RecorderError):
    """A frame that could not be decoded: it stays in the journal and is counted as rejected."""


class Limited(RecorderError):
    """A provider asks to be asked less.

    ``wait_s``  for how long it is to be left alone, None when it does not say
    """

    def __init__(self, text: str, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class FrameTooLong(RecorderError):
    """A frame above FRAME_BYTES_MAX; nothing was written."""


class JournalCorrupt(RecorderError):
    """A journal segment whose contents fail their checksum before the tail."""


class JournalFull(RecorderError):
    """No room for another journal segment. Nothing is lost that was appended; recording resumes when there is room.

    ``written``  how many frames of the call that raised are in the journal
    """

    def __init__(self, text: str, written: int = 0) -> None:
        super().__init__(text)
        self.written = written


class JournalLocked(RecorderError):
    """Another process, or another journal of this one, holds the directory."""


class SnapshotError(RecorderError):
    """A snapshot of the pipeline's state that cannot be read, or is of another version."""


class DatabaseError(RecorderError):
    """QuestDB could not be had, started, reached, or refused a statement."""


class ConnectError(RecorderError):
    """A provider's WebSocket could not be opened; trying again may help."""


class UpgradeRefused(ConnectError):
    """The provider answered the WebSocket upgrade, or the request for a stream of events, with another HTTP status.

    ``status``  of the answer; ``retry_after_ns``  what its Retry-After asks for, None without one
    ``fatal``   the same question will be answered the same until its asker has changed something
    """

    def __init__(self, text: str, status: int, retry_after_ns: int | None = None, fatal: bool = False) -> None:
        super().__init__(text)
        self.status, self.retry_after_ns, self.fatal = status, retry_after_ns, fatal


class LogonRefused(UpgradeRefused):
    """A FIX counterparty answered the Logon with a Logout or a Reject; ``status`` is 0."""


class ConnectionBroken(RecorderError):
    """An open WebSocket ended otherwise than by a closing handshake, or can no longer be written to."""


class LoginNeeded(RecorderError):
    """A provider that only a person can log in at wants that done, or done again."""


class CaptureError(RecorderError):
    """A capture file that is not in a format this project reads."""


class SymbolError(RecorderError):
    """A symbol that a provider could not have sent or the user should not have written."""


def nearest(value: str, known: Iterable[str]) -> str:
    """Return ``did you mean X? known: …`` for an error text."""
    names = sorted(known)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}known: {', '.join(names)}"
