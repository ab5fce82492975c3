"""Put the limits of an organization's own in force: for every process, before the change of one is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.quota.application.find_terms import FindTerms
from services.quota.application.ports import LimitRecord, LimitShelf
from services.quota.domain.maxima import DENIAL_REMEMBERED_SECONDS


class PutInForce:
    """What a changed record is worth: the same change again does what is left of it."""

    def __init__(
        self,
        record: LimitRecord,
        shelf: LimitShelf,
        terms: FindTerms,
        *,
        catch_up: Callable[[str], Awaitable[None]],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """catch_up: follows quota's own change log for one organization."""
        self._record = record
        self._shelf = shelf
        self._terms = terms
        self._catch_up = catch_up
        self._pause = pause

    async def __call__(self, organization_id: str) -> None:
        """Decided by everywhere when it returns, denials remembered from before included. Raises DependencyUnavailable:
        then some processes may decide by it and others not, until it is tried again or the change log is followed.
        """
        recorded = await self._record.own_limits(organization_id)
        kept = await self._shelf.put_limits(recorded)
        if kept == recorded:
            self._terms.note_limits(kept)
        else:
            # Somebody's later change; or the record was rewound, which the follower alone can tell.
            await self._catch_up(organization_id)
        await self._pause(DENIAL_REMEMBERED_SECONDS)
