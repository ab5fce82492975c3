"""I1 to I5: how fast usage comes into the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from time import process_time

from services.metering.domain.events import UsageEvent
from tests.bench.events import make_events, stream_requests, unary_requests
from tests.bench.ground import DIRECT_BATCH_EVENTS, MIXED, ONE, Ground, writing
from tests.bench.processes import cpu_seconds
from tests.bench.sending import stream_rate, unary_rate
from tests.bench.stores import LedgerDatabase, disk_bytes
from tests.bench.table import Figure, Floor
from tests.metering_process import MeteringProcess, metering_processes, stored_ledger

STREAM_BATCH_EVENTS = 1_000
STREAMS = 4
CALLERS = 8
SINGLES = 600


async def write_path(ground: Ground) -> list[Figure]:
    """I1: the ledger's own writing, without a network."""
    rates: dict[str, list[float]] = {"one": [], "mixed": []}
    ratios: dict[str, list[float]] = {"one": [], "mixed": []}
    copies, own_cpu, store_cpu = [], [], []
    events = ground.sizes.events
    async with writing(ground.database) as write_rate:
        await write_rate(make_events(DIRECT_BATCH_EVENTS, MIXED))
        ground.copy(DIRECT_BATCH_EVENTS)
        before = ground.copy()
        for _ in range(ground.sizes.rounds):
            for name, organizations in (("one", ONE), ("mixed", MIXED)):
                fresh = make_events(events, organizations)
                store, own = ground.store_cpu(), process_time()
                rate = await write_rate(fresh)
                own_cpu.append((process_time() - own) / events * 1e6)
                store_cpu.append((ground.store_cpu() - store) / events * 1e6)
                after = ground.copy()
                rates[name].append(rate)
                ratios[name].append(rate / ((before + after) / 2))
                copies.append(after)
                before = after
    return [
        Figure(id="C", name="COPY of the same rows, 5 000 a transaction", rounds=copies, unit="events/s", digits=0),
        Figure(id="I1", name="write path, one organization a batch", rounds=rates["one"], unit="events/s", digits=0),
        Figure(id="I1", name="the same / C", rounds=ratios["one"], unit="", floor=Floor(at_least=0.15)),
        Figure(id="I1", name="write path, 50 organizations a batch", rounds=rates["mixed"], unit="events/s", digits=0),
        Figure(id="I1", name="the same / C", rounds=ratios["mixed"], unit="", floor=Floor(at_least=0.12)),
        Figure(id="I1", name="CPU of the writer", rounds=own_cpu, unit="µs/event", digits=0),
        Figure(id="I1", name="CPU of Postgres", rounds=store_cpu, unit="µs/event", digits=0),
    ]


async def streams(ground: Ground) -> list[Figure]:
    """I2, I3, I5: over the network to the durable acknowledgement, everything in; and all of it again."""
    rates, ratios, replays, copies = ground.stream_rates, [], [], []
    service_cpu, store_cpu = [], []
    changed = 0
    async with metering_processes(ground.site(ground.database)) as (metering,):
        await stream_rate(metering, *of_streams(make_events(2 * STREAMS * STREAM_BATCH_EVENTS, MIXED)))
        before = ground.copy()
        for _ in range(ground.sizes.rounds):
            requests, count = of_streams(make_events(ground.sizes.events, MIXED))
            used, used_by_store = _cpu(ground, metering)
            rate = await stream_rate(metering, requests, count)
            service, store = _cpu(ground, metering)
            after = ground.copy()
            stored = await _stored_count(ground.database)
            replay = await stream_rate(metering, requests, count)
            changed += await _stored_count(ground.database) - stored
            rates.append(rate)
            ratios.append(rate / ((before + after) / 2))
            replays.append(replay / rate)
            service_cpu.append((service - used) / count * 1e6)
            store_cpu.append((store - used_by_store) / count * 1e6)
            copies.append(after)
            before = ground.copy()
    ground.ingest_cpu = [(one + other) / 1e6 for one, other in zip(service_cpu, store_cpu, strict=True)]
    sizes = disk_bytes(ground.database)
    return [
        Figure(id="C", name="COPY between these rounds", rounds=copies, unit="events/s", digits=0),
        Figure(
            id="I2",
            name=f"{STREAMS} streams, {STREAM_BATCH_EVENTS} a batch / C",
            rounds=ratios,
            unit="",
            floor=Floor(at_least=0.12),
        ),
        Figure(
            id="I3",
            name="the same, absolute",
            rounds=list(rates),
            unit="events/s",
            floor=Floor(at_least=10_000),
            digits=0,
        ),
        Figure(id="I3", name="CPU of metering", rounds=service_cpu, unit="µs/event", digits=0),
        Figure(id="I3", name="CPU of Postgres", rounds=store_cpu, unit="µs/event", digits=0),
        Figure(id="I5", name="duplicates replayed / fresh", rounds=replays, unit="", floor=Floor(at_least=1.0)),
        Figure(
            id="I5",
            name="events that the replays added",
            rounds=[float(changed)],
            unit="",
            floor=Floor(at_most=0),
            digits=0,
        ),
        *(
            Figure(id="disk", name=name, rounds=[size], unit="bytes/event", digits=0)
            for name, size in [*sizes.items(), ("all of it", sum(sizes.values()))]
        ),
    ]


async def batching(ground: Ground) -> list[Figure]:
    """I4: what a batch saves over as many single calls."""
    ratios, singles, service_cpu = [], [], []
    async with metering_processes(ground.site(ground.database)) as (metering,):
        before = await unary_rate(metering, unary_requests(make_events(SINGLES, MIXED), 1), SINGLES, CALLERS)
        for _ in range(ground.sizes.rounds):
            count = CALLERS * STREAM_BATCH_EVENTS
            batches = unary_requests(make_events(count, MIXED), STREAM_BATCH_EVENTS)
            batched = await unary_rate(metering, batches, count, CALLERS)
            used = cpu_seconds(metering.pid)
            after = await unary_rate(metering, unary_requests(make_events(SINGLES, MIXED), 1), SINGLES, CALLERS)
            service_cpu.append((cpu_seconds(metering.pid) - used) / SINGLES * 1e6)
            ratios.append(batched / ((before + after) / 2))
            singles.append(after)
            before = after
    return [
        Figure(id="I4", name=f"single calls, {CALLERS} callers", rounds=singles, unit="events/s", digits=0),
        Figure(id="I4", name="CPU of metering, single calls", rounds=service_cpu, unit="µs/event", digits=0),
        Figure(
            id="I4",
            name="batches of 1 000 / single calls",
            rounds=ratios,
            unit="x",
            floor=Floor(at_least=15),
            digits=1,
        ),
    ]


def of_streams(events: Sequence[UsageEvent]) -> tuple[list[list[bytes]], int]:
    """The requests of each stream, and how many events they are."""
    share = len(events) // STREAMS
    parts = [events[start : start + share] for start in range(0, share * STREAMS, share)]
    return [stream_requests(part, STREAM_BATCH_EVENTS) for part in parts], share * STREAMS


def _cpu(ground: Ground, metering: MeteringProcess) -> tuple[float, float]:
    return cpu_seconds(metering.pid), ground.store_cpu()


async def _stored_count(database: LedgerDatabase) -> int:
    return sum([(await stored_ledger(database.owner_url, name)).head for name in MIXED])
