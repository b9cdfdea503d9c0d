"""/metrics and /health: what they say of a recording, read as Prometheus reads it, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from recorder.core.gaps import Counts
from recorder.core.histogram import Histogram, add_one
from recorder.core.latency import STAGES, StageHistograms
from recorder.shell.monitor import GRACE_NS, Monitor, health
from recorder.values.config import MetricsConfig
from recorder.values.errors import RecorderError
from recorder.values.feed import SECOND

NOW = time.time_ns()
LONG_AGO = NOW - 3600 * SECOND


def connection(ready: bool = True, reason: str = "", reconnects: int = 0, number: int = 0, queue_bytes: int = 0) -> Any:
    spec = SimpleNamespace(connection=number)
    return SimpleNamespace(ready=ready, reason=reason, reconnects=reconnects, spec=spec, queue_bytes=queue_bytes)


def feed_run(*connections: Any, **more: Any) -> Any:
    fields = {"skipped": "", "failed": "", "frames": 0, "reconnects": 0, **more}
    return SimpleNamespace(connections=list(connections), **fields)


def sink(**more: Any) -> Any:
    counters = dict.fromkeys(("rows_sent", "bytes_sent", "requests", "retries", "rejected_rows"), 0)
    counts: dict[str, Any] = {"rows_by_table": {"trades": 0}, "answer_latency": [], "applied_lag": [0] * 64}
    state = {"down_s": 0.0, "last_error": "", "suspended": {}, "visibility_lag_s": 0.0}
    return SimpleNamespace(**{**state, **counts, **counters, **more})


def watch(*problems: str, **judged_dead: int) -> Any:
    return SimpleNamespace(problems=lambda: list(problems), judged_dead=judged_dead)


def recording(**more: Any) -> Any:
    """A recording in which all is well, an hour after its start."""
    engine = SimpleNamespace(
        decoded=Histogram(), queryable=Histogram(), rows_queryable=0, released=0, backlog=0, waiting_since=0, failed="",
        ledger=SimpleNamespace(total=StageHistograms(), offsets={}, unmeasured=0),
    )  # fmt: skip
    pipeline = SimpleNamespace(sources={}, out=SimpleNamespace(unknown={}), rows={"trades": 0}, duplicates=0)
    pipeline.gaps = SimpleNamespace(
        open={1: SimpleNamespace(feed="cb")}, counts={"cb": Counts(repaired=2, given_up=1, recovered=7)}
    )
    journal = SimpleNamespace(end=0, synced=0, synced_until=NOW, paused_reason=None)
    disk = SimpleNamespace(problems=[], full=asyncio.Event(), free_bytes={"journal": 5_000})
    fields = {
        "feeds": {"cb": feed_run(connection())}, "database_state": "ready", "sink": sink(), "started": LONG_AGO,
        "engine": engine, "pipeline": pipeline, "journal": journal,
        "watch": watch(), "disk": disk, "repairer": SimpleNamespace(requests={("cb", 200): 3}),
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **more})


@pytest.fixture
def serve(free_port: Callable[[], int]) -> Iterator[Callable[[Any], str]]:
    """Serve a recording; give the address."""
    monitors = []

    def begin(of: Any) -> str:
        monitors.append(Monitor(of, MetricsConfig(port=free_port())))
        monitors[-1].listen()
        monitors[-1].start()
        return monitors[-1].url.removesuffix("/metrics")

    yield begin
    for monitor in monitors:
        monitor.stop()


def get(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_metrics_are_what_prometheus_reads_and_what_the_recording_counts(serve: Callable[[Any], str]) -> None:
    of = recording(
        feeds={
            "cb": feed_run(connection(), connection(ready=False, number=1, queue_bytes=9), frames=7, reconnects=2),
            'odd "na\\me"': feed_run(),
        },
        sink=sink(
            rows_sent=11, retries=3, suspended={"trades": "full"}, visibility_lag_s=2.5, rows_by_table={"trades": 6},
            answer_latency=[0] * 20 + [3] + [0] * 43, applied_lag=[0] * 30 + [1] + [0] * 33,
        ),
        watch=watch(cb=6),
    )  # fmt: skip
    of.pipeline.rows["trades"] = 5
    of.pipeline.out.unknown["cb", 'field "x"\n'] = 4
    of.pipeline.sources = {
        0: SimpleNamespace(spec=SimpleNamespace(name="cb"), rejected=1),
        1: SimpleNamespace(spec=SimpleNamespace(name="cb"), rejected=2),
    }
    status, kind, body = get(serve(of) + "/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    expected = {
        ("recorder_frames_total", "cb"): 7, ("recorder_reconnects_total", "cb"): 2,
        ("recorder_feed_judged_dead_total", "cb"): 6,
        ("recorder_connections_ready", "cb"): 1, ("recorder_connections_wanted", "cb"): 2,
        ("recorder_connections_wanted", "odd \"na\\me\""): 0, ("recorder_rejected_frames_total", "cb"): 3,
        ("recorder_receive_queue_bytes", "0", "cb"): 0, ("recorder_receive_queue_bytes", "1", "cb"): 9,
        ("recorder_unknown_total", "cb", 'field "x"\n'): 4, ("recorder_rows_total", "trades"): 5,
        ("recorder_table_suspended", "trades"): 1, ("recorder_visibility_lag_seconds",): 2.5,
        ("recorder_sink_table_rows_total", "trades"): 6, ("recorder_sink_seconds_count", "answered"): 3,
        ("recorder_sink_seconds_bucket", "0.536870912", "applied"): 0,
        ("recorder_sink_seconds_bucket", "1.073741824", "applied"): 1,
        ("recorder_paused",): 0, ("recorder_disk_free_bytes", "journal"): 5_000,
        ("recorder_sink_rows_total",): 11, ("recorder_sink_retries_total",): 3, ("recorder_database_ready",): 1,
    }  # fmt: skip
    assert {key: values.get(key) for key in expected} == expected
    assert values["recorder_resident_bytes",] > 1e6


def test_latency_buckets_hold_what_was_added(serve: Callable[[Any], str]) -> None:
    of = recording()
    durations = [1_000, 10_000, 16_384 - 1, 16_384, 1_000_000, 10**9, 300 * 10**9]
    of.engine.decoded.add(NOW - np.array(durations), NOW)
    body = get(serve(of) + "/metrics")[2]
    samples = [
        sample
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if sample.labels.get("to") == "decoded"
    ]
    buckets = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
    assert buckets.pop("+Inf") == len(durations)
    for bound, count in buckets.items():
        assert count == sum(duration < float(bound) * 1e9 for duration in durations), bound
    (total,) = (s.value for s in samples if s.name.endswith("_sum"))
    assert total == pytest.approx(sum(durations) / 1e9)


def test_stages_are_signed_histograms_of_each_feed(serve: Callable[[Any], str]) -> None:
    of = recording()
    total, exchange = of.engine.ledger.total, STAGES.index("exchange")
    total.know(["cb", "kr"])
    durations = [-300 * 10**9, -(2**20), -(2**20) + 1, -1, 0, 5_000, 2**20, 10**9]
    for duration in durations:
        add_one(total.counts[1, exchange], total.totals[1, exchange], duration, 1)
    of.engine.ledger.offsets["kr"] = -1_500_000_000
    samples = [
        sample
        for family in text_string_to_metric_families(get(serve(of) + "/metrics")[2])
        for sample in family.samples
        if sample.labels.get("feed") == "kr" and sample.labels.get("stage", "exchange") == "exchange"
    ]
    buckets = {s.labels["le"]: s.value for s in samples if s.name == "recorder_latency_seconds_bucket"}
    assert buckets.pop("+Inf") == len(durations)
    assert min(map(float, buckets)) < -100
    for bound, below in buckets.items():
        limit = round(float(bound) * 1e9)
        assert below == sum(d <= limit if limit < 0 else d < limit for d in durations), bound
    values = {s.name: s.value for s in samples if s.name != "recorder_latency_seconds_bucket"}
    assert values.pop("recorder_latency_sum_seconds") == pytest.approx(sum(durations) / 1e9)
    assert values == {"recorder_clock_offset_seconds": -1.5}


def test_what_a_power_loss_would_cost_is_told_by_its_age(serve: Callable[[Any], str]) -> None:
    of = recording()
    url = serve(of) + "/metrics"
    assert "recorder_journal_sync_lag_seconds 0.0" in get(url)[2]
    of.journal.end, of.journal.synced_until = 1, time.time_ns() - 7 * SECOND
    (line,) = (line for line in get(url)[2].splitlines() if line.startswith("recorder_journal_sync_lag_seconds"))
    assert 7 <= float(line.split()[1]) < 60


def test_a_database_that_takes_no_rows_is_not_ready(serve: Callable[[Any], str]) -> None:
    for of in (recording(sink=None), recording(sink=sink(down_s=0.1)), recording(database_state="restarting")):
        assert "recorder_database_ready 0.0" in get(serve(of) + "/metrics")[2]


def test_health_is_200_while_all_is_well_and_503_with_the_reasons_otherwise(serve: Callable[[Any], str]) -> None:
    of = recording()
    url = serve(of)
    status, kind, body = get(url + "/health")
    assert (status, kind, json.loads(body)["problems"]) == (200, "application/json", [])
    of.feeds["cb"].connections[0] = connection(ready=False, reason="nobody answers")
    status, _, body = get(url + "/health?verbose")
    assert (status, json.loads(body)["status"]) == (503, "failing")
    assert json.loads(body)["problems"] == ["feed cb connection 0: nobody answers"]
    assert get(url + "/else")[0] == 404


JUST_STARTED = {"started": NOW - SECOND}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"feeds": {"cb": feed_run(connection(ready=False))}}, "not subscribed yet"),
        ({"feeds": {"cb": feed_run(connection(ready=False))}, **JUST_STARTED}, ""),
        ({"feeds": {"cb": feed_run(connection(False, "refused", reconnects=1))}, **JUST_STARTED}, "refused"),
        ({"feeds": {"al": feed_run(skipped="set the key")}}, ""),
        ({"feeds": {"al": feed_run()}}, ""),  # outside of its session
        ({"feeds": {"al": feed_run(failed="no calendar")}}, "no calendar"),
        ({"watch": watch("feed cb connection 0: judged dead")}, "judged dead"),
        ({"database_state": "port 9000 is taken"}, "port 9000 is taken"),
        ({"database_state": "starting", **JUST_STARTED}, ""),
        ({"sink": None, "database_state": "starting"}, "starting"),
        ({"sink": sink(down_s=31.0, last_error="refused")}, "refused"),
        ({"sink": sink(down_s=1.0, last_error="refused")}, ""),
        ({"sink": sink(suspended={"trades": "disk full"})}, "trades is suspended: disk full"),
        ({"sink": sink(visibility_lag_s=31.0)}, "rows answered 31 s ago are not applied yet"),
    ],
)
def test_what_counts_as_a_problem(change: dict[str, Any], words: str) -> None:
    problems = health(recording(**change), NOW)
    assert len(problems) == bool(words)
    assert words in "".join(problems)


def test_rows_that_wait_too_long_and_a_paused_journal_are_problems() -> None:
    of = recording()
    of.engine.waiting_since = NOW - GRACE_NS // 2
    assert health(of, NOW) == []
    of.engine.waiting_since = NOW - 2 * GRACE_NS
    of.journal.paused_reason = "1.0 GB free"
    assert health(of, NOW) == ["rows received 60 s ago are not queryable yet", "journal: 1.0 GB free"]
    of.engine.failed = "ZeroDivisionError: division by zero"
    assert health(of, NOW)[0].startswith("nothing is decoded any more: ZeroDivisionError: division by zero; frames are")


def test_a_taken_port_is_named(free_port: Callable[[], int]) -> None:
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(RecorderError, match=rf"\[metrics\] port {port}"):
            Monitor(recording(), MetricsConfig(port=port)).listen()


def test_switched_off_it_opens_nothing() -> None:
    monitor = Monitor(recording(), MetricsConfig(enabled=False))
    monitor.listen()
    monitor.start()
    monitor.stop()
    assert monitor.url == "off"
