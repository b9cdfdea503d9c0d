-- Which trades printed outside the quote of their moment: above the ask or below the bid (ASOF join)?
DECLARE @symbol := 'BTC-USD', @feed := 'coinbase', @from := dateadd('h', -1, now())
SELECT
  t.ts_event, t.trade_id, t.side, t.price, t.size, q.bid, q.ask, q.ts_event quote_ts_event,
  CASE WHEN t.price > q.ask THEN t.price - q.ask ELSE t.price - q.bid END outside
FROM (trades WHERE symbol = @symbol AND feed = @feed AND ts_event >= @from AND (flags & 96) = 0) t
ASOF JOIN (quotes WHERE symbol = @symbol AND feed = @feed AND ts_event >= dateadd('h', -1, @from)) q
WHERE t.price > q.ask OR t.price < q.bid;
