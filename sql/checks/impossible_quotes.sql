-- Quotes with a price or a size below zero, or a price of zero where there should be none.
DECLARE @from := dateadd('d', -1, now())
SELECT ts_event, feed, symbol, sequence, bid, bid_size, ask, ask_size
FROM quotes
WHERE ts_event >= @from AND (bid <= 0 OR ask <= 0 OR bid_size < 0 OR ask_size < 0)
ORDER BY ts_event DESC
LIMIT 1000;
