-- Trades without a price above zero, or with a size that is missing or negative.
DECLARE @from := dateadd('d', -1, now())
SELECT ts_event, feed, symbol, exchange, trade_id, price, size, conditions
FROM trades
WHERE ts_event >= @from AND (price <= 0 OR price IS NULL OR size < 0 OR size IS NULL)
ORDER BY ts_event DESC
LIMIT 1000;
