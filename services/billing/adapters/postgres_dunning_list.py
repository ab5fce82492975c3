"""Whose next step of dunning is due, as the fleet role; claimed as the lists in postgres_lists are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from kit.postgres.database import Database
from services.billing.application.ports.dunning import DueDunning
from services.billing.domain import limits


class PostgresDunningList:
    """DunningList as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueDunning]:
        """As DunningList."""
        names = {"now": now, "until": now + limits.CLAIM_LEASE, "count": count}
        async with self._fleet.transaction() as connection:
            rows = (await connection.execute(_CLAIM, names)).all()
        return [DueDunning(row.organization_id, row.invoice_id, row.attempt_count) for row in rows]

    async def retry(self, due: DueDunning, *, at: datetime, error: str) -> None:
        """As DunningList."""
        names = {
            "organization_id": due.organization_id,
            "invoice_id": due.invoice_id,
            "attempt_count": due.attempt_count,
            "at": at,
            "error": error,
        }
        async with self._fleet.transaction() as connection:
            await connection.execute(_RETRY, names)


_CLAIM = text("""
    WITH chosen AS MATERIALIZED (
        SELECT organization_id, invoice_id FROM billing.due_dunnings WHERE next_attempt_time <= :now
        ORDER BY next_attempt_time LIMIT :count FOR UPDATE SKIP LOCKED)
    UPDATE billing.due_dunnings AS due SET next_attempt_time = :until, attempt_count = due.attempt_count + 1
    FROM chosen WHERE due.organization_id = chosen.organization_id AND due.invoice_id = chosen.invoice_id
    RETURNING due.organization_id, due.invoice_id, due.attempt_count
""")
_RETRY = text("""
    UPDATE billing.due_dunnings SET next_attempt_time = :at, last_error = :error
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id AND attempt_count = :attempt_count
""")
