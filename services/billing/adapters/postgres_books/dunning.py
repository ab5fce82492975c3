"""Dunning in Postgres."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import text

from services.billing.adapters.postgres_books.page import Page
from services.billing.domain.dunning import Dunning


class PostgresDunning:
    """DunningBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def open_ones(self) -> Sequence[Dunning]:
        """As DunningBook."""
        rows = await self._page.execute(_OPEN, self._page.names())
        return [Dunning(row.invoice_id, row.begin_time, row.is_suspending, frozenset(row.done)) for row in rows]

    async def look_at(self, invoice_id: str, *, time: datetime) -> None:
        """As DunningBook."""
        await self._page.execute(_SCHEDULE, self._page.names(invoice_id=invoice_id, next_time=time))

    async def begin(self, invoice_id: str, *, now: datetime) -> None:
        """As DunningBook."""
        names = self._page.names(invoice_id=invoice_id, now=now)
        if (await self._page.execute(_BEGIN, names)).rowcount:
            await self._page.execute(_SCHEDULE, names | {"next_time": now})

    async def note(
        self, invoice_id: str, steps: Collection[str], *, is_suspending: bool, next_time: datetime | None, now: datetime
    ) -> None:
        """As DunningBook."""
        names = self._page.names(invoice_id=invoice_id, now=now)
        if steps:
            await self._page.execute(_NOTE, [names | {"step": step} for step in steps])
        if is_suspending:
            await self._page.execute(_SUSPEND, names)
        if next_time is None:
            await self._page.execute(_UNSCHEDULE, names)
        else:
            await self._page.execute(_SCHEDULE, names | {"next_time": next_time})

    async def end(self, invoice_id: str, *, now: datetime) -> None:
        """As DunningBook."""
        names = self._page.names(invoice_id=invoice_id, now=now)
        await self._page.execute(_END, names)
        await self._page.execute(_UNSCHEDULE, names)


_OPEN = text("""
    SELECT invoice_id, begin_time, is_suspending, ARRAY(
        SELECT step FROM billing.dunning_steps AS steps
        WHERE steps.organization_id = dunnings.organization_id AND steps.invoice_id = dunnings.invoice_id) AS done
    FROM billing.dunnings WHERE organization_id = :organization_id AND end_time IS NULL
    ORDER BY begin_time, invoice_id
""")
_BEGIN = text("""
    INSERT INTO billing.dunnings (organization_id, invoice_id, begin_time)
    VALUES (:organization_id, :invoice_id, :now) ON CONFLICT DO NOTHING
""")
_NOTE = text("""
    INSERT INTO billing.dunning_steps (organization_id, invoice_id, step, do_time)
    VALUES (:organization_id, :invoice_id, :step, :now)
""")
_SUSPEND = text("""
    UPDATE billing.dunnings SET is_suspending = true
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id
""")
_SCHEDULE = text("""
    INSERT INTO billing.due_dunnings (organization_id, invoice_id, next_attempt_time)
    VALUES (:organization_id, :invoice_id, :next_time)
    ON CONFLICT (organization_id, invoice_id) DO UPDATE
    SET next_attempt_time = :next_time, attempt_count = 0, last_error = ''
""")
_UNSCHEDULE = text("""
    DELETE FROM billing.due_dunnings WHERE organization_id = :organization_id AND invoice_id = :invoice_id
""")
_END = text("""
    UPDATE billing.dunnings SET end_time = :now
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id AND end_time IS NULL
""")
