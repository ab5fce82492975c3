"""Real stores for tests: one PostgreSQL or Redis on a free port, in a folder that goes with it.

The context managers are plain ones, so that a fixture of any scope can hold them:

    @pytest.fixture(scope="session")
    def postgres() -> Iterator[EmbeddedPostgres]:
        with temporary_postgres(not_durable=True) as server:
            yield server
"""

import asyncio
import contextlib
import random
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from kit.postgres.embedded import EmbeddedPostgres, PostgresCannotStart
from kit.redis.embedded import EmbeddedRedis, RedisCannotStart

# For tests of anything but what survives a crash: no wait for a disk.
_POSTGRES_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_REDIS_NOT_DURABLE = {"appendonly": "no", "appendfsync": "no"}

# Someone may take a free port between our look and the server's start.
_ATTEMPTS = 5

_START_SECONDS_MAX = 60.0
_STOP_SECONDS_MAX = 10.0

# Below the range from which the kernel takes the ports of outgoing connections (32768 on).
_BLOCK_FIRST, _BLOCK_LAST = 20_000, 32_000


class _Server(Protocol):
    async def start(self) -> None: ...
    async def wait_ready(self, timeout_seconds: float = ...) -> None: ...
    async def stop(self, timeout_seconds: float = ...) -> None: ...


_ServerT = TypeVar("_ServerT", bound=_Server)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_port_block(count: int) -> int:
    """Return the first of `count` consecutive TCP ports of 127.0.0.1 on which nothing listens just now."""
    while True:
        first = random.randrange(_BLOCK_FIRST, _BLOCK_LAST - count)  # noqa: S311 - no secret
        with contextlib.ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


@contextlib.contextmanager
def temporary_postgres(*, not_durable: bool = False) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL of one's own; it and its data are gone afterwards."""
    settings = _POSTGRES_NOT_DURABLE if not_durable else {}
    with (
        tempfile.TemporaryDirectory(prefix="tollbook-postgres-") as folder,
        _running(lambda: EmbeddedPostgres(Path(folder), free_port(), settings=settings)) as server,
    ):
        yield server


@contextlib.contextmanager
def temporary_redis(*, not_durable: bool = False) -> Iterator[EmbeddedRedis]:
    """Run a Redis of one's own; it and its data are gone afterwards."""
    settings = _REDIS_NOT_DURABLE if not_durable else {}
    with (
        tempfile.TemporaryDirectory(prefix="tollbook-redis-") as folder,
        _running(lambda: EmbeddedRedis(Path(folder), free_port(), settings=settings)) as server,
    ):
        yield server


@contextlib.contextmanager
def _running(make_server: Callable[[], _ServerT]) -> Iterator[_ServerT]:
    # A loop of its own, and not made the thread's current one: tests bring theirs.
    loop = asyncio.new_event_loop()
    try:
        server = loop.run_until_complete(_started(make_server))
        try:
            yield server
        finally:
            loop.run_until_complete(server.stop(_STOP_SECONDS_MAX))
    finally:
        loop.close()


async def _started(make_server: Callable[[], _ServerT]) -> _ServerT:
    for attempts_left in reversed(range(_ATTEMPTS)):
        server = make_server()
        try:
            await server.start()
            await server.wait_ready(_START_SECONDS_MAX)
        except (PostgresCannotStart, RedisCannotStart):
            await server.stop(_STOP_SECONDS_MAX)
            if attempts_left == 0:
                raise
        else:
            return server
    raise AssertionError
