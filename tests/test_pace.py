"""How often a provider is asked: by a clock of the test's own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
from array import array
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import REPO
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.shell import pace as pacing
from recorder.shell.pace import ASKED_MAX_S, KEPT_MIN, LIMITED_MAX_S, LIMITED_S, Pace
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


def test_a_quota_that_recorders_before_used_up_is_used_up(tmp_path: Path) -> None:
    """Each asks as often as it may, and is killed."""
    counts = []
    for most in (2, 2, 9):
        asking = [sys.executable, "-c", ASKING, str(tmp_path), str(most)]
        with subprocess.Popen(asking, stdout=subprocess.PIPE, text=True, cwd=REPO) as child:
            assert child.stdout is not None
            counts.append(int(child.stdout.readline()))
            child.kill()
        assert child.returncode == -signal.SIGKILL
    assert counts == [2, 2, 1]
    assert (tmp_path / "quota-alphavantage").stat().st_size == 5 * 8


ASKING = """
import asyncio, sys, time
from pathlib import Path
from types import SimpleNamespace
from recorder.commands.feed_runs import FeedRuns
from recorder.values.feed import HOUR, polled

config = SimpleNamespace(journal=SimpleNamespace(dir=Path(sys.argv[1])))
pace = FeedRuns(SimpleNamespace(log=None, config=config), None, {}).pace("alphavantage")
own = polled(("bars",), 1, 1000.0, rest_quota=5, rest_quota_ns=24 * HOUR)
count = 0
while count < int(sys.argv[2]) and pace.wait_s(own) < 60:
    asyncio.run(pace.turn(own))
    count += 1
print(count, flush=True)
time.sleep(60)
"""


class Wall(Clock):
    """Unix ns beside a clock that began with this process."""

    def ns(self) -> int:
        return round((self.now + 1e9) * SECOND)


@settings(max_examples=60, deadline=None)
@given(
    lives=st.lists(st.tuples(st.floats(0, 90_000), st.integers(0, 9)), min_size=1, max_size=8),
    quota=st.integers(1, 7), torn=st.binary(max_size=7),
)  # fmt: skip
def test_no_window_has_more_than_the_quota_however_often_it_is_started(
    lives: list[tuple[float, int]], quota: int, torn: bytes
) -> None:
    wall, own, times = Wall(), capability(1000.0, quota, 86_400.0), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quota"
        for away_s, most in lives:
            wall.now += away_s
            if path.exists():
                path.write_bytes(path.read_bytes() + torn)
            start = wall.now  # a clock of this life only: it begins at 0
            pace = Pace(lambda start=start: wall.now - start, lambda: 0.0, path, wall.ns)  # type: ignore[misc]
            for _ in range(most):
                if pace.wait_s(own) > 1.0:
                    break
                wall.now += 0.01
                asyncio.run(pace.turn(own))
                times.append(wall.now)
            assert pace.wait_s(own) >= 0.0
            least, most_used = (sum(at > wall.now - 86_400.0 + edge for at in times) for edge in (0.01, -0.01))
            assert least <= pace.used <= most_used
            assert path.stat().st_size <= KEPT_MIN * 8 + 7 if times else not path.exists()
    for i, at in enumerate(times):
        assert sum(other > at - 86_400.0 + 0.1 for other in times[: i + 1]) <= quota


@settings(deadline=None)
@given(ahead_s=st.floats(90_000, 1e8))
def test_a_clock_that_was_far_ahead_uses_up_no_quota(ahead_s: float) -> None:
    wall, own = Wall(), capability(1000.0, 1, 86_400.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quota"
        ahead = round((wall.now + 1e9 + ahead_s) * SECOND)
        asyncio.run(Pace(Clock(), lambda: 0.0, path, lambda: ahead).turn(own))
        assert Pace(Clock(), lambda: 0.0, path, wall.ns).wait_s(own) == 0.0


@settings(max_examples=60, deadline=None)
@given(
    per_second=st.sampled_from([0.5, 2.0, 20.0]), quota=st.integers(0, 5),
    turns=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.3, 2.0])), min_size=1, max_size=40),
)  # fmt: skip
def test_processes_of_one_installation_share_rate_and_quota(
    per_second: float, quota: int, turns: list[tuple[int, float]]
) -> None:
    """Three that ask in any order, each with a clock of its own."""
    wall, times, window_s = Wall(), [], 30.0
    own = capability(per_second, quota, window_s)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quota"
        paces = [Pace(lambda s=s: wall.now - s, lambda: 0.0, path, wall.ns) for s in (0.0, 500.0, 999.0)]  # type: ignore[misc]
        for who, later_s in turns:
            wall.now += later_s
            waited = paces[who].wait_s(own)
            assert all(pace.wait_s(own) == pytest.approx(waited, abs=1e-5) for pace in paces)
            wall.now += waited + 1e-5
            asyncio.run(paces[who].turn(own))
            times.append(wall.now)
    assert all(after - before >= 1 / per_second - 1e-4 for before, after in pairwise(times))
    for i, at in enumerate(times if quota else ()):
        assert sum(other > at - window_s + 1e-4 for other in times[: i + 1]) <= quota


def test_what_one_process_is_told_to_wait_all_wait_also_those_that_start_later(tmp_path: Path) -> None:
    wall, own = Wall(), capability(1000.0)
    path = tmp_path / "quota"
    first, second = (Pace(wall, lambda: 0.0, path, wall.ns) for _ in range(2))
    assert first.limited(100.0) == 100.0
    wall.now += 40.0
    third = Pace(Clock(), lambda: 0.0, path, wall.ns)
    assert [pace.wait_s(own) for pace in (first, second, third)] == pytest.approx([60.0] * 3)
    assert second.limited(30.0) == 30.0  # a shorter one ends no longer one
    wall.now += 61.0
    assert [pace.wait_s(own) for pace in (first, second)] == [0.0, 0.0]


def test_hundreds_of_requests_leave_a_small_file_and_processes_killed_while_they_ask_no_damage(tmp_path: Path) -> None:
    """Three processes ask as fast as they may and are killed amid; what they did is known to the next."""
    asking = [sys.executable, "-c", ASKING_ON, str(tmp_path)]
    children = [subprocess.Popen(asking, stdout=subprocess.PIPE, text=True, cwd=REPO) for _ in range(3)]
    times = []
    for child in children:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(100)]
        child.kill()
        rest = child.stdout.read().split("\n")[:-1]
        child.wait()
        times += [int(line) for line in [*lines, *rest]]
    times.sort()
    path = tmp_path / "quota-binance"
    kept = array("q", path.read_bytes())
    assert len(kept) <= KEPT_MIN + 3
    assert max(kept) > times[-1] - SECOND
    # 500 a second; two that look within the same microseconds both go, which is rare.
    assert len(times) <= 3 + 1.2 * 500 * (times[-1] - times[0]) / SECOND


ASKING_ON = """
import asyncio, sys, time
from pathlib import Path
from recorder.shell.pace import shared
from recorder.values.feed import polled

