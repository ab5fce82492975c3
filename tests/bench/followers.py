"""The services that follow metering, as processes: quota on a Redis of its own, analytics on a database of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from kit.process import ChildProcess
from kit.redis.embedded import EmbeddedRedis
from kit.testing.stores import free_port
from tests.integration.test_quota_process import Billing
from tests.metering_process import ADMIN, CHECKOUT, FOLLOWER_KEYS, MeteringProcess, healthy
from tollbook.analytics.v1 import prices_pb2, prices_pb2_grpc
from tollbook.billing.v1 import entitlements_pb2_grpc

START_SECONDS_MAX = 30.0
_STOP_SECONDS_MAX = 15.0


@dataclass(frozen=True, kw_only=True)
class ServiceProcess:
    """A running service."""

    channel: grpc.aio.Channel
    pid: int


@dataclass(frozen=True, kw_only=True)
class Redis:
    """The store of quota, and the peer that it asks for entitlements."""

    url: str
    billing_address: str


@asynccontextmanager
async def quota_store(folder: Path) -> AsyncIterator[Redis]:
    """A Redis that outlives the process of quota, and a billing that grants everybody the same plan."""
    redis = EmbeddedRedis(folder / "redis", free_port())
    peers = grpc.aio.server()
    entitlements_pb2_grpc.add_EntitlementFeedServiceServicer_to_server(Billing(), peers)
    address = f"127.0.0.1:{peers.add_insecure_port('127.0.0.1:0')}"
    try:
        await redis.start()
        await redis.wait_ready(START_SECONDS_MAX)
        await peers.start()
        yield Redis(url=redis.url, billing_address=address)
    finally:
        await peers.stop(None)
        await redis.stop(10.0)


@asynccontextmanager
async def quota_process(
    metering: MeteringProcess, role_urls: dict[str, str], redis: Redis, folder: Path
) -> AsyncIterator[ServiceProcess]:
    """Quota, following metering."""
    settings = {
        **{f"TOLLBOOK_POSTGRES_{kind.upper()}_URL": role_urls[kind] for kind in ("tenant", "fleet")},
        "TOLLBOOK_BILLING_ADDRESS": redis.billing_address,
        "TOLLBOOK_REDIS_URL": redis.url,
        # The benchmark's own load is no measure of 20 ms.
        "TOLLBOOK_REDIS_CHECK_MILLISECONDS": "1000",
    }
    async with _service("quota", metering, folder, settings) as service:
        yield service


@asynccontextmanager
async def analytics_process(
    metering: MeteringProcess, role_urls: dict[str, str], folder: Path
) -> AsyncIterator[ServiceProcess]:
    """Analytics, following metering, with a price for every call."""
    settings = {f"TOLLBOOK_POSTGRES_{kind.upper()}_URL": url for kind, url in role_urls.items()}
    async with _service("analytics", metering, folder, settings) as service:
        price = prices_pb2.Price(provider="openai_codex", input_per_thousand="0.002", output_per_thousand="0.004")
        await prices_pb2_grpc.PriceServiceStub(service.channel).SetPrice(
            prices_pb2.SetPriceRequest(request_id="bench", price=price, baseline=True),
            metadata=ADMIN,
        )
        yield service


@asynccontextmanager
async def _service(
    name: str, metering: MeteringProcess, folder: Path, settings: dict[str, str]
) -> AsyncIterator[ServiceProcess]:
    address, key = f"127.0.0.1:{free_port()}", FOLLOWER_KEYS[name]
    process = ChildProcess(
        [sys.executable, "-m", f"services.{name}"],
        environment={
            "PATH": os.environ["PATH"],
            "TOLLBOOK_LISTEN_ADDRESS": address,
            "TOLLBOOK_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
            "TOLLBOOK_SERVICE_KEY": key,
            "TOLLBOOK_SERVICE_KEY_HASHES": json.dumps({name: hashlib.sha256(key.encode()).hexdigest()}),
            "TOLLBOOK_METERING_ADDRESS": metering.address,
            "TOLLBOOK_ACCOUNTS_ADDRESS": metering.accounts_address,
            "TOLLBOOK_LOG_LEVEL": "WARNING",
            **settings,
        },
        working_folder=CHECKOUT,
        log_path=folder / f"{name}.log",
    )
    await process.start()
    try:
        assert process.pid is not None
        async with grpc.aio.insecure_channel(address) as channel:
            await healthy(channel)
            yield ServiceProcess(channel=channel, pid=process.pid)
    finally:
        await process.stop(signal.SIGTERM, _STOP_SECONDS_MAX)
