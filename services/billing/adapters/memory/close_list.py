"""Which subscriptions have a cut due, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from services.billing.adapters.memory.books import MemoryBooks
from services.billing.application.ports.closes import DueClose
from services.billing.domain import limits


class MemoryCloseList:
    """CloseList over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueClose]:
        """As CloseList."""
        async with self._books.everything() as world:
            ready = [each for each in world.due_closes.values() if each.next_attempt_time <= now]
            chosen = sorted(ready, key=lambda each: each.next_attempt_time)[:count]
            for each in chosen:
                each.due = replace(each.due, attempt_count=each.due.attempt_count + 1)
                each.next_attempt_time = now + limits.CLAIM_LEASE
            return [each.due for each in chosen]

    async def retry(self, due: DueClose, *, at: datetime, error: str) -> None:  # noqa: ARG002
        """As CloseList."""
        async with self._books.everything() as world:
            held = world.due_closes.get((due.organization_id, due.subscription_id))
            if held is not None and held.due == due:
                held.next_attempt_time = at
