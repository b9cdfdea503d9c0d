"""The registry of providers: a new feed is one file here and one line below. Modules load when first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from recorder.values.errors import ConfigError, nearest
from recorder.values.feed import Feed, FeedSpec, ProviderInfo

_CLASSES = {  # provider, which is the name of its module, → class
    "alpaca": "Alpaca",
    "alphavantage": "Alphavantage",
    "binance": "Binance",
    "bitstamp": "Bitstamp",
    "coinbase": "Coinbase",
    "deribit": "Deribit",
    "etrade": "Etrade",
    "kraken": "Kraken",
    "okx": "Okx",
}


class _Providers(Mapping[str, ProviderInfo]):
    """Provider → what configuration must know of it."""

    def __getitem__(self, name: str) -> ProviderInfo:
        if name not in _CLASSES:
            raise KeyError(name)
        info: ProviderInfo = import_module(f"recorder.feeds.{name}").INFO
        return info

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


PROVIDERS: Mapping[str, ProviderInfo] = _Providers()


def make(spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> Feed:
    """The feed of one connection.

    credentials  values by the names in ``ProviderInfo.credentials``; none are needed to decode
    Raises ConfigError for an unknown provider or an option it does not have, SymbolError for a symbol it cannot have.
    """
    if spec.provider not in _CLASSES:
        raise ConfigError(f"feed {spec.name!r}: provider is {spec.provider!r}; {nearest(spec.provider, _CLASSES)}")
    module = import_module(f"recorder.feeds.{spec.provider}")
    feed: Feed = getattr(module, _CLASSES[spec.provider])(spec, credentials)
    return feed
