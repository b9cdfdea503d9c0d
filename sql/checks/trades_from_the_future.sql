-- Trades stamped more than @ahead seconds after they arrived here: a clock is wrong, theirs or ours.
DECLARE @from := dateadd('d', -1, now()), @ahead := 2
SELECT ts_event, ts_recv, feed, symbol, trade_id, (ts_event::LONG - ts_recv::LONG) / 1e9 ahead_s
FROM trades
WHERE ts_event >= @from AND ts_event::LONG - ts_recv::LONG > @ahead * 1000000000L
ORDER BY ts_event DESC
LIMIT 1000;
