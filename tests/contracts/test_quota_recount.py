"""The promises of CounterAudit, on memory and on Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from kit.clock import SystemClock
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from services.quota.adapters.memory import MemoryCounters
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import CounterAudit, Holds
from services.quota.domain.limits import ORGANIZATION, Counter, Scope, ScopeKind
from tests.unit.quota.house import House, Store
from tests.unit.quota.samples import (
    MINUTES,
    counter,
    entitlement,
    minutes_limit,
    new_organization_id,
    usage_entry,
)

USER = Scope(ScopeKind.USER, "u1")


class AuditedStore(Store, CounterAudit, Protocol):
    """A store that shows its counters."""


class Place:
    """A store, and a house over it in an organization that no other test uses."""

    def __init__(self, store: AuditedStore) -> None:
        self.store = store
        self.house = House(store, new_organization_id())
        self.house.plans.set(entitlement(self.house.organization_id, minutes_limit(None)))

    async def use(self, quantity: int, reservation_id: str) -> None:
        entry = usage_entry({MINUTES: quantity}, reservation_id=reservation_id, scopes=(ORGANIZATION, USER))
        self.house.record(entry)
        await self.house.follow()


@pytest.fixture(params=["memory", "redis"])
async def place(request: pytest.FixtureRequest, redis_server: EmbeddedRedis) -> AsyncIterator[Place]:
    if request.param == "memory":
        yield Place(MemoryCounters(SystemClock()))
        return
    client = connect_redis(redis_server.url, timeout_seconds=5)
    yield Place(RedisCounters(client, command_seconds=5))
    await client.aclose()


async def test_a_recount_shows_what_is_used_and_what_reservations_hold_under_every_scope(place: Place) -> None:
    await place.house.reserve("r1", user_id="u1", agent_minutes=30)
    await place.house.reserve("r2", agent_minutes=5)
    await place.use(10, "r1")
    recount = await place.store.recount(place.house.organization_id)
    assert recount is not None
    held = {counter(MINUTES): 25, Counter(USER, MINUTES): 20}
    assert recount.held == Holds(held, held)
    assert (recount.used, recount.used_is_sample) == ({counter(MINUTES): 10}, False)
    assert recount.state == await place.store.state(place.house.organization_id)


async def test_repairing_a_sound_store_changes_nothing(place: Place) -> None:
    await place.house.reserve("r1", user_id="u1", agent_minutes=30)
    first = await place.store.recount(place.house.organization_id)
    assert await place.store.recount(place.house.organization_id, repair_held=True) == first
    assert await place.store.recount(place.house.organization_id) == first
    assert (await place.house.quota()).held == 30


async def test_nothing_is_counted_of_an_organization_never_seen(place: Place) -> None:
    assert await place.store.recount(new_organization_id()) is None


async def test_a_reset_of_counters_that_are_whole_and_current_is_done_only_by_force(place: Place) -> None:
    await place.house.reserve("r1", agent_minutes=30)
    await place.use(10, "r1")
    state = await place.store.state(place.house.organization_id)
    entitled = (await place.house.terms(place.house.organization_id)).entitlement
    assert state is not None
    again = {counter(MINUTES): 99}
    assert not await place.store.reset(entitled, expected=state, position=state.position, used=again)
    assert (await place.house.quota()).used == 10
    assert await place.store.reset(entitled, expected=state, position=state.position, used=again, force=True)
    quota = await place.house.quota()
    assert (quota.used, quota.held) == (99, 20)
