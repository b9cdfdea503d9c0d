"""What a FIX counterparty may refuse, say or do: over real sockets, what is told in its words, what is done about it,
and that what it does not concern goes on. Lost and damaged messages are in test_fix_streams.py; the session's rules one
by one in test_fix_acceptance.py."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from refusals import DOWN, GOES_ON, GONE, REFUSED, STOPS, UP, Then, again, held
from test_connection import Told, payloads, reached
from test_fix_streams import spec_of
from test_overlap import folded
from test_refusals import Hasty

from recorder.core import session as sessions
from recorder.core.frames import SENT
from recorder.feeds import make
from recorder.shell import fix as client
from recorder.shell import link as links
from recorder.shell.journal import Journal
from recorder.shell.simulator import fix as simulator
from recorder.shell.simulator.fix import Acceptor, FixSimulator
from recorder.values.fix import joined

KEYS = {"FIX_USERNAME": "someone", "FIX_PASSWORD": "very-secret-0123"}
WRONG = {"user": "someone", "password": "another"}


class Row(NamedTuple):
    documented: str
    rules: dict[str, Any]
    does: Callable[[Acceptor], object] | None  # to a session that delivers; None: the rules do it
    told: tuple[tuple[str, str], ...]  # lines of the log in this order: event, and words in it
    then: Then
    sends: bytes = b""  # what the recorder answers with
    without: tuple[str, ...] = ()  # symbols that do not deliver
    options: tuple[tuple[str, str], ...] = ()  # of the feed


def refuses(symbol: str, *reason: str | int) -> dict[str, Any]:
    return {"reasons": {symbol: reason}}


def all_refused(*reason: str | int) -> dict[str, Any]:
    return {"reasons": dict.fromkeys(("EUR/USD", "GBP/USD", "AAPL"), reason)}


def says(kind: str, *pairs: tuple[int, object], number: int | None = None) -> Callable[[Acceptor], object]:
    return lambda session: session.send(kind.encode(), joined(*pairs), number)


def refused(words: str) -> tuple[tuple[str, str], ...]:
    """Both channels of one symbol."""
    return ("symbol.refused", words), ("symbol.refused", words), UP


ONE = ("AAPL",)
# fmt: off
TABLE = [
    # Logon
    Row("Logout answers the Logon", WRONG, None, ((DOWN, "invalid username or password"),), held(60)),
    Row("Reject answers the Logon", {"logon": "Value is incorrect"}, None, ((DOWN, "Value is incorrect"),), held(60)),
    Row("dropped without a word", {"target": "OTHER"}, None, ((DOWN, ""),), held(2)),
    # Y MarketDataRequestReject, MDReqRejReason (281)
    Row("Y 0", refuses("AAPL", "Y", "0", "no AAPL"), None, refused("unknown symbol: no AAPL"), GOES_ON, without=ONE),
    Row("Y 1", refuses("AAPL", "Y", "1", "again"), None, refused("duplicate MDReqID: again"), GOES_ON, without=ONE),
    Row("Y 2", {"subscriptions_max": 7}, None,
        (("symbol.refused", "insufficient bandwidth: too many subscriptions"), UP), GOES_ON),
    Row("Y 3", {"forbidden": ONE}, None, refused("permissions: no permission for AAPL"), GOES_ON, without=ONE),
    Row("Y 4", refuses("AAPL", "Y", "4", "no"), None, refused("unsupported Subscription"), GOES_ON, without=ONE),
    Row("Y 5", refuses("AAPL", "Y", "5", "no"), None, refused("unsupported MarketDepth"), GOES_ON, without=ONE),
    Row("Y 6", refuses("AAPL", "Y", "6", "no"), None, refused("unsupported MDUpdateType"), GOES_ON, without=ONE),
    Row("Y 7", refuses("AAPL", "Y", "7", "no"), None, refused("unsupported AggregatedBook"), GOES_ON, without=ONE),
    Row("Y 8", refuses("AAPL", "Y", "8", "no"), None, refused("unsupported MDEntryType"), GOES_ON, without=ONE),
    Row("Y 9", refuses("AAPL", "Y", "9", "no"), None, refused("unsupported TradingSessionID"), GOES_ON, without=ONE),
    Row("Y A", refuses("AAPL", "Y", "A", "no"), None, refused("unsupported Scope"), GOES_ON, without=ONE),
    Row("Y B", refuses("AAPL", "Y", "B", "no"), None, refused("unsupported OpenClose"), GOES_ON, without=ONE),
    Row("Y C", refuses("AAPL", "Y", "C", "no"), None, refused("unsupported MDImplicit"), GOES_ON, without=ONE),
    Row("Y 3 of everything", all_refused("Y", "3", "no"), None, ((REFUSED, "refused everything"),), STOPS),
    Row("Y 0 of everything", all_refused("Y", "0", "no"), None, ((DOWN, "refused everything"),), held(60)),
    Row("Y 5 of everything", {}, None, ((DOWN, "everything asked for: unsupported MarketDepth"),), held(60),
        options=(("depth", "5"),)),
    Row("Y 6 of everything", {}, None, ((DOWN, "everything asked for: unsupported MDUpdateType"),), held(60),
        options=(("updates", "full"),)),
    Row("Y 7 of everything", {}, None, ((DOWN, "everything asked for: unsupported AggregatedBook"),), held(60),
        options=(("aggregated", "yes"),)),
    # 3 Reject, SessionRejectReason (373): of the instrument alone, or of what all requests have
    Row("3 5 of a symbol", refuses("AAPL", "3", "5", "Value is incorrect"), None,
        (("error.received", "reason 5, tag 55, message Value is incorrect"), UP), GOES_ON, without=ONE),
    Row("3 1", all_refused("3", "1", "Required tag missing", 266), None,
        ((REFUSED, "reason 1, tag 266, message Required tag missing"),), STOPS),
    Row("3 5", all_refused("3", "5", "Value is incorrect", 264), None, ((REFUSED, "tag 264"),), STOPS),
    Row("3 11", all_refused("3", "11", "Invalid MsgType", 35), None, ((REFUSED, "Invalid MsgType"),), STOPS),
    Row("3 99", all_refused("3", "99", "other", 262), None, ((REFUSED, "reason 99"),), STOPS),
    Row("3 of something else", {}, says("3", (45, 2), (372, "0"), (373, 99), (58, "odd")),
        (("error.received", "odd"),), GOES_ON),
    # j BusinessMessageReject, BusinessRejectReason (380)
    Row("j 0", refuses("AAPL", "j", "0", "other"), None, refused("reason 0, message other"), GOES_ON, without=ONE),
    Row("j 1", refuses("AAPL", "j", "1", "no id"), None, refused("reason 1, message no id"), GOES_ON, without=ONE),
    Row("j 2", refuses("AAPL", "j", "2", "unknown"), None, refused("reason 2, message unknown"), GOES_ON, without=ONE),
    Row("j 3", all_refused("j", "3", "Unsupported Message Type"), None, ((REFUSED, "Unsupported Message"),), STOPS),
    Row("j 4", refuses("AAPL", "j", "4", "later"), None, refused("reason 4, message later"), GOES_ON, without=ONE),
    Row("j 5", refuses("AAPL", "j", "5", "field"), None, refused("reason 5, message field"), GOES_ON, without=ONE),
    Row("j 6", all_refused("j", "6", "not authorized"), None, ((REFUSED, "not authorized"),), STOPS),
    Row("j 7", refuses("AAPL", "j", "7", "away"), None, refused("reason 7, message away"), GOES_ON, without=ONE),
    # The session
    Row("5 Logout", {}, lambda session: session.logout("end of day"),
        ((GONE, "the counterparty logged out: end of day"), UP), again(2), sends=b"\x0135=5\x01"),
    Row("34 too low", {}, says("0", number=1),
        ((GONE, "MsgSeqNum too low, expecting "), UP), again(2), sends=b"58=MsgSeqNum too low, expecting "),
    Row("1 TestRequest", {}, says("1", (112, "T1")), (), GOES_ON, sends=b"\x01112=T1\x01"),
    Row("2 ResendRequest", {}, says("2", (7, 1), (16, 0)), (), GOES_ON, sends=b"\x01123=Y\x01"),
    Row("4 SequenceReset backwards", {}, says("4", (36, 1)), (), GOES_ON, sends=b"\x01372=4\x01373=5\x01"),
    Row("B News", {}, says("B", (148, "maintenance tonight")), (("notice.received", "maintenance tonight"),), GOES_ON),
    Row("B News of the end", {}, says("B", (148, "This session is about to be closed.")),
        ((GONE, "about to be closed"), UP), again(2)),
    Row("dropped", {}, lambda session: session.cut(), ((GONE, ""), UP), again(2)),
]
# fmt: on


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "HEALTHY_NS", 0)
    monkeypatch.setattr(links, "TIMER_S", 0.02)
    monkeypatch.setattr(client, "TICK_S", 0.02)
    monkeypatch.setattr(simulator, "SETTLE_S", 0.01)


@pytest.mark.parametrize("row", TABLE, ids=[row.documented for row in TABLE])
def test_what_a_counterparty_does_is_told_and_acted_on(journal: Journal, tmp_path: Path, row: Row) -> None:
    told = Told()

    async def run() -> FixSimulator:
        async with FixSimulator(rate=1000, rules=row.rules) as place:
            feed: Any = make(spec_of(place, **dict(row.options)), KEYS)
            capability = msgspec.structs.replace(
                feed.capability(), connects_per_minute_max=1e6, sends_per_second_max=1e3
            )
            feed.capability = lambda: capability
            c: Any = Hasty(feed.spec, feed, journal, lambda: None, told, connect=client.connector(tmp_path))
            task = asyncio.create_task(c.run())
            try:
                if row.does is not None:
                    await reached(lambda: c.ready and c.frames > 20)
                    row.does(place.sessions[0])
                await met(row, c, place)
                if row.sends:
                    await reached(lambda: any(row.sends in payload for payload in payloads(journal, SENT)))
            finally:
                await c.stop()
                await asyncio.wait_for(task, 30)
            waits = getattr(c, "waits", [0.0])
            assert waits[0] >= (row.then.wait_s or 0.0)
            if row.then.wait_s is None:
                assert c.reconnects == 0
            if row.then.fatal:
                assert place.truth.connections == 1
            return place

    place = asyncio.run(run())
    lines = iter([(event, str(fields)) for _, event, fields in told.lines])
    for event, words in row.told:
        assert any(found == event and words in text for found, text in lines), (event, words, told.lines)
    assert "very-secret" not in repr(told.lines)
    if "dropped" not in row.documented:
        assert_whole(journal, place)


async def met(row: Row, c: Any, place: FixSimulator) -> None:
    """Wait until it has done what it is to do, and the symbols that are not refused deliver again."""
    if row.then.wait_s is not None:
        await reached(lambda: getattr(c, "waits", ()))
    if not row.then.back:
        assert not c.ready
        assert c.session.fatal == row.then.fatal
        return
    await reached(lambda: c.ready)
    symbols = {name: truth for name, truth in place.truth.symbols.items() if name not in row.without}
    before = {name: truth.distinct for name, truth in symbols.items()}
    await reached(lambda: all(truth.distinct > before[name] + 5 for name, truth in symbols.items()))


def assert_whole(journal: Journal, place: FixSimulator) -> None:
    """Every trade that was sent is a row, and none is there twice."""
    rows = folded(journal)
    assert "rejected" not in rows
    names = rows["symbols"]
    ids = [(names[r["series"]], r["trade_id"].item()) for r in rows.get("trades", ())]
    sent = {name.replace("EUR/USD", "EUR-USD"): truth.distinct for name, truth in place.truth.symbols.items()}
    assert Counter(name for name, _ in ids) == Counter({name: count for name, count in sent.items() if count})
    assert len(set(ids)) == len(ids)
