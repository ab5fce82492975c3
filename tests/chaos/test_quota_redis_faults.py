"""Quota while its Redis is slow, silent, resetting, down or in slices (F10, B23), and lost answers (F11, B13)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from redis.asyncio import Redis

from kit.errors import DependencyUnavailable
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from kit.redis.pipe import RedisPipe
from kit.testing.toxic import Toxic, ToxicProxy, Weather
from services.quota.adapters.redis_counters.calls import COMMANDS_IN_FLIGHT_MAX
from services.quota.adapters.redis_counters.keys import keys_of
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import Answer
from services.quota.domain.checks import Check, Consumption, Mode, Subject
from services.quota.domain.decisions import DenyReason
from services.quota.domain.limits import Limit, LimitKind, UnavailablePolicy, plan_limit
from tests.unit.quota.house import House
from tests.unit.quota.samples import CALLS, MINUTES, entitlement, new_organization_id, usage_entry

CLIENTS = 64
COMMAND_SECONDS = 0.1
"""Five times the budget of production: what is tested is what happens after it, and not this machine."""
HELD = "organization||" + MINUTES


class Counted:
    """A connection that counts the commands that it was given: each is one wait."""

    def __init__(self, pipe: RedisPipe) -> None:
        self._pipe = pipe
        self.commands_count = 0

    async def execute_command(self, *words: object) -> object:
        self.commands_count += 1
        return await self._pipe.execute_command(*words)  # type: ignore[arg-type]


@dataclass
class Scene:
    """A process of quota that reaches Redis through bad weather, and a look around it."""

    house: House
    proxy: ToxicProxy
    commands: Counted
    redis: Redis

    @property
    def organization_id(self) -> str:
        return self.house.organization_id

    def check(self, meter: str, quantity: int, request_id: str = "", mode: Mode = Mode.RESERVE) -> Check:
        return Check(
            request_id=request_id,
            subject=Subject(organization_id=self.organization_id),
            consumptions=(Consumption(meter, quantity),),
            mode=mode,
            reserve_us=3_600_000_000 if mode is Mode.RESERVE else 0,
        )

    async def ask(self, meter: str, quantity: int, request_id: str = "", mode: Mode = Mode.RESERVE) -> Answer:
        return await self.house.check(self.check(meter, quantity, request_id, mode))

    async def held(self) -> int:
        return int(await self.redis.hget(keys_of(self.organization_id).held, HELD) or 0)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await holds():  # noqa: ASYNC110 - it comes true beyond a network
                await asyncio.sleep(0.02)

    async def registered(self) -> bool:
        try:
            await self.house.register(self.organization_id)
        except DependencyUnavailable:
            return False
        return not self.house.grants.organizations


def with_policy(meter: str, value: int, policy: UnavailablePolicy) -> Limit:
    return replace(plan_limit(meter, LimitKind.PERIOD, value, 0), on_unavailable=policy)


@asynccontextmanager
async def scene_on(server: EmbeddedRedis, like: Scene | None = None) -> AsyncIterator[Scene]:
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    redis = connect_redis(server.url, timeout_seconds=5)
    async with ToxicProxy(port) as proxy:
        url = server.url.replace(f":{port}/", f":{proxy.port}/")
        async with RedisPipe(url, timeout_seconds=1) as pipe:
            commands = Counted(pipe)
            store = RedisCounters(commands, command_seconds=COMMAND_SECONDS)
            if like is None:
                house = House(store, new_organization_id())
                limits = (
                    with_policy(MINUTES, 10_000, UnavailablePolicy.ALLOW),
                    with_policy(CALLS, 10_000, UnavailablePolicy.DENY),
                )
                house.plans.set(entitlement(house.organization_id, *limits))
            else:
                first = like.house
                house = House(
                    store, like.organization_id, ledger=first.recorded, source=first.plans, limits=first.limits
                )
            scene = Scene(house, proxy, commands, redis)
            # The process has seen the organization, and the connection stands.
            await scene.until(lambda: _is_seen(scene))
            yield scene
    await redis.aclose()


async def _is_seen(scene: Scene) -> bool:
    try:
        return not (await scene.ask(MINUTES, 0, mode=Mode.DECIDE)).degraded
    except DependencyUnavailable:
        return False


@pytest.fixture
async def scene(redis_server: EmbeddedRedis) -> AsyncIterator[Scene]:
    async with scene_on(redis_server) as scene:
        yield scene


AWAY = [Weather.BLACK_HOLE, Weather.SLOW, Weather.RESET, Weather.DOWN]


@pytest.mark.parametrize("weather", AWAY)
async def test_f10_while_redis_is_away_each_limit_follows_its_policy_and_says_so(
    scene: Scene, weather: Weather
) -> None:
    await scene.proxy.change(weather)
    allowed = [await scene.ask(MINUTES, 40, f"r{number}") for number in range(4)]
    assert [answer.decision.is_denied for answer in allowed] == [False, False, True, True]
    denied = await scene.ask(CALLS, 1, "c1")
    assert denied.decision.reason is DenyReason.STORE_UNAVAILABLE
    assert all(answer.degraded for answer in [*allowed, denied])


@pytest.mark.parametrize("weather", AWAY)
async def test_f10_what_was_granted_while_redis_was_away_is_held_once_when_it_is_back(
    scene: Scene, weather: Weather
) -> None:
    await scene.proxy.change(weather)
    await scene.ask(MINUTES, 40, "r1")
    await scene.ask(MINUTES, 40, "r1")
    await scene.ask(MINUTES, 30, "r2")
    assert scene.house.grants.organizations
    await scene.proxy.change(Weather.CLEAR)
    await scene.until(scene.registered)
    assert await scene.held() == 70
    answer = await scene.ask(MINUTES, 40, "r1")
    assert (answer.decision.is_denied, answer.degraded) == (False, False)
    assert await scene.held() == 70


async def test_f10_answers_in_slices_are_answers(scene: Scene) -> None:
    await scene.proxy.change(Weather.SLICED)
    answer = await scene.ask(MINUTES, 40, "r1")
    assert (answer.decision.is_denied, answer.degraded) == (False, False)
    assert await scene.held() == 40


@pytest.mark.parametrize("weather", AWAY)
async def test_b23_while_redis_is_away_few_wait_and_nobody_opens_connections_by_the_call(
    scene: Scene, weather: Weather
) -> None:
    await scene.proxy.change(weather)
    connections_before = scene.proxy.connections_count
    scene.commands.commands_count = 0
    for number in range(10):
        await asyncio.gather(*(scene.ask(CALLS, 1, f"{number}-{client}", Mode.DECIDE) for client in range(CLIENTS)))
    # Of 640 checks those in flight before the breaker opened, and a probe for each half a second after that.
    assert scene.commands.commands_count <= 2 * COMMANDS_IN_FLIGHT_MAX
    assert scene.proxy.connections_count - connections_before <= 2 * COMMANDS_IN_FLIGHT_MAX
    assert scene.proxy.open_count <= 1 + 1


async def test_f10_a_redis_that_was_away_is_asked_again_and_nothing_is_left_degraded(scene: Scene) -> None:
    for weather in AWAY:
        await scene.proxy.change(weather)
        await scene.until(lambda: _is_degraded(scene))
        await scene.proxy.change(Weather.CLEAR)
        await scene.until(lambda: _is_seen(scene))


async def _is_degraded(scene: Scene) -> bool:
    return (await scene.ask(CALLS, 1, mode=Mode.DECIDE)).degraded


async def test_f11_b13_a_check_whose_answer_is_lost_after_the_script_ran_is_counted_once(scene: Scene) -> None:
    rule = scene.proxy.when(b"EVALSHA", b"lost-answer", toxic=Toxic.CUT_ANSWER)
    lost = await scene.ask(MINUTES, 40, "lost-answer")
    assert rule.reached.is_set()
    # It was granted in doubt; the store holds it already.
    assert (lost.decision.is_denied, lost.degraded) == (False, True)
    assert await scene.held() == 40
    await scene.until(scene.registered)
    assert await scene.held() == 40
    retried = await scene.ask(MINUTES, 40, "lost-answer")
    assert (retried.decision.is_denied, retried.degraded) == (False, False)
    assert await scene.held() == 40


async def test_f11_b13_a_check_that_times_out_while_it_runs_is_counted_once(scene: Scene) -> None:
    rule = scene.proxy.when(b"EVALSHA", b"late-answer", toxic=Toxic.HOLD_ANSWER)
    late = await scene.ask(MINUTES, 40, "late-answer")
    assert late.degraded
    rule.release()
    scene.house.record(usage_entry({MINUTES: 25}, reservation_id="late-answer"))
    await scene.until(scene.registered)
    await scene.until(lambda: _follows(scene))
    assert await scene.held() == 15


async def _follows(scene: Scene) -> bool:
    try:
        await scene.house.follow()
    except DependencyUnavailable:
        return False
    return True


async def test_f11_usage_that_came_before_its_grant_was_registered_is_counted_once(scene: Scene) -> None:
    await scene.proxy.change(Weather.DOWN)
    await scene.ask(MINUTES, 40, "r1")
    await scene.proxy.change(Weather.CLEAR)
    scene.house.record(usage_entry({MINUTES: 25}, reservation_id="r1"))
    await scene.until(lambda: _follows(scene))
    await scene.until(scene.registered)
    quota = await scene.house.quota()
    assert (quota.used, quota.held) == (25, 15)


async def test_p11_with_redis_away_again_and_again_processes_overspend_by_their_allowances_at_most(
    redis_server: EmbeddedRedis,
) -> None:
    async with scene_on(redis_server) as one, scene_on(redis_server, like=one) as other:
        await one.ask(MINUTES, 9_950, "most")
        for scene in (one, other):
            await scene.until(lambda scene=scene: _is_seen(scene))  # type: ignore[misc]
        for round_ in range(3):
            for scene, name in ((one, "one"), (other, "other")):
                await scene.proxy.change(Weather.DOWN)
                await asyncio.gather(*(scene.ask(MINUTES, 7, f"{name}-{round_}-{number}") for number in range(50)))
            for scene in (one, other):
                await scene.proxy.change(Weather.CLEAR)
                await scene.until(scene.registered)
            assert 10_000 < await one.held() <= 10_000 + 2 * 100
