-- How long was each connection up, in per cent of the time since its first event, and how often did it drop?
DECLARE @from := dateadd('d', -1, now())
SELECT
  feed, connection, sum(CASE WHEN event = 'closed' THEN 1 ELSE 0 END) drops,
  sum(CASE WHEN event = 'opened' THEN span_ns ELSE 0L END) / 1e9 up_s,
  sum(CASE WHEN event = 'opened' THEN span_ns ELSE 0L END) * 100.0 / sum(span_ns) up_pct
FROM (
  SELECT
    feed, connection, event,
    coalesce(lead(ts_event::LONG) OVER (PARTITION BY feed, connection ORDER BY ts_event), now()::LONG * 1000)
      - ts_event::LONG span_ns
  FROM feed_events
  WHERE ts_event >= @from AND event IN ('opened', 'closed')
)
ORDER BY feed, connection;
