"""What providers' streams lose comes from their histories: simulated providers, real sockets, a real QuestDB."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import QuestDB
from exchange_process import Exchange
from recorder_process import Recorder, command, environment, external, until, write_config

from recorder.core.frames import TEXT
from recorder.core.gaps import UNVERIFIED
from recorder.shell.journal import Journal
from recorder.shell.simulator.proxy import Proxy

BACKFILLED = 8
MILLISECOND = 1_000_000
KEY, SECRET = "PKTESTONLY0123456789", "s3cr3tOfTheTests/0123456789abcdef"
KEYS = {"APCA_API_KEY_ID": KEY, "APCA_API_SECRET_KEY": SECRET, "POLYGON_API_KEY": SECRET}
RULES = {"alpaca": {"keys": {KEY: SECRET}}, "polygon": {"keys": {SECRET: ""}}}
PROVIDERS: dict[str, dict[str, Any]] = {
    "coinbase": {"provider": "coinbase", "symbols": ["BTC-USD", "ETH-USD"]},
    "coinbase-advanced": {"provider": "coinbase", "api": "advanced", "symbols": ["BTC-USD", "ETH-USD"]},
    "binance": {"provider": "binance", "symbols": ["BTC-USDT", "ETH-USDT"]},
    "kraken": {"provider": "kraken", "symbols": ["BTC-USD", "ETH-USD"]},
    "alpaca": {
        "provider": "alpaca",
        "feed": "iex",
        "format": "json",
        "symbols": ["AAPL", "SPY"],
        "channels": ["trades", "quotes"],
    },
    "polygon": {"provider": "polygon", "symbols": ["AAPL", "SPY"], "channels": ["trades", "quotes"]},
}
QUOTED = ("alpaca", "polygon")  # their histories have quotes; their ids tell of no loss


def exchange(*providers: str, **settings: Any) -> Exchange:
    symbols = {name: PROVIDERS[name]["symbols"] for name in providers}
    return Exchange(providers, **{"symbols": symbols, "rate": 100, "rules": RULES, **settings})


def feeds_of(place: Exchange, prefix: str) -> dict[str, dict[str, Any]]:
    return {
        f"{prefix}-{name}": {
            "url": place.urls[name], "rest_url": place.rest_urls[name], "channels": ["trades"], **PROVIDERS[name],
        }
        for name in place.providers
    }  # fmt: skip


@pytest.fixture
def start(tmp_path: Path, free_port: Callable[[], int], questdb: QuestDB) -> Iterator[Callable[..., Recorder]]:
    started: list[Recorder] = []
    port = free_port()

    def begin(feeds: dict[str, dict[str, Any]], **repair: Any) -> Recorder:
        sections = {"questdb": external(questdb.sql_url), "repair": repair}
        config = write_config(tmp_path / "home", feeds, port, **sections)
        started.append(Recorder(config, metrics_port=port, **KEYS))
        return started[-1]

    yield begin
    for recorder in started:
        recorder.kill()


def closed(recorder: Recorder, feed: str) -> float:
    """Gaps of a feed that are complete, once none is open."""
    values = recorder.metrics()
    return 0.0 if values.get(("recorder_gaps_open", feed)) else values.get(("recorder_gaps_repaired_total", feed), 0.0)


def received(folder: Path) -> dict[str, set[tuple[str, int]]]:
    """Feed → (symbol, id) of trades that its stream delivered live, read from the journal without a decoder of ours."""
    found: dict[str, set[tuple[str, int]]] = {}

    def walk(value: Any, own: set[tuple[str, int]]) -> None:
        if isinstance(value, list):
            for each in value:
                walk(each, own)
        elif isinstance(value, dict):
            for symbol, number in (("product_id", "trade_id"), ("symbol", "trade_id"), ("s", "t"), ("S", "i")):
                if isinstance(value.get(symbol), str) and number in value:
                    own.add((re.sub("[-/]", "", value[symbol]), int(value[number])))
            if value.get("ev") == "T":
                own.add((value["sym"], int(value["i"])))
            for each in value.values():
                walk(each, own)

    with Journal.open(folder / "journal") as journal:
        position = journal.begin
        while (frames := journal.read(position)) is not None:
            position = frames.end
            for i in np.flatnonzero(frames.kinds == TEXT).tolist():
                payload = frames.payload(i)
                if b"snapshot" not in payload and b"last_match" not in payload:
                    walk(json.loads(payload), found.setdefault(journal.specs[int(frames.sources[i])].name, set()))
    return found


def assert_complete(questdb: QuestDB, feed: str, live: set[tuple[str, int]], lost: list[tuple[str, int]]) -> None:
    """Every id between the first stored and the last is there, once; as received where it was, else from history."""
    rows = questdb.sql.query(f"SELECT symbol, trade_id, flags & {BACKFILLED} FROM trades WHERE feed = '{feed}'").rows
    ids: dict[str, dict[int, bool]] = {}
    for symbol, number, flag in rows:
        assert number not in ids.setdefault(symbol, {}), f"{feed} {symbol} {number} is stored twice"
        ids[symbol][number] = bool(flag)
    assert len(ids) == 2
    for symbol, own in ids.items():
        missing = sorted(set(range(min(own), max(own) + 1)) - set(own))
        assert missing == [], f"{feed} {symbol}: {len(missing)} of {len(own)} missing"
        came = {number for name, number in live if name == re.sub("[-/]", "", symbol)}
        assert came <= set(own)
        assert [number for number in came if own[number]] == [], f"{feed} {symbol}: received live and overwritten"
    for symbol, number in lost:
        assert ids[symbol][number], f"{feed} {symbol} {number} was dropped, yet is not from history"


def time_of(text: str) -> int:
    return int(np.datetime64(text.rstrip("Z"), "ns").astype(np.int64))


def quotes_received(folder: Path, provider: str) -> set[tuple[str, int, int | None]]:
    """(symbol, time, number) of every quote in a provider's frames, read from the journal without a decoder of ours."""
    with Journal.open(folder / "journal") as journal:
        position, found = journal.begin, set()
        while (frames := journal.read(position)) is not None:
            position = frames.end
            for i in np.flatnonzero(frames.kinds == TEXT).tolist():
                if journal.specs[int(frames.sources[i])].provider == provider:
                    for each in json.loads(frames.payload(i)):
                        if each.get("T") == "q":
                            found.add((each["S"], time_of(each["t"]), None))
                        elif each.get("ev") == "Q":
                            found.add((each["sym"], each["t"] * MILLISECOND, each["q"]))
    return found


