"""BatchCheck and StreamChecks over a real server and channel, on the shipped fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from kit.grpc.access import TENANT_SCOPES
from kit.grpc.call import CallerKind, Principal
from kit.grpc.errors import reason_of
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.testing.clock import FakeClock
from kit.testing.servers import KnownKeys, serving
from services.quota.adapters.memory import MemoryCounters
from services.quota.domain.maxima import CHECKS_AT_ONCE_MAX, CHECKS_TOGETHER_MAX
from services.quota.rpc.quota_servicer import QuotaServicer
from tests.unit.quota.house import House
from tests.unit.quota.samples import MINUTES, entitlement, minutes_limit, period_around
from tollbook.metering.v1 import metering_pb2
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

KEYS = {
    "tb_live_acme": Principal(CallerKind.TENANT, "key-1", "acme", TENANT_SCOPES),
    "tb_admin_1": Principal(CallerKind.ADMIN, "admin"),
}
RESERVE, CONSUME = quota_pb2.CHECK_MODE_RESERVE, quota_pb2.CHECK_MODE_CONSUME
ALLOWED, DENIED = quota_pb2.DECISION_ALLOWED, quota_pb2.DECISION_DENIED


class Quota:
    """The service, two organizations that may use 100 each, and what a client sends."""

    def __init__(self, channel: grpc.aio.Channel, house: House, servicer: QuotaServicer) -> None:
        self.stub = quota_pb2_grpc.QuotaServiceStub(channel)
        self.house = house
        self.servicer = servicer

    async def batch(
        self, checks: Iterable[quota_pb2.CheckRequest], *, key: str = "tb_live_acme"
    ) -> list[quota_pb2.CheckResult]:
        request = quota_pb2.BatchCheckRequest(checks=checks)
        response = await self.stub.BatchCheck(request, metadata=(("authorization", f"Bearer {key}"),))
        return list(response.results)

    def stream(self, requests: Any) -> Any:
        return self.stub.StreamChecks(requests, metadata=(("authorization", "Bearer tb_live_acme"),))


@pytest.fixture
async def quota() -> AsyncIterator[Quota]:
    clock = FakeClock()
    house = House(MemoryCounters(clock), "acme")
    servicer = house.servicer("acme", "other")

    async def prepare() -> None:
        return None

    application = Application(
        authenticator=Authenticator(KnownKeys(KEYS), {}),
        servicers=[servicer],
        prepare=prepare,
        drain=servicer._many_checks.drain,
    )
    for organization_id in ("acme", "other"):
        limit = minutes_limit(100)
        house.plans.set(entitlement(organization_id, limit, period=period_around(clock.now())))
    async with serving(application) as channel:
        yield Quota(channel, house, servicer)


def check(request_id: str = "", quantity: int = 1, meter: str = MINUTES, **fields: Any) -> quota_pb2.CheckRequest:
    organization_id = fields.pop("organization_id", "")
    return quota_pb2.CheckRequest(
        request_id=request_id,
        subject=metering_pb2.Subject(organization_id=organization_id),
        consumptions=[quota_pb2.Consumption(meter=meter, quantity=quantity)],
        **fields,
    )


def reason(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


async def test_a_batch_is_answered_in_order_each_check_seeing_what_those_before_it_hold(quota: Quota) -> None:
    results = await quota.batch(check(f"r{number}", 30, mode=RESERVE) for number in range(5))
    assert [result.response.decision for result in results] == [ALLOWED] * 3 + [DENIED] * 2
    assert [result.response.reservation_id for result in results[:3]] == ["r0", "r1", "r2"]
    assert [result.response.limits[0].held for result in results] == [30, 60, 90, 90, 90]


async def test_an_error_is_of_its_check_alone_and_what_check_would_have_answered(quota: Quota) -> None:
    results = await quota.batch(
        [
            check("a", 1, mode=RESERVE),
            check("b", 1, meter="no_such_meter"),
            check("not a valid id"),
            check("c", 2**60),
            check("d", organization_id="other"),
            check("a", 2, mode=RESERVE),
            check("e", 1, mode=RESERVE),
        ]
    )
    kinds = [result.WhichOneof("result") for result in results]
    assert kinds == ["response", "error", "error", "error", "error", "error", "response"]
    assert [reason(result.error) for result in results if result.HasField("error")] == [
        "UNKNOWN_METER",
        "INVALID_FIELD",
        "INVALID_QUANTITY",
        "ORGANIZATION_MISMATCH",
        "REQUEST_ID_REUSED",
    ]
    assert results[4].error.code == grpc.StatusCode.PERMISSION_DENIED.value[0]


async def test_a_batch_of_many_organizations_is_answered_in_order(quota: Quota) -> None:
    names = ["acme", "other", "nobody", "acme", "other", ""]
    results = await quota.batch(
        [check(f"r{place}", 60, mode=RESERVE, organization_id=name) for place, name in enumerate(names)],
        key="tb_admin_1",
    )
    assert [result.response.decision for result in results] == [ALLOWED, ALLOWED, 0, DENIED, DENIED, 0]
    assert reason(results[2].error) == "ORGANIZATION_NOT_FOUND"
    assert reason(results[5].error) == "ORGANIZATION_REQUIRED"


async def test_a_batch_has_at_least_one_check_and_at_most_a_thousand(quota: Quota) -> None:
    for checks, expected in (([], "INVALID_FIELD"), ([check()] * (CHECKS_AT_ONCE_MAX + 1), "LIMIT_EXCEEDED")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await quota.batch(checks)
        assert reason_of(refused.value) == expected
    assert len(await quota.batch([check()] * CHECKS_AT_ONCE_MAX)) == CHECKS_AT_ONCE_MAX


async def test_a_batch_of_more_than_one_call_of_the_store_is_answered_in_order(quota: Quota) -> None:
    count = CHECKS_TOGETHER_MAX + 20
    results = await quota.batch(check(f"r{number}", 1, mode=RESERVE) for number in range(count))
    assert [result.response.decision for result in results] == [ALLOWED] * 100 + [DENIED] * (count - 100)


async def test_a_repeated_batch_gets_its_first_answers_and_holds_nothing_more(quota: Quota) -> None:
    checks = [check(f"r{number}", 10, mode=RESERVE) for number in range(4)]
    first = await quota.batch(checks)
    assert await quota.batch(checks) == first
    assert (await quota.house.quota()).held == 40


async def test_a_stream_is_answered_in_order_and_an_error_does_not_end_it(quota: Quota) -> None:
    async def requests() -> AsyncIterator[quota_pb2.StreamChecksRequest]:
        for number in range(60):
            name = "not valid" if number == 30 else f"r{number}"
            yield quota_pb2.StreamChecksRequest(check=check(name, 2, mode=RESERVE))

    results = [response.result async for response in quota.stream(requests())]
    assert len(results) == 60
    assert reason(results[30].error) == "INVALID_FIELD"
    answered = [result.response for result in results if result.HasField("response")]
    assert [answer.decision for answer in answered] == [ALLOWED] * 50 + [DENIED] * 9
    assert [answer.reservation_id for answer in answered[:3]] == ["r0", "r1", "r2"]


async def test_a_check_on_a_stream_is_answered_while_the_stream_stays_open(quota: Quota) -> None:
    call = quota.stream(None)
    for number in range(3):
        await call.write(quota_pb2.StreamChecksRequest(check=check(f"r{number}", 1, mode=RESERVE)))
        assert (await call.read()).result.response.reservation_id == f"r{number}"
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF


async def test_a_stream_that_is_left_disturbs_nobody(quota: Quota) -> None:
    left = quota.stream(None)
    for number in range(50):
        await left.write(quota_pb2.StreamChecksRequest(check=check(f"left{number}", 1, mode=RESERVE)))
    left.cancel()
    results = await quota.batch([check(quantity=1)] * 3)
    assert all(result.HasField("response") for result in results)
    async with asyncio.timeout(5):
        while quota.servicer._many_checks._streams.count:  # noqa: ASYNC110 - gRPC says when it has noticed
            await asyncio.sleep(0.01)


async def test_a_process_that_stops_answers_what_it_has_read_and_tells_its_streams_to_go_elsewhere(
    quota: Quota,
) -> None:
    call = quota.stream(None)
    await call.write(quota_pb2.StreamChecksRequest(check=check("r", 1, mode=RESERVE)))
    assert (await call.read()).result.response.decision == ALLOWED
    quota.servicer._many_checks.drain()
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await call.read()
    assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
