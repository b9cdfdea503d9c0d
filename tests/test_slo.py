"""The benches' gate: limits hold, a slower machine gets wider ones in proportion, what was not measured fails."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gate import judge, machine_speed, main, read_slos, speed_of

SLOS = read_slos()
SETTINGS = {"reference": 100.0, "slowest": 0.2}
MACHINE = "test_cryptofeed::trades_per_s"


def results(figures: dict[str, float]) -> str:
    """As pytest-benchmark writes them."""
    benches: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        bench, _, key = name.partition("::")
        benches.setdefault(bench, {})[key] = value
    return json.dumps({"benchmarks": [{"name": n, "extra_info": e, "stats": {}} for n, e in benches.items()]})


def at_limits(speed: float, worse: float = 1.0) -> dict[str, float]:
    """Figures that are exactly at their limits on a machine of this speed, or ``worse`` times past them."""
    figures = {MACHINE: 71_500 * speed}
    for slo in SLOS:
        if slo.over:
            continue
        bound = slo.bound * (speed if slo.more else 1 / speed) if slo.scaled else slo.bound
        figures[slo.figure] = bound / worse if slo.more else bound * worse
    for slo in SLOS:
        if slo.over and slo.over in figures:
            figures[slo.figure] = figures[slo.over] * (2 * slo.bound if slo.more else slo.bound / 2)
        elif slo.over and slo.figure in figures:
            figures[slo.over] = figures[slo.figure] / (2 * slo.bound if slo.more else slo.bound / 2)
        elif slo.over:
            figures |= {slo.over: 1.0, slo.figure: 2 * slo.bound if slo.more else slo.bound / 2}
    return figures


@given(measured=st.floats(0, 1e6))
def test_a_machine_s_speed_is_never_above_one_and_never_below_the_slowest_that_is_judged(measured):
    speed = speed_of(measured, SETTINGS)
    assert speed == min(1.0, max(0.2, measured / 100))


@pytest.mark.parametrize("speed", [1.0, 0.5, 0.25])
def test_figures_at_the_limits_of_their_machine_pass_and_past_them_fail(tmp_path, capsys, speed):
    path = tmp_path / "bench.json"
    path.write_text(results(at_limits(speed, worse=0.999)))
    assert main([str(path)]) == 0, capsys.readouterr().out
    path.write_text(results(at_limits(speed, worse=1.001)))
    assert main([str(path)]) == 1
    told = capsys.readouterr()
    scaled = [slo.name for slo in SLOS if slo.scaled]
    assert scaled
    assert all(name in told.err for name in scaled)
    assert (f"{speed:.2f} of the speed" in told.out) == (speed < 1)


def test_a_ratio_of_one_run_and_memory_have_the_same_limit_on_every_machine():
    for slo in SLOS:
        if slo.over or slo.unit in ("MB", "×"):
            assert not slo.scaled
            assert slo.on(0.3) == slo


def test_what_was_not_measured_fails_and_without_the_yardstick_nothing_is_widened(tmp_path, capsys):
    figures = at_limits(1.0, worse=0.999)
    del figures["test_throughput[1]::frames_per_s"], figures[MACHINE]
    assert machine_speed(figures) == 1.0
    path = tmp_path / "bench.json"
    path.write_text(results(figures))
    assert main([str(path)]) == 1
    assert "MISSING test_throughput[1]::frames_per_s" in capsys.readouterr().out


def test_a_figure_that_is_no_number_fails():
    slo = dataclasses.replace(SLOS[0], over="")
    assert judge(slo, {slo.figure: math.nan}).failed
