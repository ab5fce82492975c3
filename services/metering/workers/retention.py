"""Retires raw events that are older than the retention."""

from __future__ import annotations

import asyncio

from services.metering.application.retire_weeks import RetireWeeks

RETIRE_EVERY_SECONDS = 3600.0


async def keep_retiring(retire_weeks: RetireWeeks) -> None:
    """Retires what is due at once and every hour, until cancelled."""
    while True:
        await retire_weeks()
        await asyncio.sleep(RETIRE_EVERY_SECONDS)
