"""Canonical symbols and ids, as far as more than one feed needs them."""

from __future__ import annotations

from hashlib import blake2b

ID_DIGITS_MAX = 18  # decimal digits that always fit a positive int64


def hashed_id(text: str) -> int:
    """A stable id from 0 to 2**63 - 1 for a provider's id that is no number, the same in every run on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def text_id(text: str) -> tuple[int, str | None]:
    """(trade_id, trade_ref) of an id sent as text: a plain number is itself without a reference, others are hashed."""
    if text.isdecimal() and text.isascii() and len(text) <= ID_DIGITS_MAX and (text[0] != "0" or text == "0"):
        return int(text), None
    return hashed_id(text), text
