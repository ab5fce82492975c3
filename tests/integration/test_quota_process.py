"""The quota service as a process of its own, on a real Redis, with its peers served by this test."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis

from kit.clock import unix_microseconds
from kit.feed import Head, Position
from kit.grpc.access import TENANT_SCOPES
from kit.grpc.errors import reason_of
from kit.head_watch import HeadWatch, Look
from kit.postgres.embedded import EmbeddedPostgres
from kit.postgres.migrate import migrate
from kit.process import ChildProcess
from kit.redis.embedded import EmbeddedRedis
from kit.testing.stores import free_port, temporary_redis
from services.metering.adapters.memory import MemoryLedger, MemoryMeterCatalog
from services.metering.domain.events import Measurement, Subject, UsageEvent
from services.metering.domain.meters import Meter
from services.metering.rpc.metering_servicer import MeteringServicer
from tests.metering_house import ledger_servicer, metering_servicer
from tests.unit.quota.samples import MINUTES
from tollbook.accounts.v1 import identity_pb2
from tollbook.billing.v1 import billing_pb2, catalog_pb2, entitlements_pb2, entitlements_pb2_grpc
from tollbook.feed.v1 import feed_pb2
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

CHECKOUT = Path(__file__).resolve().parents[2]
NOW_US = unix_microseconds(datetime.now(UTC))
DAY_US = 86_400_000_000


async def verify_api_key(_request: Any, _context: Any) -> identity_pb2.VerifyApiKeyResponse:
    """Every key is acme's."""
    principal = identity_pb2.Principal(
        kind=identity_pb2.PRINCIPAL_KIND_TENANT, organization_id="acme", scopes=sorted(TENANT_SCOPES)
    )
    return identity_pb2.VerifyApiKeyResponse(principal=principal)


