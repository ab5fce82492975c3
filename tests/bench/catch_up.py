"""A6: how fast followers that are behind catch up, beside the peak of what comes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import median
from time import perf_counter, process_time
from typing import Any

from redis.asyncio import Redis as RedisClient

from kit.feed import Follower
from kit.head_watch import HeadWatch
from kit.postgres.database import Database
from services.metering.adapters.postgres_ledger import PostgresLedgerHeads
from services.metering.adapters.postgres_rollups import LedgerSpans, PostgresRollups, Span
from services.metering.bootstrap import ROLLUP_CONNECTIONS
from tests.bench.events import make_events
from tests.bench.followers import (
    Redis,
    ServiceProcess,
    analytics_process,
    quota_process,
    quota_store,
)
from tests.bench.ground import Ground, writing
from tests.bench.processes import cpu_seconds
from tests.bench.stores import LedgerDatabase
from tests.bench.table import Figure, Floor
from tests.metering_process import ADMIN, FOLLOWER_KEYS, MeteringProcess, metering_processes
from tollbook.metering.v1 import ledger_pb2
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

FOLLOWED = [f"org-{number:03}" for number in range(8)]
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 300.0
_EMPTY_ROLLUPS = (
    "TRUNCATE metering.rollup_positions, metering.rollup_measurements, metering.rollup_calls,"
    " metering.subject_rollup_measurements, metering.subject_rollup_calls"
)
# Back to where it was when it had seen the first event of each ledger. Not further: a follower that begins looks first
# whether the ledger is whole, which is not what is measured.
_KEEP_POSITIONS = "CREATE TABLE baseline.cost_positions AS TABLE analytics.cost_positions"
_PUT_BACK_COSTS = """
    TRUNCATE analytics.call_costs;
    UPDATE analytics.cost_positions AS now SET sequence = kept.sequence, commit_id = kept.commit_id
    FROM baseline.cost_positions AS kept WHERE now.organization_id = kept.organization_id
