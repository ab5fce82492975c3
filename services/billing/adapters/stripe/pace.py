"""How fast we ask Stripe: a few calls at once, and nobody for a while after it said that this is too many.

Stripe answers 429 beyond its limits and asks for exponential pauses with chance in them
(https://docs.stripe.com/rate-limits). The pause is everybody's: whoever else is working would only be refused too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

CALLS_AT_ONCE = 8
"""A process's share of the 25 to 100 calls a second that Stripe allows an account."""
PAUSE_FIRST_SECONDS = 0.5
PAUSE_MAX_SECONDS = 30.0


class Pace:
    """The turns of one process's calls."""

    def __init__(
        self,
        calls_at_once: int = CALLS_AT_ONCE,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._turns = asyncio.Semaphore(calls_at_once)
        self._now = now
        self._sleep = sleep
        self._chance = chance
        self._resume_at = 0.0
        self._refused_count = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn to call, once there is room and no pause is on."""
        async with self._turns:
            while (wait := self._resume_at - self._now()) > 0:
                await self._sleep(wait)
            yield

    def refused(self) -> None:
        """Stripe said that it was too much: everybody pauses, twice as long each time, from half of that to all of it
        by chance, so that processes do not come back together.
        """
        pause = min(PAUSE_FIRST_SECONDS * 2**self._refused_count, PAUSE_MAX_SECONDS)
        # Past the longest pause the count only has to stay large.
        self._refused_count = min(self._refused_count + 1, 10)
        self._resume_at = max(self._resume_at, self._now() + pause * (1 + self._chance()) / 2)

    def answered(self) -> None:
        """Stripe answered otherwise: the next pause is a short one again."""
        self._refused_count = 0
