"""Canonical symbols and ids, and the providers' spellings of them.

Canonical: ``BASE-QUOTE`` for spot, ``BASE-QUOTE-PERP`` for perpetuals, the ticker for US equities, the provider's own
name for other derivatives.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Literal

from recorder.values.errors import SymbolError

ID_DIGITS_MAX = 18  # decimal digits that always fit a positive int64
BinanceMarket = Literal["spot", "usdm", "coinm"]
BybitMarket = Literal["spot", "linear", "inverse", "option"]
SYMBOL_CHARS_MAX = 64  # the longest real names (option contracts with a provider's prefix) stay below half of it

PERPETUAL = "-PERP"

# Binance joins base and quote without a mark: "BTCUSDT". Every asset that was or is a quote asset there (exchangeInfo),
# so that the longest one that ends a name splits it. https://developers.binance.com/docs/binance-spot-api-docs/rest-api
BINANCE_QUOTE_ASSETS = frozenset(
    {
        "USDT", "USDC", "FDUSD", "TUSD", "BUSD", "USDP", "USDS", "USD1", "USDE",
        "XUSD", "RLUSD", "BFUSD", "PAX", "DAI", "VAI", "UST", "EURI", "U",
        "EUR", "GBP", "AUD", "TRY", "BRL", "RUB", "UAH", "NGN", "ZAR", "PLN",
        "RON", "ARS", "MXN", "COP", "CZK", "JPY", "IDR", "IDRT", "BIDR", "BKRW", "BVND",
        "BTC", "ETH", "BNB", "XRP", "TRX", "DOGE", "DOT", "SOL",
    }
)  # fmt: skip
# Names that the longest ending would split wrongly. AEUR is not among the quote assets because it would take the last
# letter of every base that ends in A: ADAEUR is ADA-EUR. BIDR takes the B of BNB.
_BINANCE_IRREGULAR = {
    "BTCAEUR": "BTC-AEUR",
    "ETHAEUR": "ETH-AEUR",
    "EURAEUR": "EUR-AEUR",
    "BNBIDR": "BNB-IDR",
}
_QUOTE_CHARS = tuple(sorted({len(asset) for asset in BINANCE_QUOTE_ASSETS}, reverse=True))
_COIN_PERPETUAL = "USD_PERP"  # COIN-M contracts are all quoted in US dollars

# ISO-like codes that Kraken's older interfaces (and some captures) use for what everybody else calls otherwise.
_ASSET_ALIASES = {"XBT": "BTC", "XDG": "DOGE"}

# OKX: BTC-USDT, BTC-USDT-SWAP, BTC-USD-220527, BTC-USD-231229-35000-C.
_OKX_NAME = re.compile(r"[A-Z0-9._]+(?:-[A-Z0-9._]+){1,4}")
_OKX_SWAP = "-SWAP"

# Bybit joins base and quote, too: BTCUSDT; BTCPERP is the perpetual in USDC; dated futures are BTC-26SEP25, BTCUSDU23.
_BYBIT_NAME = re.compile(r"[A-Z0-9]+(?:-\d{1,2}[A-Z]{3}\d\d)?")
_BYBIT_OPTION = re.compile(r"[A-Z0-9]+-\d{1,2}[A-Z]{3}\d\d-\d+(?:\.\d+)?-[CP](?:-[A-Z0-9]+)?")  # BTC-26SEP25-90000-C
_BYBIT_QUOTE = re.compile(
    r"([A-Z0-9]+?)(USDT|USDC|USDE|USD1|USDQ|USDR|USD|DAI|BTC|ETH|SOL|MNT|EUR|BRL|BRZ|TRY|PLN|GBP)"
)

# Letters of any script: Binance lists names such as 币安人生USDT. Two dots are a way out of a folder, and no name's.
_TICKER = re.compile(r"(?!.*\.\.)[\w.*/+^#-]+")


def hashed_id(text: str) -> int:
    """A stable id from 0 to 2**63 - 1 for a provider's id that is no number, the same in every run on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def text_id(name: str | int) -> tuple[int, str | None]:
    """(trade_id, trade_ref) of an id sent as text: a plain number is itself without a reference, others are hashed."""
    text = str(name)
    if text.isdecimal() and text.isascii() and len(text) <= ID_DIGITS_MAX and (text[0] != "0" or text == "0"):
        return int(text), None
    return hashed_id(text), text


def canonical_pair(pair: str) -> str:
    """``BTC/USD``, ``XBT/USD``, ``btc_usd`` or ``BTC-USD`` → ``BTC-USD``. Raises SymbolError without two parts."""
    parts = re.split(r"[/_-]", pair.strip().upper())
    if len(parts) != 2 or not all(parts):
        raise SymbolError(f"{pair!r} is not a pair; write BASE-QUOTE, for example BTC-USD")
    return "-".join(_ASSET_ALIASES.get(part, part) for part in parts)


def pair_with(separator: str, symbol: str) -> str:
    """``BTC-USD`` → ``BTC/USD`` for separator ``/``; a pair in any spelling is taken. Raises SymbolError."""
    return canonical_pair(symbol).replace("-", separator)


