"""Rows of the recorder's own, through the journal's frames into batches."""

from __future__ import annotations

import math

import pytest

from recorder.core import observations
from recorder.core.batch import Output
from recorder.values.errors import FrameError
from recorder.values.schema import LONG_NULL
from recorder.values.tables import LATENCY, QUALITY_EVENTS

TS = 1_700_000_000_000_000_000


def test_rows_come_out_as_they_were_put_in():
    out = Output()
    observations.store(out, observations.encode(LATENCY, [(TS, "cb", "total", 3, 10, 20, None, 40, -5, 60)]))
    (row,) = out.batches["latency"].seal().rows
    assert (row["ts_event"], row["count"], row["p50"], row["p999"], row["max"]) == (TS, 3, 10, LONG_NULL, 40)
    assert out.texts.name(row["feed"]) == "cb"
    assert out.texts.name(row["stage"]) == "total"


def test_nulls_labels_and_texts_are_packed():
    out = Output()
    values = (TS, None, "cb", "disk", "critical", None, 5.5, "nearly full")
    observations.store(out, observations.encode(QUALITY_EVENTS, [values]))
    sealed = out.batches["quality_events"].seal()
    (row,) = sealed.rows
    assert row["symbol"] == -1
    assert row["severity"] == 3
    assert math.isnan(row["value"])
    assert bytes(sealed.varchar_heap[: sealed.varchar_offsets[1]]) == b"nearly full"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"{", "observed rows"),
        (b'{"table":"nothing","rows":[]}', "'nothing'"),
        (b'{"table":"latency","rows":[[1,2]]}', "2 values; expected 10"),
    ],
)
def test_what_is_no_observation_is_refused_in_words(payload, words):
    with pytest.raises(FrameError, match=words):
        observations.store(Output(), payload)
