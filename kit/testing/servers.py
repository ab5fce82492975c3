"""A real grpc.aio server and channel within the test's process, with keys that the test hands out."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health

from kit.grpc.call import Principal
from kit.grpc.interceptor import Gate
from kit.grpc.server import Application, build_server


class KnownKeys:
    """A key directory with the keys it was made with; `principals` may be changed while it is in use."""

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        self.principals = dict(principals)
        self.look_ups = 0

    async def look_up(self, key_sha256: bytes) -> Principal | None:
        """As kit.grpc.identity.KeyDirectory."""
        self.look_ups += 1
        for key, principal in self.principals.items():
            if hashlib.sha256(key.encode()).digest() == key_sha256:
                return principal
        return None


@asynccontextmanager
async def serving(
    application: Application, *, is_open: bool = True, gate: Gate | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """Serves the application on a free port of loopback; yields a channel to it that carries no key."""
    async with (
        serving_at(application, is_open=is_open, gate=gate) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


@asynccontextmanager
async def serving_at(application: Application, *, is_open: bool = True, gate: Gate | None = None) -> AsyncIterator[int]:
    """Serves the application on a free port of loopback; yields the port."""
    gate = gate or Gate()
    gate.is_open = is_open
    server = build_server("tests", application, gate, health.aio.HealthServicer())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=1)
