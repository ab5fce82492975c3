"""A budget for an answer that blames the other side only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

TURNS = 3
"""Turns of the event loop after the budget in which an answer still counts: in one it is read from its socket, in the
next its waiter is told. Under load a turn can take longer than the budget, and the answer was there all along.
"""


@asynccontextmanager
async def answered_within(seconds: float) -> AsyncIterator[None]:
    """Cancels its body and raises TimeoutError when it takes longer, unless only our own event loop took so long."""
    loop = asyncio.get_running_loop()
    handle: asyncio.Handle = loop.call_later(seconds, lambda: is_late(TURNS))

    def is_late(turns_left: int) -> None:
        nonlocal handle
        if turns_left:
            handle = loop.call_soon(is_late, turns_left - 1)
        else:
            limit.reschedule(loop.time())

    try:
        async with asyncio.timeout(None) as limit:
            yield
    finally:
        handle.cancel()
