"""``recorder replay``: journal segments or captures through the pipeline, into the database."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from recorder.values.config import Config
from recorder.values.errors import CaptureError, RecorderError, nearest

APPLY_TIMEOUT_S = 600.0  # for the last rows to become queryable; a day of ticks takes seconds
VIEWS_TIMEOUT_S = 60.0  # for bars to follow; rows are queryable before
PACE_STEP_S = 0.25  # longest sleep of a paced replay, so that Ctrl-C is answered


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "replay", help="journal segments or captures through the pipeline, into the database"
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a journal, a segment, or a capture file")
    parser.add_argument(
        "--speed", default="max", metavar="N", help="max (default), or a factor of the recorded pace: 1, 10"
    )
    parser.add_argument("--provider", help="whose messages these are, where a capture does not say")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="provider option such as market=usdm; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


@dataclass
class Summary:
    """What a replay did. Counts are of frames and rows, ``rows`` by table."""

    frames: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    rejected: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    unread: str = ""  # what of the recordings could not be read, the first of it with its place
    seconds: float = 0.0


def run(args: argparse.Namespace, config: Config) -> int:
    summary = replay(config, args.paths, args.speed, args.provider, _options(args.option))
    if args.json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    else:
        _print(summary)
    if summary.unread:
        raise CaptureError(summary.unread)
    return 0


def _options(pairs: list[str]) -> dict[str, str] | None:
    """None where none is given: those that the recording says of itself hold then."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise RecorderError(f"--option {pair}: expected KEY=VALUE, such as market=usdm")
        options[key] = value
    return options or None


def replay(
    config: Config,
    paths: list[Path],
    speed: str = "max",
    provider: str | None = None,
    options: dict[str, str] | None = None,
) -> Summary:
    """Bring the recordings into the database; return once every row is queryable.

    A journal gives the rows that it gave when it was recorded, under the names that its feeds had. Rows of captures are
    named after the configured feed of the same provider and options, so that they join what was recorded live. Several
    recordings are merged by receive time. What of them cannot be read is passed over and told in the summary.
    """
    from recorder.commands.load import loader, refresh_views
    from recorder.feeds import PROVIDERS
    from recorder.shell import captures
    from recorder.shell import log as logs

    if provider is not None and provider not in PROVIDERS:
        raise RecorderError(f"--provider {provider} is not known; {nearest(provider, PROVIDERS)}")
    pace = _pace(speed)
    recordings = [captures.open_capture(path, provider, options) for path in paths]
    for recording in recordings:
        if recording.journal is None:
            recording.specs = [
                msgspec.structs.replace(spec, name=captures.name_for(spec, config.feeds)) for spec in recording.specs
            ]
    whole = recordings[0] if len(recordings) == 1 else captures.merge(recordings)
    started = time.monotonic()
    with loader(config, logs.get("recorder")) as load:
        unread = ""
        try:
            for frames in _paced(captures.to_frames(whole), pace):
                load.frames(frames)
        except CaptureError as error:
            unread = str(error)
        load.finish(APPLY_TIMEOUT_S)
        refresh_views(config, VIEWS_TIMEOUT_S)
        pipeline = load.pipeline
        return Summary(
            frames=sum(source.frames for source in pipeline.sources.values()),
            rows={name: count for name, count in pipeline.rows.items() if count},
            duplicates=pipeline.duplicates,
            rejected=sum(source.rejected for source in pipeline.sources.values()),
            skipped=dict(whole.skipped) | ({"http": whole.http} if whole.http else {}),
            unknown={f"{feed}: {what}": count for (feed, what), count in sorted(pipeline.out.unknown.items())},
            unread=unread,
            seconds=round(time.monotonic() - started, 3),
        )


def _pace(speed: str) -> float | None:
    """Factor of the recorded pace; None: as fast as it goes."""
    if speed == "max":
        return None
    try:
        factor = float(speed.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise RecorderError(f"--speed {speed}: expected max or a positive number such as 1 or 10")
    return factor


def _paced(stream: Iterator[Any], pace: float | None) -> Iterator[Any]:
    """Frames no earlier than their recorded spacing, divided by ``pace``, says."""
    first: tuple[int, float] | None = None
    for frames in stream:
        if pace is None:
            yield frames
            continue
        begin = 0
        times = frames.ts_recv
        while begin < frames.count:
            if first is None:
                first = (int(times[0]), time.monotonic())
            due = first[1] + (int(times[begin]) - first[0]) / 1e9 / pace
            while (wait := due - time.monotonic()) > 0:
                time.sleep(min(wait, PACE_STEP_S))
            now = first[0] + int((time.monotonic() - first[1]) * 1e9 * pace)
            end = begin + max(1, int(np.searchsorted(times[begin:], now, side="right")))
            yield frames.part(begin, end)
            begin = end


def _print(summary: Summary) -> None:
    rows = ", ".join(f"{count:,} {name}" for name, count in summary.rows.items()) or "no rows"
    rate = f" ({summary.frames / summary.seconds:,.0f} frames/s)" if summary.seconds else ""
    print(f"{summary.frames:,} frames → {rows} in {summary.seconds:.1f} s{rate}, all queryable")
    for label, count in (
        ("seen before, not stored again", summary.duplicates),
        ("rejected, see table rejected", summary.rejected),
    ):
        if count:
            print(f"  {count:,} {label}")
    for label, counts in (("skipped", summary.skipped), ("unknown", summary.unknown)):
        for what, count in counts.items():
            print(f"  {count:,} {label}: {what}")
