"""How often one provider is asked over HTTP, by all who ask it: its rate, its quota, when it wants a pause;
and until when it wants no connection."""

from __future__ import annotations

import array
import asyncio
import collections
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from recorder.core.gate import Gate
from recorder.values.feed import MINUTE, SECOND, Capability

LIMITED_S = 60.0  # the first pause for a provider that does not say how long; doubled with each further one in a row
LIMITED_MAX_S = 3600.0  # a quota of a day is found renewed within the hour
ASKED_MAX_S = 3 * 86_400.0  # the longest ban that a provider documents; a longer Retry-After is a mistake
QUOTA_MAX = 100_000  # requests remembered for a quota: above any that is documented
KEPT_MIN = 64  # requests that the file holds at least before it is written anew
# What may still be asked and when that is renewed, of providers that say so with each answer: Unix time in so many
# parts of a second. (Alpaca; Bybit)
LEFT = {
    "x-ratelimit-remaining": ("x-ratelimit-reset", 1),
    "x-bapi-limit-status": ("x-bapi-limit-reset-timestamp", 1000),
}
WEIGHT = "x-mbx-used-weight-1m"  # Binance's: used by all of one address since its clock's minute began
WEIGHT_SLACK_S = 1.0  # by which its clock may be behind ours
_NUMBER = re.compile(r"[0-9]{1,13}")


