"""Jobs that come by the calendar."""

from __future__ import annotations

from kit.jobs import Jobs

RECONCILE_EVERY = "17 3 * * *"
"""Once a day, in UTC, when little else is going on."""


async def keep_jobs(jobs: Jobs) -> None:
    """Works off what is due, until it is cancelled."""
    async with jobs.opened():
        await jobs.work()
