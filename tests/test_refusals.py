"""The table in ``refusals``, held over real sockets, journal and pipeline: what a provider refuses, says or does is
told in its words and acted on, what it does not concern goes on, no trade that was sent is lost or doubled."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from refusals import GOES_ON, GONE, LIVE, OPENING, PROVIDERS, Row
from test_connection import MILLISECOND, Told, payloads, reached
from test_overlap import folded

from recorder.core import session as sessions
from recorder.core.frames import CLOSED, SENT, TEXT
from recorder.core.gate import Gate
from recorder.feeds import make
from recorder.shell import link as links
from recorder.shell import overlap
from recorder.shell.connection import Connection
from recorder.shell.journal import Journal
from recorder.shell.simulator import Simulator, server
from recorder.values.feed import SECOND, FeedSpec
from recorder.values.schema import Table
from recorder.values.tables import BACKFILLED, FEED_EVENTS

HASTE = 1000  # how many times shorter every wait is than what was decided
SOME_CHANNEL = ("deribit", "polygon options")  # a symbol that is told may have been refused in one channel only
KEYS = {"APCA_API_KEY_ID": "PK", "APCA_API_SECRET_KEY": "very-secret-0123", "POLYGON_API_KEY": "very-secret-4567"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "HEALTHY_NS", 0)  # whatever was ready once counts as healthy
    monkeypatch.setattr(links, "TIMER_S", 0.02)
    monkeypatch.setattr(overlap, "OVERLAP_S", 0.05)
    monkeypatch.setattr(server, "SETTLE_S", 0.01)


class Heard(Told):
    """Remembers what goes into the tables as well: (table, event or check, words)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, str, str]] = []

    def observe(self, table: Table, rows: Any) -> None:
        event, words = (3, 4) if table is FEED_EVENTS else (3, 7)
        self.rows += [(table.name, row[event], str(row[words])) for row in rows]


class HastyGate(Gate):
    def refused(self, now: int, status: int, retry_after_ns: int | None) -> int:
        wait_ns = super().refused(now, status, retry_after_ns)
        self.held_until = now + wait_ns // HASTE
        return wait_ns


class Hasty(Connection):
    """Remembers how long it is to wait between connections, and waits HASTE times less."""

    async def _once(self) -> int:
        wait_ns = await super()._once()
        self.waits = [*getattr(self, "waits", ()), wait_ns / SECOND]
        return wait_ns // HASTE


def feed_of(spec: FeedSpec, **endpoint: Any) -> Any:
    feed: Any = make(spec, KEYS)
    capability = msgspec.structs.replace(feed.capability(), connects_per_minute_max=1e6, sends_per_second_max=1e3)
    original = feed.endpoint()
    feed.capability = lambda: capability
    feed.endpoint = lambda: msgspec.structs.replace(original, **endpoint)
    return feed


@asynccontextmanager
async def recording(place: Simulator, row: Row, journal: Journal, told: Heard, **endpoint: Any) -> Any:
    provider = PROVIDERS[row.provider]
    symbols = (row.only,) if row.only else (*provider.symbols, *filter(None, [row.besides]))
    url = place.url(provider.simulated)
    if provider.path:
        url = url.replace(url.partition(f"/{provider.simulated}")[2], provider.path)
    spec = FeedSpec(
        name="f", provider=row.provider.split()[0], symbols=symbols, options=provider.options, url=url,
        channels=provider.channels,
    )  # fmt: skip

    def made(spec: FeedSpec) -> Any:
        return feed_of(spec, **endpoint)

    connection = Hasty(
        spec, made(spec), journal, lambda: None, told, gate=HastyGate(), make_feed=made, observe=told.observe
    )
    task = asyncio.create_task(connection.run())
    try:
        yield connection
    finally:
        await connection.stop()
        await asyncio.wait_for(task, 30)


async def met(row: Row, c: Any, place: Simulator) -> None:
    """Wait until the connection has done what it is to do, and delivers again where it is to."""
    then, truth = row.then, place.truth[PROVIDERS[row.provider].simulated]
    if then.wait_s is not None:
        await reached(lambda: getattr(c, "waits", ()))
    if then.renewed:
        await reached(lambda: c.renewals == 1)
    if not then.back:
        assert not c.ready
        assert c.session.fatal == then.fatal
        return
    await reached(lambda: c.ready)
    before = {name: symbol.sent for name, symbol in truth.symbols.items()}
    wanted = set(truth.symbols) - {row.without}
    await reached(lambda: all(truth.symbols[name].sent > before[name] + 5 for name in wanted))


