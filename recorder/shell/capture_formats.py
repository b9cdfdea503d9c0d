"""The formats of captures: how each is read. ``captures`` tells them apart and is what others import."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import zstandard

from recorder.core.frames import (
    BINARY,
    CLOCK,
    CLOSED,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    OBSERVED,
    OPENED,
    POLLED,
    RESPONSE,
    SENT,
    SOURCE,
    TEXT,
    Frames,
)
from recorder.core.observations import NO_SOURCE
from recorder.shell.capture_files import lines_of, wrong_line
from recorder.shell.capture_hosts import HOSTS
from recorder.values.errors import CaptureError, RecorderError
from recorder.values.feed import FeedSpec

Item = tuple[int, int, int, bytes]  # index into specs (or NO_SOURCE), kind, ts_recv in ns, payload

FAULTS_TOLD_MAX = 20  # of several recordings read as one: what each said, at most
TS_MAX = 1 << 63  # ns since 1970: the year 2262; later ones are no times of this world

_PLAIN = {
    ("alpaca", "feed"): "iex",
    ("binance", "market"): "spot",
    ("bybit", "market"): "spot",
    ("coinbase", "api"): "exchange",
}  # option values that a name leaves out
_KINDS = {"text": TEXT, "binary": BINARY, "opened": OPENED, "closed": CLOSED, "sent": SENT}
KIND_NAMES = {code: name for name, code in _KINDS.items()}
_JOURNALLED = {*KIND_NAMES, RESPONSE, POLLED, CLOCK, OBSERVED}
_NOBODYS = (CLOCK, OBSERVED)  # kinds of frames that no connection received


class Capture:
    """A recording. Iterating (again and again, from the start) gives ``(index into specs, kind, ts_recv, payload)``.

    specs    the feeds in it, in order of appearance; known at once, renamed in place if the caller likes
    frames   text and binary frames of the last iteration so far
    http     HTTP answers left out of it
    skipped  what else was left out, by kind: "blank", "configuration", "rest"
    journal  gives a journal's frames as it holds them, declarations and positions included; None where it is none, or
             is to be read as another provider's
    extent   where a journal's frames begin and end, as positions
    What does not fit is passed over: iterating gives all that can be read, and raises CaptureError at its end, with how
    much did not fit and what was the first of it.
    """

    def __init__(
        self,
        path: str,
        specs: list[FeedSpec],
        read: Callable[[Capture], Iterator[Item]],
        journal: Callable[[], Iterator[Frames]] | None = None,
    ) -> None:
        self.path, self.specs, self._read, self.journal = path, specs, read, journal
        self.extent = (0, 0)
        self.frames = self.http = self._wrong = 0
        self.skipped: dict[str, int] = {}
        self._faults: list[str] = []

    def __iter__(self) -> Iterator[Item]:
        self.frames = self.http = self._wrong = 0
        self.skipped, self._faults = {}, []
        try:
            for item in self._read(self):
                if len(item[3]) > FRAME_BYTES_MAX:
                    told = f"a frame of {len(item[3]):,} bytes, received at {item[2]} ns; at most {FRAME_BYTES_MAX:,}"
                    self.pass_over(CaptureError(f"{self.path}: {told}"))
                    continue
                self.frames += item[1] in (TEXT, BINARY)
                yield item
        except CaptureError as error:  # nothing behind it can be read
            self.also(error)
        if self._faults:
            if self._wrong > 1:
                self._faults[0] += f" ({self._wrong:,} lines do not fit and were passed over)"
            raise CaptureError("; ".join(self._faults))

    def skip(self, what: str) -> None:
        self.skipped[what] = self.skipped.get(what, 0) + 1

    def pass_over(self, error: CaptureError) -> None:
        """A line that does not fit: what follows it is read all the same."""
        self._wrong += 1
        if self._wrong == 1:
            self._faults.insert(0, str(error))

    def also(self, error: CaptureError) -> None:
        """What a recording that this one is made of told at its end."""
        if len(self._faults) < FAULTS_TOLD_MAX:
            self._faults.append(str(error))


def told_apart(spec: FeedSpec) -> dict[str, str]:
    """The options that make two feeds of a provider different streams, without those that are plain."""
    return {name: value for name, value in spec.options.items() if _PLAIN.get((spec.provider, name)) != value}


def spec_of(provider: str, options: dict[str, str]) -> FeedSpec:
    extra = [value for name, value in options.items() if _PLAIN.get((provider, name)) != value]
    spec = FeedSpec(name="-".join([provider, *extra]), provider=provider, options=dict(options))
    if options.get("market") == "option":  # such a feed has no quotes
        spec = msgspec.structs.replace(spec, channels=("trades", "options"))
    if options.get("feed") == "news":
        spec = msgspec.structs.replace(spec, channels=("news",))
    return spec


def overridden(
    known: tuple[str, dict[str, str]] | None, provider: str | None, options: dict[str, str] | None
) -> tuple[str, dict[str, str]]:
    recognised = known if known is not None and provider in (None, known[0]) else (provider or "", {})
    return recognised[0], recognised[1] if options is None else options


# Our own JSON lines


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    feed: str
    ts_recv: int = 0
    payload: str = ""
    kind: str = "text"
    spec: FeedSpec | None = None


def _export_lines(path: Path, wrong: Callable[[CaptureError], None], peek: bool = False) -> Iterator[tuple[int, _Line]]:
    decode = msgspec.json.Decoder(_Line).decode
    for number, raw in lines_of(path, peek):
        if not raw.strip():
            continue
        try:
            line = decode(raw)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            wrong(wrong_line(path, number, f'{{"ts_recv":…,"feed":…,"payload":…}} ({error})', raw))
            continue
        if line.spec is None and (not 0 < line.ts_recv < TS_MAX or line.kind not in _KINDS):
            wrong(wrong_line(path, number, f"ts_recv in ns since 1970 and a kind of {', '.join(_KINDS)}", raw))
            continue
        yield number, line


def export(path: Path, provider: str | None, options: dict[str, str] | None) -> Capture:
    specs: dict[str, FeedSpec] = {}
    known = {name: (name, dict[str, str]()) for name, _ in HOSTS.values()}  # a provider alone: with its defaults
    known |= {spec_of(*pair).name: pair for pair in HOSTS.values()}
    for number, line in _export_lines(path, lambda error: None, peek=True):  # which will be told on reading
        if line.spec is not None:
            spec = line.spec
            if provider or options is not None:
                pair = overridden((spec.provider, spec.options), provider, options)
                spec = msgspec.structs.replace(spec, provider=pair[0], options=pair[1])
            specs.setdefault(line.feed, spec)
        elif line.feed not in specs:
            named = known.get(line.feed)
            if named is None and provider is None:
                raise CaptureError(
                    f'{path}:{number}: nothing says of which provider feed "{line.feed}" is; put '
                    f'{{"feed":"{line.feed}","spec":{{"name":"{line.feed}","provider":…}}}} first or name the provider'
                )
            specs[line.feed] = msgspec.structs.replace(spec_of(*overridden(named, provider, options)), name=line.feed)
    indexes = {name: index for index, name in enumerate(specs)}

    def read(capture: Capture) -> Iterator[Item]:
        for number, line in _export_lines(path, capture.pass_over):
            if line.spec is not None:
                continue
            try:
                payload = (
                    base64.b64decode(line.payload, validate=True) if line.kind == "binary" else line.payload.encode()
                )
            except (binascii.Error, ValueError):
                shown = line.payload.encode("utf-8", "backslashreplace")
                capture.pass_over(wrong_line(path, number, "base64 in the payload of a binary frame", shown))
                continue
            yield indexes[line.feed], _KINDS[line.kind], line.ts_recv, payload

    return Capture(str(path), list(specs.values()), read)


# The recorder's own journal


def journal(path: Path, provider: str | None, options: dict[str, str] | None) -> Capture:
    from recorder.shell.journal.segments import read_path  # the journal brings Numba along; other captures do without

    def frames() -> Iterator[Frames]:
        try:
            yield from read_path(path)
        except (RecorderError, OSError, ValueError, zstandard.ZstdError) as error:
            raise CaptureError(
                f"{path}: neither a journal ({error}) nor a cryptofeed log, hftbacktest lines or our JSON lines"
            ) from error

    return _journal(path, frames, provider, options)


def exported_journal(path: Path, provider: str | None, options: dict[str, str] | None) -> Capture:
    from recorder.shell.journal.lines import read_frames

    return _journal(path, lambda: read_frames(path), provider, options)


def _journal(
    path: Path, frames: Callable[[], Iterator[Frames]], provider: str | None, options: dict[str, str] | None
) -> Capture:
    indexes: dict[bytes, int] = {}  # spec as declared → index; a source id may be declared anew with another spec
    specs: list[FeedSpec] = []
    begin, end = -1, 0
    for block in frames():
        if block.count:
            begin = begin if begin >= 0 else int(block.ends[0] - block.lengths[0]) - HEADER_BYTES
            end = block.end
        for i in np.flatnonzero(block.kinds == SOURCE).tolist():
            if (declared := block.payload(i)) not in indexes:
                spec = msgspec.json.decode(declared, type=FeedSpec)
                if provider or options is not None:
                    pair = overridden((spec.provider, spec.options), provider, options)
                    spec = msgspec.structs.replace(spec, provider=pair[0], options=pair[1])
                indexes[declared] = len(specs)
                specs.append(spec)
    if begin < 0:
        raise CaptureError(
            f"{path}: holds no frames in any format read here: journal, cryptofeed, hftbacktest, JSON lines"
        )

    def read(capture: Capture) -> Iterator[Item]:
        current: dict[int, int] = {}
        for block in frames():
            for i in range(block.count):
                kind, source = int(block.kinds[i]), int(block.sources[i])
                if kind == SOURCE:
                    current[source] = indexes[block.payload(i)]
                elif kind in _NOBODYS:
                    yield NO_SOURCE, kind, int(block.ts_recv[i]), block.payload(i)
                elif source not in current:
                    capture.skip("undeclared source")  # its declaration lies in a damaged part
                elif kind in _JOURNALLED:
                    yield current[source], kind, int(block.ts_recv[i]), block.payload(i)
                else:
                    capture.skip(f"kind {kind}")

    capture = Capture(str(path), specs, read, frames if provider is None and options is None else None)
    capture.extent = (begin, end)
    return capture
