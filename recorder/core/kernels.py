"""Kernels over sealed trades: gaps, duplicates, late ticks, VWAPs, z-scores and size spikes, per feed and symbol.

Every kernel is a fold over rows in the order they were received, so its results do not depend on where batches were
sealed. State lives in arrays indexed by series id; one compiled loop does all of it in one pass over the rows,
because a row that is in cache once should not be fetched six times (bench_kernels.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recorder.compiled import njit
from recorder.values.config import KernelsConfig
from recorder.values.schema import LONG_NULL
from recorder.values.tables import (
    BACKFILLED,
    CANCELLED,
    CORRECTED,
    DUPLICATE,
    GAP_TIME,
    GAP_TRADE_ID,
    HISTORY,
    LATE,
    NAMED,
    NOT_LAST_ELIGIBLE,
    NOT_VOLUME_ELIGIBLE,
    OUTLIER,
    QUOTES,
    SIZE_SPIKE,
    TRADES,
)

OVERLAP_SKEW_NS = 1_000_000_000  # two connections of one provider are not further apart: milliseconds were seen
RECENT_IDS = 64  # ids remembered per series: Kraken repeats 50 trades after a reconnect
RECENT_QUOTES = 32  # of the newest time of a series, remembered where history has quotes: a burst in one millisecond
VWAP_BUCKETS = 64  # the rolling VWAP moves in steps of a 64th of its window: bounded memory at any rate
SERIES_INITIAL = 64
GAP_COLUMNS = 9
CANCELLATION = 1e-6  # m2 below this part of its peak has lost six digits of sixteen

BY_NEXT, BY_NAME, BY_CLOCK = 0, 1, 2  # what told of a gap: the trade after it, an id that was named, the time between
# What ids tell, bits: only whether a trade was among the last, or also what is missing; whether quotes are numbered by
# symbol, upwards over all connections.
IDS_OPAQUE, IDS_CONTIGUOUS, QUOTES_NUMBERED = 0, 1, 2
REVISED = 4  # a further bit: the provider takes trades back
QUOTES_REMEMBERED = 8  # a further bit: its history has quotes
NO_TIME = LONG_NULL
KEY_FACTOR = -7046029254386353131  # 2**64 / golden ratio, odd: multiplied by it every bit reaches the upper half
RESTART_NS = 1_000_000_000  # matching engines stamp out of order by milliseconds, a repeat is never newer at all


@dataclass(frozen=True)
class Parameters:
    """Numbers the compiled loop reads, in its units."""

    zscore_window: int
    outlier_sigma: float
    min_samples: int
    size_window: int
    size_multiple: float
    bucket_ns: int
    time_gap_ns: int

    @classmethod
    def of(cls, settings: KernelsConfig) -> Parameters:
        return cls(
            settings.zscore_window,
            settings.outlier_sigma,
            settings.min_samples,
            settings.size_window,
            settings.size_multiple,
            max(1, round(settings.rolling_vwap_s * 1e9) // VWAP_BUCKETS),
            round(settings.time_gap_s * 1e9),
        )


class TradeState:
    """State of every series: scalars in one record array, rings beside it. Grows by doubling, never shrinks."""

    SCALARS = np.dtype(
        [
            ("id_kind", "i8"), ("zone", "i8"), ("last_ts", "i8"), ("last_id", "i8"), ("seen", "i8"),
            ("session_start", "i8"), ("session_end", "i8"), ("session_pv", "f8"), ("session_v", "f8"),
            ("bucket", "i8"), ("older_pv", "f8"), ("older_v", "f8"),
            ("last_price", "f8"), ("returns", "i8"), ("mean", "f8"), ("m2", "f8"), ("m2_peak", "f8"),
            ("sizes", "i8"), ("size_sum", "f8"), ("quote_ts", "i8"),
            ("first_id", "i8"), ("quote_id", "i8"), ("quote_recv", "i8"), ("trades", "i8"), ("quotes", "i8"),
            ("trades_recv", "i8"), ("quotes_recv", "i8"), ("named", "i8"),
        ]
    )  # fmt: skip

    ARRAYS = ("scalars", "ids", "buckets", "returns", "sizes", "quote_keys")

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.known = 0
        self._allocate(SERIES_INITIAL)

    def _allocate(self, capacity: int) -> None:
        p = self.parameters
        self.scalars = np.zeros(capacity, self.SCALARS)
        times = ("last_ts", "session_end", "session_start", "bucket", "quote_ts", "quote_recv")
        for name in (*times, "first_id", "last_id", "quote_id"):
            self.scalars[name] = NO_TIME
        self.scalars["last_price"] = np.nan
        self.ids = np.full((capacity, RECENT_IDS), LONG_NULL, np.int64)
        self.buckets = np.zeros((capacity, VWAP_BUCKETS, 2))
        self.returns = np.zeros((capacity, p.zscore_window))
        self.sizes = np.zeros((capacity, p.size_window))
        self.quote_keys = np.zeros((capacity, 1 + RECENT_QUOTES), np.int64)  # how many came at quote_ts, and their keys

    def newest_quotes(self, series: int) -> set[int]:
        """Keys of the quotes at the series' newest time; the last RECENT_QUOTES of them."""
        count, *keys = self.quote_keys[series].tolist()
        return set(keys[: min(count, RECENT_QUOTES)])

    def add(self, id_kind: int, zone: int) -> None:
        """One more series, whose id is the number of those before it."""
        if self.known == len(self.scalars):
            self.grow()
        self.scalars[self.known]["id_kind"] = id_kind
        self.scalars[self.known]["zone"] = zone
        self.known += 1

    def grow(self) -> None:
        """Room for twice as many series."""
        old = [getattr(self, name) for name in self.ARRAYS]
        self._allocate(2 * len(self.scalars))
        for name, before in zip(self.ARRAYS, old, strict=True):
            getattr(self, name)[: len(before)] = before


