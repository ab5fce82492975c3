"""The clients: one for code with an event loop, one for code without. Both are faces of the same core.

What waits exists once in the core; a client only says how to wait for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from datetime import timedelta
from typing import Any, Self, TypeVar

from tollbook.metering.v1.metering_pb2 import Subject
from tollbook_sdk.decision import Decision
from tollbook_sdk.face import Face
from tollbook_sdk.lease import Lease

T = TypeVar("T")

_LEASE = timedelta(seconds=30)
_LEASE_MARGIN = timedelta(seconds=2)


class Tollbook(Face):
    """The client for code without an event loop. Any thread may use it."""

    def check(
        self,
        consumptions: Mapping[str, int | None],
        *,
        subject: Subject | None = None,
        hold: timedelta | None = None,
        request_id: str = "",
        consume: bool = False,
        budget: timedelta | None = None,
    ) -> Decision:
        """See AsyncTollbook.check."""
        return self._wait(
            self._check(consumptions, subject=subject, hold=hold, request_id=request_id, consume=consume, budget=budget)
        )

    def lease(
        self,
        meter: str,
        size: int,
        *,
        subject: Subject | None = None,
        hold: timedelta = _LEASE,
        margin: timedelta = _LEASE_MARGIN,
        budget: timedelta | None = None,
    ) -> Lease:
        """See AsyncTollbook.lease."""
        withdrawn = threading.Event()
        begun = self._lease(meter, size, subject=subject, hold=hold, margin=margin, budget=budget, withdrawn=withdrawn)
        try:
            return Lease(self._core, begun.result())
        except BaseException:
            withdrawn.set()
            self._withdraw_lease(begun)
            raise

    def flush(self, timeout: float) -> bool:
        """See AsyncTollbook.flush."""
        if not self._core.engine.is_running:
            return True
        try:
            return self._wait(_within(self._core.flush(), timeout))
        except TimeoutError:
            return False

    def close(self, timeout: float | None = None) -> bool:
        """See AsyncTollbook.close."""
        return self._close(timeout)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._core.engine.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncTollbook(Face):
    """The client for asyncio. Any loop may use it, several at once too; no call of it blocks a loop."""

    async def check(
        self,
        consumptions: Mapping[str, int | None],
        *,
        subject: Subject | None = None,
        hold: timedelta | None = None,
        request_id: str = "",
        consume: bool = False,
        budget: timedelta | None = None,
    ) -> Decision:
        """Whether so much may be used, by meter in base units; None: anything at all.

        With `hold`, what is allowed is reserved for that long under the request_id; with `consume`, it counts against
        rate limits at once. Waits for at most the budget (Settings.check_budget_seconds); then Settings.on_unavailable
        decides, and the decision is `degraded`. A denial is an answer, not an error. Raises RequestRefused.
        """
        return await self._wait(
            self._check(consumptions, subject=subject, hold=hold, request_id=request_id, consume=consume, budget=budget)
        )

    async def lease(
        self,
        meter: str,
        size: int,
        *,
        subject: Subject | None = None,
        hold: timedelta = _LEASE,
        margin: timedelta = _LEASE_MARGIN,
        budget: timedelta | None = None,
    ) -> Lease:
        """Holds `size` of a meter (less, if less is left) for this process to spend by itself, and renews it.

        `hold` is how long it outlives the last renewal, `margin` how long before that it stops. Raises QuotaDenied when
        nothing is left, RequestRefused, and SuiteUnavailable: there is no lease without the suite, whatever the policy.
        """
        withdrawn = threading.Event()
        begun = self._lease(meter, size, subject=subject, hold=hold, margin=margin, budget=budget, withdrawn=withdrawn)
        try:
            return Lease(self._core, await asyncio.wrap_future(begun))
        except BaseException:
            withdrawn.set()
            self._withdraw_lease(begun)
            raise

    async def flush(self, timeout: float) -> bool:  # noqa: ASYNC109 - so that both faces say the same
        """Waits until all recorded usage is acknowledged, that found on disk too, and ended tasks are settled.

        False: not within so many seconds.
        """
        if not self._core.engine.is_running:
            return True
        try:
            return await self._wait(_within(self._core.flush(), timeout))
        except TimeoutError:
            return False

    async def close(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - the same
        """Ends tasks and leases and sends what waits, for at most so many seconds (Settings.close_seconds).

        Whether everything was sent. What was not stays in the spool, for whoever uses it next; without a spool it is
        reported to `on_lost`. Nothing can be done with the client afterwards.
        """
        return await asyncio.to_thread(self._close, timeout)

    async def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self._core.engine.submit(work))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _within(work: Coroutine[Any, Any, None], seconds: float) -> bool:
    async with asyncio.timeout(seconds):
        await work
    return True
