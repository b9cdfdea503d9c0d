"""Refusals that providers document for their history, over real sockets: what a user is told, how long they are left
alone, that nothing is stored of it, and that an answer which was one is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from recorder.core import history
from recorder.core.frames import RESPONSE, SOURCE, frames_from_list
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell import pace, questions
from recorder.shell.pace import Pace
from recorder.shell.questions import Questions
from recorder.shell.simulator import Simulator
from recorder.shell.simulator.rest import Answer
from recorder.values.config import KernelsConfig
from recorder.values.errors import RecorderError
from recorder.values.feed import SECOND, FeedSpec, HistoryRequest
from recorder.values.tables import BARS, REJECTED

BASE = 1_790_000_010 * SECOND  # ten seconds into every window of this test
WINDOW_S = 100
KEYS = {"APCA_API_KEY_ID": "k", "APCA_API_SECRET_KEY": "s", "POLYGON_API_KEY": "k"}
# simulated provider → provider, options, symbol
PROVIDERS: dict[str, tuple[str, dict[str, str], str]] = {
    "binance": ("binance", {}, "BTC-USDT"),
    "binance-usdm": ("binance", {"market": "usdm"}, "BTC-USDT-PERP"),
    "okx": ("okx", {}, "BTC-USDT"),
    "bybit": ("bybit", {}, "BTC-USDT"),
    "deribit": ("deribit", {}, "BTC-USD-PERP"),
    "kraken": ("kraken", {}, "BTC-USD"),
    "coinbase": ("coinbase", {}, "BTC-USD"),
    "coinbase-advanced": ("coinbase", {"api": "advanced"}, "BTC-USD"),
    "bitstamp": ("bitstamp", {}, "BTC-USD"),
    "alpaca": ("alpaca", {"feed": "iex"}, "AAPL"),
    "polygon": ("polygon", {}, "AAPL"),
}


@dataclass
class Clock:
    """Stands still but for the pauses that are taken."""

    now: int = BASE
    slept: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += round(seconds * SECOND)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "asyncio", SimpleNamespace(sleep=clock.sleep))
    monkeypatch.setattr(questions, "asyncio", SimpleNamespace(sleep=clock.sleep))
    monkeypatch.setattr(questions, "time", SimpleNamespace(time=lambda: clock.now / SECOND))
    return clock


class Told:
    def __init__(self) -> None:
        self.warnings: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.warnings.append((event, fields))


@dataclass
class Outcome:
    """What became of a question: the error's text, empty without one; its answers as kept; how many rows they made."""

    error: str = ""
    kept: list[bytes] = field(default_factory=list)
    bars: int = 0
    rejected: list[str] = field(default_factory=list)
    complete: bool = False


class Rig:
    """One provider's history, asked by one who waits for it."""

    def __init__(self, key: str, clock: Clock, keys: dict[str, str] | None = None, **rules: object) -> None:
        self.key, (self.provider, self.options, self.symbol) = key, PROVIDERS[key]
        self.clock, self.told, self.keys = clock, Told(), keys or KEYS
        rules = {"keys": {"k": "s"}, "requests": (1 << 30, 1), **rules}
        self.sim = Simulator([key], total=0, symbols=[self.symbol], wall=lambda: clock.now, rules={key: rules})
        self.pace = Pace(lambda: clock.now / SECOND, lambda: 0.0, None, lambda: clock.now)

    def run(self, *steps: Callable[[], Any], symbols: tuple[str, ...] = ()) -> list[Outcome]:
        """Ask for ten minutes of each symbol; of the provider's own without any."""

        async def run() -> list[Outcome]:
            async with self.sim:
                for step in steps:
                    step()
                own = {"url": self.sim.url(self.key), "rest_url": self.sim.rest_url(self.key)}
                spec = FeedSpec(name="f", provider=self.provider, options=self.options, symbols=(self.symbol,), **own)
                feed: Any = make(spec, self.keys)
                asked = Questions(self.provider, feed.capability(), self.told, self.pace)
                try:
                    return [await self._ask(spec, feed, asked, symbol) for symbol in symbols or (self.symbol,)]
                finally:
                    asked.close()

        return asyncio.run(run())

    async def _ask(self, spec: FeedSpec, feed: Any, asked: Questions, symbol: str) -> Outcome:
        end = BASE // (60 * SECOND) * 60 * SECOND
        found, request = Outcome(), HistoryRequest(symbol, "bars", end - 600 * SECOND, end - SECOND, timeframe="1m")
        payloads = []
        try:
            async for payload in asked.history(feed, request):
                payloads += [payload]
        except RecorderError as error:
            found.error = str(error)
        source = msgspec.json.encode(msgspec.structs.replace(spec, connection=history.HISTORY_CONNECTION))
        pipeline = Pipeline(KernelsConfig(), make)
        pipeline.consume(frames_from_list([(SOURCE, 0, BASE, source), *((RESPONSE, 0, BASE, p) for p in payloads)]))
        for table in pipeline.seal().tables:
            if table.table is BARS:
                found.bars = len(table.rows)
            if table.table is REJECTED:
                found.rejected = [str(row["reason"]) for row in table.rows]
        pages = [history.decode(payload) for payload in payloads]
        found.kept = [body for _, body in pages]
        found.complete = any(page.last for page, _ in pages)
        return found


