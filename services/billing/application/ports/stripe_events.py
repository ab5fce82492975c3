"""Stripe's events: stored once, then handled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.billing.domain.stripe_events import StripeEvent


class StripeEventBook(Protocol):
    """Stripe's events, as far as their effects in one organization's books go."""

    async def set_handled(self, event_id: str, *, attempt_count: int, outcome: str) -> bool:
        """Marks a Stripe event handled together with its effect. False when the claim of that attempt is no longer
        ours or the event is handled already: then nothing else may be kept either, and the caller raises.
        """
        ...


@dataclass(frozen=True, slots=True)
class DueEvent:
    """A Stripe event that is to be handled, claimed for one attempt."""

    event_id: str
    type: str
    object_id: str
    attempt_count: int


class StripeInbox(Protocol):
    """Stripe's events: stored once, then handled. Across organizations."""

    async def store(self, event: StripeEvent, *, now: datetime) -> bool:
        """Stores an event under its id; False when it was there already. When it returns, the event is committed."""
        ...

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueEvent]:
        """Claims up to `count` that are due, each for the lease. Of a lane only the oldest unhandled one can be
        claimed, so those of one lane are handled one after the other, in order of arrival.
        """
        ...

    async def retry(self, due: DueEvent, *, at: datetime, error: str) -> None:
        """Makes it due again at a time; the rest of its lane waits behind it."""
        ...

    async def set_handled(self, due: DueEvent, *, now: datetime, outcome: str) -> None:
        """Marks an event handled that has no effect."""
        ...
