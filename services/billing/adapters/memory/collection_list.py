"""What is to be collected, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from services.billing.adapters.memory.books import MemoryBooks
from services.billing.application.ports.collection import Claim, DueInvoice
from services.billing.domain import limits


class MemoryCollectionList:
    """CollectionList over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueInvoice]:
        """As CollectionList."""
        async with self._books.everything() as world:
            ready = [each for each in world.due.values() if not each.parked_reason and each.next_attempt_time <= now]
            chosen = sorted(ready, key=lambda each: each.next_attempt_time)[:count]
            for each in chosen:
                each.due = replace(each.due, attempt_count=each.due.attempt_count + 1)
                each.next_attempt_time = now + limits.CLAIM_LEASE
                each.is_claimed = True
            return [each.due for each in chosen]

    async def retry(self, due: DueInvoice, *, at: datetime, error: str) -> None:  # noqa: ARG002
        """As CollectionList."""
        async with self._books.everything() as world:
            held = world.due.get((due.organization_id, due.invoice_id))
            if held is not None and held.due == due:
                held.next_attempt_time = at
                held.is_claimed = False

    async def park(self, due: DueInvoice, *, reason: str) -> None:
        """As CollectionList."""
        async with self._books.everything() as world:
            held = world.due.get((due.organization_id, due.invoice_id))
            if held is not None and held.due == due:
                held.parked_reason = reason
                held.is_claimed = False

    async def claim_one(self, organization_id: str, invoice_id: str, *, now: datetime) -> Claim:
        """As CollectionList."""
        async with self._books.everything() as world:
            held = world.due.get((organization_id, invoice_id))
            if held is None:
                return Claim(None)
            if held.is_claimed and held.next_attempt_time > now:
                return Claim(None, is_held=True)
            held.due = replace(held.due, attempt_count=held.due.attempt_count + 1)
            held.next_attempt_time = now + limits.CLAIM_LEASE
            held.is_claimed = True
            return Claim(held.due)
