"""The server that every service runs: grpc.aio on uvloop with health, reflection, readiness and a graceful drain."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol, cast

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from pydantic import Field

from kit.errors import Refused
from kit.grpc.access import access_rules
from kit.grpc.client import MESSAGE_BYTES_MAX
from kit.grpc.identity import Authenticator
from kit.grpc.interceptor import EdgeHandlers, Gate
from kit.postgres.database import UnsafeRole
from kit.settings import Settings
from kit.telemetry.logs import configure_logs
from kit.telemetry.metrics import READY, WORKER_RESTARTS, serve_metrics
from kit.telemetry.tracing import configure_tracing, tracing_enabled

log = structlog.get_logger()

EXIT_REFUSED_TO_START = 3
# The whole suite stops within 20 s; of those a service has 8.
DRAIN_SECONDS = 7.0
READINESS_SECONDS = 1.0
WORKER_PAUSE_SECONDS_MAX = 5.0
# A client that vanished without a word holds the place of its stream; gRPC itself would look for it after two hours.
PING_AFTER_SECONDS = 20.0
PING_ANSWER_SECONDS = 10.0
_COLLECT_AFTER = (20_000, 20, 20)
# The reflection service of the newer name: the same messages under another package, which newer clients ask first.
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

Worker = Callable[[], Coroutine[Any, Any, None]]


class ServerSettings(Settings):
    """What every service reads from its environment."""

    listen_address: str = Field(pattern=r"^[^\s:]+:\d{1,5}$")
    """Where to serve, `host:port`; several processes may share it (SO_REUSEPORT)."""
    metrics_address: str = Field(pattern=r"^[^\s:]+:\d{1,5}$")
    """Where GET /metrics answers, `host:port`."""
    service_key: str = Field(pattern=r"^tb_service_\S{32,}$")
    """Our own key towards the other services."""
    service_key_hashes: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    """Service name -> hex SHA-256 of its key."""
    log_level: str = Field(default="INFO", pattern=r"^(?i:debug|info|warning|error|critical)$")


class Servicer(Protocol):
    """An implementation of one gRPC service."""

    service_name: ClassVar[str]
    """Its full name, such as `tollbook.metering.v1.MeteringService`."""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        ...


def _nothing_to_drain() -> None:
    return


@dataclass(frozen=True, kw_only=True)
class Application:
    """A service put together: what its bootstrap hands to the server."""

    authenticator: Authenticator
    servicers: Sequence[Servicer]
    foreign_scopes: Mapping[str, int] = field(default_factory=dict)
    """The scope that a key needs for each service here whose proto is another project's, by its full name."""
    workers: Mapping[str, Worker] = field(default_factory=dict)
    """Loops that run while the service does; one that fails is begun again after a pause."""
    prepare: Callable[[], Awaitable[None]]
    """Awaited until it succeeds before any call is taken. Raises UnsafeRole to refuse the start for good."""
    ready: Sequence[Callable[[], Awaitable[None]]] = ()
    """Checks of what the service cannot work without; one that raises takes the service out of rotation."""
    drain: Callable[[], None] = _nothing_to_drain
    """Called once when the service is told to stop, before it waits for calls in progress: ends the long ones."""


Bootstrap = Callable[[AsyncExitStack], Awaitable[Application]]


def run(service: str, settings: ServerSettings, bootstrap: Bootstrap) -> None:
    """Runs the service until SIGTERM or SIGINT, then drains it. Exits with 3 when it refuses to start."""
    configure_logs(service, settings.log_level)
    configure_tracing(service)
    try:
        uvloop.run(_serve(service, settings, bootstrap))
    except (UnsafeRole, OSError) as error:
        log.critical("refused_to_start", error=str(error))
        sys.exit(EXIT_REFUSED_TO_START)