def json_of(status: int, body: object, **headers: str) -> Answer:
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


# Errors that waiting does not mend: provider; what it answers, None for what the simulator says of its own; its words
NO_SUCH_SYMBOL = "ZZZ-USD"
REFUSALS: list[tuple[str, Answer | None, str]] = [
    ("binance", None, 'HTTP 400: {"code":-1121,"msg":"Invalid symbol."}'),
    ("binance", json_of(400, {"code": -1100, "msg": "Illegal characters found in a parameter."}), "Illegal characters"),
    ("binance", json_of(403, "<html>WAF Limit violated</html>"), "HTTP 403: <html>WAF Limit violated"),
    ("binance-usdm", None, "-1121"),
    ("okx", None, "OKX: 51001 Instrument ID"),
    (
        "okx",
        json_of(200, {"code": "51000", "msg": "Parameter bar error", "data": []}),
        "OKX: 51000 Parameter bar error",
    ),
    ("okx", json_of(200, {"code": "50014", "msg": "Parameter instId can not be empty", "data": []}), "OKX: 50014"),
    ("bybit", None, "Bybit: 10001 Not supported symbols"),
    ("deribit", None, 'HTTP 400: {"jsonrpc":"2.0","error":{"code":-32602,"message":"Invalid params"}}'),
    ("deribit", json_of(200, {"jsonrpc": "2.0", "error": {"code": 13020, "message": "not_found"}}), "not_found"),
    ("kraken", None, "Kraken: EQuery:Unknown asset pair"),
    ("kraken", json_of(200, {"error": ["EGeneral:Invalid arguments"]}), "Kraken: EGeneral:Invalid arguments"),
    ("kraken", json_of(200, {"error": ["EService:Unavailable"]}), "Kraken: EService:Unavailable"),
    ("coinbase", None, 'HTTP 404: {"message":"NotFound"}'),
    ("coinbase-advanced", None, 'HTTP 404: {"message":"NotFound"}'),
    ("bitstamp", None, 'HTTP 404: {"code":"Not found"}'),
    ("alpaca", json_of(400, {"message": "invalid timeframe"}), "HTTP 400"),
    ("alpaca", json_of(401, {"message": "unauthorized."}), 'HTTP 401: {"message":"unauthorized."}'),
    ("alpaca", json_of(404, {"message": "endpoint not found."}), 'HTTP 404: {"message":"endpoint not found."}'),
    ("alpaca", json_of(422, {"code": 42210000, "message": "invalid asof"}), "invalid asof"),
    ("polygon", json_of(200, {"status": "ERROR", "request_id": "r", "error": "bad span"}), "Massive: ERROR bad span"),
    (
        "polygon",
        json_of(200, {"status": "NOT_AUTHORIZED", "request_id": "r", "message": "You are not entitled"}),
        "Massive: NOT_AUTHORIZED You are not entitled",
    ),
    (
        "polygon",
        json_of(404, {"status": "NOT_FOUND", "request_id": "r", "message": "Data not found."}),
        "Data not found.",
    ),
]


