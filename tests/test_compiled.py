"""Compiled code on disk is of the sources as they are, those of other files included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from recorder_process import environment

CALLED = "from {njit} import njit\nNUMBER = {number}\n@njit(cache=True)\ndef called():\n    return NUMBER\n"
CALLER = """\
from {njit} import njit
from core.called import called

@njit(cache=True)
def caller():
    return called()
"""


@pytest.mark.parametrize(("njit", "then"), [("recorder.compiled", 2), ("numba", 1)])
def test_a_change_of_what_a_kernel_calls_in_another_file_changes_the_kernel(
    tmp_path: Path, njit: str, then: int
) -> None:
    """Numba alone goes on with what it has compiled: when that is no longer so, recorder/compiled.py can go."""
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "caller.py").write_text(CALLER.format(njit=njit))
    known = f"import pathlib, recorder.compiled as c; c.ROOT = pathlib.Path({str(tmp_path)!r}); "
    script = (known if njit != "numba" else "") + "from core.caller import caller; print(caller())"
    found = []
    for number in (1, 2):
        (tmp_path / "core" / "called.py").write_text(CALLED.format(njit=njit, number=number))
        ran = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
        )
        found.append(int(ran.stdout))
    assert found == [1, then]
