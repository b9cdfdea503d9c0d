"""Alpaca's corporate-action events: what each means, and how the stream goes on after a break and after each error."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from conftest import QuestDB
from decoding import FRAME_END, Recorded
from fuzzing import mutations
from recorder_process import Recorder, external, until, write_config
from test_connection import Told, connected, impatient, reached
from test_overlap import folded

from recorder.core.batch import Output
from recorder.feeds import make
from recorder.feeds.actions.alpaca import _KINDS
from recorder.shell.journal import Journal
from recorder.shell.simulator.alpaca_events import TYPES, AlpacaEvents
from recorder.values.errors import ConfigError, FrameError
from recorder.values.feed import FeedSpec

__all__ = ["impatient"]

KEYS = {"APCA_API_KEY_ID": "PKTEST", "APCA_API_SECRET_KEY": "very-secret"}
KNOWN = {"PKTEST": "very-secret"}
# As documented; the uuid there is cut short.
SPLIT = {
    "event_type": "forward_split_corporateaction_event", "event_id": "01KM5CDQXQAE67Z5NHCJZHQ5XV",
    "at": "2026-03-19T22:50:11.729329Z", "action": "update", "region": "us",
    "ca": {
        "id": "78467a10-9aa2-4222-8927-abcdef012345", "symbol": "NVDA", "cusip": "67066G104", "old_rate": "1",
        "new_rate": "10", "ex_date": "2026-06-10", "record_date": "2026-06-06", "payable_date": "2026-06-09",
        "process_date": "2026-06-07", "currency": "USD",
    },
}  # fmt: skip
DIVIDEND = {
    "event_type": "cash_dividend_corporateaction_event", "event_id": "01KM5CDQXQAE67Z5NHCJZHQ5XW", "action": "insert",
    "region": "us",
    "ca": {
        "id": "b0", "symbol": "AAPL", "rate": "0.26", "special": False, "ex_date": "2026-05-11",
        "process_date": "2026-05-14",
    },
}  # fmt: skip


def later(event: dict[str, Any], number: int, **ca: Any) -> dict[str, Any]:
    return {**event, "event_id": f"01KM5CDQXQAE67Z5NHCJZHZ{number:03d}", "ca": {**event["ca"], **ca}}


def spec_of(url: str | None = None, **fields: Any) -> FeedSpec:
    return FeedSpec(
        **{
            "name": "ca", "provider": "alpaca_events", "channels": ("corporate_actions",), "symbols": ("*",),
            "url": url, **fields,
        }
    )  # fmt: skip


def quick(url: str, keys: dict[str, str]) -> Any:
    """The feed, quick to connect again; its address is another after each event."""
    feed: Any = make(spec_of(url), keys)
    capability = msgspec.structs.replace(feed.capability(), connects_per_minute_max=1e6, hold_ns=0)
    feed.capability = lambda: capability
    return feed


class Events(Recorded):
    def __init__(self, **fields: Any) -> None:
        self.feed = make(spec_of(**fields))
        self.out = Output()
        self.scope = self.out.scope("ca", 0)
        self._decode = self.feed.decoder(self.scope)
        self._beside(lambda scope: make(self.feed.spec).decoder(scope))


def unescaped(details: str) -> dict[str, Any]:
    """A JSON text as the encoder holds it."""
    found: dict[str, Any] = json.loads(details.replace('\\"', '"'))
    return found


def frame(data: Any, number: str = "") -> bytes:
    return (f"id: {number}\n" if number else "").encode() + b"data: " + json.dumps(data).encode() + b"\n"


def test_the_documented_event_becomes_a_version_of_its_action_once() -> None:
    feed = Events().decode(frame(SPLIT)).decode(frame([SPLIT], "01KM"))
    (row,) = feed.rows("corporate_actions")
    details = unescaped(row.pop("details"))
    assert row == {
        "ts_event": 1_781_064_000 * 10**9,  # 2026-06-10 00:00 in New York
        "ts_recv": FRAME_END, "ts_known": FRAME_END, "symbol": "NVDA", "action_type": "split",
        "action_id": "78467a10-9aa2-4222-8927-abcdef012345", "ratio": 10.0, "currency": "USD",
    }  # fmt: skip
    assert details["payable_date"] == "2026-06-09"


@pytest.mark.parametrize("processed", [{}, {"process_date": None}])
def test_an_action_that_has_its_ex_date_needs_no_day_of_its_processing(processed: dict[str, None]) -> None:
    ca = {name: value for name, value in SPLIT["ca"].items() if name != "process_date"}  # type: ignore[attr-defined]
    feed = Events().decode(frame({**SPLIT, "ca": ca | processed}))
    assert [row["ts_event"] for row in feed.rows("corporate_actions")] == [1_781_064_000 * 10**9]
    undated = {name: value for name, value in ca.items() if name != "ex_date"}
    feed.decode(frame({**SPLIT, "ca": undated}))
    assert ["ex_date" in row["reason"] for row in feed.rows("rejected")] == [True]


@pytest.mark.parametrize("apart_ns", [0, 1])
def test_an_update_and_a_deletion_are_versions_too_also_where_one_read_brought_all(apart_ns: int) -> None:
    feed = Events()
    for number, event in enumerate((DIVIDEND, later(DIVIDEND, 1, rate="0.27"), {**DIVIDEND, "action": "delete"})):
        feed.decode(frame(event), FRAME_END + number * apart_ns)
    rows = feed.rows("corporate_actions")
    assert [(row.get("amount"), row["ts_known"] - FRAME_END) for row in rows] == [(0.26, 0), (0.27, 1), (None, 2)]
    assert "deleted" not in rows[0]["details"]
    assert unescaped(rows[2]["details"])["deleted"] is True


def test_every_documented_type_is_known() -> None:
    """Each is an event of the kind that the other answers list; the sample has the fields of any of them."""
    everything = {
        "id": "x", "symbol": "A", "old_symbol": "A", "source_symbol": "A", "acquiree_symbol": "A", "new_symbol": "B",
        "acquirer_symbol": "B", "process_date": "2026-01-02", "ex_date": "2026-01-02", "effective_date": "2026-01-02",
        "rate": "1", "new_rate": "2", "old_rate": "1", "source_rate": "1", "acquirer_rate": "1", "acquiree_rate": "1",
        "cash_rate": "1", "price": "1", "long_term_rate": "1", "stock_movements": [],
    }  # fmt: skip
    feed = Events()
    for number, type_ in enumerate(TYPES):
        ca = {**everything, "id": f"x{number}"}
        feed.decode(frame({**DIVIDEND, "event_type": f"{type_}_corporateaction_event", "ca": ca}))
    rows = feed.rows("corporate_actions")
    assert feed.rows("rejected") == []
    assert {unescaped(row["details"])["kind"] for row in rows} == set(_KINDS)
    assert len(rows) == len(TYPES) == len(_KINDS)


def test_what_is_unknown_or_does_not_fit_is_rejected_beside_the_rest() -> None:
    bad = [{**SPLIT, "event_type": "new_thing"}, {**SPLIT, "action": "?"}, later(SPLIT, 1, old_rate="0"), {"ca": {}}, 5]
    feed = Events().decode(frame([*bad, DIVIDEND])).decode(b"data\n").decode(b": only a comment\n")
    assert len(feed.rows("corporate_actions")) == 1
    assert len(feed.rows("rejected")) == len(bad)
    with pytest.raises(FrameError):
        Events().decode(b"data: nonsense\n")
    assert Events(symbols=("AAPL",)).decode(frame(SPLIT)).rows("corporate_actions") == []
    with pytest.raises(ConfigError, match="corporate_actions"):
        make(spec_of(channels=("trades",)))


def test_damaged_events_raise_nothing_but_a_frame_error() -> None:
    feed = Events()
    for damaged in mutations((frame(SPLIT, "01K"), frame([SPLIT, DIVIDEND])), 3000, seed=9):
        before = feed.out.counts()
        feed.feed.on_control(damaged)
        try:
            feed.decode(damaged)
        except FrameError:
            assert feed.out.counts() == before
    for row in feed.rows("corporate_actions"):
        assert row.get("ratio", 1) > 0
        assert row.get("amount", 1) > 0


@pytest.mark.parametrize(("listed", "numbered"), [(False, True), (True, True), (True, False)])
def test_after_a_break_it_asks_for_what_came_since_and_nothing_is_doubled(
    journal: Journal, listed: bool, numbered: bool
) -> None:
    rows: dict[str, Any] = {}

    async def run() -> None:
        told = Told()
        async with AlpacaEvents(KNOWN, listed, numbered) as place:
            place.events.append(SPLIT)  # before anybody listened: the stream is of what comes
            async with connected(quick(place.url, KEYS), journal, told) as c:
                await reached(lambda: c.ready and len(place._listeners) == 1)
                place.happen(DIVIDEND)
                await reached(lambda: c.frames == 1)
                place.events.append(later(DIVIDEND, 1, rate="0.27"))  # while it is away
                place.cut()
                await reached(lambda: c.reconnects == 1 and c.frames >= 3)
                place.happen(later(SPLIT, 2))
                await reached(lambda: c.frames == 4)
                await reached(lambda: rows.update(folded(journal)) or len(rows["corporate_actions"]) == 3)
            asked = place.requests[1]
            assert asked[1].get("last-event-id") == (DIVIDEND["event_id"] if numbered else None)
            assert f"since_id={DIVIDEND['event_id']}" in asked[0]
            assert "very-secret" not in asked[0]
        assert told.events == ["feed.connected", "feed.disconnected", "feed.connected"]

    asyncio.run(run())
    assert rows["corporate_actions"]["amount"][:2].tolist() == [0.26, 0.27]
    assert "rejected" not in rows


@pytest.mark.parametrize(
    ("failing", "keys", "options", "event", "words"),
    [
        ([], {**KEYS, "APCA_API_SECRET_KEY": "wrong"}, {}, "feed.refused", "401"),
        ([], {**KEYS, "APCA_API_SECRET_KEY": ""}, {}, "feed.refused", "403"),
        ([400], KEYS, {}, "feed.refused", "400"),
        ([500], KEYS, {}, "feed.unreachable", "500"),
        ([429], KEYS, {}, "feed.unreachable", "429"),
    ],
)
def test_each_documented_error(
    journal: Journal, failing: list[int], keys: dict[str, str], options: dict[str, str], event: str, words: str
) -> None:
    async def run() -> None:
        told = Told()
        async with AlpacaEvents(KNOWN) as place:
            place.failing = list(failing)
            async with connected(quick(place.url, keys), journal, told) as c:
                await reached(lambda: told.events)
                if words == "500":
                    await reached(lambda: c.ready)
        assert told.events[0] == event
        assert words in told.lines[0][2]["reason"]
        if words == "429":
            assert told.lines[0][2]["retry_s"] >= 60
        assert "wrong" not in repr(told.lines)

    asyncio.run(run())


def test_events_reach_the_database_also_those_of_the_time_between_a_kill_or_a_stop_and_the_next_start(
    tmp_path: Any, fresh_tables: QuestDB, free_port: Any
) -> None:
    port = free_port()

    async def recording(place: AlpacaEvents, end: Any, frames: int, *events: dict[str, Any]) -> None:
        feeds = {"ca": {"provider": "alpaca_events", "symbols": ["*"], "region": "all", "url": place.url}}
        config = write_config(tmp_path, feeds, port, external(fresh_tables.sql_url))
        with Recorder(config, metrics_port=port, **KEYS) as recorder:
            await asyncio.to_thread(recorder.wait_event, "feed.connected")
            for event in events:
                place.happen(event)
            count = "recorder_frames_total"
            await asyncio.to_thread(until, lambda: recorder.metric(count, "ca") >= frames, "the events")
            await end(recorder)

    async def kill(recorder: Recorder) -> None:
        recorder.kill()

    async def stop(recorder: Recorder) -> None:
        queryable = "recorder_rows_queryable_total"  # the server has been reached: stopping waits for all the rest
        await asyncio.to_thread(until, lambda: recorder.metric(queryable) > 0, "rows")
        assert await asyncio.to_thread(recorder.end) == 0, recorder.text()

    async def run() -> None:
        async with AlpacaEvents(KNOWN) as place:
            await recording(place, kill, 2, SPLIT, {**DIVIDEND, "region": "non_us"})
            place.events.append(later(DIVIDEND, 1, id="b1", rate="0.27"))
            await recording(place, stop, 2)  # the one that it goes on after comes again
            place.events.append(later(DIVIDEND, 2, id="b2", rate="0.28"))
            await recording(place, stop, 3, later(DIVIDEND, 3, id="b3", rate="0.29"))
            asked = [headers.get("last-event-id") for _, headers in place.requests]
            assert asked == [None, DIVIDEND["event_id"], place.events[2]["event_id"]]

    asyncio.run(run())
    fresh_tables.wait_applied()
    query = "SELECT symbol, action_type, ratio, amount FROM corporate_actions ORDER BY symbol, amount"
    assert [tuple(row) for row in fresh_tables.sql.query(query).rows] == [
        *(("AAPL", "cash_dividend", None, amount) for amount in (0.26, 0.27, 0.28, 0.29)),
        ("NVDA", "split", 10.0, None),
    ]
