"""What users of comparable systems found counted wrong, on a real Redis: B13, B14, B15, B16, B18, B21, B22, B24."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from kit.clock import unix_microseconds
from kit.errors import DependencyUnavailable
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from kit.testing.toxic import Toxic, ToxicProxy
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import Answer, ChangeRequest
from services.quota.domain.checks import Check, Mode
from services.quota.domain.decisions import DenyReason
from services.quota.domain.entitlements import Period
from services.quota.domain.limits import (
    ORGANIZATION,
    Counter,
    Limit,
    LimitKind,
    LimitScope,
    Scope,
    ScopeKind,
    Usage,
    Window,
    WindowStyle,
)
from services.quota.domain.windows import WindowCounter
from tests.unit.quota.house import House
from tests.unit.quota.samples import (
    AGENTS,
    CALLS,
    MINUTES,
    agents_limit,
    entitlement,
    minutes_limit,
    new_organization_id,
    reserve_check,
    usage_entry,
    user_limit,
)

REPLICAS = 8
SECOND = Window(1_000_000, WindowStyle.FIXED)
HOUR = Window(3_600_000_000, WindowStyle.SLIDING)
ANN = Scope(ScopeKind.USER, "ann")


def rate_limit(value: int, window: Window) -> Limit:
    return Limit("rate", LimitScope(ScopeKind.ORGANIZATION), CALLS, LimitKind.WINDOW, value, 0, window)


@dataclass
class Place:
    """Replicas, each a process with a connection of its own to one Redis, in an organization of their own."""

    url: str
    clients: list[Redis]
    replicas: list[House]

    @property
    def house(self) -> House:
        return self.replicas[0]

    @property
    def organization_id(self) -> str:
        return self.house.organization_id

    def replica(self, store: RedisCounters) -> House:
        return House(
            store,
            self.organization_id,
            ledger=self.house.recorded,
            source=self.house.plans,
            limits=self.house.limits,
        )

    def plan(self, *limits: Limit, period: Period | None = None) -> None:
        self.house.plans.set(entitlement(self.organization_id, *limits, period=period))

    async def own(self, limit: Limit) -> None:
        request = ChangeRequest(request_id=limit.limit_id, digest=b"", actor="test")
        await self.house.set_limit(self.organization_id, limit, request)

    def asks(self, mode: Mode, quantities: Mapping[str, int | None], request_id: str = "", user_id: str = "") -> Check:
        check = reserve_check(self.organization_id, quantities, request_id=request_id, user_id=user_id)
        return check if mode is Mode.RESERVE else replace(check, mode=mode, reserve_us=0)

    async def usage(self, counter: Counter) -> Usage:
        terms = await self.house.terms(self.organization_id)
        readings = await RedisCounters(self.clients[0], command_seconds=5).read(terms, [counter])
        return readings.usage[counter]

    async def keys(self) -> list[bytes]:
        return [key async for key in self.clients[0].scan_iter(match=f"*{self.organization_id}*", count=1_000)]


@pytest.fixture
async def place(redis_server: EmbeddedRedis) -> AsyncIterator[Place]:
    clients = [connect_redis(redis_server.url, timeout_seconds=5) for _ in range(REPLICAS)]
    first = House(RedisCounters(clients[0], command_seconds=5), new_organization_id())
    place = Place(redis_server.url, clients, [first])
    place.replicas += [place.replica(RedisCounters(client, command_seconds=5)) for client in clients[1:]]
    yield place
    for client in clients:
        await client.aclose()


@pytest.mark.parametrize("mode", [Mode.RESERVE, Mode.CONSUME])
async def test_b13_a_check_whose_answer_was_lost_counts_once_however_often_it_is_sent_again(
    place: Place, mode: Mode
) -> None:
    place.plan(minutes_limit(100))
    await place.own(rate_limit(100, HOUR))
    await place.house.list(place.organization_id)
    check = place.asks(mode, {CALLS: 7}, "lost-answer")
    port = urlsplit(place.url).port
    assert port is not None
    async with ToxicProxy(port) as proxy:
        rule = proxy.when(b"lost-answer", toxic=Toxic.CUT_ANSWER)
        client = connect_redis(place.url.replace(f":{port}/", f":{proxy.port}/"), timeout_seconds=5)
        store = RedisCounters(client, command_seconds=5)
        with pytest.raises(DependencyUnavailable):
            await store.check(check, await place.house.terms(place.organization_id))
        assert rule.reached.is_set()
        answers = [await replica.check(check) for replica in (place.replica(store), *place.replicas)]
        await client.aclose()
    assert len({answer.decided_us for answer in answers}) == 1
    (state,) = answers[0].decision.states
    assert state.used == 7
    terms, rate = await place.house.terms(place.organization_id), WindowCounter(Counter(ORGANIZATION, CALLS), HOUR)
    readings = await RedisCounters(place.clients[0], command_seconds=5).read(terms, [], [rate])
    assert readings.rates[rate].quantity == 7
    assert (await place.usage(Counter(ORGANIZATION, CALLS))).held == (7 if mode is Mode.RESERVE else 0)


async def test_b14_a_caller_that_goes_away_between_reserving_and_using_leaves_no_phantom_use(place: Place) -> None:
    place.plan(minutes_limit(100), agents_limit(5))
    await place.house.list(place.organization_id)
    terms = await place.house.terms(place.organization_id)
    store = RedisCounters(place.clients[0], command_seconds=5)
    for number in range(5):
        check = place.asks(Mode.RESERVE, {MINUTES: 20, AGENTS: 1}, f"gone{number}", "ann")
        asking = asyncio.create_task(store.check(replace(check, reserve_us=1), terms))
        for _ in range(number):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    # Whatever of it reached Redis has ended by time.
    answer = await place.replicas[1].check(place.asks(Mode.RESERVE, {MINUTES: 100, AGENTS: 5}, "next"))
    assert not answer.decision.is_denied
    for counter in (Counter(ANN, MINUTES), Counter(ANN, AGENTS)):
        assert await place.usage(counter) == Usage(0, 0)


async def test_b15_no_more_run_at_once_than_may_on_any_level_however_many_ask_at_once(place: Place) -> None:
    place.plan(agents_limit(20))
    await place.own(user_limit(7, meter=AGENTS, kind=LimitKind.CONCURRENCY))
    users = ("ann", "bob")
    answers = await asyncio.gather(
        *(
            place.replicas[number % REPLICAS].check(
                place.asks(Mode.RESERVE, {AGENTS: 1}, f"r{number}", users[number % 2])
            )
            for number in range(64)
        )
    )
    assert sum(not answer.decision.is_denied for answer in answers) == 14
    assert {answer.decision.reason for answer in answers} == {None, DenyReason.CONCURRENCY}
    assert (await place.usage(Counter(ORGANIZATION, AGENTS))).held == 14
    assert (await place.usage(Counter(ANN, AGENTS))).held == 7


async def test_b16_no_count_is_lost_or_taken_along_when_a_window_turns_under_load(place: Place) -> None:
    place.plan()
    await place.own(rate_limit(1_000_000, SECOND))
    answers: list[Answer] = []

    async def ask_until_the_window_has_turned(house: House) -> None:
        began_us = 0
        while not answers or answers[-1].decided_us // SECOND.slot_us < began_us // SECOND.slot_us + 2:
            answers.append(await house.check(place.asks(Mode.CONSUME, {CALLS: 1})))
            began_us = began_us or answers[-1].decided_us

    await asyncio.gather(*(ask_until_the_window_has_turned(replica) for replica in place.replicas))
    counted: dict[int, list[int]] = defaultdict(list)
    for answer in answers:
        counted[answer.decided_us // SECOND.slot_us].append(answer.decision.states[0].used)
    assert len(counted) >= 2
    for counts in counted.values():
        assert sorted(counts) == list(range(1, len(counts) + 1))


async def test_b18_a_caller_that_goes_away_at_any_moment_leaves_nothing_without_an_end(place: Place) -> None:
    place.plan(minutes_limit(1_000), agents_limit(1_000))
    await place.own(rate_limit(1_000, HOUR))
    for turns in range(40):
        for mode in (Mode.RESERVE, Mode.CONSUME):
            check = place.asks(mode, {MINUTES: 1, CALLS: 1}, f"{mode.value}{turns}", "ann")
            asking = asyncio.create_task(place.replicas[turns % REPLICAS].check(check))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    place.house.record(usage_entry({MINUTES: 1}, reservation_id="never-made"))
    await place.house.follow()
    keys = await place.keys()
    kinds = {key.decode().split(":", 2)[2].split(":")[0] for key in keys}
    assert kinds >= {"entitlement", "state", "used", "held", "expiries", "reservation", "window"}
    for key in keys:
        assert await place.clients[0].pttl(key) > 0, key


async def test_b21_every_replica_sees_what_any_has_counted_and_nothing_left_is_never_less(place: Place) -> None:
    place.plan(minutes_limit(30))
    await place.own(rate_limit(3, SECOND))
    await place.house.check(place.asks(Mode.RESERVE, {MINUTES: 30}, "all"))
    place.house.record(usage_entry({MINUTES: 45}, reservation_id="all"))
    await place.replicas[3].follow()
    resets = set()
    for replica in place.replicas:
        answer = await replica.check(place.asks(Mode.DECIDE, {MINUTES: 1}))
        (state,) = answer.decision.states
        assert (answer.decision.reason, state.used, state.remaining) == (DenyReason.LIMIT_REACHED, 45, 0)
        resets.add(answer.period.end_us)
    assert len(resets) == 1
    # And a window that is used up fills again, when it said it would.
    answers = [await replica.check(place.asks(Mode.CONSUME, {CALLS: 1})) for replica in place.replicas]
    denied = [answer for answer in answers if answer.decision.is_denied]
    assert all(answer.decision.states[0].remaining in (0, 1, 2) for answer in answers)
    assert len({(each.decided_us // SECOND.slot_us, each.decision.room_us) for each in denied}) <= 2
    if denied:
        room_us = denied[-1].decision.room_us
        assert room_us is not None
        await asyncio.sleep((room_us - denied[-1].decided_us) / 1_000_000 + 0.01)
        assert not (await place.house.check(place.asks(Mode.CONSUME, {CALLS: 1}))).decision.is_denied


async def test_b22_a_denial_by_any_limit_consumes_nothing_of_any_other(place: Place) -> None:
    place.plan(minutes_limit(100), agents_limit(1))
    await place.own(rate_limit(5, HOUR))
    await place.own(user_limit(10))
    await place.house.check(place.asks(Mode.RESERVE, {AGENTS: 1}, "running", "bob"))
    too_much: list[dict[str, int | None]] = [
        {MINUTES: 11, CALLS: 1},
        {MINUTES: 1, CALLS: 6},
        {MINUTES: 1, CALLS: 1, AGENTS: 1},
    ]
    for number in range(30):
        for mode in (Mode.RESERVE, Mode.CONSUME):
            check = place.asks(mode, too_much[number % 3], f"{mode.value}{number}", "ann")
            assert (await place.replicas[number % REPLICAS].check(check)).decision.is_denied
    for scope in (ORGANIZATION, ANN):
        for meter in (MINUTES, CALLS):
            assert await place.usage(Counter(scope, meter)) == Usage(0, 0)
    allowed = await place.house.check(place.asks(Mode.CONSUME, {MINUTES: 10, CALLS: 5}, "", "ann"))
    assert not allowed.decision.is_denied


async def test_b24_usage_counts_by_the_billing_period_and_not_by_the_calendar(place: Place) -> None:
    now = datetime.now(UTC)
    # 31 days that begin between two midnights: some month ends within, whatever today is.
    start = now.replace(hour=13, minute=37, second=11, microsecond=5) - timedelta(days=30)
    period = Period(unix_microseconds(start), unix_microseconds(start + timedelta(days=31)))
    place.plan(minutes_limit(1_000), period=period)
    await place.house.list(place.organization_id)
    for day in range(31):
        moment_us = unix_microseconds(start + timedelta(days=day))
        place.house.record(usage_entry({MINUTES: 1}, event_time_us=moment_us))
    for outside_us in (period.start_us - 1, period.end_us):
        place.house.record(usage_entry({MINUTES: 100}, event_time_us=outside_us))
    await place.house.follow()
    assert (await place.house.quota()).used == 31
    answer = await place.house.check(place.asks(Mode.DECIDE, {MINUTES: 1}))
    assert answer.period == period
