"""Faults that a simulated provider commits on command."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from recorder.core.market import ID, KIND, SYMBOL, TRADE
from recorder.shell.simulator.truth import VenueTruth


@dataclass
class Faults:
    """What to do to the next trades of a provider; counts go down as it is done."""

    drop: list[int | None] = field(default_factory=list)  # one entry a trade: of this symbol, or None: of any
    duplicate: int = 0
    reorder: int = 0
    fail: list[int | str] = field(default_factory=list)  # errors that the next connection's requests are answered with
    withhold: list[int] = field(default_factory=list)  # one entry a connection to come: which symbol it never gets
    refuse: int = 0  # connection attempts to answer with ``status``
    status: int = 503
    retry_after: str | None = None  # header of those answers

    def apply(self, events: np.ndarray, truth: VenueTruth) -> tuple[np.ndarray, int]:
        """Events as they will be sent, and how many trades were left out."""
        if not self.drop and not self.duplicate and not self.reorder:
            return events, 0
        keep = np.ones(len(events), bool)
        trade = events[:, KIND] == TRADE
        dropped = 0
        for symbol in list(self.drop):
            hits = np.flatnonzero(trade & keep & ((events[:, SYMBOL] == symbol) if symbol is not None else True))
            if len(hits):
                self.drop.remove(symbol)
                keep[hits[0]] = False
                dropped += 1
                truth.dropped.append(_named(events[hits[0]], truth))
        events = events[keep]
        trades = np.flatnonzero(events[:, KIND] == TRADE)
        if self.reorder > 1 and len(trades) > 1:
            turned = trades[: self.reorder]
            events[turned] = events[turned[::-1]]
            self.reorder = max(0, self.reorder - len(turned))
        if self.duplicate and len(trades):
            again = trades[: self.duplicate]
            self.duplicate -= len(again)
            truth.duplicated += [_named(events[i], truth) for i in again]
            events = np.insert(events, again + 1, events[again], axis=0)
        return events, dropped


def _named(event: np.ndarray, truth: VenueTruth) -> tuple[str, int]:
    return truth.names[int(event[SYMBOL])], int(event[ID])
