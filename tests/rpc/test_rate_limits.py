"""Envoy's RateLimitService over a real server, a real channel and a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import UInt32Value, UInt64Value

from envoyproxy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoyproxy.service.ratelimit.v3 import rls_pb2_grpc
from envoyproxy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from envoyproxy.type.v3 import ratelimit_unit_pb2
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from kit.testing.servers import KnownKeys, serving
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import ChangeRequest
from services.quota.domain.entitlements import Standing
from services.quota.domain.limits import Limit, LimitKind, LimitScope, ScopeKind, Window, WindowStyle
from services.quota.rpc.envoy_servicer import FOREIGN_SCOPES, RateLimitServicer
from tests.unit.quota.house import House
from tests.unit.quota.samples import (
    AGENTS,
    CALLS,
    MINUTES,
    entitlement,
    minutes_limit,
    new_organization_id,
    usage_entry,
)
from tollbook.access.v1 import access_pb2

OK, OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
DAY_US = 86_400_000_000
READ_ALONE = frozenset({access_pb2.SCOPE_QUOTA_READ})


def descriptor(limit: RateLimitDescriptor.RateLimitOverride | None = None, **entries: str) -> RateLimitDescriptor:
    named = [RateLimitDescriptor.Entry(key=key, value=value) for key, value in entries.items()]
    return RateLimitDescriptor(entries=named, limit=limit)


class Door:
    """The service, and what a gateway asks of it."""

    def __init__(self, channel: grpc.aio.Channel, house: House) -> None:
        self.stub = rls_pb2_grpc.RateLimitServiceStub(channel)
        self.house = house

    async def limit(self, name: str, value: int, level: ScopeKind = ScopeKind.ORGANIZATION, **fields: Any) -> None:
        sliding = Window(DAY_US, WindowStyle.SLIDING)
        limit = Limit(name, LimitScope(level), CALLS, LimitKind.WINDOW, value, 0, sliding, **fields)
        await self.house.set_limit(
            self.house.organization_id, limit, ChangeRequest(request_id=name, digest=b"", actor="tests")
        )

    async def ask(
        self, *descriptors: RateLimitDescriptor, hits: int = 0, key: str = "tb_live_own"
    ) -> RateLimitResponse:
        request = RateLimitRequest(domain="any", descriptors=descriptors, hits_addend=hits)
        metadata = (("authorization", f"Bearer {key}"),) if key else ()
        return await self.stub.ShouldRateLimit(request, metadata=metadata)


@pytest.fixture
async def door(redis_server: EmbeddedRedis) -> AsyncIterator[Door]:
    organization_id = new_organization_id()
    client = connect_redis(redis_server.url, timeout_seconds=5)
    house = House(RedisCounters(client, command_seconds=5), organization_id)
    house.plans.set(entitlement(organization_id, minutes_limit(100)))

    async def exists(name: str) -> bool:
        return name == organization_id

    async def prepare() -> None:
        return None

    keys = {
        "tb_live_own": Principal(CallerKind.TENANT, "key-1", organization_id, TENANT_SCOPES),
        "tb_live_read": Principal(CallerKind.TENANT, "key-2", organization_id, READ_ALONE),
        "tb_admin": Principal(CallerKind.ADMIN, "admin"),
    }
    application = Application(
        authenticator=Authenticator(KnownKeys(keys), {}),
        servicers=[RateLimitServicer(check_quota=house.check, check_all=house.check_all, exists=exists)],
        foreign_scopes=FOREIGN_SCOPES,
        prepare=prepare,
    )
    async with serving(application) as channel:
        yield Door(channel, house)
    await client.aclose()


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), reason_of(refused.value)


def headers(response: RateLimitResponse) -> Mapping[str, str]:
    return {header.key: header.value for header in response.response_headers_to_add}


async def test_requests_pass_until_the_window_is_full(door: Door) -> None:
    await door.limit("daily", 2)
    first, second, third = [await door.ask(descriptor(user_id="ann")) for _ in range(3)]
    assert [each.overall_code for each in (first, second, third)] == [OK, OK, OVER_LIMIT]
    assert [each.statuses[0].limit_remaining for each in (first, second, third)] == [1, 0, 0]
    limit = third.statuses[0].current_limit
    assert (limit.name, limit.requests_per_unit, limit.unit) == ("daily", 2, RateLimitResponse.RateLimit.DAY)
    assert third.statuses[0].duration_until_reset.seconds > 0


async def test_the_answer_brings_the_headers_of_the_draft_and_when_to_come_again(door: Door) -> None:
    await door.limit("daily", 1)
    passed, refused = headers(await door.ask(descriptor())), headers(await door.ask(descriptor()))
    assert (passed["ratelimit-limit"], passed["ratelimit-remaining"]) == ("1", "0")
    assert "retry-after" not in passed
    assert 0 < int(refused["retry-after"]) <= 2 * 86_400
    assert int(refused["ratelimit-reset"]) > 0


async def test_a_request_over_one_limit_consumes_nothing_of_the_others(door: Door) -> None:
    await door.limit("each-user", 1, ScopeKind.USER)
    await door.limit("whole", 10)
    ann, bob = descriptor(user_id="ann"), descriptor(user_id="bob")
    assert (await door.ask(ann)).overall_code == OK
    over = await door.ask(ann, bob)
    assert over.overall_code == OVER_LIMIT
    assert [status.code for status in over.statuses] == [OVER_LIMIT, OK]
    assert over.statuses[1].limit_remaining == 1
    both = await door.ask(bob)
    assert both.overall_code == OK
    # Two were let through, and two were counted.
    assert {state.limit.limit_id: state.used for state in (await door.house.list(door.house.organization_id)).states}[
        "whole"
    ] == 2


async def test_hits_of_a_descriptor_stand_before_those_of_the_request(door: Door) -> None:
    await door.limit("daily", 100)
    own = descriptor()
    own.hits_addend.CopyFrom(UInt64Value(value=30))
    answer = await door.ask(descriptor(), own, hits=20)
    assert [status.limit_remaining for status in answer.statuses] == [80, 50]
    nothing = descriptor()
    nothing.hits_addend.CopyFrom(UInt64Value(value=0))
    assert (await door.ask(nothing, hits=20)).statuses[0].limit_remaining == 50


async def test_without_a_matching_limit_it_passes(door: Door) -> None:
    answer = await door.ask(descriptor(task_id="t1"))
    assert (answer.overall_code, answer.statuses[0].code) == (OK, OK)
    assert not answer.statuses[0].HasField("current_limit")
    assert headers(answer) == {}


async def test_a_descriptor_with_an_unknown_entry_passes_and_the_others_are_limited(door: Door) -> None:
    await door.limit("daily", 0)
    answer = await door.ask(descriptor(generic_key="x"), descriptor(user_id="ann"), descriptor(path="/"))
    assert answer.overall_code == OVER_LIMIT
    assert [status.code for status in answer.statuses] == [OK, OVER_LIMIT, OK]
    assert (await door.ask(descriptor(generic_key="x"), key="tb_admin")).overall_code == OK


async def test_a_value_that_no_id_can_have_is_limited_all_the_same(door: Door) -> None:
    await door.limit("each-user", 1, ScopeKind.USER)
    for value in ("a b", "", "ü" * 100):
        assert (await door.ask(descriptor(user_id=value))).overall_code == OK
        assert (await door.ask(descriptor(user_id=value))).overall_code == OVER_LIMIT


async def test_a_period_limit_is_compared_and_not_counted(door: Door) -> None:
    door.house.record(usage_entry({MINUTES: 60}))
    for _ in range(2):
        answer = await door.ask(descriptor(meter=MINUTES), hits=40)
        assert (answer.overall_code, answer.statuses[0].limit_remaining) == (OK, 40)
        assert answer.statuses[0].current_limit.unit == RateLimitResponse.RateLimit.UNKNOWN
    assert (await door.ask(descriptor(meter=MINUTES), hits=41)).overall_code == OVER_LIMIT


async def test_a_limit_that_a_descriptor_brings_counts_for_it(door: Door) -> None:
    hourly = RateLimitDescriptor.RateLimitOverride(requests_per_unit=1, unit=ratelimit_unit_pb2.DAY)
    first = await door.ask(descriptor(hourly, user_id="ann"), descriptor(user_id="ann"))
    assert first.overall_code == OK
    limit = first.statuses[0].current_limit
    assert (limit.name, limit.requests_per_unit) == ("envoy:override", 1)
    assert not first.statuses[1].HasField("current_limit")
    assert (await door.ask(descriptor(hourly, user_id="ann"))).overall_code == OVER_LIMIT
    assert (await door.ask(descriptor(hourly, user_id="bob"))).overall_code == OK


async def test_a_suspended_organization_is_over_limit(door: Door) -> None:
    organization_id = door.house.organization_id
    door.house.plans.set(entitlement(organization_id, version=2, standing=Standing.SUSPENDED))
    answer = await door.ask(descriptor())
    assert (answer.overall_code, answer.statuses[0].code) == (OVER_LIMIT, OVER_LIMIT)


async def test_a_shadow_limit_neither_denies_nor_is_named(door: Door) -> None:
    await door.limit("shadow", 0, shadow=True)
    answer = await door.ask(descriptor())
    assert answer.overall_code == OK
    assert not answer.statuses[0].HasField("current_limit")


async def test_the_admin_names_the_organization_and_a_tenant_no_other(door: Door) -> None:
    own = door.house.organization_id
    assert (await door.ask(descriptor(organization_id=own), key="tb_admin")).overall_code == OK
    assert (await door.ask(descriptor(organization_id=own))).overall_code == OK
    invalid, denied = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED
    assert await refusal(door.ask(descriptor(), key="tb_admin")) == (invalid, "ORGANIZATION_REQUIRED")
    other = door.ask(descriptor(organization_id="other"))
    assert await refusal(other) == (denied, "ORGANIZATION_MISMATCH")
    two = door.ask(descriptor(organization_id=own), descriptor(organization_id="other"), key="tb_admin")
    assert await refusal(two) == (invalid, "INVALID_FIELD")


async def test_a_key_needs_the_scope_of_checks(door: Door) -> None:
    unauthenticated = (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING")
    assert await refusal(door.ask(descriptor(), key="")) == unauthenticated
    denied = (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert await refusal(door.ask(descriptor(), key="tb_live_read")) == denied


MONTHLY = RateLimitDescriptor.RateLimitOverride(requests_per_unit=1, unit=ratelimit_unit_pb2.MONTH)
EACH_TEN_SECONDS = RateLimitDescriptor.RateLimitOverride(
    requests_per_unit=1, unit=ratelimit_unit_pb2.SECOND, unit_multiplier=UInt32Value(value=10)
)
USER_TWICE = RateLimitDescriptor(entries=[RateLimitDescriptor.Entry(key="user_id", value=each) for each in "ab"])


@pytest.mark.parametrize(
    ("descriptors", "reason"),
    [
        ([], "INVALID_FIELD"),
        ([descriptor()] * 33, "LIMIT_EXCEEDED"),
        ([descriptor(meter="unheard_of")], "UNKNOWN_METER"),
        ([descriptor(), descriptor(meter="unheard_of")], "UNKNOWN_METER"),
        ([descriptor(MONTHLY)], "INVALID_FIELD"),
        ([descriptor(EACH_TEN_SECONDS)], "INVALID_FIELD"),
        ([USER_TWICE], "INVALID_FIELD"),
        ([RateLimitDescriptor(is_negative_hits=True)], "INVALID_FIELD"),
        ([RateLimitDescriptor(hits_addend=UInt64Value(value=2**53))], "INVALID_QUANTITY"),
    ],
    ids=[
        "none",
        "too_many",
        "unknown_meter",
        "unknown_meter_of_several",
        "override_of_a_month",
        "override_of_ten_seconds",
        "entry_twice",
        "negative_hits",
        "too_many_hits",
    ],
)
async def test_what_cannot_be_decided_is_a_status_and_consumes_nothing(
    door: Door, descriptors: list[RateLimitDescriptor], reason: str
) -> None:
    await door.limit("daily", 1)
    assert await refusal(door.ask(*descriptors)) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert (await door.ask(descriptor())).overall_code == OK


async def test_a_concurrency_limit_has_no_time_of_reset(door: Door) -> None:
    limit = Limit("agents", LimitScope(ScopeKind.ORGANIZATION), AGENTS, LimitKind.CONCURRENCY, 1, 0)
    await door.house.set_limit(
        door.house.organization_id, limit, ChangeRequest(request_id="q1", digest=b"", actor="tests")
    )
    await door.house.reserve(concurrent_agents=1)
    answer = await door.ask(descriptor(meter=AGENTS))
    assert answer.overall_code == OVER_LIMIT
    assert not answer.statuses[0].HasField("duration_until_reset")
