"""``/metrics`` and ``/health`` over HTTP, answered by a thread of their own: the event loop is never asked to wait."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import orjson
import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from recorder import __version__
from recorder.core.histogram import SUB_BITS, ZERO, Histogram, sum_of
from recorder.core.latency import STAGES
from recorder.shell.engine import FAILED_ACTION
from recorder.shell.poller import Poller
from recorder.values.config import MetricsConfig
from recorder.values.errors import RecorderError
from recorder.values.feed import SECOND

GRACE_NS = 30 * SECOND  # a feed may take this long to deliver, the database to start, rows to become queryable
BUCKET_BITS = range(13, 38)  # 8 µs to 137 s, a bucket per power of two
REQUEST_TIMEOUT_S = 10.0  # a client that sends nothing does not keep a thread


class Monitor:
    """Serves what a Recording knows of itself.

    recording  as commands.record.Recording; only attributes are read, each read is atomic
    """

    def __init__(self, recording: Any, config: MetricsConfig) -> None:
        self._recording, self._config = recording, config
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(recording))
        self._server: ThreadingHTTPServer | None = None
        self._serving = False

    @property
    def url(self) -> str:
        return f"http://{self._config.host}:{self._config.port}/metrics" if self._config.enabled else "off"

    def listen(self) -> None:
        """Take the port before anything else is started. Raises RecorderError naming it when it is taken."""
        if not self._config.enabled:
            return
        monitor = self

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT_S

            def do_GET(self) -> None:
                status, kind, body = monitor.answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """A scrape every few seconds is not an event."""

        try:
            self._server = ThreadingHTTPServer((self._config.host, self._config.port), Handler)
        except OSError as error:
            raise RecorderError(
                f"[metrics] port {self._config.port} on {self._config.host} cannot be opened ({error.strerror}); "
                "choose another, or enabled = false"
            ) from error
        self._server.daemon_threads = True

    def start(self) -> None:
        """Answer, once the recording has started; requests that came before have waited."""
        if self._server is None:
            return
        self._serving = True
        threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            if self._serving:
                self._server.shutdown()
            self._server.server_close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """(status, content type, body) of a GET."""
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        if path == "/health":
            problems = health(self._recording, time.time_ns())
            body = {"status": "failing" if problems else "ok", "problems": problems, "version": __version__}
            return 503 if problems else 200, "application/json", orjson.dumps(body)
        return 404, "text/plain", b"here are /metrics and /health\n"


def health(recording: Any, now: int) -> list[str]:
    """What is wrong, one sentence each; empty while every feed that should deliver does and rows become queryable."""
    problems = []
    starting = now - recording.started < GRACE_NS
    for name, run in list(recording.feeds.items()):
        if run.skipped:
            continue
        if run.failed:
            problems.append(f"feed {name}: {run.failed}")
        for connection in list(run.connections):
            if not connection.ready and not (starting and not connection.reconnects):
                why = connection.reason or "not subscribed yet"
                problems.append(f"feed {name} connection {connection.spec.connection}: {why}")
    problems += recording.watch.problems()
    if recording.database_state != "ready" and not starting:
        problems.append(f"database: {recording.database_state}")
    if (sink := recording.sink) is not None:
        if sink.down_s * SECOND > GRACE_NS:
            problems.append(f"database takes no rows: {sink.last_error}")
        problems += [f"table {table} is suspended: {reason}" for table, reason in sink.suspended.items()]
        if sink.visibility_lag_s * SECOND > GRACE_NS:
            problems.append(f"rows answered {sink.visibility_lag_s:.0f} s ago are not applied yet")
    if why := recording.engine.failed:
        problems.append(f"nothing is decoded any more: {why}; {FAILED_ACTION}")
    waiting_since = recording.engine.waiting_since
    if waiting_since and now - waiting_since > GRACE_NS:
        problems.append(f"rows received {(now - waiting_since) // SECOND} s ago are not queryable yet")
    problems += recording.disk.problems
    if paused := recording.journal.paused_reason:
        problems.append(f"journal: {paused}")
    return problems


class _Collector:
    """Prometheus families, made at each scrape from plain attributes: nothing is counted twice on the hot path."""

    def __init__(self, recording: Any) -> None:
        self._recording = recording
        self._process = psutil.Process()

    def collect(self) -> Iterable[Metric]:
        yield from self._feeds()
        yield from self._polls()
        yield from self._stores()
        yield from self._gaps()
        yield from self._latencies()
        yield GaugeMetricFamily("recorder_resident_bytes", "Resident memory.", self._process.memory_info().rss)
        yield GaugeMetricFamily(
            "recorder_start_time_seconds", "When the recorder started.", self._recording.started / 1e9
        )

    def _feeds(self) -> Iterator[Metric]:
        frames = CounterMetricFamily("recorder_frames", "Frames received and journalled.", labels=["feed"])
        reconnects = CounterMetricFamily("recorder_reconnects", "Connections opened again.", labels=["feed"])
        ready = GaugeMetricFamily(
            "recorder_connections_ready", "Connections subscribed and delivering.", labels=["feed"]
        )
        wanted = GaugeMetricFamily("recorder_connections_wanted", "Connections that should be.", labels=["feed"])
        queue = GaugeMetricFamily(
            "recorder_receive_queue_bytes", "Received by the system, not read yet.", labels=["feed", "connection"]
        )
        for name, run in list(self._recording.feeds.items()):
            connections = list(run.connections)
            for c in connections:
                queue.add_metric([name, str(c.spec.connection)], c.queue_bytes)
            frames.add_metric([name], run.frames)
            reconnects.add_metric([name], run.reconnects)
            ready.add_metric([name], sum(c.ready for c in connections))
            wanted.add_metric([name], len(connections))
        dead = CounterMetricFamily("recorder_feed_judged_dead", "Connections judged dead by data.", labels=["feed"])
        for name, count in list(self._recording.watch.judged_dead.items()):
            dead.add_metric([name], count)
        yield dead
        rejected = CounterMetricFamily("recorder_rejected_frames", "Frames that did not fit.", labels=["feed"])
        counts: dict[str, int] = {}
        for source in list(self._recording.pipeline.sources.values()):
            counts[source.spec.name] = counts.get(source.spec.name, 0) + source.rejected
        for name, count in counts.items():
            rejected.add_metric([name], count)
        unknown = CounterMetricFamily(
            "recorder_unknown", "Messages and fields no decoder knows.", labels=["feed", "what"]
        )
        for (name, what), count in list(self._recording.pipeline.out.unknown.items()):
            unknown.add_metric([name, what], count)
        yield from (frames, reconnects, ready, wanted, queue, rejected, unknown)

    def _polls(self) -> Iterator[Metric]:
        runs = list(self._recording.feeds.items())
        pollers = [(name, c) for name, run in runs for c in list(run.connections) if isinstance(c, Poller)]
        asked = CounterMetricFamily("recorder_poll_requests", "Asked; status 0: no answer.", labels=["feed", "status"])
        age = GaugeMetricFamily("recorder_poll_answer_age_seconds", "Since the last answer.", labels=["feed"])
        polls = GaugeMetricFamily("recorder_polls", "Questions asked again and again.", labels=["feed"])
        failing = GaugeMetricFamily("recorder_polls_failing", "Of those, answered wrongly.", labels=["feed"])
        by_feed: dict[str, list[Poller]] = {}
        for name, poller in pollers:
            by_feed.setdefault(name, []).append(poller)
        for name, of_feed in by_feed.items():
            for status, count in sum((Counter(p.requests) for p in of_feed), Counter()).items():
                asked.add_metric([name, str(status)], count)
            if last := max(p.last_recv for p in of_feed):
                age.add_metric([name], max(0, time.time_ns() - last) / SECOND)
            polls.add_metric([name], sum(p.polls for p in of_feed))
            failing.add_metric([name], sum(len(p.problems) for p in of_feed))
        used = GaugeMetricFamily("recorder_quota_used", "Requests in the quota's window.", labels=["provider"])
        quota = GaugeMetricFamily("recorder_quota", "Requests that the provider allows in it.", labels=["provider"])
        held = GaugeMetricFamily("recorder_provider_held_seconds", "It wants no requests so long.", labels=["provider"])
        for provider, pace in {p.spec.provider: p.pace for _, p in pollers}.items():
            held.add_metric([provider], pace.held_s)
            if pace.quota:
                used.add_metric([provider], pace.used)
                quota.add_metric([provider], pace.quota)
        yield from (asked, age, polls, failing, used, quota, held)

    def _stores(self) -> Iterator[Metric]:
        r = self._recording
        rows = CounterMetricFamily("recorder_rows", "Rows decoded and handed to the sink.", labels=["table"])
        for table, count in r.pipeline.rows.items():
            rows.add_metric([table], count)
        yield rows
        yield CounterMetricFamily("recorder_rows_queryable", "Rows that QuestDB has applied.", r.engine.rows_queryable)
        yield CounterMetricFamily(
            "recorder_duplicates", "Trades and quotes seen before and not stored again.", r.pipeline.duplicates
        )
        yield GaugeMetricFamily("recorder_journal_end_bytes", "Position of the newest frame.", r.journal.end)
        yield GaugeMetricFamily("recorder_journal_synced_bytes", "Position that survives power loss.", r.journal.synced)
        lag_ns = time.time_ns() - r.journal.synced_until if r.journal.end > r.journal.synced else 0
        yield GaugeMetricFamily(
            "recorder_journal_sync_lag_seconds",
            "Age of the oldest frame a power loss would cost.",
            max(lag_ns, 0) / 1e9,
        )
        yield GaugeMetricFamily(
            "recorder_journal_released_bytes", "Position that QuestDB has applied.", r.engine.released
        )
        yield GaugeMetricFamily("recorder_backlog_bytes", "Journalled and not decoded yet.", r.engine.backlog)
        ready = r.database_state == "ready" and r.sink is not None and not r.sink.down_s
        yield GaugeMetricFamily("recorder_database_ready", "1 while QuestDB takes rows.", ready)
        yield GaugeMetricFamily(
            "recorder_paused", "1 while feeds are paused, the disk being full.", r.disk.full.is_set()
        )
        free = GaugeMetricFamily("recorder_disk_free_bytes", "Free where it is kept.", labels=["of"])
        for name, count in list(r.disk.free_bytes.items()):
            free.add_metric([name], count)
        yield free
        if r.sink is not None:
            yield from _sink(r.sink)

    def _gaps(self) -> Iterator[Metric]:
        book = self._recording.pipeline.gaps
        still = GaugeMetricFamily("recorder_gaps_open", "Gaps that are being repaired.", labels=["feed"])
        for name, count in Counter(gap.feed for gap in list(book.open.values())).items():
            still.add_metric([name], count)
        repaired = CounterMetricFamily(
            "recorder_gaps_repaired", "Gaps whose history was fetched whole.", labels=["feed"]
        )
        given_up = CounterMetricFamily("recorder_gaps_given_up", "Gaps asked for no more.", labels=["feed"])
        recovered = CounterMetricFamily(
            "recorder_gap_ids_recovered", "Rows of closed gaps that came after all.", labels=["feed"]
        )
        for name, counts in list(book.counts.items()):
            repaired.add_metric([name], counts.repaired)
            given_up.add_metric([name], counts.given_up)
            recovered.add_metric([name], counts.recovered)
        requests = CounterMetricFamily(
            "recorder_history_requests", "Questions to histories; status 0: no answer.", labels=["feed", "status"]
        )
        for (name, status), count in list(self._recording.repairer.requests.items()):
            requests.add_metric([name, str(status)], count)
        yield from (still, repaired, given_up, recovered, requests)

    def _latencies(self) -> Iterator[Metric]:
        engine = self._recording.engine
        family = HistogramMetricFamily(
            "recorder_since_receive_seconds", "From the arrival of the bytes.", labels=["to"]
        )
        for to in ("decoded", "queryable"):
            histogram: Histogram = getattr(engine, to)
            family.add_metric([to], _buckets(histogram.counts), histogram.sum / 1e9)
        yield family
        family = HistogramMetricFamily(
            "recorder_latency_seconds", "Of each row, stages that add up to the total.", labels=["feed", "stage"]
        )
        sums = GaugeMetricFamily(
            "recorder_latency_sum_seconds", "Sum of each stage; signed, so it may fall.", labels=["feed", "stage"]
        )
        total = engine.ledger.total
        for feed, counts, totals in zip(list(total.feeds), total.counts, total.totals, strict=False):
            for stage, of_stage, added in zip(STAGES, counts, totals, strict=True):
                seconds = sum_of(added) / 1e9
                signed = stage in ("exchange", "total")
                family.add_metric([feed, stage], _buckets(of_stage, signed), seconds)
                sums.add_metric([feed, stage], seconds)
        offset = GaugeMetricFamily(
            "recorder_clock_offset_seconds",
            "Our clock minus the provider's, with the way here, at best.",
            labels=["feed"],
        )
        for feed, ns in list(engine.ledger.offsets.items()):
            offset.add_metric([feed], ns / 1e9)
        yield from (family, sums, offset)
        yield CounterMetricFamily(
            "recorder_latency_unmeasured_rows", "Rows in no stage: too many were waiting.", engine.ledger.unmeasured
        )


def _sink(sink: Any) -> Iterator[Metric]:
    yield CounterMetricFamily("recorder_sink_rows", "Rows QuestDB answered for.", sink.rows_sent)
    rows = CounterMetricFamily("recorder_sink_table_rows", "Rows QuestDB answered for.", labels=["table"])
    suspended = GaugeMetricFamily("recorder_table_suspended", "1 while QuestDB applies no rows.", labels=["table"])
    for table, count in sink.rows_by_table.items():
        rows.add_metric([table], count)
        suspended.add_metric([table], table in sink.suspended)
    yield from (rows, suspended)
    yield CounterMetricFamily("recorder_sink_bytes", "Bytes of ILP sent.", sink.bytes_sent)
    yield CounterMetricFamily("recorder_sink_requests", "Requests answered.", sink.requests)
    yield CounterMetricFamily("recorder_sink_retries", "Requests tried again.", sink.retries)
    yield CounterMetricFamily("recorder_sink_rejected_rows", "Rows QuestDB refused.", sink.rejected_rows)
    yield GaugeMetricFamily(
        "recorder_visibility_lag_seconds", "From QuestDB's answer to rows being queryable.", sink.visibility_lag_s
    )
    family = HistogramMetricFamily("recorder_sink_seconds", "Of an answer; from it to applied.", labels=["stage"])
    for stage, counts in (("answered", sink.answer_latency), ("applied", sink.applied_lag)):
        family.add_metric([stage], *_powers(counts))
    yield family


def _powers(counts: list[int]) -> tuple[list[tuple[str, float]], float]:
    """Buckets of counts by power of two, and their sum as the bounds have it."""
    cumulative = np.cumsum(counts) if counts else np.zeros(len(BUCKET_BITS) + BUCKET_BITS[0])
    bounds = [(str(2.0**bits / 1e9), float(cumulative[bits])) for bits in BUCKET_BITS]
    return [*bounds, ("+Inf", float(cumulative[-1]))], sum(n * 2.0**bits for bits, n in enumerate(counts)) / 1e9


def _buckets(counts: np.ndarray, signed: bool = False) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound in seconds; ``signed``: with bounds below 0, and so without sum and count."""
    cumulative = np.cumsum(counts)
    places = [(2**bits, ZERO + (bits + 1 << SUB_BITS) - 1) for bits in BUCKET_BITS]
    if signed:
        places[:0] = [(-(2**bits), ZERO - 1 - (bits + 1 << SUB_BITS)) for bits in reversed(BUCKET_BITS)]
    return [*((str(ns / 1e9), float(cumulative[at])) for ns, at in places), ("+Inf", float(cumulative[-1]))]