@pytest.mark.parametrize(("key", "answer", "words"), REFUSALS)
def test_a_refusal_is_told_in_the_providers_words_and_stores_nothing(
    clock: Clock, key: str, answer: Answer | None, words: str
) -> None:
    rig, first = Rig(key, clock), NO_SUCH_SYMBOL
    if key.endswith("usdm"):
        first += "T-PERP"
    if answer is not None:
        first = rig.symbol
    refused, good = rig.run(
        lambda: answer and rig.sim.fail_http(key, answer), symbols=(first, rig.symbol)
    )  # who was refused one question asks the next
    assert words in refused.error.replace('": ', '":').replace(', "', ',"')
    assert (refused.bars, refused.complete) == (0, False)
    assert (good.error, good.complete, good.rejected) == ("", True, [])
    assert good.bars == (10 if key != "polygon" else 0)
    http = "HTTP" in refused.error
    assert (len(refused.kept), len(refused.rejected)) == ((0, 0) if http else (1, 1))
    assert rig.told.warnings == []
    assert max(clock.slept, default=0) <= 1.0


KEY_REFUSALS: list[tuple[str, dict[str, str], dict[str, object], str]] = [
    ("alpaca", {**KEYS, "APCA_API_SECRET_KEY": "another"}, {}, 'HTTP 403: {"message":"forbidden."}'),
    ("alpaca", KEYS, {"not_in_plan": ["iex"]}, '"message":"subscription does not permit querying recent SIP data"'),
    ("polygon", {"POLYGON_API_KEY": "another"}, {}, '"status":"ERROR","request_id":"6a7e466379af0a71039d60cc78e72282"'),
    ("polygon", KEYS, {"not_in_plan": ["stocks"]}, '"status":"NOT_AUTHORIZED"'),
]


@pytest.mark.parametrize(("key", "keys", "rules", "words"), KEY_REFUSALS)
def test_a_key_or_a_plan_that_does_not_allow_it_is_told_and_asked_once(
    clock: Clock, key: str, keys: dict[str, str], rules: dict[str, object], words: str
) -> None:
    rig = Rig(key, clock, keys, **rules)
    (refused,) = rig.run()
    assert words in refused.error
    assert (refused.kept, refused.bars) == ([], 0)
    assert rig.sim._stages[key].rest.requests == 1


# What one who asks too much is answered by each simulator of its own accord, and how long it is to be left alone then.
LIMITS: list[tuple[str, int, str, float]] = [
    ("binance", 4, "HTTP 429 ", 90.0),  # Retry-After
    ("binance-usdm", 20, "HTTP 429 ", 90.0),
    ("okx", 1, "HTTP 429 ", 90.0),
    ("deribit", 1, "HTTP 429 ", 90.0),
    ("kraken", 1, "HTTP 200 ", 90.0),
    ("coinbase", 1, "HTTP 429 ", 90.0),
    ("coinbase-advanced", 1, "HTTP 429 ", 90.0),
    ("bitstamp", 1, "HTTP 400 ", 90.0),
    ("polygon", 1, "HTTP 429 ", 90.0),
]


@pytest.mark.parametrize(("key", "most", "words", "wait_s"), LIMITS)
def test_who_asks_too_much_waits_as_long_as_told_and_is_answered(
    clock: Clock, key: str, most: int, words: str, wait_s: float
) -> None:
    rig = Rig(key, clock, requests=(most, WINDOW_S))
    first, second = rig.run(symbols=(PROVIDERS[key][2],) * 2)
    assert (first.error, second.error) == ("", "")
    assert (first.bars, second.bars) == ((10, 10) if key != "polygon" else (0, 0))
    ((event, fields),) = rig.told.warnings
    assert event == "history.limited"
    assert words.split()[1] == str(fields["status"])
    assert fields["wait_s"] == pytest.approx(wait_s, abs=1.5)
    assert sum(clock.slept) == pytest.approx(wait_s, abs=1.5)


