"""How often a provider is asked: by a clock of the test's own."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.shell import pace as pacing
from recorder.shell.pace import ASKED_MAX_S, LIMITED_MAX_S, LIMITED_S, Pace
from recorder.values.feed import SECOND, Capability


def capability(per_second: float, quota: int = 0, window_s: float = 0.0) -> Capability:
    return Capability(
        transport="poll", channels=("bars",), loss_detector="none", scope="none", loss_size_known=False,
        trade_ids="opaque", connections_max=1, symbols_per_connection_max=1, subscribe_items_max=1,
        sends_per_second_max=1.0, connects_per_minute_max=1.0, rest_per_second_max=per_second, rest_quota=quota,
        rest_quota_ns=round(window_s * SECOND),
    )  # fmt: skip


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def asked_at(pace: Pace, clock: Clock, own: Capability, count: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When each of so many requests may be made, by several who ask."""
    times: list[float] = []
    yield_now = asyncio.sleep

    async def sleep(seconds: float, result: Any = None) -> None:
        clock.now += seconds
        await yield_now(0)

    async def ask() -> None:
        await pace.turn(own)
        times.append(clock.now)

    async def run() -> None:
        for _ in range(count):
            await asyncio.gather(ask(), ask())

    with monkeypatch.context() as patched:
        patched.setattr(pacing.asyncio, "sleep", sleep)
        asyncio.run(run())
    return times


@settings(max_examples=40, deadline=None)  # each starts twenty event loops
@given(
    per_second=st.sampled_from([0.5, 1.0, 5.0, 20.0]),
    quota=st.integers(0, 7),
    window_s=st.sampled_from([1.0, 10.0, 86_400.0]),
)
def test_neither_rate_nor_quota_is_exceeded_and_nobody_waits_longer_than_they_ask(
    per_second: float, quota: int, window_s: float
) -> None:
    clock = Clock()
    pace = Pace(clock, lambda: 0.0)
    own = capability(per_second, quota, window_s if quota else 0.0)
    times: list[float] = []
    for _ in range(20):
        waited = pace.wait_s(own)
        clock.now += waited
        assert pace.wait_s(own) == pytest.approx(0.0, abs=1e-6)
        clock.now += 1e-6
        asyncio.run(pace.turn(own))
        times.append(clock.now)
    rounding = 1e-4
    assert all(after - before >= 1 / per_second - rounding for before, after in pairwise(times))
    if not quota:
        assert times[-1] - times[0] <= 19 / per_second + rounding
        return
    for i, at in enumerate(times):
        within = [other for other in times[: i + 1] if other > at - window_s + rounding]
        assert len(within) <= quota
    assert pace.used <= quota == pace.quota
    least = max(19 / per_second, (19 // quota) * window_s)  # what the two limits ask for by themselves
    assert times[-1] - times[0] <= least + 20 / per_second + rounding


def test_several_who_ask_share_one_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    times = asked_at(Pace(clock), clock, capability(2.0), 4, monkeypatch)
    assert [round(after - before, 6) for before, after in pairwise(times)] == [0.5] * 7


def test_a_pause_holds_all_back_and_grows_while_the_provider_goes_on_asking_for_one() -> None:
    clock = Clock()
    pace, own = Pace(clock, lambda: 0.0), capability(1000.0)
    pauses = []
    for _ in range(9):
        pauses.append(pace.limited(None))
        assert pace.held_s == pytest.approx(pauses[-1])
        assert pace.wait_s(own) == pytest.approx(pauses[-1])
        clock.now += pauses[-1]
    assert pauses == [min(LIMITED_MAX_S, LIMITED_S * 2**i) for i in range(9)]
    pace.answered()
    assert pace.limited(None) == LIMITED_S


@settings(deadline=None)
@given(asked_s=st.floats(0, 1e9), uniform=st.floats(0, 1, exclude_max=True))
def test_what_the_provider_asks_for_it_gets_up_to_a_bound_and_never_less(asked_s: float, uniform: float) -> None:
    pause_s = Pace(Clock(), lambda: uniform).limited(asked_s)
    assert min(asked_s, ASKED_MAX_S) <= pause_s <= 1.1 * min(asked_s, ASKED_MAX_S) + 1e-9
