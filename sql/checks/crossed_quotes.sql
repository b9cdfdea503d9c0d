-- Quotes whose bid is above their ask.
DECLARE @from := dateadd('d', -1, now())
SELECT ts_event, feed, symbol, sequence, bid, ask, bid - ask crossed_by
FROM quotes
WHERE ts_event >= @from AND bid > ask
ORDER BY ts_event DESC
LIMIT 1000;
