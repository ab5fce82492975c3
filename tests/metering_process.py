"""Metering as a process of its own, on a real Postgres, with accounts served by the test."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import grpc
import psycopg
from grpc_health.v1 import health_pb2

from kit.grpc.access import TENANT_SCOPES
from kit.process import ChildProcess
from kit.testing.stores import free_port
from tollbook.accounts.v1 import accounts_pb2, identity_pb2
from tollbook.metering.v1 import metering_pb2, metering_pb2_grpc

CHECKOUT = Path(__file__).resolve().parents[1]
ADMIN = (("authorization", "Bearer tb_admin_of_tests"),)
FOLLOWER_KEYS = {name: f"tb_service_{name}_{'k' * 32}" for name in ("quota", "analytics")}
"""Of the services that may read the feed."""
FOLLOWER_KEY = FOLLOWER_KEYS["quota"]
FOLLOWER = (("authorization", f"Bearer {FOLLOWER_KEY}"),)
"""The service quota, which may read the feed."""
MESSAGE_BYTES_MAX = 16 * 1024 * 1024

RecordCall: TypeAlias = "grpc.aio.UnaryUnaryCall[metering_pb2.RecordUsageRequest, metering_pb2.RecordUsageResponse]"

_HEALTHY_SECONDS_MAX = 30.0
_STOP_SECONDS_MAX = 15.0
_POLL_SECONDS = 0.02


async def _verify_api_key(_request: Any, _context: Any) -> identity_pb2.VerifyApiKeyResponse:
    """Every key is the admin's."""
    principal = identity_pb2.Principal(kind=identity_pb2.PRINCIPAL_KIND_ADMIN, scopes=sorted(TENANT_SCOPES))
    return identity_pb2.VerifyApiKeyResponse(principal=principal)


async def _get_organization(request: Any, _context: Any) -> accounts_pb2.GetOrganizationResponse:
    """Every organization exists."""
    organization = accounts_pb2.Organization(organization_id=request.organization_id)
    return accounts_pb2.GetOrganizationResponse(organization=organization)


def port_of(url: str) -> int:
    """The port in a URL."""
    port = urlsplit(url).port
    assert port is not None
    return port


def resident_bytes(pid: int) -> int:
    """The memory that a process has in use."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)


@asynccontextmanager
async def serving_accounts() -> AsyncIterator[str]:
    """What metering asks of accounts; yields its address."""
    server = grpc.aio.server()
    for service, method, behaviour, request in (
        ("IdentityFeedService", "VerifyApiKey", _verify_api_key, identity_pb2.VerifyApiKeyRequest),
        ("AccountsService", "GetOrganization", _get_organization, accounts_pb2.GetOrganizationRequest),
    ):
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            behaviour,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        generic = grpc.method_handlers_generic_handler(f"tollbook.accounts.v1.{service}", {method: handler})
        server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a process is started with."""

    urls: Mapping[str, str]
    """The URL of each role, by kind."""
    accounts_address: str
    log_path: Path

    def through(self, port: int) -> Site:
        """The same, with Postgres behind another port."""
        urls = {kind: url.replace(f":{port_of(url)}/", f":{port}/") for kind, url in self.urls.items()}
        return Site(urls=urls, accounts_address=self.accounts_address, log_path=self.log_path)


