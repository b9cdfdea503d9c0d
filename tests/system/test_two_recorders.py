"""Two recorders of the same feeds write into one database: one truth, to which each adds what the other missed.

Invariants
  complete  what either of them journalled is stored, also what only one of them saw
  once      one copy of each row
  right     a row's identity and the provider's own columns are those both would have stored; its receive time and what
            was computed over the rows before it are those of one of the two recorders, as an undisturbed run of its own
            journal gives them, never a mixture

Quotes of Binance spot come without a time and get that of their arrival: those are rows of their own for each recorder.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import QuestDB
from recorder_process import until
from rig import KERNELS, Rig, exchange
from sql_rows import ask
from undisturbed import Keyed, names_of, stored, undisturbed

from recorder.shell.simulator.proxy import Proxy
from recorder.values.config import KernelsConfig
from recorder.values.tables import QUOTES, TABLES, TRADES

SEED = 20261125
RATE = 400
PROVIDERS = ("coinbase", "binance")
OF_ONE_RECORDER = {"ts_recv", "flags", "vwap", "rolling_vwap", "zscore", "missed"}
ACCOUNTS = ("gaps", "coverage", "feed_events", "rejected")  # of what each recorder met: whose row it is, is all of it


@pytest.fixture
def two(tmp_path: Path, fresh_tables: QuestDB, free_port: Any) -> Iterator[tuple[Rig, Rig, list[Proxy]]]:
    """Two rigs, and for each the proxy between its recorder and the exchange."""
    with ExitStack() as stack:
        server = stack.enter_context(Proxy(("127.0.0.1", fresh_tables.http_port)))
        place = stack.enter_context(exchange(*PROVIDERS, rate=RATE, seed=SEED))
        port = int(place.urls["coinbase"].split(":")[2].split("/")[0])
        rigs, proxies = [], []
        for name in "ab":
            proxies.append(stack.enter_context(Proxy(("127.0.0.1", port))))
            urls = {key: url.replace(str(port), str(proxies[-1].port)) for key, url in place.urls.items()}
            rig = Rig(tmp_path / name, fresh_tables, server, place, free_port(), urls=urls)
            rigs.append(stack.enter_context(rig))
        yield rigs[0], rigs[1], proxies


def test_two_recorders_leave_one_copy_of_each_row_and_what_only_one_saw_is_there(
    two: tuple[Rig, Rig, list[Proxy]], questdb: QuestDB
) -> None:
    """Each loses its connections once and is killed once, at other times: complete, once, right."""
    rng = random.Random(SEED)
    a, b, proxies = two
    for rig in (a, b):
        rig.start()
    for rig in (a, b):
        rig.wait_live(200)
    for rig, other, proxy in ((a, b, proxies[0]), (b, a, proxies[1])):
        proxy.cut(reset=True)
        let_pass(other, rng.randrange(100, 300))
        rig.wait_live()
        let_pass(rig, 300)
        rig.kill()
        let_pass(other, rng.randrange(100, 300))
        rig.start()
        rig.wait_live(200)
    for rig in (a, b):
        rig.end()
    folds = [undisturbed(rig.journal, KernelsConfig(**KERNELS)) for rig in (a, b)]
    for table in (TRADES, QUOTES):
        alone = assert_of_either(questdb, table, folds)
        assert min(alone) > 50, f"{table.name}: seen by one only: {alone}"
    for name in ACCOUNTS:
        assert_of_either(questdb, TABLES[name], folds)
    assert_gaps_are_told_apart(questdb, folds)


def let_pass(rig: Rig, frames: int) -> None:
    """Wait until this recorder has received so many more frames of each feed."""
    before = {name: rig.metric("recorder_frames_total", name) for name in rig.feeds}
    until(lambda: all(rig.metric("recorder_frames_total", n) > v + frames for n, v in before.items()), "frames")


def assert_of_either(questdb: QuestDB, table: Any, folds: list[dict[str, Keyed]]) -> list[int]:
    """The table holds the union of two folds, each row as one of them has it; how many only one of them has."""
    names, rows = names_of(table), stored(questdb, table)
    place = [names.index(name) for name in table.dedup]
    found = {tuple(row[i] for i in place): row for row in rows}
    first, second = folds[0][table.name], folds[1][table.name]
    assert len(found) == len(rows), table.name
    assert set(found) == set(first) | set(second), table.name
    for key, row in found.items():
        assert row in (first.get(key), second.get(key)), (table.name, key)
    for key in set(first) & set(second):
        for name, ours, theirs in zip(names, first[key], second[key], strict=True):
            assert ours == theirs or name in OF_ONE_RECORDER or table.name in ACCOUNTS, (table.name, key, name)
    return [len(set(first) - set(second)), len(set(second) - set(first))]


def assert_gaps_are_told_apart(questdb: QuestDB, folds: list[dict[str, Keyed]]) -> None:
    """Each recorder has gaps of its own that the other filled; the check names those that nobody filled."""
    assert questdb.sql.value("SELECT count() FROM gaps WHERE kind = 'trade_id'") >= 2
    names = names_of(TRADES)
    feed, symbol, number = (names.index(name) for name in ("feed", "symbol", "trade_id"))
    ids: dict[tuple[str, str], set[int]] = {}
    for fold in folds:
        for row in fold["trades"].values():
            ids.setdefault((row[feed], row[symbol]), set()).add(row[number])
    still = {
        (row["feed"], row["symbol"], n)
        for row in ask(questdb, "checks/gaps_still_missing", **{"from": "0::timestamp"})
        for n in range(row["from_id"], row["to_id"] + 1)
    }
    holes = {(*key, n) for key, own in ids.items() for n in range(min(own), max(own)) if n not in own}
    assert still == holes
