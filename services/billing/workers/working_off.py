"""Works a list off: at once while there is something on it, then looking again after a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

LOOK_EVERY_SECONDS = 1.0
LOOK_SOON_SECONDS = 0.25
"""Where others are to hear of it within a second."""


async def work_off(step: Callable[[], Awaitable[int]], *, look_every_seconds: float = LOOK_EVERY_SECONDS) -> None:
    """Runs the step, which answers how much it found to do, until cancelled."""
    while True:
        if not await step():
            await asyncio.sleep(look_every_seconds)
