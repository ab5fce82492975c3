"""Whose next step of dunning is due, as the fleet role."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kit.postgres.database import Database
from services.billing.adapters.claimed_rows import ClaimedRows
from services.billing.application.ports.dunning import DueDunning


class PostgresDunningList:
    """DunningList as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._rows = ClaimedRows(fleet, "due_dunnings", "organization_id", "invoice_id")

    async def claim(self, *, now: datetime, count: int) -> Sequence[DueDunning]:
        """As DunningList."""
        return [
            DueDunning(row.organization_id, row.invoice_id, row.attempt_count)
            for row in await self._rows.claim(now=now, count=count)
        ]

    async def retry(self, due: DueDunning, *, at: datetime, error: str) -> None:
        """As DunningList."""
        await self._rows.retry(
            at=at,
            error=error,
            attempt_count=due.attempt_count,
            organization_id=due.organization_id,
            invoice_id=due.invoice_id,
        )