@njit(cache=True, nogil=True)
def _seen_before(ids, key, count):
    for i in range(min(count, ids.shape[0])):  # noqa: SIM110 (a generator does not compile to a plain loop)
        if ids[i] == key:
            return True
    return False


def keys_of(rows: np.ndarray) -> np.ndarray:
    """(n,) int64: what tells TRADES rows of one series apart, as ``TradeState.ids`` holds it."""
    keys: np.ndarray = rows["trade_id"] ^ ((rows["exchange"].astype(np.int64) + 1) << 48)
    return keys


@njit(cache=True, nogil=True)
def _quote_key(row):
    key = row.ts_event * KEY_FACTOR
    for value in (row.bid, row.bid_size, row.ask, row.ask_size):
        key = (key ^ np.float64(value).view(np.int64)) * KEY_FACTOR
        key ^= key >> 32
    key = (key ^ row.sequence) * KEY_FACTOR
    return key ^ (key >> 32)


@njit(cache=True, nogil=True)
def quote_keys_of(rows):
    """(n,) int64: what tells QUOTES rows of one series apart, as ``TradeState.quote_keys`` holds it."""
    keys = np.empty(len(rows), np.int64)
    for i in range(len(rows)):
        keys[i] = _quote_key(rows[i])
    return keys


@njit(cache=True, nogil=True)
def _moments_anew(s, ring, n):
    """Mean and m2 of the first ``n`` values of the ring, two-pass: what rounding has added up is gone."""
    mean = 0.0
    for i in range(n):
        mean += ring[i]
    mean /= n
    m2 = 0.0
    for i in range(n):
        m2 += (ring[i] - mean) ** 2
    s.mean, s.m2, s.m2_peak = mean, m2, m2


@njit(cache=True, nogil=True)
def _zscore(s, ring, price, window, min_samples):
    """z-score of the log return of ``price`` against the returns before it; the return then joins the window.

    (r - mean) / population std of the window before; NaN below ``min_samples`` returns or while std is 0.
    Welford's update with removal. Mean and m2 are computed anew at each turn of the ring, and when m2 has fallen so far
    below its peak that what is left may be rounding (a burst has left the window). Oracle: tests/reference.py::zscores
    """
    z = np.nan
    if s.last_price > 0.0 and price > 0.0:
        r = np.log(price / s.last_price)
        n = min(s.returns, window)
        if n >= min_samples and s.m2 > 0.0:
            z = (r - s.mean) / np.sqrt(s.m2 / n)
        slot = s.returns % window
        if s.returns < window:
            delta = r - s.mean
            s.mean += delta / (n + 1)
            s.m2 += delta * (r - s.mean)
        else:
            gone = ring[slot]
            mean = s.mean + (r - gone) / window
            s.m2 += (r - gone) * (r - mean + gone - s.mean)
            s.mean = mean
        ring[slot] = r
        s.returns += 1
        s.m2_peak = max(s.m2_peak, s.m2)
        if slot == window - 1 or s.m2 < CANCELLATION * s.m2_peak:
            _moments_anew(s, ring, min(s.returns, window))
    s.last_price = price
    return z


