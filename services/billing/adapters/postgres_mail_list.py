"""Which mails are to be sent, as the fleet role."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kit.postgres.database import Database
from services.billing.adapters.claimed_rows import ClaimedRows
from services.billing.application.ports.mails import DueMail


class PostgresMailList:
    """MailList as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._rows = ClaimedRows(fleet, "due_mails", "organization_id", "mail_id", parks=True)

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueMail]:
        """As MailList."""
        return [
            DueMail(row.organization_id, row.mail_id, row.attempt_count)
            for row in await self._rows.claim(now=now, count=count)
        ]

    async def retry(self, due: DueMail, *, at: datetime, error: str) -> None:
        """As MailList."""
        await self._rows.retry(
            at=at,
            error=error,
            attempt_count=due.attempt_count,
            organization_id=due.organization_id,
            mail_id=due.mail_id,
        )

    async def park(self, due: DueMail, *, reason: str) -> None:
        """As MailList."""
        await self._rows.park(
            reason=reason, attempt_count=due.attempt_count, organization_id=due.organization_id, mail_id=due.mail_id
        )
