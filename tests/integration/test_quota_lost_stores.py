"""Redis is lost, emptied, or taken back to an earlier state, or metering is away, while quota works: F12, F13, F16,
B12, B17, B20.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace

import pytest
from redis.asyncio import Redis

from kit.errors import DependencyUnavailable, OutOfRetention
from kit.feed import Page
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from kit.testing.stores import temporary_redis
from services.quota.adapters.memory import MemoryLedger
from services.quota.adapters.redis_counters.keys import keys_of
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.follow_usage import UsageEffect
from services.quota.application.metrics import REBUILDS
from services.quota.application.ports import Answer, ChangeRequest, Snapshot
from services.quota.domain.checks import Mode
from services.quota.domain.decisions import DenyReason
from services.quota.domain.limits import ORGANIZATION, Scope, ScopeKind
from tests.unit.quota.house import House
from tests.unit.quota.samples import (
    MINUTES,
    decide_check,
    entitlement,
    minutes_limit,
    new_organization_id,
    usage_entry,
    user_limit,
)

LIMIT = 1_000
REPLICAS = 8


class Ledger(MemoryLedger):
    """A ledger that can be away, and that counts how often it was totalled."""

    is_away = False
    keeps_from = 0
    totalled_count = 0

    async def snapshot(self, *args: object, as_of_sequence: int | None = None, **more: object) -> Snapshot:
        if self.is_away:
            raise DependencyUnavailable(dependency="metering")
        if as_of_sequence is not None and as_of_sequence < self.keeps_from:
            raise OutOfRetention(problem="gone")
        self.totalled_count += 1
        return await super().snapshot(*args, as_of_sequence=as_of_sequence, **more)  # type: ignore[arg-type]


@dataclass
class Place:
    """Replicas, each a process with a connection of its own to one Redis, in an organization of their own."""

    client: Redis
    replicas: list[House]
    ledger: Ledger
    kept: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def house(self) -> House:
        return self.replicas[0]

    @property
    def organization_id(self) -> str:
        return self.house.organization_id

    def use(self, quantity: int, *, reservation_id: str = "", final: bool = False, user_id: str = "u1") -> None:
        entry = usage_entry(
            {MINUTES: quantity},
            reservation_id=reservation_id,
            final=final,
            scopes=(ORGANIZATION, Scope(ScopeKind.USER, user_id)),
        )
        self.ledger.append(self.organization_id, entry)

    async def denied(self, quantity: int, *, replica: int = 0) -> bool:
        check = decide_check(self.organization_id, {MINUTES: quantity}, user_id="u1")
        return (await self.replicas[replica].check(check)).decision.is_denied

    async def all_at_once(self, quantity: int) -> list[bool]:
        return await asyncio.gather(*(self.denied(quantity, replica=number) for number in range(REPLICAS)))

    async def set_user_limit(self, value: int, request_id: str) -> None:
        request = ChangeRequest(request_id=request_id, digest=b"d", actor="tests")
        await self.house.set_limit(self.organization_id, user_limit(value), request)

    async def save(self) -> None:
        """Keeps what Redis has now, as its file on disk would."""
        keys = [key async for key in self.client.scan_iter(match=f"*{self.organization_id}*")]
        self.kept = {key: dumped for key in keys if (dumped := await self.client.dump(key)) is not None}

    async def restore(self) -> None:
        """Redis begins again with what was kept."""
        await self.client.flushall()
        for key, value in self.kept.items():
            await self.client.restore(key, 3_600_000, value)


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    """A Redis that the test may empty."""
    with temporary_redis(not_durable=True) as server:
        yield server


@pytest.fixture
async def place(own_redis: EmbeddedRedis) -> AsyncIterator[Place]:
    clients = [connect_redis(own_redis.url, timeout_seconds=5) for _ in range(REPLICAS)]
    ledger, organization_id = Ledger(), new_organization_id()
    first = House(RedisCounters(clients[0], command_seconds=5), organization_id, ledger=ledger)
    others = [
        House(
            RedisCounters(client, command_seconds=5),
            organization_id,
            ledger=ledger,
            source=first.plans,
            limits=first.limits,
        )
        for client in clients[1:]
    ]
    first.plans.set(entitlement(organization_id, minutes_limit(LIMIT)))
    yield Place(clients[0], [first, *others], ledger)
    for client in clients:
        await client.aclose()


def rebuilds() -> float:
    samples = [sample for metric in REBUILDS.collect() for sample in metric.samples]
    return sum(sample.value for sample in samples if sample.name.endswith("_total"))


async def test_b12_replicas_that_find_a_cold_counter_at_once_seed_it_once(place: Place) -> None:
    place.use(700)
    before = rebuilds()
    assert await place.all_at_once(301) == [True] * REPLICAS
    assert await place.all_at_once(300) == [False] * REPLICAS
    assert rebuilds() - before == 1


async def test_b17_a_rebuild_that_fails_leaves_the_counters_and_the_limit_standing(place: Place) -> None:
    place.use(700)
    assert await place.denied(301)
    place.ledger.is_away = True
    with pytest.raises(DependencyUnavailable):
        await place.house.rebuild(place.organization_id)
    assert await place.denied(301)
    assert not await place.denied(300)
    await place.client.delete(keys_of(place.organization_id).state)
    with pytest.raises(DependencyUnavailable):
        await place.denied(1)
    place.ledger.is_away = False
    assert await place.denied(301)
    assert not await place.denied(300)


async def test_b20_a_page_that_comes_again_after_a_rebuild_counts_once(place: Place) -> None:
    assert not await place.denied(1)
    before = await place.house.rebuild._upkeep.state(place.organization_id)
    assert before is not None
    place.use(700)
    pages = [page async for page in place.ledger.read(place.organization_id, before.position)]
    await place.house.follow()
    await place.house.rebuild(place.organization_id, force=True)
    effect = UsageEffect(place.house.rebuild._upkeep, place.house.rebuild)
    for page in pages:
        again = Page(page.entries, page.position)
        assert not await effect.apply(place.organization_id, before.position, again)
    await place.set_user_limit(LIMIT, "q1")
    assert await place.all_at_once(301) == [True] * REPLICAS
    assert await place.all_at_once(300) == [False] * REPLICAS


async def test_f12_an_emptied_store_is_rebuilt_once_while_all_replicas_ask(place: Place) -> None:
    await place.set_user_limit(800, "q1")
    place.use(700)
    assert await place.all_at_once(101) == [True] * REPLICAS
    await place.client.flushall()
    before = rebuilds()
    assert await place.all_at_once(101) == [True] * REPLICAS
    assert await place.all_at_once(100) == [False] * REPLICAS
    assert rebuilds() - before == 1


async def test_f12_after_a_loss_no_more_is_held_beyond_the_limit_than_was_held_at_the_loss(place: Place) -> None:
    held = await place.house.reserve("before", agent_minutes=400)
    assert not held.decision.is_denied
    await place.client.flushall()
    names = [f"after-{number}" for number in range(32)]
    answers = await asyncio.gather(
        *(place.replicas[number % REPLICAS].reserve(name, agent_minutes=100) for number, name in enumerate(names))
    )
    assert sum(not answer.decision.is_denied for answer in answers) == LIMIT // 100
    place.use(400, reservation_id="before", final=True)
    await place.house.follow()
    quota = await place.house.quota()
    assert (quota.used, quota.held, quota.remaining) == (400, LIMIT, 0)


async def test_f12_a_store_taken_back_in_time_denies_by_what_was_used_since_before_anybody_is_allowed(
    place: Place,
) -> None:
    place.use(200)
    assert not await place.denied(800)
    await place.save()
    place.use(700)
    await place.house.follow()
    assert await place.all_at_once(101) == [True] * REPLICAS
    await place.restore()
    # The ledger did not move, so no follower is woken: the replicas themselves notice.
    assert await place.all_at_once(101) == [True] * REPLICAS
    assert await place.all_at_once(100) == [False] * REPLICAS


@pytest.mark.parametrize("count", [1, 3])
async def test_f12_a_batch_that_finds_the_store_taken_back_in_time_is_decided_by_what_was_used_since(
    place: Place, count: int
) -> None:
    place.use(200)
    assert not await place.denied(800)
    await place.save()
    place.use(700)
    await place.house.follow()
    assert await place.denied(101)
    await place.restore()
    checks = [
        replace(decide_check(place.organization_id, {MINUTES: 101}, user_id="u1"), mode=mode)
        for mode in [Mode.DECIDE, Mode.CONSUME, Mode.DECIDE][:count]
    ]
    answers = await place.house.check_batch(checks)
    assert [isinstance(answer, Answer) and answer.decision.reason for answer in answers] == [
        DenyReason.LIMIT_REACHED
    ] * count


async def test_f12_reservations_of_a_store_taken_back_in_time_are_drawn_and_ended_again(place: Place) -> None:
    await place.house.reserve("r1", agent_minutes=300)
    await place.save()
    place.use(250, reservation_id="r1", final=True)
    await place.house.follow()
    assert not await place.denied(750)
    await place.restore()
    assert not await place.denied(750)
    quota = await place.house.quota()
    assert (quota.used, quota.held) == (250, 0)


async def test_f12_limits_and_plan_of_a_store_taken_back_in_time_are_not_believed(place: Place) -> None:
    await place.set_user_limit(100, "q1")
    assert not await place.denied(100)
    await place.save()
    await place.set_user_limit(50, "q2")
    terms = await place.house.terms(place.organization_id)
    newer = entitlement(place.organization_id, minutes_limit(40), version=2, period=terms.entitlement.period)
    place.house.plans.set(newer)
    await place.house.plan_changes.catch_up(place.organization_id)
    assert await place.denied(41)
    await place.restore()
    assert await place.denied(41)
    found = await place.house.terms(place.organization_id)
    assert (found.entitlement.version, found.own.sequence) == (2, 2)
    assert await place.all_at_once(41) == [True] * REPLICAS


async def test_f12_a_ledger_that_was_taken_back_is_believed(place: Place) -> None:
    place.use(200)
    place.use(700)
    assert await place.denied(101)
    place.ledger.rewind(place.organization_id, to=1)
    await place.house.follow()
    assert await place.all_at_once(800) == [False] * REPLICAS
    assert await place.all_at_once(801) == [True] * REPLICAS


async def test_a_store_so_far_behind_that_the_ledger_forgot_the_next_entries_is_rebuilt(place: Place) -> None:
    place.use(200)
    assert not await place.denied(800)
    place.use(700)
    place.ledger.keeps_from = 2
    await place.house.rebuild(place.organization_id)
    assert await place.denied(101)
    assert not await place.denied(100)


async def test_f13_scripts_forgotten_by_the_server_are_no_error_and_count_once(place: Place) -> None:
    place.use(100)
    for number in range(5):
        await place.client.script_flush()
        assert not (await place.house.reserve(f"r{number}", agent_minutes=10)).decision.is_denied
        place.use(10, reservation_id=f"r{number}", final=True)
        await place.client.script_flush()
        await place.house.follow()
    quota = await place.house.quota()
    assert (quota.used, quota.held) == (150, 0)


@pytest.mark.parametrize("part", ["entitlement", "state", "used", "held", "expiries"])
async def test_f13_a_part_that_was_evicted_is_noticed_and_never_read_as_zero(place: Place, part: str) -> None:
    await place.set_user_limit(LIMIT, "q1")
    place.use(700)
    assert await place.denied(301)
    keys = keys_of(place.organization_id)
    terms = await place.house.terms(place.organization_id)
    name = keys.used(terms.entitlement.period) if part == "used" else getattr(keys, part)
    assert await place.client.delete(name) == 1
    assert await place.all_at_once(301) == [True] * REPLICAS
    assert await place.all_at_once(300) == [False] * REPLICAS


async def test_f16_a_limit_that_moves_under_traffic_is_never_passed_and_never_below_nothing(place: Place) -> None:
    place.house.plans.set(entitlement(place.organization_id, minutes_limit(None), version=2))
    is_over = asyncio.Event()
    held: list[tuple[str, int]] = []

    async def traffic(number: int) -> None:
        house, count = place.replicas[number], 0
        while not is_over.is_set():
            count += 1
            name = f"t{number}-{count}"
            answer = await house.reserve(name, user_id="u1", agent_minutes=10)
            for state in answer.decision.states:
                assert state.remaining is None or state.remaining >= 0
                # What a check was allowed by is the limit that was in force when it was decided.
                if not answer.decision.is_denied and state.limit.hard is not None:
                    assert state.used + state.held <= state.limit.hard
            if not answer.decision.is_denied:
                held.append((name, 10))
                place.use(10, reservation_id=name, final=True)
                await house.follow()

    async def change() -> None:
        for turn, value in enumerate([500, 100, 300, 50, 600]):
            await place.set_user_limit(value, f"q{turn}")
            place.house.plans.set(entitlement(place.organization_id, minutes_limit(None), version=3 + turn))
            await place.house.plan_changes.catch_up(place.organization_id)
            await asyncio.sleep(0.2)
        is_over.set()

    await asyncio.gather(change(), *(traffic(number) for number in range(1, 4)))
    for replica in place.replicas:
        await replica.follow()
    quota = await place.house.quota()
    assert (quota.used, quota.held) == (10 * len(held), 0)
    # The user's counter was tracked from some moment of the traffic on, and has all of it.
    check = decide_check(place.organization_id, {MINUTES: 1}, user_id="u1")
    state = next(each for each in (await place.house.check(check)).decision.states if each.limit.limit_id == "per-user")
    assert state.used == quota.used
