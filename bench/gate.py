"""Compare measured figures with bench/slo.toml.

    pytest bench --benchmark-json=FILE.json && python -m bench.gate FILE.json [--markdown FILE.md]

Prints a table and exits 1 when a figure is past its limit or missing: what was not measured is not promised. A goal
that is missed while the limit holds is shown, and does not fail: limits leave room for a busy machine. Limits of what a
slower machine does slower (``scaled``) are for the machine that slo.toml names; on a slower one they are wider by as
much as somebody else's program took longer in the same run, and the speed is told.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SLO_FILE = Path(__file__).with_name("slo.toml")
_KEYS = {"name", "figure", "over", "unit", "at_least", "at_most", "goal", "needs", "scaled"}


@dataclass(frozen=True)
class Slo:
    """One promise. ``figure`` and ``over`` are ``bench::key``: a benchmark's name and a key of its extra_info.

    over   the figure is divided by this one of the same run
    bound  what is enforced; ``more`` says whether more is better
    needs  a package without which it cannot be measured; absent, a missing figure is excused
    scaled  the bound is for the machine that slo.toml names
    """

    name: str
    figure: str
    over: str
    unit: str
    more: bool
    bound: float
    goal: float | None
    needs: str
    scaled: bool = False

    def on(self, speed: float) -> Slo:
        """The promise on a machine of this speed."""
        if not self.scaled:
            return self
        return replace(self, bound=self.bound * speed if self.more else self.bound / speed)


@dataclass(frozen=True)
class Verdict:
    slo: Slo
    measured: float | None
    words: str
    failed: bool


def read_slos(path: Path = SLO_FILE) -> list[Slo]:
    """Raises ValueError naming the entry that does not fit."""
    result = []
    for entry in tomllib.loads(path.read_text("utf-8"))["slo"]:
        name = entry.get("name", "?")
        unknown = entry.keys() - _KEYS
        if unknown or ("at_least" in entry) == ("at_most" in entry) or "::" not in entry.get("figure", ""):
            raise ValueError(
                f"{path.name}: slo {name!r} needs a figure as bench::key and either at_least or at_most"
                + (f"; unknown: {', '.join(sorted(unknown))}" if unknown else "")
            )
        more = "at_least" in entry
        bound = float(entry["at_least" if more else "at_most"])
        goal = float(entry["goal"]) if "goal" in entry else None
        if goal is not None and (goal < bound if more else goal > bound):
            raise ValueError(f"{path.name}: slo {name!r} has a limit {bound:g} that is stricter than its goal {goal:g}")
        over, unit, needs = (entry.get(key, "") for key in ("over", "unit", "needs"))
        result.append(Slo(name, entry["figure"], over, unit, more, bound, goal, needs, entry.get("scaled", False)))
    return result


def speed_of(measured: float, settings: Mapping[str, Any]) -> float:
    """Of this machine, where the one of the limits has 1: no more than that, and no less than the slowest allowed."""
    return float(max(settings["slowest"], min(1.0, measured / settings["reference"])))


def machine_speed(figures: Mapping[str, float], path: Path = SLO_FILE) -> float:
    """``speed_of`` by the figure that slo.toml names; 1 where it was not measured."""
    settings = tomllib.loads(path.read_text("utf-8"))["machine"]
    return speed_of(figures[settings["figure"]], settings) if settings["figure"] in figures else 1.0


def figures_of(results: Mapping[str, Any]) -> dict[str, float]:
    """``bench::key`` → number of a file that pytest-benchmark wrote."""
    found: dict[str, float] = {}
    for bench in results["benchmarks"]:
        values = {**bench["extra_info"], **{f"stats.{k}": v for k, v in bench["stats"].items()}}
        for key, value in values.items():
            if isinstance(value, (int, float)):
                found[f"{bench['name']}::{key}"] = float(value)
    return found


def judge(slo: Slo, figures: Mapping[str, float]) -> Verdict:
    names = [slo.figure, slo.over] if slo.over else [slo.figure]
    missing = [name for name in names if name not in figures]
    if missing:
        if slo.needs and importlib.util.find_spec(slo.needs) is None:
            return Verdict(slo, None, f"not measured: {slo.needs} is not installed", False)
        return Verdict(slo, None, f"MISSING {', '.join(missing)}", True)
    measured = figures[slo.figure] / figures[slo.over] if slo.over else figures[slo.figure]
    if not _holds(slo, measured, slo.bound):  # also NaN
        return Verdict(slo, measured, "VIOLATED", True)
    if slo.goal is not None and not _holds(slo, measured, slo.goal):
        return Verdict(slo, measured, "within limit, goal missed", False)
    return Verdict(slo, measured, "met", False)


def _holds(slo: Slo, measured: float, bound: float) -> bool:
    return measured >= bound if slo.more else measured <= bound


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def table(verdicts: list[Verdict]) -> list[tuple[str, ...]]:
    """Rows of text, the first one of headings."""
    rows = [("figure", "goal", "limit", "measured", "verdict")]
    for verdict in verdicts:
        slo, sign = verdict.slo, "≥" if verdict.slo.more else "≤"
        rows.append(
            (
                slo.name,
                f"{sign} {_number(slo.goal, slo.unit)}" if slo.goal is not None else "–",
                f"{sign} {_number(slo.bound, slo.unit)}",
                _number(verdict.measured, slo.unit),
                verdict.words,
            )
        )
    return rows


def markdown(rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def plain(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="what pytest --benchmark-json wrote")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table there, for the README")
    args = parser.parse_args(arguments)
    figures = figures_of(json.loads(args.results.read_text("utf-8")))
    speed = machine_speed(figures)
    verdicts = [judge(slo.on(speed), figures) for slo in read_slos()]
    rows = table(verdicts)
    print(plain(rows))
    if speed < 1:
        print(f"\nThis machine has {speed:.2f} of the speed that goals are for; limits of what that slows are wider.")
    if args.markdown:
        args.markdown.write_text(markdown(rows), "utf-8")
    failed = [verdict.slo.name for verdict in verdicts if verdict.failed]
    if failed:
        print(f"\n{len(failed)} of {len(verdicts)} violated: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