def accounts_handler() -> grpc.GenericRpcHandler:
    """Answers what quota asks of accounts."""
    method = grpc.unary_unary_rpc_method_handler(
        verify_api_key,
        request_deserializer=identity_pb2.VerifyApiKeyRequest.FromString,
        response_serializer=identity_pb2.VerifyApiKeyResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("tollbook.accounts.v1.IdentityFeedService", {"VerifyApiKey": method})


def recording_servicer(recorded: MemoryLedger) -> MeteringServicer:
    """Metering with one meter."""
    meter = Meter(name=MINUTES, base_unit="ms", display_unit="minute", base_units_per_display_unit=60_000)
    catalog = MemoryMeterCatalog(meter)

    return metering_servicer(recorded, catalog)


class Billing(entitlements_pb2_grpc.EntitlementFeedServiceServicer):
    """One entitlement that can be changed."""

    def __init__(self) -> None:
        self.version = 1
        self.limit = 100

    async def heads(self, mark: str) -> Look:
        return Look([Head("acme", Position(self.version, "c"))], mark)

    async def WatchHeads(self, _request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for heads in HeadWatch(self.heads).watch():
            yield entitlements_pb2.WatchHeadsResponse(
                heads=[feed_pb2.Head(organization_id=head.key, position=self._position()) for head in heads]
            )

    async def ReadEntitlements(self, request: Any, _context: Any) -> Any:  # noqa: N802
        meter = catalog_pb2.PlanMeter(
            meter=MINUTES, limit_kind=catalog_pb2.PLAN_LIMIT_KIND_PERIOD, limit_quantity=self.limit
        )
        entitlement = entitlements_pb2.Entitlement(
            organization_id=request.organization_id,
            version=self.version,
            plan_id=f"plan-{self.version}",
            status=billing_pb2.SUBSCRIPTION_STATUS_ACTIVE,
            meters=[meter],
        )
        entitlement.period_start_time.FromMicroseconds(NOW_US - DAY_US)
        entitlement.period_end_time.FromMicroseconds(NOW_US + DAY_US)
        return entitlements_pb2.ReadEntitlementsResponse(entitlements=[entitlement], position=self._position())

    def _position(self) -> feed_pb2.Position:
        return feed_pb2.Position(sequence=self.version, commit_id="c")


class Suite:
    """Quota and what it stands on."""

    def __init__(self, channel: grpc.aio.Channel, redis: Redis, recorded: MemoryLedger, billing: Billing) -> None:
        self.channel = channel
        self.quota = quota_pb2_grpc.QuotaServiceStub(channel)
        self.redis = redis
        self.billing = billing
        self.process: ChildProcess
        self._recorded = recorded
        self._count = 0

    async def check(self, request_id: str, quantity: int, *, seconds: int = 900) -> quota_pb2.CheckResponse:
        request = quota_pb2.CheckRequest(
            request_id=request_id,
            consumptions=[quota_pb2.Consumption(meter=MINUTES, quantity=quantity)],
            mode=quota_pb2.CHECK_MODE_RESERVE,
            reserve_duration=Duration(seconds=seconds),
        )
        return await self.quota.Check(request, metadata=KEY, wait_for_ready=True)

    async def is_ready(self) -> bool:
        health: Any = health_pb2_grpc.HealthStub(self.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        serving: bool = answer.status == health_pb2.HealthCheckResponse.SERVING
        return serving

    async def state(self) -> quota_pb2.LimitState:
        answer = await self.quota.ListQuotas(quota_pb2.ListQuotasRequest(), metadata=KEY)
        return answer.limits[0]

    async def record(self, quantity: int, *, reservation_id: str = "", final: bool = False) -> None:
        self._count += 1
        event = UsageEvent(
            id=f"e{self._count}",
            source="tests",
            subject=Subject(organization_id="acme"),
            event_time_ns=NOW_US * 1_000,
            measurements=(Measurement(MINUTES, quantity),),
            reservation_id=reservation_id,
            reservation_final=final,
        )
        await self._recorded.append([event], now=datetime.now(UTC))


PASSWORDS = {"tenant": "tenant-password-of-tests", "fleet": "fleet-password-of-tests"}
KEY = (("authorization", "Bearer tb_live_acme"),)


async def eventually(condition: Callable[[], Awaitable[bool]], *, seconds: float) -> None:
    """Waits until the condition holds, looking again and again, and fails when it is late."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - it comes true in another process
            await asyncio.sleep(0.02)


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    """A Redis that the test may empty."""
    with temporary_redis(not_durable=True) as server:
        yield server


@asynccontextmanager
async def suite_on(
    folder: Path,
    own_redis: EmbeddedRedis,
    role_urls: Mapping[str, str],
    *,
    stores_are_up: bool = True,
    feed: entitlements_pb2_grpc.EntitlementFeedServiceServicer | None = None,
) -> AsyncIterator[Suite]:
    """Quota as a process on these stores, with its peers; ready, if its stores are up. feed: what it follows instead of
    the suite's billing.
    """
    recorded, billing = MemoryLedger(), Billing()
    peers = grpc.aio.server()
    ledger_servicer(recorded).add_to(peers)
    recording_servicer(recorded).add_to(peers)
    entitlements_pb2_grpc.add_EntitlementFeedServiceServicer_to_server(feed or billing, peers)
    peers.add_generic_rpc_handlers((accounts_handler(),))
    peers_address = f"127.0.0.1:{peers.add_insecure_port('127.0.0.1:0')}"
    await peers.start()
    address = f"127.0.0.1:{free_port()}"
    service_key = "tb_service_" + "q" * 32
    process = ChildProcess(
        [sys.executable, "-m", "services.quota"],
        environment={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'gen' / 'python'}",
            "TOLLBOOK_LISTEN_ADDRESS": address,
            "TOLLBOOK_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
            "TOLLBOOK_SERVICE_KEY": service_key,
            "TOLLBOOK_SERVICE_KEY_HASHES": json.dumps({"quota": hashlib.sha256(service_key.encode()).hexdigest()}),
            "TOLLBOOK_METERING_ADDRESS": peers_address,
            "TOLLBOOK_BILLING_ADDRESS": peers_address,
            "TOLLBOOK_ACCOUNTS_ADDRESS": peers_address,
            "TOLLBOOK_REDIS_URL": own_redis.url,
            # A machine that runs a whole test suite is no measure of 20 ms.
            "TOLLBOOK_REDIS_CHECK_MILLISECONDS": "1000",
            "TOLLBOOK_POSTGRES_TENANT_URL": role_urls["tenant"],
            "TOLLBOOK_POSTGRES_FLEET_URL": role_urls["fleet"],
        },
        working_folder=CHECKOUT,
        log_path=folder / "quota.log",
    )
    await process.start()
    redis = Redis.from_url(own_redis.url)
    async with grpc.aio.insecure_channel(address) as channel:
        suite = Suite(channel, redis, recorded, billing)
        suite.process = process
        # It listens before it is ready, and says so until then.
        if stores_are_up:
            await eventually(suite.is_ready, seconds=30)
        yield suite
    await process.stop(signal.SIGTERM, 15)
    await redis.aclose()
    await peers.stop(None)


@pytest.fixture
async def suite(
    tmp_path: Path, own_redis: EmbeddedRedis, migrated: Callable[[str], dict[str, str]]
) -> AsyncIterator[Suite]:
    async with suite_on(tmp_path, own_redis, migrated("quota")) as suite:
        yield suite


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A Postgres with quota's schema that the test may stop."""
    server = EmbeddedPostgres(tmp_path / "postgres", free_port())
    await server.start()
    await server.wait_ready()
    await asyncio.to_thread(migrate, server.url, "quota", PASSWORDS)
    yield server
    await server.stop()


async def test_a_process_checks_follows_expires_and_recovers(suite: Suite) -> None:
    answer = await suite.check("r1", 60)
    assert (answer.decision, answer.limits[0].held) == (quota_pb2.DECISION_ALLOWED, 60)
    assert (await suite.check("r2", 50)).deny_reason == quota_pb2.DENY_REASON_LIMIT_REACHED

    # Usage is followed without any check.
    await suite.record(45, reservation_id="r1", final=True)

    async def is_applied() -> bool:
        state = await suite.state()
        return (state.applied_sequence, state.used, state.held) == (1, 45, 0)

    await eventually(is_applied, seconds=5)

    # A plan change is followed.
    suite.billing.limit, suite.billing.version = 200, 2

    async def is_upgraded() -> bool:
        state = await suite.state()
        return (state.limit, state.entitlement_version) == (200, 2)

    await eventually(is_upgraded, seconds=5)

    # A reservation that nobody ends, ends by itself.
    await suite.check("short", 100, seconds=1)

    async def is_freed_by_the_worker() -> bool:
        return not await suite.redis.hexists("quota:{acme}:held", f"organization||{MINUTES}")

    await eventually(is_freed_by_the_worker, seconds=10)

    # A lost store is rebuilt from the ledger by the next check.
    await suite.redis.flushall()
    answer = await suite.check("r3", 155)
    assert (answer.decision, answer.limits[0].used) == (quota_pb2.DECISION_ALLOWED, 45)
    assert (await suite.check("r4", 1)).decision == quota_pb2.DECISION_DENIED

    assert await suite.process.stop(signal.SIGTERM, 15) == 0


async def test_without_postgres_quota_stays_ready_and_checks_go_on_and_only_limits_cannot_change(
    tmp_path: Path, own_redis: EmbeddedRedis, own_postgres: EmbeddedPostgres
) -> None:
    place = own_postgres.url.rpartition("@")[2]
    role_urls = {kind: f"postgresql://tollbook_quota_{kind}:{password}@{place}" for kind, password in PASSWORDS.items()}
    async with suite_on(tmp_path, own_redis, role_urls) as suite:
        limit = quota_pb2.Limit(meter=MINUTES, kind=quota_pb2.LIMIT_KIND_PERIOD, value=10, grace_percent=0)
        request = quota_pb2.SetLimitRequest(request_id="q1", limit=limit)
        first = await suite.quota.SetLimit(request, metadata=KEY, wait_for_ready=True)
        assert (await suite.check("r1", 11)).decision == quota_pb2.DECISION_DENIED

        await own_postgres.stop()
        assert (await suite.check("r2", 11)).decision == quota_pb2.DECISION_DENIED
        assert (await suite.check("r3", 10)).decision == quota_pb2.DECISION_ALLOWED
        request.request_id, request.limit.value = "q2", 20
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await suite.quota.SetLimit(request, metadata=KEY)
        assert (refused.value.code(), reason_of(refused.value)) == (
            grpc.StatusCode.UNAVAILABLE,
            "DEPENDENCY_UNAVAILABLE",
        )
        assert await suite.is_ready()

        await own_postgres.start()
        await own_postgres.wait_ready()
        request.limit.limit_id = first.limit.limit_id
        request.request_id = "q3"
        await suite.quota.SetLimit(request, metadata=KEY)
        assert (await suite.check("r4", 10)).decision == quota_pb2.DECISION_ALLOWED


async def test_a_watch_sees_usage_holds_plans_and_a_lost_store_and_ends_with_the_process(suite: Suite) -> None:
    call: Any = suite.quota.WatchQuotas(quota_pb2.WatchQuotasRequest(), metadata=KEY, wait_for_ready=True)

    async def told() -> quota_pb2.WatchQuotasResponse:
        async with asyncio.timeout(30):
            response: quota_pb2.WatchQuotasResponse = await call.read()
            return response

    def numbers(response: quota_pb2.WatchQuotasResponse) -> tuple[int, int, int]:
        (state,) = response.limits
        return state.limit, state.used, state.held

    first = await told()
    assert (first.complete, numbers(first)) == (True, (100, 0, 0))
    await suite.check("r1", 60)
    assert numbers(await told()) == (100, 0, 60)
    await suite.record(45, reservation_id="r1", final=True)
    assert numbers(await told()) == (100, 45, 0)
    suite.billing.limit, suite.billing.version = 200, 2
    changed = await told()
    assert (changed.complete, changed.plan_id, numbers(changed)) == (True, "plan-2", (200, 45, 0))
    await suite.check("r2", 10)
    assert numbers(await told()) == (200, 45, 10)
    # What was held is lost, and what was used is not.
    await suite.redis.flushall()
    assert numbers(await told()) == (200, 45, 0)

    assert await suite.process.stop(signal.SIGTERM, 15) == 0
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await told()
    assert (ended.value.code(), reason_of(ended.value)) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