own = polled(("bars",), 1, 500.0)
pace = shared(Path(sys.argv[1]), "binance")

async def ask():
    while True:
        await pace.turn(own)
        print(time.time_ns(), flush=True)

asyncio.run(ask())
"""


@pytest.mark.parametrize(
    ("headers", "waits_s"),
    [
        ({"x-ratelimit-limit": "200", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000001025"}, 25.0),
        ({"x-ratelimit-limit": "200", "x-ratelimit-remaining": "1", "x-ratelimit-reset": "1000001025"}, 0.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000000990"}, 0.0),  # renewed already
        ({"x-ratelimit-remaining": "0"}, 0.0),
        ({"x-ratelimit-remaining": "-", "x-ratelimit-reset": "soon"}, 0.0),
        ({"x-bapi-limit-status": "0", "x-bapi-limit": "50", "x-bapi-limit-reset-timestamp": "1000001000750"}, 0.75),
        ({"x-bapi-limit-status": "49", "x-bapi-limit": "50", "x-bapi-limit-reset-timestamp": "1000001000750"}, 0.0),
        ({"x-mbx-used-weight": "1", "x-mbx-used-weight-1m": "5900"}, 41.0),  # 20 s of the minute have gone
        ({"x-mbx-used-weight-1m": "5899"}, 0.0),
    ],
)
def test_what_an_answer_says_is_left_is_heeded(headers: dict[str, str], waits_s: float) -> None:
    wall = Wall()
    wall.now = 1000.0
    own = msgspec.structs.replace(capability(1000.0), rest_weight_max=5900)
    pace = Pace(wall, lambda: 0.0, None, wall.ns)
    pace.wait_s(own)
    pace.heed(headers)
    assert pace.wait_s(own) == pytest.approx(waits_s, abs=1e-3)
