"""Invoices in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, text

from kit.errors import NotFound
from kit.money import Money
from services.billing.adapters.postgres_books.dunning import PostgresDunning
from services.billing.adapters.postgres_books.page import Page
from services.billing.adapters.postgres_books.revenue import PostgresRevenue
from services.billing.domain.closing import CutKind
from services.billing.domain.dues import Category, DueKey, DueKind
from services.billing.domain.invoices import (
    ALL_INVOICES,
    Invoice,
    InvoiceFilters,
    InvoiceKey,
    InvoiceState,
    Line,
    LineKind,
    invoice_number,
)
from services.billing.domain.periods import Period

_FINALIZED = "invoice_finalized"
_PAID = "invoice_paid"


class PostgresInvoices:
    """InvoiceBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def get(self, invoice_id: str) -> Invoice:
        """As InvoiceBook."""
        # It comes from callers and from Stripe; what is not printable may be no text that Postgres takes.
        names = self._page.names(invoice_id=invoice_id if invoice_id.isprintable() else "")
        rows = (await self._page.execute(_INVOICE, names)).all()
        if not rows:
            raise NotFound(what="invoice", name=invoice_id[:64])
        return (await self._with_lines(rows))[0]

    async def newest_first(
        self, *, before: InvoiceKey | None, count: int, filters: InvoiceFilters = ALL_INVOICES
    ) -> Sequence[Invoice]:
        """As InvoiceBook."""
        names = self._page.names(
            finalize_time=before.finalize_time if before else None,
            invoice_id=before.invoice_id if before else "",
            states=[state.value for state in filters.states] or None,
            finalized_from=filters.finalized_from,
            finalized_before=filters.finalized_before,
            count=count,
        )
        return await self._with_lines((await self._page.execute(_INVOICES, names)).all())

    async def finalize(self, invoice: Invoice, *, actor: str, request_id: str) -> Invoice:
        """As InvoiceBook."""
        body = {
            "invoice_id": invoice.invoice_id,
            "total": str(invoice.total),
            "currency_code": invoice.total.currency_code,
            "closed_through_sequence": invoice.closed_through_sequence,
            "cut": invoice.cut.value,
            "actor": actor,
            "request_id": request_id,
        }
        await self._page.append(kind=_FINALIZED, body=body)
        lines = [self._page.names(**_line_to_row(invoice, number)) for number in range(len(invoice.lines))]
        await self._page.execute(_ADD_LINE, lines)
        await PostgresRevenue(self._page).note_invoice(invoice)
        if invoice.is_collectable:
            due = self._page.names(invoice_id=invoice.invoice_id, next_attempt_time=invoice.finalize_time)
            await self._page.execute(_ADD_DUE, due)
            if invoice.due_time is not None:
                await PostgresDunning(self._page).look_at(invoice.invoice_id, time=invoice.due_time)
        # Last, because from here on every other close of the legal entity waits for this transaction.
        taken = (await self._page.execute(_TAKE_NUMBER, {"legal_entity": invoice.legal_entity_id})).one()
        numbered = replace(invoice, number=invoice_number(taken.prefix, taken.last_number))
        await self._page.execute(_ADD_INVOICE, _invoice_to_row(numbered))
        return numbered

    async def set_collected(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """As InvoiceBook."""
        names = self._page.names(invoice_id=invoice_id, stripe_invoice_id=stripe_invoice_id)
        await self._page.execute(_SET_STRIPE_INVOICE, names)
        await self._page.execute(_DELETE_DUE, names)

    async def set_paid(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """As InvoiceBook."""
        names = self._page.names(invoice_id=invoice_id, stripe_invoice_id=stripe_invoice_id)
        if (await self._page.execute(_SET_PAID, names)).rowcount:
            body = {"invoice_id": invoice_id, "stripe_invoice_id": stripe_invoice_id}
            await self._page.append(kind=_PAID, body=body)

    async def _with_lines(self, rows: Sequence[Row[Any]]) -> list[Invoice]:
        names = self._page.names(invoice_ids=[row.invoice_id for row in rows])
        lines: dict[str, list[Line]] = {row.invoice_id: [] for row in rows}
        currencies = {row.invoice_id: row.currency_code for row in rows}
        for line in await self._page.execute(_LINES, names):
            lines[line.invoice_id].append(_line_from_row(line, currencies[line.invoice_id]))
        return [_invoice_from_row(row, lines[row.invoice_id]) for row in rows]


def _invoice_from_row(row: Row[Any], lines: Sequence[Line]) -> Invoice:
    return Invoice(
        organization_id=row.organization_id,
        subscription_id=row.subscription_id or "",
        plan_id=row.plan_id,
        plan_version=row.plan_version,
        state=InvoiceState(row.state),
        total=Money(int(row.total_minor), row.currency_code),
        lines=tuple(lines),
        period=Period(row.period_start, row.period_end),
        closed_through_sequence=row.closed_through_sequence,
        cut=CutKind(row.cut),
        legal_entity_id=row.legal_entity_id,
        invoice_id=row.invoice_id,
        number=row.number,
        finalize_time=row.finalize_time,
        due_time=row.due_time,
        stripe_invoice_id=row.stripe_invoice_id,
    )


def _invoice_to_row(invoice: Invoice) -> dict[str, object]:
    return {
        "organization_id": invoice.organization_id,
        "invoice_id": invoice.invoice_id,
        "number": invoice.number,
        "subscription_id": invoice.subscription_id or None,
        "plan_id": invoice.plan_id,
        "plan_version": invoice.plan_version,
        "state": invoice.state.value,
        "currency_code": invoice.total.currency_code,
        "total_minor": invoice.total.minor,
        "period_start": invoice.period.start,
        "period_end": invoice.period.end,
        "closed_through_sequence": invoice.closed_through_sequence,
        "cut": invoice.cut.value,
        "legal_entity_id": invoice.legal_entity_id,
        "finalize_time": invoice.finalize_time,
        "due_time": invoice.due_time,
    }


def _line_from_row(row: Row[Any], currency_code: str) -> Line:
    return Line(
        kind=LineKind(row.kind),
        description=row.description,
        amount=Money(int(row.amount_minor), currency_code),
        period=Period(row.period_start, row.period_end),
        meter=row.meter,
        used_quantity=row.used_quantity,
        included_quantity=row.included_quantity,
        charged_quantity=row.charged_quantity,
        unit_price=row.unit_price,
        difference_quantity=row.difference_quantity,
        first_sequence=row.first_sequence,
        last_sequence=row.last_sequence,
        key=None if row.due_kind is None else _key_from_row(row),
        corrects_invoice_id=row.corrects_invoice_id,
    )


def _key_from_row(row: Row[Any]) -> DueKey:
    return DueKey(
        kind=DueKind(row.due_kind),
        category=Category(row.category),
        interval=Period(row.interval_start, row.interval_end),
        charge_id=row.charge_id,
        segment_start=row.segment_start,
    )


def _line_to_row(invoice: Invoice, number: int) -> dict[str, object]:
    line = invoice.lines[number]
    return {
        "invoice_id": invoice.invoice_id,
        "line_number": number,
        "kind": line.kind.value,
        "description": line.description,
        "amount_minor": line.amount.minor,
        "meter": line.meter,
        "used_quantity": line.used_quantity,
        "included_quantity": line.included_quantity,
        "charged_quantity": line.charged_quantity,
        "unit_price": line.unit_price,
        "period_start": line.period.start,
        "period_end": line.period.end,
        "difference_quantity": line.difference_quantity,
        "first_sequence": line.first_sequence,
        "last_sequence": line.last_sequence,
        "corrects_invoice_id": line.corrects_invoice_id,
        **_key_to_row(line.key),
    }


def _key_to_row(key: DueKey | None) -> dict[str, object]:
    return {
        "due_kind": key.kind.value if key else None,
        "category": key.category.value if key else None,
        "interval_start": key.interval.start if key else None,
        "interval_end": key.interval.end if key else None,
        "charge_id": key.charge_id if key else None,
        "segment_start": key.segment_start if key else None,
    }


_INVOICE_COLUMNS = """
    SELECT organization_id, invoice_id, number, subscription_id, plan_id, plan_version, state, currency_code,
        total_minor, period_start, period_end, closed_through_sequence, cut, legal_entity_id, finalize_time,
        due_time, stripe_invoice_id
    FROM billing.invoices WHERE organization_id = :organization_id
"""
_INVOICE = text(f"{_INVOICE_COLUMNS} AND invoice_id = :invoice_id")
_INVOICES = text(f"""
    {_INVOICE_COLUMNS} AND (CAST(:finalize_time AS timestamptz) IS NULL
        OR (finalize_time, invoice_id) < (CAST(:finalize_time AS timestamptz), :invoice_id))
        AND (CAST(:states AS text[]) IS NULL OR state = ANY(:states))
        AND finalize_time >= coalesce(CAST(:finalized_from AS timestamptz), '-infinity')
        AND finalize_time < coalesce(CAST(:finalized_before AS timestamptz), 'infinity')
    ORDER BY finalize_time DESC, invoice_id DESC LIMIT :count
""")
_LINES = text("""
    SELECT invoice_id, kind, description, amount_minor, meter, used_quantity, included_quantity, charged_quantity,
        unit_price, period_start, period_end, difference_quantity, first_sequence, last_sequence, corrects_invoice_id,
        due_kind, category, interval_start, interval_end, charge_id, segment_start
    FROM billing.invoice_lines WHERE organization_id = :organization_id AND invoice_id = ANY(:invoice_ids)
    ORDER BY invoice_id, line_number
""")
_ADD_LINE = text("""
    INSERT INTO billing.invoice_lines (
        organization_id, invoice_id, line_number, kind, description, amount_minor, meter, used_quantity,
        included_quantity, charged_quantity, unit_price, period_start, period_end, difference_quantity, first_sequence,
        last_sequence, corrects_invoice_id, due_kind, category, interval_start, interval_end, charge_id, segment_start)
    VALUES (:organization_id, :invoice_id, :line_number, :kind, :description, :amount_minor, :meter, :used_quantity,
        :included_quantity, :charged_quantity, :unit_price, :period_start, :period_end, :difference_quantity,
        :first_sequence, :last_sequence, :corrects_invoice_id, :due_kind, :category, :interval_start, :interval_end,
        :charge_id, :segment_start)
""")
_TAKE_NUMBER = text("""
    UPDATE billing.invoice_numbers SET last_number = last_number + 1 WHERE legal_entity = :legal_entity
    RETURNING prefix, last_number
""")
_ADD_INVOICE = text("""
    INSERT INTO billing.invoices (
        organization_id, invoice_id, number, subscription_id, plan_id, plan_version, state, currency_code, total_minor,
        period_start, period_end, closed_through_sequence, cut, legal_entity_id, finalize_time, due_time)
    VALUES (:organization_id, :invoice_id, :number, :subscription_id, :plan_id, :plan_version, :state, :currency_code,
        :total_minor, :period_start, :period_end, :closed_through_sequence, :cut, :legal_entity_id, :finalize_time,
        :due_time)
""")
_ADD_DUE = text("""
    INSERT INTO billing.due_invoices (organization_id, invoice_id, next_attempt_time)
    VALUES (:organization_id, :invoice_id, :next_attempt_time)
""")
_DELETE_DUE = text("""
    DELETE FROM billing.due_invoices WHERE organization_id = :organization_id AND invoice_id = :invoice_id
""")
_SET_STRIPE_INVOICE = text("""
    UPDATE billing.invoices SET stripe_invoice_id = :stripe_invoice_id
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id
""")
_SET_PAID = text("""
    UPDATE billing.invoices SET state = 'PAID', stripe_invoice_id = :stripe_invoice_id
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id AND state = 'FINALIZED'
""")
