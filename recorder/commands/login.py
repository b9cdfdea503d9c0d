"""``recorder login PROVIDER``: walks a person through the login that a provider asks for."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from typing import Any

from recorder.commands.logins import ENVIRONMENT, LIVE, SANDBOX, environment_of, login_of, store_of, when
from recorder.feeds import PROVIDERS
from recorder.shell import log
from recorder.shell.login import Login
from recorder.shell.tokens import TokenStore
from recorder.values.config import Config, credentials
from recorder.values.errors import ConfigError, RecorderError
from recorder.values.feed import SECOND, FeedSpec
from recorder.values.login import OAuth1

CODE_CHARS_MAX = 64  # a code has five
TRIES = 3  # at typing it


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("login", help="log in at a provider that asks a person to: etrade, each day")
    parser.add_argument("provider", help="which: etrade")
    parser.add_argument("--sandbox", action="store_true", help="at its sandbox, which has keys of its own")
    parser.add_argument("--end", action="store_true", help="end the login instead, there and here")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config) -> int:
    info = PROVIDERS.get(args.provider)
    if info is None or info.login is None:
        known = ", ".join(name for name, each in PROVIDERS.items() if each.login is not None)
        raise ConfigError(f"nobody has to log in at {args.provider!r}; known: {known}")
    keys = credentials(info, os.environ)
    missing = [name for name in info.credentials if name not in keys]
    if missing:
        raise ConfigError(f"set {' and '.join(missing)} in the environment; {info.login.title} gives them to you")
    for value in keys.values():
        log.redact(value)
    spec = spec_of(config, info.name, args.sandbox)
    login, store = login_of(info.login, spec, keys), store_of(spec, keys, config.login.dir)
    try:
        work = _end(login, store) if args.end else _log_in(login, store, info.login)
        return asyncio.run(work)
    except OSError as error:
        raise RecorderError(f"{login.base}: {str(error) or type(error).__name__}") from error
    finally:
        login.close()


def spec_of(config: Config, provider: str, sandbox: bool) -> FeedSpec:
    """The configured feed that this login is for; one as by default where there is none."""
    environment = SANDBOX if sandbox else LIVE
    found = [spec for spec in config.feeds if spec.provider == provider and environment_of(spec) == environment]
    return found[0] if found else FeedSpec(name=provider, provider=provider, options={ENVIRONMENT: environment})


async def _log_in(login: Login, store: TokenStore, how: OAuth1) -> int:
    asked = await login.request_token()
    print(f"Log in at {how.title} on this page, and accept:\n\n  {login.page(asked)}\n")
    print(f"It shows a code then, which is good for {how.code_ns // (60 * SECOND)} minutes.")
    token = await login.access_token(asked, _code())
    store.save(token)
    print(f"Logged in. The token is in {store.path}, encrypted; a recorder that runs uses it at once.")
    print(f"It is good until {when(how.ends_ns(token.issued_ns), how.zone)}: log in again after that.")
    return 0


def _code() -> str:
    for _ in range(TRIES):
        print("Code: ", end="", flush=True)
        line = sys.stdin.readline(CODE_CHARS_MAX + 2)
        code = line.strip()
        if re.fullmatch(rf"\w{{1,{CODE_CHARS_MAX}}}", code):
            return code
        if not line:
            break
        print("That is no code: it has letters and digits only.", file=sys.stderr)
    raise RecorderError("no code was given; nothing has changed")


async def _end(login: Login, store: TokenStore) -> int:
    answer = await login.revoke(store.load())
    store.remove()
    print(f"The login is ended: {login.how.title} answered {answer.status}, {store.path} is removed.")
    return 0