def ticker(text: str) -> str:
    """A US equity ticker as users write it → as rows carry it: ``" aapl "`` → ``AAPL``. Raises SymbolError."""
    name = text.strip().upper()
    if not _TICKER.fullmatch(name) or len(name) > SYMBOL_CHARS_MAX:
        raise SymbolError(f"{text[:SYMBOL_CHARS_MAX]!r} is not a ticker; write for example AAPL or BRK.B")
    return name


def binance_canonical(name: str, market: BinanceMarket) -> str:
    """Binance's name → canonical symbol.

    spot    ``BTCUSDT`` → ``BTC-USDT``
    usdm    ``BTCUSDT`` → ``BTC-USDT-PERP``
    coinm   ``BTCUSD_PERP`` → ``BTC-USD-PERP``
    Dated futures (``BTCUSDT_230630``, ``BTCUSD_211231``) and names without a known quote asset stay as they are.
    """
    if market == "coinm":
        base = name.removesuffix(_COIN_PERPETUAL)
        return f"{base}-USD{PERPETUAL}" if base and base != name and "-" not in base else name
    if "_" in name or "-" in name:
        return name
    pair = _split_quote(name)
    if pair is None:
        return name
    return pair + PERPETUAL if market == "usdm" else pair


def binance_name(symbol: str, market: BinanceMarket) -> str:
    """Canonical symbol, or Binance's own name in any case → Binance's name. Raises SymbolError for what is neither."""
    name = symbol.strip().upper()
    if not _TICKER.fullmatch(name) or len(name) > SYMBOL_CHARS_MAX:
        raise SymbolError(f"{symbol[:SYMBOL_CHARS_MAX]!r} is not a Binance symbol; write for example BTC-USDT")
    pair = name.removesuffix(PERPETUAL)
    if market == "spot" and pair != name:
        raise SymbolError(f"{symbol!r} is a perpetual; a spot feed records for example {pair}")
    joined = pair.replace("-", "").replace("/", "")
    if market == "coinm" and "_" not in joined and joined.endswith("USD"):
        return f"{joined}_PERP"
    return joined


def okx_canonical(name: str) -> str:
    """OKX's name → canonical symbol: ``BTC-USDT-SWAP`` → ``BTC-USDT-PERP``; pairs, dated futures and options as is."""
    return name.removesuffix(_OKX_SWAP) + PERPETUAL if name.endswith(_OKX_SWAP) else name


def okx_name(symbol: str) -> str:
    """Canonical symbol, or OKX's own name in any case → OKX's name. Raises SymbolError for what is neither."""
    name = symbol.strip().upper().replace("/", "-")
    if not _OKX_NAME.fullmatch(name) or len(name) > SYMBOL_CHARS_MAX:
        raise SymbolError(f"{symbol[:SYMBOL_CHARS_MAX]!r} is no instrument of OKX; write for example BTC-USDT")
    return name.removesuffix(PERPETUAL) + _OKX_SWAP if name.endswith(PERPETUAL) else name


def bybit_canonical(name: str, market: BybitMarket) -> str:
    """Bybit's name → canonical symbol.

    spot     ``BTCUSDT`` → ``BTC-USDT``
    linear   ``BTCUSDT`` → ``BTC-USDT-PERP``, ``BTCPERP`` → ``BTC-USDC-PERP``
    inverse  ``BTCUSD`` → ``BTC-USD-PERP``
    Options, dated futures and names without a known quote asset stay as they are.
    """
    if market == "linear" and name.endswith("PERP") and len(name) > 4:
        return f"{name[:-4]}-USDC{PERPETUAL}"
    pair = _BYBIT_QUOTE.fullmatch(name)
    if pair is None:
        return name
    return f"{pair[1]}-{pair[2]}" + ("" if market == "spot" else PERPETUAL)


def bybit_name(symbol: str, market: BybitMarket) -> str:
    """Canonical symbol, or Bybit's own name in any case → Bybit's name. Raises SymbolError for what is neither."""
    name = symbol.strip().upper().replace("/", "-")
    if market == "option":
        if not _BYBIT_OPTION.fullmatch(name) or len(name) > SYMBOL_CHARS_MAX:
            raise SymbolError(
                f"{symbol[:SYMBOL_CHARS_MAX]!r} is no option of Bybit; write for example BTC-26SEP25-90000-C"
            )
        return name
    pair = name.removesuffix(PERPETUAL)
    if market == "spot" and pair != name:
        raise SymbolError(f"{symbol!r} is a perpetual; a spot feed records for example {pair}")
    if market == "linear" and pair.endswith("-USDC"):
        pair = pair.removesuffix("-USDC") + "PERP"
    if pair.count("-") == 1 and not _BYBIT_NAME.fullmatch(pair):
        pair = pair.replace("-", "")
    if not _BYBIT_NAME.fullmatch(pair) or len(pair) > SYMBOL_CHARS_MAX:
        raise SymbolError(f"{symbol[:SYMBOL_CHARS_MAX]!r} is no instrument of Bybit; write for example BTC-USDT")
    return pair


def _split_quote(name: str) -> str | None:
    irregular = _BINANCE_IRREGULAR.get(name)
    if irregular is not None:
        return irregular
    for chars in _QUOTE_CHARS:
        if len(name) > chars and name[-chars:] in BINANCE_QUOTE_ASSETS:
            return f"{name[:-chars]}-{name[-chars:]}"
    return None
