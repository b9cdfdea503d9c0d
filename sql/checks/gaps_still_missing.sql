-- Recorded gaps that the table still has; what a repair or a second recorder has filled, whole or in part, is not here.
DECLARE @from := dateadd('d', -1, now())
SELECT
  h.ts_event, h.feed, h.symbol, h.previous_id + 1 from_id, h.trade_id - 1 to_id,
  h.trade_id - h.previous_id - 1 missing, count() recorded, max(g.cause) cause
FROM (
  SELECT ts_event, feed, symbol, trade_id, lag(trade_id) OVER (PARTITION BY feed, symbol ORDER BY trade_id) previous_id
  FROM trades
  WHERE ts_event >= @from AND exchange IS NULL AND trade_ref IS NULL AND (flags & 32) = 0
) h
JOIN (SELECT feed, symbol, from_id, to_id, cause FROM gaps WHERE kind = 'trade_id') g
  ON h.feed = g.feed AND h.symbol = g.symbol AND g.from_id < h.trade_id AND g.to_id > h.previous_id
WHERE h.trade_id > h.previous_id + 1
ORDER BY h.ts_event DESC
LIMIT 1000;
