"""Recordings of real feeds with lines taken out, sent twice and out of order, at places that a seed picks.

Invariants
  complete  every trade whose line remained is stored
  once      a line sent twice is one row
  right     its price, size and time are those of its line
  known     ids that were taken out are recorded as gaps, and are exactly what the check of remaining gaps names: what
            came late has filled its own
"""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from recorded import Recordings, canonical, config_for, named, short, trade_of
from sql_rows import ask

from recorder.commands.replay import replay
from recorder.values.tables import BACKFILLED

SEED = 20261126


def disordered(lines: list[bytes], share: float, rng: random.Random) -> tuple[list[bytes], dict[str, set[int]], int]:
    """Lines as they will be replayed, ids of trades taken out by the provider's symbol, and how many are sent twice.

    share  of lines with a trade: taken out, sent twice, and swapped with the trade before, each
    """
    gone: dict[str, set[int]] = {}
    result: list[bytes] = []
    doubled, before = 0, -1  # place of the trade before among the lines kept
    for line in lines:
        trade = trade_of(line)
        fate = rng.random() if trade is not None else 1.0
        if trade is not None and fate < share:
            gone.setdefault(trade[0], set()).add(trade[1])
            continue
        result.append(line)
        if trade is None:
            continue
        if fate < 2 * share:
            result.append(line)
            doubled += 1
        elif fate < 3 * share and before >= 0:
            mine, other = result[-1], result[before]  # each arrives when the other did
            (a, x), (b, y) = (each.split(b"{", 1) for each in (other, mine))
            result[before], result[-1] = a + b"{" + y, b + b"{" + x
        before = len(result) - 1
    return result, gone, doubled


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("hftbacktest/spot_btcusdt_20230405.gz", 0.02),
        ("hftbacktest/usdm_btcusdt_20230404.gz", 0.02),
        ("cryptofeed/COINBASE/2021-04-17_COINBASE.ws.28.0.gz", 0.15),
    ],
)
def test_lines_lost_doubled_and_reordered_leave_what_remained_once_and_know_what_is_gone(
    fresh_tables: Any, shared_data: Path, tmp_path: Path, name: str, share: float
) -> None:
    """Complete, once, right, known."""
    recordings = Recordings(fresh_tables, shared_data)
    spec, feed = recordings.specs[name], f"mixed-{short(name)}"
    lines = gzip.decompress((shared_data / name).read_bytes()).splitlines(keepends=True)
    kept, gone, doubled = disordered(lines, share, random.Random(SEED))
    path = tmp_path / f"{Path(name).name.split('_')[0]}_mixed.gz"
    path.write_bytes(gzip.compress(b"".join(kept), 1))
    replay(config_for(fresh_tables, [named(path, feed)]), [path])

    expected = {}
    for line in kept:
        trade = trade_of(line)
        if trade is not None:
            expected[canonical(spec, trade[0]), trade[1]] = price_and_size(line)
    stored = fresh_tables.sql.rows(
        f"SELECT symbol, trade_id, price, size FROM trades WHERE feed = '{feed}' AND flags & {BACKFILLED} = 0"
    )
    assert len(stored) == len(expected)
    assert {(row["symbol"], row["trade_id"]): (row["price"], row["size"]) for row in stored} == expected
    assert doubled > 10

    # What was lost before the first trade or after the last one no id tells; a snapshot repeats a first one too.
    bounds = {
        row["symbol"]: (row["first"], row["last"])
        for row in fresh_tables.sql.rows(
            f"SELECT symbol, min(trade_id) first, max(trade_id) last FROM trades WHERE feed = '{feed}'"
        )
    }
    lost = {
        (symbol, i)
        for own, ids in gone.items()
        for symbol in [canonical(spec, own)]
        for i in ids
        if symbol in bounds and bounds[symbol][0] < i < bounds[symbol][1]
    }
    gaps = fresh_tables.sql.rows(f"SELECT symbol, from_id, to_id FROM gaps WHERE feed = '{feed}' AND kind = 'trade_id'")
    assert lost <= spread(gaps)
    assert len(lost) > 10
    assert spread(ask(fresh_tables, "checks/gaps_still_missing", **{"from": "0::timestamp"})) == lost
    assert fresh_tables.sql.value("SELECT count() FROM rejected") == 0


def price_and_size(line: bytes) -> tuple[float, float]:
    message = json.loads(line[line.find(b"{") :])
    data = message.get("data", message)
    return (float(data["p"]), float(data["q"])) if "p" in data else (float(data["price"]), float(data["size"]))


def spread(gaps: list[dict[str, Any]]) -> set[tuple[str, int]]:
    """(symbol, id) of every id between from_id and to_id."""
    return {(gap["symbol"], i) for gap in gaps for i in range(gap["from_id"], gap["to_id"] + 1)}
