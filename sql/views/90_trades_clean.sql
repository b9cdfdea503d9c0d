-- Trades outside suspect windows: nothing withdrawn, and no minute touched by a gap of its symbol or its whole connection
-- that history has not filled. Outliers stay: a price may be true and far away. A gap repaired lets its minutes back in;
-- rows of gaps without a status are notes, what they cost is told by rows of their own. Of gaps that overlap, as those of
-- two recorders may, the last to have begun reaches as far as any of them.
CREATE VIEW IF NOT EXISTS trades_clean AS (
  SELECT t.* FROM trades t
  ASOF JOIN ((
    SELECT
      starts, feed, symbol,
      (max(ends) OVER (PARTITION BY feed, symbol ORDER BY starts, ends ROWS UNBOUNDED PRECEDING))::timestamp_ns ends
    FROM (
      SELECT
        timestamp_floor('m', (ts_event - coalesce(span_ns, 0))::timestamp_ns) starts, feed, symbol,
        dateadd('m', 1, timestamp_floor('m', ts_event))::long ends
      FROM gaps
      WHERE symbol <> '*' AND channel = 'trades' AND kind <> 'time' AND status IN ('open', 'partial', 'unrepairable')
      ORDER BY starts, ends
    )
  ) TIMESTAMP(starts)) s ON (feed, symbol)
  ASOF JOIN ((
    SELECT
      starts, feed,
      (max(ends) OVER (PARTITION BY feed ORDER BY starts, ends ROWS UNBOUNDED PRECEDING))::timestamp_ns ends
    FROM (
      SELECT
        timestamp_floor('m', (ts_event - coalesce(span_ns, 0))::timestamp_ns) starts, feed,
        dateadd('m', 1, timestamp_floor('m', ts_event))::long ends
      FROM gaps
      WHERE symbol = '*' AND kind <> 'time' AND status IN ('open', 'partial', 'unrepairable')
      ORDER BY starts, ends
    )
  ) TIMESTAMP(starts)) c ON (feed)
  WHERE (t.flags & 32) = 0 AND (s.ends IS NULL OR t.ts_event >= s.ends) AND (c.ends IS NULL OR t.ts_event >= c.ends)
);
