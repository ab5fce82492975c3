"""When each organization's subscription changes next, in Postgres, as the fleet role."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from kit.postgres.database import Database
from services.billing.application.ports.due_changes import DueChange
from services.billing.domain import limits


class PostgresChangeList:
    """ChangeList as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueChange]:
        """As ChangeList."""
        names = {"now": now, "claimed_until": now + limits.CLAIM_LEASE, "count": count}
        async with self._fleet.transaction() as connection:
            rows = (await connection.execute(_CLAIM, names)).all()
        return [DueChange(row.organization_id, row.attempt_count) for row in rows]

    async def retry(self, due: DueChange, *, at: datetime, error: str) -> None:
        """As ChangeList."""
        names = {
            "organization_id": due.organization_id,
            "attempt_count": due.attempt_count,
            "next_attempt_time": at,
            "last_error": error,
        }
        async with self._fleet.transaction() as connection:
            await connection.execute(_RETRY, names)


_CLAIM = text("""
    UPDATE billing.due_changes SET attempt_count = attempt_count + 1, next_attempt_time = :claimed_until
    WHERE organization_id IN (
        SELECT organization_id FROM billing.due_changes WHERE next_attempt_time <= :now
        ORDER BY next_attempt_time LIMIT :count FOR UPDATE SKIP LOCKED)
    RETURNING organization_id, attempt_count
""")
_RETRY = text("""
    UPDATE billing.due_changes SET next_attempt_time = :next_attempt_time, last_error = :last_error
    WHERE organization_id = :organization_id AND attempt_count = :attempt_count
""")
