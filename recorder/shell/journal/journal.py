"""The journal: every frame as received, in memory-mapped segment files, readable by position at once.

One thread appends, one thread reads (it may be the same); a thread of the journal's own makes what was appended
durable, prepares the next segment, compresses and retires old ones. Nothing on the appending side waits for a disk,
except when it outruns the preparation of segments.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from recorder.core.frames import (
    COLUMNS,
    ENDS,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    SOURCE,
    Frames,
    frames_from_list,
    write_frames,
    write_one,
)
from recorder.shell.journal import housekeeping, recovery
from recorder.shell.journal.housekeeping import Held
from recorder.shell.journal.segments import FILE_HEADER_BYTES, READ_FRAMES_MAX, Segment
from recorder.values.errors import FrameTooLong, JournalFull, RecorderError
from recorder.values.feed import FeedSpec

SEGMENT_BYTES = 64 << 20  # some 400,000 frames; what a crash must scan and what a prepared segment takes up
SEGMENT_BYTES_MIN = 4096
READ_BYTES = 1 << 20  # of one read unless told otherwise: 2 ms of decoding
OPENED_SEGMENTS_MAX = 2  # besides the one appended to: the pipeline reads one, something else another
SOURCES_MAX = 0xFFFF  # the id is a u16; the last one means no source
SOURCES_CARRIED_MAX = 1024  # declarations taken over from an earlier run once everything is released: 400 KB a segment

DAMAGES_LOGGED_MAX = 4096  # of one run; a disk that goes on failing is known by then

Log = Callable[..., None]


def _silent(event: str, **fields: Any) -> None:
    """No log."""


class Journal:
    """Frames by position: append, read, sync, release. Nothing outside knows that files exist.

    released       position up to which rows are applied; survives restarts
    synced         position up to which frames survive a power loss
    synced_until   time, ns, before which everything appended does
    paused_reason  why no further segment can be had (appending still works while the current one has room), or None
    retention_paused  set it to keep even what is released and old
    compression_paused  set it to leave segments as they are for now
    retire_early   set it to have released segments removed before their time, one a second
    ``log`` is also called from the journal's own thread.
    """

    def __init__(
        self,
        directory: Path,
        segment_bytes: int,
        fsync_ns: int,
        rotate_ns: int,
        keep_ns: int,
        keep_bytes: int,
        free_bytes_min: int,
        compress: bool,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        """Use ``Journal.open``."""
        self.directory, self.segment_bytes = directory, segment_bytes
        self.fsync_ns, self.rotate_ns, self.keep_ns, self.keep_bytes = fsync_ns, rotate_ns, keep_ns, keep_bytes
        self.free_bytes_min, self.compress = free_bytes_min, compress
        self.now, self.log = now, log
        self.retention_paused = self.retire_early = self.compression_paused = False
        self.paused_reason: str | None = None
        self._damages: set[tuple[str, int]] = set()
        self._lock_fd = recovery.lock(directory)
        try:
            found = recovery.recover(directory, self._log_found)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self.released = self.released_kept = found.released
        forget = len(found.specs) > SOURCES_CARRIED_MAX and found.released >= found.end
        self._specs: dict[int, FeedSpec] = {} if forget else found.specs
        self._ids = {_encode(spec): number for number, spec in self._specs.items()}
        # Rows may have been applied from frames that a power loss took: their positions must not be given out again.
        base = max(found.end, found.released)
        self.synced = base
        self.synced_until = now()
        self.lock = threading.Lock()  # held for a few assignments when a segment is begun or retired
        self.held: tuple[Held, ...] = tuple(found.held)
        self.next: Segment | None = None
        self.unsynced: list[Segment] = []
        self._active = Segment.closed(base)
        self._opened: OrderedDict[int, Segment] = OrderedDict()
        self._out = np.empty((COLUMNS, READ_FRAMES_MAX), np.int64)
        self._rotate = False
        self._closed = False
        self._keeper = housekeeping.Keeper(self)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        fsync_ms: int = 50,
        rotate_s: int = 3600,
        keep_days: float = 7.0,
        keep_gb: float = 20.0,
        free_bytes_min: int = 0,
        compress: bool = True,
        now: Callable[[], int] = time.time_ns,
        log: Log | None = None,
    ) -> Journal:
        """Open or create the journal of a directory, repairing what a crash left.

        free_bytes_min  leave this much of the disk free: recording pauses before
        keep_days, keep_gb  for released segments; what is not released is never removed
        Raises JournalLocked when the directory is in use, OSError when it cannot be made or read.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        journal = cls(
            directory,
            max(segment_bytes, SEGMENT_BYTES_MIN),
            int(fsync_ms) * 1_000_000,
            rotate_s * 1_000_000_000,
            int(keep_days * 86_400) * 1_000_000_000,
            int(keep_gb * 1e9),
            free_bytes_min,
            compress,
            now,
            _silent if log is None else log,
        )
        journal._keeper.start()
        return journal

    # Appending.

    def source(self, spec: FeedSpec) -> int:
        """The id of a connection's spec; a new one is declared in the journal. Ids keep their meaning over restarts."""
        declared = _encode(spec)
        number = self._ids.get(declared)
        if number is None:
            if len(self._specs) >= SOURCES_MAX:
                raise RecorderError(
                    f"{self.directory}: {SOURCES_MAX} sources are declared and a new one is asked for by {spec.name}; "
                    "restart when the database has caught up"
                )
            number = next(n for n in range(len(self._specs), -1, -1) if n not in self._specs)
            self.append(number, SOURCE, self.now(), declared)
            self._specs[number], self._ids[declared] = spec, number
        return number

    def append(self, source: int, kind: int, ts_recv: int, payload: bytes) -> int:
        """Add one frame; return the position just past it.

        The frame survives a crash of the process from now on, a power loss once ``synced`` is at or past the position.
        Raises FrameTooLong before anything is written, JournalFull when there is no room.
        """
        if self._rotate:
            self._roll_early()
        active = self._active
        stop = write_one(active.buffer, active.used, source, kind, ts_recv, payload)
        if stop < 0:
            self._roll(HEADER_BYTES + len(payload))
            active = self._active
            stop = write_one(active.buffer, active.used, source, kind, ts_recv, payload)
        active.used = stop
        return active.origin + stop

    def append_frames(
        self,
        source: int,
        ts_recv: int,
        chunk: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        opcodes: np.ndarray,
        count: int,
    ) -> int:
        """Add the frames of a chunk of bytes, all received at ``ts_recv``; return the position past the last.

        chunk            (n,) uint8
        starts, lengths  (count or more,) int64, of each payload within the chunk
        opcodes          (count or more,) uint8: 1 text, 2 binary
        Raises FrameTooLong before anything is written, JournalFull (``written`` frames are in) when there is no room.
        """
        if self._rotate:
            self._roll_early()
        done = 0
        active = self._active
        while True:
            written, used = write_frames(
                active.data, active.used, source, opcodes, ts_recv, chunk, starts, lengths, done, count
            )
            if written < 0:
                raise FrameTooLong(
                    f"source {source}: a frame lies outside its chunk of {len(chunk)} bytes or is longer than "
                    f"{FRAME_BYTES_MAX}; lengths {lengths[done:count].min()} to {lengths[done:count].max()}"
                )
            active.used = used
            done += written
            if done >= count:
                return active.origin + used
            try:
                self._roll(HEADER_BYTES + int(lengths[done]))
            except JournalFull as error:
                error.written = done
                raise
            active = self._active

    def rotate(self) -> None:
        """Begin a new segment with the next frame, so that the present one is sealed."""
        if self._active.used > FILE_HEADER_BYTES:
            self._rotate = True

    def _roll_early(self) -> None:
        """Rotate when that is possible; on a full disk what is left of the segment is still good."""
        self._rotate = False
        with suppress(JournalFull):
            self._roll(0)

    def _roll(self, need: int) -> None:
        """Begin the next segment, with every source declared, and room for ``need`` bytes more."""
        if self._closed:
            raise RecorderError(f"{self.directory}: the journal is closed; nothing can be appended")
        created = self.now()
        declared = [(number, _encode(spec)) for number, spec in sorted(self._specs.items())]
        size = FILE_HEADER_BYTES + sum(HEADER_BYTES + len(payload) for _, payload in declared) + need
        segment = self._keeper.take(size)
        base = self._active.end
        segment.start(base, created)
        for number, payload in declared:
            segment.used = write_one(segment.buffer, segment.used, number, SOURCE, created, payload)
        previous, self._rotate = self._active, False
        previous.sealed = True  # from here on its ``used`` is final
        with self.lock:
            self.held = (*self.held, Held(segment.path, base, created, len(segment.data), False))
            self.unsynced.append(segment)
            self._active = segment
        if previous.used > FILE_HEADER_BYTES:
            self._remember(previous)
        self._keeper.wake()

    # Reading.

    @property
    def end(self) -> int:
        """Position past the last frame appended."""
        return self._active.end

    @property
    def begin(self) -> int:
        """The oldest position still held."""
        held = self.held
        return held[0].base if held else self.end

    @property
    def held_bytes(self) -> int:
        """What the segments take up on disk."""
        return sum(each.size for each in self.held)

    @property
    def specs(self) -> dict[int, FeedSpec]:
        """Every source id in use and what it stands for."""
        return dict(self._specs)

    def declarations(self, position: int) -> Frames:
        """The SOURCE frames a reader must see before it starts in the middle, as if they stood just before there."""
        listed = [(SOURCE, number, 0, _encode(spec)) for number, spec in sorted(self._specs.items())]
        frames = frames_from_list(listed)
        frames.ends[:] = position
        frames.end = position
        return frames

    def read(self, position: int, bytes_max: int = READ_BYTES) -> Frames | None:
        """Frames from ``position`` on, at least one and at most about ``bytes_max`` bytes; None at the end.

        The data is a view into the segment, valid as long as the result is held. A position that is no longer held
        means the oldest that is. Damaged stretches are logged and passed over.
        """
        while True:
            active = self._active
            if position >= active.end:
                return None
            segment = active
            if position < active.base:
                held = self.held
                place = max(bisect_right(held, position, key=lambda each: each.base) - 1, 0)
                position = max(position, held[place].base)
                if held[place].base < active.base:
                    opened = self._open(held[place])
                    limit = held[place + 1].base if place + 1 < len(held) else active.base
                    if opened is None or position >= min(opened.end, limit):
                        position = limit
                        continue
                    segment = opened
            offset = position - segment.origin
            if active.end - position > housekeeping.BEHIND_BYTES:
                segment.unmap_read(offset)
            count, following, damage = segment.walk(offset, offset + bytes_max, not segment.trusted, self._out)
            if damage is not None:
                recovery.log_damage(self._log_once, segment, damage)
            if count:
                return self._frames(segment, count)
            position = segment.origin + following

    def _frames(self, segment: Segment, count: int) -> Frames:
        table = self._out[:, :count].copy()
        return Frames(segment.data, table, int(table[ENDS, count - 1]))

    def _open(self, held: Held) -> Segment | None:
        """The segment of an entry, from the cache or the disk; None, logged, when nothing of it can be read."""
        segment = self._opened.get(held.base)
        if segment is None:
            with self.lock:  # still being sealed: the file is about to be cut, so it must not be mapped anew
                segment = next((each for each in self.unsynced if each.base == held.base), None)
            if segment is not None:
                return segment
            segment = recovery.load(held.path, self._log_once)
            if segment is None:
                # Retired between look-up and opening, or compressed: the entry knows where it is now.
                again = next((each for each in self.held if each.base == held.base), None)
                segment = recovery.load(again.path, self._log_once) if again is not None and again != held else None
            if segment is None:
                return None
            self._remember(segment)
        self._opened.move_to_end(held.base)
        return segment

    def _log_found(self, event: str, **fields: Any) -> None:
        """While recovering: damage that is told now is not told again by a read."""
        (self._log_once if event == "journal.corrupt" else self.log)(event, **fields)

    def _log_once(self, event: str, **fields: Any) -> None:
        """Log damage the first time it is met: a segment may be opened and read many times."""
        key = (str(fields["file"]), int(fields["at"]))
        if key not in self._damages and len(self._damages) < DAMAGES_LOGGED_MAX:
            self._damages.add(key)
            self.log(event, **fields)

    def _remember(self, segment: Segment) -> None:
        self._opened[segment.base] = segment
        while len(self._opened) > OPENED_SEGMENTS_MAX:
            self._opened.popitem(last=False)

    # Durability.

    def sync(self) -> int:
        """Wait until everything appended so far is durable; return the position. Raises OSError."""
        self._keeper.flush()
        return self.synced

    def release(self, position: int) -> None:
        """Everything before ``position`` is applied: it may be compressed, and removed when retention says so."""
        if position > self.released:
            self.released = position

    def close(self) -> None:
        """Make everything durable, cut the last segment to what it holds, and let the directory go."""
        if self._closed:
            return
        self._closed = True
        base = self._active.end
        self._active.sealed = True
        self._active, self._rotate = Segment.closed(base), False
        try:
            self._keeper.stop()
        finally:
            self._opened.clear()
            os.close(self._lock_fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rotate_due(self) -> None:
        """Called by the keeper: seal the segment when it is older than ``rotate_ns``."""
        active = self._active
        if active.used > FILE_HEADER_BYTES and not active.sealed and self.now() - active.created_ns >= self.rotate_ns:
            self._rotate = True


def _encode(spec: FeedSpec) -> bytes:
    return msgspec.json.encode(spec, order="deterministic")
