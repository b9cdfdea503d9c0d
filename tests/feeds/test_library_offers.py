"""`recorder.provider` of every provider: it has what its capability records say, and says who has what it has not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from test_conformance import symbols_for
from test_providers_table import capabilities

import recorder
from recorder.commands.library import NotOffered
from recorder.feeds import ACTIONS, PROVIDERS
from recorder.values.errors import RecorderError

NAMES = tuple(dict.fromkeys((*PROVIDERS, *ACTIONS)))
RANGE = ("2026-01-05", "2026-01-06")
NOWHERE = "http://192.0.2.1"  # not encrypted, and not of this machine: nothing is ever asked there
KNOWN = {name: capabilities(name) for name in NAMES}


def remembers(channel: str) -> Callable[[str], bool]:
    def offers(name: str) -> bool:
        return any(
            channel in each.history_channels or (each.transport == "poll" and each.history and channel in each.channels)
            for each in KNOWN[name]
        )

    return offers


def comes(channel: str, *transports: str) -> Callable[[str], bool]:
    def offers(name: str) -> bool:
        return any(channel in each.channels and each.transport in transports for each in KNOWN[name])

    return offers


async def nothing(_: Any) -> None:
    raise AssertionError("nobody sends anything")


# What is asked → what it needs, by the records; and how it is asked.
METHODS: dict[str, tuple[Callable[[str], bool], Callable[[Any, str], Awaitable[Any]]]] = {
    "bars": (remembers("bars"), lambda p, symbol: p.get_bars(symbol, *RANGE)),
    "trades": (remembers("trades"), lambda p, symbol: p.get_trades(symbol, *RANGE)),
    "quotes": (remembers("quotes"), lambda p, symbol: p.get_quotes(symbol, *RANGE)),
    "latest quote": (comes("quotes", "poll", "websocket", "sse", "fix"), lambda p, symbol: p.get_latest_quote(symbol)),
    "stream": (comes("trades", "websocket", "sse", "fix"), lambda p, symbol: p.stream_trades([symbol], nothing)),
    "chain": (comes("options", "poll"), lambda p, symbol: p.get_options_chain(symbol)),
    "actions": (lambda name: name in ACTIONS, lambda p, symbol: p.get_corporate_actions([symbol], *RANGE)),
}


async def said(name: str, ask: Callable[[Any, str], Awaitable[Any]]) -> Exception | None:
    """What comes of asking; None while a stream that nobody serves is tried again."""
    keys = dict.fromkeys(PROVIDERS[name].credentials, "not-a-real-value")
    own = {"sender": "A", "target": "B"} if name == "fix" else {}
    url = f"{PROVIDERS[name].schemes[1]}://127.0.0.1:1"
    async with recorder.provider(name, keys=keys, url=url, rest_url=NOWHERE, **own) as provider:
        try:
            async with asyncio.timeout(0.3):
                await ask(provider, symbols_for(name, {}, 1)[0])
        except TimeoutError:
            return None
        except RecorderError as error:
            return error
    raise AssertionError(f"{name} answered from nowhere")


@pytest.mark.parametrize("method", METHODS)
def test_what_a_provider_has_is_asked_for_and_who_has_it_is_said_for_the_others(
    method: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without a login
    offers, ask = METHODS[method]
    have = [name for name in NAMES if offers(name)]
    assert have

    async def everywhere() -> dict[str, Exception | None]:
        answers = await asyncio.gather(*(said(name, ask) for name in NAMES))
        return dict(zip(NAMES, answers, strict=True))

    for name, error in asyncio.run(everywhere()).items():
        if name in have:
            assert not isinstance(error, NotOffered), f"{name}: {error}"
        elif name == "generic" and not isinstance(error, NotOffered):  # what it has is declared
            assert "needs a table" in str(error)
        else:
            assert isinstance(error, NotOffered), f"{name}: {error!r}"
            found = re.fullmatch(rf"{name} [^;]+; (.+) (have|do)", str(error))
            assert found, error
            assert set(found[1].split(", ")) == set(have) - {"generic"}, error
