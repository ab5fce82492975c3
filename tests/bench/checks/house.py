"""What is measured, as processes: quota with a Redis and its peers, the baseline's echo, and the client that asks.

On Linux the servers measured have the first processor for themselves, and what they need of others (client, Redis,
peers) shares the rest; so neither side takes the other's time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from redis.asyncio import Redis

from kit.process import ChildProcess
from kit.redis.embedded import EmbeddedRedis
from kit.testing.stores import free_port
from tests.bench.processes import cpu_seconds
from tests.bench.stores import durable_postgres, ledger_database
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

CHECKOUT = Path(__file__).resolve().parents[3]
KEY = {"authorization": "Bearer tb_admin_of_bench"}
CHECK = "/tollbook.quota.v1.QuotaService/Check"
BATCH_CHECK = "/tollbook.quota.v1.QuotaService/BatchCheck"
_SERVICE_KEY = "tb_service_" + "q" * 32
_START_SECONDS_MAX = 30.0
_CLIENT = CHECKOUT / ".build" / "load"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run of the client came to, and what the servers used meanwhile."""

    calls: int
    seconds: float
    client_cpu_seconds: float
    server_cpu_seconds: float
    redis_cpu_seconds: float
    evals: int
    """Scripts that Redis ran for clients."""
    errors: Mapping[str, int]
    decisions: Mapping[str, int]
    latencies_ms: Mapping[str, float]
    bytes_in: int
    dispatched: int
    pacer_late_ms: float

    @property
    def answered(self) -> int:
        """Answers and refusals, those of the warm-up too."""
        return sum(self.decisions.values()) + sum(self.errors.values())

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.calls / self.seconds

    @property
    def server_cpu_us(self) -> float:
        """Of the servers' CPU, for each answer."""
        return self.server_cpu_seconds / self.calls * 1e6 if self.calls else 0.0


@dataclass(kw_only=True)
class Server:
    """Processes that share one port."""

    address: str
    method: str
    processes: list[ChildProcess]
    channel: grpc.aio.Channel

    @property
    def cpu_seconds(self) -> float:
        """CPU used so far, by all of them."""
        return sum(cpu_seconds(each.pid, with_children=True) for each in self.processes if each.pid)


