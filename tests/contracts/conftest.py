"""What several contract suites stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kit.clock import SystemClock
from kit.redis.client import connect_redis
from kit.redis.cluster import ClusterCommands
from kit.redis.embedded import EmbeddedRedis
from services.quota.adapters.memory import MemoryCounters
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.domain.terms import OwnLimits, Terms
from tests.contracts.quota_house import House
from tests.unit.quota.samples import (
    entitlement,
    new_organization_id,
)


@pytest.fixture(params=["memory", "redis", "cluster"])
async def house(request: pytest.FixtureRequest, redis_server: EmbeddedRedis, cluster_url: str) -> AsyncIterator[House]:
    organization_id = new_organization_id()
    nothing = OwnLimits(organization_id=organization_id, sequence=0, commit_id="", limits=())
    terms = Terms(entitlement(organization_id), nothing)
    if request.param == "memory":
        yield House(MemoryCounters(SystemClock()), terms)
        return
    if request.param == "cluster":
        async with ClusterCommands(cluster_url, timeout_seconds=5) as nodes:
            yield House(RedisCounters(nodes, command_seconds=5), terms, nodes)
        return
    client = connect_redis(redis_server.url, timeout_seconds=5)
    yield House(RedisCounters(client, command_seconds=5), terms, client)
    await client.aclose()
