"""Watch quotas: what ListQuotas says, again whenever it says something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from services.quota.application.list_quotas import Quotas

log = structlog.get_logger()

# With what it takes to look and to write, and with a follower that is 0.2 s behind, a change is told within a second.
_EVERY_SECONDS = 0.4
_LOOKS_AT_ONCE = 8
_FAILURES_MAX = 10
"""In a row: a store or a peer that is away for longer than a few seconds is worth telling."""


@dataclass(slots=True)
class _Watched:
    watchers_count: int = 0
    latest: Quotas | None = None
    failures_count: int = 0
    refusal: Exception | None = None
    looked: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Lets everyone go on who waits for a look."""
        looked, self.looked = self.looked, asyncio.Event()
        looked.set()


class WatchQuotas:
    """Looks at every watched organization once for all of its watchers. Nothing is queued: a watcher that comes back
    late gets what is true then, so that a slow one costs the one state that it was given last.
    """

    def __init__(
        self,
        list_quotas: Callable[[str], Awaitable[Quotas]],
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._list_quotas = list_quotas
        self._pause = pause
        self._watched: dict[str, _Watched] = {}
        self._turn = asyncio.Semaphore(_LOOKS_AT_ONCE)

    async def run(self) -> None:
        """Looks again and again until cancelled. Without it watchers see nothing but the state at their start."""
        while True:
            await self._pause(_EVERY_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Looks once at every organization that is watched. What fails for one is told to its watchers alone."""
        await asyncio.gather(*(self._look_again(*each) for each in list(self._watched.items())))

    async def __call__(self, organization_id: str) -> AsyncGenerator[Quotas | None]:
        """The quotas, then the latest ones whenever something in them has changed; None after each look that found
        nothing. Raises what ListQuotas raises, later only when it goes on for some seconds.
        """
        watched = self._watched.setdefault(organization_id, _Watched())
        watched.watchers_count += 1
        try:
            if watched.latest is None:
                watched.latest = await self._list_quotas(organization_id)
            given: Quotas | None = None
            while True:
                looked = watched.looked
                if watched.refusal is not None:
                    raise watched.refusal
                latest = watched.latest
                yield None if latest is given else latest
                given = latest
                await looked.wait()
        finally:
            watched.watchers_count -= 1
            if not watched.watchers_count:
                del self._watched[organization_id]

    async def _look_again(self, organization_id: str, watched: _Watched) -> None:
        async with self._turn:
            if not watched.watchers_count:
                return
            try:
                found = await self._list_quotas(organization_id)
            except Exception as error:
                watched.failures_count += 1
                if watched.failures_count == 1:
                    log.warning("watch_failed", organization_id=organization_id, exc_info=error)
                if watched.failures_count >= _FAILURES_MAX:
                    watched.refusal = error
            else:
                watched.failures_count, watched.refusal = 0, None
                if watched.latest is None or found.token != watched.latest.token:
                    watched.latest = found
            watched.wake()
