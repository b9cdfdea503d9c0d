"""How often one provider is asked over HTTP, by all who ask it: its rate, its quota, and when it wants a pause."""

from __future__ import annotations

import asyncio
import collections
import random
import time
from collections.abc import Callable

from recorder.values.feed import SECOND, Capability

LIMITED_S = 60.0  # the first pause for a provider that does not say how long; doubled with each further one in a row
LIMITED_MAX_S = 3600.0  # a quota of a day is found renewed within the hour
ASKED_MAX_S = 3 * 86_400.0  # the longest ban that a provider documents; a longer Retry-After is a mistake
QUOTA_MAX = 100_000  # requests remembered for a quota: above any that is documented


class Pace:
    """One provider's. Seconds are those of ``clock``, which never steps.

    uniform  returns a random float in [0, 1)
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, uniform: Callable[[], float] = random.random
    ) -> None:
        self.quota = 0  # requests that the provider allows in its window; 0: it has no such limit
        self._clock, self._uniform = clock, uniform
        self._window_s = 0.0
        self._asked: collections.deque[float] = collections.deque(maxlen=QUOTA_MAX)
        self._last = -1e9
        self._held_until = 0.0
        self._limited = 0  # pauses in a row

    async def turn(self, capability: Capability) -> None:
        """Wait until the provider may be asked once."""
        while (wait_s := self.wait_s(capability)) > 0:
            await asyncio.sleep(wait_s)
        self._last = self._clock()
        if self.quota:
            self._asked.append(self._last)

    def wait_s(self, capability: Capability) -> float:
        """How long nobody may ask; 0: now."""
        now = self._clock()
        self.quota, self._window_s = min(capability.rest_quota, QUOTA_MAX), capability.rest_quota_ns / SECOND
        while self._asked and self._asked[0] <= now - self._window_s:
            self._asked.popleft()
        due = max(self._held_until, self._last + 1.0 / capability.rest_per_second_max)
        if self.quota and len(self._asked) >= self.quota:
            due = max(due, self._asked[-self.quota] + self._window_s)
        return max(0.0, due - now)

    @property
    def used(self) -> int:
        """Of the quota, in the window that ends now; what a recorder before this one used is not known."""
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