@njit(cache=True, nogil=True)
def _size_spike(s, ring, size, window, min_samples, multiple):
    """True when ``size`` exceeds ``multiple`` × the mean of the last ``window`` sizes before it; it then joins them."""
    n = min(s.sizes, window)
    spike = n >= min_samples and multiple > 0.0 and size > multiple * (s.size_sum / n)
    slot = s.sizes % window
    if s.sizes >= window:
        s.size_sum -= ring[slot]
    ring[slot] = size
    s.size_sum += size
    s.sizes += 1
    if slot == window - 1:  # sum anew at each turn of the ring: rounding cannot add up
        total = 0.0
        for i in range(window):
            total += ring[i]
        s.size_sum = total
    return spike


@njit(cache=True, nogil=True)
def _rolling_vwap(s, buckets, ts, price, size, bucket_ns):
    """VWAP of this bucket and the VWAP_BUCKETS - 1 before it, this trade included; NaN while their volume is 0.

    Oracle: tests/reference.py::rolling_vwaps
    """
    bucket = ts // bucket_ns
    if bucket > s.bucket:
        if s.bucket == NO_TIME or bucket - s.bucket >= VWAP_BUCKETS:
            buckets[:] = 0.0
        else:
            for b in range(s.bucket + 1, bucket + 1):
                buckets[b % VWAP_BUCKETS, 0] = 0.0
                buckets[b % VWAP_BUCKETS, 1] = 0.0
        s.bucket = bucket
        pv = v = 0.0
        for b in range(bucket - VWAP_BUCKETS + 1, bucket):
            pv += buckets[b % VWAP_BUCKETS, 0]
            v += buckets[b % VWAP_BUCKETS, 1]
        s.older_pv, s.older_v = pv, v
    current = buckets[bucket % VWAP_BUCKETS]
    current[0] += price * size
    current[1] += size
    v = s.older_v + current[1]
    return (s.older_pv + current[0]) / v if v > 0.0 else np.nan


@njit(cache=True, nogil=True)
def _session_vwap(s, ts, price, size, counts, boundaries):
    """VWAP of the session so far, this trade included if it counts; NaN for a trade of an earlier session.

    ``boundaries`` are the local midnights, in ns UTC, of the zone that starts this provider's sessions.
    """
    if ts >= s.session_end:
        i = np.searchsorted(boundaries, ts, side="right")
        s.session_start = boundaries[i - 1] if i > 0 else NO_TIME
        s.session_end = boundaries[i] if i < len(boundaries) else np.iinfo(np.int64).max
        s.session_pv = s.session_v = 0.0
    elif ts < s.session_start:
        return np.nan
    if counts:
        s.session_pv += price * size
        s.session_v += size
    return s.session_pv / s.session_v if s.session_v > 0.0 else np.nan


@njit(cache=True, nogil=True)
def _write_gap(gaps, n, row, kind, by, from_id, to_id, missing, span):
    gaps[n, 0] = row.series
    gaps[n, 1] = row.ts_event
    gaps[n, 2] = row.ts_recv
    gaps[n, 3] = kind
    gaps[n, 4] = from_id
    gaps[n, 5] = to_id
    gaps[n, 6] = missing
    gaps[n, 7] = span
    gaps[n, 8] = by
    return n + 1


