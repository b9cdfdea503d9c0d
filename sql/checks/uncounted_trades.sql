-- Whole minutes of yesterday and today in which another number of trades is stored than coverage counted; trades of the
-- past (flag 8) may be those of `recorder backfill`, which are not counted.
DECLARE @from := dateadd('d', -1, date_trunc('day', now())), @until := dateadd('m', -2, now())
SELECT c.ts_event, c.feed, c.symbol, c.counted, coalesce(t.stored, 0) stored
FROM (
  SELECT ts_event, feed, symbol, sum(received - duplicate) counted FROM coverage
  WHERE channel = 'trades' AND ts_event >= @from AND ts_event < @until
) c
LEFT JOIN (
  SELECT timestamp_floor('m', ts_event) ts_minute, feed, symbol, count() stored,
    sum(CASE WHEN flags & 8 = 0 THEN 1 ELSE 0 END) fresh
  FROM trades
  WHERE ts_event >= @from AND ts_event < @until
) t ON c.feed = t.feed AND c.symbol = t.symbol AND c.ts_event = t.ts_minute
WHERE c.counted > coalesce(t.stored, 0) OR c.counted < coalesce(t.fresh, 0)
ORDER BY c.ts_event
LIMIT 1000;
