"""Providers without the recorder: nothing is written, what they answer is decoded as it would be recorded.

    async with recorder.provider("alpaca", feed="sip") as alpaca:
        bars = await alpaca.get_bars("AAPL", "2026-08-01", "2026-08-08", "1h")
        bars[0].close, bars.arrow(), bars.pandas()

Answers and frames go through the pipeline that records them, so a row here is the row that the table would have.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from recorder.commands.chain import asking_options
from recorder.commands.library_arguments import When, checked_range, checked_symbol, checked_symbols, ns_of
from recorder.commands.library_rows import Rows, row_type
from recorder.commands.logins import session_of
from recorder.commands.past import canonical, historian
from recorder.core import fix_frames, frames, websocket_frames
from recorder.core.encode_client import values_of
from recorder.core.frames import POLLED, RESPONSE, SOURCE, Frames, frames_from_list
from recorder.core.gate import Gate
from recorder.core.history import HISTORY_CONNECTION
from recorder.core.pipeline import Pipeline
from recorder.feeds import ACTIONS, PROVIDERS, make
from recorder.shell import fix
from recorder.shell import log as logs
from recorder.shell.connection import Connection
from recorder.shell.history_client import HistoryClient
from recorder.shell.journal import Journal
from recorder.shell.pace import Pace
from recorder.shell.poller import BODY_BYTES_MAX, TIMEOUT_S
from recorder.shell.questions import Questions
from recorder.values.chains import CHANNEL
from recorder.values.config import KernelsConfig, LoginConfig, credentials, wanted_credentials
from recorder.values.config_check import checked_feed
from recorder.values.errors import ConfigError, FrameError, RecorderError, nearest
from recorder.values.feed import Capability, FeedSpec, HistoryRequest
from recorder.values.schema import Table
from recorder.values.symbols import ticker
from recorder.values.tables import BARS, CORPORATE_ACTIONS, OPTIONS_CHAIN, QUOTES, REJECTED, TRADES

SEGMENT_BYTES = 4 << 20  # of a stream's frames, which are forgotten once they are rows
QUOTE_TIMEOUT_S = 30.0  # a quoted symbol has one within seconds; a closed market none
STREAM_LOOK_S = 0.05  # the longest that a row waits for others
STREAMED = ("websocket", "sse", "fix")  # transports that this listens to
DAY_NS = 86_400 * 10**9
MARKET = (TRADES, QUOTES, BARS, OPTIONS_CHAIN, CORPORATE_ACTIONS)  # what may be asked for

Callback = Callable[[Rows], Awaitable[None] | None]

# By provider and address: all who ask one in this process keep one pace, and open connections through one gate.
_paces: dict[tuple[str, str | None], Pace] = {}
_gates: dict[tuple[str, str | None], Gate] = {}


class NotOffered(RecorderError):
    """The provider has no such thing; the text says who has."""


class _Fold:
    """The pipeline over frames that nobody keeps."""

    def __init__(self, spec: FeedSpec, kernels: KernelsConfig) -> None:
        self._pipeline, self._position = Pipeline(kernels, make), 0
        self._found: dict[Table, list[Any]] = {}
        self._rejected: list[str] = []
        self._consume(SOURCE, msgspec.json.encode(msgspec.structs.replace(spec, connection=HISTORY_CONNECTION)))

    def _consume(self, kind: int, payload: bytes) -> None:
        added = frames_from_list([(kind, 0, time.time_ns(), payload)], self._position)
        self._position = added.end
        self._pipeline.consume(added)

    def add(self, kind: int, payload: bytes) -> None:
        """Take one answer. Raises FrameError when it gives nothing but rejects."""
        self._consume(kind, payload)
        found = _sealed(self._pipeline)
        rejected = [each.reason for each in found.get(REJECTED.name, ())]
        if rejected and not any(table.name in found for table in MARKET):
            raise FrameError(rejected[0])
        self._rejected += rejected
        for rows in found.values():
            self._found.setdefault(rows.table, []).extend(rows)

    def rows(self, table: Table) -> Rows:
        """What came of the answers."""
        return Rows(table, self._found.get(table, ()), self._rejected)


@cache
def _compile() -> None:
    """Compile what reads frames, or load it from the cache: up to a minute that no event loop should wait for."""
    for module in (frames, websocket_frames, fix_frames, Pipeline(KernelsConfig(), make)):
        module.warm()


def _sealed(pipeline: Pipeline) -> dict[str, Rows]:
    sealed = pipeline.seal()
    return {
        part.table.name: Rows(part.table, [row_type(part.table)(**row) for row in values_of(part, sealed.dictionary)])
        for part in sealed.tables
    }


class Provider:
    """One provider. Use it as an async context manager.

    keys     by the names of the environment variables, whose values they replace
    kernels  what [kernels] of config.toml would say: rates and dividends for Greeks, windows
    options  of the provider, as in config.toml: feed, market, api …
    """

    def __init__(
        self, name: str, *, keys: Mapping[str, str] | None = None, url: str | None = None, rest_url: str | None = None,
        kernels: KernelsConfig | None = None, **options: Any,
    ) -> None:  # fmt: skip
        if name not in PROVIDERS:
            raise ConfigError(f"{name!r} is no provider; {nearest(name, PROVIDERS)}")
        info = PROVIDERS[name]
        given = {"url": url} if url is not None else {}
        entry = {"name": name, "provider": name, "channels": list(info.channels), "symbols": ["X"], **given, **options}
        checked = checked_feed("recorder.provider", entry, PROVIDERS, Path.cwd())
        self._wanted = wanted_credentials(info, checked)
        known = {*self._wanted, *(key for each in PROVIDERS.values() for key in each.credentials)}
        for key, value in (keys or {}).items():  # those of other providers do no harm
            if key not in known:
                raise ConfigError(f"keys: nobody wants {key!r}; {nearest(key, self._wanted or known)}")
            if not isinstance(value, str):
                raise ConfigError(f"keys: {key} is a {type(value).__name__}; expected a text")
        self._keys = {key: value for key, value in (keys or {}).items() if key in self._wanted}
        self.name, self._options = name, {key: checked.options[key] for key in options}
        self._url, self._rest_url = url, rest_url
        self._kernels = kernels or KernelsConfig()
        self._log: Any = logs.get("recorder")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Provider:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def get_bars(self, symbol: str, start: When, end: When, timeframe: str = "1d") -> Rows:
        """Bars that begin from ``start`` to ``end``, the raw ones. Raises NotOffered, ConfigError, Unanswered."""
        return await self._past(BARS, symbol, start, end, timeframe)

    async def get_trades(self, symbol: str, start: When, end: When) -> Rows:
        """Trades from ``start`` to ``end``, both included. Raises NotOffered, ConfigError, Unanswered."""
        return await self._past(TRADES, symbol, start, end)

    async def get_quotes(self, symbol: str, start: When, end: When) -> Rows:
        """Quotes from ``start`` to ``end``, both included. Raises NotOffered, ConfigError, Unanswered."""
        return await self._past(QUOTES, symbol, start, end)

    async def get_latest_quote(self, symbol: str) -> Any:
        """The best bid and offer now: asked for, or the first that the stream sends.

        Raises NotOffered, ConfigError, RecorderError when it is refused, and TimeoutError when nobody quotes it.
        """
        spec, feed = self._now("latest quote", "quotes", (*STREAMED, "poll"), (checked_symbol(symbol),))
        await asyncio.to_thread(_compile)  # before time is counted
        if feed.capability().transport == "poll":
            quotes = await self._polled(spec, QUOTES)
            if not quotes:
                raise RecorderError(f"{self.name} sent no quote of {symbol}")
            return quotes[-1]
        wanted = {name for shard in feed.shards() for name in shard.symbols}  # canonical
        async with asyncio.timeout(QUOTE_TIMEOUT_S), contextlib.aclosing(self._stream(spec)) as stream:
            async for rows in stream:
                if quoted := [quote for quote in rows.get(QUOTES.name, ()) if quote.symbol in wanted]:
                    return quoted[-1]
        raise AssertionError("a stream ends by being left only")

    async def get_options_chain(self, symbol: str, expiration: str | date | None = None) -> Rows:
        """Every contract on ``symbol``, or those that expire that day. Raises NotOffered, ConfigError, Unanswered."""
        how = asking_options(self.name)
        if how is None:
            have = ", ".join(name for name in PROVIDERS if asking_options(name) is not None)
            raise NotOffered(f"{self.name} has no option chains to ask for; {have} have")
        day = None if expiration is None else ns_of(expiration, "expiration") // DAY_NS
        chain = await self._polled(self._spec((CHANNEL,), (checked_symbol(symbol),), **how), OPTIONS_CHAIN)
        return Rows(OPTIONS_CHAIN, [leg for leg in chain if day in (None, leg.expiration // DAY_NS)], chain.rejected)

    async def get_corporate_actions(self, symbols: Iterable[str], start: When, end: When) -> Rows:
        """Splits, dividends, symbol changes with ex dates in between. Raises NotOffered, ConfigError, Unanswered."""
        if self.name not in ACTIONS:
            raise NotOffered(f"{self.name} tells no corporate actions; {', '.join(ACTIONS)} do")
        spec = FeedSpec(
            name=self.name, provider=self.name, channels=("actions",), url=self._url, rest_url=self._rest_url
        )
        first, last = checked_range(start, end)
        found: list[Any] = []
        rejected: list[str] = []
        for symbol in checked_symbols(symbols):
            request = HistoryRequest(ticker(symbol), "actions", first, last)
            rows = await self._asked(spec, make(spec, self._credentials(spec)), request, CORPORATE_ACTIONS)
            found += rows
            rejected += rows.rejected
        return Rows(CORPORATE_ACTIONS, found, rejected)

    async def stream_trades(self, symbols: Iterable[str], callback: Callback) -> None:
        """Call ``callback`` with trades as they come, until cancelled or the context is left.

        Connections are kept, opened again and paced as the recorder does; they are closed when this ends, by an
        exception of ``callback`` too. Raises NotOffered, ConfigError, and RecorderError for what the provider refuses.
        """
        if not callable(callback):
            raise ConfigError(f"callback is a {type(callback).__name__}; expected a function that takes rows")
        spec, _ = self._now("stream of trades", "trades", STREAMED, checked_symbols(symbols))
        async with contextlib.aclosing(self._stream(spec)) as stream:
            async for rows in stream:
                if trades := rows.get(TRADES.name):
                    result = callback(trades)
                    if inspect.isawaitable(result):
                        await result

    # Within

    def _credentials(self, spec: FeedSpec | None = None, needed: bool = False) -> dict[str, str]:
        """Of the environment and as given; nothing logs them. ``needed``: raises ConfigError when one is not there."""
        info = PROVIDERS[self.name]
        found = {**credentials(info, os.environ, spec), **self._keys}
        missing = [key for key in self._wanted if key not in found and key not in info.optional]
        if needed and missing:
            names = " and ".join(missing)
            raise ConfigError(f"{self.name} wants a key: set {names} in the environment, or give keys={{…}}")
        for secret in found.values():
            logs.redact(secret)
        return found

    def _spec(self, channels: tuple[str, ...], symbols: tuple[str, ...], **options: str) -> FeedSpec:
        return FeedSpec(
            name=self.name, provider=self.name, channels=channels, symbols=symbols,
            options={**self._options, **options}, url=self._url, rest_url=self._rest_url,
        )  # fmt: skip

    def _now(
        self, what: str, channel: str, transports: Sequence[str], symbols: tuple[str, ...]
    ) -> tuple[FeedSpec, Any]:
        """What a channel's newest is had with. Raises NotOffered where it does not come in one of these ways."""
        spec = self._spec((channel,), symbols)
        if channel in PROVIDERS[self.name].channels:
            feed = self._feed(spec)
            if feed.capability().transport in transports:
                return spec, feed
        have = [name for name in PROVIDERS if (known := _capability(name, channel)) and known.transport in transports]
        raise NotOffered(f"{self.name} has no {what}; {', '.join(have)} have")

    def _feed(self, spec: FeedSpec) -> Any:
        return make(spec, self._credentials(spec))

    async def _past(self, table: Table, symbol: str, start: When, end: When, timeframe: str = "") -> Rows:
        first, last = checked_range(start, end)
        if not isinstance(timeframe, str):
            raise ConfigError(f"timeframe is {timeframe!r}; expected a text such as '1m', '1h' or '1d'")
        info = PROVIDERS[self.name]
        spec, keys = self._spec((), (checked_symbol(symbol),)), self._credentials()
        plain, feed = historian(spec, table.name, keys)
        if not _remembers(feed.capability(), table.name):
            have = [name for name in PROVIDERS if _remembers(_capability(name), table.name)]
            if self.name in have and self._url and not self._rest_url:
                raise ConfigError(f"{self.name}: url is not the provider's own, so rest_url must say where its past is")
            raise NotOffered(f"{self.name} has no history of {table.name}; {', '.join(have)} have")
        if table.name in feed.capability().history_channels:
            (name,) = canonical(plain, plain.symbols, keys)
            request = HistoryRequest(name, table.name, first, last, timeframe=timeframe)
            rows = await self._asked(plain, feed, request, table)
        else:
            named = {"timeframe": timeframe} if "timeframe" in info.options else {}
            rows = await self._polled(self._spec((table.name,), (symbol,), **named), table)
        return Rows(table, [row for row in rows if first <= row.ts_event <= last], rows.rejected)

    @contextlib.contextmanager
    def _questions(self, spec: FeedSpec, capability: Any) -> Iterator[Questions]:
        keys = self._credentials(spec, needed=True)
        client, signer = HistoryClient(BODY_BYTES_MAX, TIMEOUT_S), session_of(spec, keys, LoginConfig().dir)
        pace = _paces.setdefault((spec.provider, spec.rest_url), Pace())
        questions = Questions(spec.provider, capability, self._log, pace, client, signer)
        try:
            yield questions
        finally:
            questions.close()

    async def _asked(self, spec: FeedSpec, feed: Any, request: HistoryRequest, table: Table) -> Rows:
        fold = _Fold(spec, self._kernels)
        with self._questions(spec, feed.capability()) as questions:
            await asyncio.to_thread(_compile)
            async for payload in questions.history(feed, request):
                fold.add(RESPONSE, payload)
        return fold.rows(table)

    async def _polled(self, spec: FeedSpec, table: Table) -> Rows:
        feed, fold = self._feed(spec), _Fold(spec, self._kernels)
        with self._questions(spec, feed.capability()) as questions:
            await asyncio.to_thread(_compile)
            for poll in feed.polls():
                async for payload in questions.poll(poll):
                    fold.add(POLLED, payload)
        return fold.rows(table)

    async def _stream(self, spec: FeedSpec) -> AsyncGenerator[dict[str, Rows], None]:
        """Rows by table as they come; the connections end when this is closed. Raises RecorderError when refused."""
        keys, woken = self._credentials(spec, needed=True), asyncio.Event()
        feed, gate = self._feed(spec), _gates.setdefault((spec.provider, spec.url), Gate())
        fixed = feed.capability().transport == "fix"
        if fixed and spec.options.get("numbers") == "keep":
            raise ConfigError(f'{self.name}: numbers = "keep" is for recorders, which keep them; leave it out')

        def another(shard: FeedSpec) -> Any:
            return make(shard, keys)

        await asyncio.to_thread(_compile)
        pipeline = Pipeline(self._kernels, make)
        with (
            tempfile.TemporaryDirectory(prefix="recorder-") as folder,
            Journal.open(Path(folder) / "journal", segment_bytes=SEGMENT_BYTES, compress=False) as journal,
        ):
            connect = fix.connector(Path(folder)) if fixed else None
            connections = [
                Connection(shard, another(shard), journal, woken.set, self._log, gate=gate, make_feed=another,
                           connect=connect)
                for shard in feed.shards()
            ]  # fmt: skip
            tasks = [asyncio.create_task(connection.run()) for connection in connections]
            self._tasks.update(tasks)
            position = journal.begin
            try:
                while True:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(STREAM_LOOK_S):  # wait_for of 3.11 may swallow a cancellation
                            await woken.wait()
                    woken.clear()
                    for task in tasks:
                        if task.done():
                            task.result()
                    for connection in connections:
                        if connection.session.fatal:  # trying again cannot help
                            raise RecorderError(f"{self.name}: {connection.reason}")
                    read: Frames | None
                    while (read := journal.read(position)) is not None:
                        pipeline.consume(read)
                        position = read.end
                    journal.release(position)
                    if rows := _sealed(pipeline):
                        yield rows
            finally:
                await asyncio.gather(*(connection.stop() for connection in connections), return_exceptions=True)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._tasks.difference_update(tasks)


def _capability(name: str, channel: str | None = None) -> Capability | None:
    """Of a provider with its first options and this channel, else its first; None where these do not go together."""
    channels = PROVIDERS[name].channels[:1] if channel is None else (channel,)
    try:
        return make(FeedSpec(name=name, provider=name, channels=channels)).capability()
    except RecorderError:
        return None


def _remembers(capability: Capability | None, channel: str) -> bool:
    """Whether a channel's past can be asked for; some who are asked answer with their newest past each time."""
    if capability is None:
        return False
    asked = capability.transport == "poll" and bool(capability.history) and channel in capability.channels
    return asked or channel in capability.history_channels
