"""How often one provider may be connected and spoken to, over all connections of all its feeds.

Sans I/O: time is passed in.
"""

from __future__ import annotations

import collections

from recorder.values.feed import HOUR, MINUTE, SECOND

CONNECTS_MAX = 1024  # remembered; no provider allows as many a minute
LIMITED_HOLD_NS = MINUTE  # after 429 without Retry-After: limits are by the minute where they are documented
BANNED_HOLD_NS = 5 * MINUTE  # after 418, whatever Retry-After says: Binance's bans last from two minutes to three days
HOLD_NS_MAX = 72 * HOUR  # the longest ban that is documented; a longer Retry-After is a mistake
LIMITED, BANNED = 429, 418


class Gate:
    """One provider's door. Times are ns of a clock that never steps.

    open  connections that are open now, kept by those who open them
    """

    def __init__(self) -> None:
        self.open = 0
        self.held_until = 0
        self._connects: collections.deque[int] = collections.deque(maxlen=CONNECTS_MAX)
        self._sends_from = 0  # when the next message may be sent that nobody has taken yet

    def send_wait_ns(self, now: int, per_second_max: float) -> int:
        """Take the next turn to send a message; return how long it is until then. Of ``Capability.sends_shared``."""
        turn = max(now, self._sends_from)
        self._sends_from = turn + round(SECOND / per_second_max)
        return turn - now

    def wait_ns(self, now: int, per_minute_max: float, per_second_max: float) -> int:
        """How long nobody may connect; 0: now, and then say so by ``connecting``."""
        while self._connects and now - self._connects[0] >= MINUTE:
            self._connects.popleft()
        due = self.held_until
        if self._connects:
            due = max(due, self._connects[-1] + round(min(SECOND / per_second_max, MINUTE / per_minute_max)))
        most = max(1, int(per_minute_max))
        if len(self._connects) >= most and most < CONNECTS_MAX:
            due = max(due, self._connects[-most] + MINUTE)
        return max(0, due - now)

    def connecting(self, now: int) -> None:
        self._connects.append(now)

    def refused(self, now: int, status: int, retry_after_ns: int | None) -> int:
        """An upgrade was answered with this HTTP status; return how long all connections are held back, in ns."""
        if status not in (LIMITED, BANNED):
            return 0
        hold_ns = LIMITED_HOLD_NS if retry_after_ns is None else min(retry_after_ns, HOLD_NS_MAX)
        if status == BANNED:
            hold_ns = max(hold_ns, BANNED_HOLD_NS)
        self.held_until = max(self.held_until, now + hold_ns)
        return hold_ns
