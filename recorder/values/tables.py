"""Every table, declared once. DDL, row layout, wire encoding and the README's table follow from this file."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from recorder.values.schema import DOUBLE, INT, LONG, TIMESTAMP, VARCHAR, Column, Table, label, series, symbol

# Bits of `flags`, named as the README and the views name them.
OUTLIER = 1  # |zscore| above outlier_sigma
SIZE_SPIKE = 2  # size above size_multiple × the rolling mean size
LATE = 4  # ts_event older than the last one seen of its series
BACKFILLED = 8  # from history, or sent by the provider as a snapshot on subscribing
CORRECTED = 16  # stands in the place of a trade the provider corrected
# Never counts: taken back, what takes back the trade with this trade_id, or a correction whose place was found later.
CANCELLED = 32
NOT_LAST_ELIGIBLE = 64  # may not set last, open, high, low or close
NOT_VOLUME_ELIGIBLE = 128  # does not count in volume or VWAP
HALTED = 256  # printed while the symbol was halted
DUPLICATE = 512  # seen before in this stream: never stored, used between kernels only
NAMED = 1024  # no trade: the provider named this id as its newest; never stored, for kernels only
HISTORY = 2048  # from an answer of the provider's history; never stored, for kernels only
FOLLOWS = 16384  # its number follows that of the row before it; never stored, for coverage only
FILLS = 32768  # it came late and had been missing; never stored, for coverage only
SPLIT_ADJUSTED = 8192  # of a bar: its provider has adjusted it for the splits until it was received
DAY_HIGH_LOW = 4096  # not_last_eligible, but may set the day's high and low: a print out of sequence

FLAGS = {
    "outlier": OUTLIER,
    "size_spike": SIZE_SPIKE,
    "late": LATE,
    "backfilled": BACKFILLED,
    "corrected": CORRECTED,
    "cancelled": CANCELLED,
    "not_last_eligible": NOT_LAST_ELIGIBLE,
    "not_volume_eligible": NOT_VOLUME_ELIGIBLE,
    "halted": HALTED,
    "day_high_low": DAY_HIGH_LOW,
    "split_adjusted": SPLIT_ADJUSTED,
}

SIDES = ("sell", "buy")
SELL, BUY = 1, 2  # codes of the `side` label; 0 is unknown
CALL, PUT = 1, 2  # codes of the `option_type` label

ACTION_TYPES = (
    "split", "stock_dividend", "cash_dividend", "capital_gain", "spin_off", "merger", "symbol_change", "unit_split",
    "rights", "redemption", "removal", "partial_call", "reorganization",
)  # fmt: skip

IV_STATUSES = (
    "converged", "no_quote", "expired", "below_intrinsic", "above_bound", "no_underlying", "adjusted", "not_converged",
)  # fmt: skip

GAP_KINDS = ("trade_id", "sequence", "time", "disconnect")
GAP_TRADE_ID, GAP_SEQUENCE, GAP_TIME, GAP_DISCONNECT = 1, 2, 3, 4  # codes of the `kind` label of gaps
GAP_STATUSES = ("open", "repaired", "partial", "unrepairable")
GAP_OPEN, GAP_REPAIRED, GAP_PARTIAL, GAP_UNREPAIRABLE = 1, 2, 3, 4  # codes of their `status` label
GAP_NOTE = 0  # status of a gap that names nothing to be fetched: null

TRADES = Table(
    "trades",
    "a print",
    partition="DAY",
    dedup=("ts_event", "symbol", "feed", "exchange", "trade_id"),
    columns=(
        Column("ts_event", TIMESTAMP, "provider's match time"),
        Column("ts_recv", TIMESTAMP, "when its bytes arrived here"),
        series(),
        Column("exchange", symbol(64), "where it printed, as the provider names it; null where provider = exchange"),
        Column("trade_id", LONG, "provider's id; a non-numeric one is hashed, see trade_ref"),
        Column("trade_ref", VARCHAR, "provider's id where it is not a number"),
        Column("price", DOUBLE, "as printed"),
        Column("size", DOUBLE, "as printed: shares, coins or contracts"),
        Column("side", label(*SIDES), "side of the aggressor, never of the resting order"),
        Column("conditions", symbol(1024), "sale conditions as sent, comma separated"),
        Column("tape", symbol(16), "consolidated tape, where there is one"),
        Column("flags", INT, "bit mask, see FLAGS"),
        Column("vwap", DOUBLE, "VWAP of the session up to this trade, of what is volume-eligible", computed=True),
        Column("rolling_vwap", DOUBLE, "VWAP of the last rolling_vwap_s seconds", computed=True),
        Column("zscore", DOUBLE, "log return against the window before this trade", computed=True),
        Column("missed", LONG, "ids lost just before this one; null when none or not knowable", computed=True),
    ),
)

QUOTES = Table(
    "quotes",
    "a best bid and offer",
    partition="DAY",
    dedup=("ts_event", "symbol", "feed", "sequence", "bid", "bid_size", "ask", "ask_size"),
    columns=(
        Column("ts_event", TIMESTAMP, "provider's time of the quote; ts_recv where it sends none"),
        Column("ts_recv", TIMESTAMP, "when its bytes arrived here"),
        series(),
        Column("sequence", LONG, "provider's update id, where it sends one"),
        Column("bid", DOUBLE, "best bid; null when there is none"),
        Column("bid_size", DOUBLE, "at the best bid"),
        Column("ask", DOUBLE, "best offer; null when there is none"),
        Column("ask_size", DOUBLE, "at the best offer"),
        Column("bid_exchange", symbol(64), "who bids"),
        Column("ask_exchange", symbol(64), "who offers"),
        Column("conditions", symbol(1024), "quote conditions as sent, comma separated"),
        Column("flags", INT, "bit mask, see FLAGS"),
    ),
)

BARS = Table(
    "bars",
    "open, high, low, close and volume of a timeframe, as the provider sends them",
    partition="MONTH",
    dedup=("ts_event", "symbol", "feed", "timeframe"),
    columns=(
        Column("ts_event", TIMESTAMP, "start of the bar"),
        Column("ts_recv", TIMESTAMP, "when its bytes arrived here"),
        series(),
        Column("timeframe", symbol(32), "1m, 5m, 1h, 1d …"),
        Column("open", DOUBLE, "first price"),
        Column("high", DOUBLE, "highest price"),
        Column("low", DOUBLE, "lowest price"),
        Column("close", DOUBLE, "last price"),
        Column("volume", DOUBLE, "sum of sizes"),
        Column("vwap", DOUBLE, "volume weighted average price, where sent"),
        Column("trade_count", LONG, "trades in the bar, where sent"),
        Column("flags", INT, "bit mask, see FLAGS: corrected = an update of a bar sent before"),
    ),
)

STATUSES = Table(
    "statuses",
    "a halt, a resumption or a price band of a symbol",
    partition="MONTH",
    dedup=("ts_event", "symbol", "feed", "kind", "code"),
    columns=(
        Column("ts_event", TIMESTAMP, "provider's time"),
        Column("ts_recv", TIMESTAMP, "when its bytes arrived here"),
        series(),
        Column("kind", label("status", "luld", "system"), "what changed"),
        Column("code", symbol(64), "status code or LULD indicator, as sent"),
        Column("message", VARCHAR, "status in words"),
        Column("reason", symbol(256), "reason code, as sent"),
        Column("reason_message", VARCHAR, "reason in words"),
        Column("limit_up", DOUBLE, "upper price band"),
        Column("limit_down", DOUBLE, "lower price band"),
        Column("tape", symbol(16), "consolidated tape"),
    ),
)

OPTIONS_CHAIN = Table(
    "options_chain",
    "an option contract at a moment: prices, volatility and Greeks",
    partition="DAY",
    dedup=("ts_event", "symbol", "feed"),
    columns=(
        Column("ts_event", TIMESTAMP, "provider's time; of a chain its one snapshot time, the same for every leg"),
        Column("ts_recv", TIMESTAMP, "when its bytes arrived here"),
        # No series: kernels keep nothing of a contract, and 500 underlyings have a million of them.
        Column("feed", symbol(64), "the configured feed the row came through"),
        Column("symbol", symbol(16384), "canonical symbol: of US options the OCC symbol"),
        Column("underlying", symbol(4096), "what it is an option on"),
        Column("expiration", TIMESTAMP, "when it expires"),
        Column("strike", DOUBLE, "in the currency of the underlying's price"),
        Column("option_type", label("call", "put"), "call or put"),
        Column("bid", DOUBLE, "best bid, as sent: Deribit's inverse options are priced in coins; null: none"),
        Column("bid_size", DOUBLE, "at the best bid"),
        Column("ask", DOUBLE, "best offer; null: none"),
        Column("ask_size", DOUBLE, "at the best offer"),
        Column("last", DOUBLE, "last price; null: never traded"),
        Column("volume", DOUBLE, "contracts traded, of the day or the last 24 hours as the provider counts"),
        Column("open_interest", DOUBLE, "contracts open"),
        Column("iv", DOUBLE, "implied volatility a year, as a fraction: 0.63, not 63"),
        Column("delta", DOUBLE, "the Greeks in the provider's units; computed: theta a day, vega and rho a point"),
        Column("gamma", DOUBLE, "see delta"),
        Column("theta", DOUBLE, "see delta"),
        Column("vega", DOUBLE, "see delta"),
        Column("rho", DOUBLE, "see delta"),
        Column("greeks_source", symbol(64), "who computed iv and Greeks: provider or computed; null: nobody"),
        Column("underlying_price", DOUBLE, "of the same snapshot; of a forward where the provider names one"),
        Column("age_ns", LONG, "how much older than ts_event the leg's quote is, or its last trade; null: not told"),
        Column("iv_status", label(*IV_STATUSES), "how our solver ended; null: it was not asked", computed=True),
    ),
)

CORPORATE_ACTIONS = Table(
    "corporate_actions",
    "a version of a corporate action, as a provider told it; the newest ts_known is what it says now",
    partition="YEAR",
    # With ts_known: an action that a provider corrects is another row, and both stay.
    dedup=("ts_event", "symbol", "feed", "action_type", "action_id", "ts_known"),
    columns=(
        Column("ts_event", TIMESTAMP, "midnight, where it is listed, that begins its ex date, else its effective date"),
        Column("ts_recv", TIMESTAMP, "when its bytes arrived here"),
        series(),
        Column("action_type", label(*ACTION_TYPES), "what happens"),
        Column("action_id", symbol(65536), "provider's id; made of its type and day where there is none"),
        Column("ts_known", TIMESTAMP, "when this version became known here"),
        Column("ratio", DOUBLE, "new shares for each old one: 4 of a 4:1 split, 1.05 of a stock dividend of 5 %"),
        Column("amount", DOUBLE, "cash for each share, as paid: not adjusted by later splits"),
        Column("currency", symbol(64), "of the amount; null: that of the price"),
        Column("new_symbol", symbol(16384), "what the holder gets, or what the symbol becomes"),
        Column("details", VARCHAR, "further fields as sent, a JSON object"),
    ),
)

NEWS = Table(
    "news",
    "a version of an article, for one symbol that it names",
    partition="MONTH",
    dedup=("ts_event", "symbol", "feed", "news_id"),
    columns=(
        Column("ts_event", TIMESTAMP, "when this version was published"),
        Column("ts_recv", TIMESTAMP, "when its bytes arrived here"),
        Column("feed", symbol(64), "the configured feed the row came through"),
        Column("symbol", symbol(16384), "as the provider writes it; * where the article names none"),
        Column("news_id", LONG, "provider's id, the same for every version"),
        Column("created", TIMESTAMP, "when it was first published"),
        Column("headline", VARCHAR, "up to 4000 characters, as is the summary"),
        Column("summary", VARCHAR, "where there is one"),
        Column("source", symbol(64), "who published it"),
        Column("author", VARCHAR, "who wrote it"),
        Column("url", VARCHAR, "where it can be read"),
        Column("content_chars", LONG, "length of the article's HTML, which stays in the journal"),
    ),
)

VALUATIONS = Table(
    "valuations",
    "a value that a provider computed for a symbol: nobody traded at it",
    partition="DAY",
    dedup=("ts_event", "symbol", "feed", "kind"),
    columns=(
        Column("ts_event", TIMESTAMP, "provider's time"),
        Column("ts_recv", TIMESTAMP, "when its bytes arrived here"),
        series(),
        Column("kind", symbol(64), "fmv: fair market value by Massive"),
        Column("value", DOUBLE, "in the currency of the symbol's price"),
    ),
)

GAPS = Table(
    "gaps",
    "something missing",
    partition="MONTH",
    dedup=("ts_event", "symbol", "feed", "channel", "kind", "from_id"),  # two gaps may end in the same millisecond
    columns=(
        Column("ts_event", TIMESTAMP, "first event after the gap; of a lost connection its reopening"),
        Column("ts_recv", TIMESTAMP, "when the gap was noticed"),
        series(),
        Column("channel", symbol(64), "trades, quotes …"),
        Column("kind", label(*GAP_KINDS), "what told us"),
        Column("from_id", LONG, "first id missing"),
        Column("to_id", LONG, "last id missing"),
        Column("missing", LONG, "how many; null when it cannot be known"),
        Column("span_ns", LONG, "time between the events on both sides"),
        Column("cause", symbol(256), "as far as known"),
        Column("status", label(*GAP_STATUSES), "what became of it; null: a note, nothing is fetched for it"),
        Column("recovered", LONG, "how many came after all: from history, or late from the stream"),
    ),
)

FEED_EVENTS = Table(
    "feed_events",
    "a change of a connection",
    partition="MONTH",
    dedup=("ts_event", "feed", "connection", "event"),
    columns=(
        Column("ts_event", TIMESTAMP, "when it happened here"),
        Column("feed", symbol(64), "the configured feed"),
        Column("connection", INT, "which of the feed's connections, from 0"),
        Column("event", symbol(64), "opened, closed, subscription.audited, subscription.incomplete, reader.slow …"),
        Column("reason", VARCHAR, "close code, provider's words, what is missing"),
        Column("desired", LONG, "subscriptions, channel × symbol, that the configuration asks of the connection"),
        Column("requested", LONG, "of those, asked of the provider since it was opened"),
        Column("acknowledged", LONG, "of those, acknowledged by it"),
        Column("delivering", LONG, "of those, rows have come since it was opened; null when not known yet"),
    ),
)

REJECTED = Table(
    "rejected",
    "a frame or a row that did not fit",
    partition="MONTH",
    dedup=("ts_event", "feed", "position", "item"),
    columns=(
        Column("ts_event", TIMESTAMP, "receive time of the frame"),
        Column("feed", symbol(64), "the configured feed"),
        Column("position", LONG, "place in the journal, just past the frame; null for a row rejected by the server"),
        Column("item", INT, "which of several at this position, from 0; of a rejected row, its checksum"),
        Column("reason", VARCHAR, "what does not fit, in words"),
        Column("excerpt", VARCHAR, "the first bytes of it"),
    ),
)

COVERAGE = Table(
    "coverage",
    "what was noticed in one minute about a minute of a feed, symbol and channel; entries of a minute add up",
    partition="MONTH",
    dedup=("ts_event", "symbol", "feed", "channel", "noticed"),
    columns=(
        Column("ts_event", TIMESTAMP, "start of the minute that the rows belong to, by their ts_event"),
        series(),
        Column("channel", symbol(64), "trades, quotes …; * with symbol * for a whole connection"),
        Column(
            "noticed",
            TIMESTAMP,
            "minute it was noticed in, plus 1 ns each time the clock was set back: what is late comes on top",
        ),
        Column("received", LONG, "rows that came, repeats included"),
        Column("verified", LONG, "rows whose neighbours are known by id or sequence"),
        Column("unverifiable", LONG, "rows of which nobody can say what came before"),
        Column("missing", LONG, "known to be lost"),
        Column("repaired", LONG, "of those, recovered from history"),
        Column("duplicate", LONG, "repeats, not stored"),
        Column("late", LONG, "older than the last one seen"),
        Column("rejected", LONG, "frames that did not fit; with symbol *"),
        Column("cause", symbol(256), "why something is missing, as far as known"),
    ),
)

LATENCY = Table(
    "latency",
    "a stage's latencies of the rows of a feed that became queryable in one second",
    partition="DAY",
    dedup=("ts_event", "feed", "stage"),
    columns=(
        Column("ts_event", TIMESTAMP, "start of the second"),
        Column("feed", symbol(64), "the configured feed"),
        Column("stage", symbol(64), "exchange, journalled, decoded, sent, answered, applied, total"),
        Column("count", LONG, "rows measured: the same in every stage"),
        Column("p50", LONG, "ns; like all of them signed, never clamped"),
        Column("p99", LONG, "ns"),
        Column("p999", LONG, "ns"),
        Column("max", LONG, "ns"),
        Column("min", LONG, "ns; of the stage exchange the best estimate of the offset between both clocks"),
        Column("sum", LONG, "ns, of all rows: the stages' add up to the total's; null where it exceeds 63 bits"),
    ),
)

QUALITY_EVENTS = Table(
    "quality_events",
    "a finding",
    partition="MONTH",
    dedup=("ts_event", "symbol", "feed", "check_name"),
    columns=(
        Column("ts_event", TIMESTAMP, "when it was found"),
        Column("symbol", symbol(16384), "canonical symbol; null for what concerns all"),
        Column("feed", symbol(64), "the configured feed; null for what concerns all"),
        Column("check_name", symbol(256), "which check"),
        Column("severity", label("info", "warning", "critical"), "how bad"),
        Column("value", DOUBLE, "what was measured"),
        Column("threshold", DOUBLE, "what it was held against"),
        Column("message", VARCHAR, "in words, with what to do"),
    ),
)

TABLES = {
    t.name: t
    for t in (
        TRADES, QUOTES, BARS, STATUSES, OPTIONS_CHAIN, CORPORATE_ACTIONS, VALUATIONS, NEWS, GAPS, FEED_EVENTS,
        REJECTED, COVERAGE, LATENCY, QUALITY_EVENTS,
    )
}  # fmt: skip


@cache
def prefixed(prefix: str) -> dict[str, Table]:
    """The same tables under other names, by their own names: another set of them in one database."""
    return {name: replace(table, name=prefix + name) for name, table in TABLES.items()} if prefix else TABLES
