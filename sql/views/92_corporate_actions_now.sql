-- What each provider says now of each corporate action: of its versions the one that became known last.
CREATE VIEW IF NOT EXISTS corporate_actions_now AS (
  SELECT
    ts_event, ts_recv, feed, symbol, action_type, action_id, ts_known, ratio, amount, currency, new_symbol, details
  FROM (
    SELECT *, row_number() OVER (PARTITION BY feed, symbol, action_type, action_id ORDER BY ts_known DESC) version
    FROM corporate_actions
  )
  WHERE version = 1
);