@dataclass(kw_only=True)
class House:
    """Where measuring takes place."""

    folder: Path
    redis: EmbeddedRedis
    client: Redis
    peers_address: str
    postgres_urls: Mapping[str, str]
    requests_made: int = 0
    redis_is_silent: bool = False

    @asynccontextmanager
    async def quota(
        self, *, processes: int = 1, pinned: bool | None = None, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[Server]:
        """The service, ready, by so many processes on one port. environment: settings that differ. pinned: to the
        measured processor; by default, one process is and several are not.
        """
        address = f"127.0.0.1:{free_port()}"
        settings = {
            "PATH": os.environ["PATH"],
            "TOLLBOOK_LISTEN_ADDRESS": address,
            "TOLLBOOK_SERVICE_KEY": _SERVICE_KEY,
            "TOLLBOOK_SERVICE_KEY_HASHES": json.dumps({"quota": hashlib.sha256(_SERVICE_KEY.encode()).hexdigest()}),
            "TOLLBOOK_METERING_ADDRESS": self.peers_address,
            "TOLLBOOK_BILLING_ADDRESS": self.peers_address,
            "TOLLBOOK_ACCOUNTS_ADDRESS": self.peers_address,
            "TOLLBOOK_REDIS_URL": self.redis.url,
            "TOLLBOOK_POSTGRES_TENANT_URL": self.postgres_urls["tenant"],
            "TOLLBOOK_POSTGRES_FLEET_URL": self.postgres_urls["fleet"],
            "TOLLBOOK_LOG_LEVEL": "WARNING",
            # At saturation a machine of two cores is no measure of 20 ms.
            "TOLLBOOK_REDIS_CHECK_MILLISECONDS": "1000",
            **(environment or {}),
        }
        commands = [
            (
                (sys.executable, "-m", "services.quota"),
                {**settings, "TOLLBOOK_METRICS_ADDRESS": f"127.0.0.1:{free_port()}"},
            )
            for _ in range(processes)
        ]
        async with self._serving(address, CHECK, commands, "quota", pinned=pinned) as server:
            yield server

    @asynccontextmanager
    async def echo(self, answer_bytes: int, *, processes: int = 1) -> AsyncIterator[Server]:
        """The baseline E, answering so many bytes."""
        address = f"127.0.0.1:{free_port()}"
        command = (sys.executable, "-m", "tests.bench.checks.echo", address, str(answer_bytes))
        commands = [(command, {"PATH": os.environ["PATH"]})] * processes
        async with self._serving(address, "/tollbook.bench.Echo/Answer", commands, "echo") as server:
            yield server

    @asynccontextmanager
    async def _serving(
        self,
        address: str,
        method: str,
        commands: Sequence[tuple[tuple[str, ...], dict[str, str]]],
        name: str,
        *,
        pinned: bool | None = None,
    ) -> AsyncIterator[Server]:
        is_pinned = len(commands) == 1 if pinned is None else pinned
        started = [
            ChildProcess(
                command,
                environment=environment,
                working_folder=CHECKOUT,
                log_path=self.folder / f"{name}-{number}.log",
                wrapper=on_processors(measured=True) if is_pinned else (),
            )
            for number, (command, environment) in enumerate(commands)
        ]
        try:
            for each in started:
                await each.start()
            async with grpc.aio.insecure_channel(address) as channel:
                async with asyncio.timeout(_START_SECONDS_MAX):
                    await channel.channel_ready()
                if len(started) > 1:
                    # A port answers as soon as one process listens; the others need as long as the first did.
                    await asyncio.sleep(3.0)
                yield Server(address=address, method=method, processes=started, channel=channel)
        finally:
            await asyncio.gather(*(each.stop(signal.SIGTERM, 15.0) for each in started))

    async def flush(self) -> None:
        """Empties Redis: what reservations hold would grow from round to round."""
        await self.client.flushall()

    @contextmanager
    def silent_redis(self) -> Iterator[None]:
        """Redis takes what it is sent and answers nothing."""
        assert self.redis.pid is not None
        os.kill(self.redis.pid, signal.SIGSTOP)
        self.redis_is_silent = True
        try:
            yield
        finally:
            os.kill(self.redis.pid, signal.SIGCONT)
            self.redis_is_silent = False

    async def settle(self, server: Server, organization_ids: Sequence[str]) -> None:
        """Has every organization's counters made: a first check is no measure of the others."""
        stub = quota_pb2_grpc.QuotaServiceStub(server.channel)
        turn = asyncio.Semaphore(32)

        async def ask(organization_id: str) -> None:
            request = quota_pb2.ListQuotasRequest(organization_id=organization_id)
            async with turn:
                while True:
                    try:
                        await stub.ListQuotas(request, metadata=tuple(KEY.items()), wait_for_ready=True)
                    except grpc.aio.AioRpcError as error:
                        # A port that is open is not a service that is ready.
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        await asyncio.sleep(0.1)
                    else:
                        return

        async with asyncio.timeout(_START_SECONDS_MAX + len(organization_ids)):
            await asyncio.gather(*map(ask, organization_ids))

    async def load(
        self,
        server: Server,
        requests: Sequence[bytes],
        *,
        method: str = "",
        callers: int = 64,
        connections: int = 4,
        rate: float = 0.0,
        calls: int = 0,
        warm_seconds: float = 0.5,
        seconds: float = 2.0,
    ) -> Outcome:
        """Sends requests; see tests/bench/load/main.go."""
        evals, redis_cpu, server_cpu = await self._evals(), self._redis_cpu(), server.cpu_seconds
        document = await run_client(
            {
                "target": server.address,
                "method": method or server.method,
                "metadata": KEY,
                "requests": [base64.b64encode(each).decode() for each in requests],
                "connections": connections,
                "callers": callers,
                "rate": rate,
                "calls": calls,
                "warm_seconds": warm_seconds,
                "seconds": seconds,
                "first_number": self.requests_made,
            }
        )
        self.requests_made += 100_000_000
        # The warm-up is not in `calls`, but it is in the servers' CPU: take its share away.
        answered = sum(document["decisions"].values()) + sum(document["errors"].values())
        share = document["calls"] / answered if answered else 1.0
        return Outcome(
            calls=document["calls"],
            seconds=document["seconds"],
            client_cpu_seconds=document["cpu_seconds"],
            server_cpu_seconds=(server.cpu_seconds - server_cpu) * share,
            redis_cpu_seconds=(self._redis_cpu() - redis_cpu) * share,
            evals=round((await self._evals() - evals) * share),
            errors=document["errors"],
            decisions=document["decisions"],
            latencies_ms=document["latencies_ms"],
            bytes_in=document["bytes_in"],
            dispatched=document["dispatched"],
            pacer_late_ms=document["pacer_late_ms"],
        )

    def _redis_cpu(self) -> float:
        assert self.redis.pid is not None
        return cpu_seconds(self.redis.pid)

    async def _evals(self) -> int:
        if self.redis_is_silent:
            return 0
        stats: dict[str, Any] = await self.client.info("commandstats")
        return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))

    async def raw_evals(self, *, seconds: float, pipeline: int) -> float:
        """The baseline Z: pipelined EVALSHA of a script of one line, a second."""
        script = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        url = urlsplit(self.redis.url)
        commands = [
            ("AUTH", url.password or ""),
            ("EVAL", script, "1", "bench:z", "1"),
            ("EVALSHA", digest, "1", "bench:z", "1"),
        ]
        document = await run_client(
            {
                "target": f"{url.hostname}:{url.port}",
                "method": "redis",
                "requests": [base64.b64encode(_resp(command)).decode() for command in commands],
                "pipeline": pipeline,
                "seconds": seconds,
            }
        )
        rate: float = document["calls"] / document["seconds"]
        return rate


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    """Redis and Postgres, with the suite's own settings, and the peers."""
    redis = EmbeddedRedis(folder / "redis", free_port())
    peers_address = f"127.0.0.1:{free_port()}"
    peers = ChildProcess(
        (sys.executable, "-m", "tests.bench.checks.peers", peers_address),
        environment={"PATH": os.environ["PATH"]},
        working_folder=CHECKOUT,
        log_path=folder / "peers.log",
        wrapper=on_processors(measured=False),
    )
    try:
        await redis.start()
        await redis.wait_ready(_START_SECONDS_MAX)
        if redis.pid and on_processors(measured=False):
            os.sched_setaffinity(redis.pid, _others())
        await peers.start()
        async with Redis.from_url(redis.url) as client, durable_postgres(folder) as postgres:
            roles = ledger_database(postgres, "quota").role_urls("quota")
            yield House(folder=folder, redis=redis, client=client, peers_address=peers_address, postgres_urls=roles)
    finally:
        await peers.stop(signal.SIGTERM, 5.0)
        await redis.stop(10.0)


async def build_client() -> None:
    """Builds the client of the benchmark."""
    process = await asyncio.create_subprocess_exec(
        "tools/go.sh", "build", "-o", str(_CLIENT), "./tests/bench/load", cwd=CHECKOUT
    )
    assert await process.wait() == 0


async def run_client(load: Mapping[str, Any]) -> dict[str, Any]:
    """One run of the client."""
    process = await asyncio.create_subprocess_exec(
        *on_processors(measured=False), str(_CLIENT), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await process.communicate(json.dumps(load).encode())
    assert process.returncode == 0, "the client failed"
    document: dict[str, Any] = json.loads(answer)
    return document


def on_processors(*, measured: bool) -> tuple[str, ...]:
    """What to put before a command, so that it runs on the processor of what is measured, or on the others."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) == 1 or shutil.which("taskset") is None:
        return ()
    return ("taskset", "--cpu-list", str(usable[0]) if measured else ",".join(map(str, sorted(_others()))))


def _others() -> set[int]:
    return set(sorted(os.sched_getaffinity(0))[1:])


def _resp(words: Sequence[str]) -> bytes:
    return b"".join(
        [b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)]
    )
