"""Settle, and once more when a hold whose time has passed may have been in the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from services.quota.application.expiry_agenda import ExpiryAgenda
from services.quota.application.free_expired import FreeExpired
from services.quota.application.ports import Instant
from services.quota.application.settle_counters import SettleCounters
from services.quota.domain.terms import Terms

T = TypeVar("T")


class SettleSwept:
    """SettleCounters for callers to whom holds of ended reservations matter."""

    def __init__(self, settle: SettleCounters, free_expired: FreeExpired, agenda: ExpiryAgenda) -> None:
        self._settle = settle
        self._free_expired = free_expired
        self._agenda = agenda

    async def __call__(
        self,
        organization_id: str,
        attempt: Callable[[Terms, bool], Awaitable[T]],
        *,
        seen: Callable[[T], tuple[Sequence[Instant], bool]],
    ) -> T:
        """As SettleCounters. `seen` says when the store was asked, and whether a hold may have stood in the way: then
        holds whose time has passed are freed first, within a caller's patience, and the attempt is made again.
        """
        found = await self._settle(organization_id, attempt)
        instants, is_in_the_way = seen(found)
        is_due = any(instant.expiry_is_due for instant in instants)
        if is_in_the_way and is_due and await self._free_expired.in_time(organization_id):
            found = await self._settle(organization_id, attempt)
            instants, _ = seen(found)
        for instant in instants:
            self._agenda.note(organization_id, instant)
        return found
