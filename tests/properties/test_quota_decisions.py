"""decide() and its Lua twin agree, whatever is limited, counted and asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from kit.feed import START
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from services.quota.adapters.redis_counters.keys import counter_field, keys_of
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import InForce
from services.quota.domain.checks import Check
from services.quota.domain.decisions import decide
from services.quota.domain.entitlements import Entitlement, Standing
from services.quota.domain.limits import Counter, Limit, LimitKind, Usage, plan_limit
from services.quota.domain.maxima import COUNTER_MAX
from tests.unit.quota.samples import (
    AGENTS,
    CALLS,
    MINUTES,
    counter,
    decide_check,
    entitlement,
    new_organization_id,
    reserve_check,
)

METERS = (MINUTES, AGENTS, CALLS)
# Where doubles, rounding and comparisons break: around 0, around each other, around 2^53.
NUMBERS = st.one_of(
    st.integers(0, 12),
    st.integers(90, 112),
    st.integers(2**52 - 2, 2**52 + 2),
    st.integers(COUNTER_MAX - 12, COUNTER_MAX),
)
LIMITS = st.builds(
    plan_limit, st.sampled_from(METERS), st.sampled_from(LimitKind), st.none() | NUMBERS, st.integers(0, 100)
)
USAGES = st.dictionaries(st.sampled_from(METERS).map(counter), st.builds(Usage, NUMBERS, NUMBERS))
QUANTITIES = st.dictionaries(st.sampled_from(METERS), st.none() | NUMBERS, min_size=1)


@dataclass
class Twin:
    """check.lua on a Redis whose counters are set to anything."""

    runner: asyncio.Runner
    client: Redis

    def answers(
        self, limits: list[Limit], usage: dict[Counter, Usage], quantities: dict[str, int | None], standing: Standing
    ) -> None:
        """Asserts that both answers agree: with a reservation and without, and on what is held afterwards."""
        entitled = entitlement(new_organization_id(), *limits, standing=standing)
        self.runner.run(self._begin(entitled, usage))
        for check in (
            decide_check(entitled.organization_id, quantities),
            reserve_check(entitled.organization_id, quantities),
        ):
            self.runner.run(self._answers(entitled, usage, check))

    async def _begin(self, entitled: Entitlement, usage: dict[Counter, Usage]) -> None:
        store = RedisCounters(self.client, command_seconds=5)
        await store.put(InForce(entitled, START))
        used = {each: seen.used for each, seen in usage.items()}
        assert await store.reset(entitled, expected=None, position=START, used=used)
        for each, seen in usage.items():
            await self.client.hset(keys_of(entitled.organization_id).held, counter_field(each), str(seen.held))

    async def _answers(self, entitled: Entitlement, usage: dict[Counter, Usage], check: Check) -> None:
        store = RedisCounters(self.client, command_seconds=5)
        answer = await store.check(check, entitled)  # raises AssertionError when the outcomes differ
        decision = decide(entitled.limits, usage, check, standing=entitled.standing)
        assert answer.decision == decision
        assert (answer.reservation is None) is (decision.is_denied or not check.reserve_us)
        readings = await store.read(entitled, [counter(meter) for meter in METERS])
        for state in decision.states:
            assert readings.usage[state.limit.counter].held == state.held
        if answer.reservation is None:
            assert readings.usage == {counter(meter): usage.get(counter(meter), Usage()) for meter in METERS}


@pytest.fixture(scope="module")
def twin(redis_server: EmbeddedRedis) -> Iterator[Twin]:
    with asyncio.Runner() as runner:

        async def connect() -> Redis:
            return connect_redis(redis_server.url, timeout_seconds=5)

        client = runner.run(connect())
        yield Twin(runner, client)
        runner.run(client.aclose())


@settings(max_examples=400)
@given(st.lists(LIMITS, max_size=5), USAGES, QUANTITIES, st.sampled_from(Standing))
@example([plan_limit(MINUTES, LimitKind.PERIOD, COUNTER_MAX, 100)], {}, {MINUTES: COUNTER_MAX}, Standing.ACTIVE)
@example(
    [plan_limit(MINUTES, LimitKind.PERIOD, COUNTER_MAX, 0)],
    {counter(MINUTES): Usage(COUNTER_MAX, COUNTER_MAX)},
    {MINUTES: 0},
    Standing.ACTIVE,
)
@example([plan_limit(MINUTES, LimitKind.PERIOD, 0, 100)], {}, {MINUTES: None}, Standing.ACTIVE)
def test_decide_equals_its_lua_twin(
    twin: Twin,
    limits: list[Limit],
    usage: dict[Counter, Usage],
    quantities: dict[str, int | None],
    standing: Standing,
) -> None:
    twin.answers(limits, usage, quantities, standing)


@given(st.lists(LIMITS, max_size=5), USAGES, QUANTITIES)
def test_what_is_reserved_never_passes_a_hard_limit(
    limits: list[Limit], usage: dict[Counter, Usage], quantities: dict[str, int | None]
) -> None:
    decision = decide(limits, usage, reserve_check("o", quantities))
    if not decision.is_denied:
        for state in decision.states:
            grew = state.held > usage.get(state.limit.counter, Usage()).held
            assert not grew or state.limit.hard is None or state.used + state.held <= state.limit.hard


@given(st.lists(LIMITS, max_size=5), USAGES, st.dictionaries(st.sampled_from(METERS), st.integers(1, 200), min_size=1))
def test_what_is_allowed_is_also_allowed_in_a_smaller_quantity(
    limits: list[Limit], usage: dict[Counter, Usage], quantities: dict[str, int]
) -> None:
    if not decide(limits, usage, decide_check("o", quantities)).is_denied:
        smaller = {meter: quantity - 1 for meter, quantity in quantities.items()}
        assert not decide(limits, usage, decide_check("o", smaller)).is_denied
