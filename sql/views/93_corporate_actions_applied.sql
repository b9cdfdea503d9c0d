-- The actions by which prices are adjusted, each once: those of the most trusted provider that tells any of a day and
-- effect; what another dates otherwise by less than four days is the same action. As recorder/core/adjust.py does it.
CREATE VIEW IF NOT EXISTS corporate_actions_applied AS (
  WITH effective AS (
    SELECT
      ts_event, symbol, feed, action_type, action_id, ratio, amount,
      CASE WHEN action_type IN ('split', 'stock_dividend') THEN 'ratio' ELSE 'cash' END effect,
      CASE feed WHEN 'alpaca' THEN 1 WHEN 'polygon' THEN 2 WHEN 'yahoo' THEN 3 ELSE 4 END place
    FROM corporate_actions_now
    WHERE ts_event <= now() AND (
      (action_type IN ('split', 'stock_dividend') AND ratio > 0)
      OR (action_type IN ('cash_dividend', 'capital_gain') AND amount > 0 AND (currency IS NULL OR currency = 'USD'))
    )
  ),
  days AS (SELECT symbol, effect, ts_event, min(place) best FROM effective GROUP BY symbol, effect, ts_event),
  neighbours AS (
    SELECT
      symbol, effect, ts_event, best,
      lag(ts_event) OVER (PARTITION BY symbol, effect ORDER BY ts_event) before,
      lag(best) OVER (PARTITION BY symbol, effect ORDER BY ts_event) best_before,
      lead(ts_event) OVER (PARTITION BY symbol, effect ORDER BY ts_event) after,
      lead(best) OVER (PARTITION BY symbol, effect ORDER BY ts_event) best_after
    FROM days
  )
  SELECT e.ts_event, e.symbol, e.feed, e.action_type, e.action_id, e.effect, e.ratio, e.amount
  FROM effective e JOIN neighbours n ON (symbol, effect, ts_event)
  WHERE e.place = n.best
    AND (coalesce(n.best_before, n.best) >= n.best OR n.before <= dateadd('d', -4, n.ts_event))
    AND (coalesce(n.best_after, n.best) >= n.best OR n.after >= dateadd('d', 4, n.ts_event))
);
