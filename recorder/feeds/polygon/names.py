"""Massive's spellings of symbols: tickers, ``O:`` + compact OCC symbol, ``BTC-USD``; ``X:`` of crypto in HTTP only."""

from __future__ import annotations

import re

from recorder.values.errors import FrameError, SymbolError
from recorder.values.occ import parse
from recorder.values.symbols import canonical_pair, ticker

EVERY = "*"  # all symbols of a topic
# Of stocks small letters mean something: BACpB is preferred, others are rights (r) or when-issued (w).
_MIXED = re.compile(r"[A-Z]+(?:[prw]+[A-Z.]*)+")


def name_of(cluster: str, symbol: str) -> str:
    """As the WebSocket writes it. Raises SymbolError."""
    text = symbol.strip().upper()
    if text == EVERY:
        return EVERY
    if cluster == "options":
        return "O:" + parse(text).compact
    return canonical_pair(text.removeprefix("X:")) if cluster == "crypto" else _stock(symbol)


def canonical(cluster: str, name: str) -> str:
    """As rows carry it. Raises SymbolError."""
    if name == EVERY:
        return name
    if cluster == "options":
        return parse(name).symbol
    return canonical_pair(name) if cluster == "crypto" else _stock(name)


def _stock(text: str) -> str:
    name = text.strip()
    return name if _MIXED.fullmatch(name) else ticker(name)


def received(cluster: str, name: str) -> str:
    """The canonical symbol of what a message names. Raises FrameError."""
    try:
        return canonical(cluster, name)
    except SymbolError as error:
        raise FrameError(str(error)) from None


def rest_name(cluster: str, channel: str, name: str) -> str:
    """As HTTP addresses write it: pairs have a prefix, and in bars no dash."""
    if cluster != "crypto":
        return name
    return "X:" + (name.replace("-", "") if channel == "bars" else name)
