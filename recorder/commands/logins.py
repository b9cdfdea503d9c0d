"""Which login a feed needs, and where it is kept: what ``login``, ``run`` and ``check`` share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from recorder.core.oauth1 import Credential
from recorder.feeds import PROVIDERS
from recorder.shell.login import Login, Session
from recorder.shell.tokens import TokenStore
from recorder.values.config import Config
from recorder.values.errors import LoginNeeded
from recorder.values.feed import SECOND, FeedSpec
from recorder.values.login import OAuth1

ENVIRONMENT = "environment"  # the option of a provider that has a sandbox
LIVE, SANDBOX = "live", "sandbox"


def environment_of(spec: FeedSpec) -> str:
    return spec.options.get(ENVIRONMENT, LIVE)


def store_of(spec: FeedSpec, keys: Mapping[str, str], folder: Path) -> TokenStore:
    """Where the feed's token is. ``keys``: the provider's credentials, the last of which is the consumer secret."""
    environment = environment_of(spec)
    command = f"recorder login {spec.provider}" + (" --sandbox" if environment == SANDBOX else "")
    secret = keys[PROVIDERS[spec.provider].credentials[-1]]
    return TokenStore(folder / f"{spec.provider}-{environment}.token", secret, command)


def login_of(how: OAuth1, spec: FeedSpec, keys: Mapping[str, str]) -> Login:
    """The steps of the feed's login, at its ``rest_url`` if it has one."""
    key, secret = (keys[name] for name in PROVIDERS[spec.provider].credentials)
    return Login(how, Credential(key, secret), spec.rest_url.rstrip("/") if spec.rest_url else None)


def session_of(spec: FeedSpec, keys: Mapping[str, str], folder: Path) -> Session | None:
    """What signs the feed's requests; None where nobody has to log in."""
    how = PROVIDERS[spec.provider].login
    return None if how is None else Session(login_of(how, spec, keys), store_of(spec, keys, folder))


def when(ns: int, zone: str) -> str:
    """``Tue 2026-11-24 00:00 EST``"""
    return f"{datetime.fromtimestamp(ns // SECOND, ZoneInfo(zone)):%a %Y-%m-%d %H:%M %Z}"


def state(spec: FeedSpec, keys: Mapping[str, str], config: Config) -> tuple[bool, str]:
    """Whether the feed's login would do now, and that in words."""
    how = PROVIDERS[spec.provider].login
    assert how is not None
    store = store_of(spec, keys, config.login.dir)
    try:
        ends_ns = how.ends_ns(store.load().issued_ns)
    except LoginNeeded as error:
        return False, str(error)
    if time.time_ns() < ends_ns:
        return True, f"good until {when(ends_ns, how.zone)}"
    return False, f"ended {when(ends_ns, how.zone)}; run `{store.command}`"
