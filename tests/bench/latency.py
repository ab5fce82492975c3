"""I6: how long an acknowledgement takes at half the peak, and how long until quota and the dashboard count an event.

The load is open: batches are sent when they are due, whatever became of the last one. So are the probes: events of an
organization of their own, whose sequence says when they are counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from time import perf_counter

from tests.bench.events import make_events, stream_requests
from tests.bench.followers import ServiceProcess, analytics_process, quota_process, quota_store
from tests.bench.ground import MIXED, Ground
from tests.bench.ingest import STREAM_BATCH_EVENTS, STREAMS, of_streams
from tests.bench.sending import acknowledge_times, stream_rate
from tests.bench.table import Figure, Floor, percentile
from tests.metering_process import ADMIN, MeteringProcess, metering_processes, usage_event
from tests.unit.quota.samples import MINUTES
from tollbook.analytics.v1 import analytics_pb2, analytics_pb2_grpc
from tollbook.quota.v1 import quota_pb2, quota_pb2_grpc

PACED_BATCH_EVENTS = 100
DEFAULT_RATE = 5_000.0
PROBED = "acme"
PROBE_EVERY_SECONDS = 0.05
_POLL_SECONDS = 0.005
_PATIENCE_SECONDS = 120.0

Applied = Callable[[], Awaitable[int]]
"""Asks a follower for the last sequence of the probed organization that its answers include."""


async def latency(ground: Ground) -> list[Figure]:
    """I6."""
    rate = ground.peak_rate / 2 if ground.stream_rates else DEFAULT_RATE
    count, pace = int(rate * ground.sizes.paced_seconds), PACED_BATCH_EVENTS / rate
    acknowledged: list[list[float]] = []
    to_quota: list[float] = []
    to_dashboard: list[float] = []
    # A ledger of its own: followers begin with what there is, and that is not what is measured here.
    database = ground.new_database("latency")
    async with (
        metering_processes(ground.site(database)) as (metering,),
        quota_store(ground.folder) as redis,
    ):
        await stream_rate(metering, *of_streams(make_events(STREAMS * STREAM_BATCH_EVENTS, MIXED)))

        async def load() -> list[float]:
            requests = stream_requests(make_events(count, MIXED), PACED_BATCH_EVENTS)
            return await acknowledge_times(metering, requests, every_seconds=pace)

        acknowledged += [_milliseconds(await load()) for _ in range(ground.sizes.rounds)]
        async with quota_process(metering, database.role_urls("quota"), redis, ground.folder) as quota:
            found, _ = await asyncio.gather(_lags(metering, _of_quota(quota), ground.sizes.paced_seconds), load())
            to_quota += found
        async with analytics_process(metering, database.role_urls("analytics"), ground.folder) as analytics:
            found, _ = await asyncio.gather(
                _lags(metering, _of_dashboard(analytics), ground.sizes.paced_seconds), load()
            )
            to_dashboard += found
    name = f"acknowledgement at {rate:,.0f} events/s"
    return [
        _quantile(f"{name}, p50", acknowledged, 0.5, None),
        _quantile(f"{name}, p99", acknowledged, 0.99, 250.0),
        _quantile(f"event to quota, p50 of {len(to_quota)}", [_milliseconds(to_quota)], 0.5, None),
        _quantile(f"event to quota, p99 of {len(to_quota)}", [_milliseconds(to_quota)], 0.99, 1_000.0),
        _quantile(f"event to dashboard, p50 of {len(to_dashboard)}", [_milliseconds(to_dashboard)], 0.5, None),
        _quantile(f"event to dashboard, p99 of {len(to_dashboard)}", [_milliseconds(to_dashboard)], 0.99, 5_000.0),
    ]


def _quantile(name: str, rounds: list[list[float]], share: float, at_most: float | None) -> Figure:
    values = [percentile(times, share) for times in rounds]
    floor = None if at_most is None else Floor(at_most=at_most)
    return Figure(id="I6", name=name, rounds=values, unit="ms", floor=floor, digits=0)


def _milliseconds(seconds: list[float]) -> list[float]:
    return [each * 1e3 for each in seconds]


async def _lags(metering: MeteringProcess, applied: Applied, seconds: float) -> list[float]:
    """Seconds from the moment each probe was due to the first answer that counts it."""
    await _counts(applied, await _record(metering, "warm"), seconds=_PATIENCE_SECONDS)
    due_of: dict[int, float] = {}
    found: list[float] = []
    started = perf_counter()
    due_times = [started + number * PROBE_EVERY_SECONDS for number in range(int(seconds / PROBE_EVERY_SECONDS))]

    async def send(number: int, due: float) -> None:
        await asyncio.sleep(max(0.0, due - perf_counter()))
        due_of[await _record(metering, f"probe-{number}")] = due

    sending = asyncio.gather(*(send(number, due) for number, due in enumerate(due_times)))
    async with asyncio.timeout(seconds + _PATIENCE_SECONDS):
        while len(found) < len(due_times):
            reached = await applied()
            now = perf_counter()
            found += [now - due_of.pop(sequence) for sequence in sorted(due_of) if sequence <= reached]
            await asyncio.sleep(_POLL_SECONDS)
    await sending
    return found


async def _counts(applied: Applied, sequence: int, *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if await applied() >= sequence:
                return
            await asyncio.sleep(_POLL_SECONDS)


async def _record(metering: MeteringProcess, name: str) -> int:
    event = usage_event(f"{name}-{perf_counter()}", PROBED)
    event.measurements[0].meter = MINUTES
    event.provider_call.provider = "openai_codex"
    event.provider_call.tokens_output = 100
    return (await metering.record([event])).results[0].sequence


def _of_quota(quota: ServiceProcess) -> Applied:
    stub: quota_pb2_grpc.QuotaServiceAsyncStub = quota_pb2_grpc.QuotaServiceStub(quota.channel)
    request = quota_pb2.ListQuotasRequest(organization_id=PROBED)

    async def applied() -> int:
        answer = await stub.ListQuotas(request, metadata=ADMIN, wait_for_ready=True)
        return answer.limits[0].applied_sequence if answer.limits else 0

    return applied


def _of_dashboard(analytics: ServiceProcess) -> Applied:
    stub: analytics_pb2_grpc.AnalyticsServiceAsyncStub = analytics_pb2_grpc.AnalyticsServiceStub(analytics.channel)
    today = datetime.now(UTC).date()
    request = analytics_pb2.GetCostSummaryRequest(
        organization_id=PROBED,
        start_date=(today - timedelta(days=1)).isoformat(),
        end_date=(today + timedelta(days=1)).isoformat(),
    )

    async def applied() -> int:
        return (await stub.GetCostSummary(request, metadata=ADMIN, wait_for_ready=True)).applied_sequence

    return applied
