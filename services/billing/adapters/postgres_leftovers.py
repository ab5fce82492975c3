"""What is kept for a while only, as the fleet role, which sees no more of it than its keys and its age."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text

from kit.postgres.database import Database
from services.billing.domain.leftovers import Leftover


class PostgresLeftovers:
    """Leftovers as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def drop(self, kind: Leftover, *, before: datetime, count: int) -> int:
        """As Leftovers."""
        async with self._fleet.transaction() as connection:
            return (await connection.execute(_DROP[kind], {"before": before, "count": count})).rowcount


_DROP = {
    Leftover.REQUESTS: text("""
        DELETE FROM billing.requests WHERE (organization_id, request_id) IN (
            SELECT organization_id, request_id FROM billing.requests WHERE create_time < :before
            ORDER BY create_time LIMIT :count)
    """),
    Leftover.STRIPE_EVENTS: text("""
        DELETE FROM billing.stripe_events WHERE event_id IN (
            SELECT event_id FROM billing.stripe_events WHERE handle_time < :before
            ORDER BY handle_time LIMIT :count)
    """),
    Leftover.MAILS: text("""
        DELETE FROM billing.mail_outbox WHERE (organization_id, mail_id) IN (
            SELECT organization_id, mail_id FROM billing.mail_outbox WHERE close_time < :before
            ORDER BY close_time LIMIT :count)
    """),
}
