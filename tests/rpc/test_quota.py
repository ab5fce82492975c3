"""QuotaService over a real server and channel, on the shipped fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from kit.clock import unix_microseconds
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.testing.clock import FakeClock
from kit.testing.servers import KnownKeys, serving
from services.quota.adapters.memory import MemoryCounters
from services.quota.domain.entitlements import Standing
from tests.unit.quota.house import House
from tests.unit.quota.samples import (
    AGENTS,
    MINUTES,
    agents_limit,
    entitlement,
    minutes_limit,
    period_around,
    usage_entry,
)
from tollbook.access.v1 import access_pb2
from tollbook.metering.v1 import metering_pb2
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

KEYS = {
    "tb_live_acme": Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES),
    "tb_live_read": Principal(CallerKind.TENANT, "key-2", "acme", frozenset({access_pb2.SCOPE_QUOTA_READ})),
    "tb_admin_1": Principal(CallerKind.ADMIN, "admin"),
}
DECIDE, RESERVE = quota_pb2.CHECK_MODE_DECIDE, quota_pb2.CHECK_MODE_RESERVE


class Quota:
    """The service on a stage that stands still, and the calls that a client makes."""

    def __init__(self, channel: grpc.aio.Channel, house: House, clock: FakeClock) -> None:
        self.channel = channel
        self.stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self.house = house
        self.clock = clock

    def entitle(self, *, version: int = 1, standing: Standing = Standing.ACTIVE) -> None:
        limits = (minutes_limit(100, grace_percent=10), agents_limit(1))
        period = period_around(self.clock.now())
        self.house.plans.set(entitlement("acme", *limits, version=version, period=period, standing=standing))

    def check(
        self,
        quantities: dict[str, int | None] | None = None,
        *,
        key: str = "tb_live_acme",
        organization_id: str = "",
        **fields: Any,
    ) -> grpc.aio.UnaryUnaryCall[quota_pb2.CheckRequest, quota_pb2.CheckResponse]:
        request = quota_pb2.CheckRequest(
            subject=metering_pb2.Subject(organization_id=organization_id),
            consumptions=[
                quota_pb2.Consumption(meter=meter, quantity=quantity)
                for meter, quantity in ({MINUTES: 1} if quantities is None else quantities).items()
            ],
            **fields,
        )
        return self.stub.Check(request, metadata=(("authorization", f"Bearer {key}"),))

    def extend(
        self, quantities: dict[str, int], name: str = "r1", *, key: str = "tb_live_acme", **subject: str
    ) -> grpc.aio.UnaryUnaryCall[quota_pb2.ExtendReservationRequest, quota_pb2.ExtendReservationResponse]:
        request = quota_pb2.ExtendReservationRequest(
            reservation_id=name,
            subject=metering_pb2.Subject(**subject),
            consumptions=[quota_pb2.Consumption(meter=meter, quantity=amount) for meter, amount in quantities.items()],
            reserve_duration=Duration(seconds=60),
        )
        return self.stub.ExtendReservation(request, metadata=(("authorization", f"Bearer {key}"),))

    def commit(
        self, actuals: dict[str, int], name: str = "r1", *, key: str = "tb_live_acme", organization_id: str = ""
    ) -> grpc.aio.UnaryUnaryCall[quota_pb2.CommitReservationRequest, quota_pb2.CommitReservationResponse]:
        request = quota_pb2.CommitReservationRequest(
            organization_id=organization_id,
            reservation_id=name,
            actuals=[metering_pb2.Measurement(meter=meter, quantity=amount) for meter, amount in actuals.items()],
        )
        return self.stub.CommitReservation(request, metadata=(("authorization", f"Bearer {key}"),))

    def release(
        self, name: str = "r1", *, key: str = "tb_live_acme", organization_id: str = ""
    ) -> grpc.aio.UnaryUnaryCall[quota_pb2.ReleaseReservationRequest, quota_pb2.ReleaseReservationResponse]:
        request = quota_pb2.ReleaseReservationRequest(organization_id=organization_id, reservation_id=name)
        return self.stub.ReleaseReservation(request, metadata=(("authorization", f"Bearer {key}"),))

    async def list(self, **fields: Any) -> quota_pb2.ListQuotasResponse:
        metadata = (("authorization", "Bearer tb_live_acme"),)
        return await self.stub.ListQuotas(quota_pb2.ListQuotasRequest(**fields), metadata=metadata)


@pytest.fixture
async def quota() -> AsyncIterator[Quota]:
    clock = FakeClock()
    house = House(MemoryCounters(clock), "acme")

    async def prepare() -> None:
        return None

    application = Application(
        authenticator=Authenticator(KnownKeys(KEYS), {}),
        servicers=[house.servicer("acme")],
        prepare=prepare,
    )
    async with serving(application) as channel:
        quota = Quota(channel, house, clock)
        quota.entitle()
        yield quota


async def refusal_of(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), reason_of(refused.value)


async def metadata_of(call: Any) -> dict[str, str]:
    await call
    return {key: value for key, value in await call.trailing_metadata() if key in ("x-http-code", "retry-after")}


async def test_an_allowed_reservation_says_what_is_held_and_until_when(quota: Quota) -> None:
    call = quota.check({MINUTES: 60}, request_id="r1", mode=RESERVE)
    answer = await call
    assert answer.decision == quota_pb2.DECISION_ALLOWED
    assert answer.reservation_id == "r1"
    expected_us = unix_microseconds(quota.clock.now() + timedelta(minutes=15))
    assert answer.expire_time.ToMicroseconds() == expected_us
    assert (answer.message, answer.deny_reason, answer.degraded) == ("", 0, False)
    assert not answer.HasField("retry_after")
    (state,) = answer.limits
    assert (state.limit_id, state.limit, state.hard_limit, state.used, state.held, state.remaining) == (
        "plan:agent_minutes",
        100,
        110,
        0,
        60,
        50,
    )
    assert state.scope.kind == quota_pb2.LIMIT_SCOPE_KIND_ORGANIZATION
    assert not state.scope.HasField("id")
    assert state.kind == quota_pb2.LIMIT_KIND_PERIOD
    assert state.decision == quota_pb2.DECISION_ALLOWED
    assert state.entitlement_version == 1
    assert await metadata_of(call) == {}


async def test_a_reached_limit_is_an_answer_that_the_edge_turns_into_429_with_retry_after(quota: Quota) -> None:
    quota.house.record(usage_entry({MINUTES: 110}, event_time_us=unix_microseconds(quota.clock.now())))
    call = quota.check({MINUTES: 1}, request_id="r1", mode=RESERVE)
    answer = await call
    assert answer.decision == quota_pb2.DECISION_DENIED
    assert answer.deny_reason == quota_pb2.DENY_REASON_LIMIT_REACHED
    assert answer.message == "Plan limit reached. Upgrade to continue."
    assert (answer.reservation_id, answer.HasField("expire_time")) == ("", False)
    seconds = 15 * 24 * 3600
    assert answer.retry_after.ToSeconds() == seconds
    assert answer.limits[0].remaining == 0
    reset_us = unix_microseconds(quota.clock.now() + timedelta(days=15))
    assert answer.limits[0].reset_time.ToMicroseconds() == reset_us
    assert await metadata_of(call) == {"x-http-code": "429", "retry-after": str(seconds)}


async def test_a_denial_that_waiting_cannot_cure_names_the_reset_to_http_clients_only(quota: Quota) -> None:
    call = quota.check({MINUTES: 111})
    assert not (await call).HasField("retry_after")
    assert await metadata_of(call) == {"x-http-code": "429", "retry-after": str(15 * 24 * 3600)}


async def test_who_asks_for_more_than_may_ever_run_at_once_is_not_told_to_wait(quota: Quota) -> None:
    answer = await quota.check({AGENTS: 2})
    assert answer.deny_reason == quota_pb2.DENY_REASON_CONCURRENCY
    assert answer.message == "This asks for more than the limit ever allows at once."
    assert not answer.HasField("retry_after")


async def test_a_concurrency_denial_is_429_until_a_reservation_ends(quota: Quota) -> None:
    await quota.check({AGENTS: 1}, request_id="r1", reserve_duration=Duration(seconds=60))
    quota.clock.advance(timedelta(milliseconds=500))
    call = quota.check({AGENTS: 1}, request_id="r2", mode=RESERVE)
    answer = await call
    assert answer.deny_reason == quota_pb2.DENY_REASON_CONCURRENCY
    assert answer.message
    assert not answer.limits[0].HasField("reset_time")
    assert answer.retry_after.ToMilliseconds() == 59_500
    assert await metadata_of(call) == {"x-http-code": "429", "retry-after": "60"}


@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (Standing.SUSPENDED, quota_pb2.DENY_REASON_SUSPENDED),
        (Standing.NO_PLAN, quota_pb2.DENY_REASON_NO_PLAN),
    ],
    ids=["suspended", "no_plan"],
)
async def test_a_standing_denial_is_no_429(quota: Quota, standing: Standing, reason: int) -> None:
    quota.entitle(version=2, standing=standing)
    call = quota.check()
    answer = await call
    assert (answer.decision, answer.deny_reason) == (quota_pb2.DECISION_DENIED, reason)
    assert answer.message
    assert await metadata_of(call) == {}


async def test_an_absent_quantity_is_a_gate(quota: Quota) -> None:
    answer = await quota.check({MINUTES: None}, request_id="r1", mode=RESERVE)
    assert (answer.decision, answer.limits[0].held) == (quota_pb2.DECISION_ALLOWED, 0)


async def test_an_unspecified_mode_reserves_when_a_duration_is_given_and_decides_without(quota: Quota) -> None:
    assert (await quota.check()).reservation_id == ""
    answer = await quota.check(request_id="r1", reserve_duration=Duration(seconds=1, nanos=500_000_000))
    assert answer.reservation_id == "r1"
    now_us = unix_microseconds(quota.clock.now())
    assert answer.expire_time.ToMicroseconds() == now_us + 1_500_000


async def test_the_order_of_consumptions_is_no_part_of_a_retry(quota: Quota) -> None:
    first = await quota.check({MINUTES: 1, AGENTS: 1}, request_id="r1", mode=RESERVE)
    assert await quota.check({AGENTS: 1, MINUTES: 1}, request_id="r1", mode=RESERVE) == first


async def test_a_request_id_used_for_another_check_is_aborted(quota: Quota) -> None:
    await quota.check({MINUTES: 1}, request_id="r1", mode=RESERVE)
    refusal = await refusal_of(quota.check({MINUTES: 2}, request_id="r1", mode=RESERVE))
    assert refusal == (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")


@pytest.mark.parametrize(
    ("quantities", "fields", "reason"),
    [
        ({"unheard_of": 1}, {}, "UNKNOWN_METER"),
        ({MINUTES: -1}, {}, "INVALID_QUANTITY"),
        ({MINUTES: 2**53}, {}, "INVALID_QUANTITY"),
        ({}, {}, "INVALID_FIELD"),
        ({MINUTES: 1}, {"mode": RESERVE}, "INVALID_FIELD"),
        ({MINUTES: 1}, {"mode": 9}, "INVALID_FIELD"),
        ({MINUTES: 1}, {"request_id": "r1", "reserve_duration": Duration(nanos=1)}, "INVALID_FIELD"),
        ({MINUTES: 1}, {"request_id": "r1", "reserve_duration": Duration(seconds=5, nanos=-1)}, "INVALID_FIELD"),
    ],
    ids=[
        "unknown_meter",
        "negative",
        "too_large",
        "nothing",
        "reserve_without_id",
        "unknown_mode",
        "too_short",
        "mixed_signs",
    ],
)
async def test_an_unsound_check_is_refused(
    quota: Quota, quantities: dict[str, int | None], fields: dict[str, Any], reason: str
) -> None:
    assert await refusal_of(quota.check(quantities, **fields)) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_a_meter_twice_is_refused(quota: Quota) -> None:
    request = quota_pb2.CheckRequest(consumptions=[quota_pb2.Consumption(meter=MINUTES)] * 2)
    call = quota.stub.Check(request, metadata=(("authorization", "Bearer tb_live_acme"),))
    assert await refusal_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_a_key_checks_its_own_organization_alone(quota: Quota) -> None:
    assert (await quota.check(organization_id="acme")).decision == quota_pb2.DECISION_ALLOWED
    mismatch = await refusal_of(quota.check(organization_id="other"))
    assert mismatch == (grpc.StatusCode.PERMISSION_DENIED, "ORGANIZATION_MISMATCH")
    scope = await refusal_of(quota.check(key="tb_live_read"))
    assert scope == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


async def test_the_admin_key_names_an_organization_that_exists(quota: Quota) -> None:
    assert (await quota.check(key="tb_admin_1", organization_id="acme")).decision == quota_pb2.DECISION_ALLOWED
    unnamed = await refusal_of(quota.check(key="tb_admin_1"))
    assert unnamed == (grpc.StatusCode.INVALID_ARGUMENT, "ORGANIZATION_REQUIRED")
    unknown = await refusal_of(quota.check(key="tb_admin_1", organization_id="nobody"))
    assert unknown == (grpc.StatusCode.NOT_FOUND, "ORGANIZATION_NOT_FOUND")


async def test_a_listing_asks_nothing_of_the_limits(quota: Quota) -> None:
    quota.house.record(usage_entry({MINUTES: 30}, event_time_us=unix_microseconds(quota.clock.now())))
    await quota.check({AGENTS: 1}, request_id="r1", mode=RESERVE)
    answer = await quota.list()
    assert answer.plan_id == "starter"
    minutes, agents = answer.limits
    assert (minutes.used, minutes.held, minutes.applied_sequence, minutes.decision) == (30, 0, 1, 0)
    assert (agents.used, agents.held, agents.remaining) == (0, 1, 0)


# --- reservations once they are made


async def test_an_extension_says_until_when_it_holds_and_how_much(quota: Quota) -> None:
    await quota.check({MINUTES: 60}, request_id="r1", mode=RESERVE)
    answer = await quota.extend({MINUTES: 80})
    assert (answer.check.decision, answer.check.reservation_id, answer.restored) == (1, "r1", False)
    assert answer.check.expire_time.ToMicroseconds() == unix_microseconds(quota.clock.now() + timedelta(minutes=1))
    assert answer.check.limits[0].held == 80
    assert (await quota.extend({MINUTES: 5}, "lost")).restored


async def test_a_denied_extension_is_an_answer_that_the_edge_turns_into_429(quota: Quota) -> None:
    await quota.check({MINUTES: 60}, request_id="r1", mode=RESERVE)
    call = quota.extend({MINUTES: 111})
    assert (await metadata_of(call))["x-http-code"] == "429"
    answer = await call
    assert (answer.check.decision, answer.check.reservation_id) == (quota_pb2.DECISION_DENIED, "")
    assert answer.check.deny_reason == quota_pb2.DENY_REASON_LIMIT_REACHED
    assert (await quota.list()).limits[0].held == 60
    assert await metadata_of(quota.extend({MINUTES: 60})) == {}


async def test_a_commit_says_what_is_left_to_settle_and_until_when(quota: Quota) -> None:
    await quota.check({MINUTES: 60}, request_id="r1", mode=RESERVE)
    answer = await quota.commit({MINUTES: 70, AGENTS: 0})
    assert [(each.meter, each.quantity) for each in answer.held] == [(MINUTES, 60)]
    assert [(each.meter, each.quantity) for each in answer.overrun] == [(MINUTES, 10)]
    assert answer.expire_time.ToMicroseconds() == unix_microseconds(quota.clock.now() + timedelta(days=1))
    nothing = await quota.commit({})
    assert (list(nothing.held), list(nothing.overrun), nothing.HasField("expire_time")) == ([], [], False)


async def test_a_release_frees_when_the_counters_include_all_that_was_recorded(quota: Quota) -> None:
    await quota.check({MINUTES: 60}, request_id="r1", mode=RESERVE)
    event_time_us = unix_microseconds(quota.clock.now())
    quota.house.record(usage_entry({MINUTES: 10}, reservation_id="r1", event_time_us=event_time_us))
    assert (await quota.release()).freed
    assert (await quota.release()).freed
    (minutes, _) = (await quota.list()).limits
    assert (minutes.used, minutes.held) == (10, 0)


async def test_what_is_asked_of_a_reservation_is_refused_with_its_reason(quota: Quota) -> None:
    not_found = (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    invalid = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert await refusal_of(quota.commit({})) == not_found
    assert await refusal_of(quota.release()) == not_found
    assert await refusal_of(quota.extend({})) == not_found
    for name in ("", "a b", "a" * 129):
        for call in (quota.commit({}, name), quota.release(name), quota.extend({MINUTES: 1}, name)):
            assert await refusal_of(call) == invalid
    assert await refusal_of(quota.commit({MINUTES: -1})) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_QUANTITY")
    assert await refusal_of(quota.extend({MINUTES: -1})) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_QUANTITY")
    assert await refusal_of(quota.extend({"nothing": 1})) == (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_METER")
    await quota.check({MINUTES: 60}, request_id="r1", mode=RESERVE)
    assert await refusal_of(quota.extend({}, task_id="t")) == (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")
    await quota.commit({})
    ended = (grpc.StatusCode.FAILED_PRECONDITION, "INVALID_STATE")
    assert await refusal_of(quota.extend({MINUTES: 60})) == ended


async def test_reservations_are_asked_of_with_the_scope_of_checks_and_within_ones_organization(quota: Quota) -> None:
    await quota.check({MINUTES: 60}, request_id="r1", mode=RESERVE)
    scope_missing = (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    for call in (quota.extend({}, key="tb_live_read"), quota.commit({}, key="tb_live_read")):
        assert await refusal_of(call) == scope_missing
    assert await refusal_of(quota.release(key="tb_live_read")) == scope_missing
    mismatch = (grpc.StatusCode.PERMISSION_DENIED, "ORGANIZATION_MISMATCH")
    assert await refusal_of(quota.extend({}, organization_id="other")) == mismatch
    assert await refusal_of(quota.commit({}, organization_id="other")) == mismatch
    assert await refusal_of(quota.release(organization_id="other")) == mismatch
    assert (await quota.release(key="tb_admin_1", organization_id="acme")).freed


@pytest.fixture
async def forgetful() -> AsyncIterator[Quota]:
    """A process that remembers denials, over counters whose organization has used up its plan."""
    clock = FakeClock()
    house = House(MemoryCounters(clock), "acme", remembers_denials=True)

    async def prepare() -> None:
        return None

    application = Application(
        authenticator=Authenticator(KnownKeys(KEYS), {}), servicers=[house.servicer("acme")], prepare=prepare
    )
    async with serving(application) as channel:
        quota = Quota(channel, house, clock)
        quota.entitle()
        house.record(usage_entry({MINUTES: 200}, event_time_us=unix_microseconds(clock.now())))
        await quota.list()
        yield quota


async def test_a_denial_that_is_asked_for_again_is_the_same_answer_and_a_new_plan_ends_it(forgetful: Quota) -> None:
    calls = [forgetful.check(mode=DECIDE, request_id=name) for name in ("a", "b", "c")]
    answers = [await call for call in calls]
    assert answers[0].decision == quota_pb2.DECISION_DENIED
    assert answers[1:] == answers[:1] * 2
    for call in calls:
        assert dict(await call.trailing_metadata())["x-http-code"] == "429"
    await replan(forgetful, 1_000, version=2)
    assert (await forgetful.check(mode=DECIDE, request_id="d")).decision == quota_pb2.DECISION_ALLOWED


async def test_a_remembered_denial_is_not_told_to_who_may_not_ask_or_asks_with_a_wrong_id(forgetful: Quota) -> None:
    for name in ("a", "b"):
        await forgetful.check(mode=DECIDE, request_id=name)
    for key, name in (("tb_live_read", "c"), ("tb_live_acme", "no id/"), ("tb_unknown", "d")):
        with pytest.raises(grpc.aio.AioRpcError):
            await forgetful.check(mode=DECIDE, request_id=name, key=key)


async def test_a_remembered_denial_takes_nothing_from_the_retry_of_what_was_allowed(forgetful: Quota) -> None:
    consume = quota_pb2.CHECK_MODE_CONSUME
    await replan(forgetful, 1_000, version=2)
    for mode, name in ((consume, "c1"), (RESERVE, "r1")):
        assert (await forgetful.check(mode=mode, request_id=name)).decision == quota_pb2.DECISION_ALLOWED
    await replan(forgetful, 100, version=3)
    for _ in range(2):
        assert (await forgetful.check(mode=consume)).decision == quota_pb2.DECISION_DENIED
    for mode, name in ((consume, "c1"), (RESERVE, "r1")):
        assert (await forgetful.check(mode=mode, request_id=name)).decision == quota_pb2.DECISION_ALLOWED


async def test_bytes_that_are_no_check_are_refused(quota: Quota) -> None:
    method = "/tollbook.quota.v1.QuotaService/Check"
    ask = quota.channel.unary_unary(method, lambda data: data, quota_pb2.CheckResponse.FromString)
    for data in (b"\xff\xff\xff", b"\n\x7f", b"\n"):
        call = ask(data, metadata=(("authorization", "Bearer tb_live_acme"),))
        assert await refusal_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def replan(quota: Quota, minutes: int, *, version: int) -> None:
    limits = (minutes_limit(minutes), agents_limit(1))
    period = period_around(quota.clock.now())
    quota.house.plans.set(entitlement("acme", *limits, version=version, period=period))
    await quota.house.plan_changes.catch_up("acme")
