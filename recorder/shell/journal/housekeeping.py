"""The journal's own thread: group sync, the next segment, sealing, compression, retention."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING

from recorder.shell.journal import packed
from recorder.shell.journal.recovery import NEXT, SCRATCH_SUFFIX, Held, write_released
from recorder.shell.journal.segments import (
    FILE_HEADER_BYTES,
    PACKED_SUFFIX,
    SUFFIX,
    Segment,
    segment_name,
    sync_directory,
    truncate,
)
from recorder.values.errors import JournalCorrupt, JournalFull

if TYPE_CHECKING:
    from recorder.shell.journal import Journal

AHEAD_BYTES = 8 << 20  # pages faulted in ahead of appending: 50 ms at 160 MB/s
BEHIND_BYTES = 8 << 20  # pages left mapped behind it, for the pipeline that follows
RETRY_S = 1.0  # between attempts to get a segment on a full disk
RELEASED_EVERY_S = 1.0  # the released position is written at most this often: a crash replays a second more
RETENTION_EVERY_S = 1.0
NICE = 10  # of this thread, where threads have one: compressing must not take a core from receiving
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Keeper:
    """What of a journal touches the disk. Other threads call ``take``, ``flush`` and ``wake`` only."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._flush_lock = threading.Lock()
        self._prepare_lock = threading.Lock()
        self._retry_at = self._released_at = self._retention_at = 0.0
        self._failed = ""  # the last error of a tick, so that it is logged once
        self._job: Generator[None, None, None] | None = None
        self._job_base = -1
        self._refused: set[int] = set()  # bases of segments that could not be compressed

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        """End the thread and leave the directory in order. Raises OSError when the last sync fails."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        journal = self._journal
        if self._job is not None:
            self._job.close()
            self._job = None
        for scratch in journal.directory.glob(f"*{SCRATCH_SUFFIX}"):
            scratch.unlink()
        self.flush()
        self._keep_released()
        if journal.next is not None:
            journal.next = None
            (journal.directory / NEXT).unlink(missing_ok=True)

    # Called by the appending thread.

    def take(self, size: int) -> Segment:
        """A blank segment of at least ``size`` bytes. Raises JournalFull."""
        journal = self._journal
        with journal.lock:
            prepared = journal.next
            if prepared is not None and len(prepared.data) >= size:
                journal.next = None
                return prepared
        if journal.paused_reason is not None:
            raise JournalFull(journal.paused_reason)
        with self._prepare_lock:
            with journal.lock:
                prepared = journal.next
                if prepared is not None and len(prepared.data) >= size:
                    journal.next = None
                    return prepared
            name = segment_name(journal.end, journal.now())
            try:
                return self._create(name, max(size, journal.segment_bytes))
            except OSError as error:
                raise JournalFull(self._pause(error)) from error

    def flush(self) -> None:
        """Sync everything appended before this call; name and cut sealed segments. Raises OSError."""
        journal = self._journal
        with self._flush_lock:
            began = journal.now()
            with journal.lock:
                pending = list(journal.unsynced)
            for segment in pending:
                sealed = segment.sealed  # read before ``used``, which is final once this is set
                used = segment.used
                self._name(segment)
                if used > segment.synced:
                    segment.sync(used)
                if sealed:
                    self._seal(segment, used)
                else:
                    segment.unmap(used - BEHIND_BYTES)
                journal.synced = max(journal.synced, segment.origin + used)
            journal.synced_until = began

    def _name(self, segment: Segment) -> None:
        """Give a segment that was prepared ahead its final name; make the directory entry durable."""
        if segment.named:
            return
        if segment.path.name == NEXT:
            path = segment.path.with_name(segment_name(segment.base, segment.created_ns))
            segment.path.rename(path)
            segment.path = path
            self._replace(segment.base, path=path)
        sync_directory(segment.path.parent)
        segment.named = True

    def _seal(self, segment: Segment, used: int) -> None:
        """Cut the file to what was used. The mapping stays longer; nobody reads past ``used``."""
        truncate(segment.path, used)
        segment.unmap(used)
        self._replace(segment.base, size=used)
        with self._journal.lock:
            self._journal.unsynced.remove(segment)

    def _replace(self, base: int, **changes: object) -> None:
        journal = self._journal
        with journal.lock:
            journal.held = tuple(
                Held(**{**vars(each), **changes}) if each.base == base else each for each in journal.held
            )

    # The thread.

    def _run(self) -> None:
        if sys.platform == "linux":
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        interval = self._journal.fsync_ns / 1e9
        due = time.monotonic()
        while not self._stopping:
            resting = self._job is None or self._journal.compression_paused
            if resting:
                self._wake.wait(max(0.0, due - time.monotonic()))
            if self._wake.is_set() or time.monotonic() >= due:
                self._wake.clear()
                due = time.monotonic() + interval
                self._guarded(self._tick)
            elif not resting:
                self._guarded(self._step)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Whatever goes wrong with one thing, syncing must go on; the same trouble is logged once."""
        try:
            work()
        except Exception as error:
            if str(error) != self._failed:
                self._failed = str(error)
                self._journal.log("journal.sync_failed", directory=str(self._journal.directory), reason=str(error))

    def _tick(self) -> None:
        journal, now = self._journal, time.monotonic()
        self.flush()
        self._prepare(now)
        if now >= self._released_at and journal.released != journal.released_kept:
            self._released_at = now + RELEASED_EVERY_S
            self._keep_released()
        with journal.lock:
            active = journal.unsynced[-1] if journal.unsynced else None
        if active is not None:
            active.populate(AHEAD_BYTES)
        if journal.next is not None:
            journal.rotate_due()
        if now >= self._retention_at:
            self._retention_at = now + RETENTION_EVERY_S
            while self._retire(early=False):
                pass
            if journal.retire_early:
                self._retire(early=True)
        if self._job is None and journal.compress:
            self._job = self._compress()
        if self._failed:
            self._failed = ""
            journal.log("journal.sync_resumed", directory=str(journal.directory))

    def _keep_released(self) -> None:
        """Write the released position; only then may what is before it go."""
        position = self._journal.released
        if position != self._journal.released_kept:
            write_released(self._journal.directory, position)
            self._journal.released_kept = position

    # The next segment.

    def _prepare(self, now: float) -> None:
        journal = self._journal
        with journal.lock:
            unnamed = any(segment.path.name == NEXT for segment in journal.unsynced)
        if journal.next is not None:
            self._resume()  # paused for a frame that needs more than a prepared segment: let it try again
            return
        if unnamed or now < self._retry_at:
            return
        with self._prepare_lock:
            try:
                segment = self._create(NEXT, journal.segment_bytes)
            except OSError as error:
                self._retry_at = now + RETRY_S
                if error.errno not in _NO_ROOM:
                    raise
                with suppress(OSError):
                    self._keep_released()  # what may go is what the file says, and it is written at its leisure
                if self._retire(early=True):
                    self._retry_at = 0.0
                    self.wake()
                    return
                self._pause(error)
                return
            segment.populate(AHEAD_BYTES)
            with journal.lock:
                journal.next = segment
        self._resume()

    def _resume(self) -> None:
        journal = self._journal
        if journal.paused_reason is not None:
            journal.paused_reason = None
            journal.log("journal.resumed", directory=str(journal.directory))

    def _create(self, name: str, size: int) -> Segment:
        directory = self._journal.directory
        disk = os.statvfs(directory)
        if disk.f_bavail * disk.f_frsize < self._journal.free_bytes_min + size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
        return Segment.create(directory / name, size)

    def _pause(self, error: OSError) -> str:
        """Note, and log once, that no segment can be had; return the reason."""
        journal = self._journal
        disk = os.statvfs(journal.directory)
        reason = (
            f"{journal.directory}: no room for the next segment of {journal.segment_bytes} bytes "
            f"({error.strerror or error}; {disk.f_bavail * disk.f_frsize} bytes free, {journal.free_bytes_min} to be "
            "left free): free disk space or lower [journal] keep_gb; recording resumes by itself"
        )
        if journal.paused_reason is None:
            journal.log("journal.paused", reason=reason)
        journal.paused_reason = reason
        return reason

    # Old segments.

    def _compress(self) -> Generator[None, None, None] | None:
        """The compression of the oldest segment that is sealed, wholly released and still raw; None without one."""
        journal = self._journal
        with journal.lock:
            busy = {segment.base for segment in journal.unsynced}
            held = journal.held
        for each in held:
            end = each.base + each.size - FILE_HEADER_BYTES
            if each.compressed or each.base in busy or each.base in self._refused:
                continue
            if end > journal.released_kept:
                return None
            self._job_base = each.base
            return self._compress_one(each)
        return None

    def _compress_one(self, held: Held) -> Generator[None, None, None]:
        journal = self._journal
        target = held.path.with_name(held.path.name.removesuffix(SUFFIX) + PACKED_SUFFIX)
        scratch = target.with_name(target.name + SCRATCH_SUFFIX)
        try:
            yield from packed.pack(held.path, scratch)
            size = scratch.stat().st_size
            scratch.replace(target)
            sync_directory(journal.directory)
        except (OSError, JournalCorrupt) as error:
            self._refused.add(held.base)
            scratch.unlink(missing_ok=True)
            journal.log("journal.compression_failed", file=held.path.name, reason=str(error))
            return
        self._replace(held.base, path=target, size=size, compressed=True)
        held.path.unlink(missing_ok=True)
        journal.log("journal.compressed", file=target.name, bytes=size, bytes_before=held.size)

    def _step(self) -> None:
        """One block of compression."""
        assert self._job is not None
        try:
            next(self._job)
        except StopIteration:
            self._job, self._job_base = None, -1
            self.wake()  # there may be more to compress

    def _retire(self, early: bool) -> bool:
        """Remove the oldest segment if it is released and past what is to be kept; ``early``: if it is released.

        The last segment always stays: it says where positions go on and declares the sources.
        """
        journal = self._journal
        held = journal.held
        if len(held) < 2 or journal.retention_paused:
            return False
        oldest, following = held[0], held[1]
        if following.base > journal.released_kept or oldest.base == self._job_base:
            return False
        with journal.lock:
            if any(segment.base == oldest.base for segment in journal.unsynced):
                return False
        old = journal.now() - following.created_ns > journal.keep_ns
        due = old or sum(each.size for each in held) > journal.keep_bytes
        if not (early or due):
            return False
        with journal.lock:
            journal.held = tuple(each for each in journal.held if each.base != oldest.base)
        oldest.path.unlink(missing_ok=True)
        reason = "past keep_days or keep_gb" if due else "the disk is filling"
        journal.log("journal.retired", file=oldest.path.name, bytes=oldest.size, reason=reason)
        return True
