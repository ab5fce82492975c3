"""WatchQuotas, and ListQuotas of limits of each member, as clients see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest

from kit.clock import unix_microseconds
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.interceptor import Gate
from kit.grpc.server import Application
from kit.testing.clock import FakeClock
from kit.testing.servers import KnownKeys, serving
from services.quota.adapters.memory import MemoryCounters
from services.quota.application.ports import ChangeRequest
from services.quota.domain.checks import Check, Consumption, Mode, Subject
from services.quota.domain.entitlements import Standing
from services.quota.domain.limits import Limit, LimitKind, LimitScope, ScopeKind, Window, WindowStyle
from services.quota.domain.maxima import WATCHES_OF_ONE_MAX
from tests.unit.quota.house import House
from tests.unit.quota.samples import (
    AGENTS,
    CALLS,
    MINUTES,
    agents_limit,
    entitlement,
    minutes_limit,
    period_around,
    usage_entry,
)
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

ACME = Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES)
WINDOW = Window(60_000_000, WindowStyle.FIXED)


class Stage:
    """The service, and what its clients see of it."""

    def __init__(self, channel: grpc.aio.Channel, house: House, clock: FakeClock, keys: KnownKeys, gate: Gate) -> None:
        self.stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self.house = house
        self.clock = clock
        self.keys = keys
        self.gate = gate

    def entitle(self, *limits: Limit, **fields: Any) -> None:
        fields.setdefault("plan_id", "pro")
        fields["period"] = period_around(self.clock.now())
        self.house.plans.set(entitlement("acme", *limits, **fields))

    async def set(self, limit: Limit) -> None:
        await self.house.set_limit("acme", limit, ChangeRequest(request_id=limit.limit_id, digest=b"", actor="tests"))

    async def use(self, minutes: int) -> None:
        self.house.record(usage_entry({MINUTES: minutes}, event_time_us=unix_microseconds(self.clock.now())))
        await self.house.follow()

    def watch(self, token: str = "", *, organization_id: str = "", key: str = "tb_live_acme") -> Any:
        request = quota_pb2.WatchQuotasRequest(organization_id=organization_id, resume_token=token)
        return self.stub.WatchQuotas(request, metadata=credential(key))

    async def list(self) -> quota_pb2.ListQuotasResponse:
        return await self.stub.ListQuotas(quota_pb2.ListQuotasRequest(), metadata=credential("tb_live_acme"))

    async def next(self, call: Any) -> quota_pb2.WatchQuotasResponse:
        """What is told next, while the process goes on looking."""
        looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(10):
                response: quota_pb2.WatchQuotasResponse = await call.read()
                return response
        finally:
            looking.cancel()

    async def _look(self) -> None:
        while True:
            await self.house.watch.look()
            await asyncio.sleep(0.01)


def credential(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    clock, gate = FakeClock(), Gate()
    # Members are searched for at every look, and not more seldom because a search took long on a busy machine.
    house = House(MemoryCounters(clock), "acme", search_clock=lambda: 0.0)
    keys = KnownKeys({"tb_live_acme": ACME, "tb_admin": Principal(CallerKind.ADMIN, "admin")})

    async def prepare() -> None:
        return None

    application = Application(
        authenticator=Authenticator(keys, {}), servicers=[house.servicer("acme")], prepare=prepare
    )
    async with serving(application, gate=gate) as channel:
        stage = Stage(channel, house, clock, keys, gate)
        stage.entitle(minutes_limit(100), agents_limit(2))
        yield stage


def each_user(name: str, meter: str = MINUTES, kind: LimitKind = LimitKind.PERIOD, value: int = 100) -> Limit:
    return Limit(name, LimitScope(ScopeKind.USER), meter, kind, value, 0, WINDOW if kind is LimitKind.WINDOW else None)


def short(response: Any) -> list[tuple[str, str, int, int]]:
    return [(state.limit_id, state.scope.id, state.used, state.held) for state in response.limits]


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    return refused.value.code(), reason_of(refused.value)


async def test_all_limits_come_first_and_then_what_has_changed(stage: Stage) -> None:
    call = stage.watch()
    first = await stage.next(call)
    assert first.complete
    assert first.plan_id == "pro"
    assert short(first) == [("plan:agent_minutes", "", 0, 0), ("plan:concurrent_agents", "", 0, 0)]
    await stage.use(7)
    changed = await stage.next(call)
    assert not changed.complete
    assert short(changed) == [("plan:agent_minutes", "", 7, 0)]
    await stage.house.reserve(concurrent_agents=1)
    assert short(await stage.next(call)) == [("plan:concurrent_agents", "", 0, 1)]


async def test_limits_that_come_and_go_are_told(stage: Stage) -> None:
    call = stage.watch()
    await stage.next(call)
    await stage.set(each_user("lim-1"))
    assert short(await stage.next(call)) == [("lim-1", "", 0, 0)]
    await stage.house.delete_limit("acme", "lim-1", ChangeRequest(request_id="d", digest=b"", actor="tests"))
    gone = await stage.next(call)
    assert (list(gone.removed_limit_ids), short(gone)) == (["lim-1"], [])


async def test_a_plan_change_and_a_suspension_are_told_with_all_limits(stage: Stage) -> None:
    call = stage.watch()
    assert (await stage.next(call)).deny_reason == quota_pb2.DENY_REASON_UNSPECIFIED
    stage.entitle(minutes_limit(5), version=2, standing=Standing.SUSPENDED, plan_id="starter")
    await stage.house.plan_changes.catch_up("acme")
    changed = await stage.next(call)
    assert (changed.complete, changed.plan_id, changed.deny_reason) == (
        True,
        "starter",
        quota_pb2.DENY_REASON_SUSPENDED,
    )
    assert [(state.limit_id, state.limit) for state in changed.limits] == [("plan:agent_minutes", 5)]
    assert list(changed.removed_limit_ids) == ["plan:concurrent_agents"]
    assert (await stage.list()).deny_reason == quota_pb2.DENY_REASON_SUSPENDED


async def test_a_new_period_is_told(stage: Stage) -> None:
    await stage.use(7)
    call = stage.watch()
    first = await stage.next(call)
    stage.clock.advance(timedelta(days=30))
    stage.entitle(minutes_limit(100), agents_limit(2))
    changed = await stage.next(call)
    assert changed.complete
    assert short(changed)[0] == ("plan:agent_minutes", "", 0, 0)
    assert changed.limits[0].reset_time.seconds > first.limits[0].reset_time.seconds


async def test_a_window_that_empties_by_time_alone_is_told(stage: Stage) -> None:
    rate = Limit("rate", LimitScope(ScopeKind.ORGANIZATION), CALLS, LimitKind.WINDOW, 5, 0, WINDOW)
    await stage.set(rate)
    consumption = Check(
        request_id="",
        subject=Subject(organization_id="acme"),
        consumptions=(Consumption(CALLS, 3),),
        mode=Mode.CONSUME,
        reserve_us=0,
    )
    await stage.house.check(consumption)
    call = stage.watch()
    first = await stage.next(call)
    assert [state.used for state in first.limits if state.limit_id == "rate"] == [3]
    stage.clock.advance(timedelta(minutes=1))
    assert short(await stage.next(call)) == [("rate", "", 0, 0)]


async def test_who_resumes_where_nothing_has_changed_is_told_nothing_twice(stage: Stage) -> None:
    first = await stage.next(stage.watch())
    resumed = stage.watch(first.resume_token)
    # One that came later has been answered: the first has seen the same.
    later = stage.watch()
    await stage.next(later)
    await stage.use(1)
    assert short(await stage.next(resumed)) == [("plan:agent_minutes", "", 1, 0)]


async def test_who_resumes_after_a_change_or_with_any_other_token_gets_all(stage: Stage) -> None:
    first = await stage.next(stage.watch())
    await stage.use(1)
    for token in (first.resume_token, "anything"):
        assert (await stage.next(stage.watch(token))).complete


async def test_a_reader_that_was_slow_sees_the_latest_and_not_what_lay_between(stage: Stage) -> None:
    call = stage.watch()
    await stage.next(call)
    for _ in range(3):
        await stage.use(1)
    assert short(await stage.next(call)) == [("plan:agent_minutes", "", 3, 0)]


async def test_a_revoked_key_ends_its_watch(stage: Stage) -> None:
    call = stage.watch()
    await stage.next(call)
    del stage.keys.principals["tb_live_acme"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stage.next(call)
    assert (refused.value.code(), reason_of(refused.value)) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "CREDENTIAL_INVALID",
    )


async def test_a_process_that_stops_ends_its_watches(stage: Stage) -> None:
    call = stage.watch()
    await stage.next(call)
    stage.gate.drain()
    assert await refusal(call) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")


async def test_an_organization_has_so_many_watchers_and_a_place_comes_back(stage: Stage) -> None:
    calls = [stage.watch() for _ in range(WATCHES_OF_ONE_MAX)]
    for call in calls:
        await stage.next(call)
    assert await refusal(stage.watch()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert (await stage.next(stage.watch(organization_id="acme", key="tb_admin"))).complete
    calls[0].cancel()
    async with asyncio.timeout(10):
        while True:
            try:
                assert (await stage.next(stage.watch())).complete
            except grpc.aio.AioRpcError:
                continue
            return


async def test_a_limit_of_each_member_shows_itself_and_those_who_use_most(stage: Stage) -> None:
    await stage.set(each_user("each"))
    await stage.set(each_user("agents", AGENTS, LimitKind.CONCURRENCY, 3))
    await stage.set(each_user("rates", CALLS, LimitKind.WINDOW, 3))
    await stage.house.reserve("r1", user_id="ann", agent_minutes=5, concurrent_agents=1)
    await stage.house.reserve("r2", user_id="bob", agent_minutes=6)
    listed = await stage.list()
    assert [each for each in short(listed) if not each[0].startswith("plan:")] == [
        ("each", "", 0, 0),
        ("each", "bob", 0, 6),
        ("each", "ann", 0, 5),
        ("rates", "", 0, 0),
        ("agents", "", 0, 0),
        ("agents", "ann", 0, 1),
    ]
    itself = next(state for state in listed.limits if state.limit_id == "each")
    assert not itself.scope.HasField("id")
    assert itself.remaining == 100


async def test_a_limit_of_each_member_is_told_as_a_whole(stage: Stage) -> None:
    await stage.set(each_user("each"))
    call = stage.watch()
    await stage.next(call)
    await stage.house.reserve("r1", user_id="ann", agent_minutes=5)
    assert ("each", "ann", 0, 5) in short(await stage.next(call))
    await stage.house.reserve("r2", user_id="bob", agent_minutes=5)
    assert [each for each in short(await stage.next(call)) if each[0] == "each"] == [
        ("each", "", 0, 0),
        ("each", "ann", 0, 5),
        ("each", "bob", 0, 5),
    ]