@njit(cache=True, nogil=True)
def trades_kernel(
    rows, scalars, ids, buckets, returns, sizes, boundaries, zone_starts, gaps,
    zscore_window, outlier_sigma, min_samples, size_window, size_multiple, bucket_ns, time_gap_ns,
):  # fmt: skip
    """Fill vwap, rolling_vwap, zscore, missed and flags of TRADES rows, in the order they were received.

    rows     (n,) TRADES rows; updated in place
    scalars, ids, buckets, returns, sizes   TradeState, updated in place
    boundaries, zone_starts   session starts of zone z are boundaries[zone_starts[z]:zone_starts[z + 1]]
    gaps     (2 n, 9) int64: series, ts_event, ts_recv, kind, from_id, to_id, missing, span_ns, by (BY_…)
    Returns how many gaps were written.

    Corrections and cancellations may repeat an id: they are neither repeats nor gaps.
    A row flagged NAMED is no trade: ids up to its own have been given out, and those not seen are a gap at once;
    ``missed`` of the next trade counts them again. The row itself changes nothing else and is not to be stored.
    A row flagged HISTORY is known to have been missing: it is no repeat and no gap, becomes LATE, counts in the VWAP of
    the present session if it belongs to it, and changes nothing else.
    A row seen before is flagged DUPLICATE and changes nothing else: the same id and exchange among the last RECENT_IDS
    (unless RESTART_NS newer than every other: ids may be unique for a day only), or a contiguous id since which none
    was missing, no newer than the newest row. So an overlap of two connections may be of any length. A contiguous id
    that is not newer, of a trade RESTART_NS after every other, begins the ids anew: a listing that was replaced, a
    provider that counts from one again. Nothing before it is a repeat or missing then.
    A row older than the last one is LATE: it counts in the session VWAP and nowhere else, so that rolling state never
    runs backwards. Cancelled, ineligible and backfilled-late rows never set a price.
    Oracle: tests/reference.py::trades
    """
    found = 0
    for i in range(len(rows)):
        row = rows[i]
        s = scalars[row.series]
        ts, number, flags = row.ts_event, row.trade_id, row.flags
        if flags & NAMED:
            if s.last_id != LONG_NULL and number > s.last_id:
                missing = number - s.last_id
                span = max(0, ts - s.last_ts)
                found = _write_gap(gaps, found, row, GAP_TRADE_ID, BY_NAME, s.last_id + 1, number, missing, span)
                s.named += missing
                s.last_id = number
                s.first_id = number + 1
            continue
        if flags & HISTORY:
            row.flags = flags | LATE
            if s.session_start <= ts < s.session_end:
                zone = boundaries[zone_starts[s.zone] : zone_starts[s.zone + 1]]
                row.vwap = _session_vwap(
                    s, ts, row.price, row.size, not flags & (NOT_VOLUME_ELIGIBLE | CANCELLED), zone
                )
            continue
        s.trades += 1
        if not flags & BACKFILLED:
            s.trades_recv = row.ts_recv
        withdrawn = flags & CANCELLED
        key = number ^ (np.int64(row.exchange + 1) << 48)
        if not flags & (CANCELLED | CORRECTED):
            contiguous = (s.id_kind & IDS_CONTIGUOUS) != 0
            if contiguous and s.last_id != LONG_NULL and number <= s.last_id and ts > s.last_ts + RESTART_NS:
                s.last_id = LONG_NULL
                s.seen = s.named = 0
            newest = contiguous and number > s.last_id
            known = contiguous and s.first_id <= number <= s.last_id and ts <= s.last_ts
            again = not newest and ts <= s.last_ts + RESTART_NS  # newer than all: ids of one day are given again
            if known or (again and _seen_before(ids[row.series], key, s.seen)):
                row.flags = flags | DUPLICATE
                continue
            ids[row.series, s.seen % RECENT_IDS] = key
            s.seen += 1
            if contiguous:
                if s.last_id == LONG_NULL or number > s.last_id:
                    missing = 0 if s.last_id == LONG_NULL else number - s.last_id - 1
                    if missing > 0:
                        span = max(0, ts - s.last_ts)
                        found = _write_gap(
                            gaps, found, row, GAP_TRADE_ID, BY_NEXT, s.last_id + 1, number - 1, missing, span
                        )
                    if missing > 0 or s.last_id == LONG_NULL:
                        s.first_id = number
                    if missing + s.named > 0:
                        row.missed = missing + s.named
                    s.named = 0
                    s.last_id = number
                elif s.named > 0:
                    s.named -= 1  # one of those named came after all
        if s.last_ts != NO_TIME:
            if ts < s.last_ts:
                flags |= LATE
            elif time_gap_ns > 0 and ts - s.last_ts > time_gap_ns and not withdrawn:
                found = _write_gap(
                    gaps, found, row, GAP_TIME, BY_CLOCK, LONG_NULL, LONG_NULL, LONG_NULL, ts - s.last_ts
                )
        s.last_ts = max(s.last_ts, ts)
        counts = not flags & (NOT_VOLUME_ELIGIBLE | CANCELLED)
        zone = boundaries[zone_starts[s.zone] : zone_starts[s.zone + 1]]
        row.vwap = _session_vwap(s, ts, row.price, row.size, counts, zone)
        if not flags & LATE:
            if counts:
                row.rolling_vwap = _rolling_vwap(s, buckets[row.series], ts, row.price, row.size, bucket_ns)
                if _size_spike(s, sizes[row.series], row.size, size_window, min_samples, size_multiple):
                    flags |= SIZE_SPIKE
            if not flags & (NOT_LAST_ELIGIBLE | CANCELLED):
                z = _zscore(s, returns[row.series], row.price, zscore_window, min_samples)
                row.zscore = z
                if abs(z) > outlier_sigma:
                    flags |= OUTLIER
        row.flags = flags
    return found


