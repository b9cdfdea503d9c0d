-- Trades of one id that differ in time, price or size: an id used twice, or a trade changed without a correction.
DECLARE @from := dateadd('d', -1, now())
SELECT * FROM (
  SELECT
    feed, symbol, exchange, trade_id, count() stored, min(ts_event) first_ts_event, max(ts_event) last_ts_event,
    min(price) price_min, max(price) price_max, min(size) size_min, max(size) size_max
  FROM trades
  WHERE ts_event >= @from AND (flags & 48) = 0
)
WHERE stored > 1
ORDER BY last_ts_event DESC
LIMIT 1000;