def whole_page(place: Exchange, provider: str, path: str) -> dict[str, Any]:
    """What the exchange's history answers, all of it in one page."""
    headers = {"APCA-API-KEY-ID": KEY, "APCA-API-SECRET-KEY": SECRET, "Authorization": f"Bearer {SECRET}"}
    asked = urllib.request.Request(place.rest_urls[provider] + path, headers=headers)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        page: dict[str, Any] = json.load(answer)
    assert not page.get("next_page_token")
    assert "next_url" not in page
    return page


def quotes_sent(place: Exchange, provider: str, symbol: str) -> set[tuple[Any, ...]]:
    """(time, number, bid, its size, ask, its size) of every quote of a symbol that the exchange has in its history."""
    paths = {
        "alpaca": f"/v2/stocks/quotes?symbols={symbol}&feed=iex&limit=10000",
        "polygon": f"/v3/quotes/{symbol}?limit=50000",
    }
    page = whole_page(place, provider, paths[provider])
    if provider == "alpaca":
        return {(time_of(q["t"]), None, q["bp"], q["bs"], q["ap"], q["as"]) for q in page["quotes"][symbol]}
    names = ("sequence_number", "bid_price", "bid_size", "ask_price", "ask_size")
    return {
        (q["sip_timestamp"] // MILLISECOND * MILLISECOND, *(q[name] for name in names)) for q in page["results"]
    }  # the stream's are whole ms


def assert_quotes_complete(place: Exchange, questdb: QuestDB, folder: Path, provider: str) -> None:
    """From the first stored to the last every quote that the exchange sent is there, once, as received where it was."""
    live = quotes_received(folder, provider)
    for symbol in PROVIDERS[provider]["symbols"]:
        rows = questdb.sql.query(
            f"SELECT ts_event::long, sequence, bid, bid_size, ask, ask_size, flags & {BACKFILLED} FROM quotes "
            f"WHERE feed = 'fix-{provider}' AND symbol = '{symbol}' ORDER BY ts_event, sequence"
        ).rows
        assert len({tuple(row[:6]) for row in rows}) == len(rows)
        sent = quotes_sent(place, provider, symbol)
        assert {tuple(row[:6]) for row in rows} == {q for q in sent if rows[0][:2] <= list(q[:2]) <= rows[-1][:2]}
        fetched = {(symbol, *row[:2]) for row in rows if row[6]}
        assert fetched
        assert not fetched & live, "received live and overwritten"


def gaps_of(questdb: QuestDB, feed: str) -> list[dict[str, Any]]:
    return questdb.sql.rows(f"SELECT * FROM gaps WHERE feed = '{feed}' AND kind != 'time' ORDER BY ts_event")


def test_what_six_providers_dropped_and_what_a_cut_cost_is_fetched_and_stored_once(
    start: Callable[..., Recorder], questdb: QuestDB, tmp_path: Path
) -> None:
    with exchange(*PROVIDERS) as place:
        feeds = feeds_of(place, "fix")
        recorder = start(feeds, delay_s=0.5)
        for name in feeds:
            recorder.wait_event("feed.connected", feed=name)
            until(lambda: recorder.metric("recorder_frames_total", name) > 50, f"frames of {name}")  # noqa: B023
        for provider in ("coinbase", "coinbase-advanced", "binance", "kraken"):
            place.drop(provider, 5)
        for provider in place.providers:
            until(lambda: provider in QUOTED or len(place.truth(provider)["dropped"]) == 5)  # noqa: B023
            place.cut(provider)
        for name in feeds:
            recorder.wait_event("feed.connected", 2, feed=name)
        for name in feeds:
            until(lambda: closed(recorder, name) > 0, f"gaps of {name} repaired")  # noqa: B023
        lost = {name: [(s, n) for s, n in place.truth(name)["dropped"]] for name in place.providers}
        until(lambda: all(closed(recorder, name) for name in feeds), "no gap open")
        assert recorder.end() == 0, recorder.text()
        live = received(tmp_path / "home")
        for provider in place.providers:
            feed = f"fix-{provider}"
            assert_complete(questdb, feed, live[feed], lost[provider])
            gaps = gaps_of(questdb, feed)
            assert {gap["status"] for gap in gaps} == {"repaired", None}, gaps
            assert [gap["cause"] for gap in gaps if gap["symbol"] == "*" and gap["kind"] == "disconnect"]
            assert all(gap["missing"] in (None, gap["recovered"]) for gap in gaps if gap["symbol"] != "*"), gaps
        for provider in QUOTED:
            assert_quotes_complete(place, questdb, tmp_path / "home", provider)
            quotes = [gap for gap in gaps_of(questdb, f"fix-{provider}") if gap["channel"] == "quotes"]
            assert {gap["symbol"] for gap in quotes} == {"AAPL", "SPY"}
            assert {gap["status"] for gap in quotes} == {"repaired"}
            assert all(gap["missing"] is None and gap["recovered"] and UNVERIFIED in gap["cause"] for gap in quotes)
            ledger = questdb.sql.rows(f"SELECT * FROM coverage WHERE feed = 'fix-{provider}' AND channel = 'quotes'")
            assert sum(row["verified"] for row in ledger) == 0
            assert sum(row["repaired"] for row in ledger) == sum(gap["recovered"] for gap in quotes)
        assert recorder.events("gap.opened")
        assert recorder.events("gap.repaired")
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.stat().st_size]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]

    listing = ("gaps", "--feed", "fix-coinbase", "--config", tmp_path / "home" / "config.toml")
    shown = subprocess.run(command(*listing), capture_output=True, text=True, env=environment(), check=True).stdout
    assert "repaired" in shown
    assert "disconnect" in shown
    answer = subprocess.run(
        command(*listing, "--json"), capture_output=True, text=True, env=environment(), check=True
    ).stdout
    totals = json.loads(answer)["totals"]
    assert sum(each["gaps"] for each in totals) == len(json.loads(answer)["gaps"])


