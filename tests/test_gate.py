"""The gate over benches: what it lets pass and what it does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.gate import Slo, figures_of, judge, main, read_slos

BENCH = Path(__file__).resolve().parent.parent / "bench"


def slo(**changes):
    values = dict(name="n", figure="b::x", over="", unit="", more=True, bound=100.0, goal=200.0, needs="")
    return Slo(**(values | changes))


@pytest.mark.parametrize(
    ("measured", "words", "failed"),
    [(250, "met", False), (200, "met", False), (150, "within limit, goal missed", False), (99, "VIOLATED", True)],
)
def test_a_figure_fails_past_its_limit_and_not_past_its_goal(measured, words, failed):
    verdict = judge(slo(), {"b::x": measured})
    assert (verdict.words, verdict.failed) == (words, failed)


def test_less_is_better_for_at_most():
    assert judge(slo(more=False, bound=10.0, goal=5.0), {"b::x": 11}).failed
    assert judge(slo(more=False, bound=10.0, goal=5.0), {"b::x": 5}).words == "met"


def test_a_missing_figure_is_a_violation():
    assert judge(slo(), {}).failed
    assert judge(slo(over="b::y"), {"b::x": 250}).failed


def test_a_missing_figure_is_excused_only_without_the_package_it_needs():
    assert not judge(slo(needs="no_such_package_anywhere"), {}).failed
    assert judge(slo(needs="json"), {}).failed


def test_not_a_number_is_a_violation():
    assert judge(slo(), {"b::x": float("nan")}).failed


def test_a_ratio_is_of_two_figures_of_one_run():
    assert judge(slo(over="b::y", bound=3.0, goal=4.0), {"b::x": 10, "b::y": 2.5}).measured == 4


def test_every_slo_names_a_bench_that_exists():
    names = {name for path in BENCH.glob("bench_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    for each in read_slos():
        for figure in filter(None, (each.figure, each.over)):
            assert re.match(r"\w+", figure)[0] in names, figure


def test_exit_code_and_markdown_tell_the_verdict(tmp_path, capsys):
    results, table = tmp_path / "results.json", tmp_path / "table.md"
    results.write_text(json.dumps({"benchmarks": [{"name": "b", "extra_info": {"x": 1.5}, "stats": {"median": 2.0}}]}))
    assert figures_of(json.loads(results.read_text())) == {"b::x": 1.5, "b::stats.median": 2.0}
    assert main([str(results), "--markdown", str(table)]) == 1
    assert "MISSING" in capsys.readouterr().out
    lines = table.read_text().splitlines()
    assert lines[0] == "| figure | goal | limit | measured | verdict |"
    assert len(lines) == 2 + len(read_slos())
