-- Every table. Derived from recorder/values/tables.py by `recorder schema`; a test holds that it is equal.

-- trades: a print
CREATE TABLE IF NOT EXISTS trades (
  ts_event TIMESTAMP_NS,
  ts_recv TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  symbol SYMBOL CAPACITY 16384,
  exchange SYMBOL CAPACITY 64,
  trade_id LONG,
  trade_ref VARCHAR,
  price DOUBLE,
  size DOUBLE,
  side SYMBOL CAPACITY 16,
  conditions SYMBOL CAPACITY 1024,
  tape SYMBOL CAPACITY 16,
  flags INT,
  vwap DOUBLE,
  rolling_vwap DOUBLE,
  zscore DOUBLE,
  missed LONG
) TIMESTAMP(ts_event) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(ts_event, symbol, feed, exchange, trade_id);

-- quotes: a best bid and offer
CREATE TABLE IF NOT EXISTS quotes (
  ts_event TIMESTAMP_NS,
  ts_recv TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  symbol SYMBOL CAPACITY 16384,
  sequence LONG,
  bid DOUBLE,
  bid_size DOUBLE,
  ask DOUBLE,
  ask_size DOUBLE,
  bid_exchange SYMBOL CAPACITY 64,
  ask_exchange SYMBOL CAPACITY 64,
  conditions SYMBOL CAPACITY 1024,
  flags INT
) TIMESTAMP(ts_event) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(ts_event, symbol, feed, sequence, bid, bid_size, ask, ask_size);

-- bars: open, high, low, close and volume of a timeframe, as the provider sends them
CREATE TABLE IF NOT EXISTS bars (
  ts_event TIMESTAMP_NS,
  ts_recv TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  symbol SYMBOL CAPACITY 16384,
  timeframe SYMBOL CAPACITY 32,
  open DOUBLE,
  high DOUBLE,
  low DOUBLE,
  close DOUBLE,
  volume DOUBLE,
  vwap DOUBLE,
  trade_count LONG,
  flags INT
) TIMESTAMP(ts_event) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts_event, symbol, feed, timeframe);

-- statuses: a halt, a resumption or a price band of a symbol
CREATE TABLE IF NOT EXISTS statuses (
  ts_event TIMESTAMP_NS,
  ts_recv TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  symbol SYMBOL CAPACITY 16384,
  kind SYMBOL CAPACITY 16,
  code SYMBOL CAPACITY 64,
  message VARCHAR,
  reason SYMBOL CAPACITY 256,
  reason_message VARCHAR,
  limit_up DOUBLE,
  limit_down DOUBLE,
  tape SYMBOL CAPACITY 16
) TIMESTAMP(ts_event) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts_event, symbol, feed, kind, code);

-- options_chain: an option contract at a moment: prices, volatility and Greeks
CREATE TABLE IF NOT EXISTS options_chain (
  ts_event TIMESTAMP_NS,
  ts_recv TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  symbol SYMBOL CAPACITY 16384,
  underlying SYMBOL CAPACITY 4096,
  expiration TIMESTAMP_NS,
  strike DOUBLE,
  option_type SYMBOL CAPACITY 16,
  bid DOUBLE,
  bid_size DOUBLE,
  ask DOUBLE,
  ask_size DOUBLE,
  last DOUBLE,
  volume DOUBLE,
  open_interest DOUBLE,
  iv DOUBLE,
  delta DOUBLE,
  gamma DOUBLE,
  theta DOUBLE,
  vega DOUBLE,
  rho DOUBLE,
  greeks_source SYMBOL CAPACITY 64,
  underlying_price DOUBLE,
  age_ns LONG,
  iv_status SYMBOL CAPACITY 16
) TIMESTAMP(ts_event) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(ts_event, symbol, feed);

-- corporate_actions: a version of a corporate action, as a provider told it; the newest ts_known is what it says now
CREATE TABLE IF NOT EXISTS corporate_actions (
  ts_event TIMESTAMP_NS,
  ts_recv TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  symbol SYMBOL CAPACITY 16384,
  action_type SYMBOL CAPACITY 16,
  action_id SYMBOL CAPACITY 65536,
  ts_known TIMESTAMP_NS,
  ratio DOUBLE,
  amount DOUBLE,
  currency SYMBOL CAPACITY 64,
  new_symbol SYMBOL CAPACITY 16384,
  details VARCHAR
) TIMESTAMP(ts_event) PARTITION BY YEAR WAL
DEDUP UPSERT KEYS(ts_event, symbol, feed, action_type, action_id, ts_known);

