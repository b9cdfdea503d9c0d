-- Is the price above its VWAP, in basis points: each minute's last trade against the session's and the rolling one?
DECLARE @symbol := 'BTC-USD', @feed := 'coinbase', @from := dateadd('h', -1, now())
SELECT
  ts_event, last(price) price, last(vwap) session_vwap, last(rolling_vwap) rolling_vwap,
  (last(price) / last(vwap) - 1) * 10000 above_session_bp,
  (last(price) / last(rolling_vwap) - 1) * 10000 above_rolling_bp
FROM trades
WHERE symbol = @symbol AND feed = @feed AND ts_event >= @from AND (flags & 96) = 0
SAMPLE BY 1m;
