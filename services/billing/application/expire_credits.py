"""Expire credits: takes what was not used in time. It pays nothing from the instant of its expiry on, taken or not."""

from __future__ import annotations

import structlog

from kit.clock import Clock
from services.billing.application.ports.books import Books
from services.billing.application.ports.credits import ExpiryList
from services.billing.domain import limits

log = structlog.get_logger()


class ExpireCredits:
    """Works the list of credits that are over off."""

    def __init__(self, expiries: ExpiryList, books: Books, clock: Clock) -> None:
        self._expiries = expiries
        self._books = books
        self._clock = clock

    async def __call__(self) -> int:
        """Takes what is over of some organizations; answers of how many. Running twice, or in two places, takes nothing
        twice. One that fails keeps the others waiting for nothing, and is tried again with the next call. Raises
        DependencyUnavailable when the list cannot be read.
        """
        due = await self._expiries.due(now=self._clock.now(), count=limits.CLAIMED_AT_ONCE)
        return sum([await self._expire(organization_id) for organization_id in due])

    async def _expire(self, organization_id: str) -> bool:
        try:
            async with self._books.open(organization_id) as book:
                taken = await book.credits.expire(at=self._clock.now())
        except Exception:
            log.exception("credits_not_expired", organization_id=organization_id)
            return False
        log.info("credits_expired", organization_id=organization_id, grant_count=len(taken))
        return True
