"""A Redis Cluster behind the same commands as one server. redis-py finds the nodes and follows MOVED and ASK; we see to
it that it never sends a command twice, and that it learns the nodes beside the callers and not within their budget.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException

from kit.redis.client import CONNECTIONS_MAX

_SCHEMES = {"redis+cluster://": "redis://", "rediss+cluster://": "rediss://"}


def is_cluster(url: str) -> bool:
    """Whether a URL names a cluster, by any of its nodes: redis+cluster:// or rediss+cluster://."""
    return url.startswith(tuple(_SCHEMES))


def node_url(url: str) -> str:
    """The URL of the node itself that names the cluster; any other URL as it is."""
    for scheme, plain in _SCHEMES.items():
        if url.startswith(scheme):
            return url.replace(scheme, plain, 1)
    return url


class ClusterCommands:
    """Sends each command to the node that keeps its keys. All keys of a command lie in one slot."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        """timeout_seconds: how long connecting to a node may take, and any command whose caller does not give up
        sooner.
        """
        self._cluster = RedisCluster.from_url(
            node_url(url),
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            max_connections=CONNECTIONS_MAX,
            # A command that was not answered may have run: the caller's ids find out, and nobody sends it again.
            retry=Retry(NoBackoff(), 0),
            # An organization whose slot is served is served.
            require_full_coverage=False,
            # One MOVED is reason enough to look anew who keeps what.
            reinitialize_steps=1,
            protocol=2,
        )
        self._learning: asyncio.Task[None] | None = None

    async def execute_command(self, *words: Any) -> Any:
        """As Commands."""
        if self._cluster._initialize:  # noqa: SLF001 - redis-py says in no other way that it does not know the nodes
            await self._learned()
        try:
            return await self._cluster.execute_command(*words)
        except RedisClusterException as error:
            # No node keeps the slot now, or none that is known answers.
            raise RedisConnectionError(str(error)) from error

    async def _learned(self) -> None:
        """Who comes while the nodes are being asked waits for the same answer."""
        if self._learning is None:
            self._learning = asyncio.create_task(self._learn())
            self._learning.add_done_callback(self._done_learning)
        await asyncio.shield(self._learning)

    async def _learn(self) -> None:
        try:
            await self._cluster.initialize()
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error

    def _done_learning(self, task: asyncio.Task[None]) -> None:
        self._learning = None
        if not task.cancelled():
            task.exception()  # looked at, so that a failure nobody waited for is not reported as lost

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._learning is not None:
            self._learning.cancel()
        await self._cluster.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
