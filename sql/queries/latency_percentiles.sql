-- How late do trades arrive, receive time minus event time in ms? Below 0 their clock is ahead of ours; such trades
-- count as 0 in the percentiles; latency_by_stage.sql keeps their sign. What was backfilled is left out.
DECLARE @from := dateadd('h', -1, now())
SELECT
  feed, count() trades, min(late_ns) / 1e6 ms_min,
  approx_percentile(CASE WHEN late_ns > 0 THEN late_ns ELSE 0L END, 0.5, 3) / 1e6 ms_p50,
  approx_percentile(CASE WHEN late_ns > 0 THEN late_ns ELSE 0L END, 0.99, 3) / 1e6 ms_p99,
  max(late_ns) / 1e6 ms_max
FROM (
  SELECT feed, ts_recv::LONG - ts_event::LONG late_ns FROM trades WHERE ts_event >= @from AND (flags & 8) = 0
)
ORDER BY feed;
