-- Trades that were taken back and still count: when the later of the two came, the trade or what takes it back, the
-- recorder did not remember the other any more.
-- What takes a trade back is a row of the same symbol, exchange and id, later on the same day.
DECLARE @from := dateadd('d', -1, now())
SELECT t.ts_event, t.feed, t.symbol, t.exchange, t.trade_id, t.price, t.size, w.ts_event withdrawn
FROM (trades WHERE ts_event >= @from AND (flags & 32) = 0) t
JOIN (trades WHERE ts_event >= @from AND (flags & 224) = 224) w ON (feed, symbol, exchange, trade_id)
WHERE t.ts_event < w.ts_event AND (t.flags & 16) = 0 AND t.ts_event >= date_trunc('day', w.ts_event)
ORDER BY t.ts_event DESC
LIMIT 1000;
