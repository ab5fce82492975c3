"""Whose next step of dunning is due, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from services.billing.adapters.memory.books import MemoryBooks
from services.billing.application.ports.dunning import DueDunning
from services.billing.domain import limits


class MemoryDunningList:
    """DunningList over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueDunning]:
        """As DunningList."""
        async with self._books.everything() as world:
            ready = [each for each in world.dunnings_due.values() if each.next_attempt_time <= now]
            chosen = sorted(ready, key=lambda each: each.next_attempt_time)[:count]
            for each in chosen:
                each.due = replace(each.due, attempt_count=each.due.attempt_count + 1)
                each.next_attempt_time = now + limits.CLAIM_LEASE
            return [each.due for each in chosen]

    async def retry(self, due: DueDunning, *, at: datetime, error: str) -> None:  # noqa: ARG002
        """As DunningList."""
        async with self._books.everything() as world:
            held = world.dunnings_due.get((due.organization_id, due.invoice_id))
            if held is not None and held.due == due:
                held.next_attempt_time = at
