"""Who records what when a feed's symbols change: every open connection keeps what it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from recorder.values.feed import FeedSpec


def shared_anew(
    open_now: Sequence[FeedSpec],
    wanted: Sequence[FeedSpec],
    symbols_max: Callable[[FeedSpec], int],
    connections_max: int,
) -> list[FeedSpec] | None:
    """The connections that there shall be, told by their numbers: those open now that go on, then those to open.

    wanted           as ``Feed.shards`` splits the changed feed
    symbols_max      how many symbols a connection with this spec's channels may have
    connections_max  how many there may be
    What is open and not among them has no symbol left and is to be closed; new ones, with numbers of their own, only
    where those that go on have no room. None where nothing would go on, or where they would be too many.
    """
    every: dict[tuple[str, ...], dict[str, None]] = {}  # symbols of each set of channels, in order
    for spec in wanted:
        every.setdefault(spec.channels, {}).update(dict.fromkeys(spec.symbols))
    shares = [(spec, [s for s in spec.symbols if s in every.get(spec.channels, {})]) for spec in open_now]
    shares = [(spec, share) for spec, share in shares if share]
    if not shares:
        return None
    number = max(spec.connection for spec in open_now)
    for channels, symbols in every.items():
        first = next(spec for spec in wanted if spec.channels == channels)
        own, most = [share for spec, share in shares if spec.channels == channels], symbols_max(first)
        there = {symbol for share in own for symbol in share}
        for symbol in [s for s in symbols if s not in there]:
            share = min((s for s in own if len(s) < most), key=len, default=None)
            if share is None:
                number, share = number + 1, []
                own.append(share)
                shares.append((msgspec.structs.replace(first, connection=number), share))
            share.append(symbol)
    if len(shares) > connections_max:
        return None
    return [msgspec.structs.replace(spec, symbols=tuple(share)) for spec, share in shares]
