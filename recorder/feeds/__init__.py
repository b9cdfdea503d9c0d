"""The registry of providers: a new feed is one file here and one line below. Modules load when first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from recorder.values.errors import ConfigError, nearest
from recorder.values.feed import Feed, FeedSpec, ProviderInfo

_CLASSES = {  # provider, which is the name of its module, → class, or what chooses one by the spec
    "alpaca": "alpaca",
    "alpaca_events": "AlpacaEvents",
    "alphavantage": "Alphavantage",
    "binance": "Binance",
    "bitstamp": "Bitstamp",
    "bybit": "Bybit",
    "cboe": "Cboe",
    "coinbase": "Coinbase",
    "deribit": "Deribit",
    "etrade": "Etrade",
    "fix": "Fix",
    "generic": "Generic",
    "iex": "Iex",
    "kraken": "Kraken",
    "okx": "Okx",
    "polygon": "polygon",
    "yahoo": "yahoo",
}

_HOMES = {"alpaca_events": "actions.alpaca_events"}  # modules that do not lie where their provider's name says

_ACTIONS = {  # provider of corporate actions, which is the name of its module under actions/, → class
    "alpaca": "Alpaca",
    "polygon": "Polygon",
    "yahoo": "Yahoo",
}
ACTIONS = tuple(_ACTIONS)  # the most trusted first: where two tell the same action, the views use that of the first


class _Providers(Mapping[str, ProviderInfo]):
    """Provider → what configuration must know of it."""

    def __getitem__(self, name: str) -> ProviderInfo:
        if name not in _CLASSES:
            raise KeyError(name)
        info: ProviderInfo = import_module(f"recorder.feeds.{_HOMES.get(name, name)}").INFO
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
    if spec.channels == ("actions",) and spec.provider in _ACTIONS:
        asked: Feed = _actions_class(spec.provider)(spec, credentials)
        return asked
    if spec.provider not in _CLASSES:
        raise ConfigError(f"feed {spec.name!r}: provider is {spec.provider!r}; {nearest(spec.provider, _CLASSES)}")
    module = import_module(f"recorder.feeds.{_HOMES.get(spec.provider, spec.provider)}")
    feed: Feed = getattr(module, _CLASSES[spec.provider])(spec, credentials)
    return feed


def actions_info(provider: str) -> ProviderInfo:
    """What configuration must know of a provider of corporate actions, one of ACTIONS."""
    info: ProviderInfo = _actions_class(provider).INFO
    return info


def _actions_class(provider: str) -> Any:
    return getattr(import_module(f"recorder.feeds.actions.{provider}"), _ACTIONS[provider])
