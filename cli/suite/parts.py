"""The parts of a suite: what the supervisor needs of a process, whatever it is."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import httpx
from grpc_health.v1 import health_pb2

from kit.process import ChildProcess

Probe = Callable[[], Awaitable[bool]]

_POLL_SECONDS = 0.1
_PROBE_SECONDS_MAX = 2.0


class Part(Protocol):
    """A process of the suite that is started, watched and stopped."""

    @property
    def name(self) -> str:
        """What endpoints.json and the user's messages call it."""

    @property
    def log_path(self) -> Path:
        """Where it writes what it has to say."""

    @property
    def pid(self) -> int | None:
        """The pid of the current or last run; None before the first."""

    async def start(self) -> None:
        """Start it, for the first time or again after its end."""

    async def wait_ready(self) -> None:
        """Wait until it does its work."""

    async def wait(self) -> int:
        """Wait for its end; the exit code, or minus the signal that ended it."""

    async def stop(self, timeout_seconds: float) -> None:
        """Let it end in order, or by force after the timeout; a no-op where it does not run."""


@dataclass(frozen=True, kw_only=True)
class ProgramSpec:
    """A line of the table of processes: what to run, in exactly which environment, healthy when."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    working_folder: Path
    probe: Probe


class Program:
    """A part that is a program of ours, ended by SIGTERM."""

    def __init__(self, spec: ProgramSpec, *, log_path: Path) -> None:
        self.name = spec.name
        self.log_path = log_path
        self._probe = spec.probe
        self._process = ChildProcess(
            spec.command,
            environment=spec.environment,
            working_folder=spec.working_folder,
            log_path=log_path,
        )

    @property
    def pid(self) -> int | None:
        """See Part."""
        return self._process.pid

    async def start(self) -> None:
        """See Part."""
        await self._process.start()

    async def wait_ready(self) -> None:
        """See Part."""
        while not await self._probe():  # noqa: ASYNC110 - another process sets no event of ours
            await asyncio.sleep(_POLL_SECONDS)

    async def wait(self) -> int:
        """See Part."""
        return await self._process.wait()

    async def stop(self, timeout_seconds: float) -> None:
        """See Part."""
        await self._process.stop(signal.SIGTERM, timeout_seconds)


def http_probe(url: str) -> Probe:
    """Return a probe that is content when the URL answers 200."""

    async def probe() -> bool:
        # What the environment says of proxies is not meant for the loopback interface.
        async with httpx.AsyncClient(trust_env=False, timeout=_PROBE_SECONDS_MAX) as client:
            try:
                answer = await client.get(url)
            except httpx.HTTPError:
                return False
        return answer.status_code == httpx.codes.OK

    return probe


def grpc_probe(address: str) -> Probe:
    """Return a probe that is content when the server's gRPC health, as a whole, is SERVING."""

    async def probe() -> bool:
        options = (("grpc.enable_http_proxy", 0),)
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            check: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse] = (
                channel.unary_unary(
                    "/grpc.health.v1.Health/Check",
                    request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                    response_deserializer=health_pb2.HealthCheckResponse.FromString,
                )
            )
            try:
                answer = await check(health_pb2.HealthCheckRequest(), timeout=_PROBE_SECONDS_MAX)
            except grpc.aio.AioRpcError:
                return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    return probe
