"""Close due subscriptions: makes the cuts that come by themselves."""

from __future__ import annotations

import asyncio

import structlog

from kit.clock import Clock
from kit.errors import Refused
from services.billing.application.make_cut import MakeCut, Order
from services.billing.application.ports.books import Books
from services.billing.application.ports.closes import CloseList, DueClose
from services.billing.application.schedule_closes import schedule_close
from services.billing.domain import limits
from services.billing.domain.closing import ScheduledCut, next_cut
from services.billing.domain.retries import retry_pause

log = structlog.get_logger()

_ACTOR = "service:billing"


class CloseDueSubscriptions:
    """Works the list of due closes off, one at a time; run several of them side by side."""

    def __init__(self, due: CloseList, books: Books, make_cut: MakeCut, clock: Clock) -> None:
        self._due = due
        self._books = books
        self._make_cut = make_cut
        self._clock = clock

    async def __call__(self) -> int:
        """Makes the next cut of one subscription whose time has come; answers how many there were. One that fails or
        hangs is due again after a pause.
        """
        claimed = await self._due.claim(now=self._clock.now(), count=1)
        for due in claimed:
            await self._close(due)
        return len(claimed)

    async def _close(self, due: DueClose) -> None:
        try:
            async with asyncio.timeout(limits.CLAIM_WORK.total_seconds()):
                await self._make_next_cut(due)
        except Refused as error:
            log.warning("close_retries", subscription_id=due.subscription_id, error=str(error))
            await self._retry(due, str(error))
        except TimeoutError:
            log.warning("close_hangs", subscription_id=due.subscription_id, attempt=due.attempt_count)
            await self._retry(due, f"not done within {limits.CLAIM_WORK.total_seconds():.0f} s")
        except Exception as error:
            # A defect of ours, on this subscription; the others do not wait for it.
            log.exception("close_failed", subscription_id=due.subscription_id, attempt=due.attempt_count)
            await self._retry(due, f"{type(error).__name__}: {error}")

    async def _retry(self, due: DueClose, error: str) -> None:
        at = self._clock.now() + retry_pause(due.attempt_count)
        await self._due.retry(due, at=at, error=error[: limits.ERROR_TEXT_MAX])

    async def _make_next_cut(self, due: DueClose) -> None:
        scheduled = await self._scheduled(due)
        if scheduled is not None and scheduled.at <= self._clock.now():
            close = await self._make_cut(due.organization_id, due.subscription_id, scheduled.cut, Order(actor=_ACTOR))
            log.info("subscription_closed", subscription_id=due.subscription_id, invoice_id=close.invoice_id)
            return
        # Something was made or changed since it was put on the list.
        async with self._books.open(due.organization_id) as book:
            await schedule_close(book, await book.subscriptions.timeline(due.subscription_id))

    async def _scheduled(self, due: DueClose) -> ScheduledCut | None:
        async with self._books.read(due.organization_id) as book:
            timeline = await book.subscriptions.timeline(due.subscription_id)
            made = {close.cut for close in await book.closes.of(due.subscription_id)}
        return next_cut(timeline, made)
