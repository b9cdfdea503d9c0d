-- What did a symbol do in the last hour, minute by minute, the minute under way included?
DECLARE @symbol := 'BTC-USD', @feed := 'coinbase', @from := dateadd('h', -1, now())
SELECT ts_event, open, high, low, close, volume, vwap, trade_count
FROM bars_1m_live
WHERE symbol = @symbol AND feed = @feed AND ts_event >= @from
ORDER BY ts_event;
