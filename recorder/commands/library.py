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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any, overload

import msgspec

from recorder.commands.chain import asking_options
from recorder.commands.logins import session_of
from recorder.core.encode_client import values_of
from recorder.core.frames import POLLED, RESPONSE, SOURCE, Frames, frames_from_list
from recorder.core.history import HISTORY_CONNECTION
from recorder.core.pipeline import Pipeline
from recorder.feeds import ACTIONS, PROVIDERS, actions_info, make
from recorder.shell import log as logs
from recorder.shell.connection import Connection
from recorder.shell.history_client import HistoryClient
from recorder.shell.journal import Journal
from recorder.shell.poller import BODY_BYTES_MAX, TIMEOUT_S
from recorder.shell.questions import Questions
from recorder.values.chains import CHANNEL
from recorder.values.config import KernelsConfig, LoginConfig, credentials
from recorder.values.errors import ConfigError, FrameError, RecorderError, nearest
from recorder.values.feed import Capability, FeedSpec, HistoryRequest, ProviderInfo
from recorder.values.schema import Table
from recorder.values.tables import BARS, CORPORATE_ACTIONS, OPTIONS_CHAIN, QUOTES, REJECTED, TRADES
from recorder.values.times import parse_time

SEGMENT_BYTES = 4 << 20  # of a stream's frames, which are forgotten once they are rows
QUOTE_TIMEOUT_S = 30.0  # a quoted symbol has one within seconds; a closed market none
STREAM_LOOK_S = 0.05  # the longest that a row waits for others
STREAMED = ("websocket", "sse")  # transports that this listens to
MARKET = (TRADES, QUOTES, BARS, OPTIONS_CHAIN, CORPORATE_ACTIONS)  # what may be asked for
_TYPES = {"double": float, "long": int, "int": int, "timestamp": int}

When = int | str | date | datetime
Callback = Callable[["Rows"], Awaitable[None] | None]


class NotOffered(RecorderError):
    """The provider has no such thing; the text says who has."""


@cache
def row_type(table: Table) -> type[msgspec.Struct]:
    """A struct with the table's columns: times int ns, numbers, texts; None for null."""
    fields: list[Any] = []
    for column in table.columns:
        if column.name == "series":
            fields += [("feed", str), ("symbol", str)]
        else:
            kind = _TYPES.get(column.type.kind, str)
            fields.append((column.name, kind if column.name == "ts_event" else kind | None))
    name = "".join(part.capitalize() for part in table.name.split("_"))
    return msgspec.defstruct(name, fields, frozen=True, gc=False, module=__name__)


class Rows(Sequence[Any]):
    """Rows of a table, as structs (see ``row_type``) or as a whole.

    rejected  why parts of the answers are not among them: what does not fit costs no other row
    """

    def __init__(self, table: Table, rows: Sequence[Any], rejected: Sequence[str] = ()) -> None:
        self.table, self._rows, self.rejected = table, list(rows), tuple(rejected)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Any:
        return Rows(self.table, self._rows[index], self.rejected) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{len(self)} rows of {self.table.name}>"

    def arrow(self) -> Any:
        """A pyarrow.Table; times are timestamps with nanoseconds, UTC. Needs the extra ``export``."""
        import pyarrow as pa

        kinds = {"double": pa.float64(), "long": pa.int64(), "int": pa.int32(), "timestamp": pa.timestamp("ns", "UTC")}
        types = {column.name: kinds.get(column.type.kind, pa.string()) for column in self.table.columns}
        names = row_type(self.table).__struct_fields__
        columns = [pa.array([getattr(row, name) for row in self._rows], types.get(name, pa.string())) for name in names]
        return pa.table(columns, names=list(names))

    def pandas(self) -> Any:
        """A pandas.DataFrame, by way of ``arrow``; whole numbers stay such beside nulls (Int64, Int32)."""
        import pandas
        import pyarrow as pa

        whole = {pa.int64(): pandas.Int64Dtype(), pa.int32(): pandas.Int32Dtype()}
        return self.arrow().to_pandas(types_mapper=whole.get)

    def polars(self) -> Any:
        """A polars.DataFrame, by way of ``arrow``. Needs polars."""
        import polars

        return polars.from_arrow(self.arrow())