async def _serve(service: str, settings: ServerSettings, bootstrap: Bootstrap) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics_address = serve_metrics(settings.metrics_address)
    async with AsyncExitStack() as resources:
        application = await bootstrap(resources)
        gate, health_servicer = Gate(), health.aio.HealthServicer()
        server = build_server(service, application, gate, health_servicer)
        try:
            server.add_insecure_port(settings.listen_address)
        except RuntimeError as error:
            msg = f"cannot listen on {settings.listen_address}: is it in use?"
            raise OSError(msg) from error
        await server.start()
        log.info("listening", address=settings.listen_address, metrics_address=metrics_address)
        stopped = asyncio.create_task(stop.wait())
        life = asyncio.create_task(_live(application, gate, health_servicer))
        try:
            await asyncio.wait({stopped, life}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            READY.set(0)
            await health_servicer.enter_graceful_shutdown()
            log.info("draining")
            application.drain()
            gate.drain()
            await server.stop(DRAIN_SECONDS)
            stopped.cancel()
            life.cancel()
            outcome = (await asyncio.gather(life, return_exceptions=True))[0]
        if isinstance(outcome, Exception):
            raise outcome
        log.info("stopped")


def build_server(
    service: str, application: Application, gate: Gate, health_servicer: health.aio.HealthServicer
) -> grpc.aio.Server:
    """The application's server, not started and without a port. Raises AccessUndeclared."""
    names = [*(each.service_name for each in application.servicers), health.SERVICE_NAME, reflection.SERVICE_NAME]
    rules = access_rules(names, foreign=application.foreign_scopes)
    v1_rules = {
        method.replace(reflection.SERVICE_NAME, _REFLECTION_V1): rule
        for method, rule in rules.items()
        if reflection.SERVICE_NAME in method
    }
    handlers = EdgeHandlers(service, rules | v1_rules, application.authenticator, gate)
    tracing = [aio_server_interceptor()] if tracing_enabled() else []  # type: ignore[no-untyped-call]
    server = grpc.aio.server(
        interceptors=tracing,
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.keepalive_time_ms", int(PING_AFTER_SECONDS * 1_000)),
            # grpc.keepalive_timeout_ms does not shorten the minute that is otherwise given for an answer.
            ("grpc.http2.ping_timeout_ms", int(PING_ANSWER_SECONDS * 1_000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ],
    )
    methods = cast("grpc.aio.Server", handlers)
    for servicer in application.servicers:
        servicer.add_to(methods)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, methods)
    _add_reflection(names, handlers)
    server.add_generic_rpc_handlers((handlers,))
    return server


def _add_reflection(names: Sequence[str], handlers: EdgeHandlers) -> None:
    servicer = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (reflection.SERVICE_NAME, _REFLECTION_V1):
        generic = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        handlers.add_generic_rpc_handlers((generic,))


async def _live(application: Application, gate: Gate, health_servicer: health.aio.HealthServicer) -> None:
    """Prepares, opens the gate, then runs the workers and keeps health true until cancelled."""
    await _set_health(health_servicer, application, serving=False)
    pause = 0.1
    while True:
        try:
            await application.prepare()
            break
        except Refused as error:
            log.warning("waiting_to_start", error=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, WORKER_PAUSE_SECONDS_MAX)
    _collect_garbage_rarely()
    gate.is_open = True
    async with asyncio.TaskGroup() as group:
        for name, worker in application.workers.items():
            group.create_task(_keep_running(name, worker))
        group.create_task(_watch_readiness(application, health_servicer))


def _collect_garbage_rarely() -> None:
    # A batch of thousands of messages looks like a leak to the collector, which then searches all of memory for cycles,
    # again and again: a third of the CPU of recording usage. What is loaded by now stays; requests leave few cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


async def _watch_readiness(application: Application, health_servicer: health.aio.HealthServicer) -> None:
    was_ready: bool | None = None
    while True:
        try:
            async with asyncio.timeout(READINESS_SECONDS * 5):
                for check in application.ready:
                    await check()
            ready, why = True, ""
        except (Refused, TimeoutError) as error:
            ready, why = False, str(error) or "a readiness check took too long"
        if ready is not was_ready:
            log.info("ready" if ready else "not_ready", why=why)
            await _set_health(health_servicer, application, serving=ready)
            READY.set(int(ready))
            was_ready = ready
        await asyncio.sleep(READINESS_SECONDS)


async def _set_health(servicer: health.aio.HealthServicer, application: Application, *, serving: bool) -> None:
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", *(each.service_name for each in application.servicers)):
        await servicer.set(name, status)


async def _keep_running(name: str, worker: Worker) -> None:
    pause = 0.1
    while True:
        started = asyncio.get_running_loop().time()
        try:
            await worker()
        except Refused as error:
            log.warning("worker_retries", worker=name, error=str(error))
        except Exception:
            log.exception("worker_failed", worker=name)
        WORKER_RESTARTS.labels(name).inc()
        if asyncio.get_running_loop().time() - started > WORKER_PAUSE_SECONDS_MAX:
            pause = 0.1
        await asyncio.sleep(pause)
        pause = min(pause * 2, WORKER_PAUSE_SECONDS_MAX)
