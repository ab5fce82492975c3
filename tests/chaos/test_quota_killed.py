"""Quota as a process that is killed between two steps (F14, B14), and that starts before its stores (F19)."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kit.postgres.embedded import EmbeddedPostgres
from kit.redis.embedded import EmbeddedRedis
from kit.testing.stores import free_port
from tests.conftest import RoleUrls
from tests.integration.test_quota_process import KEY, PASSWORDS, Suite, eventually, own_postgres, suite_on
from tests.unit.quota.samples import MINUTES
from tollbook.metering.v1 import metering_pb2
from tollbook.quota.v1 import quota_pb2

__all__ = ["own_postgres"]

HELD = f"organization||{MINUTES}"


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A Redis that the test may stop; it keeps nothing."""
    settings = {"appendonly": "no", "appendfsync": "no"}
    server = EmbeddedRedis(tmp_path / "redis", free_port(), settings=settings)
    await server.start()
    await server.wait_ready()
    yield server
    await server.stop()


async def _check(suite: Suite, request_id: str, quantity: int, *, seconds: int = 900) -> quota_pb2.CheckResponse | None:
    try:
        return await suite.check(request_id, quantity, seconds=seconds)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None


def _answers(suite: Suite, request_id: str, quantity: int) -> Callable[[], Awaitable[bool]]:
    async def is_answered() -> bool:
        return await _check(suite, request_id, quantity) is not None

    return is_answered


async def test_f14_b14_a_process_killed_after_it_reserved_leaves_a_hold_that_commits_or_expires(
    tmp_path: Path, own_redis: EmbeddedRedis, migrated: Callable[[str], RoleUrls]
) -> None:
    async with suite_on(tmp_path, own_redis, migrated("quota")) as suite:
        await eventually(_answers(suite, "kept", 40), seconds=60)
        await suite.check("forgotten", 60, seconds=2)
        await suite.process.stop(signal.SIGKILL, 15)
        await suite.process.start()
        await eventually(_answers(suite, "kept", 40), seconds=60)
        # The retry found its hold: nothing is held twice, nothing is used.
        state = await suite.state()
        assert (state.used, state.held) in {(0, 100), (0, 40)}
        actuals = [metering_pb2.Measurement(meter=MINUTES, quantity=25)]
        request = quota_pb2.CommitReservationRequest(reservation_id="kept", actuals=actuals)
        await suite.quota.CommitReservation(request, metadata=KEY)

        async def only_what_was_committed_is_held() -> bool:
            # By nobody but time and the worker: the process that knew of it is gone.
            state = await suite.state()
            return (state.used, state.held) == (0, 25)

        await eventually(only_what_was_committed_is_held, seconds=30)


async def test_f19_started_before_its_stores_quota_waits_and_is_not_ready_and_then_serves(
    tmp_path: Path, own_redis: EmbeddedRedis, own_postgres: EmbeddedPostgres
) -> None:
    place = own_postgres.url.rpartition("@")[2]
    role_urls = {kind: f"postgresql://tollbook_quota_{kind}:{password}@{place}" for kind, password in PASSWORDS.items()}
    await own_postgres.stop()
    await own_redis.stop()
    async with suite_on(tmp_path, own_redis, role_urls, stores_are_up=False) as suite:
        pid = suite.process.pid
        health: Any = health_pb2_grpc.HealthStub(suite.channel)

        async def says(status: int) -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            return bool(answer.status == status)

        assert await says(health_pb2.HealthCheckResponse.NOT_SERVING)
        assert await _check(suite, "r1", 1) is None
        await own_postgres.start()
        await own_postgres.wait_ready()

        async def waits_for_redis() -> bool:
            return "Redis cannot be reached" in (tmp_path / "quota.log").read_text()

        await eventually(waits_for_redis, seconds=60)
        assert await _check(suite, "r1", 1) is None
        assert await says(health_pb2.HealthCheckResponse.NOT_SERVING)
        await own_redis.start()
        await own_redis.wait_ready()
        await eventually(_answers(suite, "r1", 1), seconds=60)
        await eventually(lambda: says(health_pb2.HealthCheckResponse.SERVING), seconds=60)
        assert (suite.process.pid, suite.process.running) == (pid, True)


async def test_f10_without_redis_a_process_stays_ready_and_answers_by_policy(
    tmp_path: Path, own_redis: EmbeddedRedis, migrated: Callable[[str], RoleUrls]
) -> None:
    async with suite_on(tmp_path, own_redis, migrated("quota")) as suite:
        await eventually(_answers(suite, "seen", 10), seconds=60)
        await own_redis.stop()
        answer = await suite.check("r1", 1)
        assert (answer.decision, answer.degraded) == (quota_pb2.DECISION_ALLOWED, True)
        refused = await suite.check("r2", 1)
        assert (refused.decision, refused.deny_reason) == (
            quota_pb2.DECISION_DENIED,
            quota_pb2.DENY_REASON_STORE_UNAVAILABLE,
        )
        health: Any = health_pb2_grpc.HealthStub(suite.channel)
        ready = await health.Check(health_pb2.HealthCheckRequest())
        assert ready.status == health_pb2.HealthCheckResponse.SERVING
        # It comes back with nothing: the ledger rebuilds what was used, the process what it granted.
        await own_redis.start()
        await own_redis.wait_ready()

        async def is_registered() -> bool:
            return await suite.redis.hget("quota:{acme}:held", HELD) == b"1"

        await eventually(is_registered, seconds=30)