"""


async def catch_up(ground: Ground) -> list[Figure]:
    """A6: rollups, the feed itself, analytics and quota, each from the beginning to the head of the same ledgers."""
    database, count = ground.new_database("followed"), ground.sizes.followed_events
    site = ground.site(database, "followed")
    async with metering_processes(site) as (metering,), quota_store(ground.folder) as redis:
        async with writing(database) as write_rate:
            await write_rate(make_events(len(FOLLOWED), FOLLOWED))
            async with quota_process(metering, database.role_urls("quota"), redis, ground.folder) as quota:
                await _begin_counters(quota)
            async with analytics_process(metering, database.role_urls("analytics"), ground.folder):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await _reaches(_of_analytics(database), len(FOLLOWED))
            with database.connect() as owner:
                owner.execute(_KEEP_POSITIONS)
            await write_rate(make_events(count, FOLLOWED))
        figures = await _feed(ground, metering, count)
        figures += await _analytics(ground, metering, database, count)
        figures += await _quota(ground, metering, database, redis, count)
    # Last, and without metering, whose own worker would do it.
    return [*await _rollups(ground, database, count), *figures]


async def _rollups(ground: Ground, database: LedgerDatabase, count: int) -> list[Figure]:
    rates, cpu = [], []
    fleet = Database(database.role_urls()["fleet"])
    writer = Database(database.role_urls()["writer"], pool_size=ROLLUP_CONNECTIONS)
    turns = asyncio.Semaphore(ROLLUP_CONNECTIONS)
    spans = LedgerSpans(writer, HeadWatch(PostgresLedgerHeads(fleet).heads))
    for _ in range(ground.sizes.rounds):
        with database.connect() as owner:
            owner.execute(_EMPTY_ROLLUPS)
        follower = Follower("bench", spans, PostgresRollups(writer))
        store, own, started = ground.store_cpu(), process_time(), perf_counter()

        async def follow(organization_id: str, follower: Follower[Span] = follower) -> None:
            async with turns:
                await follower.catch_up(organization_id)

        await asyncio.gather(*map(follow, FOLLOWED))
        rates.append(count / (perf_counter() - started))
        cpu.append((process_time() - own + ground.store_cpu() - store) / count)
    for each in (writer, fleet):
        await each.close()
    return [
        *_speed(ground, "rollups", rates, cpu, floor=Floor(at_least=5.0)),
        *(
            [
                Figure(
                    id="A6",
                    name="CPU of rollups / of ingest without them",
                    rounds=[each / (median(ground.ingest_cpu) - each) for each in cpu],
                    unit="",
                    floor=Floor(at_most=0.25),
                )
            ]
            if ground.ingest_cpu
            else []
        ),
    ]


async def _feed(ground: Ground, metering: MeteringProcess, count: int) -> list[Figure]:
    """ReadLedger by a client that does nothing with it."""
    read = metering.channel.unary_stream(
        "/tollbook.metering.v1.LedgerService/ReadLedger",
        request_serializer=ledger_pb2.ReadLedgerRequest.SerializeToString,
        response_deserializer=len,
    )
    metadata = (("authorization", f"Bearer {FOLLOWER_KEYS['analytics']}"),)

    async def read_all(organization_id: str) -> None:
        async for _ in read(ledger_pb2.ReadLedgerRequest(organization_id=organization_id), metadata=metadata):
            pass

    rates, cpu = [], []
    for _ in range(ground.sizes.rounds):
        used, started = cpu_seconds(metering.pid) + ground.store_cpu(), perf_counter()
        await asyncio.gather(*map(read_all, FOLLOWED))
        rates.append(count / (perf_counter() - started))
        cpu.append((cpu_seconds(metering.pid) + ground.store_cpu() - used) / count)
    return _speed(ground, "the feed alone", rates, cpu)


async def _analytics(ground: Ground, metering: MeteringProcess, database: LedgerDatabase, count: int) -> list[Figure]:
    rates, cpu = [], []
    for _ in range(ground.sizes.rounds):
        with database.connect() as owner:
            owner.execute(_PUT_BACK_COSTS)
        process = analytics_process(metering, database.role_urls("analytics"), ground.folder)
        async with _measured(ground, metering, process, _of_analytics(database), count + len(FOLLOWED)) as measured:
            rates.append(measured[0])
            cpu.append(measured[1])
    return _speed(ground, "analytics", rates, cpu)


def _of_analytics(database: LedgerDatabase) -> Callable[[], Awaitable[int]]:
    async def applied() -> int:
        with database.connect() as owner:
            row = owner.execute("SELECT coalesce(sum(sequence), 0) FROM analytics.cost_positions").fetchone()
            assert row is not None
            return int(row[0])

    return applied


async def _quota(
    ground: Ground, metering: MeteringProcess, database: LedgerDatabase, redis: Redis, count: int
) -> list[Figure]:
    rates, cpu = [], []
    client: Any = RedisClient.from_url(redis.url)
    behind = {key: await client.dump(key) for key in await client.keys("*")}

    async def applied() -> int:
        states = [await client.hget(f"quota:{{{name}}}:state", "sequence") for name in FOLLOWED]
        return sum(int(sequence) for sequence in states)

    for _ in range(ground.sizes.rounds):
        for key, dumped in behind.items():
            await client.restore(key, 0, dumped, replace=True)
        process = quota_process(metering, database.role_urls("quota"), redis, ground.folder)
        async with _measured(ground, metering, process, applied, count + len(FOLLOWED)) as (rate, used):
            rates.append(rate)
            cpu.append(used)
    await client.aclose()
    return _speed(ground, "quota", rates, cpu)


@asynccontextmanager
async def _measured(
    ground: Ground,
    metering: MeteringProcess,
    process: AbstractAsyncContextManager[ServiceProcess],
    applied: Callable[[], Awaitable[int]],
    upto: int,
) -> AsyncIterator[tuple[float, float]]:
    """Events per second and CPU seconds per event (of metering, Postgres and the follower), from the first that is
    applied to the last.
    """
    before = await applied()
    async with process as follower:

        def used() -> float:
            return cpu_seconds(metering.pid) + cpu_seconds(follower.pid) + ground.store_cpu()

        async with asyncio.timeout(_PATIENCE_SECONDS):
            first = await _reaches(applied, before + 1)
            cpu, started = used(), perf_counter()
            reached = await _reaches(applied, upto)
        count = max(1, reached - first)
        yield count / (perf_counter() - started), (used() - cpu) / count


async def _reaches(applied: Callable[[], Awaitable[int]], sequence: int) -> int:
    while True:
        reached = await applied()
        if reached >= sequence:
            return reached
        await asyncio.sleep(_POLL_SECONDS)


async def _begin_counters(quota: ServiceProcess) -> None:
    stub: quota_pb2_grpc.QuotaServiceAsyncStub = quota_pb2_grpc.QuotaServiceStub(quota.channel)
    for organization_id in FOLLOWED:
        await stub.ListQuotas(quota_pb2.ListQuotasRequest(organization_id=organization_id), metadata=ADMIN)


def _speed(
    ground: Ground, name: str, rates: Sequence[float], cpu: Sequence[float], floor: Floor | None = None
) -> list[Figure]:
    figures = [
        Figure(id="A6", name=f"catching up: {name}", rounds=list(rates), unit="events/s", digits=0),
        Figure(
            id="A6",
            name=f"{name}: CPU of all it takes",
            rounds=[each * 1e6 for each in cpu],
            unit="µs/event",
            digits=0,
        ),
    ]
    if ground.stream_rates:
        ratios = [rate / ground.peak_rate for rate in rates]
        figures.append(Figure(id="A6", name=f"{name} / peak of ingest", rounds=ratios, unit="x", floor=floor, digits=1))
    return figures
