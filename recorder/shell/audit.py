"""The audit of a connection's subscriptions, carried out: looked at every minute, told, and mended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from recorder.core.audit import NOT_DELIVERING, NOT_REQUESTED, Audit, Finding
from recorder.shell.link import Link
from recorder.values.feed import HOUR, SECOND, Capability, FeedSpec, Key, Renew
from recorder.values.schema import Table
from recorder.values.tables import FEED_EVENTS, GAPS, QUALITY_EVENTS

AUDIT_S = 60.0
PATIENCE_NS = 30 * SECOND  # for what was subscribed to again to deliver
CAUSE_CHARS_MAX = 200  # of a gap: QuestDB keeps every distinct one as a symbol
RENEW_EVERY_NS = HOUR  # a connection is replaced for a silent subscription at most this often: it may be the provider's

Rows = Callable[[str, Iterable[Key]], Mapping[Key, int] | None]
Observe = Callable[[Table, Iterable[Sequence[Any]]], None]


class Reporter:
    """Rows of feed_events, quality_events and gaps about one connection: never two at one time, they would be one."""

    def __init__(self, spec: FeedSpec, observe: Observe | None) -> None:
        self._feed, self._connection, self._observe = spec.name, spec.connection, observe
        self._last = 0

    def event(self, event: str, reason: str | None, counts: Sequence[int | None] = (None,) * 4) -> None:
        """counts  desired, requested, acknowledged, delivering"""
        if self._observe is not None:
            self._observe(FEED_EVENTS, [(self._now(), self._feed, self._connection, event, reason, *counts)])

    def finding(self, check: str, symbol: str | None, value: float, threshold: float, message: str) -> None:
        """A warning of quality_events."""
        if self._observe is not None:
            row = (self._now(), symbol, self._feed, check, "warning", value, threshold, message)
            self._observe(QUALITY_EVENTS, [row])

    def outage(self, since: int, cause: str) -> None:
        """A note in gaps: nothing was received from ``since``, ns, until now."""
        if self._observe is not None:
            now, unknown = self._now(), (None, None, None)
            row = (
                now, now, (self._feed, "*"), "*", "disconnect", *unknown, max(0, now - since), cause[:CAUSE_CHARS_MAX],
                None, 0,
            )  # fmt: skip
            self._observe(GAPS, [row])

    def _now(self) -> int:
        self._last = max(self._last + 1, time.time_ns())
        return self._last


class Auditor:
    """Looks at one connection's subscriptions and says once per change what is wrong with them.

    rows  how many rows of (channel, symbol) of a feed came, None while rows are not decoded
    What is missing is first subscribed to again; what then still does not deliver is worth another connection.
    """

    def __init__(self, spec: FeedSpec, capability: Capability, log: Any, report: Reporter, rows: Rows) -> None:
        self._spec, self._log, self._report, self._rows = spec, log, report, rows
        self._audit = Audit(capability)
        self._told: Mapping[Key, str] = {}
        self._counts: tuple[int | None, ...] = ()
        self._again: dict[Key, int] = {}  # subscribed to again on this connection, and when
        self._renewed = -RENEW_EVERY_NS

    def opened(self, link: Link) -> None:
        desired = link.session.feed.subscriptions().desired
        self._again.clear()
        self._audit.opened(time.monotonic_ns(), self._rows(self._spec.name, desired))

    def look(self, link: Link) -> None:
        if not link.ready:
            return
        now, subscriptions = time.monotonic_ns(), link.session.feed.subscriptions()
        found = self._audit.look(now, subscriptions, self._rows(self._spec.name, subscriptions.desired))
        self._tell(found)
        self._mend(link, found, now)

    def _tell(self, found: Finding) -> None:
        counts = (found.desired, found.requested, found.acknowledged, found.delivering)
        names = {"feed": self._spec.name, "connection": self._spec.connection}
        sets = dict(zip(("desired", "requested", "acknowledged", "delivering"), counts, strict=True))
        if found.missing and found.missing != self._told:
            words = found.words()
            self._log.warning("subscription.incomplete", **names, **sets, reason=words)
            self._report.event("subscription.incomplete", words, counts)
            symbols = {symbol for _, symbol in found.missing}
            only = symbols.pop() if len(symbols) == 1 else None
            self._report.finding("subscription", only, len(found.missing), 0, f"{words}; see feed_events")
        elif self._told and not found.missing:
            self._log.info("subscription.completed", **names, **sets)
            self._report.event("subscription.completed", None, counts)
        elif counts != self._counts and not found.missing:
            self._report.event("subscription.audited", None, counts)
        self._told, self._counts = dict(found.missing), counts

    def _mend(self, link: Link, found: Finding, now: int) -> None:
        fresh = [k for k, way in sorted(found.missing.items()) if k not in self._again and way != NOT_REQUESTED]
        if fresh:
            self._again |= dict.fromkeys(fresh, now)
            link.carry_out(link.session.feed.resubscribe(fresh))
            return
        silent = [key for key, way in found.missing.items() if way == NOT_DELIVERING]
        silent = [key for key in silent if now - self._again[key] >= PATIENCE_NS]
        if silent and now - self._renewed >= RENEW_EVERY_NS:
            self._renewed = now
            reason = f"subscriptions that do not deliver, {found.words()}"
            link.carry_out(link.session.on_wish(Renew(reason), now))
