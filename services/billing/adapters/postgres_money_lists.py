"""The lists of money that workers read across organizations, as the fleet role: credits that are over, and credit notes
that are to be handed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from kit.postgres.database import Database
from services.billing.application.ports.credit_notes import DueCreditNote
from services.billing.domain import limits


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
    """CreditNoteList as the fleet role; claims as PostgresCollectionList."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueCreditNote]:
        """As CreditNoteList."""
        names = {"now": now, "until": now + limits.CLAIM_LEASE, "count": count}
        async with self._fleet.transaction() as connection:
            rows = (await connection.execute(_CLAIM, names)).all()
        return [DueCreditNote(row.organization_id, row.credit_note_id, row.attempt_count) for row in rows]

    async def retry(self, due: DueCreditNote, *, at: datetime, error: str) -> None:
        """As CreditNoteList."""
        async with self._fleet.transaction() as connection:
            await connection.execute(_RETRY, _names(due) | {"at": at, "error": error})

    async def park(self, due: DueCreditNote, *, reason: str) -> None:
        """As CreditNoteList."""
        async with self._fleet.transaction() as connection:
            await connection.execute(_PARK, _names(due) | {"reason": reason})


def _names(due: DueCreditNote) -> dict[str, object]:
    return {
        "organization_id": due.organization_id,
        "credit_note_id": due.credit_note_id,
        "attempt_count": due.attempt_count,
    }


_EXPIRED = text("""
    SELECT organization_id FROM billing.credit_expiries WHERE expire_time <= :now
    GROUP BY organization_id ORDER BY min(expire_time) LIMIT :count
""")
_CLAIM = text("""
    WITH chosen AS MATERIALIZED (
        SELECT organization_id, credit_note_id FROM billing.due_credit_notes
        WHERE parked_reason = '' AND next_attempt_time <= :now
        ORDER BY next_attempt_time LIMIT :count FOR UPDATE SKIP LOCKED)
    UPDATE billing.due_credit_notes AS due SET next_attempt_time = :until, attempt_count = due.attempt_count + 1
    FROM chosen WHERE due.organization_id = chosen.organization_id AND due.credit_note_id = chosen.credit_note_id
    RETURNING due.organization_id, due.credit_note_id, due.attempt_count
""")
# A claim that has passed to somebody else has another attempt_count: what its former holder says no longer counts.
_RETRY = text("""
    UPDATE billing.due_credit_notes SET next_attempt_time = :at, last_error = :error
    WHERE organization_id = :organization_id AND credit_note_id = :credit_note_id AND attempt_count = :attempt_count
""")
_PARK = text("""
    UPDATE billing.due_credit_notes SET parked_reason = :reason
    WHERE organization_id = :organization_id AND credit_note_id = :credit_note_id AND attempt_count = :attempt_count
""")
