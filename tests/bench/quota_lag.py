"""How long it takes until quota counts what was recorded: the real process on a real Redis, following metering."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from time import perf_counter

import grpc

from kit.process import ChildProcess
from kit.redis.embedded import EmbeddedRedis
from kit.testing.stores import free_port
from tests.bench.stores import LedgerDatabase
from tests.integration.test_quota_process import Billing
from tests.metering_process import ADMIN, CHECKOUT, FOLLOWER_KEY, MeteringProcess, usage_event
from tests.unit.quota.samples import MINUTES
from tollbook.billing.v1 import entitlements_pb2_grpc
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

ORGANIZATION = "acme"
EVERY_SECONDS = 0.05
_POLL_SECONDS = 0.004
_START_SECONDS_MAX = 30.0


async def quota_lags(
    metering: MeteringProcess, folder: Path, database: LedgerDatabase, *, seconds: float
) -> list[float]:
    """Seconds from sending an event to the first answer of quota that counts it, again and again."""
    async with _quota(metering, folder, database.add_schema("quota")) as quota:
        await _counted(quota, await _record(metering, "warm"))
        found: list[float] = []
        ends = perf_counter() + seconds
        for number in count():
            started = perf_counter()
            if started >= ends:
                return found
            await _counted(quota, await _record(metering, f"lag-{number}"))
            found.append(perf_counter() - started)
            await asyncio.sleep(max(0.0, EVERY_SECONDS - found[-1]))
    raise AssertionError


async def _record(metering: MeteringProcess, name: str) -> int:
    event = usage_event(name, ORGANIZATION)
    event.measurements[0].meter = MINUTES
    return (await metering.record([event])).results[0].sequence


async def _counted(quota: quota_pb2_grpc.QuotaServiceAsyncStub, sequence: int) -> None:
    request = quota_pb2.ListQuotasRequest(organization_id=ORGANIZATION)
    async with asyncio.timeout(_START_SECONDS_MAX):
        while True:
            answer = await quota.ListQuotas(request, metadata=ADMIN, wait_for_ready=True)
            if answer.limits and answer.limits[0].applied_sequence >= sequence:
                return
            await asyncio.sleep(_POLL_SECONDS)


@asynccontextmanager
async def _quota(
    metering: MeteringProcess, folder: Path, role_urls: Mapping[str, str]
) -> AsyncIterator[quota_pb2_grpc.QuotaServiceAsyncStub]:
    redis = EmbeddedRedis(folder / "redis", free_port())
    peers = grpc.aio.server()
    entitlements_pb2_grpc.add_EntitlementFeedServiceServicer_to_server(Billing(), peers)
    billing_address = f"127.0.0.1:{peers.add_insecure_port('127.0.0.1:0')}"
    address = f"127.0.0.1:{free_port()}"
    process = ChildProcess(
        [sys.executable, "-m", "services.quota"],
        environment={
            "PATH": os.environ["PATH"],
            "TOLLBOOK_LISTEN_ADDRESS": address,
            "TOLLBOOK_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
            "TOLLBOOK_SERVICE_KEY": FOLLOWER_KEY,
            "TOLLBOOK_SERVICE_KEY_HASHES": json.dumps({"quota": hashlib.sha256(FOLLOWER_KEY.encode()).hexdigest()}),
            "TOLLBOOK_METERING_ADDRESS": metering.address,
            "TOLLBOOK_BILLING_ADDRESS": billing_address,
            "TOLLBOOK_ACCOUNTS_ADDRESS": metering.accounts_address,
            "TOLLBOOK_REDIS_URL": redis.url,
            "TOLLBOOK_POSTGRES_TENANT_URL": role_urls["tenant"],
            "TOLLBOOK_POSTGRES_FLEET_URL": role_urls["fleet"],
            # The benchmark's own load is no measure of 20 ms.
            "TOLLBOOK_REDIS_CHECK_MILLISECONDS": "1000",
        },
        working_folder=CHECKOUT,
        log_path=folder / "quota.log",
    )
    try:
        await redis.start()
        await redis.wait_ready(_START_SECONDS_MAX)
        await peers.start()
        await process.start()
        async with grpc.aio.insecure_channel(address) as channel:
            yield quota_pb2_grpc.QuotaServiceStub(channel)
    finally:
        await process.stop(signal.SIGTERM, 15.0)
        await peers.stop(None)
        await redis.stop(10.0)
