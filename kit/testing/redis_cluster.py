"""A Redis Cluster of three nodes of one's own, put together by commands, and a replica to fail over to."""

from __future__ import annotations

import asyncio
import random
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from kit.private_files import make_private_folder, write_private_file
from kit.redis.embedded import EmbeddedRedis, RedisCannotStart

_SLOTS = 16_384
_MASTERS = 3
_PASSWORD = "password-of-the-cluster"  # noqa: S105 - of a server that is gone with its test
_WAIT_SECONDS = 60
_BUS_OFFSET = 10_000
# Someone may take a free port between our look and the server's start.
_ATTEMPTS = 5


@dataclass
class LocalCluster:
    """Its nodes: the masters, each with a third of the slots, then a replica of the first."""

    nodes: list[EmbeddedRedis]
    clients: list[Redis]

    @property
    def url(self) -> str:
        """By its second node, which no test takes away."""
        return self.nodes[1].url.replace("redis://", "redis+cluster://").removesuffix("/0")

    async def ask(self, node: int, *words: str | int) -> Any:
        """One node's own answer to a command."""
        return await self.clients[node].execute_command(*words)  # type: ignore[no-untyped-call]

    async def settled(self, *nodes: int) -> None:
        """Waits until these nodes say that every slot is kept."""
        async with asyncio.timeout(_WAIT_SECONDS):
            for node in nodes:
                while not await self._is_ok(node):  # noqa: ASYNC110 - it comes true in other processes
                    await asyncio.sleep(0.05)

    async def _is_ok(self, node: int) -> bool:
        try:
            return b"cluster_state:ok" in await self.ask(node, "CLUSTER", "INFO")
        except (RedisError, OSError):
            return False


@contextmanager
def temporary_cluster() -> Iterator[str]:
    """Runs one for tests of any loop; its URL. It is gone afterwards."""
    loop = asyncio.new_event_loop()
    try:
        with tempfile.TemporaryDirectory(prefix="tollbook-cluster-") as folder:
            running = local_cluster(Path(folder))
            cluster = loop.run_until_complete(running.__aenter__())
            try:
                yield cluster.url
            finally:
                loop.run_until_complete(running.__aexit__(None, None, None))
    finally:
        loop.close()


@asynccontextmanager
async def local_cluster(folder: Path) -> AsyncIterator[LocalCluster]:
    """Runs one below the folder."""
    async with AsyncExitStack() as resources:
        cluster, first = await _started_somewhere(folder, resources)
        await _put_together(cluster, first)
        yield cluster


async def _started_somewhere(folder: Path, resources: AsyncExitStack) -> tuple[LocalCluster, int]:
    for attempts_left in reversed(range(_ATTEMPTS)):
        first = _free_ports()
        try:
            return await _started(folder / str(first), first, resources), first
        except RedisCannotStart:
            await resources.aclose()
            if attempts_left == 0:
                raise
    raise AssertionError


def _free_ports() -> int:
    """The first of as many ports as there are nodes, with those 10 000 above, on which nodes talk to each other: all
    below the range from which the kernel takes the ports of outgoing connections (32768 on).
    """
    while True:
        first = random.randrange(20_000, 22_000)  # noqa: S311 - no secret
        with ExitStack() as probes:
            try:
                for place in range(_MASTERS + 1):
                    for port in (first + place, first + place + _BUS_OFFSET):
                        probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


async def _started(folder: Path, first: int, resources: AsyncExitStack) -> LocalCluster:
    make_private_folder(folder)
    nodes: list[EmbeddedRedis] = []
    for place in range(_MASTERS + 1):
        state = folder / f"node-{place}"
        make_private_folder(state)
        write_private_file(state / "password", _PASSWORD)
        settings = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": "5000",
            "masterauth": _PASSWORD,
            "appendonly": "no",
            "appendfsync": "no",
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": "0",
        }
        node = EmbeddedRedis(state, first + place, settings=settings)
        resources.push_async_callback(node.stop)
        await node.start()
        nodes.append(node)
    clients: list[Redis] = []
    for node in nodes:
        await node.wait_ready()
        client = Redis.from_url(node.url)
        resources.push_async_callback(client.aclose)
        clients.append(client)
    return LocalCluster(nodes, clients)


async def _put_together(cluster: LocalCluster, first_port: int) -> None:
    for place in range(_MASTERS):
        begin, end = place * _SLOTS // _MASTERS, (place + 1) * _SLOTS // _MASTERS
        await cluster.ask(place, "CLUSTER", "ADDSLOTS", *range(begin, end))
        await cluster.ask(place, "CLUSTER", "SET-CONFIG-EPOCH", place + 1)
    for place in range(1, _MASTERS + 1):
        await cluster.ask(0, "CLUSTER", "MEET", "127.0.0.1", first_port + place)
    await cluster.settled(*range(_MASTERS))
    first_id = (await cluster.ask(0, "CLUSTER", "MYID")).decode()
    async with asyncio.timeout(_WAIT_SECONDS):
        while True:
            try:
                await cluster.ask(_MASTERS, "CLUSTER", "REPLICATE", first_id)
            except RedisError:
                await asyncio.sleep(0.05)  # it has not heard of the first yet
            else:
                break
        while not await _is_linked(cluster.clients[_MASTERS]):  # noqa: ASYNC110 - it comes true in other processes
            await asyncio.sleep(0.05)
    await cluster.settled(*range(_MASTERS + 1))


async def _is_linked(replica: Redis) -> bool:
    replication = await replica.info("replication")
    return bool(replication.get("master_link_status") == "up")
