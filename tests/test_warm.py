"""Nothing is compiled in the hot path: after warming, frames of every kind add no compiled signature anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib, json, pkgutil, sys, tempfile, time
from pathlib import Path
import numpy as np
from numba.core.dispatcher import Dispatcher
import recorder.core
from recorder.core import encode, frames, histogram, latency, websocket_frames
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell import ledger
from recorder.shell.journal import Journal
from recorder.values.config import KernelsConfig
sys.path.insert(0, {tests!r})

def compiled():
    found = {{}}
    for info in pkgutil.iter_modules(recorder.core.__path__, "recorder.core."):
        for name, value in vars(importlib.import_module(info.name)).items():
            if isinstance(value, Dispatcher) and value.py_func.__module__ == info.name:
                found[f"{{info.name}}.{{name}}"] = len(value.signatures)
    return found

pipeline = Pipeline(KernelsConfig(), make)
for module in (frames, websocket_frames, histogram, latency, encode, pipeline):
    module.warm()
before = compiled()

from test_pipeline import SPECS, FRAMES
with tempfile.TemporaryDirectory() as folder:
    journal = Journal.open(Path(folder))
    numbers = [journal.source(spec) for spec in SPECS]
    for kind, source, ts, payload in FRAMES:
        if kind != frames.SOURCE:
            journal.append(numbers[source] if source < len(numbers) else source, kind, ts, payload)
    chunk = np.frombuffer(FRAMES[-1][3], np.uint8)
    arrays = np.zeros(4, np.int64), np.full(4, len(chunk), np.int64), np.ones(4, np.uint8)
    journal.append_frames(numbers[0], time.time_ns(), chunk, *arrays, 4)
    latencies, stages = histogram.Histogram(), ledger.Ledger(0)
    position, rows = 0, 0
    while (read := journal.read(position, 1 << 14)) is not None:
        pipeline.consume(read)
        latencies.add(read.ts_recv, time.time_ns())
        stages.appended(read.end)
        stages.decoded(read, time.time_ns())
        position = read.end
        sealed = pipeline.seal()
        stages.sent(sealed, pipeline.out.series.keys, time.time_ns())
        stages.applied(sealed.position, time.time_ns())
        for table in sealed.tables:
            rows += len(table.rows)
            encode.encode(table, sealed.dictionary)
    journal.close()
    measured = stages.take(None)
after = compiled()
added = {{name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}}
print(json.dumps({{"rows": rows, "measured": len(measured), "warmed": sum(before.values()), "added": added}}))
"""


def test_frames_of_every_kind_compile_nothing_after_warming():
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rows"] > 500
    assert result["measured"] > 0
    assert result["warmed"] > 10
    assert result["added"] == {}
