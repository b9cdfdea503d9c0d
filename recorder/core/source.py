"""A connection as the journal knows it: its decoders, and what came of its frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from recorder.core.batch import Scope
from recorder.values.errors import FrameError
from recorder.values.feed import Feed, FeedSpec, Historian, HistoryRequest, Polled

Decode = Callable[[bytes, int], None]


@dataclass
class Source:
    """What frames with one number in the journal are decoded with."""

    spec: FeedSpec
    feed: Feed
    scope: Scope
    decode: Decode
    matched: Callable[[], int]  # frames that its templates took
    decoded: int = 0  # frames that its decoder was given
    rejected: int = 0

    @property
    def frames(self) -> int:
        return self.decoded + self.matched()

    @cached_property
    def read_history(self) -> Callable[[HistoryRequest, bytes, int], None]:
        """Decodes a page. Raises FrameError where the feed has no history."""
        if not self.feed.capability().history_channels:
            raise FrameError(f"feed {self.spec.name} has no history that this version reads")
        return cast(Historian, self.feed).history_decoder(self.scope)

    @cached_property
    def read_poll(self) -> Callable[[str, bytes, int], None]:
        """Decodes an answer to a poll. Raises FrameError where the feed has none."""
        if not hasattr(self.feed, "poll_decoder"):
            raise FrameError(f"feed {self.spec.name} has no polls that this version reads")
        return cast(Polled, self.feed).poll_decoder(self.scope)


def decoder_of(feed: Feed, scope: Scope) -> Decode:
    """What decodes its stream; of a feed that is only asked, what says that it has none."""

    def no_stream(payload: bytes, ts_recv: int) -> None:
        raise FrameError(f"feed {scope.feed} has no stream that this version reads")

    return feed.decoder(scope) if hasattr(feed, "decoder") else no_stream
