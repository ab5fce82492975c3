"""Free what expired reservations hold, once all usage that could draw them down is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from kit.errors import Refused
from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.metrics import EXPIRED, UNMATCHED
from services.quota.application.ports import Expiries, Freed, Ledger
from services.quota.application.single_flight import SingleFlight

log = structlog.get_logger()

# How long a caller is kept waiting for holds that stand in its way. Far above a healthy sweep (some milliseconds).
_PATIENCE_SECONDS = 0.25
_RETRY_SECONDS = 0.5


class FreeExpired:
    """Ends the reservations of one organization whose time has passed."""

    def __init__(
        self,
        expiries: Expiries,
        ledger: Ledger,
        agenda: ExpiryAgenda,
        *,
        catch_up: Callable[[str], Awaitable[None]],
    ) -> None:
        """catch_up: applies to an organization's counters what the ledger has now."""
        self._expiries = expiries
        self._ledger = ledger
        self._agenda = agenda
        self._catch_up = catch_up
        self._sweeping = SingleFlight[int]()

    async def __call__(self, organization_id: str) -> int:
        """How many were freed. What could not be freed yet is put on the agenda again. Raises DependencyUnavailable."""
        return await self._sweeping(organization_id, lambda: self._sweep(organization_id))

    async def in_time(self, organization_id: str) -> bool:
        """Whether something was freed within a caller's patience; never raises. What takes longer goes on without."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self(organization_id) > 0
        except (Refused, TimeoutError):
            return False

    async def _sweep(self, organization_id: str) -> int:
        try:
            return await self._free(organization_id)
        except Refused:
            self._agenda.remind(organization_id, in_seconds=_RETRY_SECONDS)
            raise

    async def _free(self, organization_id: str) -> int:
        due = await self._expiries.due(organization_id)
        if not due:
            return 0
        # Read after the reservations' end: whatever was recorded before that is up to here.
        head = await self._ledger.head(organization_id)
        freed = await self._expiries.free(organization_id, due, head_sequence=head.sequence)
        count, unmatched_count = freed.freed_count, freed.unmatched_count
        if freed.waiting_count:
            await self._catch_up(organization_id)
            freed = await self._expiries.free(organization_id, due, head_sequence=head.sequence)
            count += freed.freed_count
            unmatched_count += freed.unmatched_count
        self._remind(organization_id, freed)
        if count:
            EXPIRED.inc(count)
            log.info("reservations_expired", organization_id=organization_id, count=count)
        if unmatched_count:
            UNMATCHED.inc(unmatched_count)
            log.warning("reservations_unmatched", organization_id=organization_id, count=unmatched_count)
        return count

    def _remind(self, organization_id: str, freed: Freed) -> None:
        if freed.waiting_count:
            self._agenda.remind(organization_id, in_seconds=_RETRY_SECONDS)
        else:
            self._agenda.note(organization_id, freed.instant)
