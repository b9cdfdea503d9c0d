"""The repairer against a real HTTP server and a real journal: what it asks, how it takes no for an answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from market_of_gaps import LAG, START, STEP, Fold, StandIn, Trade, trade
from plain_server import Reply, serving

from recorder.commands.feed_runs import FeedRuns
from recorder.core.frames import CLOSED, OPENED, RESPONSE, TEXT
from recorder.core.gaps import UNVERIFIED
from recorder.shell import history_client, repair
from recorder.shell.history_client import HistoryClient, retry_after_s
from recorder.shell.journal import Journal
from recorder.shell.pace import Pace
from recorder.shell.poller import Poller
from recorder.shell.repair import Repairer
from recorder.values.config import Config, RepairConfig
from recorder.values.errors import ConfigError, FrameError, JournalFull
from recorder.values.feed import FeedSpec, HistoryRequest, HttpRequest, HttpResponse, Poll

SECRET = "s3cret-of-the-test"
WAIT_S = 30.0


def quote(number: int, symbol: str = "A") -> Trade:
    return Trade(symbol, number, START + number * STEP, quote=True)


@dataclass
class Server:
    """A history whose next answers may be set; after them it answers what is asked for, two trades a page."""

    unknown: set[int] = field(default_factory=set)  # ids it does not have
    replies: list[Reply] = field(default_factory=list)
    asked: list[tuple[float, str, str]] = field(default_factory=list)  # when, path with query, key
    quotes: threading.Event = field(default_factory=threading.Event)  # until it is set nobody is told any
    url: str = ""

    def answer(self, path: str, key: str) -> Reply:
        self.asked.append((time.monotonic(), path, key))
        if self.replies:
            return self.replies.pop(0)
        make = quote if "quotes=1" in path else trade
        if make is quote:
            assert self.quotes.wait(WAIT_S)
        query: dict[str, Any] = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        if make is quote:  # asked by time
            query |= {name: (int(query[name]) - START) // STEP for name in ("from", "to")}
        symbol, query = query["symbol"], {name: int(text) for name, text in query.items() if name != "symbol"}
        ids = [n for n in range(query["from"], query["to"] + 1) if n not in self.unknown]
        page, place = query["page"], 2 * query["page"]
        more = {"Next": str(page + 1)} if len(ids) > place + 2 else {}
        return 200, more, msgspec.json.encode([make(n, symbol) for n in ids[place : place + 2]])


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    with serving(lambda path, headers: state.answer(path, headers.get("x-key", ""))) as state.url:
        yield state


class Told:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def _note(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    info = warning = error = _note

    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


class Recording:
    """A journal and the fold of it, as an engine drives it."""

    def __init__(self, journal: Journal, url: str) -> None:
        self.journal, self.fold, self.told = journal, Fold(), Told()
        self.pipeline = self.fold.pipeline
        self.pipeline.position = 0
        self.spec = FeedSpec(name="f", provider="test", rest_url=url)
        self.source = journal.source(self.spec)

    def wake(self) -> None:
        while (frames := self.journal.read(self.pipeline.position)) is not None:
            self.pipeline.consume(frames)
        self.fold.seal()

    def stream(self, *trades: Trade) -> None:
        for each in trades:
            self.journal.append(self.source, TEXT, each.ts + LAG, msgspec.json.encode([each]))
        self.wake()

    def ids(self) -> list[int]:
        return sorted(number for _, number in self.fold.trades)

    def outcome(self) -> list[tuple[str | None, int, str]]:
        return [(gap.status, gap.recovered, gap.cause) for gap in self.fold.of_series()]

    def repair(
        self,
        until: Callable[[], bool] | None = None,
        pace: Callable[[str], Pace] | None = None,
        poller: Poller | None = None,
        **settings: Any,
    ) -> Repairer:
        """Run a repairer until no gap is open, or as asked; a poller beside it."""

        async def run() -> Repairer:
            config = RepairConfig(**{"delay_s": 0.0, **settings})
            feeds = {"f": (self.spec, StandIn(self.spec))}
            repairer = Repairer(config, self.journal, self, lambda: feeds, self.told, lambda: 0.5, pace)
            task = asyncio.create_task(repairer.run())
            polling = None if poller is None else asyncio.create_task(poller.run())
            deadline = time.monotonic() + WAIT_S
            while not (until() if until is not None else not self.fold.book.open):
                assert time.monotonic() < deadline, self.outcome()
                await asyncio.sleep(0.005)
            await repairer.stop()
            if poller is not None and polling is not None:
                await poller.stop()
                await polling
            await asyncio.wait_for(task, WAIT_S)  # it ends by itself: nothing more is asked while recording drains
            return repairer

        return asyncio.run(run())

    def answers(self) -> list[bytes]:
        found, position = [], self.journal.begin
        while (frames := self.journal.read(position)) is not None:
            position = frames.end
            found += [frames.payload(i) for i in range(frames.count) if frames.kinds[i] == RESPONSE]
        return found


@pytest.fixture
def recording(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recording]:
    monkeypatch.setattr(repair, "LOOK_S", 0.01)
    monkeypatch.setattr(repair, "RETRY_FIRST_S", 0.01)
    with Journal.open(tmp_path / "journal") as journal:
        yield Recording(journal, server.url)


def test_pages_are_asked_for_until_nothing_is_missing_and_secrets_stay_out_of_the_journal(
    recording: Recording, server: Server
) -> None:
    recording.stream(trade(1), trade(7), trade(9))
    repairer = recording.repair()
    assert recording.ids() == list(range(1, 10))
    assert recording.outcome() == [("repaired", n, "ids missing in the stream") for n in (5, 1)]
    assert [key for _, _, key in server.asked] == [SECRET] * 4  # ids 2 to 8 in pages of two: both gaps at once
    assert repairer.requests == {("f", 200): 4}
    assert len(recording.answers()) == 4
    assert not [payload for payload in recording.answers() if SECRET.encode() in payload]
    assert recording.told.events() == ["gap.opened", "gap.repaired"]


@pytest.mark.parametrize("status", [429, 418])
def test_a_provider_that_asks_for_a_pause_gets_it_and_it_is_no_failed_try(
    recording: Recording, server: Server, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_client, "BANNED_S", {418: 1.0})
    server.replies = [(status, {"Retry-After": "1" if status == 429 else "0"}, b"")]
    recording.stream(trade(1), trade(3))
    recording.repair(attempts=1)
    (refused, *_), (again, *_) = server.asked
    assert again - refused >= 1.0
    assert recording.outcome() == [("repaired", 1, "ids missing in the stream")]


def test_words_for_too_much_with_status_200_are_a_pause_and_no_failed_try(
    recording: Recording, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = StandIn.capability
    monkeypatch.setattr(
        StandIn, "capability", lambda self: msgspec.structs.replace(usual(self), limited_by=(b"visits!",))
    )
    server.replies = [(200, {"Retry-After": "1"}, b"sorry, too many visits!")]
    recording.stream(trade(1), trade(3))
    recording.repair(attempts=1)
    times = [at for at, _, _ in server.asked]
    assert times[1] - times[0] >= 1.0
    assert recording.outcome() == [("repaired", 1, "ids missing in the stream")]
    assert recording.told.events().count("history.limited") == 1


def test_a_provider_that_is_down_is_asked_again(recording: Recording, server: Server) -> None:
    passing = (503, 500, 408, 499, 413)
    server.replies = [(status, {}, b"down") for status in passing]
    recording.stream(trade(1), trade(3))
    repairer = recording.repair(attempts=6)
    assert repairer.requests == {**dict.fromkeys((("f", status) for status in passing), 1), ("f", 200): 1}
    assert recording.outcome() == [("repaired", 1, "ids missing in the stream")]


def test_a_try_that_brought_something_starts_the_count_of_tries_over(recording: Recording, server: Server) -> None:
    """The provider is down once after each first page, seven times in all; two tries in a row are allowed."""
    usual, down = server.answer, iter(range(1, 100))

    def answer(path: str, key: str) -> Reply:
        return (503, {}, b"") if "page=0" not in path and next(down) % 2 else usual(path, key)

    server.answer = answer  # type: ignore[method-assign]
    recording.stream(trade(1), trade(13))
    recording.repair(attempts=2)
    assert recording.outcome() == [("repaired", 11, "ids missing in the stream")]


def test_a_history_without_end_is_given_up_as_partial_and_not_taken_for_complete(
    recording: Recording, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "PAGES_MAX", 3)
    monkeypatch.setattr(StandIn, "PAGES_MAX", 3)
    server.quotes.set()
    interrupted(recording)
    recording.repair()
    (gap,) = [gap for gap in recording.fold.of_series() if gap.channel == "quotes"]
    assert (gap.status, gap.recovered) == ("partial", 5)
    assert gap.cause.endswith("; it has more than 3 pages of history")


def test_nothing_is_asked_while_answers_cannot_be_journalled(
    recording: Recording, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "FULL_S", 0.3)
    recording.stream(trade(1), trade(3))
    append, refused = recording.journal.append, []

    def full(*frame: Any) -> int:
        if len(refused) < 2:
            refused.append(time.monotonic())
            raise JournalFull("no room")
        return append(*frame)

    monkeypatch.setattr(recording.journal, "append", full)
    recording.repair()
    assert recording.outcome() == [("repaired", 1, "ids missing in the stream")]
    assert refused[1] - refused[0] >= 0.3
    assert len(server.asked) == 3


def test_a_refusal_is_told_once_however_many_gaps_it_ends(recording: Recording, server: Server) -> None:
    server.replies = [(403, {}, b"no such plan")] * 3
    recording.stream(*(trade(number, symbol) for symbol in "ABC" for number in (1, 3)))
    recording.repair()
    assert [gap.status for gap in recording.fold.of_series()] == ["unrepairable"] * 3
    assert recording.told.events().count("history.refused") == 1


def test_a_refusal_ends_the_gap_with_its_status_and_is_told_without_the_secret(
    recording: Recording, server: Server
) -> None:
    server.replies = [(403, {}, f"no such plan for {SECRET}".encode())]
    recording.stream(trade(1), trade(3))
    recording.repair()
    assert recording.outcome() == [("unrepairable", 0, "ids missing in the stream; HTTP 403")]
    (refused,) = [fields for event, fields in recording.told.lines if event == "history.refused"]
    assert refused["reason"] == "no such plan for …"
    assert b'"reason":"HTTP 403"' in recording.answers()[-1]


def test_an_error_with_status_200_is_kept_and_the_gap_ends_with_its_words(
    recording: Recording, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def history(self: StandIn, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        answer = yield HttpRequest(f"{server.url}/history")
        raise FrameError(answer.body.decode())

    monkeypatch.setattr(StandIn, "history", history)
    server.replies = [(200, {}, b"sorry: 51001 no such instrument")] * 2
    recording.stream(trade(1), trade(3))
    recording.repair(attempts=2)
    cause = "ids missing in the stream; sorry: 51001 no such instrument"
    assert recording.outcome() == [("unrepairable", 0, cause)]
    assert [payload.partition(b"\n")[2] for payload in recording.answers()] == [
        b"sorry: 51001 no such instrument", b"sorry: 51001 no such instrument", b"",
    ]  # fmt: skip


def test_what_history_does_not_have_is_given_up_after_the_configured_tries(
    recording: Recording, server: Server
) -> None:
    server.unknown = {3, 4}
    recording.stream(trade(1), trade(6))
    recording.repair(attempts=2)
    assert recording.outcome() == [("partial", 2, "ids missing in the stream; not in the provider's history")]
    assert recording.ids() == [1, 2, 5, 6]
    queries = [parse_qs(urlsplit(path).query) for _, path, _ in server.asked]
    assert [(q["from"], q["to"]) for q in queries] == [(["2"], ["5"]), (["3"], ["4"])]  # only what is still missing


def interrupted(recording: Recording) -> None:
    """Quotes 2 to 8 were sent while nobody listened, and trades 2 to 4 of another symbol were lost."""
    for kind, ts in ((OPENED, START), (CLOSED, START + 2 * STEP), (OPENED, START + 8 * STEP)):
        recording.journal.append(recording.source, kind, ts, b"")
        recording.stream(*([quote(1)] if ts == START else []))
    recording.stream(quote(9), trade(1, "B"), trade(5, "B"))


def test_quotes_are_fetched_by_time_and_trades_do_not_wait_for_them(recording: Recording, server: Server) -> None:
    interrupted(recording)

    def repaired() -> bool:
        open_ones = [gap.channel for gap in recording.fold.book.open.values()]
        if open_ones == ["quotes"]:
            server.quotes.set()
        return not open_ones

    repairer = recording.repair(repaired)
    assert sorted(number for _, number in recording.fold.quotes) == list(range(1, 10))
    assert {len(copies) for copies in recording.fold.quotes.values()} == {1}
    outcome = {gap.channel: (gap.status, gap.recovered, gap.cause) for gap in recording.fold.of_series()}
    assert outcome["trades"] == ("repaired", 3, "ids missing in the stream")
    assert outcome["quotes"] == ("repaired", 7, f"connection lost; {UNVERIFIED}")
    assert repairer.requests == {("f", 200): 2 + 5}  # 9 quotes, those of the edges again


@pytest.mark.parametrize(("limit_s", "status"), [(0.0061, "repaired"), (0.006, "unrepairable"), (0.0, "unrepairable")])
def test_quotes_of_an_outage_longer_than_configured_are_given_up_unasked(
    recording: Recording, server: Server, limit_s: float, status: str
) -> None:
    server.quotes.set()
    interrupted(recording)
    recording.repair(quotes_s_max=limit_s)
    (gap,) = [gap for gap in recording.fold.of_series() if gap.channel == "quotes"]
    assert gap.status == status
    assert any("quotes=1" in path for _, path, _ in server.asked) == (status == "repaired")
    assert (f"[repair] quotes_s_max = {limit_s:g}" in gap.cause) == (status != "repaired")


def test_a_repairer_that_was_stopped_asks_no_more(recording: Recording, server: Server) -> None:
    recording.stream(trade(1), trade(10))
    recording.repair(lambda: True)
    assert server.asked == []
    assert [gap.status for gap in recording.fold.of_series()] == ["open"]


def test_nobody_is_asked_twice_as_fast_as_the_provider_allows(
    recording: Recording, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = StandIn.capability
    monkeypatch.setattr(
        StandIn, "capability", lambda self: msgspec.structs.replace(usual(self), rest_per_second_max=4.0)
    )
    recording.stream(trade(1), trade(10), trade(1, "B"), trade(5, "B"))
    recording.repair()
    times = [at for at, _, _ in server.asked]
    assert len(times) == 6
    assert times[-1] - times[0] > 0.8  # five pauses of 0.25 s, of which the first may look shorter on a busy machine


class AskedToo(StandIn):
    """As asked every 20 ms besides."""

    def polls(self) -> tuple[Poll, ...]:
        def ask() -> Generator[HttpRequest, HttpResponse, None]:
            yield HttpRequest(f"{self.spec.rest_url}/polled?symbol=A&from=1&to=1&page=0")

        return (Poll("often", 20_000_000, ask),)


def test_repair_and_polls_of_a_provider_together_are_no_faster_than_it_allows(
    recording: Recording, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = StandIn.capability
    monkeypatch.setattr(
        StandIn, "capability", lambda self: msgspec.structs.replace(usual(self), rest_per_second_max=20.0)
    )
    pace = FeedRuns(SimpleNamespace(log=None, config=Config()), None, {}).pace  # type: ignore[arg-type]
    recording.stream(trade(1), trade(15))
    spec = msgspec.structs.replace(recording.spec, name="polls")
    poller = Poller(spec, recording.journal, recording.wake, recording.told, AskedToo, pace("test"))  # type: ignore[arg-type]

    def both() -> bool:
        return not recording.fold.book.open and sum("/polled" in path for _, path, _ in server.asked) >= 7

    recording.repair(both, pace, poller)
    times = [at for at, _, _ in server.asked]
    assert sum("/history" in path for _, path, _ in server.asked) == 7  # 13 trades, two a page
    assert times[-1] - times[0] > (len(times) - 1) / 20.0 - 0.04
    assert all(times[i + 4] - times[i] > 0.2 - 0.1 for i in range(len(times) - 4)), "told late where asked in time"


def test_with_repair_off_gaps_stay_open_and_are_told(recording: Recording, server: Server) -> None:
    recording.stream(trade(1), trade(3))
    recording.repair(until=lambda: bool(recording.told.lines), enabled=False)
    assert recording.told.lines == [("gap.opened", {"feed": "f", "gaps": 1, "missing": 1})]
    assert server.asked == []
    assert recording.outcome() == [("open", 0, "ids missing in the stream")]


def test_what_is_not_encrypted_is_asked_on_this_machine_only() -> None:
    with pytest.raises(ConfigError, match="not encrypted"):
        asyncio.run(HistoryClient().get(HttpRequest("http://203.0.113.1/history")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", 7.0), ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0), ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0), ("soon", None)],
)
def test_retry_after_is_seconds_or_a_date(text: str, expected: float | None) -> None:
    assert retry_after_s({"retry-after": text}, 1_445_412_480.0) == expected
