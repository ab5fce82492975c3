"""Which subscriptions have a cut due, across organizations, as the fleet role."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kit.postgres.database import Database
from services.billing.adapters.claimed_rows import ClaimedRows
from services.billing.application.ports.closes import DueClose


class PostgresCloseList:
    """CloseList as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._rows = ClaimedRows(fleet, "due_closes", "organization_id", "subscription_id")

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueClose]:
        """As CloseList."""
        return [
            DueClose(row.organization_id, row.subscription_id, row.attempt_count)
            for row in await self._rows.claim(now=now, count=count)
        ]

    async def retry(self, due: DueClose, *, at: datetime, error: str) -> None:
        """As CloseList."""
        await self._rows.retry(
            at=at,
            error=error,
            attempt_count=due.attempt_count,
            organization_id=due.organization_id,
            subscription_id=due.subscription_id,
        )
