"""``recorder journal``: segments listed and verified, beside a running recorder too; JSON lines out and in."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recorder.values.errors import ConfigError, JournalCorrupt

if TYPE_CHECKING:
    from recorder.core.frames import Frames
    from recorder.shell.journal.reading import Survey
    from recorder.shell.journal.segments import SegmentInfo
    from recorder.values.config import Config

CLOCK_SLACK_NS = 3600 * 1_000_000_000  # a clock that was set back: segments this near a range of time are read too
_HEADINGS = ("segment", "positions", "received (UTC)", "frames", "MB", "MB stored", "")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "journal",
        help="list, verify, export and import journal segments",
        description="The journal's segments. Nothing here takes its lock: a recorder may go on writing.",
    )
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    shown = actions.add_parser("list", help="every segment: positions, times, frames, bytes, released or not")
    verify = actions.add_parser("verify", help="check every checksum; exits 1 if anything is damaged")
    for each in (shown, verify):
        each.add_argument("--json", action="store_true", help="as a JSON object")
    export = actions.add_parser("export", help="frames as JSON lines, packed by the suffix .gz or .zst")
    export.add_argument("--from", dest="start", metavar="TIME", help="received then or later, or from a position on")
    export.add_argument("--to", dest="stop", metavar="TIME", help="received before, or up to a position")
    export.add_argument("out", type=Path, metavar="OUT", help="a new file: OUT.jsonl, .jsonl.gz or .jsonl.zst")
    for each in (shown, verify, export):
        each.add_argument("--dir", type=Path, help="the journal's folder (default: the configured one)")
    taken = actions.add_parser("import", help="make journal segments of an exported file")
    taken.add_argument("file", type=Path, metavar="FILE", help="what `recorder journal export` wrote")
    taken.add_argument("--into", type=Path, required=True, metavar="DIR", help="a folder that is new or empty")


def run(args: argparse.Namespace, config: Config) -> int:
    actions = {"list": _list, "verify": _verify, "export": _export, "import": _import}
    return actions[args.action](args, config)


def _list(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell.journal import reading, recovery

    directory = args.dir or config.journal.dir
    released = recovery.read_released(directory, _say)
    found = []
    if not args.json:
        _print_row(_HEADINGS)
    for each in reading.survey(directory, verify=False):
        found.append(each)
        if not args.json:
            _print_row(_row(each, released))
    total = {
        "segments": len(found),
        "frames": sum(each.frames for each in found),
        "bytes": sum(each.bytes for each in found),
        "stored": sum(each.stored for each in found),
        "released": released,
    }
    if args.json:
        _print_json({"segments": [_facts(each, released) for each in found], "total": total})
    else:
        stored = f"{total['stored'] / 1e6:,.1f} MB stored"
        print(f"{len(found)} segments, {total['frames']:,} frames, {total['bytes'] / 1e6:,.1f} MB, {stored}")
    return 0


def _state(each: Survey, released: int) -> str:
    if released >= each.end:
        return "released"
    return "in part released" if released > each.base else "not released"


def _facts(each: Survey, released: int) -> dict[str, Any]:
    return {
        "file": each.path.name,
        "positions": [each.base, each.end],
        "ts_recv": [each.first_recv, each.last_recv],
        "frames": each.frames,
        "bytes": each.bytes,
        "stored": each.stored,
        "compressed": each.compressed,
        "active": each.active,
        "released": _state(each, released),
        "damaged": [{"offset": d.offset, "bytes": d.bytes, "reason": d.reason} for d in each.damages],
    }


def _row(each: Survey, released: int) -> tuple[str, ...]:
    from recorder.shell.log import iso_ns

    first, last = iso_ns(each.first_recv), iso_ns(each.last_recv)
    words = [_state(each, released)]
    words += ["compressed"] * each.compressed + ["active"] * each.active + ["DAMAGED"] * bool(each.damages)
    return (
        each.path.name, f"{each.base}–{each.end}", f"{first[:19]} – {last[:19]}" if each.frames else "–",
        f"{each.frames:,}", f"{each.bytes / 1e6:,.1f}", f"{each.stored / 1e6:,.1f}", ", ".join(words),
    )  # fmt: skip


def _print_row(cells: Iterable[str]) -> None:
    """A line at once: a large journal takes its time to read."""
    name, positions, received, frames, size, stored, state = cells
    print(
        f"{name:<45} {positions:>25}  {received:<41}  {frames:>11}  {size:>9}  {stored:>9}  {state}".rstrip(),
        flush=True,
    )


def _verify(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell.journal import reading

    directory = args.dir or config.journal.dir
    started = time.monotonic()
    damages, count, frames, size = [], 0, 0, 0
    for each in reading.survey(directory, verify=True):
        count, frames, size = count + 1, frames + each.frames, size + each.bytes
        damages += each.damages
        if not args.json:
            for damage in each.damages:
                print(f"damaged: {damage}", flush=True)
    seconds = max(time.monotonic() - started, 1e-9)
    if args.json:
        listed = [{"file": d.path.name, "offset": d.offset, "bytes": d.bytes, "reason": d.reason} for d in damages]
        _print_json(
            {"segments": count, "frames": frames, "bytes": size, "seconds": round(seconds, 3), "damaged": listed}
        )
    else:
        rate = f"{seconds:.1f} s, {size / 1e6 / seconds:,.0f} MB/s"
        verdict = f"{len(damages)} stretches damaged" if damages else "intact"
        print(f"{count} segments, {frames:,} frames, {size / 1e6:,.1f} MB in {rate}: {verdict}")
    return 1 if damages else 0


def _export(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell.journal import lines, reading

    directory = args.dir or config.journal.dir
    start, stop = _bound(args.start, "--from"), _bound(args.stop, "--to")
    if start is not None and stop is not None and start[0] == stop[0] and start[1] >= stop[1]:
        raise ConfigError(f"--from {args.start} is not before --to {args.stop}")
    damages: list[reading.Damaged] = []
    stream: Iterable[Frames] = reading.read(directory, _segments_of(start, stop), damages.append)
    count = -1  # the first line is the head
    with lines.created(args.out) as file:
        for line in lines.to_lines(stream, _chooser(start, stop)):
            file.write(line)
            count += 1
    print(f"{count:,} lines in {args.out}")
    for damage in damages:
        print(f"left out, damaged: {damage}", file=sys.stderr)
    return 1 if damages else 0


Bound = tuple[bool, int]  # (whether it is a position, the position or ns)


def _bound(text: str | None, what: str) -> Bound | None:
    """A position is a plain number; anything else is a time."""
    from recorder.values.times import parse_time

    if text is None:
        return None
    if text.isdecimal():
        return True, int(text)
    return False, parse_time(text, what)


def _chooser(start: Bound | None, stop: Bound | None) -> Callable[[int, int], bool]:
    """A frame is in when it begins at or after the start and before the stop; ``end`` is just past it."""

    def chosen(end: int, ts_recv: int) -> bool:
        if start is not None and (end <= start[1] if start[0] else ts_recv < start[1]):
            return False
        return stop is None or (end <= stop[1] if stop[0] else ts_recv < stop[1])

    return chosen


def _segments_of(start: Bound | None, stop: Bound | None) -> Callable[[list[SegmentInfo]], list[SegmentInfo]]:
    """Segments that may hold a frame between the two. Every segment declares its sources first."""

    def chosen(infos: list[SegmentInfo]) -> list[SegmentInfo]:
        kept = []
        for index, info in enumerate(infos):
            following = infos[index + 1] if index + 1 < len(infos) else None
            if start is not None and following is not None:
                begun = following.base if start[0] else following.created_ns + CLOCK_SLACK_NS
                if begun <= start[1]:
                    continue
            if stop is not None and (info.base if stop[0] else info.created_ns - CLOCK_SLACK_NS) >= stop[1]:
                continue
            kept.append(info)
        return kept

    return chosen


def _import(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell.journal import lines

    count = lines.import_lines(args.file, args.into, config.journal.segment_mb << 20)
    print(f"{count:,} frames in {args.into}, none of them released: a recorder that is given this folder loads them")
    return 0


def _print_json(value: object) -> None:
    import orjson

    sys.stdout.write(orjson.dumps(value).decode() + "\n")


def _say(event: str, **fields: object) -> None:
    raise JournalCorrupt(f"{fields.get('file')}: the released position cannot be read: {fields.get('reason')}")
