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


class FrameTooLong(RecorderError):
    """A frame above FRAME_BYTES_MAX; nothing was written."""


class JournalCorrupt(RecorderError):
    """A journal segment whose contents fail their checksum before the tail."""


class DatabaseError(RecorderError):
    """QuestDB could not be had, started, reached, or refused a statement."""


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
