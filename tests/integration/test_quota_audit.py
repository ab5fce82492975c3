"""The self-audit on a real Redis: what is wrong is found, named and put right, and what is right never alarms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from kit.feed import START
from kit.redis.client import Script, connect_redis
from kit.redis.embedded import EmbeddedRedis
from services.quota.adapters.redis_counters import recounts
from services.quota.adapters.redis_counters.calls import SCRIPTS
from services.quota.adapters.redis_counters.keys import counter_field, keys_of
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.audit_counters import Audit, AuditCounters
from services.quota.application.ports import ChangeRequest
from services.quota.domain.audit import Drift, Part
from services.quota.domain.limits import ORGANIZATION, Counter, Scope, ScopeKind
from tests.unit.quota.house import House
from tests.unit.quota.samples import (
    AGENTS,
    MINUTES,
    agents_limit,
    counter,
    entitlement,
    minutes_limit,
    new_organization_id,
    usage_entry,
    user_limit,
)

USER = Scope(ScopeKind.USER, "u1")
OF_USER = Counter(USER, MINUTES)


@dataclass
class Place:
    """A house over a real Redis, in an organization that no other test uses."""

    client: Redis
    house: House
    audit: AuditCounters

    async def look(self, *, repair: bool = False) -> Audit:
        return await self.audit(self.house.organization_id, repair=repair)

    @property
    def held(self) -> str:
        return keys_of(self.house.organization_id).held

    async def used(self) -> str:
        terms = await self.house.terms(self.house.organization_id)
        return keys_of(self.house.organization_id).used(terms.entitlement.period)

    async def use(self, quantity: int, *, reservation_id: str = "", final: bool = False) -> None:
        self.house.record(
            usage_entry({MINUTES: quantity}, reservation_id=reservation_id, final=final, scopes=(ORGANIZATION, USER))
        )
        await self.house.follow()


@pytest.fixture
async def place(redis_server: EmbeddedRedis) -> AsyncIterator[Place]:
    client = connect_redis(redis_server.url, timeout_seconds=5)
    store = RedisCounters(client, command_seconds=5)
    house = House(store, new_organization_id())
    house.plans.set(entitlement(house.organization_id, minutes_limit(None), agents_limit(None)))
    request = ChangeRequest(request_id="q1", digest=b"d", actor="tests")
    await house.set_limit(house.organization_id, user_limit(None), request)
    await house.reserve("r1", user_id="u1", agent_minutes=30, concurrent_agents=1)
    await house.reserve("r2", user_id="u2", agent_minutes=5)
    yield Place(client, house, AuditCounters(store, house.recorded, house.rebuild))
    await client.aclose()


async def test_a_healthy_store_is_clean(place: Place) -> None:
    assert await place.look() == Audit()
    await place.use(20, reservation_id="r1")
    await place.use(7, reservation_id="r2", final=True)
    place.house.record(usage_entry({MINUTES: 1_000}))  # behind the ledger is no drift
    assert await place.look() == Audit()


async def test_a_corrupt_counter_used_is_found_named_and_repaired(place: Place) -> None:
    await place.use(20, reservation_id="r1")
    await place.client.hset(await place.used(), counter_field(OF_USER), "12")
    await place.client.hdel(await place.used(), counter_field(counter(MINUTES)))
    drifts = (Drift(Part.USED, counter(MINUTES), 0, 20), Drift(Part.USED, OF_USER, 12, 20))
    assert await place.look() == Audit(drifts)
    assert await place.look(repair=True) == Audit(drifts, is_repaired=True)
    assert await place.look() == Audit()
    quota = await place.house.quota()
    assert (quota.used, quota.held) == (20, 15)


async def test_a_corrupt_hold_is_found_named_and_repaired_without_ending_a_reservation(place: Place) -> None:
    await place.client.hincrby(place.held, counter_field(counter(MINUTES)), 100)
    await place.client.hdel(place.held, counter_field(counter(AGENTS)))
    await place.client.hset(place.held, "user|nobody|agent_minutes", "3")
    nobody = Counter(Scope(ScopeKind.USER, "nobody"), MINUTES)
    found = await place.look(repair=True)
    assert found == Audit(
        (
            Drift(Part.HELD, counter(MINUTES), 135, 35),
            Drift(Part.HELD, counter(AGENTS), 0, 1),
            Drift(Part.HELD, nobody, 3, 0),
        ),
        is_repaired=True,
    )
    assert await place.look() == Audit()
    await place.use(30, reservation_id="r1", final=True)
    assert ((await place.house.quota()).held, (await place.house.quota(AGENTS)).held) == (5, 0)


@pytest.mark.parametrize("part", ["used", "held", "expiries"])
async def test_f13_a_part_that_was_evicted_is_found_and_rebuilt_before_anybody_asks(place: Place, part: str) -> None:
    await place.use(20, reservation_id="r1")
    keys = keys_of(place.house.organization_id)
    await place.client.delete({"used": await place.used(), "held": keys.held, "expiries": keys.expiries}[part])
    found = await place.look(repair=True)
    assert (found.is_missing, found.is_repaired) == (True, True)
    assert (await place.house.quota()).used == 20
    assert await place.look() == Audit()


async def test_an_organization_without_counters_is_nothing_to_audit(place: Place) -> None:
    assert await place.audit(new_organization_id(), repair=True) == Audit(is_conclusive=False)


async def test_a_rewound_ledger_is_no_drift(place: Place) -> None:
    await place.use(20)
    place.house.recorded.rewind(place.house.organization_id, to=0)
    assert (await place.look()).drifts == ()


async def test_more_counters_than_one_look_reads_are_compared_by_a_sample(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recounts, "AUDITED_COUNTERS_MAX", 2)
    monkeypatch.setattr(recounts, "AUDITED_AT_ONCE_MAX", 2)
    await place.house.reserve("r3", user_id="u3", agent_minutes=5)
    for number in range(5):
        place.house.record(usage_entry({MINUTES: 1}, scopes=(ORGANIZATION, Scope(ScopeKind.USER, f"member-{number}"))))
    await place.house.follow()
    assert await place.look() == Audit(is_conclusive=False)
    await place.client.hset(await place.used(), mapping={"user|member-0|agent_minutes": "9"})
    async with asyncio.timeout(10):
        while not (found := await place.look()).drifts:
            continue
    assert found.drifts == (Drift(Part.USED, Counter(Scope(ScopeKind.USER, "member-0"), MINUTES), 9, 1),)


async def test_holds_of_more_counters_than_one_look_adds_up_are_not_compared(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await place.look()).is_conclusive
    store = RedisCounters(place.client, command_seconds=5)
    recount = await store.recount(place.house.organization_id)
    assert recount is not None
    assert recount.held is not None
    monkeypatch.setattr(recounts, "AUDITED_HOLDS_AT_ONCE_MAX", 1)
    monkeypatch.setattr(recounts, "AUDITED_HOLDS_MAX", 1)
    unsummed = await store.recount(place.house.organization_id)
    assert unsummed == replace(recount, held=None)
    repaired = await store.recount(place.house.organization_id, repair_held=True)
    assert repaired == unsummed
    monkeypatch.undo()
    assert await store.recount(place.house.organization_id) == recount


async def test_what_does_not_fit_in_one_script_is_added_up_piece_by_piece_and_put_right(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recounts, "AUDITED_AT_ONCE_MAX", 2)
    monkeypatch.setattr(recounts, "AUDITED_HOLDS_AT_ONCE_MAX", 3)
    for number in range(9):
        await place.house.reserve(f"more-{number}", user_id=f"u{number}", agent_minutes=number, concurrent_agents=1)
    assert await place.look() == Audit()
    organization_id = place.house.organization_id
    sums = Script(place.client, *(SCRIPTS / name for name in ("records.lua", "sum_holds.lua")))
    state = await place.house.rebuild._upkeep.state(organization_id)
    assert state is not None
    keys = [keys_of(organization_id).reservation(name) for name in ("r1", "more-1", "more-2")]
    # The second goes past the four that may be added up, and the third is left for the next call.
    assert (await sums(keys=keys, args=[state.epoch, 6]))[:2] == [2, 8]
    await place.client.hincrby(place.held, counter_field(counter(MINUTES)), 100)
    await place.client.hdel(place.held, counter_field(counter(AGENTS)))
    await place.client.hset(place.held, "user|nobody|agent_minutes", "3")
    found = await place.look(repair=True)
    assert [(drift.part, drift.kept - drift.expected) for drift in found.drifts] == [
        (Part.HELD, 100),
        (Part.HELD, -10),
        (Part.HELD, 3),
    ]
    assert found.is_repaired
    assert await place.look() == Audit()


class Watched:
    """Commands on their way to Redis, with something that happens before one of them."""

    def __init__(self, client: Redis, script: str, event: Callable[[], Awaitable[object]], *, times: int) -> None:
        records, path = (SCRIPTS / name for name in ("records.lua", f"{script}.lua"))
        self._digest = Script(client, records, path)._digest
        self._client = client
        self._event = event
        self._left = times

    async def execute_command(self, *words: Any) -> Any:
        if words[0] == "EVALSHA" and words[1] == self._digest and self._left:
            self._left -= 1
            await self._event()
        return await cast("Any", self._client).execute_command(*words)


async def test_a_reservation_that_takes_the_place_of_another_between_two_pieces_is_no_drift(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recounts, "AUDITED_AT_ONCE_MAX", 1)
    organization_id, numbers = place.house.organization_id, count()

    async def replace_one() -> None:
        number = next(numbers)
        before = f"same-{number}"
        await place.house.reserve(f"same-{number + 1}", agent_minutes=7)
        await place.house.commit(organization_id, before, {MINUTES: 0})

    await place.house.reserve("same-0", agent_minutes=7)
    for times in (1, 2, 100):
        watched = Watched(place.client, "sum_holds", replace_one, times=times)
        store = RedisCounters(watched, command_seconds=5)
        found = await AuditCounters(store, place.house.recorded, place.house.rebuild)(organization_id, repair=True)
        assert found == Audit(is_conclusive=times < 100)


async def test_a_drift_that_moves_while_it_is_put_right_is_not_put_right_by_what_it_was(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recounts, "AUDITED_AT_ONCE_MAX", 1)
    await place.client.hincrby(place.held, counter_field(counter(MINUTES)), 100)
    watched = Watched(place.client, "sum_holds", lambda: asyncio.sleep(0), times=0)
    store = RedisCounters(watched, command_seconds=5)
    watched._digest = Script(place.client, SCRIPTS / "repair_holds.lua")._digest
    watched._event, watched._left = (lambda: place.house.reserve("late", agent_minutes=1)), 1
    await store.recount(place.house.organization_id, repair_held=True)
    assert (await place.house.quota()).held == 36
    assert await place.look() == Audit()


async def test_a_healthy_busy_store_never_alarms(place: Place) -> None:
    numbers = count()
    is_over = asyncio.Event()

    async def work(name: str) -> None:
        while not is_over.is_set():
            request_id = f"{name}-{next(numbers)}"
            await place.house.reserve(request_id, user_id="u1", agent_minutes=3)
            await place.use(2, reservation_id=request_id)
            await place.use(1, reservation_id=request_id, final=True)

    async def audit() -> list[Audit]:
        found = [await place.look() for _ in range(100)]
        is_over.set()
        return found

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(work(f"w{number}"))
        audits = await group.create_task(audit())
    assert [each for each in audits if each.drifts or each.is_missing] == []
    assert any(each.is_conclusive for each in audits)
    state = await place.house.rebuild._upkeep.state(place.house.organization_id)
    assert state is not None
    assert state.position != START


async def test_a_corrupt_counter_is_repaired_while_the_store_is_busy(place: Place) -> None:
    is_over = asyncio.Event()

    async def work() -> None:
        while not is_over.is_set():
            await place.use(1)
            await asyncio.sleep(0.01)

    async def corrupt() -> Audit:
        await place.client.hincrby(await place.used(), counter_field(counter(MINUTES)), 5)
        found = await place.look(repair=True)
        is_over.set()
        return found

    found, _ = await asyncio.gather(corrupt(), work())
    assert [drift.kept - drift.expected for drift in found.drifts] == [5]
    assert found.is_repaired
    assert await place.look() == Audit()