@pytest.mark.parametrize("key", ["alpaca", "binance", "binance-usdm", "bybit"])
def test_who_reads_that_nothing_is_left_is_never_refused(clock: Clock, key: str) -> None:
    """Also where others who share the address have used the rest of the provider's minute."""
    most = {"alpaca": 3, "bybit": 3, "binance": 6000, "binance-usdm": 2400}[key]
    rig = Rig(key, clock, requests=(most, 60))

    def neighbours() -> None:
        if key.startswith("binance"):
            rest = rig.sim._stages[key].rest
            rest._window, rest._spent = clock.now // (60 * SECOND), most - 30

    answers = rig.run(neighbours, symbols=(rig.symbol,) * 7)
    assert [(each.error, each.complete) for each in answers] == [("", True)] * 7
    assert rig.told.warnings == []
    assert 20.0 <= sum(clock.slept) <= 150.0


IN_A_MINUTE = str((BASE // SECOND + 60) * 1000)
# Other words for the same, on command: what is answered, how long it is left alone; None: asked no more by who waits.
PAUSES: list[tuple[str, Answer, float | None]] = [
    ("binance", json_of(429, {"code": -1003, "msg": "Too much request weight used"}, Retry_After="7"), 7.0),
    ("binance", json_of(418, {"code": -1003, "msg": "Way too much; IP banned until"}, Retry_After="120"), 300.0),
    ("binance", json_of(418, {"code": -1003, "msg": "Way too much; IP banned until"}, Retry_After="7200"), None),
    ("okx", json_of(200, '{"code":"50011","msg":"Too Many Requests","data":[]}'), 15.0),
    ("bybit", json_of(200, '{"retCode":10006,"retMsg":"Too many visits!","result":{}}'), 15.0),
    ("bybit", Answer(200, '{"retCode":10006,"retMsg":"Too many visits!","result":{}}',
                     {"X-Bapi-Limit-Reset-Timestamp": IN_A_MINUTE}), 60.0),
    ("bybit", Answer(403, "403, access too frequent"), None),
    ("deribit", json_of(200, '{"jsonrpc":"2.0","error":{"code":10028,"message":"too_many_requests"}}'), 15.0),
    ("kraken", json_of(200, {"error": ["EAPI:Rate limit exceeded"]}), 15.0),
    ("kraken", json_of(200, {"error": ["EService: Throttled: 1790000000"]}), 15.0),
    ("alpaca", json_of(429, {"message": "too many requests."}), 15.0),
    ("polygon", json_of(429, {"status": "ERROR", "error": "You've exceeded the maximum requests"}), 15.0),
]  # fmt: skip


@pytest.mark.parametrize(("key", "answer", "wait_s"), PAUSES)
def test_words_for_too_much_are_obeyed_whatever_their_status(
    clock: Clock, key: str, answer: Answer, wait_s: float | None
) -> None:
    rig = Rig(key, clock)
    (found,) = rig.run(lambda: rig.sim.fail_http(key, answer))
    ((_, fields),) = rig.told.warnings
    assert fields["status"] == answer.status
    if wait_s is None:
        assert f"HTTP {answer.status}" in found.error
        assert "it is not to be asked for" in found.error
        assert found.kept == []
        assert rig.pace.held_s >= 600.0
        assert clock.slept == []
    else:
        assert (found.error, found.complete, found.rejected) == ("", True, [])
        assert fields["wait_s"] == wait_s
        assert sum(clock.slept) == pytest.approx(wait_s, abs=1.0)


@pytest.mark.parametrize(("key", "status"), [*((key, 503) for key in PROVIDERS), ("alpaca", 500), ("polygon", 499)])
def test_a_server_with_a_problem_is_asked_again(clock: Clock, key: str, status: int) -> None:
    rig = Rig(key, clock)
    (found,) = rig.run(lambda: rig.sim.fail_http(key, status, 2))
    assert (found.error, found.complete) == ("", True)
    assert rig.sim._stages[key].rest.requests == 3
