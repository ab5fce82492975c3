"""The figures of ingest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import ClassVar

from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from services.metering.adapters.postgres_ledger import PostgresLedgerWriter
from services.metering.domain.acceptance import Status
from services.metering.domain.events import UsageEvent
from tests.bench.events import batches_of, make_events, stream_requests, unary_requests
from tests.bench.processes import cpu_seconds
from tests.bench.quota_lag import quota_lags
from tests.bench.sending import acknowledge_times, stream_rate, unary_rate
from tests.bench.stores import (
    LedgerDatabase,
    age,
    copy_rate,
    disk_bytes,
    durable_postgres,
    ledger_database,
    server_version,
)
from tests.bench.table import Figure, percentile
from tests.metering_process import (
    MeteringProcess,
    Site,
    metering_processes,
    resident_bytes,
    serving_accounts,
    stored_ledger,
)

DIRECT_BATCH_EVENTS = 5_000
STREAM_BATCH_EVENTS = 1_000
STREAMS = 4
CALLERS = 8
SINGLES = 600
PACED_SECONDS = 8.0
PACED_BATCH_EVENTS = 100
WEEKS_OF_3_YEARS = 156

ONE = ["org-one"]
MIXED = [f"org-{number:03}" for number in range(50)]


@dataclass(kw_only=True)
class Bench:
    """What is measured, and what one measure leaves for the next."""

    folder: Path
    rounds: int
    events: int
    old_millions: float
    server: EmbeddedPostgres
    database: LedgerDatabase
    site: Site
    stream_rates: list[float] = field(default_factory=list)

    MEASURES: ClassVar[dict[str, Callable[[Bench], Awaitable[list[Figure]]]]]

    @property
    def server_version(self) -> str:
        """What Postgres is and how it is set."""
        return server_version(self.database)

    def copy(self, events: int | None = None) -> float:
        """One run of the baseline C."""
        return copy_rate(self.database, make_events(events or self.events, MIXED), DIRECT_BATCH_EVENTS)


@asynccontextmanager
async def bench(folder: Path, *, rounds: int, events: int, old_millions: float) -> AsyncIterator[Bench]:
    """Everything but the services, which each measure starts as it needs."""
    async with durable_postgres(folder) as server, serving_accounts() as accounts_address:
        database = ledger_database(server, "ledger")
        yield Bench(
            folder=folder,
            rounds=rounds,
            events=events,
            old_millions=old_millions,
            server=server,
            database=database,
            site=Site(urls=database.role_urls(), accounts_address=accounts_address, log_path=folder / "metering.log"),
        )


async def write_path(bench: Bench) -> list[Figure]:
    """I1: the ledger's own writing, without a network."""
    rates: dict[str, list[float]] = {"one": [], "mixed": []}
    ratios: dict[str, list[float]] = {"one": [], "mixed": []}
    copies: list[float] = []
    async with _writing(bench.database) as write_rate:
        await write_rate(make_events(DIRECT_BATCH_EVENTS, MIXED))
        bench.copy(DIRECT_BATCH_EVENTS)
        before = bench.copy()
        for _ in range(bench.rounds):
            for name, organizations in (("one", ONE), ("mixed", MIXED)):
                rate = await write_rate(make_events(bench.events, organizations))
                after = bench.copy()
                rates[name].append(rate)
                ratios[name].append(rate / ((before + after) / 2))
                copies.append(after)
                before = after
    return [
        Figure(id="C", name="COPY of the same rows, 5 000 a transaction", rounds=copies, unit="events/s", digits=0),
        Figure(id="I1", name="write path, one organization a batch", rounds=rates["one"], unit="events/s", digits=0),
        Figure(id="I1", name="write path, one organization a batch / C", rounds=ratios["one"], unit="", floor="≥ 0.15"),
        Figure(id="I1", name="write path, 50 organizations a batch", rounds=rates["mixed"], unit="events/s", digits=0),
        Figure(
            id="I1", name="write path, 50 organizations a batch / C", rounds=ratios["mixed"], unit="", floor="≥ 0.12"
        ),
    ]


