"""What the kernels should compute, said plainly in Python: lists, fsum and no state carried but the rows themselves."""

from __future__ import annotations

import math
from collections import defaultdict

from recorder.values import tables as t
from recorder.values.schema import LONG_NULL

RECENT_IDS = 64
VWAP_BUCKETS = 64


def moments(values):
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


def zscores(prices, window, min_samples):
    """(r - mean) / population std of the ``window`` log returns before r; NaN below ``min_samples`` or at std 0."""
    returns, result, last = [], [], None
    for price in prices:
        z = math.nan
        if last is not None:
            r = math.log(price / last)
            before = returns[-window:]
            if len(before) >= min_samples:
                mean, std = moments(before)
                if std > 0 and max(before) != min(before):
                    z = (r - mean) / std
            returns.append(r)
        result.append(z)
        last = price
    return result


def rolling_vwaps(rows, bucket_ns):
    """VWAP of the trades so far whose bucket is among the newest VWAP_BUCKETS; ``rows`` of (ts, price, size)."""
    result = []
    for i, (ts, _, _) in enumerate(rows):
        newest = ts // bucket_ns
        near = [(p, s) for when, p, s in rows[: i + 1] if newest - when // bucket_ns < VWAP_BUCKETS]
        volume = math.fsum(s for _, s in near)
        result.append(math.fsum(p * s for p, s in near) / volume if volume else math.nan)
    return result


def size_spikes(sizes, window, min_samples, multiple):
    result = []
    for i, size in enumerate(sizes):
        before = sizes[max(0, i - window) : i]
        result.append(len(before) >= min_samples and size > multiple * math.fsum(before) / len(before))
    return result


def trades(rows, parameters, contiguous, session_of):
    """Expected (vwap, rolling_vwap, zscore, missed, flags) per row and the list of gaps, for TRADES-like dicts.

    session_of  maps ts_event to a number that grows by session
    """
    out = [None] * len(rows)
    gaps = []
    by_series = defaultdict(list)
    for i, row in enumerate(rows):
        by_series[row["series"]].append(i)
    for members in by_series.values():
        _one_series(rows, members, parameters, contiguous, session_of, out, gaps)
    return out, gaps


def _one_series(rows, members, p, contiguous, session_of, out, gaps):
    recent, last_ts, last_id, session = [], None, None, None
    whole = set()  # ids since the last gap
    counted, prices, rolled, sizes = [], [], [], []
    place = {}
    for i in members:
        row = rows[i]
        flags, missed = row["flags"], LONG_NULL
        withdrawn = flags & t.CANCELLED
        key = (row["trade_id"], row["exchange"])
        if not flags & (t.CANCELLED | t.CORRECTED):
            if contiguous and last_id is not None and row["trade_id"] <= last_id and row["ts_event"] > last_ts + 10**9:
                recent, whole, last_id = [], set(), None  # the provider's ids start over
            newest = contiguous and (last_id is None or row["trade_id"] > last_id)
            known = contiguous and row["trade_id"] in whole and row["ts_event"] <= last_ts
            again = not newest and (last_ts is None or row["ts_event"] <= last_ts + 10**9)
            if known or (again and key in recent[-RECENT_IDS:]):
                out[i] = (math.nan, math.nan, math.nan, LONG_NULL, flags | t.DUPLICATE)
                continue
            recent.append(key)
            if contiguous:
                if last_id is not None and row["trade_id"] > last_id + 1:
                    missed = row["trade_id"] - last_id - 1
                    gaps.append((i, "trade_id", last_id + 1, row["trade_id"] - 1, missed))
                    whole = set()
                if newest:
                    whole.add(row["trade_id"])
                last_id = row["trade_id"] if last_id is None else max(last_id, row["trade_id"])
        ts = row["ts_event"]
        if last_ts is not None and ts < last_ts:
            flags |= t.LATE
        elif last_ts is not None and p.time_gap_ns and ts - last_ts > p.time_gap_ns and not withdrawn:
            gaps.append((i, "time", LONG_NULL, LONG_NULL, LONG_NULL))
        last_ts = ts if last_ts is None else max(last_ts, ts)
        counts = not flags & (t.NOT_VOLUME_ELIGIBLE | t.CANCELLED)
        if session is None or session_of(ts) > session:
            session, counted = session_of(ts), []
        if counts and session_of(ts) == session:
            counted.append((row["price"], row["size"]))
        volume = math.fsum(s for _, s in counted)
        vwap = math.fsum(a * b for a, b in counted) / volume if volume and session_of(ts) == session else math.nan
        rolling = z = math.nan
        if not flags & t.LATE:
            if counts:
                rolled.append((ts, row["price"], row["size"]))
                rolling = rolling_vwaps(rolled, p.bucket_ns)[-1]
                sizes.append(row["size"])
                if size_spikes(sizes, p.size_window, p.min_samples, p.size_multiple)[-1]:
                    flags |= t.SIZE_SPIKE
            if not flags & (t.NOT_LAST_ELIGIBLE | t.CANCELLED):
                prices.append(row["price"])
                z = zscores(prices, p.zscore_window, p.min_samples)[-1]
                if abs(z) > p.outlier_sigma:
                    flags |= t.OUTLIER
        place[i] = len(prices)
        out[i] = (vwap, rolling, z, missed, flags)
