"""The drill as its user runs it: every fault told, everything there once, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from recorder_process import REPO

TIMEOUT_S = 400.0  # half a minute on an idle machine


def test_a_drill_loses_and_doubles_nothing_and_leaves_nothing_behind(questdb, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        f'[questdb]\nembedded = false\nilp = "{questdb.ilp_url}"\nsql = "{questdb.sql_url}"\n'
        '[[feeds]]\nname = "mine"\nprovider = "coinbase"\nsymbols = ["BTC-USD"]\n'
    )
    before = {row["table_name"] for row in questdb.sql.rows("tables()")}
    done = subprocess.run(
        [sys.executable, "-m", "recorder", "drill", "--quick", "--rate", "500", "--json"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert [step["name"] for step in report["steps"] if not step["passed"]] == []
    assert len(report["steps"]) == 9
    total = report["total"]
    assert total["sent"] == total["stored"] > 1000
    assert (total["lost"], total["doubled"], total["values_equal"]) == (0, 0, True)
    assert set(report["gaps"]) == {"repaired"}
    assert report["completeness"] > 0.99
    assert done.returncode == 0
    assert {row["table_name"] for row in questdb.sql.rows("tables()")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