async def streams(bench: Bench) -> list[Figure]:
    """I2, I3, I5: over the network to the durable acknowledgement, everything in; and all of it again."""
    rates, ratios, replays, copies = bench.stream_rates, [], [], []
    service_cpu, store_cpu = [], []
    changed = 0
    async with metering_processes(bench.site) as (metering,):
        await stream_rate(metering, *_of_streams(make_events(2 * STREAMS * STREAM_BATCH_EVENTS, MIXED)))
        at_start = resident_bytes(metering.pid)
        before = bench.copy()
        for _ in range(bench.rounds):
            requests, count = _of_streams(make_events(bench.events, MIXED))
            used, used_by_store = _cpu(bench, metering)
            rate = await stream_rate(metering, requests, count)
            service, store = _cpu(bench, metering)
            after = bench.copy()
            stored = await _stored_count(bench.database)
            replay = await stream_rate(metering, requests, count)
            changed += await _stored_count(bench.database) - stored
            rates.append(rate)
            ratios.append(rate / ((before + after) / 2))
            replays.append(replay / rate)
            service_cpu.append((service - used) / count * 1e6)
            store_cpu.append((store - used_by_store) / count * 1e6)
            copies.append(after)
            before = bench.copy()
        at_end = resident_bytes(metering.pid)
    total = 2 * bench.rounds * bench.events
    sizes = disk_bytes(bench.database)
    return [
        Figure(id="C", name="COPY between these rounds", rounds=copies, unit="events/s", digits=0),
        Figure(
            id="I2",
            name=f"{STREAMS} streams, {STREAM_BATCH_EVENTS} a batch / C",
            rounds=ratios,
            unit="",
            floor="≥ 0.12",
        ),
        Figure(id="I3", name="the same, absolute", rounds=list(rates), unit="events/s", floor="≥ 10,000", digits=0),
        Figure(id="I3", name="CPU of metering", rounds=service_cpu, unit="µs/event", digits=0),
        Figure(id="I3", name="CPU of Postgres", rounds=store_cpu, unit="µs/event", digits=0),
        Figure(id="I5", name="duplicates replayed / fresh", rounds=replays, unit="", floor="≥ 1.0"),
        Figure(id="I5", name="events that the replays added", rounds=[float(changed)], unit="", floor="0", digits=0),
        Figure(id="", name="memory of metering after warm-up", rounds=[at_start / 2**20], unit="MiB", digits=0),
        Figure(id="", name=f"memory after {total:,} events more", rounds=[at_end / 2**20], unit="MiB", digits=0),
        *(
            Figure(id="", name=f"disk: {name}", rounds=[size], unit="bytes/event", digits=0)
            for name, size in sizes.items()
        ),
    ]


async def batching(bench: Bench) -> list[Figure]:
    """I4: what a batch saves over as many single calls."""
    ratios, singles = [], []
    async with metering_processes(bench.site) as (metering,):
        await unary_rate(metering, unary_requests(make_events(SINGLES, ONE), 1), SINGLES, CALLERS)
        for _ in range(bench.rounds):
            count = CALLERS * STREAM_BATCH_EVENTS
            batches = unary_requests(make_events(count, MIXED), STREAM_BATCH_EVENTS)
            single = await unary_rate(metering, unary_requests(make_events(SINGLES, MIXED), 1), SINGLES, CALLERS)
            ratios.append(await unary_rate(metering, batches, count, CALLERS) / single)
            singles.append(single)
    return [
        Figure(id="I4", name=f"single calls, {CALLERS} callers", rounds=singles, unit="events/s", digits=0),
        Figure(id="I4", name="batches of 1 000 / single calls", rounds=ratios, unit="x", floor="≥ 15", digits=1),
    ]


