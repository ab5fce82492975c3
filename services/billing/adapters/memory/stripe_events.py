"""Stripe's events in memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.world import Waiting
from services.billing.application.ports.stripe_events import DueEvent
from services.billing.domain import limits
from services.billing.domain.stripe_events import StripeEvent


class MemoryStripeInbox:
    """StripeInbox over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    async def store(self, event: StripeEvent, *, now: datetime) -> bool:
        """As StripeInbox."""
        async with self._books.everything() as world:
            if event.event_id in world.events:
                return False
            world.events[event.event_id] = Waiting(event, now)
            return True

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueEvent]:
        """As StripeInbox."""
        async with self._books.everything() as world:
            first_of_lane: dict[str, Waiting] = {}
            for each in world.events.values():
                if not each.outcome:
                    first_of_lane.setdefault(each.event.lane, each)
            chosen = [each for each in first_of_lane.values() if each.next_attempt_time <= now][:count]
            for each in chosen:
                each.attempt_count += 1
                each.next_attempt_time = now + limits.CLAIM_LEASE
            return [
                DueEvent(each.event.event_id, each.event.type, each.event.object_id, each.attempt_count)
                for each in chosen
            ]

    async def retry(self, due: DueEvent, *, at: datetime, error: str) -> None:  # noqa: ARG002
        """As StripeInbox."""
        async with self._books.everything() as world:
            waiting = world.events[due.event_id]
            if not waiting.outcome and waiting.attempt_count == due.attempt_count:
                waiting.next_attempt_time = at

    async def set_handled(self, due: DueEvent, *, now: datetime, outcome: str) -> None:  # noqa: ARG002
        """As StripeInbox."""
        async with self._books.everything() as world:
            waiting = world.events[due.event_id]
            if not waiting.outcome and waiting.attempt_count == due.attempt_count:
                waiting.outcome = outcome
