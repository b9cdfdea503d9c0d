"""Captures: recordings of provider messages, ours and other people's, read as the frames they were.

Formats are told apart by content, plain or packed with gzip or zstd:

- a recorder journal: a segment, a folder of segments, or the lines of `recorder journal export`
- a cryptofeed log: ``ADDRESS <-> T``, ``ADDRESS <- T: TEXT``, ``T: TEXT``, ``URL -> T: TEXT``, ``configuration: JSON``;
  or its JSON lines (format 2), several connections in one
- hftbacktest lines: ``LOCAL JSON``, LOCAL in microseconds (16 digits) or nanoseconds (19 digits)
- JSON lines, our own export (``to_lines``): ``{"feed":"cb","spec":{…}}`` declares a feed, then one line a frame,
  ``{"ts_recv":1618677817061845000,"feed":"cb","payload":"…"}``; ``"kind"`` says "binary" (payload in base64), "opened",
  "closed" or "sent" where it is not a text frame
- a folder of any of these, read as one recording
- pcap or pcapng of IEX's TOPS, DEEP or DEEP+, as IEX publishes them (HIST): each segment of IEX-TP a frame
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from recorder.core.frames import BINARY, SOURCE, TEXT, Frames, frames_from_list
from recorder.core.history import HISTORY_CONNECTION
from recorder.core.observations import NO_SOURCE
from recorder.shell import capture_hftbacktest
from recorder.shell.capture_cryptofeed import cryptofeed, cryptofeed_2, is_format_2, is_seconds
from recorder.shell.capture_files import lines_of, magic_of, text_of, wrong_line
from recorder.shell.capture_formats import (
    KIND_NAMES,
    Capture,
    Item,
    export,
    exported_journal,
    journal,
    told_apart,
)
from recorder.shell.capture_hosts import VENUES
from recorder.shell.iex_hist import iex_hist
from recorder.shell.pcap import is_pcap
from recorder.values.errors import CaptureError
from recorder.values.feed import FeedSpec

__all__ = ["Capture", "Item", "merge", "name_for", "open_capture", "to_frames", "to_lines"]

LINES_BEFORE_MAX = 20  # that fit no format, before the first one that does: the recording's head is damaged
FILES_MAX = 1_000  # in a folder read as one recording: each is open while they are merged

FRAMES_BYTES_MAX = 1 << 20  # one Frames of a replay: as much as the pipeline is handed live in a busy 10 ms


def open_capture(path: str | Path, provider: str | None = None, options: dict[str, str] | None = None) -> Capture:
    """Recognise a recording and the feeds in it.

    provider, options  override what the recording says of itself
    Raises CaptureError when it is in none of the formats, or of a provider that is not known and was not given.
    """
    path = Path(path)
    if not path.exists():
        raise CaptureError(f"{path}: no such file or folder; name a journal, a journal segment or a capture file")
    if path.is_dir():
        return _folder(path, provider, options)
    if is_pcap(magic_of(path)):
        return iex_hist(path, provider, options)
    first, number = b"", 0
    for number, line in lines_of(path, peek=True):
        if not line.strip():
            continue
        read = _format_of(line)
        if read is not None:
            return read(path, provider, options)
        first = first or line
        if number >= LINES_BEFORE_MAX:
            break
    if first and (text_of(first) or "\0").isprintable():
        raise wrong_line(path, 1, "a cryptofeed log, hftbacktest lines (LOCAL JSON) or our JSON lines", first)
    if not number:
        raise CaptureError(f"{path}: is empty; name a journal, a journal segment or a capture file")
    return journal(path, provider, options)


Opener = Callable[[Path, "str | None", "dict[str, str] | None"], Capture]


def _format_of(line: bytes) -> Opener | None:
    """How a file is read in which this line is; None: it says nothing."""
    if line.startswith(b'{"format"'):
        return exported_journal
    if line.startswith(b"{"):
        if is_format_2(line):
            return cryptofeed_2
        return export if b'"feed"' in line else None
    if capture_hftbacktest.is_line(line):
        return capture_hftbacktest.hftbacktest
    head, _, rest = line.partition(b" ")
    timed = head.endswith(b":") and is_seconds(head[:-1])
    if timed or head == b"configuration:" or rest[:3] in (b"<->", b"<- ", b"-> "):
        return cryptofeed
    return None


def _folder(path: Path, provider: str | None, options: dict[str, str] | None) -> Capture:
    """A journal, or the recordings in a folder as one; files that are none are told at its end.

    Hidden files, and folders in it, are not looked at.
    """
    from recorder.shell.journal.segments import segment_info  # the journal brings Numba along

    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    if not files or any(segment_info(file) is not None for file in files):
        return journal(path, provider, options)
    if len(files) > FILES_MAX:
        raise CaptureError(f"{path}: {len(files):,} files; at most {FILES_MAX:,} are read as one recording, name some")
    found, refused = [], []
    for file in files:
        try:
            found.append(open_capture(file, provider, options))
        except CaptureError as error:
            refused.append(error)
    if not found:
        raise CaptureError(f"{path}: none of its {len(files):,} files can be read; the first: {refused[0]}")
    return merge(found, refused)


def to_frames(capture: Capture, bytes_max: int = FRAMES_BYTES_MAX) -> Iterator[Frames]:
    """Frames as a journal would hand them over: the sources first, then about ``bytes_max`` payload bytes in each.

    Of a journal they are its own, as they lie in it.
    Raises CaptureError after the last of them when not all of the recording could be read.
    """
    if capture.journal is not None:
        yield from capture.journal()
        return
    batch: list[tuple[int, int, int, bytes]] = []
    size, position, declared = 0, 0, False
    failure = None
    try:
        for index, kind, ts, payload in capture:
            if not declared:  # nothing has been collected yet
                batch = [(SOURCE, i, ts, msgspec.json.encode(spec)) for i, spec in enumerate(capture.specs)]
                declared = True
            batch.append((kind, index, ts, payload))
            size += len(payload)
            if size >= bytes_max:
                frames = frames_from_list(batch, position=position)
                yield frames
                position, size, batch = frames.end, 0, []
    except CaptureError as error:
        failure = error
    if batch:
        yield frames_from_list(batch, position=position)
    if failure is not None:
        raise failure


def to_lines(capture: Capture) -> Iterator[bytes]:
    """The recording as JSON lines, the format ``open_capture`` reads as our own export.

    What only a journal holds, such as answers of a history, is left out: `recorder journal export` carries it.
    """
    encode = msgspec.json.encode
    for spec in capture.specs:
        yield encode({"feed": _line_name(spec), "spec": spec}) + b"\n"
    names = [_line_name(spec) for spec in capture.specs]
    for index, kind, ts, payload in capture:
        if kind not in KIND_NAMES:
            continue
        line: dict[str, Any] = {"ts_recv": ts, "feed": names[index]}
        text = text_of(payload) if kind != BINARY else None
        if text is None:
            line |= {"kind": "binary", "payload": base64.b64encode(payload).decode()}
        else:
            line |= {} if kind == TEXT else {"kind": KIND_NAMES[kind]}
            line["payload"] = text
        yield encode(line) + b"\n"


def merge(captures: Iterable[Capture], refused: Sequence[CaptureError] = ()) -> Capture:
    """Several recordings as one, by receive time (ties in the order given).

    Recordings of one feed become connections 0, 1, 2 … of that feed; answers of its history stay such. Each must
    itself be in order of time. Successive segments of one journal are that journal.

    refused  what is told at its end of recordings that could not be opened
    """
    parts = list(captures)
    specs: list[FeedSpec] = []
    bases: list[int] = []
    used: dict[str, int] = {}
    for part in parts:
        bases.append(len(specs))
        for spec in part.specs:
            if spec.connection == HISTORY_CONNECTION:
                specs.append(spec)
                continue
            number = used.get(spec.name, 0)
            used[spec.name] = number + 1
            specs.append(msgspec.structs.replace(spec, connection=number))

    def read(whole: Capture) -> Iterator[Item]:
        def shifted(part: Capture, base: int) -> Iterator[Item]:
            try:
                for index, kind, ts, payload in part:
                    yield index if index == NO_SOURCE else base + index, kind, ts, payload
            except CaptureError as error:  # at its end: the others go on
                whole.also(error)

        for error in refused:
            whole.also(error)
        streams = [shifted(part, base) for part, base in zip(parts, bases, strict=True)]
        yield from heapq.merge(*streams, key=lambda item: item[2])
        whole.http = sum(part.http for part in parts)
        for part in parts:
            for what, count in part.skipped.items():
                whole.skipped[what] = whole.skipped.get(what, 0) + count

    return Capture(" + ".join(part.path for part in parts), specs, read, _successive(parts))


def _successive(parts: list[Capture]) -> Callable[[], Iterator[Frames]] | None:
    """The frames of segments that follow one another, in the order of the journal; None: they are something else."""
    ordered = sorted(parts, key=lambda part: part.extent)
    journals = [part.journal for part in ordered if part.journal is not None]
    if len(journals) < len(parts) or any(a.extent[1] != b.extent[0] for a, b in pairwise(ordered)):
        return None
    return lambda: chain.from_iterable(journal() for journal in journals)


def name_for(spec: FeedSpec, configured: Iterable[FeedSpec]) -> str:
    """The name of the configured feed of the same provider and options, so that replayed rows join recorded ones."""
    for other in configured:
        same = other.provider == spec.provider and told_apart(other) == told_apart(spec)
        if same and _venue(other) == _venue(spec):
            return other.name
    return spec.name


def _venue(spec: FeedSpec) -> tuple[str, str] | None:
    """Of a feed whose address is that of another venue than the provider's own."""
    return VENUES.get(urlsplit(spec.url or "").hostname or "")


def _line_name(spec: FeedSpec) -> str:
    return f"{spec.name}/{spec.connection}" if spec.connection else spec.name