async def latency(bench: Bench) -> list[Figure]:
    """I6: how long an acknowledgement takes at half the rate, and how long until quota counts the usage."""
    rate = sorted(bench.stream_rates)[len(bench.stream_rates) // 2] / 2 if bench.stream_rates else 5_000.0
    count = int(rate * PACED_SECONDS)
    async with metering_processes(bench.site) as (metering,):
        await stream_rate(metering, *_of_streams(make_events(STREAMS * STREAM_BATCH_EVENTS, MIXED)))
        requests = stream_requests(make_events(count, MIXED), PACED_BATCH_EVENTS)
        pace = PACED_BATCH_EVENTS / rate
        times = [seconds * 1e3 for seconds in await acknowledge_times(metering, requests, every_seconds=pace)]
        more = stream_requests(make_events(count, MIXED), PACED_BATCH_EVENTS)
        lags, _ = await asyncio.gather(
            quota_lags(metering, bench.folder, bench.database, seconds=PACED_SECONDS),
            acknowledge_times(metering, more, every_seconds=pace),
        )
    return [
        Figure(
            id="I6", name=f"acknowledgement at {rate:,.0f} events/s, p50", rounds=[percentile(times, 0.5)], unit="ms"
        ),
        Figure(id="I6", name="the same, p99", rounds=[percentile(times, 0.99)], unit="ms", floor="≤ 250", digits=0),
        Figure(id="I6", name="event to quota, p50", rounds=[percentile(lags, 0.5) * 1e3], unit="ms", digits=0),
        Figure(
            id="I6",
            name=f"event to quota, p99 of {len(lags)}",
            rounds=[percentile(lags, 0.99) * 1e3],
            unit="ms",
            floor="≤ 1,000",
            digits=0,
        ),
    ]


async def old_ledger(bench: Bench) -> list[Figure]:
    """I7: what years of history cost."""
    aged, fresh = ledger_database(bench.server, "aged"), ledger_database(bench.server, "fresh")
    age(aged, weeks=WEEKS_OF_3_YEARS, identity_millions=bench.old_millions, organization_ids=MIXED)
    ratios = []
    async with _writing(aged) as write_aged, _writing(fresh) as write_fresh:
        for write_rate in (write_aged, write_fresh):
            await write_rate(make_events(2 * DIRECT_BATCH_EVENTS, MIXED))
        before = await write_fresh(make_events(bench.events, MIXED))
        for _ in range(bench.rounds):
            rate = await write_aged(make_events(bench.events, MIXED))
            after = await write_fresh(make_events(bench.events, MIXED))
            ratios.append(rate / ((before + after) / 2))
            before = after
    name = f"3 years of partitions and {bench.old_millions:g} M old identities / fresh"
    return [Figure(id="I7", name=name, rounds=ratios, unit="", floor="≥ 0.85")]


Bench.MEASURES = {"I1": write_path, "I2": streams, "I4": batching, "I6": latency, "I7": old_ledger}

WriteRate = Callable[[Sequence[UsageEvent]], Awaitable[float]]


@asynccontextmanager
async def _writing(database: LedgerDatabase) -> AsyncIterator[WriteRate]:
    writer = Database(database.role_urls()["writer"], pool_size=1)
    ledger = PostgresLedgerWriter(writer)

    async def write_rate(events: Sequence[UsageEvent]) -> float:
        started = perf_counter()
        for batch in batches_of(events, DIRECT_BATCH_EVENTS):
            outcomes = await ledger.append(batch, now=datetime.now(UTC))
            assert all(outcome.status is Status.ACCEPTED for outcome in outcomes)
        return len(events) / (perf_counter() - started)

    yield write_rate
    await writer.close()


def _of_streams(events: Sequence[UsageEvent]) -> tuple[list[list[bytes]], int]:
    share = len(events) // STREAMS
    parts = [events[start : start + share] for start in range(0, share * STREAMS, share)]
    return [stream_requests(part, STREAM_BATCH_EVENTS) for part in parts], share * STREAMS


def _cpu(bench: Bench, metering: MeteringProcess) -> tuple[float, float]:
    assert bench.server.pid is not None
    return cpu_seconds(metering.pid), cpu_seconds(bench.server.pid, with_children=True)


async def _stored_count(database: LedgerDatabase) -> int:
    return sum([(await stored_ledger(database.owner_url, name)).head for name in MIXED])
