"""Many who want the same thing at once wait for one piece of work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs at most one piece of work per key at a time; who comes meanwhile gets its outcome."""

    def __init__(self) -> None:
        self._flights: dict[str, asyncio.Task[T]] = {}

    async def __call__(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The outcome of the work. A caller that is cancelled cancels only its own waiting."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(work())
            flight.add_done_callback(lambda done: self._land(key, done))
        return await asyncio.shield(flight)

    def _land(self, key: str, flight: asyncio.Task[T]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # looked at, so that an outcome nobody waited for is not reported as lost
