"""Works a list off: at once while there is something on it, then looking again every second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

LOOK_EVERY_SECONDS = 1.0


async def work_off(step: Callable[[], Awaitable[int]]) -> None:
    """Runs the step, which answers how much it found to do, until cancelled."""
    while True:
        if not await step():
            await asyncio.sleep(LOOK_EVERY_SECONDS)
