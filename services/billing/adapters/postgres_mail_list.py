"""Which mails are to be sent, as the fleet role; claimed as the lists in postgres_lists are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from kit.postgres.database import Database
from services.billing.application.ports.mails import DueMail
from services.billing.domain import limits


class PostgresMailList:
    """MailList as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueMail]:
        """As MailList."""
        names = {"now": now, "until": now + limits.CLAIM_LEASE, "count": count}
        async with self._fleet.transaction() as connection:
            rows = (await connection.execute(_CLAIM, names)).all()
        return [DueMail(row.organization_id, row.mail_id, row.attempt_count) for row in rows]

    async def retry(self, due: DueMail, *, at: datetime, error: str) -> None:
        """As MailList."""
        async with self._fleet.transaction() as connection:
            await connection.execute(_RETRY, {**_names(due), "at": at, "error": error})

    async def park(self, due: DueMail, *, reason: str) -> None:
        """As MailList."""
        async with self._fleet.transaction() as connection:
            await connection.execute(_PARK, {**_names(due), "reason": reason})


def _names(due: DueMail) -> dict[str, object]:
    return {
        "organization_id": due.organization_id,
        "mail_id": due.mail_id,
        "attempt_count": due.attempt_count,
    }


_CLAIM = text("""
    WITH chosen AS MATERIALIZED (
        SELECT organization_id, mail_id FROM billing.due_mails
        WHERE parked_reason = '' AND next_attempt_time <= :now
        ORDER BY next_attempt_time LIMIT :count FOR UPDATE SKIP LOCKED)
    UPDATE billing.due_mails AS due SET next_attempt_time = :until, attempt_count = due.attempt_count + 1
    FROM chosen WHERE due.organization_id = chosen.organization_id AND due.mail_id = chosen.mail_id
    RETURNING due.organization_id, due.mail_id, due.attempt_count
""")
# A claim that has passed to somebody else has another attempt_count: what its former holder says no longer counts.
_RETRY = text("""
    UPDATE billing.due_mails SET next_attempt_time = :at, last_error = :error
    WHERE organization_id = :organization_id AND mail_id = :mail_id AND attempt_count = :attempt_count
""")
_PARK = text("""
    UPDATE billing.due_mails SET parked_reason = :reason
    WHERE organization_id = :organization_id AND mail_id = :mail_id AND attempt_count = :attempt_count
""")
