"""The lists of money that workers read across organizations, as the fleet role: credits that are over, and credit notes
that are to be handed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from kit.postgres.database import Database
from services.billing.adapters.claimed_rows import ClaimedRows
from services.billing.application.ports.credit_notes import DueCreditNote


class PostgresExpiryList:
    """ExpiryList as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def due(self, *, now: datetime, count: int) -> Sequence[str]:
        """As ExpiryList."""
        async with self._fleet.transaction() as connection:
            rows = await connection.execute(_EXPIRED, {"now": now, "count": count})
            return [row.organization_id for row in rows]


class PostgresCreditNoteList:
    """CreditNoteList as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._rows = ClaimedRows(fleet, "due_credit_notes", "organization_id", "credit_note_id", parks=True)

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueCreditNote]:
        """As CreditNoteList."""
        return [
            DueCreditNote(row.organization_id, row.credit_note_id, row.attempt_count)
            for row in await self._rows.claim(now=now, count=count)
        ]

    async def retry(self, due: DueCreditNote, *, at: datetime, error: str) -> None:
        """As CreditNoteList."""
        await self._rows.retry(
            at=at,
            error=error,
            attempt_count=due.attempt_count,
            organization_id=due.organization_id,
            credit_note_id=due.credit_note_id,
        )

    async def park(self, due: DueCreditNote, *, reason: str) -> None:
        """As CreditNoteList."""
        await self._rows.park(
            reason=reason,
            attempt_count=due.attempt_count,
            organization_id=due.organization_id,
            credit_note_id=due.credit_note_id,
        )


_EXPIRED = text("""
    SELECT organization_id FROM billing.credit_expiries WHERE expire_time <= :now
    GROUP BY organization_id ORDER BY min(expire_time) LIMIT :count
""")
