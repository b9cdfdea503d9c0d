-- What does trading cost: twice the distance of each trade from the mid of its moment, in bp, by side (ASOF join)?
DECLARE @symbol := 'BTC-USD', @feed := 'coinbase', @from := dateadd('h', -1, now())
SELECT
  t.side, count() trades, sum(t.size) volume,
  avg(2 * abs(t.price - (q.bid + q.ask) / 2) / ((q.bid + q.ask) / 2) * 10000) effective_spread_bp,
  avg((q.ask - q.bid) / ((q.bid + q.ask) / 2) * 10000) quoted_spread_bp
FROM (trades WHERE symbol = @symbol AND feed = @feed AND ts_event >= @from AND (flags & 96) = 0) t
ASOF JOIN (quotes WHERE symbol = @symbol AND feed = @feed AND ts_event >= dateadd('h', -1, @from)) q
WHERE q.bid > 0 AND q.ask > 0
ORDER BY t.side;
