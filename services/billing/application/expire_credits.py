"""Expire credits: takes what was not used in time. It pays nothing from the instant of its expiry on, taken or not."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from kit.clock import Clock
from services.billing.application.ports.books import Books
from services.billing.application.ports.credits import ExpiryList
from services.billing.domain import limits

log = structlog.get_logger()


class ExpireCredits:
    """Works the list of credits that are over off, one organization at a time."""

    def __init__(self, expiries: ExpiryList, books: Books, clock: Clock) -> None:
        self._expiries = expiries
        self._books = books
        self._clock = clock

    async def due(self) -> Sequence[str]:
        """Some of the organizations that have credits whose time is over. Raises DependencyUnavailable."""
        return await self._expiries.due(now=self._clock.now(), count=limits.EXPIRED_AT_ONCE)

    async def __call__(self, organization_id: str) -> None:
        """Takes what is over of one organization. Running twice, or in two places, takes nothing twice. Raises
        DependencyUnavailable, with nothing taken.
        """
        async with self._books.open(organization_id) as book:
            taken = await book.credits.expire(at=self._clock.now())
        log.info("credits_expired", organization_id=organization_id, grant_count=len(taken))
