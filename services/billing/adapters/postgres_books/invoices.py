"""Invoices in Postgres."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from kit.errors import NotFound
from kit.money import Money
from services.billing.adapters.postgres_books.page import Page
from services.billing.domain.closing import Closing
from services.billing.domain.invoices import Invoice, InvoiceKey, InvoiceState, Line, LineKind, invoice_number
from services.billing.domain.periods import Period

LEGAL_ENTITY = "default"

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

    async def of_period(self, subscription_id: str, period: Period) -> Invoice | None:
        """As InvoiceBook."""
        names = self._page.names(subscription_id=subscription_id, period_start=period.start)
        rows = (await self._page.execute(_INVOICE_OF_PERIOD, names)).all()
        return (await self._with_lines(rows))[0] if rows else None

    async def newest_first(self, *, before: InvoiceKey | None, count: int) -> Sequence[Invoice]:
        """As InvoiceBook."""
        names = self._page.names(
            finalize_time=before.finalize_time if before else None,
            invoice_id=before.invoice_id if before else "",
            count=count,
        )
        return await self._with_lines((await self._page.execute(_INVOICES, names)).all())

    async def closings(self) -> Sequence[Closing]:
        """As InvoiceBook."""
        closed: dict[str, dict[datetime, int]] = defaultdict(dict)
        for row in await self._page.execute(_CLOSED, self._page.names()):
            closed[row.subscription_id][row.period_start] = row.closed_through_sequence
        return [
            Closing(
                plan_id=row.plan_id,
                plan_version=row.plan_version,
                anchor=row.anchor,
                end_time=row.end_time,
                closed_through=closed[row.subscription_id],
            )
            for row in await self._page.execute(_TENURES, self._page.names())
        ]

    async def finalize(self, invoice: Invoice, *, actor: str, request_id: str) -> Invoice:
        """As InvoiceBook."""
        body = {
            "invoice_id": invoice.invoice_id,
            "total": str(invoice.total),
            "currency_code": invoice.total.currency_code,
            "closed_through_sequence": invoice.closed_through_sequence,
            "actor": actor,
            "request_id": request_id,
        }
        await self._page.append(kind=_FINALIZED, body=body)
        lines = [self._page.names(**_line_to_row(invoice, number)) for number in range(len(invoice.lines))]
        await self._page.execute(_ADD_LINE, lines)
        if invoice.is_collectable:
            due = self._page.names(invoice_id=invoice.invoice_id, next_attempt_time=invoice.finalize_time)
            await self._page.execute(_ADD_DUE, due)
        # Last, because from here on every other close of the legal entity waits for this transaction.
        taken = (await self._page.execute(_TAKE_NUMBER, {"legal_entity": LEGAL_ENTITY})).one()
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
        subscription_id=row.subscription_id,
        plan_id=row.plan_id,
        plan_version=row.plan_version,
        state=InvoiceState(row.state),
        total=Money(int(row.total_minor), row.currency_code),
        lines=tuple(lines),
        period=Period(row.period_start, row.period_end),
        closed_through_sequence=row.closed_through_sequence,
        invoice_id=row.invoice_id,
        number=row.number,
        finalize_time=row.finalize_time,
        stripe_invoice_id=row.stripe_invoice_id,
    )


def _invoice_to_row(invoice: Invoice) -> dict[str, object]:
    return {
        "organization_id": invoice.organization_id,
        "invoice_id": invoice.invoice_id,
        "number": invoice.number,
        "subscription_id": invoice.subscription_id,
        "plan_id": invoice.plan_id,
        "plan_version": invoice.plan_version,
        "state": invoice.state.value,
        "currency_code": invoice.total.currency_code,
        "total_minor": invoice.total.minor,
        "period_start": invoice.period.start,
        "period_end": invoice.period.end,
        "closed_through_sequence": invoice.closed_through_sequence,
        "finalize_time": invoice.finalize_time,
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
    }


_INVOICE_COLUMNS = """
    SELECT organization_id, invoice_id, number, subscription_id, plan_id, plan_version, state, currency_code,
        total_minor, period_start, period_end, closed_through_sequence, finalize_time, stripe_invoice_id
    FROM billing.invoices WHERE organization_id = :organization_id
"""
_INVOICE = text(f"{_INVOICE_COLUMNS} AND invoice_id = :invoice_id")
_INVOICE_OF_PERIOD = text(f"{_INVOICE_COLUMNS} AND subscription_id = :subscription_id AND period_start = :period_start")
_INVOICES = text(f"""
    {_INVOICE_COLUMNS} AND (CAST(:finalize_time AS timestamptz) IS NULL
        OR (finalize_time, invoice_id) < (CAST(:finalize_time AS timestamptz), :invoice_id))
    ORDER BY finalize_time DESC, invoice_id DESC LIMIT :count
""")
_LINES = text("""
    SELECT invoice_id, kind, description, amount_minor, meter, used_quantity, included_quantity, charged_quantity,
        unit_price, period_start, period_end
    FROM billing.invoice_lines WHERE organization_id = :organization_id AND invoice_id = ANY(:invoice_ids)
    ORDER BY invoice_id, line_number
""")
_TENURES = text("""
    SELECT subscription_id, plan_id, plan_version, anchor, end_time FROM billing.subscriptions
    WHERE organization_id = :organization_id ORDER BY entitlement_version
""")
_CLOSED = text("""
    SELECT subscription_id, period_start, closed_through_sequence FROM billing.invoices
    WHERE organization_id = :organization_id
""")
_ADD_LINE = text("""
    INSERT INTO billing.invoice_lines (
        organization_id, invoice_id, line_number, kind, description, amount_minor, meter, used_quantity,
        included_quantity, charged_quantity, unit_price, period_start, period_end)
    VALUES (:organization_id, :invoice_id, :line_number, :kind, :description, :amount_minor, :meter, :used_quantity,
        :included_quantity, :charged_quantity, :unit_price, :period_start, :period_end)
""")
_TAKE_NUMBER = text("""
    UPDATE billing.invoice_numbers SET last_number = last_number + 1 WHERE legal_entity = :legal_entity
    RETURNING prefix, last_number
""")
_ADD_INVOICE = text("""
    INSERT INTO billing.invoices (
        organization_id, invoice_id, number, subscription_id, plan_id, plan_version, state, currency_code, total_minor,
        period_start, period_end, closed_through_sequence, finalize_time)
    VALUES (:organization_id, :invoice_id, :number, :subscription_id, :plan_id, :plan_version, :state, :currency_code,
        :total_minor, :period_start, :period_end, :closed_through_sequence, :finalize_time)
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