class Used:
    """What all who share a file ask of one provider: eight bytes each, the Unix ns of a request, or, negative, until
    when the provider wants to be left alone. Survives whatever ends a process.

    Nobody locks it, as nobody who records may wait for another: two processes that ask within the same microseconds may
    both go, and a request made while another process writes the file anew may be forgotten. What a full disk does not
    take is not remembered: asking goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._count = path, 0
        self._seen: tuple[int, int, int] | None = None  # inode, bytes and change of the file as we know it

    def changed(self) -> bool:
        """Whether somebody else wrote to it."""
        return self._state() != self._seen

    def within(self, now: int, window_ns: int) -> tuple[list[int], int]:
        """(requests of the window that ends now, oldest first; until when the provider wants to be left alone, or 0).

        Others, also those of a clock that was far ahead, are forgotten.
        """
        found, data = array.array("q"), b""
        self._seen = self._state()
        with suppress(OSError):
            data = self._path.read_bytes()
        found.frombytes(data[: len(data) // 8 * 8])
        asked = sorted(at for at in found if now - window_ns < at < now + window_ns)
        held = max((-at for at in found if now < -at < now + 1.1 * ASKED_MAX_S * SECOND), default=0)
        kept = [*asked, -held] if held else asked
        self._count = len(found)
        if len(kept) * 8 < len(data) and (len(found) >= KEPT_MIN or len(data) % 8):
            self._replace(kept)
        return asked, held

    def add(self, ns: int, now: int, window_ns: int, most: int) -> None:
        """One more; the file stays below twice ``most``."""
        if self._count >= 2 * max(most, KEPT_MIN // 2):
            self.within(now, window_ns)
        before = self._seen
        with suppress(OSError), self._path.open("ab", buffering=0) as file:
            if (written := file.write(array.array("q", [ns]).tobytes())) < 8:
                file.truncate(file.tell() - written)
        self._count += 1
        state = self._state()
        if before is None or (state is not None and state[:2] == (before[0], before[1] + 8)):
            self._seen = state  # nobody else wrote meanwhile

    def _replace(self, kept: list[int]) -> None:
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            fresh.write_bytes(array.array("q", kept).tobytes())
            os.replace(fresh, self._path)
            self._count, self._seen = len(kept), self._state()

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


class Pace:
    """One provider's. Seconds are those of ``clock``, which never steps.

    uniform  returns a random float in [0, 1)
    path     of a file by which all processes of an installation share it, and the next ones too; None: ours alone
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
        self._weight_max = 0
        self._used, self._wall = Used(path) if path else None, wall

    async def turn(self, capability: Capability) -> None:
        """Wait until the provider may be asked once."""
        while (wait_s := self.wait_s(capability)) > 0:
            await asyncio.sleep(wait_s)
        self._last = self._clock()
        if self.quota:
            self._asked.append(self._last)
        self._share(self._wall())

    def wait_s(self, capability: Capability) -> float:
        """How long nobody may ask; 0: now."""
        self.quota, self._window_s = min(capability.rest_quota, QUOTA_MAX), capability.rest_quota_ns / SECOND
        self._weight_max, apart_s = capability.rest_weight_max, 1.0 / capability.rest_per_second_max
        self._window_s = self._window_s if self.quota else apart_s
        self._look()
        now = self._clock()
        while self._asked and self._asked[0] <= now - self._window_s:
            self._asked.popleft()
        due = max(self._held_until, self._last + apart_s)
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
        self._hold(pause_s)
        return pause_s

    def answered(self) -> None:
        """It answers again: the next pause is the first."""
        self._limited = 0

    def heed(self, headers: Mapping[str, str]) -> None:
        """An answer's own words: a provider that says that nothing is left is not asked before there is more."""
        now_s = self._wall() / SECOND
        for name, (reset, parts) in LEFT.items():
            left, until = headers.get(name, ""), headers.get(reset, "")
            if _NUMBER.fullmatch(left) and int(left) == 0 and _NUMBER.fullmatch(until):
                self._hold(int(until) / parts - now_s)
        used = headers.get(WEIGHT, "")
        if self._weight_max and _NUMBER.fullmatch(used) and int(used) >= self._weight_max:
            self._hold((MINUTE - self._wall() % MINUTE) / SECOND + WEIGHT_SLACK_S)

    def _hold(self, pause_s: float) -> None:
        if pause_s > 0:
            self._held_until = max(self._held_until, self._clock() + min(pause_s, 1.1 * ASKED_MAX_S))
            self._share(-(self._wall() + round(min(pause_s, 1.1 * ASKED_MAX_S) * SECOND)))

    def _share(self, ns: int) -> None:
        if self._used is not None:
            self._used.add(ns, self._wall(), self._window_ns, self.quota)

    def _look(self) -> None:
        """Take over what others asked and were told."""
        if self._used is None or not self._used.changed():
            return
        now, wall = self._clock(), self._wall()
        asked, held = self._used.within(wall, self._window_ns)
        times = [now - max(0, wall - at) / SECOND for at in asked]
        self._asked = collections.deque(times if self.quota else (), QUOTA_MAX)
        self._last = max(self._last, times[-1]) if times else self._last
        if held:
            self._held_until = max(self._held_until, now + (held - wall) / SECOND)

    @property
    def _window_ns(self) -> int:
        return round(self._window_s * SECOND)


class KeptGate(Gate):
    """A provider's door that remembers in a file until when nobody is to connect: to start again is no way past a ban.

    wall  Unix ns
    """

    def __init__(self, path: Path, wall: Callable[[], int] = time.time_ns) -> None:
        super().__init__()
        self._used, self._wall = Used(path), wall

    def wait_ns(self, now: int, per_minute_max: float, per_second_max: float) -> int:
        if self._used.changed():
            _, until = self._used.within(self._wall(), MINUTE)
            self.held_until = max(self.held_until, now + until - self._wall() if until else 0)
        return super().wait_ns(now, per_minute_max, per_second_max)

    def refused(self, now: int, status: int, retry_after_ns: int | None) -> int:
        hold_ns = super().refused(now, status, retry_after_ns)
        if hold_ns:
            self._used.add(-(self._wall() + hold_ns), self._wall(), MINUTE, KEPT_MIN)
        return hold_ns


def shared(journal: Path, provider: str) -> Pace:
    """The pace of all who ask a provider beside one journal: the recorder and every command."""
    return Pace(path=journal / f"quota-{provider}")


def kept(journal: Path, provider: str) -> Gate:
    """The door of a provider's connections of all who record beside one journal."""
    return KeptGate(journal / f"held-{provider}")
