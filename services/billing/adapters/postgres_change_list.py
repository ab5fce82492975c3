"""When each organization's subscription changes next, in Postgres, as the fleet role."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kit.postgres.database import Database
from services.billing.adapters.claimed_rows import ClaimedRows
from services.billing.application.ports.due_changes import DueChange


class PostgresChangeList:
    """ChangeList as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._rows = ClaimedRows(fleet, "due_changes", "organization_id")

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueChange]:
        """As ChangeList."""
        return [
            DueChange(row.organization_id, row.attempt_count) for row in await self._rows.claim(now=now, count=count)
        ]

    async def retry(self, due: DueChange, *, at: datetime, error: str) -> None:
        """As ChangeList."""
        await self._rows.retry(at=at, error=error, attempt_count=due.attempt_count, organization_id=due.organization_id)
