"""A Redis client that fails fast, and Lua scripts loaded from files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kit.errors import DependencyUnavailable
from kit.redis.budget import answered_within

CONNECTIONS_MAX = 32


def connect_redis(url: str, *, timeout_seconds: float) -> Redis:
    """A client that never retries a command by itself: one that timed out may have run, and counting it again is for
    the caller's ids to prevent. Connects on first use.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS_MAX,
        timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
    )
    return Redis.from_pool(pool)


class Commands(Protocol):
    """Takes commands: a client of redis-py, or a RedisPipe."""

    async def execute_command(self, *words: Any) -> Any:
        """The answer to one command. Raises redis.exceptions."""
        ...


@runtime_checkable
class OwnBudget(Protocol):
    """Commands that bound their time themselves, for less than `answered_within` costs."""

    def within(self, seconds: float) -> Commands:
        """The same commands, each within so many seconds."""
        ...


class _Within:
    """Commands of a client that cannot bound their time."""

    def __init__(self, client: Commands, seconds: float) -> None:
        self._client = client
        self._seconds = seconds

    async def execute_command(self, *words: Any) -> Any:
        """As Commands."""
        async with answered_within(self._seconds):
            return await self._client.execute_command(*words)


def within(client: Commands, *, seconds: float) -> Commands:
    """The commands of a client, each within a budget that does not count delays of our own. They raise TimeoutError of
    redis.exceptions or Python's own.
    """
    return client.within(seconds) if isinstance(client, OwnBudget) else _Within(client, seconds)


class Script:
    """A Lua script, of one part or several, one after the other; the last one's header says what KEYS and ARGV are."""

    def __init__(self, client: Commands, *parts: Path | str) -> None:
        """parts: files, or Lua itself."""
        self._client = client
        self._source = "".join(part if isinstance(part, str) else part.read_text() for part in parts)
        self._digest = hashlib.sha1(self._source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, *, keys: Sequence[str], args: Sequence[str | int | bytes]) -> Any:
        """Runs it (EVALSHA, sent whole when the server has forgotten it). Raises DependencyUnavailable when the
        server did not answer in time: the script may have run.
        """
        try:
            try:
                return await self._client.execute_command("EVALSHA", self._digest, len(keys), *keys, *args)
            except ResponseError as error:
                if not isinstance(error, NoScriptError) and not str(error).startswith("NOSCRIPT"):
                    raise
            return await self._client.execute_command("EVAL", self._source, len(keys), *keys, *args)
        except (RedisConnectionError, RedisTimeoutError, ReadOnlyError, OSError) as error:
            raise DependencyUnavailable(dependency="Redis") from error


async def ping_redis(client: Commands) -> None:
    """Raises DependencyUnavailable unless the server answers."""
    try:
        await client.execute_command("PING")
    except (RedisError, OSError) as error:
        raise DependencyUnavailable(dependency="Redis") from error
