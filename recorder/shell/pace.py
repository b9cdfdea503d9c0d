"""How often one provider is asked over HTTP, by all who ask it: its rate, its quota, and when it wants a pause."""

from __future__ import annotations

import array
import asyncio
import collections
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from recorder.values.feed import HOUR, SECOND, Capability

LIMITED_S = 60.0  # the first pause for a provider that does not say how long; doubled with each further one in a row
LIMITED_MAX_S = 3600.0  # a quota of a day is found renewed within the hour
ASKED_MAX_S = 3 * 86_400.0  # the longest ban that a provider documents; a longer Retry-After is a mistake
QUOTA_MAX = 100_000  # requests remembered for a quota: above any that is documented
KEPT_NS = HOUR  # quotas of at least this time outlive a restart; a shorter time is over soon after one


class Used:
    """When a provider was asked, in a file: eight bytes a request, Unix ns. Survives whatever ends the process.

    What a full disk does not take is not remembered: asking goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._count = path, 0

    def within(self, now: int, window_ns: int) -> list[int]:
        """Requests of the window that ends now; others, also those of a clock that was far ahead, are forgotten."""
        found, data = array.array("q"), b""
        with suppress(OSError):
            data = self._path.read_bytes()
        found.frombytes(data[: len(data) // 8 * 8])
        kept = [at for at in found if now - window_ns < at < now + window_ns]
        self._count = len(kept)
        if len(kept) * 8 < len(data):
            fresh = self._path.with_name(f"{self._path.name}.new")
            with suppress(OSError):
                fresh.write_bytes(array.array("q", kept).tobytes())
                os.replace(fresh, self._path)
        return kept

    def add(self, ns: int, window_ns: int, most: int) -> None:
        """One more; the file stays below twice ``most``."""
        if self._count >= 2 * most:
            self.within(ns, window_ns)
        self._count += 1
        with suppress(OSError), self._path.open("ab", buffering=0) as file:
            if (written := file.write(array.array("q", [ns]).tobytes())) < 8:
                file.truncate(file.tell() - written)


class Pace:
    """One provider's. Seconds are those of ``clock``, which never steps.

    uniform  returns a random float in [0, 1)
    path     of a file that remembers what was used of a quota of an hour or more; None: nothing does
    wall     Unix ns
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
        path: Path | None = None,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self.quota = 0  # requests that the provider allows in its window; 0: it has no such limit
        self._clock, self._uniform = clock, uniform
        self._window_s = 0.0
        self._asked: collections.deque[float] = collections.deque(maxlen=QUOTA_MAX)
        self._last = -1e9
        self._held_until = 0.0
        self._limited = 0  # pauses in a row
        self._used, self._wall, self._remembered = Used(path) if path else None, wall, False

    async def turn(self, capability: Capability) -> None:
        """Wait until the provider may be asked once."""
        while (wait_s := self.wait_s(capability)) > 0:
            await asyncio.sleep(wait_s)
        self._last = self._clock()
        if self.quota:
            self._asked.append(self._last)
            if self._used is not None and capability.rest_quota_ns >= KEPT_NS:
                self._used.add(self._wall(), capability.rest_quota_ns, self.quota)

    def wait_s(self, capability: Capability) -> float:
        """How long nobody may ask; 0: now."""
        now = self._clock()
        self.quota, self._window_s = min(capability.rest_quota, QUOTA_MAX), capability.rest_quota_ns / SECOND
        if self._used is not None and not self._remembered and capability.rest_quota_ns >= KEPT_NS:
            self._remembered, wall = True, self._wall()
            ages = [max(0, wall - at) / SECOND for at in self._used.within(wall, capability.rest_quota_ns)]
            self._asked.extendleft(reversed(sorted(now - age for age in ages)))
        while self._asked and self._asked[0] <= now - self._window_s:
            self._asked.popleft()
        due = max(self._held_until, self._last + 1.0 / capability.rest_per_second_max)
        if self.quota and len(self._asked) >= self.quota:
            due = max(due, self._asked[-self.quota] + self._window_s)
        return max(0.0, due - now)

    @property
    def used(self) -> int:
        """Of the quota, in the window that ends now."""
        since = self._clock() - self._window_s
        return sum(asked > since for asked in list(self._asked))

    @property
    def held_s(self) -> float:
        """How long the provider wants to be left alone still."""
        return max(0.0, self._held_until - self._clock())

    def limited(self, asked_s: float | None) -> float:
        """The provider wants a pause, of ``asked_s`` if it says; return how long it gets: jittered upwards."""
        if asked_s is None:
            asked_s = min(LIMITED_MAX_S, LIMITED_S * 2 ** min(self._limited, 16))
        pause_s = min(ASKED_MAX_S, asked_s) * (1.0 + 0.1 * self._uniform())
        self._limited += 1
        self._held_until = max(self._held_until, self._clock() + pause_s)
        return pause_s

    def answered(self) -> None:
        """It answers again: the next pause is the first."""
        self._limited = 0
