"""The Stripe event whose effect is being written, in Postgres."""

from __future__ import annotations

from sqlalchemy import text

from services.billing.adapters.postgres_books.page import Page


class PostgresStripeEvents:
    """StripeEventBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def set_handled(self, event_id: str, *, attempt_count: int, outcome: str) -> bool:
        """As StripeEventBook."""
        names = {"event_id": event_id, "attempt_count": attempt_count, "outcome": outcome}
        return bool((await self._page.execute(_SET_EVENT_HANDLED, names)).rowcount)


_SET_EVENT_HANDLED = text("""
    UPDATE billing.stripe_events SET handle_time = now(), outcome = :outcome
    WHERE event_id = :event_id AND attempt_count = :attempt_count AND handle_time IS NULL
""")
