-- What is missing since midnight UTC, by feed, symbol and cause, and what became of it?
DECLARE @from := date_trunc('day', now())
SELECT
  feed, symbol, channel, kind, status, cause, count() gaps, sum(missing) missing, sum(recovered) recovered,
  max(span_ns) / 1e9 longest_s, max(ts_event) latest
FROM gaps
WHERE ts_event >= @from
ORDER BY missing DESC, gaps DESC;