@njit(cache=True, nogil=True)
def quotes_kernel(rows, scalars, quote_keys):
    """Flag QUOTES rows in the order they were received: LATE, older than the last of their series; DUPLICATE, repeated.

    rows     (n,) QUOTES rows; ``flags`` updated in place
    scalars, quote_keys  of TradeState; ``quote_…`` updated in place
    Where quotes are numbered, one whose number is not above the last is what another connection delivered before, if it
    came at most OVERLAP_SKEW_NS after that one; later than that the provider has started its numbers over.
    """
    for i in range(len(rows)):
        row = rows[i]
        s = scalars[row.series]
        s.quotes += 1
        if not row.flags & BACKFILLED:
            s.quotes_recv = row.ts_recv
        number = row.sequence
        if (s.id_kind & QUOTES_NUMBERED) != 0 and number != LONG_NULL:
            if number <= s.quote_id and row.ts_recv <= s.quote_recv + OVERLAP_SKEW_NS:
                row.flags |= DUPLICATE
                continue
            s.quote_id, s.quote_recv = number, row.ts_recv
        if row.ts_event < s.quote_ts:
            row.flags |= LATE
            continue
        if (s.id_kind & QUOTES_REMEMBERED) != 0:
            newest = quote_keys[row.series]
            if row.ts_event > s.quote_ts:
                newest[0] = 0
            newest[1 + newest[0] % RECENT_QUOTES] = _quote_key(row)
            newest[0] += 1
        s.quote_ts = row.ts_event


class Kernels:
    """Trade kernels with their state and the session starts of every zone in use."""

    def __init__(self, settings: KernelsConfig) -> None:
        self.parameters = Parameters.of(settings)
        self.state = TradeState(self.parameters)
        self._boundaries = np.empty(0, np.int64)
        self._zone_starts = np.zeros(1, np.int64)
        self._gaps = np.empty((0, GAP_COLUMNS), np.int64)

    def add_zone(self, boundaries: np.ndarray) -> int:
        """Session starts of one more zone, (m,) int64 ns UTC ascending; return its number."""
        self._boundaries = np.concatenate([self._boundaries, boundaries])
        self._zone_starts = np.append(self._zone_starts, len(self._boundaries))
        return len(self._zone_starts) - 2

    def session_start(self, series: int, ts: int) -> int:
        """When the session of a series that ``ts`` is in began, ns UTC; NO_TIME before the first one known."""
        zone = int(self.state.scalars["zone"][series])
        boundaries = self._boundaries[self._zone_starts[zone] : self._zone_starts[zone + 1]]
        after = int(np.searchsorted(boundaries, ts, side="right"))
        return int(boundaries[after - 1]) if after else NO_TIME

    def trades(self, rows: np.ndarray) -> np.ndarray:
        """Run over TRADES rows in place; return the gaps found, (k, 9) int64 as trades_kernel says."""
        assert rows.dtype == TRADES.dtype
        if len(self._gaps) < 2 * len(rows):
            self._gaps = np.empty((2 * len(rows), GAP_COLUMNS), np.int64)
        s, p = self.state, self.parameters
        found = trades_kernel(
            rows, s.scalars, s.ids, s.buckets, s.returns, s.sizes, self._boundaries, self._zone_starts, self._gaps,
            p.zscore_window, p.outlier_sigma, p.min_samples, p.size_window, p.size_multiple, p.bucket_ns, p.time_gap_ns,
        )  # fmt: skip
        return self._gaps[:found]

    def quotes(self, rows: np.ndarray) -> None:
        """Run over QUOTES rows in place."""
        assert rows.dtype == QUOTES.dtype
        quotes_kernel(rows, self.state.scalars, self.state.quote_keys)

    def warm(self) -> None:
        """Compile, or load from the cache, before the first frame."""
        self.trades(np.zeros(0, TRADES.dtype))
        self.quotes(np.zeros(0, QUOTES.dtype))
        quote_keys_of(np.zeros(0, QUOTES.dtype))
