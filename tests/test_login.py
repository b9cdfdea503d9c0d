"""A login's life: its steps, what ends a token, what renews it, and where it is kept; against a simulated E*TRADE."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import stat
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from recorder.core.oauth1 import NO_TOKEN, Credential
from recorder.feeds import PROVIDERS
from recorder.shell.history_client import HistoryClient
from recorder.shell.login import Login, Session
from recorder.shell.simulator.etrade import Etrade
from recorder.shell.simulator.rest import Answer
from recorder.shell.tokens import TokenStore
from recorder.values.errors import LoginNeeded, RecorderError
from recorder.values.feed import HOUR, MINUTE, SECOND, HttpRequest, HttpResponse
from recorder.values.login import Token

T = TypeVar("T")
KEY, SECRET = "c5bb4dcb7bd6826c7c43", "7d30246211192cda43ed"
HOW = PROVIDERS["etrade"].login
assert HOW is not None
MORNING = int(datetime(2026, 7, 6, 13, 30, tzinfo=UTC).timestamp()) * SECOND  # 09:30 in New York


class Clock:
    def __init__(self) -> None:
        self.ns = MORNING

    def __call__(self) -> int:
        return self.ns

    def wait(self, ns: int) -> None:
        self.ns += ns


class Rig:
    """A provider, a person's login at it, and what signs from then on: all by one clock."""

    def __init__(self, provider: Etrade, clock: Clock, folder: Path) -> None:
        self.provider, self.clock = provider, clock
        self.store = TokenStore(folder / "login" / "etrade-live.token", SECRET, "recorder login etrade")
        self.login = self.login_as(KEY, SECRET)
        self.client = HistoryClient()
        self.session = Session(self.login, self.store, clock)

    def login_as(self, key: str, secret: str) -> Login:
        assert HOW is not None
        return Login(HOW, Credential(key, secret), self.provider.url, self.clock)

    async def log_in(self) -> Token:
        asked = await self.login.request_token()
        token = await self.login.access_token(asked, code_of(self.login.page(asked)))
        self.store.save(token)
        return token

    async def quote(self, path: str = "/v1/market/quote/GOOG.json?detailFlag=ALL") -> HttpResponse:
        return await self.session.get(self.client, HttpRequest(self.provider.url + path, sign="oauth1"))

    async def ended(self) -> str:
        with pytest.raises(LoginNeeded) as caught:
            await self.quote()
        assert str(caught.value).endswith("run `recorder login etrade`")
        return str(caught.value)


def code_of(page: str) -> str:
    """What a person reads on the page."""
    with urllib.request.urlopen(page) as answer:
        found = re.search(r'value="(\w+)"', answer.read().decode())
    assert found
    return found[1]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    clock = Clock()
    with Etrade({KEY: SECRET}, now=clock) as provider:
        provider.market.quote("GOOG", 1175.29, 100, 1175.79, 200)
        made = Rig(provider, clock, tmp_path)
        yield made
        made.session.close()
        made.client.close()


