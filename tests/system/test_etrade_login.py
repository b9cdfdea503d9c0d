"""E*TRADE as a user meets it: a person's login by the command line, recording, the end of the login, the next one."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from conftest import QuestDB
from exchange_process import Exchange
from recorder_process import REPO, Recorder, command, environment, external, until, write_config
from stepping_clock import Clock

from recorder.feeds import PROVIDERS
from recorder.shell.simulator.etrade import Etrade
from recorder.shell.simulator.etrade_pages import Contract, Instrument
from recorder.values.feed import SECOND

KEY, SECRET = "c5bb4dcb7bd6826c7c4340df3f791188", "7d30246211192cda43ede3abd9b393b9"
KEYS = {"ETRADE_CONSUMER_KEY": KEY, "ETRADE_CONSUMER_SECRET": SECRET}
NAMES = ("GOOG", "IBM")
EXPIRY = date(2027, 1, 15)
GREEKS = {"rho": 0.001, "vega": 0.0086, "theta": -0.002, "delta": 0.0049, "gamma": 0.0008, "iv": 0.3145}


class Home:
    """A user's folder, a provider, and one clock for both."""

    def __init__(self, folder: Path, port: int, questdb: QuestDB) -> None:
        self.folder, self.port, self.questdb = folder, port, questdb
        self.clock = Clock(folder / "clock")
        self.offset_ns = 0
        self.provider = Etrade({KEY: SECRET}, now=lambda: time.time_ns() + self.offset_ns)
        market = self.provider.market
        for name in NAMES:
            market.quote(name, 100.0, 1, 101.0, 2)
            market.trade(name, 100.5, 1000)
        at = Instrument(bid=1.0, bid_size=3, ask=1.2, ask_size=4, last=1.1, volume=7)
        market.chains["IBM"] = {EXPIRY: [Contract(100.0, kind, at, 10, GREEKS) for kind in ("CALL", "PUT")]}

    def configure(self, feeds: dict[str, dict[str, Any]]) -> Path:
        common = {"provider": "etrade", "rest_url": self.provider.url, "interval": "1s"}
        every = {
            name: {**common, **settings} if "provider" not in settings else settings for name, settings in feeds.items()
        }
        return write_config(self.folder, every, self.port, questdb=external(self.questdb.sql_url))

    def step_to(self, offset_ns: int) -> None:
        self.offset_ns = offset_ns
        self.clock.step_to(offset_ns)

    @contextmanager
    def login(self, config: Path, *arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
        program = [*self.clock.program, "--config", str(config), "login", "etrade", *arguments]
        process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPO,
            env=environment(**{**KEYS, **env}),
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def log_in(self, config: Path) -> str:
        """As a person does it: open the page that is printed, read the code, type it. Returns all that was printed."""
        with self.login(config) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            printed = ""
            while not (found := re.search(r"https?://\S+", printed)):
                line = process.stdout.readline()
                assert line, printed
                printed += line
            with urllib.request.urlopen(found[0]) as answer:
                code = re.search(r'value="(\w+)"', answer.read().decode())
            assert code
            rest, _ = process.communicate(f"{code[1]}\n", timeout=60)
            assert process.returncode == 0, printed + rest
            return printed + rest


@pytest.fixture
def home(tmp_path: Path, free_port: Callable[[], int], questdb: QuestDB) -> Iterator[Home]:
    made = Home(tmp_path, free_port(), questdb)
    with made.provider:
        yield made


def stored(home: Home, table: str, feed: str, columns: str) -> list[tuple[Any, ...]]:
    query = f"SELECT {columns} FROM {table} WHERE feed = '{feed}' ORDER BY ts_event, symbol"
    return [tuple(row) for row in home.questdb.sql.query(query).rows]


def test_what_is_asked_after_a_login_can_be_queried_until_midnight_and_again_after_the_next(home: Home) -> None:
    login = PROVIDERS["etrade"].login
    assert login is not None
    with Exchange(["coinbase"], symbols={"coinbase": ["BTC-USD"]}, rate=100) as exchange:
        feeds = {
            "et": {"channels": ["trades", "quotes"], "symbols": list(NAMES)},
            "et-chain": {"channels": ["options"], "symbols": ["IBM"], "chain_interval": "1m"},
            "et-other": {"provider": "coinbase", "url": exchange.urls["coinbase"], "symbols": ["BTC-USD"]},
        }
        config = home.configure(feeds)
        with Recorder(config, metrics_port=home.port, program=home.clock.program, **KEYS) as recorder:
            # Nobody has logged in: the other feed is recorded all the same.
            [event] = recorder.wait_event("login.needed", feed="et")
            assert "run `recorder login etrade`" in event["reason"]
            until(lambda: recorder.metric("recorder_frames_total", "et-other") > 50)
            assert home.provider.problems == home.provider.asked == []

            printed = home.log_in(config)
            assert "good until" in printed
            token = home.folder / "login" / "etrade-live.token"
            assert str(token) in printed
            assert stat.S_IMODE(os.stat(token).st_mode) == 0o600

            until(lambda: len(stored(home, "quotes", "et", "symbol")) == 2, "quotes")
            home.provider.market.quote("GOOG", 102.0, 5, 103.0, 6)
            home.provider.market.trade("GOOG", 102.5, 250)
            until(lambda: stored(home, "trades", "et", "symbol"), "a trade")
            until(lambda: len(stored(home, "options_chain", "et-chain", "symbol")) >= 2, "a chain")
            assert stored(home, "trades", "et", "symbol, price, size, trade_id, conditions, flags") == [
                ("GOOG", 102.5, 250.0, 1250, "synthetic", 0)
            ]
            until(lambda: len(stored(home, "quotes", "et", "symbol")) == 3, "the other quote")
            quotes = stored(home, "quotes", "et", "symbol, bid, bid_size, ask, ask_size, conditions")
            assert sorted(quotes) == [
                ("GOOG", 100.0, 1.0, 101.0, 2.0, "REALTIME"), ("GOOG", 102.0, 5.0, 103.0, 6.0, "REALTIME"),
                ("IBM", 100.0, 1.0, 101.0, 2.0, "REALTIME"),
            ]  # fmt: skip
            legs = stored(
                home, "options_chain", "et-chain", "symbol, underlying, strike, bid, iv, delta, greeks_source"
            )
            assert sorted(legs)[:2] == [
                (f"IBM   270115{kind}00100000", "IBM", 100.0, 1.0, 0.3145, 0.0049, "provider") for kind in "CP"
            ]
            assert home.provider.problems == []

            # Midnight in New York: asked no more, told, and the other feed goes on.
            now = time.time_ns()
            home.step_to(login.ends_ns(now) - now + 5 * SECOND)
            recorder.wait_event("login.needed", count=2, feed="et")
            asked, frames = len(home.provider.asked), recorder.metric("recorder_frames_total", "et-other")
            until(lambda: recorder.metric("recorder_frames_total", "et-other") > frames + 100, "the other feed")
            assert len(home.provider.asked) == asked
            status, health = recorder.get("/health")
            assert (status, "recorder login etrade" in health) == (503, True)

            home.log_in(config)
            until(lambda: len(home.provider.asked) > asked + 2, "questions after the next login")
            recorder.wait_event("poll.resumed", count=2, feed="et")

            # Ended elsewhere.
            home.provider.revoke()
            recorder.wait_event("login.needed", count=3, feed="et")
            refused = len(home.provider.problems)
            home.log_in(config)
            recorder.wait_event("poll.resumed", count=3, feed="et")
            assert len(home.provider.problems) <= refused + 2  # each feed was refused at most once, and its renewal
            assert recorder.end() == 0
            text = recorder.text()
        log = (home.folder / "log" / "recorder.log").read_text()
        for key, each in home.provider.access.items():
            for word in (key, each.secret, SECRET):
                assert word not in text + log + printed
        journal = b"".join(path.read_bytes() for path in (home.folder / "journal").iterdir() if path.is_file())
        assert SECRET.encode() not in journal
        assert b"oauth_" not in journal


def test_a_login_says_what_is_wrong_with_it(home: Home) -> None:
    config = home.configure({"et": {"symbols": ["GOOG"]}})

    def said(*arguments: str, typed: str = "", **env: str) -> tuple[int, str]:
        with home.login(config, *arguments, **env) as process:
            printed, _ = process.communicate(typed, timeout=60)
            return process.returncode, printed

    code, printed = said(typed="not a code\n\n")
    assert (code, "no code was given" in printed, printed.count("no code:")) == (1, True, 2)
    assert "token_rejected" in said(typed="WRONG\n")[1]
    code, printed = said(ETRADE_CONSUMER_SECRET="mistyped-secret")
    assert (code, "signature_invalid" in printed, "mistyped-secret" in printed) == (1, True, False)
    code, printed = said(ETRADE_CONSUMER_SECRET="")
    assert (code, "set ETRADE_CONSUMER_SECRET" in printed) == (2, True)
    assert not (home.folder / "login").exists()

    home.log_in(config)
    code, printed = said("--end")
    assert (code, "ended" in printed, list((home.folder / "login").iterdir())) == (0, True, [])
    assert all(token.revoked for token in home.provider.access.values())
    code, printed = said("--end")
    assert (code, "nobody has logged in" in printed) == (1, True)


def test_only_providers_that_ask_for_a_login_have_one() -> None:
    done = subprocess.run(
        command("login", "coinbase"),
        env=environment(),
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "known: etrade" in done.stderr) == (2, True)
