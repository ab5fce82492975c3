"""Which mails are to be sent, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from services.billing.adapters.memory.books import MemoryBooks
from services.billing.application.ports.mails import DueMail
from services.billing.domain import limits


class MemoryMailList:
    """MailList over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueMail]:
        """As MailList."""
        async with self._books.everything() as world:
            ready = [
                each for each in world.due_mails.values() if not each.parked_reason and each.next_attempt_time <= now
            ]
            chosen = sorted(ready, key=lambda each: each.next_attempt_time)[:count]
            for each in chosen:
                each.due = replace(each.due, attempt_count=each.due.attempt_count + 1)
                each.next_attempt_time = now + limits.CLAIM_LEASE
            return [each.due for each in chosen]

    async def retry(self, due: DueMail, *, at: datetime, error: str) -> None:  # noqa: ARG002
        """As MailList."""
        async with self._books.everything() as world:
            held = world.due_mails.get(due.mail_id)
            if held is not None and held.due == due:
                held.next_attempt_time = at

    async def park(self, due: DueMail, *, reason: str) -> None:
        """As MailList."""
        async with self._books.everything() as world:
            held = world.due_mails.get(due.mail_id)
            if held is not None and held.due == due:
                held.parked_reason = reason