def test_trades_of_options_without_ids_that_a_cut_cost_are_fetched_and_stored_once(
    start: Callable[..., Recorder], questdb: QuestDB
) -> None:
    """Trades alike to the nanosecond count as often as they happened, whichever way each came."""
    contracts = ["AAPL  251219C00150000", "SPY   251219P00400000"]
    with Exchange(["alpaca"], symbols={"alpaca": contracts}, rate=300, rules=RULES) as place:
        feed = {
            "provider": "alpaca", "feed": "opra", "format": "msgpack", "symbols": contracts, "channels": ["trades"],
            "url": place.urls["alpaca"], "rest_url": place.rest_urls["alpaca"],
        }  # fmt: skip
        recorder = start({"opra": feed}, delay_s=0.5)
        for cuts in (0, 1, 2):
            recorder.wait_event("feed.connected", cuts + 1)
            frames = recorder.metric("recorder_frames_total", "opra")
            until(lambda: recorder.metric("recorder_frames_total", "opra") > frames + 50, "frames")  # noqa: B023
            if cuts < 2:
                place.cut("alpaca")
        until(lambda: closed(recorder, "opra") >= 4, "a gap of each contract for each cut repaired")
        assert recorder.end() == 0, recorder.text()
        for contract in contracts:
            name = contract.replace(" ", "")
            page = whole_page(place, "alpaca", f"/v1beta1/options/trades?symbols={name}&limit=10000")
            happened = [[time_of(each["t"]), each["p"], each["s"]] for each in page["trades"][name]]
            rows = questdb.sql.query(
                f"SELECT ts_event::long, price, size, flags & {BACKFILLED} FROM trades "
                f"WHERE feed = 'opra' AND symbol = '{contract}' ORDER BY ts_event"
            ).rows
            first, last = rows[0][0], rows[-1][0]
            assert sorted(row[:3] for row in rows) == sorted(each for each in happened if first <= each[0] <= last)
            assert len(rows) > 100
            assert any(row[3] for row in rows), "nothing came from history"
    gaps = gaps_of(questdb, "opra")
    assert {gap["status"] for gap in gaps if gap["symbol"] != "*"} == {"repaired"}
    assert questdb.sql.value("SELECT count() FROM rejected WHERE feed = 'opra'") == 0