def assert_told(row: Row, told: Heard, journal: Journal) -> None:
    """The lines, in their order, what was refused by its symbol, no secret; and the same in the tables."""
    lines = iter([(event, str(fields)) for _, event, fields in told.lines])
    for event, words in row.told:
        assert any(found == event and words in text for found, text in lines), (event, words, told.lines)
    refused = {fields["symbol"] for _, event, fields in told.lines if event == "symbol.refused"}
    concerned = {row.besides, row.only, row.without} - {""}
    assert refused <= concerned or row.provider in SOME_CHANNEL or not row.then.back
    assert "very-secret" not in repr((told.lines, told.rows))
    closed = [payload.decode() for payload in payloads(journal, CLOSED)]
    for event, words in row.told:
        if event == GONE:
            assert any(words in reason for reason in closed)
        elif not event.startswith("feed."):
            assert any(found == event and words in reason for _, found, reason in told.rows)
        if event == "reader.slow":
            assert any(found == "slow_reader" and words in reason for _, found, reason in told.rows)


def assert_whole(row: Row, journal: Journal, place: Simulator) -> None:
    """Every trade that was sent is a row, and none is there twice."""
    truth = place.truth[PROVIDERS[row.provider].simulated].symbols
    rows = folded(journal)
    assert "rejected" not in rows, rows.get("rejected_words")
    trades = rows.get("trades", np.zeros(0, [("flags", "i8"), ("series", "i8"), ("trade_id", "i8")]))
    trades = trades[trades["flags"] & BACKFILLED == 0]
    names = rows["symbols"]
    ids = [(names[r["series"]], r["trade_id"].item()) for r in trades]
    sent = {name: symbol.distinct if row.then.renewed else symbol.sent for name, symbol in truth.items()}
    assert Counter(name for name, _ in ids) == Counter({name: count for name, count in sent.items() if count})
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("row", "live"), [*((row, False) for row in OPENING), *((row, True) for row in LIVE)],
    ids=[f"{row} {when}" for rows, when in ((OPENING, "opening"), (LIVE, "live")) for row in rows],
)  # fmt: skip
def test_what_a_provider_does_is_told_acted_on_and_costs_no_row(journal: Journal, row: Row, live: bool) -> None:
    told, key = Heard(), PROVIDERS[row.provider].simulated
    rules = row.does if isinstance(row.does, dict) else {}

    async def run() -> Simulator:
        symbols = PROVIDERS[row.provider].symbols
        async with Simulator([key], symbols=symbols, rate=2000, rules={key: rules}) as place:
            if not live and callable(row.does):
                row.does(place, key)
            async with recording(place, row, journal, told, ready_timeout_ns=round(row.patience_s * SECOND)) as c:
                if live and callable(row.does):
                    await reached(lambda: c.ready and c.frames > 20)
                    row.does(place, key)
                await met(row, c, place)
                await reached(lambda: len(told.lines) >= len(row.told) + live)
            await reached(lambda: not place.clients(key))
            waits = getattr(c, "waits", [0.0])
            if row.then.back:
                assert place.truth[key].connections + place.truth[key].refused == c.reconnects + c.renewals + 1
            elif row.then.fatal:
                assert place.truth[key].connections == 1
            if row.then.wait_s is None:
                assert c.reconnects == 0
            elif row.then.exactly:
                assert waits[0] == row.then.wait_s
            else:
                assert waits[0] >= row.then.wait_s
                assert waits[0] > 0
            return place

    place = asyncio.run(run())
    assert_told(row, told, journal)
    assert_whole(row, journal, place)


# A provider's own rule for who is quiet → what is sent, a mark of its answer.
KEEPALIVES = {
    "okx": (b"ping", b"pong"),
    "bybit": (b'{"op":"ping"}', b'"ret_msg":"pong"'),
    "kraken": (b'{"method":"ping"}', b'"method":"pong"'),
    "bitstamp": (b'{"event":"bts:heartbeat"}', b'"status":"success"'),
}


@pytest.mark.parametrize("provider", KEEPALIVES)
def test_the_providers_own_ping_keeps_a_quiet_connection_alive(journal: Journal, provider: str) -> None:
    asked, answer = KEEPALIVES[provider]
    key = PROVIDERS[provider].simulated

    async def run() -> None:
        async with Simulator([key], symbols=PROVIDERS[provider].symbols, total=0) as place:
            rules = {"ping_ns": 0, "app_ping_ns": 20 * MILLISECOND, "silence_ns": 400 * MILLISECOND}
            async with recording(place, Row(provider, "", {}, (), GOES_ON), journal, Heard(), **rules) as c:
                await reached(lambda: c.ready)
                await reached(lambda: sum(answer in payload for payload in payloads(journal, TEXT)) > 20)
                assert c.reconnects == 0

    asyncio.run(run())
    assert payloads(journal, SENT).count(asked) > 20


def test_deribits_test_request_is_answered(journal: Journal) -> None:
    async def run() -> None:
        row = Row("deribit", "", {}, (), GOES_ON)
        async with (
            Simulator(["deribit"], symbols=PROVIDERS["deribit"].symbols, total=0) as place,
            recording(place, row, journal, Heard()) as c,
        ):
            await reached(lambda: c.ready)
            place.say("deribit", "test_request")
            await reached(lambda: any(b'"public/test"' in payload for payload in payloads(journal, SENT)))
            await reached(lambda: any(b'"version"' in payload for payload in payloads(journal, TEXT)))

    asyncio.run(run())
