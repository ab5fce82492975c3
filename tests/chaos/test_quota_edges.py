"""Edges of windows and periods under load with clocks that disagree (F15, B15, B16, B18, B19, B21), requests that are
denied in part (F17, B22), and processes that die between two steps (F14, B14).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from kit.testing.clock import FakeClock
from services.quota.adapters.redis_counters.keys import keys_of
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import Answer
from services.quota.domain.checks import Check, Consumption, Mode, Subject
from services.quota.domain.decisions import DenyReason
from services.quota.domain.entitlements import Period
from services.quota.domain.limits import (
    Limit,
    LimitKind,
    LimitScope,
    ScopeKind,
    Window,
    WindowStyle,
)
from tests.unit.quota.house import House
from tests.unit.quota.samples import (
    AGENTS,
    CALLS,
    MINUTES,
    agents_limit,
    entitlement,
    minutes_limit,
    new_organization_id,
    usage_entry,
)

SECOND = Window(1_000_000, WindowStyle.FIXED)
WINDOWS_SEEN = 4
SKEWS = (-5, 0, 5)
"""By how many seconds the clocks of the processes are off."""


def rate(value: int, window: Window) -> Limit:
    return Limit("rate", LimitScope(ScopeKind.ORGANIZATION), CALLS, LimitKind.WINDOW, value, 0, window)


@dataclass
class Fleet:
    """Processes of quota over one Redis and one organization, whose clocks disagree."""

    houses: list[House]
    redis: Redis

    @property
    def house(self) -> House:
        return self.houses[0]

    @property
    def organization_id(self) -> str:
        return self.house.organization_id

    def plan(self, *limits: Limit, period: Period | None = None, version: int = 1) -> None:
        entitled = entitlement(self.organization_id, *limits, version=version)
        self.house.plans.set(replace(entitled, period=period or entitled.period))

    async def ask(self, quantities: Mapping[str, int], mode: Mode, request_id: str = "", *, process: int = 0) -> Answer:
        check = Check(
            request_id=request_id,
            subject=Subject(organization_id=self.organization_id),
            consumptions=tuple(Consumption(meter, quantities[meter]) for meter in sorted(quantities)),
            mode=mode,
            reserve_us=3_600_000_000 if mode is Mode.RESERVE else 0,
        )
        return await self.houses[process].check(check)

    async def now_us(self) -> int:
        seconds, microseconds = await self.redis.time()
        return int(seconds) * 1_000_000 + int(microseconds)


@pytest.fixture
async def fleet(redis_server: EmbeddedRedis) -> AsyncIterator[Fleet]:
    redis = connect_redis(redis_server.url, timeout_seconds=5)
    store = RedisCounters(redis, command_seconds=5)
    organization_id, now = new_organization_id(), datetime.now(UTC)
    clocks = [FakeClock(now + timedelta(seconds=skew)) for skew in SKEWS]
    first = House(store, organization_id, clock=clocks[0])
    others = [
        House(
            RedisCounters(redis, command_seconds=5),
            organization_id,
            ledger=first.recorded,
            source=first.plans,
            limits=first.limits,
            clock=clock,
        )
        for clock in clocks[1:]
    ]
    yield Fleet([first, *others], redis)
    await redis.aclose()


async def test_f15_b16_b19_a_window_that_rolls_over_under_load_loses_no_hit_and_counts_none_twice(fleet: Fleet) -> None:
    fleet.plan(rate(25, SECOND))
    asked: Counter[int] = Counter()
    allowed: Counter[int] = Counter()
    # Until it has turned three times, however long that takes where much else is going on.
    while len(asked) < WINDOWS_SEEN:
        answers = await asyncio.gather(
            *(fleet.ask({CALLS: 1}, Mode.CONSUME, process=number % len(SKEWS)) for number in range(30))
        )
        # By the clock of Redis, whoever asked.
        asked.update(answer.decided_us // 1_000_000 for answer in answers)
        allowed.update(answer.decided_us // 1_000_000 for answer in answers if not answer.decision.is_denied)
        await asyncio.sleep(0.02)
    assert {second: allowed[second] for second in asked} == {second: min(25, count) for second, count in asked.items()}
    assert max(allowed.values()) == 25


async def test_f15_a_sliding_window_never_admits_more_than_its_limit_in_any_stretch_of_its_length(fleet: Fleet) -> None:
    length_us = 1_200_000
    fleet.plan(rate(20, Window(length_us, WindowStyle.SLIDING)))
    allowed: list[int] = []
    begin_us = await fleet.now_us()
    while await fleet.now_us() < begin_us + 2 * length_us:
        answers = await asyncio.gather(
            *(fleet.ask({CALLS: 1}, Mode.CONSUME, process=number % len(SKEWS)) for number in range(9))
        )
        allowed += [answer.decided_us for answer in answers if not answer.decision.is_denied]
        await asyncio.sleep(0.03)
    allowed.sort()
    assert len(allowed) > 20
    for first in allowed:
        assert sum(first <= moment < first + length_us for moment in allowed) <= 20


async def test_f15_b21_a_period_that_ends_under_load_counts_each_event_in_its_own_and_starts_the_next_at_zero(
    fleet: Fleet,
) -> None:
    now_us = await fleet.now_us()
    edge_us = now_us + 700_000
    old, new = Period(edge_us - 3_600_000_000, edge_us), Period(edge_us, edge_us + 3_600_000_000)
    fleet.plan(minutes_limit(100), period=old)
    fleet.house.record(usage_entry({MINUTES: 100}, event_time_us=edge_us - 1))
    assert (await fleet.ask({MINUTES: 1}, Mode.DECIDE)).decision.is_denied
    answers: list[Answer] = []
    number = 0
    while await fleet.now_us() < edge_us + 400_000:
        if await fleet.now_us() >= edge_us:
            fleet.plan(minutes_limit(100), period=new)
        answers += await asyncio.gather(
            *(fleet.ask({MINUTES: 1}, Mode.RESERVE, f"r{number}-{process}", process=process) for process in range(3))
        )
        number += 1
        await asyncio.sleep(0.02)
    for answer in answers:
        # Redis' clock alone says which period it is; none is denied by what was used in the other.
        if answer.decided_us < edge_us:
            assert answer.decision.is_denied
    allowed = [answer for answer in answers if not answer.decision.is_denied]
    assert allowed
    fleet.house.record(usage_entry({MINUTES: 7}, event_time_us=edge_us))
    await fleet.house.follow()
    state = await fleet.house.quota()
    assert (state.used, state.held) == (7, min(len(allowed), 100))


async def test_b15_concurrent_holds_never_pass_the_limit_of_how_many_at_once(fleet: Fleet) -> None:
    fleet.plan(agents_limit(5))
    answers = await asyncio.gather(
        *(fleet.ask({AGENTS: 1}, Mode.RESERVE, f"r{number}", process=number % 3) for number in range(60))
    )
    assert sum(not answer.decision.is_denied for answer in answers) == 5


async def test_b18_every_key_of_an_organization_expires_also_of_calls_that_were_given_up(fleet: Fleet) -> None:
    fleet.plan(minutes_limit(10_000), rate(10_000, SECOND))
    calls = [
        asyncio.create_task(fleet.ask({MINUTES: 1, CALLS: 1}, Mode.RESERVE, f"r{number}", process=number % 3))
        for number in range(200)
    ]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    keys = [key async for key in fleet.redis.scan_iter(match=f"*{{{fleet.organization_id}}}*", count=1000)]
    assert len(keys) > 100
    assert all([await fleet.redis.pttl(key) > 0 for key in keys])


async def test_f17_b22_a_request_that_its_second_limit_denies_consumes_nothing_of_the_first(fleet: Fleet) -> None:
    fleet.plan(minutes_limit(1_000), agents_limit(1), rate(1_000, Window(3_600_000_000, WindowStyle.FIXED)))
    assert not (await fleet.ask({AGENTS: 1}, Mode.RESERVE, "first")).decision.is_denied
    everything = {MINUTES: 10, CALLS: 10, AGENTS: 1}
    for number in range(50):
        answer = await fleet.ask(everything, Mode.RESERVE, f"r{number}", process=number % 3)
        assert answer.decision.reason is DenyReason.CONCURRENCY
    assert (await fleet.house.quota(MINUTES)).held == 0
    assert (await fleet.house.quota(CALLS)).used == 0
    assert (await fleet.house.quota(AGENTS)).held == 1


async def test_f17_denials_in_a_loop_do_not_push_back_when_there_is_room_again(fleet: Fleet) -> None:
    fleet.plan(rate(2, SECOND))
    for _ in range(2):
        await fleet.ask({CALLS: 1}, Mode.CONSUME)
    await _until_allowed(fleet, {CALLS: 1}, Mode.CONSUME)


async def test_f14_b14_a_caller_that_vanishes_after_its_reservation_leaves_no_hold_and_no_usage(fleet: Fleet) -> None:
    fleet.plan(minutes_limit(100))
    check = Check(
        request_id="vanished",
        subject=Subject(organization_id=fleet.organization_id),
        consumptions=(Consumption(MINUTES, 100),),
        mode=Mode.RESERVE,
        reserve_us=1_000_000,
    )
    calls = [asyncio.create_task(house.check(check)) for house in fleet.houses]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert await fleet.redis.hget(keys_of(fleet.organization_id).held, "organization||" + MINUTES) == b"100"
    await _until_allowed(fleet, {MINUTES: 100}, Mode.DECIDE)
    state = await fleet.house.quota()
    assert (state.used, state.held) == (0, 0)


async def _until_allowed(fleet: Fleet, quantities: Mapping[str, int], mode: Mode) -> None:
    async with asyncio.timeout(30):
        while (await fleet.ask(quantities, mode)).decision.is_denied:  # noqa: ASYNC110 - the clock is Redis' own
            await asyncio.sleep(0.01)
