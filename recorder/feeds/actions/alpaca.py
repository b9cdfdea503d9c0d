"""Alpaca's corporate actions of US stocks. https://docs.alpaca.markets/reference/corporateactions-1"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any

import msgspec

from recorder.feeds.actions.asking import Action, Asked
from recorder.values.errors import FrameError
from recorder.values.feed import HOUR, HistoryRequest, HttpRequest, HttpResponse, ProviderInfo
from recorder.values.history import PAGES_MAX, address
from recorder.values.messages import UNREADABLE

KEY_ID, SECRET_KEY = "APCA_API_KEY_ID", "APCA_API_SECRET_KEY"
PAGE = 1000  # actions in one answer at most; a page may be shorter and yet not the last
DAY = 24 * HOUR
# The window is one of process_date: a dividend is processed on its pay date, weeks after its ex date, some a quarter.
PROCESSED_BEFORE, PROCESSED_AFTER = 30 * DAY, 120 * DAY
# Kept in details: all but what has a column, and what says nothing of the action itself.
_COLUMNS = frozenset({"id", "symbol", "ex_date", "effective_date", "currency"})

# Their list → our type, the fields of its symbol, its day, and what the holder gets.
_KINDS: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "forward_splits": ("split", "symbol", ("ex_date",), ""),
    "reverse_splits": ("split", "symbol", ("ex_date",), "new_symbol"),
    "unit_splits": ("unit_split", "old_symbol", ("effective_date",), "new_symbol"),
    "cash_dividends": ("cash_dividend", "symbol", ("ex_date",), ""),
    "stock_dividends": ("stock_dividend", "symbol", ("ex_date",), ""),
    "spin_offs": ("spin_off", "source_symbol", ("ex_date",), "new_symbol"),
    "cash_mergers": ("merger", "acquiree_symbol", ("effective_date",), "acquirer_symbol"),
    "stock_mergers": ("merger", "acquiree_symbol", ("effective_date",), "acquirer_symbol"),
    "stock_and_cash_mergers": ("merger", "acquiree_symbol", ("effective_date",), "acquirer_symbol"),
    "redemptions": ("redemption", "symbol", ("process_date",), ""),
    "name_changes": ("symbol_change", "old_symbol", ("process_date",), "new_symbol"),
    "worthless_removals": ("removal", "symbol", ("process_date",), ""),
    "rights_distributions": ("rights", "source_symbol", ("ex_date",), "new_symbol"),
    "partial_calls": ("partial_call", "symbol", ("lottery_date", "process_date"), ""),
    "reorganizations": ("reorganization", "symbol", ("effective_date",), ""),
    "capital_gains_distributions": ("capital_gain", "symbol", ("ex_date",), ""),
}
# New shares for old ones: (numerator, denominator) by list.
_RATIOS = {
    "forward_splits": ("new_rate", "old_rate"),
    "reverse_splits": ("new_rate", "old_rate"),
    "unit_splits": ("new_rate", "old_rate"),
    "spin_offs": ("new_rate", "source_rate"),
    "stock_mergers": ("acquirer_rate", "acquiree_rate"),
    "stock_and_cash_mergers": ("acquirer_rate", "acquiree_rate"),
}
# Cash for each share: the fields that add up to it.
_AMOUNTS = {
    "cash_dividends": ("rate",),
    "cash_mergers": ("rate",),
    "stock_and_cash_mergers": ("cash_rate",),
    "redemptions": ("rate",),
    "partial_calls": ("price",),
    "reorganizations": ("cash_rate",),
    "capital_gains_distributions": ("long_term_rate", "short_term_rate"),
}
_answer = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_lists = msgspec.json.Decoder(dict[str, list[msgspec.Raw]]).decode
_item = msgspec.json.Decoder(dict[str, Any]).decode
_token = msgspec.json.Decoder(str | None).decode


class Alpaca(Asked):
    """{"corporate_actions":{"forward_splits":[{"id":"…","symbol":"SRE","ex_date":"2023-08-22","new_rate":2,
    "old_rate":1,"process_date":"2023-08-22",…}],"cash_dividends":[…]},"next_page_token":null}
    """

    INFO = ProviderInfo(
        name="alpaca",
        channels=("actions",),
        credentials=(KEY_ID, SECRET_KEY),
        hosts=("stream.data.alpaca.markets", "stream.data.sandbox.alpaca.markets"),
    )
    URL = "https://data.alpaca.markets"
    PER_SECOND_MAX = 3.0  # 200 a minute in the free plan
    REACHES = "corporate actions of US stocks by process date"

    def pages(self, base: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        names = (("APCA-API-KEY-ID", KEY_ID), ("APCA-API-SECRET-KEY", SECRET_KEY))
        secrets = tuple((header, self.credentials[name]) for header, name in names if name in self.credentials)
        span = {"start": _day(request.start - PROCESSED_BEFORE), "end": _day(request.end + PROCESSED_AFTER)}
        token: str | None = None
        for _ in range(PAGES_MAX):
            query = {"symbols": request.symbol, **span, "limit": PAGE, "sort": "asc", "page_token": token}
            response = yield HttpRequest(address(base, "/v1/corporate-actions", **query), (), secrets)
            try:
                following = _token(_answer(response.body)["next_page_token"])
            except (*UNREADABLE, KeyError):
                return  # decode says what is wrong with it
            if not following or following == token:
                return
            token = following

    def actions(self, request: HistoryRequest, body: bytes, refuse: Callable[[str, bytes], None]) -> list[Action]:
        try:
            fields = _answer(body)
            if "corporate_actions" not in fields:
                raise FrameError(f"no corporate actions: {bytes(fields.get('message', b'it has none'))[:200]!r}")
            lists = _lists(fields["corporate_actions"])
        except UNREADABLE as error:
            raise FrameError(f"no corporate actions: {error}") from None
        found = []
        for kind, items in lists.items():
            if kind not in _KINDS:
                refuse(f"corporate actions of an unknown kind {kind[:60]!r}", msgspec.json.encode(items))
                continue
            for raw in items:
                try:
                    found.append(_action(kind, _item(raw)))
                except (*UNREADABLE, KeyError, TypeError, ValueError, ArithmeticError) as error:
                    refuse(f"{kind}: {type(error).__name__}: {error}", bytes(raw))
        return found


def _action(kind: str, item: dict[str, Any]) -> Action:
    action_type, symbol, days, gets = _KINDS[kind]
    day = next((item[name] for name in (*days, "process_date") if item.get(name)), None)
    if day is None:
        raise ValueError(f"none of {', '.join(days)}")
    ratio = amount = None
    if kind == "stock_dividends":
        ratio = 1.0 + float(item["rate"])
    elif kind in _RATIOS:
        new, old = _RATIOS[kind]
        ratio = float(item[new]) / float(item[old])
    if kind in _AMOUNTS:
        parts = [float(item[name]) for name in _AMOUNTS[kind] if item.get(name) is not None]
        amount = sum(parts) if parts else None
    return Action(
        symbol=str(item[symbol]),
        action_type=action_type,
        day=str(day),
        action_id=item.get("id") or None,
        ratio=ratio,
        amount=amount or None,  # a special with the rate 0 announces an amount that is not known yet
        currency=item.get("currency"),
        new_symbol=item.get(gets) or None,
        details={"kind": kind} | {name: value for name, value in item.items() if name not in _COLUMNS},
    )


def _day(ns: int) -> str:
    return f"{datetime.fromtimestamp(max(0, ns) // 1_000_000_000, UTC):%Y-%m-%d}"
