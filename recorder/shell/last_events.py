"""Where a stream of server-sent events goes on after a restart: after the last event that was journalled.

A small file beside the journal says it as of a position; at the next start the frames behind that position are read
for what came since. So it is exact, whatever moment a process was killed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from recorder.core.event_stream import read_event
from recorder.core.frames import TEXT
from recorder.core.session import Session
from recorder.shell.journal import Journal
from recorder.shell.journal.segments import replace_file
from recorder.values.errors import RecorderError
from recorder.values.feed import Feed, FeedSpec

NAME = "last_events"
EVERY_S = 5.0  # a start reads at most about twice this much of the journal
FEEDS_MAX = 1024  # remembered: the ones heard of last


class Log(Protocol):
    def warning(self, event: str, **fields: object) -> None: ...


class Left(msgspec.Struct):
    """Where a stream was left.

    id     its last event's, by the protocol
    after  what the feed asks for besides, see ``Feed``
    """

    id: str = ""
    after: str = ""


class Noted(msgspec.Struct):
    """What the file says: how things stood when the journal ended at ``position``."""

    position: int
    streams: dict[str, Left]


class LastEvents:
    """Made when the journal is open, before any feed connects.

    make  makes the feed of a spec; raises RecorderError for one that this version does not have
    """

    def __init__(self, journal: Journal, make: Callable[[FeedSpec], Feed], log: Log) -> None:
        self._journal, self._make = journal, make
        self._path = journal.directory / NAME
        self._sessions: dict[str, Session] = {}  # that have been begun, the newest of each stream
        self._left: dict[str, Left] = {}
        self._written: Noted | None = None
        if (noted := _read(self._path, log)) is not None:
            self._left = noted.streams
            self._catch_up(noted.position)

    def resume(self, spec: FeedSpec, session: Session) -> None:
        """A session that is to be opened for the first time goes on where the one before it, of this or an earlier
        process, was left."""
        key = _key(spec)
        self._look()
        left = self._left.pop(key, Left())
        self._left[key] = left  # at the end: heard of last
        self._sessions[key] = session
        session.events.last_event_id = left.id
        if left.after:
            session.feed.after = left.after  # type: ignore[attr-defined]  # it had one
        if not self._path.exists():  # from the first event on a start finds what was journalled
            self._write(Noted(self._journal.synced, dict(self._left)))

    async def keep(self) -> None:
        """Write the file every few seconds, for ever; an event whose frame a power loss may take is not noted yet."""
        noted = self._note()
        while True:
            await asyncio.sleep(EVERY_S)
            if self._journal.synced >= noted.position:
                await asyncio.to_thread(self._write, noted)
                noted = self._note()

    def close(self) -> None:
        """Write it as it is now; nothing is received any more."""
        noted = self._note()
        try:
            self._journal.sync()
        except OSError:
            return  # a full disk: the next start reads a little more
        self._write(noted)

    # Within

    def _look(self) -> None:
        for key, session in self._sessions.items():
            self._left[key] = Left(session.events.last_event_id, getattr(session.feed, "after", ""))
        for key in list(self._left)[:-FEEDS_MAX]:
            del self._left[key]
            self._sessions.pop(key, None)

    def _note(self) -> Noted:
        self._look()
        return Noted(self._journal.end, dict(self._left))

    def _write(self, noted: Noted) -> None:
        if not noted.streams or noted == self._written:
            return
        with suppress(OSError):  # a full disk has an alarm of its own
            replace_file(self._path, msgspec.json.encode(noted))
            self._written = noted

    def _catch_up(self, position: int) -> None:
        """Events that were journalled after ``position``."""
        streams = self._streams()
        own = list(streams)
        while own and (frames := self._journal.read(position)) is not None:
            for i in np.flatnonzero((frames.kinds == TEXT) & np.isin(frames.sources, own)).tolist():
                key, feed = streams[int(frames.sources[i])]
                event = frames.payload(i)
                feed.on_control(event)
                left = self._left.setdefault(key, Left())
                found = read_event(event).id
                left.id = left.id if found is None else found
                left.after = getattr(feed, "after", "") or left.after
            position = frames.end

    def _streams(self) -> dict[int, tuple[str, Feed]]:
        """Key of each stream of events that the journal knows, and a feed that reads them, by source."""
        found = {}
        for source, spec in self._journal.specs.items():
            with suppress(RecorderError):  # of another version, or not of this
                if (feed := self._make(spec)).capability().transport == "sse":
                    found[source] = _key(spec), feed
        return found


def _key(spec: FeedSpec) -> str:
    """The same stream, whatever is taken out of it."""
    return msgspec.json.encode(msgspec.structs.replace(spec, symbols=()), order="deterministic").decode()


def _read(path: Path, log: Log) -> Noted | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Noted)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        log.warning(
            "last_events.unreadable", file=str(path), reason=str(error), action="streams begin with what is new"
        )
        return None