class _Fold:
    """The pipeline over frames that nobody keeps."""

    def __init__(self, spec: FeedSpec, kernels: KernelsConfig) -> None:
        self._pipeline, self._position = Pipeline(kernels, make), 0
        self._found: dict[Table, list[Any]] = {}
        self._rejected: list[str] = []
        self._consume(SOURCE, msgspec.json.encode(msgspec.structs.replace(spec, connection=HISTORY_CONNECTION)))

    def _consume(self, kind: int, payload: bytes) -> None:
        frames = frames_from_list([(kind, 0, time.time_ns(), payload)], self._position)
        self._position = frames.end
        self._pipeline.consume(frames)

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
        kernels: KernelsConfig | None = None, **options: str,
    ) -> None:  # fmt: skip
        if name not in PROVIDERS and name not in ACTIONS:
            raise ConfigError(f"{name!r} is no provider; {nearest(name, {*PROVIDERS, *ACTIONS})}")
        self.name, self._keys, self._options = name, keys, options
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

        Raises NotOffered, and TimeoutError when nobody quotes it.
        """
        spec, feed = self._now("latest quote", "quotes", (*STREAMED, "poll"), (symbol,))
        if feed.capability().transport == "poll":
            quotes = await self._polled(spec, QUOTES)
            if not quotes:
                raise RecorderError(f"{self.name} sent no quote of {symbol}")
            return quotes[-1]
        wanted = {name for shard in feed.shards() for name in shard.symbols}  # canonical
        async with asyncio.timeout(QUOTE_TIMEOUT_S):
            async for rows in self._stream(spec):
                if quoted := [quote for quote in rows.get(QUOTES.name, ()) if quote.symbol in wanted]:
                    return quoted[-1]
        raise AssertionError("a stream ends by being left only")

    async def get_options_chain(self, symbol: str, expiration: str | date | None = None) -> Rows:
        """Every contract on ``symbol``, or those that expire that day. Raises NotOffered, ConfigError, Unanswered."""
        how = asking_options(self.name) if self.name in PROVIDERS else None
        if how is None:
            have = ", ".join(name for name in PROVIDERS if asking_options(name) is not None)
            raise NotOffered(f"{self.name} has no option chains to ask for; {have} have")
        chain = await self._polled(self._spec((CHANNEL,), (symbol,), **how), OPTIONS_CHAIN)
        if expiration is None:
            return chain
        day = _ns(expiration, "expiration") // 86_400_000_000_000
        legs = [leg for leg in chain if leg.expiration // 86_400_000_000_000 == day]
        return Rows(OPTIONS_CHAIN, legs, chain.rejected)

    async def get_corporate_actions(self, symbols: Iterable[str], start: When, end: When) -> Rows:
        """Splits, dividends, symbol changes with ex dates in between. Raises NotOffered, ConfigError, Unanswered."""
        if self.name not in ACTIONS:
            raise NotOffered(f"{self.name} tells no corporate actions; {', '.join(ACTIONS)} do")
        info = actions_info(self.name)
        spec = FeedSpec(
            name=self.name, provider=self.name, channels=("actions",), url=self._url, rest_url=self._rest_url
        )
        found: list[Any] = []
        rejected: list[str] = []
        for symbol in symbols:
            request = HistoryRequest(symbol, "actions", _ns(start, "start"), _ns(end, "end"))
            rows = await self._asked(spec, make(spec, self._credentials(info)), request, CORPORATE_ACTIONS)
            found += rows
            rejected += rows.rejected
        return Rows(CORPORATE_ACTIONS, found, rejected)

    async def stream_trades(self, symbols: Iterable[str], callback: Callback) -> None:
        """Call ``callback`` with trades as they come, until cancelled or the context is left.

        Connections are kept, opened again and paced as the recorder does. Raises NotOffered, ConfigError.
        """
        spec, _ = self._now("stream of trades", "trades", STREAMED, tuple(symbols))
        async for rows in self._stream(spec):
            if trades := rows.get(TRADES.name):
                result = callback(trades)
                if inspect.isawaitable(result):
                    await result

    # Within

    def _credentials(self, info: ProviderInfo) -> dict[str, str]:
        return {**credentials(info, os.environ), **(self._keys or {})}

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
        if self.name in PROVIDERS and channel in PROVIDERS[self.name].channels:
            feed = self._feed(spec)
            if feed.capability().transport in transports:
                return spec, feed
        have = [name for name in PROVIDERS if (known := _capability(name, channel)) and known.transport in transports]
        raise NotOffered(f"{self.name} has no {what}; {', '.join(have)} have")

    def _feed(self, spec: FeedSpec) -> Any:
        return make(spec, self._credentials(PROVIDERS[self.name]))

    async def _past(self, table: Table, symbol: str, start: When, end: When, timeframe: str = "") -> Rows:
        first, last = _ns(start, "start"), _ns(end, "end")
        info = PROVIDERS[self.name]
        plain, feed = self._of_past(info, table, symbol)
        if not _remembers(feed.capability(), table.name):
            have = [name for name in PROVIDERS if _remembers(_capability(name), table.name)]
            raise NotOffered(f"{self.name} has no history of {table.name}; {', '.join(have)} have")
        if table.name in feed.capability().history_channels:
            request = HistoryRequest(symbol, table.name, first, last, timeframe=timeframe)
            rows = await self._asked(plain, feed, request, table)
        else:
            named = {"timeframe": timeframe} if "timeframe" in info.options else {}
            rows = await self._polled(self._spec((table.name,), (symbol,), **named), table)
        return Rows(table, [row for row in rows if first <= row.ts_event <= last], rows.rejected)

    def _of_past(self, info: ProviderInfo, table: Table, symbol: str) -> tuple[FeedSpec, Any]:
        """The feed whose past is asked for: its first channel will do, unless the options are those of another."""
        plain = self._spec(info.channels[:1], (symbol,))
        try:
            return plain, self._feed(plain)
        except ConfigError:
            if table.name not in info.channels:
                raise
            own = self._spec((table.name,), (symbol,))
            return own, self._feed(own)

    @contextlib.contextmanager
    def _questions(self, spec: FeedSpec, capability: Any, keys: Mapping[str, str]) -> Iterator[Questions]:
        client, signer = HistoryClient(BODY_BYTES_MAX, TIMEOUT_S), session_of(spec, dict(keys), LoginConfig().dir)
        questions = Questions(spec.provider, capability, self._log, client=client, signer=signer)
        try:
            yield questions
        finally:
            questions.close()

    async def _asked(self, spec: FeedSpec, feed: Any, request: HistoryRequest, table: Table) -> Rows:
        fold = _Fold(spec, self._kernels)
        with self._questions(spec, feed.capability(), {}) as questions:
            async for payload in questions.history(feed, request):
                fold.add(RESPONSE, payload)
        return fold.rows(table)

    async def _polled(self, spec: FeedSpec, table: Table) -> Rows:
        feed, fold = self._feed(spec), _Fold(spec, self._kernels)
        with self._questions(spec, feed.capability(), self._credentials(PROVIDERS[self.name])) as questions:
            for poll in feed.polls():
                async for payload in questions.poll(poll):
                    fold.add(POLLED, payload)
        return fold.rows(table)

    async def _stream(self, spec: FeedSpec) -> AsyncIterator[dict[str, Rows]]:
        """Rows by table as they come; the connections end when this is left."""
        keys, woken = self._credentials(PROVIDERS[self.name]), asyncio.Event()
        feed = self._feed(spec)

        def another(shard: FeedSpec) -> Any:
            return make(shard, keys)

        pipeline = Pipeline(self._kernels, make)
        with (
            tempfile.TemporaryDirectory(prefix="recorder-") as folder,
            Journal.open(Path(folder) / "journal", segment_bytes=SEGMENT_BYTES, compress=False) as journal,
        ):
            connections = [
                Connection(shard, another(shard), journal, woken.set, self._log, make_feed=another)
                for shard in feed.shards()
            ]
            tasks = [asyncio.create_task(connection.run()) for connection in connections]
            self._tasks.update(tasks)
            position = journal.begin
            try:
                while True:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(woken.wait(), STREAM_LOOK_S)
                    woken.clear()
                    for task in tasks:
                        if task.done():
                            task.result()
                    frames: Frames | None
                    while (frames := journal.read(position)) is not None:
                        pipeline.consume(frames)
                        position = frames.end
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


def _ns(when: When, what: str) -> int:
    """Of a day or moment as text, a date, a datetime (UTC where it says nothing), or ns themselves."""
    if isinstance(when, int):
        return when
    if isinstance(when, datetime):
        moment = when if when.tzinfo else when.replace(tzinfo=UTC)
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000
    return parse_time(when.isoformat() if isinstance(when, date) else when, what)
