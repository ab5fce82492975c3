"""Long calls: how many there may be, how they end, and how one answers many requests side by side, in order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from kit.errors import Draining, Overloaded
from kit.grpc.call import current_principal

Request = TypeVar("Request")
Response = TypeVar("Response")

RETRY_SECONDS = 1.0


class LongCalls:
    """The long calls of one kind that this process serves: so many in all, and of one organization."""

    def __init__(self, what: str, *, calls_max: int, calls_of_one_max: int | None = None) -> None:
        """calls_of_one_max: None sets no bound of its own."""
        self._what = what
        self._calls_max = calls_max
        self._calls_of_one_max = calls_max if calls_of_one_max is None else calls_of_one_max
        self._draining = asyncio.Event()
        self._counts: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many there are."""
        return self._counts.total()

    def drain(self) -> None:
        """No call begins from now on, and each of those there are ends after what it has read."""
        self._draining.set()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for the current call while the block lasts. Raises Overloaded when all are taken, or all that its
        organization may have (the admin and services have none), and Draining.
        """
        if self._draining.is_set():
            raise Draining
        organization_id = current_principal().organization_id
        of_one_max = self._calls_of_one_max if organization_id else self._calls_max
        if self.count >= self._calls_max:
            raise Overloaded(what=f"{self._what}: {self._calls_max} in this process", seconds=RETRY_SECONDS)
        if self._counts[organization_id] >= of_one_max:
            what = f"{self._what}: {of_one_max} of one organization in this process"
            raise Overloaded(what=what, seconds=RETRY_SECONDS)
        self._counts[organization_id] += 1
        try:
            yield
        finally:
            self._counts[organization_id] -= 1
            self._counts += Counter()  # forgets who has none

    async def answer_in_order(
        self,
        requests: AsyncIterator[Request],
        begin: Callable[[Request], Awaitable[asyncio.Future[Response]]],
        *,
        in_flight_max: int,
    ) -> AsyncIterator[Response]:
        """The answers to a stream's requests, in order.

        `begin` is awaited for one request after the other, and the next request is not read before it returns; what it
        returned runs on beside the others, at most in_flight_max of them. What raises ends the stream after the answers
        to the requests before it. Raises Draining, after the answers to all requests read, once the process drains.
        Whoever leaves early cancels what is in flight.
        """
        reading = _Reading(requests, begin, self._draining, in_flight_max)
        reader = asyncio.create_task(reading.read_all())
        begun: asyncio.Future[Response] | None = None
        try:
            while (begun := await reading.begun.get()) is not None:
                yield await begun
                reading.slots.release()
            await reader
        finally:
            reader.cancel()
            for future in (reader, begun, *reading.left()):
                _let_go(future)


class _Reading:
    """The requests of one stream: read, begun, and handed over in order; None comes after the last."""

    def __init__(
        self,
        requests: AsyncIterator[Request],
        begin: Callable[[Request], Awaitable[asyncio.Future[Response]]],
        draining: asyncio.Event,
        in_flight_max: int,
    ) -> None:
        self.begun: asyncio.Queue[asyncio.Future[Any] | None] = asyncio.Queue()
        self.slots = asyncio.Semaphore(in_flight_max)
        self._requests = aiter(requests)
        self._begin: Callable[[Any], Awaitable[asyncio.Future[Any]]] = begin
        self._draining = draining

    async def read_all(self) -> None:
        stopping = asyncio.create_task(self._draining.wait())
        try:
            while True:
                await self.slots.acquire()
                following = asyncio.ensure_future(anext(self._requests, _END))
                try:
                    await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    if stopping.done() and not following.done():
                        raise Draining
                    request = await following
                finally:
                    _let_go(following)
                if request is _END:
                    return
                self.begun.put_nowait(await self._begin(request))
        finally:
            stopping.cancel()
            self.begun.put_nowait(None)

    def left(self) -> list[asyncio.Future[Any]]:
        """What was begun and not taken."""
        found = []
        while not self.begun.empty():
            if (future := self.begun.get_nowait()) is not None:
                found.append(future)
        return found


_END: Any = object()


def _let_go(future: asyncio.Future[Any] | None) -> None:
    """Cancels what still runs and takes note of what failed, since nobody will await it."""
    if future is None:
        return
    future.cancel()
    future.add_done_callback(_note)


def _note(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
