"""The books in Postgres, as the tenant role; see migrations/0001_books.py.

Opening an organization's books locks its row of billing.change_heads: writers of one organization take turns, and what
one of them reads stays true until its transaction ends. Readers see one instant and wait for nobody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import from_unix_microseconds, unix_microseconds
from kit.errors import NotFound, RequestIdReused
from kit.feed import START, Position
from kit.head_watch import Look
from kit.money import Money
from kit.postgres.change_log import ChangeLog
from kit.postgres.database import Database
from services.billing.application.ports import EntitlementEntry, EntitlementPage
from services.billing.domain.closing import Closing
from services.billing.domain.invoices import Invoice, InvoiceKey, InvoiceState, Line, LineKind, invoice_number
from services.billing.domain.periods import Period
from services.billing.domain.subscriptions import Subscription, SubscriptionStatus

LEGAL_ENTITY = "default"

_ENTITLEMENT = "entitlement"
_INVOICE_FINALIZED = "invoice_finalized"
_INVOICE_PAID = "invoice_paid"
_CHANGES = ChangeLog("billing")


class PostgresBooks:
    """Books as the tenant role."""

    def __init__(self, tenant: Database) -> None:
        self._tenant = tenant

    @asynccontextmanager
    async def read(self, organization_id: str) -> AsyncIterator[PostgresBookReader]:
        """As Books."""
        async with self._tenant.transaction(organization_id=organization_id, snapshot=True) as connection:
            yield PostgresBookReader(connection, organization_id)

    @asynccontextmanager
    async def open(self, organization_id: str) -> AsyncIterator[PostgresBook]:
        """As Books."""
        async with self._tenant.transaction(organization_id=organization_id) as connection:
            names = {"organization_id": organization_id}
            await connection.execute(_BEGIN_HEAD, names)
            await connection.execute(_LOCK_HEAD, names)
            yield PostgresBook(connection, organization_id)


class PostgresBookReader:
    """BookReader over one transaction."""

    def __init__(self, connection: AsyncConnection, organization_id: str) -> None:
        self._connection = connection
        self._organization_id = organization_id

    async def subscription_in_force(self) -> Subscription | None:
        """As BookReader."""
        row = (await self._connection.execute(_IN_FORCE, self._names())).one_or_none()
        return None if row is None else _subscription_from_row(row)

    async def subscription(self, subscription_id: str) -> Subscription:
        """As BookReader."""
        names = self._names(subscription_id=subscription_id)
        row = (await self._connection.execute(_SUBSCRIPTION, names)).one_or_none()
        if row is None:
            raise NotFound(what="subscription", name=subscription_id)
        return _subscription_from_row(row)

    async def invoice(self, invoice_id: str) -> Invoice:
        """As BookReader."""
        # It comes from callers and from Stripe; what is not printable may be no text that Postgres takes.
        names = self._names(invoice_id=invoice_id if invoice_id.isprintable() else "")
        rows = (await self._connection.execute(_INVOICE, names)).all()
        if not rows:
            raise NotFound(what="invoice", name=invoice_id[:64])
        return (await self._with_lines(rows))[0]

    async def invoice_of_period(self, subscription_id: str, period: Period) -> Invoice | None:
        """As BookReader."""
        names = self._names(subscription_id=subscription_id, period_start=period.start)
        rows = (await self._connection.execute(_INVOICE_OF_PERIOD, names)).all()
        return (await self._with_lines(rows))[0] if rows else None

    async def invoices(self, *, before: InvoiceKey | None, count: int) -> Sequence[Invoice]:
        """As BookReader."""
        names = self._names(
            finalize_time=before.finalize_time if before else None,
            invoice_id=before.invoice_id if before else "",
            count=count,
        )
        return await self._with_lines((await self._connection.execute(_INVOICES, names)).all())

    async def closings(self) -> Sequence[Closing]:
        """As BookReader."""
        closed: dict[str, dict[datetime, int]] = defaultdict(dict)
        for row in await self._connection.execute(_CLOSED, self._names()):
            closed[row.subscription_id][row.period_start] = row.closed_through_sequence
        return [
            Closing(
                plan_id=row.plan_id,
                plan_version=row.plan_version,
                anchor=row.anchor,
                end_time=row.end_time,
                closed_through=closed[row.subscription_id],
            )
            for row in await self._connection.execute(_TENURES, self._names())
        ]

    async def stripe_customer_id(self) -> str:
        """As BookReader."""
        return (await self._connection.execute(_STRIPE_CUSTOMER, self._names())).scalar_one_or_none() or ""

    async def answer_to(self, request_id: str, digest: bytes) -> str | None:
        """As BookReader."""
        row = (await self._connection.execute(_ANSWER, self._names(request_id=request_id))).one_or_none()
        if row is None:
            return None
        if bytes(row.digest) != digest:
            raise RequestIdReused(request_id=request_id)
        return str(row.result_id)

    async def head(self) -> Position:
        """As BookReader."""
        row = (await self._connection.execute(_HEAD, self._names())).one_or_none()
        return START if row is None else Position(row.sequence, row.commit_id)

    async def entitlements(self, after: Position) -> EntitlementPage:
        """As BookReader."""
        entries: list[EntitlementEntry] = []
        position = after
        while True:
            page = await _CHANGES.read(self._connection, self._organization_id, position)
            if not page.entries:
                return EntitlementPage(tuple(entries), position)
            entries += [
                _entitlement_from_body(change.position.sequence, change.body)
                for change in page.entries
                if change.kind == _ENTITLEMENT
            ]
            position = page.position

    def _names(self, **more: object) -> dict[str, object]:
        return {"organization_id": self._organization_id, **more}

    async def _with_lines(self, rows: Sequence[Row[Any]]) -> list[Invoice]:
        names = self._names(invoice_ids=[row.invoice_id for row in rows])
        lines: dict[str, list[Line]] = {row.invoice_id: [] for row in rows}
        currencies = {row.invoice_id: row.currency_code for row in rows}
        for line in await self._connection.execute(_LINES, names):
            lines[line.invoice_id].append(_line_from_row(line, currencies[line.invoice_id]))
        return [_invoice_from_row(row, lines[row.invoice_id]) for row in rows]


class PostgresBook(PostgresBookReader):
    """Book over one transaction that holds the organization's lock."""

    async def begin_subscription(self, subscription: Subscription, *, actor: str, request_id: str) -> Subscription:
        """As Book."""
        ended = (await self._connection.execute(_END_SUBSCRIPTION, self._names())).scalar_one_or_none()
        body = {
            "subscription_id": subscription.subscription_id,
            "supersedes": ended,
            "plan_id": subscription.plan_id,
            "plan_version": subscription.plan_version,
            "status": subscription.status.value,
            "anchor_us": unix_microseconds(subscription.anchor),
            "actor": actor,
            "request_id": request_id,
        }
        position = await _CHANGES.append(self._connection, self._organization_id, kind=_ENTITLEMENT, body=body)
        begun = replace(subscription, entitlement_version=position.sequence)
        names = self._names(
            subscription_id=begun.subscription_id,
            plan_id=begun.plan_id,
            plan_version=begun.plan_version,
            status=begun.status.value,
            anchor=begun.anchor,
            entitlement_version=begun.entitlement_version,
        )
        await self._connection.execute(_BEGIN_SUBSCRIPTION, names)
        return replace(begun, stripe_customer_id=await self.stripe_customer_id())

    async def remember_answer(self, request_id: str, digest: bytes, result_id: str) -> None:
        """As Book."""
        names = self._names(request_id=request_id, digest=digest, result_id=result_id)
        await self._connection.execute(_REMEMBER_ANSWER, names)

    async def finalize_invoice(self, invoice: Invoice, *, actor: str, request_id: str) -> Invoice:
        """As Book."""
        body = {
            "invoice_id": invoice.invoice_id,
            "total": str(invoice.total),
            "currency_code": invoice.total.currency_code,
            "closed_through_sequence": invoice.closed_through_sequence,
            "actor": actor,
            "request_id": request_id,
        }
        await _CHANGES.append(self._connection, self._organization_id, kind=_INVOICE_FINALIZED, body=body)
        lines = [self._names(**_line_to_row(invoice, number)) for number in range(len(invoice.lines))]
        await self._connection.execute(_ADD_LINE, lines)
        if invoice.is_collectable:
            due = self._names(invoice_id=invoice.invoice_id, next_attempt_time=invoice.finalize_time)
            await self._connection.execute(_ADD_DUE, due)
        # Last, because from here on every other close of the legal entity waits for this transaction.
        taken = (await self._connection.execute(_TAKE_NUMBER, {"legal_entity": LEGAL_ENTITY})).one()
        numbered = replace(invoice, number=invoice_number(taken.prefix, taken.last_number))
        await self._connection.execute(_ADD_INVOICE, _invoice_to_row(numbered))
        return numbered

    async def set_stripe_customer(self, stripe_customer_id: str) -> None:
        """As Book."""
        await self._connection.execute(_SET_CUSTOMER, self._names(stripe_customer_id=stripe_customer_id))

    async def set_collected(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """As Book."""
        names = self._names(invoice_id=invoice_id, stripe_invoice_id=stripe_invoice_id)
        await self._connection.execute(_SET_STRIPE_INVOICE, names)
        await self._connection.execute(_DELETE_DUE, names)

    async def set_paid(self, invoice_id: str, stripe_invoice_id: str) -> None:
        """As Book."""
        names = self._names(invoice_id=invoice_id, stripe_invoice_id=stripe_invoice_id)
        if (await self._connection.execute(_SET_PAID, names)).rowcount:
            body = {"invoice_id": invoice_id, "stripe_invoice_id": stripe_invoice_id}
            await _CHANGES.append(self._connection, self._organization_id, kind=_INVOICE_PAID, body=body)

    async def set_event_handled(self, event_id: str, *, attempt_count: int, outcome: str) -> bool:
        """As Book."""
        names = {"event_id": event_id, "attempt_count": attempt_count, "outcome": outcome}
        return bool((await self._connection.execute(_SET_EVENT_HANDLED, names)).rowcount)


class PostgresEntitlementHeads:
    """EntitlementHeads as the fleet role."""

    def __init__(self, fleet: Database) -> None:
        self._fleet = fleet

    async def heads(self, mark: str) -> Look:
        """As EntitlementHeads."""
        async with self._fleet.transaction() as connection:
            return await _CHANGES.heads(connection, mark)


def _subscription_from_row(row: Row[Any]) -> Subscription:
    return Subscription(
        subscription_id=row.subscription_id,
        organization_id=row.organization_id,
        plan_id=row.plan_id,
        plan_version=row.plan_version,
        status=SubscriptionStatus(row.status),
        anchor=row.anchor,
        entitlement_version=row.entitlement_version,
        stripe_customer_id=row.stripe_customer_id,
    )


def _entitlement_from_body(version: int, body: Any) -> EntitlementEntry:
    return EntitlementEntry(
        version=version,
        plan_id=body["plan_id"],
        plan_version=body["plan_version"],
        status=SubscriptionStatus(body["status"]),
        anchor=from_unix_microseconds(body["anchor_us"]),
    )


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


_BEGIN_HEAD = text("""
    INSERT INTO billing.change_heads (organization_id, sequence, commit_id) VALUES (:organization_id, 0, '')
    ON CONFLICT (organization_id) DO NOTHING
""")
_LOCK_HEAD = text("SELECT 1 FROM billing.change_heads WHERE organization_id = :organization_id FOR UPDATE")
_HEAD = text("SELECT sequence, commit_id FROM billing.change_heads WHERE organization_id = :organization_id")
_SUBSCRIPTION_COLUMNS = """
    SELECT organization_id, subscription_id, plan_id, plan_version, status, anchor, entitlement_version,
        coalesce(customers.stripe_customer_id, '') AS stripe_customer_id
    FROM billing.subscriptions LEFT JOIN billing.stripe_customers AS customers USING (organization_id)
    WHERE organization_id = :organization_id
"""
_IN_FORCE = text(f"{_SUBSCRIPTION_COLUMNS} AND status <> 'CANCELED'")
_SUBSCRIPTION = text(f"{_SUBSCRIPTION_COLUMNS} AND subscription_id = :subscription_id")
_END_SUBSCRIPTION = text("""
    UPDATE billing.subscriptions SET status = 'CANCELED', end_time = now()
    WHERE organization_id = :organization_id AND status <> 'CANCELED' RETURNING subscription_id
""")
_BEGIN_SUBSCRIPTION = text("""
    INSERT INTO billing.subscriptions (
        organization_id, subscription_id, plan_id, plan_version, status, anchor, entitlement_version)
    VALUES (:organization_id, :subscription_id, :plan_id, :plan_version, :status, :anchor, :entitlement_version)
""")
_TENURES = text("""
    SELECT subscription_id, plan_id, plan_version, anchor, end_time FROM billing.subscriptions
    WHERE organization_id = :organization_id ORDER BY entitlement_version
""")
_CLOSED = text("""
    SELECT subscription_id, period_start, closed_through_sequence FROM billing.invoices
    WHERE organization_id = :organization_id
""")
_ANSWER = text("""
    SELECT digest, result_id FROM billing.requests
    WHERE organization_id = :organization_id AND request_id = :request_id
""")
_REMEMBER_ANSWER = text("""
    INSERT INTO billing.requests (organization_id, request_id, digest, result_id)
    VALUES (:organization_id, :request_id, :digest, :result_id)
""")
_STRIPE_CUSTOMER = text("""
    SELECT stripe_customer_id FROM billing.stripe_customers WHERE organization_id = :organization_id
""")
_SET_CUSTOMER = text("""
    INSERT INTO billing.stripe_customers (organization_id, stripe_customer_id)
    VALUES (:organization_id, :stripe_customer_id) ON CONFLICT (organization_id) DO NOTHING
""")
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
_SET_EVENT_HANDLED = text("""
    UPDATE billing.stripe_events SET handle_time = now(), outcome = :outcome
    WHERE event_id = :event_id AND attempt_count = :attempt_count AND handle_time IS NULL
""")
