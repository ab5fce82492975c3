"""Which subscriptions have a cut due, across organizations, as the fleet role. Claimed as other lists are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from kit.postgres.database import Database
from services.billing.application.ports.closes import DueClose
from services.billing.domain import limits


class PostgresCloseList:
    """CloseList as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueClose]:
        """As CloseList."""
        names = {"now": now, "until": now + limits.CLAIM_LEASE, "count": count}
        async with self._fleet.transaction() as connection:
            rows = (await connection.execute(_CLAIM, names)).all()
        return [DueClose(row.organization_id, row.subscription_id, row.attempt_count) for row in rows]

    async def retry(self, due: DueClose, *, at: datetime, error: str) -> None:
        """As CloseList."""
        names = {
            "organization_id": due.organization_id,
            "subscription_id": due.subscription_id,
            "attempt_count": due.attempt_count,
            "at": at,
            "error": error,
        }
        async with self._fleet.transaction() as connection:
            await connection.execute(_RETRY, names)


_CLAIM = text("""
    WITH chosen AS MATERIALIZED (
        SELECT organization_id, subscription_id FROM billing.due_closes
        WHERE next_attempt_time <= :now
        ORDER BY next_attempt_time LIMIT :count FOR UPDATE SKIP LOCKED)
    UPDATE billing.due_closes AS due SET next_attempt_time = :until, attempt_count = due.attempt_count + 1
    FROM chosen
    WHERE due.organization_id = chosen.organization_id AND due.subscription_id = chosen.subscription_id
    RETURNING due.organization_id, due.subscription_id, due.attempt_count
""")
_RETRY = text("""
    UPDATE billing.due_closes SET next_attempt_time = :at, last_error = :error
    WHERE organization_id = :organization_id AND subscription_id = :subscription_id AND attempt_count = :attempt_count
""")