@pytest.mark.timeout(600)  # half a minute on an idle machine
def test_a_feed_behind_a_broken_network_is_complete_once_and_has_the_right_values(
    start: Callable[..., Recorder], questdb: QuestDB
) -> None:
    """A connection crawls, stands still, ends amid a frame and amid a handshake, and stays half open; all faults of the
    network are in test_connection, where reconnecting takes no time."""
    with exchange("coinbase", rate=300) as place:
        target = urlsplit(place.urls["coinbase"])
        with Proxy((str(target.hostname), int(target.port or 0))) as proxy:
            feeds = feeds_of(place, "net")
            feeds["net-coinbase"]["url"] = place.urls["coinbase"].replace(f":{target.port}", f":{proxy.port}")
            recorder = start(feeds, delay_s=0.5)

            def of(name: str) -> float:
                return recorder.metric(name, "net-coinbase")

            def more_frames() -> None:
                until(lambda: of("recorder_connections_ready") == 1, "a connection")
                frames = of("recorder_frames_total")
                until(lambda: of("recorder_frames_total") > frames + 100, "frames")

            def amid_a_handshake() -> None:
                proxy.down.truncate(40)
                proxy.cut(reset=True)

            more_frames()
            proxy.down.bytes_s, proxy.down.delay_s = 5000, 0.05
            time.sleep(0.7)
            proxy.down.bytes_s, proxy.down.delay_s = None, 0.0
            proxy.down.stall()
            time.sleep(0.7)
            proxy.down.flow()
            more_frames()
            assert of("recorder_reconnects_total") == 0, "a slow network is no lost connection"
            for fault in (lambda: proxy.down.truncate(333), amid_a_handshake, lambda: proxy.down.stall_after(77)):
                reconnects = of("recorder_reconnects_total")
                fault()
                until(lambda: of("recorder_reconnects_total") > reconnects, "another connection")  # noqa: B023
                more_frames()
            until(lambda: closed(recorder, "net-coinbase") > 0, "every gap closed")
            assert recorder.end() == 0, recorder.text()
        sent = {symbol: dict(trades) for symbol, trades in place.trades("coinbase").items()}
    rows = questdb.sql.query("SELECT symbol, trade_id, price, size FROM trades WHERE feed = 'net-coinbase'").rows
    stored: dict[str, dict[int, tuple[float, float]]] = {symbol: {} for symbol in sent}
    for symbol, number, price, size in rows:
        assert number not in stored[symbol], f"{symbol} {number} is stored twice"
        stored[symbol][number] = price, size
    for symbol, own in stored.items():
        assert sorted(own) == list(range(min(own), max(own) + 1)), f"{symbol}: trades are missing"
        assert own.items() >= {(n, values) for n, values in sent[symbol].items() if min(own) <= n <= max(own)}
        assert len(own) > 300
    assert {gap["status"] for gap in gaps_of(questdb, "net-coinbase")} == {"repaired", None}


def test_a_repair_that_kill_9_ended_is_completed_after_the_restart(
    start: Callable[..., Recorder], questdb: QuestDB, tmp_path: Path
) -> None:
    with exchange("coinbase", rate=3000) as place:
        feeds = feeds_of(place, "mid")
        recorder = start(feeds, delay_s=0.2)
        recorder.wait_event("feed.connected")
        until(lambda: recorder.metric("recorder_rows_queryable_total") > 500, "rows")
        place.refuse("coinbase", 3)
        place.cut("coinbase")
        asked = ("recorder_history_requests_total", "mid-coinbase", "200")
        until(lambda: recorder.metric(*asked) >= 2, "a repair under way")
        recorder.kill()
        again = start(feeds, delay_s=0.2)
        again.wait_event("feed.connected")

        def repaired() -> bool:
            status = [gap["status"] for gap in gaps_of(questdb, "mid-coinbase") if gap["symbol"] != "*"]
            return status.count("repaired") == len(status) == 4  # two symbols, cut off and killed

        until(repaired, "the gaps repaired")
        assert again.end() == 0, again.text()
        assert_complete(questdb, "mid-coinbase", received(tmp_path / "home")["mid-coinbase"], [])
        gaps = gaps_of(questdb, "mid-coinbase")
        assert {gap["status"] for gap in gaps if gap["symbol"] != "*"} == {"repaired"}
        assert sum(gap["missing"] or 0 for gap in gaps) > 1000
        assert len([gap for gap in gaps if gap["symbol"] == "*"]) >= 2
