"""One connection to Redis that many callers share, each command sent without waiting for the answers before.

redis-py connects and signs in; from then on we read and write ourselves, with its own parser, hiredis. Its client takes
six times the CPU for a command (a pool, a retry, two tasks and a dozen layers for each), which is what a check costs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Any, Self

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kit.redis.budget import TURNS, answered_within
from kit.redis.client import Commands

UNANSWERED_MAX = 1_000
SILENT_SECONDS_MAX = 2.0
"""A connection whose oldest command is without an answer for so long is given up."""

Word = str | int | bytes


class RedisPipe:
    """A connection that is made on first use and again after a loss. Commands are answered in their order.

    It never sends a command twice: one whose answer was lost may have run.
    """

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        """timeout_seconds: how long connecting may take, and any command whose caller does not give up sooner."""
        self._timeout_seconds = timeout_seconds
        self._pool = ConnectionPool.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            protocol=2,
        )
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None

    async def execute_command(self, *words: Word) -> Any:
        """The answer to one command, as redis-py's method of this name, unparsed. A caller that is cancelled gives up
        its answer and disturbs nobody. Raises redis.exceptions: ResponseError, ConnectionError, TimeoutError.
        """
        line = self.line or await self.connected()
        return await line.ask(words, self._timeout_seconds)

    def within(self, seconds: float) -> Commands:
        """The same commands, each within a budget of which connecting is a part."""
        return _Budgeted(self, seconds)

    @property
    def line(self) -> _Line | None:
        """The connection; None when there is none that is worth sending something."""
        line = self._line
        return line if line is not None and line.is_usable else None

    async def connected(self) -> _Line:
        """A usable line. Who comes while one is being made waits for the same one."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._done_connecting)
        return await asyncio.shield(self._connecting)

    def _done_connecting(self, task: asyncio.Task[_Line]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # looked at, so that a failure nobody waited for is not reported as lost

    async def _connect(self) -> _Line:
        if self._line is not None:
            self._line.give_up()
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await connection.connect()
        except TimeoutError:
            raise RedisTimeoutError("Redis did not answer in time") from None
        except OSError as error:
            raise RedisConnectionError(str(error)) from error
        self._line = _Line(_writer_of(connection))
        return self._line

    async def aclose(self) -> None:
        """Closes the connection; what waits for an answer is told so."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._line is not None:
            self._line.give_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class _Budgeted:
    """Commands of a pipe, each within a budget."""

    def __init__(self, pipe: RedisPipe, seconds: float) -> None:
        self._pipe = pipe
        self._seconds = seconds

    async def execute_command(self, *words: Word) -> Any:
        """As Commands."""
        line = self._pipe.line
        if line is not None:
            return await line.ask(words, self._seconds)
        async with answered_within(self._seconds):
            return await (await self._pipe.connected()).ask(words, self._seconds)


def _writer_of(connection: AbstractConnection) -> asyncio.StreamWriter:
    # redis-py offers no way to hand a connection over. Without its writer it does not close what is ours now.
    writer, connection._writer, connection._reader = connection._writer, None, None  # noqa: SLF001
    if writer is None:
        raise RedisConnectionError("Redis closed the connection")
    return writer


class _Line(asyncio.Protocol):
    """A connection that is signed in, and those who wait for its answers, in order."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        # Kept, because it closes its transport when it is collected.
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._transport = writer.transport
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        """Whether it is worth sending something: it stands, and is not silent."""
        if self._transport.is_closing():
            return False
        return not self._waiting or self._loop.time() - self._waiting[0][1] < SILENT_SECONDS_MAX

    async def ask(self, words: tuple[Word, ...], seconds: float) -> Any:
        """Sends a command and waits for its answer, so long."""
        if len(self._waiting) >= UNANSWERED_MAX:
            raise RedisConnectionError(f"{UNANSWERED_MAX} commands are without an answer")
        now = self._loop.time()
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((answer, now))
        self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # it takes a tuple of any length
        late = self._loop.call_at(now + seconds, self._give_up, answer, TURNS)
        try:
            return await answer
        finally:
            late.cancel()

    def _give_up(self, answer: asyncio.Future[Any], turns_left: int) -> None:
        if answer.done():
            return
        if turns_left:
            self._loop.call_soon(self._give_up, answer, turns_left - 1)
        else:
            answer.set_exception(RedisTimeoutError("Redis did not answer in time"))

    def give_up(self) -> None:
        """Closes the connection; those who wait are told so."""
        self._transport.abort()
        self.connection_lost(None)

    def data_received(self, data: bytes) -> None:
        """As asyncio.Protocol."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                answer, _ = self._waiting.popleft()
                if answer.done():
                    continue
                if isinstance(reply, RedisError):
                    answer.set_exception(reply)
                else:
                    answer.set_result(reply)
        except (RedisError, IndexError):
            # Not the protocol, or an answer that nobody asked for: whose is the next one?
            self.give_up()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """As asyncio.Protocol."""
        while self._waiting:
            answer, _ = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(RedisConnectionError("Redis closed the connection"))
