"""What only a real Redis can show: races, slots, expiry of keys, lost parts, a server that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable, NotFound
from kit.feed import START
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from kit.testing.stores import temporary_redis
from services.quota.adapters.redis_counters.keys import keys_of
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import CheckGroup, CountersMissing, InForce
from services.quota.domain.checks import Mode
from services.quota.domain.decisions import DenyReason
from services.quota.domain.limits import Limit, LimitKind, LimitScope, ScopeKind, Usage, Window, WindowStyle
from tests.unit.quota.house import House
from tests.unit.quota.samples import (
    AGENTS,
    MINUTES,
    agents_limit,
    counter,
    decide_check,
    entitlement,
    minutes_limit,
    new_organization_id,
    own_limits,
    reserve_check,
    terms,
    usage_entry,
)


@dataclass
class Place:
    """A house over a real Redis, in an organization that no other test uses."""

    client: Redis
    store: RedisCounters
    house: House

    @property
    def organization_id(self) -> str:
        return self.house.organization_id

    def plan(self, *limits: Limit, version: int = 1) -> None:
        self.house.plans.set(entitlement(self.organization_id, *limits, version=version))

    def replica(self) -> House:
        return House(self.store, self.organization_id, ledger=self.house.recorded, source=self.house.plans)

    async def reserve_briefly(self, request_id: str, quantity: int) -> None:
        """For a microsecond, which only the store itself would do."""
        entitled = await self.house.terms(self.organization_id)
        check = reserve_check(self.organization_id, {MINUTES: quantity}, request_id=request_id, reserve_us=1)
        assert not (await self.store.check(check, entitled)).decision.is_denied

    async def keys(self) -> list[bytes]:
        return [key async for key in self.client.scan_iter(match=f"*{self.organization_id}*", count=1000)]


@asynccontextmanager
async def place_on(server: EmbeddedRedis) -> AsyncIterator[Place]:
    client = connect_redis(server.url, timeout_seconds=5)
    store = RedisCounters(client, command_seconds=5)
    yield Place(client, store, House(store, new_organization_id()))
    await client.aclose()


@pytest.fixture
async def place(redis_server: EmbeddedRedis) -> AsyncIterator[Place]:
    async with place_on(redis_server) as found:
        yield found


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    """A Redis that the test may empty."""
    with temporary_redis(not_durable=True) as server:
        yield server


@pytest.fixture
async def lonely_place(own_redis: EmbeddedRedis) -> AsyncIterator[Place]:
    async with place_on(own_redis) as found:
        yield found


async def test_clients_at_once_never_hold_more_than_the_hard_limit(place: Place) -> None:
    place.plan(minutes_limit(100, grace_percent=10))
    replicas = [place.replica() for _ in range(8)]
    names = [f"r{number}" for number in range(128)]
    answers = await asyncio.gather(
        *(replicas[number % 8].reserve(name, agent_minutes=3) for number, name in enumerate(names))
    )
    allowed = [answer for answer in answers if not answer.decision.is_denied]
    assert len(allowed) == 110 // 3
    assert (await place.house.quota()).held == 3 * len(allowed)


async def test_replicas_that_race_to_rebuild_count_the_ledger_once(place: Place) -> None:
    place.plan(minutes_limit(None))
    place.house.record(*(usage_entry({MINUTES: 1}) for _ in range(20)))
    replicas = [place.replica() for _ in range(8)]
    await asyncio.gather(*(replica.quota() for replica in replicas))
    place.house.record(*(usage_entry({MINUTES: 1}) for _ in range(20)))
    await asyncio.gather(*(replica.follow() for replica in replicas))
    await place.house.follow()
    assert (await place.house.quota()).used == 40


async def test_conservation_holds_through_reservations_their_usage_and_their_end(place: Place) -> None:
    place.plan(minutes_limit(None), agents_limit(None))
    used = 0
    for number in range(30):
        await place.house.reserve(f"r{number}", agent_minutes=10, concurrent_agents=1)
        entry = usage_entry({MINUTES: number % 14}, reservation_id=f"r{number}", final=number % 2 == 0)
        place.house.record(entry)
        used += number % 14
    await asyncio.gather(place.replica().follow(), place.replica().follow())
    await place.house.follow()
    open_minutes = sum(max(0, 10 - number % 14) for number in range(1, 30, 2))
    minutes, agents = await place.house.quota(MINUTES), await place.house.quota(AGENTS)
    assert (minutes.used, minutes.held) == (used, open_minutes)
    assert agents.held == 15


async def test_every_key_is_in_the_slot_of_its_organization_and_expires(place: Place) -> None:
    place.plan(minutes_limit(100), agents_limit(5))
    await place.house.reserve("r1", agent_minutes=10)
    await place.reserve_briefly("r2", 10)
    await place.house.reserve("r3", concurrent_agents=1)
    place.house.record(usage_entry({MINUTES: 4}, reservation_id="r1", final=True))
    place.house.record(usage_entry({MINUTES: 4}, reservation_id="never-made"))
    await place.house.follow()
    await place.house.list(place.organization_id)
    keys = await place.keys()
    kinds = {key.decode().split(":", 2)[2].split(":")[0] for key in keys}
    assert kinds == {"entitlement", "state", "used", "held", "expiries", "tombstones", "reservation"}
    assert {key_slot(key) for key in keys} == {key_slot(place.organization_id.encode())}
    for key in keys:
        assert await place.client.ttl(key) > 0, key


async def test_an_ended_reservation_is_remembered_for_an_hour_and_an_open_one_as_long_as_its_hold(place: Place) -> None:
    place.plan(minutes_limit(100))
    await place.house.reserve("r1", agent_minutes=10)
    keys = keys_of(place.organization_id)
    assert await place.client.ttl(keys.reservation("r1")) >= await place.client.ttl(keys.held) - 1
    place.house.record(usage_entry({MINUTES: 4}, reservation_id="r1", final=True))
    await place.house.follow()
    assert 3_590 <= await place.client.ttl(keys.reservation("r1")) <= 3_600


def unmatched_count() -> float:
    return REGISTRY.get_sample_value("tollbook_quota_unmatched_reservations_total") or 0.0


async def test_what_no_event_has_drawn_of_a_committed_reservation_is_freed_after_a_day_and_told(place: Place) -> None:
    place.plan(minutes_limit(100))
    await place.house.reserve("r1", agent_minutes=60)
    settlement = await place.house.commit(place.organization_id, "r1", {MINUTES: 25})
    assert settlement.held == {MINUTES: 25}
    # A day later: its end lies behind.
    keys = keys_of(place.organization_id)
    await place.client.hset(keys.reservation("r1"), "expire_us", "1")
    await place.client.zadd(keys.expiries, {"r1": 1})
    before = unmatched_count()
    assert await place.house.free_expired(place.organization_id) == 1
    assert unmatched_count() == before + 1
    assert (await place.house.quota()).held == 0


async def test_scripts_that_the_server_forgot_are_loaded_again(place: Place) -> None:
    place.plan(minutes_limit(100))
    await place.house.reserve("r1", agent_minutes=10)
    await place.client.script_flush()
    assert not (await place.house.reserve("r2", agent_minutes=10)).decision.is_denied


@pytest.mark.parametrize("part", ["used", "held", "expiries"])
async def test_a_part_that_vanished_is_rebuilt_and_never_read_as_zero(place: Place, part: str) -> None:
    place.plan(minutes_limit(100))
    place.house.record(usage_entry({MINUTES: 70}))
    await place.house.reserve("r1", agent_minutes=20)
    keys = keys_of(place.organization_id)
    found = await place.house.terms(place.organization_id)
    names = {"used": keys.used(found.entitlement.period), "held": keys.held, "expiries": keys.expiries}
    await place.client.delete(names[part])
    with pytest.raises(CountersMissing):
        await place.store.check(decide_check(place.organization_id, {MINUTES: 1}), found)
    state = await place.house.quota()
    assert (state.used, state.held) == (70, 20 if part == "used" else 0)


async def test_usage_that_meets_a_vanished_part_is_counted_once(place: Place) -> None:
    place.plan(minutes_limit(100))
    await place.house.list(place.organization_id)
    await place.client.delete(keys_of(place.organization_id).held)
    place.house.record(usage_entry({MINUTES: 70}))
    await place.house.follow()
    await place.house.follow()
    assert (await place.house.quota()).used == 70


async def test_a_reservation_of_a_lost_epoch_holds_nothing_and_frees_nothing(place: Place) -> None:
    place.plan(minutes_limit(100))
    await place.house.reserve("old", agent_minutes=20)
    await place.client.delete(keys_of(place.organization_id).held)
    await place.house.reserve("new", agent_minutes=30)
    place.house.record(usage_entry({MINUTES: 5}, reservation_id="old"))
    await place.house.follow()
    state = await place.house.quota()
    assert (state.used, state.held) == (5, 30)
    # Its holder asks again and holds again, less what has been counted meanwhile.
    await place.house.reserve("old", agent_minutes=20)
    assert (await place.house.quota()).held == 45


async def test_a_due_reservation_whose_record_vanished_does_not_leak_its_hold(place: Place) -> None:
    place.plan(minutes_limit(100))
    await place.house.list(place.organization_id)
    await place.reserve_briefly("r1", 20)
    await place.client.delete(keys_of(place.organization_id).reservation("r1"))
    await place.house.free_expired(place.organization_id)
    state = await place.house.quota()
    assert (state.used, state.held) == (0, 0)


async def test_holds_end_by_time_also_when_the_list_of_their_ends_vanished(place: Place) -> None:
    place.plan(minutes_limit(100))
    await place.house.list(place.organization_id)
    await place.reserve_briefly("r1", 100)
    await place.client.delete(keys_of(place.organization_id).expiries)
    assert not (await place.house.reserve("r2", agent_minutes=100)).decision.is_denied


async def test_after_flushall_the_next_check_decides_by_the_ledger(lonely_place: Place) -> None:
    place = lonely_place
    place.plan(minutes_limit(100))
    await place.house.reserve("r1", agent_minutes=5)
    place.house.record(usage_entry({MINUTES: 90}))
    await place.house.follow()
    await place.client.flushall()
    replicas = [place.replica() for _ in range(4)]
    answers = await asyncio.gather(*(each.reserve(f"n{n}", agent_minutes=4) for n, each in enumerate(replicas)))
    assert sorted(answer.decision.is_denied for answer in answers) == [False, False, True, True]
    state = await place.house.quota()
    assert (state.used, state.held) == (90, 8)


async def test_a_store_that_does_not_answer_is_unavailable_at_once() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    black_hole = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = black_hole.sockets[0].getsockname()[1]
    entitled = entitlement(new_organization_id(), minutes_limit(5))
    async with black_hole:
        for address in (port, 1):
            client = connect_redis(f"redis://127.0.0.1:{address}/0", timeout_seconds=5)
            store = RedisCounters(client, command_seconds=0.02)
            async with asyncio.timeout(1):
                with pytest.raises(DependencyUnavailable):
                    await store.check(reserve_check(entitled.organization_id, {MINUTES: 1}), terms(entitled))
                with pytest.raises(DependencyUnavailable):
                    await store.state(entitled.organization_id)
            await client.aclose()


async def test_a_store_that_is_full_reads_and_reservations_go_by_policy(lonely_place: Place) -> None:
    place = lonely_place
    place.plan(minutes_limit(100))
    await place.house.list(place.organization_id)
    await place.client.config_set("maxmemory", "1")
    decided = await place.house.check(decide_check(place.organization_id, {MINUTES: 1}))
    assert (decided.decision.is_denied, decided.degraded) == (False, False)
    granted = await place.house.reserve("r1", agent_minutes=1)
    assert (granted.decision.is_denied, granted.degraded) == (False, True)
    assert (await place.house.reserve("r2", agent_minutes=1)).decision.reason is DenyReason.STORE_UNAVAILABLE
    await place.client.config_set("maxmemory", "0")
    await eventually(lambda: place.house.register(place.organization_id))
    assert (await place.house.quota()).held == 1


async def test_while_somebody_elses_script_keeps_the_store_busy_limits_go_by_policy(lonely_place: Place) -> None:
    place = lonely_place
    place.plan(minutes_limit(100))
    await place.house.list(place.organization_id)
    await place.client.config_set("lua-time-limit", "1")
    endless: asyncio.Future[object] = asyncio.ensure_future(place.client.eval("while true do end", 0))
    async with asyncio.timeout(10):
        while not await is_busy(place.client):
            pass
    granted = await place.house.reserve("r1", agent_minutes=1)
    assert (granted.decision.is_denied, granted.degraded) == (False, True)
    await place.client.script_kill()
    await asyncio.gather(endless, return_exceptions=True)
    await eventually(lambda: place.house.register(place.organization_id))
    assert (await place.house.quota()).held == 1


async def is_busy(client: Redis) -> bool:
    try:
        await client.get("anything")
    except ResponseError as error:
        return str(error).startswith("BUSY")
    return False


async def eventually(attempt: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await attempt()
            except DependencyUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


async def test_an_answer_that_was_lost_after_the_script_ran_is_found_by_the_same_check(place: Place) -> None:
    entitled = entitlement(place.organization_id, minutes_limit(100))
    await place.store.put(InForce(entitled, START))
    await place.store.put_limits(own_limits(place.organization_id))
    assert await place.store.reset(entitled, expected=None, position=START, used={})
    check = reserve_check(place.organization_id, {MINUTES: 60})
    lost = await place.store.check(check, terms(entitled))  # the caller never saw it
    found = await place.store.check(check, terms(entitled))
    assert (found.decision, found.reservation) == (lost.decision, lost.reservation)
    readings = await place.store.read(terms(entitled), [counter(MINUTES)])
    assert readings.usage[counter(MINUTES)] == Usage(0, 60)


async def test_time_is_the_clock_of_redis(place: Place) -> None:
    place.plan(minutes_limit(100))
    answer = await place.house.reserve("r1", agent_minutes=1, reserve_us=5_000_000)
    seconds, microseconds = await place.client.time()
    assert answer.reservation is not None
    assert answer.reservation.expire_us == answer.decided_us + 5_000_000
    assert answer.decided_us <= seconds * 1_000_000 + microseconds
    assert abs(answer.decided_us - unix_microseconds(datetime.now(UTC))) < 60_000_000


async def test_a_limit_that_a_check_brings_along_counts_each_user_apart(place: Place) -> None:
    decided_by = terms(entitlement(place.organization_id, minutes_limit(None)))
    await place.store.put(InForce(decided_by.entitlement, START))
    await place.store.put_limits(decided_by.own)
    assert await place.store.reset(decided_by.entitlement, expected=None, position=START, used={})
    window = Window(60_000_000, WindowStyle.SLIDING)
    limit = Limit("brought", LimitScope(ScopeKind.USER), MINUTES, LimitKind.WINDOW, 1, 0, window)
    check = replace(decide_check(place.organization_id, {MINUTES: 1}), mode=Mode.CONSUME, brought=(limit,))
    outcomes = [
        (await place.store.check(replace(check, subject=replace(check.subject, user_id=user)), decided_by)).decision
        for user in ("a", "b", "a")
    ]
    assert [decision.is_denied for decision in outcomes] == [False, False, True]


@pytest.mark.parametrize("ending", ["commit", "release"])
async def test_a_reservation_that_ends_after_the_list_of_ends_vanished_leaves_nothing_that_stays_for_ever(
    place: Place, ending: str
) -> None:
    place.plan(minutes_limit(100))
    await place.house.reserve("r1", agent_minutes=10)
    await place.client.delete(keys_of(place.organization_id).expiries)
    ends: dict[str, Callable[[], Awaitable[object]]] = {
        "commit": lambda: place.store.commit(place.organization_id, "r1", {MINUTES: 4}),
        "release": lambda: place.store.release(place.organization_id, "r1"),
    }
    # What holds is void with its list, as the next check finds; this one is no longer known either.
    with pytest.raises(NotFound):
        await ends[ending]()
    for key in await place.keys():
        assert await place.client.ttl(key) > 0, key


async def groups_of_three(place: Place) -> list[CheckGroup]:
    """A reservation of each of three organizations, whose counters there are."""
    found: list[CheckGroup] = []
    for _ in range(3):
        house = House(place.store, new_organization_id())
        house.plans.set(entitlement(house.organization_id, minutes_limit(100)))
        await house.list(house.organization_id)
        check = reserve_check(house.organization_id, {MINUTES: 1}, request_id="r1")
        found.append(CheckGroup([check], await house.terms(house.organization_id)))
    return found


async def test_checks_of_many_organizations_are_one_command(lonely_place: Place) -> None:
    groups = await groups_of_three(lonely_place)
    await lonely_place.store.check_groups(groups)
    await lonely_place.client.config_resetstat()
    answers = await lonely_place.store.check_groups(groups)
    assert all(not isinstance(each, Exception) for each in answers)
    assert (await lonely_place.client.info("commandstats"))["cmdstat_evalsha"]["calls"] == 1


async def test_a_key_that_is_broken_breaks_the_checks_of_its_organization_alone(place: Place) -> None:
    groups = await groups_of_three(place)
    held = keys_of(groups[1].terms.organization_id).held
    await place.client.delete(held)
    await place.client.set(held, "no hash")
    first, broken, last = await place.store.check_groups(groups)
    assert isinstance(broken, ResponseError)
    assert [isinstance(each, Exception) for each in (first, last)] == [False, False]
