-- Jumps of trade ids that no row of gaps covers, in series whose ids are consecutive (@consecutive of them at least).
DECLARE @from := dateadd('d', -1, now()), @consecutive := 0.9
SELECT
  j.ts_event, j.feed, j.symbol, j.previous_id + 1 from_id, j.trade_id - 1 to_id,
  j.trade_id - j.previous_id - 1 missing
FROM (
  SELECT *, avg(CASE WHEN trade_id = previous_id + 1 THEN 1.0 ELSE 0.0 END) OVER (PARTITION BY feed, symbol) consecutive
  FROM (
    SELECT
      ts_event, feed, symbol, trade_id, lag(trade_id) OVER (PARTITION BY feed, symbol ORDER BY trade_id) previous_id
    FROM trades
    WHERE ts_event >= @from AND exchange IS NULL AND trade_ref IS NULL AND (flags & 32) = 0
  )
  WHERE previous_id IS NOT NULL
) j
LEFT JOIN (SELECT feed, symbol, from_id, to_id FROM gaps WHERE kind = 'trade_id') g
  ON j.feed = g.feed AND j.symbol = g.symbol AND g.from_id <= j.previous_id + 1 AND g.to_id >= j.trade_id - 1
WHERE j.trade_id > j.previous_id + 1 AND j.consecutive >= @consecutive AND g.from_id IS NULL
ORDER BY j.ts_event DESC
LIMIT 1000;
