"""Quota on a Redis Cluster of three nodes, one of which is taken away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.crc import key_slot

from kit.errors import DependencyUnavailable
from kit.redis.client import ping_redis
from kit.redis.cluster import ClusterCommands
from kit.testing.redis_cluster import LocalCluster, local_cluster
from services.quota.adapters.redis_counters.keys import keys_of
from services.quota.adapters.redis_counters.store import RedisCounters
from tests.unit.quota.house import House
from tests.unit.quota.samples import entitlement, minutes_limit, new_organization_id

MASTERS = 3
REPLICA = 3
SLOTS_OF_FIRST = range(5461)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with local_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def nodes(cluster: LocalCluster) -> AsyncIterator[ClusterCommands]:
    async with ClusterCommands(cluster.url, timeout_seconds=5) as nodes:
        yield nodes


def house_in(commands: ClusterCommands, *, on_first: bool) -> House:
    """A process for an organization whose slot the first node keeps, or does not."""
    while True:
        organization_id = new_organization_id()
        if (key_slot(keys_of(organization_id).held.encode()) in SLOTS_OF_FIRST) is on_first:
            house = House(RedisCounters(commands, command_seconds=2), organization_id)
            house.plans.set(entitlement(organization_id, minutes_limit(1_000)))
            return house


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110 - it comes true in other processes
            await asyncio.sleep(0.05)


async def test_organizations_are_spread_over_the_nodes_and_each_is_whole_on_one(
    cluster: LocalCluster, nodes: ClusterCommands
) -> None:
    houses = [house_in(nodes, on_first=number % 3 == 0) for number in range(24)]
    await asyncio.gather(*(house.reserve("r1", agent_minutes=10) for house in houses))
    for house in houses:
        assert (await house.quota()).held == 10
    assert all([await cluster.ask(node, "DBSIZE") > 0 for node in range(MASTERS)])
    await ping_redis(nodes)


async def test_scripts_that_a_node_does_not_have_are_loaded_there(
    cluster: LocalCluster, nodes: ClusterCommands
) -> None:
    for node in range(MASTERS):
        await cluster.ask(node, "SCRIPT", "FLUSH")
    houses = [house_in(nodes, on_first=number % 2 == 0) for number in range(12)]
    for _ in range(2):
        for house in houses:
            await house.reserve("r1", agent_minutes=10)
        for node in range(MASTERS):
            await cluster.ask(node, "SCRIPT", "FLUSH")
    for house in houses:
        assert (await house.quota()).held == 10


async def test_slots_that_move_to_another_node_are_followed_and_nothing_counts_twice(
    cluster: LocalCluster, nodes: ClusterCommands
) -> None:
    house = house_in(nodes, on_first=True)
    await house.reserve("r1", agent_minutes=10)
    # The replica takes over: once the first node has heard of it, it answers MOVED.
    await cluster.ask(0, "WAIT", 1, 5_000)
    await cluster.ask(REPLICA, "CLUSTER", "FAILOVER", "TAKEOVER")

    async def is_moved() -> bool:
        return bool((await cluster.clients[0].info("replication"))["role"] == "slave")

    await eventually(is_moved)
    await house.reserve("r1", agent_minutes=10)
    await house.reserve("r2", agent_minutes=5)
    assert not house.grants.organizations
    assert (await house.quota()).held == 15


async def test_without_a_node_its_organizations_go_by_policy_and_the_others_by_their_counters(
    cluster: LocalCluster, nodes: ClusterCommands
) -> None:
    lost, kept = house_in(nodes, on_first=True), house_in(nodes, on_first=False)
    for house in (lost, kept):
        await house.reserve("r1", agent_minutes=10)
    await cluster.ask(0, "WAIT", 1, 5_000)
    await cluster.nodes[0].stop(timeout_seconds=0)
    granted = await lost.reserve("r2", agent_minutes=5)
    assert (granted.decision.is_denied, granted.degraded) == (False, True)

    async def is_kept() -> bool:
        try:
            return not (await kept.reserve("r2", agent_minutes=5)).degraded
        except DependencyUnavailable:
            return False

    await eventually(is_kept)
    # The replica takes over: what was held is held, what was granted meanwhile is registered there.
    await cluster.ask(REPLICA, "CLUSTER", "FAILOVER", "TAKEOVER")

    async def is_registered() -> bool:
        try:
            await lost.register(lost.organization_id)
        except DependencyUnavailable:
            return False
        return not lost.grants.organizations

    await eventually(is_registered)

    async def answers_as_before() -> bool:
        # Not every node has heard of the new master yet, and any of them may be asked who it is.
        try:
            answer = await lost.reserve("r1", agent_minutes=10)
            return not answer.degraded and (await lost.quota()).held == 15
        except DependencyUnavailable:
            return False

    await eventually(answers_as_before)
