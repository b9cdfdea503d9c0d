"""Alpaca's news → rows, one for each symbol that an article names. https://docs.alpaca.markets/docs/streaming-real-time-news

An article that is edited comes again, with the same id and a later time: another row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recorder.core.batch import Scope
from recorder.feeds.alpaca.messages import News
from recorder.values.errors import FrameError
from recorder.values.symbols import SYMBOL_CHARS_MAX

TEXT_CHARS_MAX = 4000  # of a headline or summary; longer ones are cut, and whole in the journal
EVERYTHING = "*"  # the symbol of an article that names none


def news_rows(scope: Scope, time: Callable[[Any, int], int]) -> Callable[[News, int], None]:
    """time  (a time as sent, ts_recv) → ns; raises FrameError"""
    append, text, varchar = scope.news.append, scope.text, scope.news.varchar

    def cut(words: str | None) -> int:
        return varchar(words[:TEXT_CHARS_MAX] if words else None)

    def row(message: News, ts_recv: int) -> None:
        updated, created = time(message.updated_at, ts_recv), time(message.created_at, ts_recv)
        names = tuple(dict.fromkeys(message.symbols or (EVERYTHING,)))
        for name in names:
            if not 0 < len(name) <= SYMBOL_CHARS_MAX or not name.isprintable():
                raise FrameError(f"news of {name[:80]!r}, which is no symbol")
        for name in names:
            append(
                updated, ts_recv, scope.feed_id, text(name), message.id, created, cut(message.headline),
                cut(message.summary), text((message.source or "")[:64] or None), cut(message.author), cut(message.url),
                len(message.content or ""),
            )  # fmt: skip

    return row
