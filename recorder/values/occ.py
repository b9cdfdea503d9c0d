"""OCC option symbols, read and formed exactly: root, expiration, call or put, strike in mills.

The 21-character key of the Options Symbology Initiative is what rows carry: ``AAPL  251219C00150000``. Compact
(``AAPL251219C00150000``: Alpaca, Yahoo, Cboe), ``O:…`` (Polygon) and dashes (E*TRADE's osiKey) are read too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import lru_cache
from zoneinfo import ZoneInfo

from recorder.values.errors import SymbolError
from recorder.values.tables import CALL, PUT

ROOT_CHARS = 6
STRIKE_MILLS_MAX = 99_999_999  # eight digits: 99,999.999
_TAIL = 15  # characters from the date on: a symbol is read from the right, as roots end in digits too
_EXCHANGE_ZONE = ZoneInfo("America/New_York")
# Expiration as an instant: the close of the day, also of half days; at the open where the settlement value is made of
# opening prices. PM-settled series of the same indices have roots of their own (SPXW, NDXP, RUTW).
_CLOSE, _OPEN = time(16, 0), time(9, 30)
AM_SETTLED = frozenset({"SPX", "NDX", "RUT", "DJX", "VIX", "VIXW"})

# Roots that are not the underlying's name, and class shares, which lose their point. Not inferred: looked up.
UNDERLYINGS = {
    "SPXW": "SPX", "NDXP": "NDX", "VIXW": "VIX", "RUTW": "RUT", "MRUT": "RUT", "XSPW": "XSP",
    "BRKB": "BRK.B", "BFB": "BF.B",
}  # fmt: skip
# Broad-based indices whose options are exercised at expiration only; options on shares and funds at any time.
EUROPEAN = frozenset({"SPX", "NDX", "RUT", "VIX", "XSP", "DJX", "XEO"})

# A root that begins with a digit is a FLEX series (unverified), one that ends in a digit is adjusted.
_ROOT = re.compile(r"[0-9]?[A-Z]+[0-9]?")
_DATED = re.compile(r"([0-9]{2})([0-9]{2})([0-9]{2})([CP])([0-9]{8})")


@dataclass(frozen=True)
class Contract:
    """One listed option. ``strike_mills`` is a thousandth of the strike's unit; ``option_type`` is CALL or PUT."""

    root: str
    expiration: date
    option_type: int
    strike_mills: int

    @property
    def symbol(self) -> str:
        """The 21 characters that rows carry."""
        return f"{self.root:<{ROOT_CHARS}}{self._tail}"

    @property
    def compact(self) -> str:
        return self.root + self._tail

    @property
    def _tail(self) -> str:
        return f"{self.expiration:%y%m%d}{'C' if self.option_type == CALL else 'P'}{self.strike_mills:08d}"

    @property
    def strike(self) -> float:
        return self.strike_mills / 1000

    @property
    def adjusted(self) -> bool:
        """A corporate action changed what is delivered: a strike of it is no price of 100 shares."""
        return self.root[-1].isdigit()

    @property
    def underlying(self) -> str:
        """By the table above, else the root without its digits."""
        name = self.root.strip("0123456789")
        return UNDERLYINGS.get(name, name)

    @property
    def expires_ns(self) -> int:
        """The instant of its expiration: 16:00 New York, 09:30 where it settles at the open."""
        return expires_ns(self.expiration, self.root in AM_SETTLED)


def parse(text: str) -> Contract:
    """Any of the spellings above, in upper case. Raises SymbolError naming what does not fit."""
    name = text.removeprefix("O:")
    root, found = name[:-_TAIL].rstrip(" -"), _DATED.fullmatch(name[-_TAIL:])
    if found is None or not 0 < len(root) <= ROOT_CHARS or not _ROOT.fullmatch(root):
        raise SymbolError(f"{text[:40]!r} is no OCC symbol; expected for example AAPL  251219C00150000")
    if name[:-_TAIL] != root and len(name) != ROOT_CHARS + _TAIL:
        raise SymbolError(f"{text[:40]!r} is padded to {len(name)} characters; an OCC symbol to {ROOT_CHARS + _TAIL}")
    return Contract(root, _date(text, found[1], found[2], found[3]), CALL if found[4] == "C" else PUT, int(found[5]))


def contract(root: str, expiration: date, option_type: int, strike: float) -> Contract:
    """From its parts. Raises SymbolError for a root, year or strike that no OCC symbol can hold."""
    mills = round(strike * 1000) if abs(strike) <= STRIKE_MILLS_MAX else -1  # NaN compares false
    if not (0 < len(root) <= ROOT_CHARS and _ROOT.fullmatch(root)):
        raise SymbolError(f"{root[:40]!r} is no root of an option; expected up to {ROOT_CHARS} letters such as AAPL")
    if not 0 <= mills <= STRIKE_MILLS_MAX or abs(mills / 1000 - strike) > 1e-6:
        raise SymbolError(f"strike {strike!r} of {root} is not a number of thousandths up to {STRIKE_MILLS_MAX / 1000}")
    if not 2000 <= expiration.year <= 2099:
        raise SymbolError(f"expiration {expiration} of {root}: an OCC symbol holds the years 2000 to 2099")
    return Contract(root, expiration, option_type, mills)


@lru_cache(maxsize=4096)  # expirations of all contracts that there are: under a thousand
def expires_ns(day: date, at_open: bool = False) -> int:
    """16:00, or 09:30, of that day in New York."""
    moment = datetime.combine(day, _OPEN if at_open else _CLOSE, _EXCHANGE_ZONE)
    return int(moment.timestamp()) * 1_000_000_000


def _date(text: str, year: str, month: str, day: str) -> date:
    try:
        return date(2000 + int(year), int(month), int(day))
    except ValueError as error:
        raise SymbolError(f"{text[:40]!r} expires on no day: {error}") from None
