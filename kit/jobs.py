"""Jobs on Postgres, by procrastinate: work that is retried, done by one at a time where that matters, and periodic.

A job is a hint to look, never the record of what is to be done: it names a row, and the row says whether anything is
left to do. So a job that runs twice does nothing twice, and one that got lost is found again by the periodic look at
the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import procrastinate
import structlog
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Job as ProcrastinateJob

log = structlog.get_logger()

CONCURRENCY = 4
POOL_SIZE = 4
SHUTDOWN_SECONDS = 8.0
"""How long a running job may go on when the service is asked to stop; then it is interrupted, and retried elsewhere."""
LOOK_EVERY_SECONDS = 0.5
"""A new job is heard of at once; one that its owner's turn held up, or that waits for its time, is found by looking."""
HEARTBEAT_SECONDS = 5.0
STALLED_SECONDS = 20.0
"""Without a heartbeat for so long a worker counts as dead, and its jobs, and what they held, are free again."""
RETRY_FIRST = timedelta(seconds=1)
RETRY_MAX = timedelta(hours=1)
_DOUBLINGS_MAX = 12

_RETRY_STALLED = "retry_stalled_jobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A kind of job."""

    name: str
    run: Callable[..., Awaitable[None]]
    """What it does, with the arguments it was enqueued with as keywords. Whatever it raises, it is tried again: after a
    second, then ever later, up to an hour, without end.
    """
    every: str = ""
    """When it runs by itself, as cron says it, in UTC (a sixth field counts seconds); without arguments, and once
    however many processes there are. Empty: only when it is enqueued.
    """


class Jobs:
    """The jobs of one service, in its schema. Several processes share the work."""

    def __init__(self, url: str, *, schema: str, jobs: Sequence[Job]) -> None:
        options = f"-c search_path={schema} -c timezone=UTC"
        connector = procrastinate.PsycopgConnector(
            conninfo=url,
            kwargs={"options": options, "connect_timeout": 3},
            min_size=1,
            max_size=POOL_SIZE,
        )
        self._queue = schema
        self._app = procrastinate.App(connector=connector)
        for job in (
            *jobs,
            Job(name=_RETRY_STALLED, run=self._retry_stalled, every=f"* * * * * */{int(STALLED_SECONDS)}"),
        ):
            self._register(job)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Jobs]:
        """Its connections, until the block ends."""
        async with self._app.open_async():
            yield self

    async def enqueue(
        self,
        name: str,
        arguments: Mapping[str, str | int],
        *,
        owner: str = "",
        once: str = "",
        at: datetime | None = None,
    ) -> bool:
        """Asks for a job, as soon as may be or at a time. To be called after what it is about is committed.

        owner: jobs of one owner, such as an invoice, run one after the other, in whatever process. once: while a job
        with this text waits, another one is not enqueued; False then.
        """
        deferrer = self._app.configure_task(
            name, queue=self._queue, lock=owner or None, queueing_lock=once or None, schedule_at=at
        )
        try:
            await deferrer.defer_async(**arguments)
        except AlreadyEnqueued:
            return False
        return True

    async def work(self) -> None:
        """Works until it is cancelled; then what runs may finish within SHUTDOWN_SECONDS. Periodic jobs are asked for
        here too.
        """
        worker = asyncio.create_task(
            self._app.run_worker_async(
                queues=[self._queue],
                concurrency=CONCURRENCY,
                fetch_job_polling_interval=LOOK_EVERY_SECONDS,
                install_signal_handlers=False,
                shutdown_graceful_timeout=SHUTDOWN_SECONDS,
                update_heartbeat_interval=HEARTBEAT_SECONDS,
                stalled_worker_timeout=STALLED_SECONDS,
                # What was done is told by the rows it was done to.
                delete_jobs="successful",
            )
        )
        try:
            await asyncio.shield(worker)
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    def _register(self, job: Job) -> None:
        if not job.every:
            self._app.task(name=job.name, queue=self._queue, retry=_Retries())(job.run)
            return

        async def run_periodically(timestamp: int) -> None:  # noqa: ARG001 - procrastinate says which time it is for
            await job.run()

        # One at a time, and never two waiting: a look that takes long is not followed by all that it missed.
        task = self._app.task(
            name=job.name, queue=self._queue, lock=job.name, queueing_lock=job.name, retry=_Retries()
        )(run_periodically)
        self._app.periodic(cron=job.every)(task)

    async def _retry_stalled(self) -> None:
        for stalled in await self._app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
            log.warning("job_stalled", job=stalled.task_name, attempt=stalled.attempts)
            await self._app.job_manager.retry_job(stalled)


class _Retries(procrastinate.BaseRetryStrategy):
    """Ever later, without end."""

    def get_retry_decision(
        self, *, exception: BaseException, job: ProcrastinateJob
    ) -> procrastinate.RetryDecision | None:
        log.warning("job_retries", job=job.task_name, attempt=job.attempts, error=f"{type(exception).__name__}")
        pause = min(RETRY_FIRST * (1 << min(job.attempts, _DOUBLINGS_MAX)), RETRY_MAX)
        return procrastinate.RetryDecision(retry_in={"seconds": int(pause.total_seconds())})
