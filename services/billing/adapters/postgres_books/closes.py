"""Closes in Postgres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from kit.money import Money
from services.billing.adapters.postgres_books.page import Page
from services.billing.domain.closing import Close, Cut, CutKind
from services.billing.domain.dues import Category, DueKey, DueKind
from services.billing.domain.invoicing import Invoiced
from services.billing.domain.periods import Period


class PostgresCloses:
    """CloseBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def of(self, subscription_id: str) -> Sequence[Close]:
        """As CloseBook."""
        rows = await self._page.execute(_OF, self._page.names(subscription_id=subscription_id))
        return [
            Close(
                cut=Cut(CutKind(row.cut), row.period_start, row.ordinal),
                through_sequence=row.through_sequence,
                invoice_id=row.invoice_id or "",
            )
            for row in rows
        ]

    async def invoiced(self, subscription_id: str, *, after: datetime) -> Mapping[DueKey, Invoiced]:
        """As CloseBook."""
        names = self._page.names(subscription_id=subscription_id, after=after)
        return {_key_from_row(row): _invoiced_from_row(row) for row in await self._page.execute(_INVOICED, names)}

    async def add(self, subscription_id: str, close: Close, *, at: datetime) -> None:
        """As CloseBook."""
        names = self._page.names(
            subscription_id=subscription_id,
            period_start=close.cut.period_start,
            cut=close.cut.kind.value,
            ordinal=close.cut.ordinal,
            through_sequence=close.through_sequence,
            invoice_id=close.invoice_id or None,
            close_time=at,
        )
        await self._page.execute(_ADD, names)

    async def schedule(self, subscription_id: str, at: datetime | None) -> None:
        """As CloseBook."""
        if at is None:
            await self._page.execute(_DELETE_DUE, self._page.names(subscription_id=subscription_id))
        else:
            await self._page.execute(_SET_DUE, self._page.names(subscription_id=subscription_id, at=at))


def _key_from_row(row: Row[Any]) -> DueKey:
    return DueKey(
        kind=DueKind(row.due_kind),
        category=Category(row.category),
        interval=Period(row.interval_start, row.interval_end),
        charge_id=row.charge_id,
        segment_start=row.segment_start,
    )


def _invoiced_from_row(row: Row[Any]) -> Invoiced:
    return Invoiced(
        amount=Money(int(row.amount_minor), row.currency_code),
        used_quantity=int(row.used_quantity),
        meter=row.meter,
        last_sequence=row.last_sequence,
        segment=Period(row.period_start, row.period_end),
        invoice_id=row.invoice_id,
        invoice_number=row.number,
        taken_back_minor=int(row.taken_back_minor),
    )


_OF = text("""
    SELECT cut, period_start, ordinal, through_sequence, invoice_id FROM billing.closes
    WHERE organization_id = :organization_id AND subscription_id = :subscription_id
""")
# A line of the version before lines had keys is read as what it was for: a period's price, or its usage by meter, all
# that it names. Credit notes count lines from 1. Of the lines of one key the latest one says the segment and the
# invoice.
_INVOICED = text("""
    WITH noted AS (
        SELECT note.invoice_id, line.line_number, sum(line.amount_minor) AS amount_minor
        FROM billing.credit_notes AS note
            JOIN billing.credit_note_lines AS line USING (organization_id, credit_note_id)
        WHERE organization_id = :organization_id
        GROUP BY note.invoice_id, line.line_number),
    lines AS (
        SELECT coalesce(line.due_kind, line.kind) AS due_kind,
            coalesce(line.category, CASE line.kind WHEN 'BASE_FEE' THEN 'BASE' ELSE 'USAGE' END) AS category,
            coalesce(line.interval_start, line.period_start) AS interval_start,
            coalesce(line.interval_end, line.period_end) AS interval_end,
            coalesce(line.charge_id, nullif(line.meter, ''), 'base') AS charge_id,
            coalesce(line.segment_start, line.period_start) AS segment_start,
            CASE WHEN line.due_kind IS NULL THEN line.used_quantity ELSE line.difference_quantity END AS used_quantity,
            CASE WHEN line.due_kind IS NULL THEN invoice.closed_through_sequence ELSE line.last_sequence
                END AS last_sequence,
            line.amount_minor, line.meter, line.period_start, line.period_end,
            CASE WHEN invoice.state = 'VOID' THEN line.amount_minor ELSE coalesce(noted.amount_minor, 0)
                END AS taken_back_minor,
            invoice.invoice_id, invoice.number, invoice.currency_code, invoice.finalize_time
        FROM billing.invoices AS invoice
            JOIN billing.invoice_lines AS line USING (organization_id, invoice_id)
            LEFT JOIN noted ON noted.invoice_id = line.invoice_id AND noted.line_number = line.line_number + 1
        WHERE organization_id = :organization_id AND invoice.subscription_id = :subscription_id
            AND coalesce(line.interval_end, line.period_end) > :after
            AND (line.due_kind IS NOT NULL OR line.kind IN ('BASE_FEE', 'OVERAGE')))
    SELECT due_kind, category, interval_start, interval_end, charge_id, segment_start, currency_code,
        sum(amount_minor) AS amount_minor, sum(taken_back_minor) AS taken_back_minor,
        sum(used_quantity) AS used_quantity, max(last_sequence) AS last_sequence, max(meter) AS meter,
        (array_agg(period_start ORDER BY finalize_time DESC, number DESC))[1] AS period_start,
        (array_agg(period_end ORDER BY finalize_time DESC, number DESC))[1] AS period_end,
        (array_agg(invoice_id ORDER BY finalize_time DESC, number DESC))[1] AS invoice_id,
        (array_agg(number ORDER BY finalize_time DESC, number DESC))[1] AS number
    FROM lines
    GROUP BY due_kind, category, interval_start, interval_end, charge_id, segment_start, currency_code
""")
_ADD = text("""
    INSERT INTO billing.closes (
        organization_id, subscription_id, period_start, cut, ordinal, through_sequence, invoice_id, close_time)
    VALUES (:organization_id, :subscription_id, :period_start, :cut, :ordinal, :through_sequence, :invoice_id,
        :close_time)
""")
_SET_DUE = text("""
    INSERT INTO billing.due_closes (organization_id, subscription_id, next_attempt_time)
    VALUES (:organization_id, :subscription_id, :at)
    ON CONFLICT (organization_id, subscription_id)
    DO UPDATE SET next_attempt_time = :at, attempt_count = 0, last_error = ''
""")
_DELETE_DUE = text("""
    DELETE FROM billing.due_closes
    WHERE organization_id = :organization_id AND subscription_id = :subscription_id
""")
