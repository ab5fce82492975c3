"""A reset of very many counters on a real Redis: in pieces, and all at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from kit.errors import DependencyUnavailable
from kit.feed import START, Position
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from services.quota.adapters.redis_counters.keys import keys_of
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.adapters.redis_counters.upkeep import STAGED_MS
from services.quota.domain.limits import Counter, Scope, ScopeKind, Usage
from services.quota.domain.maxima import STAGED_AT_ONCE_MAX
from services.quota.domain.terms import Terms
from tests.contracts.quota_house import House
from tests.unit.quota.samples import MINUTES, counter, entitlement, minutes_limit, new_organization_id, own_limits

MEMBERS = 40_000


@dataclass
class Commands:
    """On their way to Redis, which may be lost once so many were sent."""

    client: Redis
    sent: list[int] = field(default_factory=list)
    lost_after: int | None = None

    async def execute_command(self, *words: Any) -> Any:
        if self.lost_after is not None and len(self.sent) >= self.lost_after:
            raise ConnectionError
        self.sent.append(len(words))
        return await cast("Any", self.client).execute_command(*words)


@pytest.fixture
async def commands(redis_server: EmbeddedRedis) -> AsyncIterator[Commands]:
    client = connect_redis(redis_server.url, timeout_seconds=5)
    yield Commands(client)
    await client.aclose()


@pytest.fixture
async def house(commands: Commands) -> House:
    organization_id = new_organization_id()
    terms = Terms(entitlement(organization_id), own_limits(organization_id))
    house = House(RedisCounters(commands, command_seconds=5), terms, commands)
    await house.begin(minutes_limit(None))
    await reset(house, {counter(MINUTES): 5, member(MEMBERS): 5}, Position(1, "c1"))
    return house


def member(number: int) -> Counter:
    return Counter(Scope(ScopeKind.USER, f"u{number}"), MINUTES)


async def reset(house: House, used: dict[Counter, int], position: Position) -> bool:
    state = await house.store.state(house.terms.organization_id)
    return await house.store.reset(house.terms.entitlement, expected=state, position=position, used=used)


async def seen(house: House, *counters: Counter) -> list[Usage]:
    readings = await house.store.read(house.terms, counters)
    return [readings.usage[each] for each in counters]


async def test_a_reset_of_very_many_members_sets_all_of_them_in_commands_of_bounded_size(
    house: House, commands: Commands
) -> None:
    await house.reserve("r1", 3)
    commands.sent.clear()
    used = {member(number): number + 1 for number in range(MEMBERS)} | {counter(MINUTES): 7}
    assert await reset(house, used, Position(2, "c2"))
    assert max(commands.sent) <= 2 * STAGED_AT_ONCE_MAX + 5
    counters = [member(0), member(MEMBERS - 1), member(MEMBERS), counter(MINUTES)]
    assert await seen(house, *counters) == [Usage(1, 0), Usage(MEMBERS, 0), Usage(0, 0), Usage(7, 3)]
    keys = keys_of(house.terms.organization_id)
    assert await commands.client.hlen(keys.used(house.terms.entitlement.period)) == len(used) + 1
    assert [key async for key in commands.client.scan_iter(f"quota:[{{]{house.terms.organization_id}}}:staged:*")] == []


async def test_a_reset_that_stops_in_the_middle_changes_nothing_and_leaves_nothing_for_ever(
    house: House, commands: Commands
) -> None:
    commands.lost_after = len(commands.sent) + 3
    with pytest.raises(DependencyUnavailable):
        await reset(house, {member(number): 1 for number in range(MEMBERS)}, Position(2, "c2"))
    commands.lost_after = None
    assert await seen(house, counter(MINUTES), member(MEMBERS), member(0)) == [Usage(5, 0), Usage(5, 0), Usage(0, 0)]
    assert await house.position() == Position(1, "c1")
    left = [key async for key in commands.client.scan_iter(f"quota:[{{]{house.terms.organization_id}}}:staged:*")]
    assert len(left) == 1
    assert 0 < await commands.client.pttl(left[0]) <= STAGED_MS


async def test_a_reset_whose_counters_were_evicted_meanwhile_changes_nothing(house: House, commands: Commands) -> None:
    store = house.store
    assert isinstance(store, RedisCounters)
    write = store._write_staged

    async def evicted(key: str, used: Any) -> None:
        await write(key, used)
        await commands.client.hdel(key, "organization||agent_minutes")

    store._write_staged = evicted  # type: ignore[method-assign]
    assert not await reset(house, {counter(MINUTES): 9, member(1): 9}, Position(2, "c2"))
    assert await seen(house, counter(MINUTES), member(1)) == [Usage(5, 0), Usage(0, 0)]


async def test_a_reset_that_came_too_late_leaves_nothing_behind(house: House, commands: Commands) -> None:
    organization_id = house.terms.organization_id
    assert not await house.store.reset(
        house.terms.entitlement, expected=None, position=START, used={counter(MINUTES): 9}
    )
    assert [key async for key in commands.client.scan_iter(f"quota:[{{]{organization_id}}}:staged:*")] == []
    assert await seen(house, counter(MINUTES)) == [Usage(5, 0)]