def go(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(work())


def test_after_a_login_signed_requests_are_answered(rig: Rig) -> None:
    async def work() -> None:
        token = await rig.log_in()
        assert token.issued_ns == MORNING
        answer = await rig.quote()
        assert (answer.status, b'"symbol":"GOOG"' in answer.body) == (200, True)
        odd = await rig.quote("/v1/market/quote/GOOG,GOOG.json?detailFlag=ALL&a=%20%2C%C3%A9&b=&a=1")
        assert odd.status == 200
        assert rig.provider.problems == []

    go(work)


def test_a_request_that_is_not_signed_is_refused(rig: Rig) -> None:
    async def work() -> None:
        answer = await rig.client.get(HttpRequest(rig.provider.url + "/v1/market/quote/GOOG.json"))
        assert (answer.status, rig.provider.problems) == (401, ["parameter_absent"])

    go(work)


def test_the_page_a_person_opens_is_the_documented_one() -> None:
    assert HOW is not None
    page = Login(HOW, Credential("key+1", "s")).page(Credential("to/ken=", "s"))
    assert page == "https://us.etrade.com/e/t/etws/authorize?key=key%2B1&token=to%2Fken%3D"


@pytest.mark.parametrize(
    ("key", "secret", "off_ns", "problem"),
    [
        ("another-key", SECRET, 0, "consumer_key_rejected"),
        (KEY, "another-secret", 0, "signature_invalid"),
        (KEY, SECRET, 6 * MINUTE, "timestamp_refused"),
        (KEY, SECRET, -6 * MINUTE, "timestamp_refused"),
    ],
)
def test_a_refused_login_says_what_to_look_at(rig: Rig, key: str, secret: str, off_ns: int, problem: str) -> None:
    assert HOW is not None
    login = Login(HOW, Credential(key, secret), rig.provider.url, lambda: MORNING + off_ns)
    with pytest.raises(RecorderError) as caught:
        go(login.request_token)
    assert f"({problem})" in str(caught.value)
    assert secret not in str(caught.value)
    assert rig.provider.problems == [problem]


def test_a_wrong_code_and_a_late_one_are_refused(rig: Rig) -> None:
    async def work() -> None:
        asked = await rig.login.request_token()
        code_of(rig.login.page(asked))
        with pytest.raises(RecorderError, match="token_rejected"):
            await rig.login.access_token(asked, "WRONG")
        asked = await rig.login.request_token()
        code = code_of(rig.login.page(asked))
        rig.clock.wait(5 * MINUTE + SECOND)
        with pytest.raises(RecorderError, match="token_expired"):
            await rig.login.access_token(asked, code)

    go(work)


def test_a_repeated_nonce_is_refused(rig: Rig) -> None:
    assert HOW is not None
    login = Login(HOW, Credential(KEY, SECRET), rig.provider.url, rig.clock, lambda: "always-the-same")

    async def work() -> None:
        await login.request_token()
        with pytest.raises(RecorderError, match="nonce_used"):
            await login.request_token()

    go(work)


# What ends a token


def test_before_any_login_nobody_is_asked(rig: Rig) -> None:
    assert "nobody has logged in" in go(rig.ended)
    assert rig.provider.asked == rig.provider.problems == []


@pytest.mark.parametrize(
    ("login", "end"),
    [
        (datetime(2026, 7, 6, 13, 30, tzinfo=UTC), datetime(2026, 7, 7, 4, tzinfo=UTC)),  # EDT
        (datetime(2026, 1, 5, 4, 59, 59, tzinfo=UTC), datetime(2026, 1, 5, 5, tzinfo=UTC)),  # EST, a second before
        (datetime(2026, 1, 5, 5, tzinfo=UTC), datetime(2026, 1, 6, 5, tzinfo=UTC)),  # at midnight
        (datetime(2026, 3, 8, 6, tzinfo=UTC), datetime(2026, 3, 9, 4, tzinfo=UTC)),  # a day of 23 hours
    ],
)
def test_a_token_ends_at_the_next_midnight_of_new_york(login: datetime, end: datetime) -> None:
    assert HOW is not None
    assert HOW.ends_ns(int(login.timestamp()) * SECOND) == int(end.timestamp()) * SECOND


def test_after_midnight_it_is_told_once_asked_never_and_a_new_login_goes_on(rig: Rig) -> None:
    async def work() -> None:
        await rig.log_in()
        rig.clock.ns = HOW.ends_ns(MORNING) - SECOND  # type: ignore[union-attr]
        assert (await rig.quote()).status == 200
        rig.clock.wait(SECOND)
        asked, renewed = len(rig.provider.asked), rig.session.renewals
        for _ in range(3):
            assert "ended at midnight" in await rig.ended()
        assert (len(rig.provider.asked), rig.provider.problems, rig.session.renewals) == (asked, [], renewed)
        await rig.log_in()
        assert (await rig.quote()).status == 200

    go(work)


def test_a_server_whose_midnight_is_before_ours_is_believed(rig: Rig) -> None:
    async def work() -> None:
        await rig.log_in()
        await rig.quote()
        ours = rig.clock.ns = HOW.ends_ns(MORNING) - MINUTE  # type: ignore[union-attr]
        rig.provider.now = lambda: ours + 2 * MINUTE
        assert "token_expired" in await rig.ended()
        problems = len(rig.provider.problems)
        await rig.ended()
        assert len(rig.provider.problems) == problems  # nobody was asked again

    go(work)


def test_a_token_is_renewed_before_two_hours_of_idleness_and_nothing_is_refused(rig: Rig) -> None:
    async def work() -> None:
        await rig.log_in()
        for _ in range(3):
            rig.clock.wait(2 * HOUR - MINUTE)
            assert (await rig.quote()).status == 200
        assert (rig.session.renewals, rig.provider.problems) == (3, [])
        rig.clock.wait(30 * MINUTE)
        assert (await rig.quote()).status == 200
        assert rig.session.renewals == 3

    go(work)


def test_a_token_that_slept_is_woken_also_by_a_recorder_that_has_just_started(rig: Rig) -> None:
    async def work() -> None:
        await rig.log_in()
        rig.clock.wait(5 * HOUR)
        assert (await rig.quote()).status == 200
        assert (rig.session.renewals, rig.provider.problems) == (1, [])
        assert rig.store.load().used_ns == rig.clock.ns  # the next start knows

    go(work)


def test_an_idle_rule_that_is_shorter_than_documented_costs_one_refusal_each_time(rig: Rig) -> None:
    async def work() -> None:
        await rig.log_in()
        for token in rig.provider.access.values():
            token.used -= 2 * HOUR + SECOND
        assert (await rig.quote()).status == 200
        assert (rig.session.renewals, rig.provider.problems) == (1, ["token_expired"])

    go(work)


def test_a_revoked_token_is_told_and_not_tried_again(rig: Rig) -> None:
    async def work() -> None:
        await rig.log_in()
        await rig.quote()
        rig.provider.revoke()
        assert "token_rejected" in await rig.ended()
        problems = list(rig.provider.problems)
        assert "token_rejected" in await rig.ended()
        assert rig.provider.problems == problems

    go(work)


def test_renewing_that_has_no_effect_is_not_repeated_for_ever(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider answers that the token is renewed, and refuses it all the same."""
    refused = Answer(401, {"Error": {"message": "oauth_problem=token_expired"}})

    async def work() -> None:
        await rig.log_in()
        rig.provider.failing = [refused] * 5
        assert "token_expired" in await rig.ended()
        await rig.ended()
        assert (len(rig.provider.failing), rig.session.renewals) == (3, 1)

    go(work)


def test_renewing_that_is_not_answered_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(token: Token) -> HttpResponse:
        return HttpResponse(503, {}, b"")

    async def work() -> None:
        await rig.log_in()
        rig.clock.wait(3 * HOUR)
        with monkeypatch.context() as patched:
            patched.setattr(rig.login, "renew", failing)
            with pytest.raises(OSError, match="503"):
                await rig.quote()
        assert (await rig.quote()).status == 200

    go(work)


def test_tasks_that_find_the_token_asleep_renew_it_once(rig: Rig) -> None:
    async def work() -> None:
        await rig.log_in()
        rig.clock.wait(3 * HOUR)
        clients = [HistoryClient() for _ in range(4)]
        request = HttpRequest(rig.provider.url + "/v1/market/quote/GOOG.json", sign="oauth1")
        answers = await asyncio.gather(*(rig.session.get(client, request) for client in clients))
        assert [answer.status for answer in answers] == [200] * 4
        assert (rig.session.renewals, rig.provider.problems) == (1, [])
        for client in clients:
            client.close()

    go(work)


def test_a_refusal_that_no_token_changes_is_handed_on(rig: Rig) -> None:
    async def work() -> None:
        await rig.log_in()
        rig.provider.now = lambda: rig.clock.ns + 10 * MINUTE
        answer = await rig.quote()
        assert (answer.status, b"timestamp_refused" in answer.body) == (401, True)
        rig.provider.now = rig.clock
        assert (await rig.quote()).status == 200

    go(work)


def test_more_than_four_questions_in_a_second_are_too_many(rig: Rig) -> None:
    async def work() -> None:
        await rig.log_in()
        assert [(await rig.quote()).status for _ in range(5)] == [200] * 4 + [429]
        rig.clock.wait(SECOND)
        assert (await rig.quote()).status == 200

    go(work)


def test_a_callback_that_is_not_out_of_band_is_refused(rig: Rig) -> None:
    async def work() -> None:
        url = rig.provider.url + "/oauth/request_token"
        header = rig.login.header(url, NO_TOKEN, [("oauth_callback", "https://example.com")])
        answer = await rig.client.get(HttpRequest(url, secret_headers=(header,)))
        assert (answer.status, rig.provider.problems) == (401, ["parameter_rejected"])

    go(work)


# Where it is kept

TOKEN = Token(key="tok+en/key=", secret="tok+en/secret=", issued_ns=MORNING, used_ns=MORNING + 5)


def store(path: Path, secret: str = SECRET) -> TokenStore:
    return TokenStore(path, secret, "recorder login etrade")


def test_a_token_is_kept_for_its_owner_only_and_not_as_it_is(tmp_path: Path) -> None:
    kept = store(tmp_path / "login" / "x.token")
    before = os.umask(0)
    try:
        kept.save(TOKEN)
    finally:
        os.umask(before)
    assert kept.load() == TOKEN
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in kept.path.parent.iterdir()] == ["x.token"]
    content = kept.path.read_bytes()
    for word in (TOKEN.key, TOKEN.secret, SECRET):
        assert word.encode() not in content
        assert word not in repr(kept.load())


def test_a_token_that_cannot_be_written_whole_leaves_the_one_before(tmp_path: Path) -> None:
    kept = store(tmp_path / "x.token")
    kept.save(TOKEN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # bytes; a token's file has more
    try:
        with pytest.raises(OSError, match="too large"):
            kept.save(msgspec.structs.replace(TOKEN, key="another"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert kept.load() == TOKEN


def test_another_consumer_secret_does_not_open_it_and_neither_do_damaged_bytes(tmp_path: Path) -> None:
    kept = store(tmp_path / "x.token")
    kept.save(TOKEN)
    with pytest.raises(LoginNeeded, match="consumer secret"):
        store(kept.path, "another").load()
    content = kept.path.read_bytes()
    for cut in range(0, len(content), 7):
        for damaged in (content[:cut], content[:cut] + b"?" + content[cut + 1 :]):
            kept.path.write_bytes(damaged)
            with pytest.raises(LoginNeeded):
                kept.load()


def test_the_same_token_never_looks_the_same(tmp_path: Path) -> None:
    kept = store(tmp_path / "x.token")
    kept.save(TOKEN)
    first, stamp = kept.path.read_bytes(), kept.stamp()
    kept.save(TOKEN)
    assert kept.path.read_bytes() != first
    assert kept.stamp() != stamp


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.token"
    path.mkdir()
    with pytest.raises(LoginNeeded, match=re.escape(str(path))):
        store(path).load()