async def healthy(channel: grpc.aio.Channel) -> None:
    """Waits until the service behind the channel says that it serves."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    async with asyncio.timeout(_HEALTHY_SECONDS_MAX):
        while True:
            try:
                answer = await check(health_pb2.HealthCheckRequest(service=""), wait_for_ready=True)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(_POLL_SECONDS)
                continue
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            await asyncio.sleep(_POLL_SECONDS)


class MeteringProcess:
    """One process, which can be started again on its port, and a channel to it with the admin's key."""

    def __init__(self, site: Site, **settings: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.accounts_address = site.accounts_address
        key = "tb_service_" + "m" * 32
        self._process = ChildProcess(
            [sys.executable, "-m", "services.metering"],
            environment={
                "PATH": os.environ["PATH"],
                "TOLLBOOK_LISTEN_ADDRESS": self.address,
                "TOLLBOOK_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
                "TOLLBOOK_SERVICE_KEY": key,
                "TOLLBOOK_SERVICE_KEY_HASHES": json.dumps(
                    {name: _sha256(each) for name, each in {"metering": key, **FOLLOWER_KEYS}.items()}
                ),
                "TOLLBOOK_ACCOUNTS_ADDRESS": site.accounts_address,
                "TOLLBOOK_LOG_LEVEL": "WARNING",
                **{f"TOLLBOOK_POSTGRES_{kind.upper()}_URL": url for kind, url in site.urls.items()},
                **settings,
            },
            working_folder=CHECKOUT,
            log_path=site.log_path,
        )
        options = [
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
        ]
        self.channel = grpc.aio.insecure_channel(self.address, options=options)
        self.stub: metering_pb2_grpc.MeteringServiceAsyncStub = metering_pb2_grpc.MeteringServiceStub(self.channel)

    @property
    def pid(self) -> int:
        """The process' pid."""
        assert self._process.pid is not None
        return self._process.pid

    async def start(self) -> None:
        """Starts it and waits until it is healthy."""
        await self._process.start()
        await healthy(self.channel)

    async def kill(self) -> None:
        """Ends it as a crash does."""
        await self._process.stop(signal.SIGKILL, _STOP_SECONDS_MAX)

    async def stop(self) -> int | None:
        """Ends it as an operator does; its exit code."""
        return await self._process.stop(signal.SIGTERM, _STOP_SECONDS_MAX)

    async def close(self) -> None:
        """Ends it, and the channel."""
        await self.channel.close()
        await self._process.stop(signal.SIGTERM, _STOP_SECONDS_MAX)

    def record(self, events: Sequence[metering_pb2.UsageEvent], *, seconds: float | None = None) -> RecordCall:
        """Sends a batch."""
        request = metering_pb2.RecordUsageRequest(events=events)
        return self.stub.RecordUsage(request, metadata=ADMIN, timeout=seconds)

    async def record_stubbornly(
        self, events: Sequence[metering_pb2.UsageEvent], *, seconds: float = 30.0
    ) -> metering_pb2.RecordUsageResponse:
        """Sends a batch again and again, with the same ids, until it is answered."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    return await self.record(events, seconds=seconds)
                except grpc.aio.AioRpcError as error:
                    if error.code().name not in {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED", "DEADLINE_EXCEEDED"}:
                        raise
                    await asyncio.sleep(_POLL_SECONDS)

    def stream(self) -> grpc.aio.StreamStreamCall[metering_pb2.StreamUsageRequest, metering_pb2.StreamUsageResponse]:
        """Opens a stream."""
        return self.stub.StreamUsage(metadata=ADMIN)


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@asynccontextmanager
async def metering_processes(site: Site, count: int = 1, **settings: str) -> AsyncIterator[list[MeteringProcess]]:
    """Processes that are up, started at once."""
    processes = [MeteringProcess(site, **settings) for _ in range(count)]
    try:
        await asyncio.gather(*(process.start() for process in processes))
        yield processes
    finally:
        await asyncio.gather(*(process.close() for process in processes))


def usage_event(event_id: str, organization_id: str, *, quantity: int = 1) -> metering_pb2.UsageEvent:
    """A small event that happened just now."""
    message = metering_pb2.UsageEvent(
        id=event_id,
        source="tests",
        subject=metering_pb2.Subject(organization_id=organization_id),
        measurements=[metering_pb2.Measurement(meter="api_calls", quantity=quantity)],
    )
    message.event_time.GetCurrentTime()
    return message


def usage_events(name: str, count: int, organization_id: str) -> list[metering_pb2.UsageEvent]:
    """A batch."""
    return [usage_event(f"{name}-{number}", organization_id) for number in range(count)]


@dataclass(frozen=True, kw_only=True)
class StoredLedger:
    """What Postgres holds of one organization."""

    ids: list[str]
    """The ids of its events, in sequence."""
    sequences: list[int]
    head: int
    identity_count: int

    def assert_holds(self, ids: set[str]) -> None:
        """Each of these events exactly once, no other, numbered without a gap up to the head."""
        assert len(self.ids) == len(set(self.ids)), "an event is stored twice"
        assert set(self.ids) == ids
        assert self.sequences == list(range(1, len(self.ids) + 1))
        assert (self.head, self.identity_count) == (len(self.ids), len(self.ids))


async def stored_ledger(owner_url: str, organization_id: str) -> StoredLedger:
    """Reads an organization's ledger past every service, as the database's owner."""
    async with await psycopg.AsyncConnection.connect(owner_url, autocommit=True) as owner:
        rows = await (
            await owner.execute(
                "SELECT sequence, id FROM metering.events WHERE organization_id = %s ORDER BY sequence",
                (organization_id,),
            )
        ).fetchall()
        head = await (
            await owner.execute(
                "SELECT sequence FROM metering.ledger_heads WHERE organization_id = %s", (organization_id,)
            )
        ).fetchone()
        identities = await (
            await owner.execute(
                "SELECT count(*) FROM metering.event_identities WHERE organization_id = %s", (organization_id,)
            )
        ).fetchone()
    assert identities is not None
    return StoredLedger(
        ids=[row[1] for row in rows],
        sequences=[row[0] for row in rows],
        head=head[0] if head else 0,
        identity_count=identities[0],
    )
