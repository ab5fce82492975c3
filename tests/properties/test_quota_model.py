"""Redis does what the model in memory does, whatever is asked, recorded, ended and repeated, in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from kit.clock import SystemClock
from kit.errors import RequestIdReused
from kit.feed import START, Position
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from services.quota.adapters.memory import MemoryCounters
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import CounterState, InForce, Overrun
from services.quota.domain.entitlements import Entitlement
from services.quota.domain.limits import Usage
from services.quota.domain.usage import tally
from tests.unit.quota.samples import (
    AGENTS,
    CALLS,
    HOUR_US,
    MINUTES,
    agents_limit,
    counter,
    entitlement,
    minutes_limit,
    new_organization_id,
    own_limits,
    reserve_check,
    terms,
    usage_entry,
)

METERS = (MINUTES, AGENTS, CALLS)
NAMES = st.sampled_from(["r1", "r2", "r3"])
AMOUNTS = st.dictionaries(st.sampled_from(METERS), st.integers(0, 40), max_size=3)
# A request_id stands for one content, as callers are told: the quantities of a reservation follow from its name.
RESERVED = {"r1": {MINUTES: 30, AGENTS: 1}, "r2": {MINUTES: 50, CALLS: 3}, "r3": {AGENTS: 1}}

RESERVE = st.tuples(st.just("reserve"), NAMES, st.booleans())
USE = st.tuples(st.just("use"), NAMES | st.just(""), AMOUNTS, st.booleans(), st.booleans())
TAKE_BACK = st.tuples(st.just("take_back"), AMOUNTS, st.booleans())
REPEAT = st.tuples(st.just("repeat"))
EXPIRE = st.tuples(st.just("expire"), NAMES, st.integers(-1, 2))
RESET = st.tuples(st.just("reset"), AMOUNTS)
CHANGE = st.tuples(st.just("change"), st.integers(1, 4), st.none() | st.integers(0, 120))
STEPS = st.lists(st.one_of(RESERVE, USE, TAKE_BACK, REPEAT, EXPIRE, RESET, CHANGE), max_size=25)


class Driver:
    """Does the same to one store as to another; what it observes must not differ."""

    def __init__(self, store: MemoryCounters | RedisCounters, entitled: Entitlement) -> None:
        self._store = store
        self._entitled = entitled
        self._organization_id = entitled.organization_id
        self._repeat_last_page: Callable[[], Awaitable[Overrun | None]] | None = None

    async def begin(self) -> None:
        await self._store.put(InForce(self._entitled, START))
        await self._store.put_limits(own_limits(self._organization_id))
        assert await self._store.reset(self._entitled, expected=None, position=START, used={})

    async def step(self, step: tuple[Any, ...]) -> object:
        kind, *arguments = step
        return await getattr(self, kind)(*arguments)

    async def counters(self) -> dict[str, Usage]:
        readings = await self._store.read(terms(self._entitled), [counter(meter) for meter in METERS])
        return {meter: readings.usage.get(counter(meter), Usage()) for meter in METERS}

    async def reserve(self, name: str, brief: bool) -> object:  # noqa: FBT001 - drawn by hypothesis
        # Two durations are two contents; the second under one name is refused.
        reserve_us = 1 if brief else HOUR_US
        check = reserve_check(self._organization_id, RESERVED[name], request_id=name, reserve_us=reserve_us)
        try:
            answer = await self._store.check(check, terms(self._entitled))
        except RequestIdReused:
            return "reused"
        return answer.decision, answer.reservation is None, answer.entitlement_version

    async def use(self, name: str, quantities: dict[str, int], final: bool, inside: bool) -> object:  # noqa: FBT001
        return await self._apply(quantities, name, final=final and bool(name), inside=inside)

    async def take_back(self, quantities: dict[str, int], inside: bool) -> object:  # noqa: FBT001
        taken_back = {meter: -quantity for meter, quantity in quantities.items()}
        return await self._apply(taken_back, "", final=False, inside=inside)

    async def _apply(self, quantities: dict[str, int], name: str, *, final: bool, inside: bool) -> Overrun | None:
        state = await self._state()
        event_time_us = state.period.start_us - (0 if inside else 1)
        entry = usage_entry(quantities, reservation_id=name, final=final, event_time_us=event_time_us)
        self._repeat_last_page = partial(
            self._store.apply,
            self._organization_id,
            tally([entry], state.period),
            expected=state,
            position=Position(state.position.sequence + 1, "c"),
        )
        return await self._repeat_last_page()

    async def repeat(self) -> object:
        return None if self._repeat_last_page is None else await self._repeat_last_page()

    async def expire(self, name: str, ahead: int) -> object:
        head = max(0, (await self._state()).position.sequence + ahead)
        freed = await self._store.free(self._organization_id, [name], head_sequence=head)
        return freed.freed_count, freed.waiting_count

    async def reset(self, quantities: dict[str, int]) -> object:
        state = await self._state()
        used = {counter(meter): quantity for meter, quantity in quantities.items()}
        # Another commit id: what was applied before must not be applicable again.
        position = Position(state.position.sequence, f"{state.position.commit_id}x")
        return await self._store.reset(self._entitled, expected=state, position=position, used=used)

    async def change(self, version: int, value: int | None) -> object:
        limits = (minutes_limit(value, grace_percent=10), agents_limit(2))
        changed = replace(self._entitled, version=version, limits=limits)
        self._entitled = await self._store.put(InForce(changed, START))
        return self._entitled

    async def _state(self) -> CounterState:
        state = await self._store.state(self._organization_id)
        assert state is not None
        return state


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as started:
        yield started


@pytest.fixture(scope="module")
def client(redis_server: EmbeddedRedis, runner: asyncio.Runner) -> Iterator[Redis]:
    async def connect() -> Redis:
        return connect_redis(redis_server.url, timeout_seconds=5)

    connected = runner.run(connect())
    yield connected
    runner.run(connected.aclose())


@settings(max_examples=150)
@given(STEPS)
def test_redis_does_what_the_model_does(client: Redis, runner: asyncio.Runner, steps: list[tuple[Any, ...]]) -> None:
    # The real clock on both sides; a reservation either ends within a microsecond or outlives the test.
    entitled = entitlement(new_organization_id(), minutes_limit(100, grace_percent=10), agents_limit(2))

    async def compare() -> None:
        model, real = (
            Driver(store, entitled)
            for store in (MemoryCounters(SystemClock()), RedisCounters(client, command_seconds=5))
        )
        for driver in (model, real):
            await driver.begin()
        for step in steps:
            assert await real.step(step) == await model.step(step), step
            counters = await real.counters()
            assert counters == await model.counters(), step
            assert all(usage.used >= 0 and usage.held >= 0 for usage in counters.values())

    runner.run(compare())
