"""Messages of the Coinbase Exchange feed and what becomes of them.

https://docs.cdp.coinbase.com/exchange/websocket-feed/channels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from msgspec import Struct

from recorder.core.batch import Scope
from recorder.core.templates import Message, Row, Templates
from recorder.core.text_time import rfc3339_ns
from recorder.values.errors import FrameError
from recorder.values.messages import (
    INF,
    NO_TEXT,
    TS_AHEAD_MAX,
    TS_EVENT_MIN,
    UNREADABLE,
    Id,
    Reader,
    Unread,
    misfit,
    quoted,
)  # fmt: skip
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import BACKFILLED, BUY, QUOTES, SELL, TRADES

MISSED_MAX = 1 << 20  # trades a heartbeat may be ahead of us; more is another id space, not a loss

Side = Literal["buy", "sell"]


class Match(Struct, tag_field="type", tag="match", gc=False, forbid_unknown_fields=True):
    """A trade on the Exchange feed.

    {"type":"match","trade_id":10,"sequence":50,"maker_order_id":"…","taker_order_id":"…",
     "time":"2014-11-07T08:19:27.028459Z","product_id":"BTC-USD","size":"5.23512","price":"400.23","side":"sell"}
    """

    trade_id: Id
    product_id: str
    price: float
    size: float
    side: Side  # of the maker
    time: str
    sequence: Unread = NO_TEXT
    maker_order_id: Unread = NO_TEXT
    taker_order_id: Unread = NO_TEXT
    profile_id: Unread = NO_TEXT
    user_id: Unread = NO_TEXT
    taker_profile_id: Unread = NO_TEXT
    taker_user_id: Unread = NO_TEXT
    flags: ClassVar[int] = 0


class LastMatch(Match, tag_field="type", tag="last_match", gc=False, forbid_unknown_fields=True):
    """The last trade before the subscription, the same fields; sent again on every reconnect."""

    flags: ClassVar[int] = BACKFILLED


class Ticker(Struct, tag_field="type", tag="ticker", gc=False, forbid_unknown_fields=True):
    """Best bid and offer after a trade; the trade itself comes as a match and is not stored twice.

    {"type":"ticker","sequence":50978628538,"product_id":"BTC-USD","price":"17165.16","open_24h":"16437.94",
     "volume_24h":"42492.05081975","low_24h":"16423.37","high_24h":"17259.37","volume_30d":"1093827.95195495",
     "best_bid":"17165.15","best_bid_size":"0.61540890","best_ask":"17167.76","best_ask_size":"0.18528568",
     "side":"sell","time":"2022-12-01T00:00:00.122581Z","trade_id":463751434,"last_size":"0.05"}
    """

    product_id: str
    sequence: Id
    best_bid: float = 0.0
    best_ask: float = 0.0
    best_bid_size: float | None = None  # both sizes were not sent before 2022
    best_ask_size: float | None = None
    time: str | None = None
    price: Unread = NO_TEXT
    open_24h: Unread = NO_TEXT
    volume_24h: Unread = NO_TEXT
    low_24h: Unread = NO_TEXT
    high_24h: Unread = NO_TEXT
    volume_30d: Unread = NO_TEXT
    side: Unread = NO_TEXT
    trade_id: Unread = NO_TEXT
    last_size: Unread = NO_TEXT


class Heartbeat(Struct, tag_field="type", tag="heartbeat", gc=False, forbid_unknown_fields=True):
    """Once a second and product, also when nothing trades.

    {"type":"heartbeat","last_trade_id":278953096,"product_id":"ETH-USD","sequence":29716844241,
     "time":"2022-05-20T21:22:34.751219Z"}
    """

    last_trade_id: Id
    product_id: str
    time: str
    sequence: Unread = NO_TEXT


class Subscriptions(Struct, tag_field="type", tag="subscriptions"):
    """An acknowledgement: see ``on_control``."""


class Error(Struct, tag_field="type", tag="error"):
    """See ``on_control``."""


class L2Update(Struct, tag_field="type", tag="l2update"):
    """A change of the book; known, not recorded."""


class L2Snapshot(Struct, tag_field="type", tag="snapshot"):
    """The book; known, not recorded."""


EXCHANGE = Match | LastMatch | Ticker | Heartbeat | Subscriptions | Error | L2Update | L2Snapshot
CONTROL = {"channel": None}  # Advanced Trade's envelope, if it should come this way


_IDS = '"maker_order_id":"<text>","taker_order_id":"<text>"'
_SIDE = "<side:buy=sell,sell=buy>"  # of the maker; we store the aggressor's
_DAY = '"open_24h":"<text>","volume_24h":"<text>","low_24h":"<text>","high_24h":"<text>","volume_30d":"<text>"'
_LAST = '"side":"<text>","time":"<ts_event:rfc3339>","trade_id":<number>,"last_size":"<text>"'
TEMPLATES = Templates(
    (
        Message(
            "<row>",
            Row(
                TRADES,
                f'{{"type":"match","trade_id":<trade_id>,{_IDS},"side":"{_SIDE}","size":"<size>","price":"<price>",'
                '"product_id":"<series>","sequence":<number>,"time":"<ts_event:rfc3339>"}',
                remembered="trade_id",
            ),
            Row(  # as documented
                TRADES,
                f'{{"type":"match","trade_id":<trade_id>,"sequence":<number>,{_IDS},"time":"<ts_event:rfc3339>",'
                f'"product_id":"<series>","size":"<size>","price":"<price>","side":"{_SIDE}"}}',
                remembered="trade_id",
            ),
            Row(
                QUOTES,
                f'{{"type":"ticker","sequence":<sequence>,"product_id":"<series>","price":"<text>",{_DAY},'
                '"best_bid":"<bid>","best_bid_size":"<bid_size>","best_ask":"<ask>","best_ask_size":"<ask_size>",'
                f"{_LAST}}}",
            ),
            Row(  # until 2022
                QUOTES,
                f'{{"type":"ticker","sequence":<sequence>,"product_id":"<series>","price":"<text>",{_DAY},'
                f'"best_bid":"<bid>","best_ask":"<ask>",{_LAST}}}',
            ),
        ),
    )
)


def decoder(scope: Scope, canonical: Callable[[str], str]) -> Callable[[bytes, int], None]:
    """decode(payload, ts_recv) for one connection; ``canonical`` maps a product id or raises FrameError."""
    reader = Reader(EXCHANGE, "type", scope.unknown, CONTROL)
    add_trade, add_quote = scope.trades.append, scope.quotes.append
    series_of: dict[str, int] = {}
    last_ids = scope.kept("last_ids")  # product → newest trade seen; of most products templates keep it, see last_id()
    promised = scope.kept("promised")  # product → what the heartbeat before named, if we had not seen it

    def series(product: str) -> int:
        number = series_of[product] = scope.series(canonical(product))
        scope.teach("series", product, number)
        return number

    def last_id(product: str) -> int | None:
        number = scope.remembered("series", product)
        return last_ids.get(product) if number is None else number

    def saw(product: str, trade_id: int) -> None:
        if not scope.remember("series", product, trade_id):
            last_ids[product] = trade_id

    def heartbeat(message: Heartbeat, ts_recv: int) -> None:
        """A trade that a heartbeat names and that has not come when the next one does is lost."""
        product, last = message.product_id, last_id(message.product_id)
        due = promised.pop(product, None)
        if last is None:
            return
        newest = last
        if due is not None and last < due:
            saw(product, due)
            newest = due
            scope.named(canonical(product), due, rfc3339_ns(message.time), ts_recv)
        if newest < message.last_trade_id <= last + MISSED_MAX:
            promised[product] = message.last_trade_id

    def quote(message: Ticker, ts_recv: int) -> None:
        ts_event = ts_recv if message.time is None else rfc3339_ns(message.time)
        bid, bid_size, ask, ask_size = quoted(
            "ticker", ts_event, ts_recv, message.best_bid, message.best_bid_size, message.best_ask,
            message.best_ask_size,
        )  # fmt: skip
        product = message.product_id
        number = series_of.get(product)
        add_quote(
            ts_event, ts_recv, series(product) if number is None else number, message.sequence,
            bid, bid_size, ask, ask_size, TEXT_NULL, TEXT_NULL, TEXT_NULL, 0,
        )  # fmt: skip

    def decode(payload: bytes, ts_recv: int) -> None:
        try:
            message = reader.read(payload)
        except UNREADABLE as error:
            message = reader.again(payload, error)
        if isinstance(message, Match):
            ts_event, price, size = rfc3339_ns(message.time), message.price, message.size
            if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
                raise FrameError(misfit("match", ts_event, ts_recv, price=price, size=size))
            product, trade_id = message.product_id, message.trade_id
            number = series_of.get(product)
            add_trade(
                ts_event, ts_recv, series(product) if number is None else number, TEXT_NULL, trade_id, TEXT_NULL,
                price, size,
                BUY if message.side == "sell" else SELL,  # it names the resting side; we store the aggressor's
                TEXT_NULL, TEXT_NULL, message.flags,
            )  # fmt: skip
            saw(product, trade_id)
        elif isinstance(message, Ticker):
            quote(message, ts_recv)
        elif isinstance(message, Heartbeat):
            heartbeat(message, ts_recv)

    return decode
