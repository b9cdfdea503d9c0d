"""Who records what when a feed's symbols change: every open connection keeps what it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from recorder.values.feed import FeedSpec


def shared_anew(
    open_now: Sequence[FeedSpec], wanted: Sequence[FeedSpec], symbols_max: Callable[[FeedSpec], int]
) -> list[FeedSpec] | None:
    """The specs of the open connections with the symbols of ``wanted``, in order; None where that cannot be.

    wanted       as ``Feed.shards`` splits the changed feed
    symbols_max  how many symbols a connection with this spec's channels may have
    It cannot be where connections would have to be opened or closed, or where one would keep no symbol it had.
    """
    every: dict[tuple[str, ...], list[str]] = {}
    for spec in wanted:
        every.setdefault(spec.channels, []).extend(spec.symbols)
    if every.keys() != {spec.channels for spec in open_now}:
        return None
    kept = [[symbol for symbol in spec.symbols if symbol in set(every[spec.channels])] for spec in open_now]
    for channels, symbols in every.items():
        shares = [share for spec, share in zip(open_now, kept, strict=True) if spec.channels == channels]
        rooms = [symbols_max(spec) for spec in open_now if spec.channels == channels]
        there = {symbol for share in shares for symbol in share}
        if not all(shares):
            return None
        for symbol in dict.fromkeys(s for s in symbols if s not in there):
            share = min((s for s, room in zip(shares, rooms, strict=True) if len(s) < room), key=len, default=None)
            if share is None:
                return None
            share.append(symbol)
    return [msgspec.structs.replace(s, symbols=tuple(share)) for s, share in zip(open_now, kept, strict=True)]
