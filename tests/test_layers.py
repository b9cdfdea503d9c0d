"""Imports point one way: values ← core ← shell ← commands; a feed knows values and the batch, never another feed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "recorder"
RANK = {"values": 0, "core": 1, "feeds": 1, "shell": 2, "commands": 3}
IMPURE = {"asyncio", "socket", "os", "time", "random", "logging", "threading", "subprocess", "ssl", "http"}
FEEDS_MAY_IMPORT = (
    "recorder.values",
    "recorder.core.batch",
    "recorder.core.past_bars",
    "recorder.core.templates",
    "recorder.core.text_time",
    "recorder.core.eligibility",
    "recorder.core.event_stream",
)
# The registry knows every feed; it is the one place that does.
REGISTRY = ROOT / "feeds" / "__init__.py"
# Values that describe files and variables need their names, never their contents.
MAY_READ = {ROOT / "values" / "config.py", ROOT / "values" / "config_check.py"}


def modules():
    return sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)


def layer_of(path):
    return path.relative_to(ROOT).parts[0]


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_left(path):
    rank = RANK[layer_of(path)]
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "recorder" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] <= rank, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", [p for p in modules() if layer_of(p) in ("values", "core", "feeds")], ids=str)
def test_values_core_and_feeds_have_no_clock_no_io_and_no_log(path):
    found = {name.split(".")[0] for name in imports_of(path)} & IMPURE
    found |= {name for name in imports_of(path) if name.startswith("urllib.request")}
    if path in MAY_READ:
        found -= {"os"}
    assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


@pytest.mark.parametrize("path", [p for p in modules() if layer_of(p) == "feeds" and p != REGISTRY], ids=str)
def test_a_feed_imports_values_and_the_batch_only(path):
    family = "recorder.feeds." + path.relative_to(ROOT / "feeds").parts[0].removesuffix(".py")
    for name in imports_of(path):
        if name.startswith("recorder."):
            assert name.startswith((*FEEDS_MAY_IMPORT, family)) or name == "recorder.core", (
                f"{path.relative_to(ROOT)} imports {name}"
            )


def test_only_commands_know_both_a_feed_and_a_sink():
    for path in modules():
        names = set(imports_of(path))
        knows_feed = any(name.startswith("recorder.feeds") for name in names)
        knows_sink = any(name.startswith("recorder.shell.sink") for name in names)
        assert not (knows_feed and knows_sink) or layer_of(path) == "commands", path
