"""SetLimit, ListLimits and DeleteLimit as clients see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.testing.clock import FakeClock
from kit.testing.servers import KnownKeys, serving
from services.quota.adapters.memory import MemoryCounters
from tests.unit.quota.house import House
from tests.unit.quota.samples import LATENCY, MINUTES, entitlement, minutes_limit, period_around
from tollbook.access.v1 import access_pb2
from tollbook.metering.v1 import metering_pb2
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

KEYS = {
    "tb_live_acme": Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES),
    "tb_live_check": Principal(
        CallerKind.TENANT, "key-2", "acme", frozenset({access_pb2.SCOPE_QUOTA_CHECK, access_pb2.SCOPE_QUOTA_READ})
    ),
    "tb_admin_1": Principal(CallerKind.ADMIN, "admin"),
}
PERIOD, WINDOW = quota_pb2.LIMIT_KIND_PERIOD, quota_pb2.LIMIT_KIND_WINDOW


class Quota:
    """The service on a stage that stands still, and the calls that a client makes."""

    def __init__(self, channel: grpc.aio.Channel, house: House) -> None:
        self.stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self.house = house

    async def set(self, request_id: str = "q1", *, key: str = "tb_live_acme", **limit: Any) -> quota_pb2.Limit:
        fields: dict[str, Any] = {"meter": MINUTES, "kind": PERIOD, "value": 10} | limit
        request = quota_pb2.SetLimitRequest(request_id=request_id, limit=quota_pb2.Limit(**fields))
        return (await self.stub.SetLimit(request, metadata=credential(key))).limit

    async def list(self, **fields: Any) -> quota_pb2.ListLimitsResponse:
        return await self.stub.ListLimits(quota_pb2.ListLimitsRequest(**fields), metadata=credential("tb_live_acme"))

    async def delete(self, limit_id: str, request_id: str = "q2", *, key: str = "tb_live_acme") -> None:
        request = quota_pb2.DeleteLimitRequest(request_id=request_id, limit_id=limit_id)
        await self.stub.DeleteLimit(request, metadata=credential(key))

    async def denied(self, quantity: int, **subject: str) -> bool:
        request = quota_pb2.CheckRequest(
            subject=metering_pb2.Subject(**subject),
            consumptions=[quota_pb2.Consumption(meter=MINUTES, quantity=quantity)],
        )
        answer = await self.stub.Check(request, metadata=credential("tb_live_acme"))
        return answer.decision == quota_pb2.DECISION_DENIED


def credential(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


@pytest.fixture
async def quota() -> AsyncIterator[Quota]:
    clock = FakeClock()
    house = House(MemoryCounters(clock), "acme")
    house.plans.set(entitlement("acme", minutes_limit(100), period=period_around(clock.now())))

    async def prepare() -> None:
        return None

    servicer = house.servicer("acme")
    application = Application(authenticator=Authenticator(KnownKeys(KEYS), {}), servicers=[servicer], prepare=prepare)
    async with serving(application) as channel:
        yield Quota(channel, house)


async def test_what_is_absent_is_answered_as_its_default(quota: Quota) -> None:
    limit = await quota.set(limit_id="mine")
    assert limit == quota_pb2.Limit(
        limit_id="mine",
        organization_id="acme",
        scope=quota_pb2.LimitScope(kind=quota_pb2.LIMIT_SCOPE_KIND_ORGANIZATION),
        meter=MINUTES,
        kind=PERIOD,
        value=10,
        grace_percent=10,
        on_unavailable=quota_pb2.UNAVAILABLE_POLICY_ALLOW,
    )
    assert (await quota.set("q2", kind=quota_pb2.LIMIT_KIND_CONCURRENCY)).grace_percent == 0


async def test_every_field_of_a_limit_is_kept(quota: Quota) -> None:
    scope = quota_pb2.LimitScope(kind=quota_pb2.LIMIT_SCOPE_KIND_AGENT, id="a1")
    limit = await quota.set(
        kind=WINDOW,
        scope=scope,
        window=Duration(seconds=60),
        window_style=quota_pb2.WINDOW_STYLE_SLIDING,
        on_unavailable=quota_pb2.UNAVAILABLE_POLICY_DENY,
        shadow=True,
        grace_percent=0,
        value=0,
    )
    assert list((await quota.list()).limits)[:1] == [limit]
    assert (limit.scope, limit.window.seconds, limit.window_style) == (scope, 60, quota_pb2.WINDOW_STYLE_SLIDING)
    assert (limit.on_unavailable, limit.shadow) == (quota_pb2.UNAVAILABLE_POLICY_DENY, True)
    assert (limit.HasField("value"), limit.value, limit.grace_percent) == (True, 0, 0)
    assert not (await quota.set("q2", value=None)).HasField("value")


async def test_a_limit_is_in_force_when_set_limit_returns_and_out_of_it_when_delete_limit_does(quota: Quota) -> None:
    assert not await quota.denied(12)
    limit = await quota.set()
    assert await quota.denied(12)
    await quota.delete(limit.limit_id)
    assert not await quota.denied(12)
    await quota.delete(limit.limit_id)


async def test_a_limit_of_each_agent_separately_has_no_id_on_the_wire(quota: Quota) -> None:
    scope = quota_pb2.LimitScope(kind=quota_pb2.LIMIT_SCOPE_KIND_AGENT)
    assert (await quota.set(scope=scope, grace_percent=0)).scope == scope
    assert await quota.denied(11, agent_id="a1")
    assert not await quota.denied(11)


async def test_limits_are_listed_page_by_page_with_the_plan_s(quota: Quota) -> None:
    await quota.set(limit_id="z")
    page = await quota.list(page_size=1)
    assert ([limit.limit_id for limit in page.limits], page.limits[0].organization_id) == (
        ["plan:agent_minutes"],
        "acme",
    )
    rest = await quota.list(page_token=page.next_page_token)
    assert ([limit.limit_id for limit in rest.limits], rest.next_page_token) == (["z"], "")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"limit_id": "plan:agent_minutes"}, "INVALID_FIELD"),
        ({"kind": 0}, "INVALID_FIELD"),
        ({"kind": 99}, "INVALID_FIELD"),
        ({"scope": quota_pb2.LimitScope(kind=99)}, "INVALID_FIELD"),  # type: ignore[arg-type]
        ({"on_unavailable": 99}, "INVALID_FIELD"),
        ({"window_style": 2}, "INVALID_FIELD"),
        ({"kind": WINDOW}, "INVALID_FIELD"),
        ({"kind": WINDOW, "window": Duration(seconds=60, nanos=1)}, "INVALID_FIELD"),
        ({"kind": WINDOW, "window": Duration(seconds=60), "window_style": 99}, "INVALID_FIELD"),
        ({"kind": WINDOW, "window": Duration(seconds=2**62)}, "INVALID_FIELD"),
        ({"window": Duration(seconds=60)}, "INVALID_FIELD"),
        ({"value": -1}, "INVALID_FIELD"),
        ({"value": 2**53}, "INVALID_FIELD"),
        ({"grace_percent": 1_001}, "INVALID_FIELD"),
        ({"meter": "no_such_meter"}, "UNKNOWN_METER"),
        ({"meter": LATENCY}, "INVALID_FIELD"),
        ({"organization_id": "other"}, "ORGANIZATION_MISMATCH"),
    ],
)
async def test_a_limit_that_cannot_be_is_refused_with_its_reason(
    quota: Quota, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await quota.set(**fields)
    assert reason_of(refused.value) == reason
    assert (await quota.house.limits.own_limits("acme")).sequence == 0


async def test_a_request_id_used_with_other_content_is_aborted(quota: Quota) -> None:
    limit = await quota.set("q1")
    for again in (quota.set("q1", value=11), quota.delete(limit.limit_id, "q1")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await again
        assert (refused.value.code(), reason_of(refused.value)) == (grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED")
    assert await quota.set("q1") == limit


async def test_a_limit_that_was_never_there_is_not_found(quota: Quota) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await quota.delete("nothing")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_key_without_the_scope_changes_no_limit(quota: Quota) -> None:
    for call in (quota.set(key="tb_live_check"), quota.delete("mine", key="tb_live_check")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert (refused.value.code(), reason_of(refused.value)) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "SCOPE_MISSING",
        )


async def test_the_admin_names_an_organization_that_exists(quota: Quota) -> None:
    assert (await quota.set(key="tb_admin_1", organization_id="acme")).organization_id == "acme"
    for organization_id, reason in (("", "ORGANIZATION_REQUIRED"), ("nobody", "ORGANIZATION_NOT_FOUND")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await quota.set("q2", key="tb_admin_1", organization_id=organization_id)
        assert reason_of(refused.value) == reason


async def test_a_page_token_of_somebody_else_is_refused(quota: Quota) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await quota.list(page_token="%%%")
    assert reason_of(refused.value) == "INVALID_FIELD"
