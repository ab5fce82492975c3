"""Stores that someone else runs: reached, and new enough, before anything of ours starts."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
import redis.asyncio
import redis.exceptions

from cli.suite.errors import Refused
from kit.redis.cluster import node_url

# Long enough for a store that is started beside us.
_REACHED_WITHIN_SECONDS = 30.0
_ATTEMPT_SECONDS_MAX = 5
_POLL_SECONDS = 0.5

_POSTGRES_MAJOR_MIN = 15
_REDIS_VERSION_MIN = (6, 2)

_AnswerT = TypeVar("_AnswerT")


async def require_postgres(url: str) -> None:
    """Raise Refused unless the URL leads to a PostgreSQL 15 or later; an absence of seconds is waited for."""

    async def major_version() -> int:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=_ATTEMPT_SECONDS_MAX)
        async with connection:
            return connection.info.server_version // 10_000

    found = await _patiently(major_version, "TOLLBOOK_POSTGRES_URL")
    if found < _POSTGRES_MAJOR_MIN:
        message = f"TOLLBOOK_POSTGRES_URL: PostgreSQL {found} is too old, {_POSTGRES_MAJOR_MIN} is the oldest"
        raise Refused(message)


async def require_redis(url: str) -> None:
    """Raise Refused unless the URL leads to a Redis 6.2 or later; an absence of seconds is waited for."""

    async def version() -> str:
        # Any node of a cluster can say it.
        client = redis.asyncio.Redis.from_url(node_url(url), socket_timeout=_ATTEMPT_SECONDS_MAX)
        async with client:
            return str((await client.info("server"))["redis_version"])

    found = await _patiently(version, "TOLLBOOK_REDIS_URL")
    if tuple(int(number) for number in found.split(".")[:2]) < _REDIS_VERSION_MIN:
        message = f"TOLLBOOK_REDIS_URL: Redis {found} is too old, 6.2 is the oldest"
        raise Refused(message)


async def _patiently(ask: Callable[[], Awaitable[_AnswerT]], variable: str) -> _AnswerT:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _REACHED_WITHIN_SECONDS
    while True:
        try:
            return await ask()
        except (ValueError, psycopg.ProgrammingError):
            # What the parser has to say quotes the URL, which may hold a password.
            message = f"{variable}: not the URL of a server; percent-encode what is special in its password"
            raise Refused(message) from None
        except (psycopg.Error, redis.exceptions.RedisError, OSError) as error:
            if loop.time() >= deadline:
                message = f"{variable}: no answer from the server it names: {error}"
                raise Refused(message) from None
        await asyncio.sleep(_POLL_SECONDS)
