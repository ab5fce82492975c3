"""Jobs, on a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

import pytest

import kit.jobs
from kit.jobs import Job, Jobs
from kit.postgres.embedded import EmbeddedPostgres
from tests.integration.billing_database import BillingDatabase, billing_database

PATIENCE_SECONDS = 30.0


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[BillingDatabase]:
    async with billing_database(postgres.url) as fresh:
        yield fresh


def jobs_of(database: BillingDatabase, *jobs: Job) -> Jobs:
    return Jobs(database.fleet_url, schema="billing", jobs=jobs)


@asynccontextmanager
async def working(jobs: Jobs) -> AsyncIterator[asyncio.Task[None]]:
    worker = asyncio.create_task(jobs.work())
    try:
        yield worker
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is in other workers
            await asyncio.sleep(0.02)


async def test_a_job_is_done_with_its_arguments_and_leaves_nothing_behind(database: BillingDatabase) -> None:
    done: list[tuple[str, int]] = []

    async def note(invoice_id: str, count: int) -> None:
        done.append((invoice_id, count))

    async with jobs_of(database, Job(name="note", run=note)).opened() as jobs, working(jobs):
        await jobs.enqueue("note", {"invoice_id": "inv_1", "count": 3})
        await until(lambda: bool(done))
    assert done == [("inv_1", 3)]


async def test_a_job_that_fails_is_done_again_until_it_succeeds(
    database: BillingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit.jobs, "RETRY_MAX", kit.jobs.RETRY_FIRST * 0)
    attempts: list[int] = []

    async def fail_twice() -> None:
        attempts.append(len(attempts))
        if len(attempts) < 3:
            raise RuntimeError("on purpose")

    async with jobs_of(database, Job(name="fail", run=fail_twice)).opened() as jobs, working(jobs):
        await jobs.enqueue("fail", {})
        await until(lambda: len(attempts) == 3)


async def test_an_invoice_has_one_owner_at_a_time_in_whatever_process(database: BillingDatabase) -> None:
    running: list[str] = []
    most = 0
    done = 0

    async def work(invoice_id: str) -> None:
        nonlocal most, done
        running.append(invoice_id)
        most = max(most, running.count(invoice_id))
        await asyncio.sleep(0.02)
        running.remove(invoice_id)
        done += 1

    job = Job(name="work", run=work)
    async with (
        jobs_of(database, job).opened() as one,
        jobs_of(database, job).opened() as other,
        working(one),
        working(other),
    ):
        for _ in range(3):
            for invoice_id in ("inv_1", "inv_2"):
                await one.enqueue("work", {"invoice_id": invoice_id}, owner=f"invoice/{invoice_id}")
        await until(lambda: done == 6)
    assert most == 1


async def test_what_waits_already_is_not_enqueued_again(database: BillingDatabase) -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    async with jobs_of(database, Job(name="work", run=work)).opened() as jobs:
        assert [await jobs.enqueue("work", {}, once="all") for _ in range(3)] == [True, False, False]
        async with working(jobs):
            await until(lambda: bool(done))
            assert await jobs.enqueue("work", {}, once="all")
            await until(lambda: len(done) == 2)


async def test_a_periodic_job_runs_by_itself_and_once_for_all_processes(database: BillingDatabase) -> None:
    seen: list[float] = []

    async def look() -> None:
        seen.append(monotonic())

    job = Job(name="look", run=look, every="* * * * * */1")
    begun = monotonic()
    async with (
        jobs_of(database, job).opened() as one,
        jobs_of(database, job).opened() as other,
        working(one),
        working(other),
    ):
        await until(lambda: len(seen) >= 3)
    # Two processes that each asked for it would have it twice a second.
    assert len(seen) <= seen[-1] - begun + 1


async def test_what_a_dead_worker_held_is_free_again_and_done(
    database: BillingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit.jobs, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(kit.jobs, "HEARTBEAT_SECONDS", 0.3)
    done: list[str] = []

    async def work(invoice_id: str) -> None:
        done.append(invoice_id)

    async with jobs_of(database, Job(name="work", run=work)).opened() as jobs:
        await jobs.enqueue("work", {"invoice_id": "inv_1"}, owner="invoice/inv_1")
        # As a worker that was killed leaves it: taken by somebody whose heart has stopped.
        async with database.fleet.transaction() as connection:
            await connection.exec_driver_sql("SET LOCAL search_path TO billing")
            await connection.exec_driver_sql(
                "WITH dead AS (INSERT INTO billing.procrastinate_workers (last_heartbeat)"
                " VALUES (now() - interval '1 hour') RETURNING id)"
                " UPDATE billing.procrastinate_jobs SET status = 'doing', worker_id = dead.id FROM dead"
            )
        async with working(jobs):
            await until(lambda: done == ["inv_1"])


async def test_a_worker_that_is_stopped_lets_its_job_finish(database: BillingDatabase) -> None:
    begun, finished = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(0.3)
        finished.set()

    async with jobs_of(database, Job(name="work", run=work)).opened() as jobs:
        async with working(jobs):
            await jobs.enqueue("work", {})
            await begun.wait()
        assert finished.is_set()
