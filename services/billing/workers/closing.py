"""Closes what is due, several subscriptions at a time: one that hangs takes up one place and holds nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.billing.domain import limits
from services.billing.workers.working_off import work_off


async def keep_closing(close_one: Callable[[], Awaitable[int]]) -> None:
    """Until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        for _ in range(limits.CLOSED_AT_ONCE):
            tasks.create_task(work_off(close_one))
