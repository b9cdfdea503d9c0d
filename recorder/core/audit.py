"""Which of a connection's subscriptions are not what they should be. Sans I/O: sets, counts and time are passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from recorder.values.feed import MINUTE, SECOND, Capability, Key, Subscriptions

SNAPSHOT_NS = 30 * SECOND  # rows that a subscription is answered with must have come by then: they come in a second
EXPECTED_MIN = 30.0  # rows expected and none come: by chance once in e³⁰ where arrivals are independent
RATE_HALF_LIFE_NS = 10 * MINUTE  # what a subscription delivered before: a market that has closed is soon forgotten
SPEAKS_FOR_OTHERS = 2  # as many others must deliver, or all: else the whole connection is quiet, which others judge
NAMED_MAX = 20  # missing subscriptions named in a line or a row

NOT_REQUESTED, NOT_ACKNOWLEDGED, NOT_DELIVERING = "not requested", "not acknowledged", "not delivering"


@dataclass(frozen=True)
class Finding:
    """Counts of the four sets, and what is missing in which way. ``delivering`` None: not known, rows are not decoded
    yet."""

    desired: int
    requested: int
    acknowledged: int
    delivering: int | None
    missing: Mapping[Key, str] = field(default_factory=dict)

    def words(self) -> str:
        """``not delivering: trades BTC-USD, quotes BTC-USD``"""
        by_way: dict[str, list[str]] = {}
        for (channel, symbol), way in sorted(self.missing.items()):
            by_way.setdefault(way, []).append(f"{channel} {symbol}")
        parts = []
        for way, names in by_way.items():
            more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
            parts.append(f"{way}: {', '.join(names[:NAMED_MAX])}{more}")
        return "; ".join(parts)


class Audit:
    """Reconciles what is desired, requested, acknowledged and delivered. Times are ns of a clock that never steps.

    rows  of each desired (channel, symbol), how many came since the recorder started; None while it is not known
    """

    def __init__(self, capability: Capability) -> None:
        self._snapshots = capability.snapshots
        self._since = 0  # when the connection was opened, or its rows became known
        self._at_opening: dict[Key, int] | None = None
        self._lately: dict[Key, tuple[float, float]] = {}  # rows, and the ns in which they came; both fade
        self._last: tuple[int, Mapping[Key, int]] | None = None

    def opened(self, now: int, rows: Mapping[Key, int] | None) -> None:
        """A new connection: nothing of it has been delivered yet."""
        self._since, self._at_opening = now, None if rows is None else dict(rows)

    def look(self, now: int, subscriptions: Subscriptions, rows: Mapping[Key, int] | None) -> Finding:
        desired, requested, acknowledged = subscriptions.desired, subscriptions.requested, subscriptions.acknowledged
        missing = dict.fromkeys(desired - requested, NOT_REQUESTED)
        missing |= dict.fromkeys(requested - acknowledged, NOT_ACKNOWLEDGED)
        if rows is None:
            self._last = None
            return Finding(len(desired), len(requested), len(acknowledged), None, missing)
        if self._at_opening is None:
            self._since, self._at_opening = now, dict(rows)
        before, elapsed = self._at_opening, now - self._since
        delivering = {key for key in acknowledged if rows.get(key, 0) > before.setdefault(key, 0)}
        for key in acknowledged - delivering:
            promised = key[0] in self._snapshots and elapsed >= SNAPSHOT_NS
            came, within = self._lately.get(key, (0.0, 1.0))
            expected = came / within * elapsed
            if promised or (expected >= EXPECTED_MIN and len(delivering) >= SPEAKS_FOR_OTHERS):
                missing[key] = NOT_DELIVERING
        self._learn(now, rows)
        return Finding(len(desired), len(requested), len(acknowledged), len(delivering), missing)

    def _learn(self, now: int, rows: Mapping[Key, int]) -> None:
        """Rows and time fade alike, so that the first interval, which may be short, weighs no more than it lasted."""
        if self._last is not None and now > self._last[0]:
            then, counts = self._last
            kept = 0.5 ** ((now - then) / RATE_HALF_LIFE_NS)
            for key, count in rows.items():
                came, within = self._lately.get(key, (0.0, 0.0))
                self._lately[key] = came * kept + count - counts.get(key, count), within * kept + now - then
        self._last = (now, dict(rows))