-- valuations: a value that a provider computed for a symbol: nobody traded at it
CREATE TABLE IF NOT EXISTS valuations (
  ts_event TIMESTAMP_NS,
  ts_recv TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  symbol SYMBOL CAPACITY 16384,
  kind SYMBOL CAPACITY 64,
  value DOUBLE
) TIMESTAMP(ts_event) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(ts_event, symbol, feed, kind);

-- news: a version of an article, for one symbol that it names
CREATE TABLE IF NOT EXISTS news (
  ts_event TIMESTAMP_NS,
  ts_recv TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  symbol SYMBOL CAPACITY 16384,
  news_id LONG,
  created TIMESTAMP_NS,
  headline VARCHAR,
  summary VARCHAR,
  source SYMBOL CAPACITY 64,
  author VARCHAR,
  url VARCHAR,
  content_chars LONG
) TIMESTAMP(ts_event) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts_event, symbol, feed, news_id);

-- gaps: something missing
CREATE TABLE IF NOT EXISTS gaps (
  ts_event TIMESTAMP_NS,
  ts_recv TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  symbol SYMBOL CAPACITY 16384,
  channel SYMBOL CAPACITY 64,
  kind SYMBOL CAPACITY 16,
  from_id LONG,
  to_id LONG,
  missing LONG,
  span_ns LONG,
  cause SYMBOL CAPACITY 256,
  status SYMBOL CAPACITY 16,
  recovered LONG
) TIMESTAMP(ts_event) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts_event, symbol, feed, channel, kind, from_id);

-- feed_events: a change of a connection
CREATE TABLE IF NOT EXISTS feed_events (
  ts_event TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  connection INT,
  event SYMBOL CAPACITY 64,
  reason VARCHAR,
  desired LONG,
  requested LONG,
  acknowledged LONG,
  delivering LONG
) TIMESTAMP(ts_event) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts_event, feed, connection, event);

-- rejected: a frame or a row that did not fit
CREATE TABLE IF NOT EXISTS rejected (
  ts_event TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  position LONG,
  item INT,
  reason VARCHAR,
  excerpt VARCHAR
) TIMESTAMP(ts_event) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts_event, feed, position, item);

-- coverage: what was noticed in one minute about a minute of a feed, symbol and channel; entries of a minute add up
CREATE TABLE IF NOT EXISTS coverage (
  ts_event TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  symbol SYMBOL CAPACITY 16384,
  channel SYMBOL CAPACITY 64,
  noticed TIMESTAMP_NS,
  received LONG,
  verified LONG,
  unverifiable LONG,
  missing LONG,
  repaired LONG,
  duplicate LONG,
  late LONG,
  rejected LONG,
  cause SYMBOL CAPACITY 256
) TIMESTAMP(ts_event) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts_event, symbol, feed, channel, noticed);

-- latency: a stage's latencies of the rows of a feed that became queryable in one second
CREATE TABLE IF NOT EXISTS latency (
  ts_event TIMESTAMP_NS,
  feed SYMBOL CAPACITY 64,
  stage SYMBOL CAPACITY 64,
  count LONG,
  p50 LONG,
  p99 LONG,
  p999 LONG,
  max LONG,
  min LONG,
  sum LONG
) TIMESTAMP(ts_event) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(ts_event, feed, stage);

-- quality_events: a finding
CREATE TABLE IF NOT EXISTS quality_events (
  ts_event TIMESTAMP_NS,
  symbol SYMBOL CAPACITY 16384,
  feed SYMBOL CAPACITY 64,
  check_name SYMBOL CAPACITY 256,
  severity SYMBOL CAPACITY 16,
  value DOUBLE,
  threshold DOUBLE,
  message VARCHAR
) TIMESTAMP(ts_event) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts_event, symbol, feed, check_name);
