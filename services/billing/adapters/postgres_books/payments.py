"""What became of invoices at Stripe, in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text

from services.billing.adapters.postgres_books.page import Page
from services.billing.adapters.postgres_books.revenue import PostgresRevenue
from services.billing.application.ports.payments import WaitingDraft
from services.billing.domain.invoices import InvoiceState
from services.billing.domain.payments import states_before
from services.billing.domain.stripe_objects import StripeDispute, StripeRefund

_REFUND, _DISPUTE = "invoice_refunded", "invoice_disputed"


class PostgresPayments:
    """PaymentBook over one transaction."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def follow(self, invoice_id: str, state: InvoiceState, *, stripe_invoice_id: str, actor: str) -> bool:
        """As PaymentBook."""
        names = self._page.names(
            invoice_id=invoice_id,
            stripe_invoice_id=stripe_invoice_id,
            state=state.value,
            befores=[each.value for each in states_before(state)],
        )
        moved = (await self._page.execute(_FOLLOW, names)).one_or_none()
        if moved is None:
            return False
        if state in (InvoiceState.PAID, InvoiceState.VOID):
            await self._page.execute(_DELETE_DUE, self._page.names(invoice_id=invoice_id))
        if state is InvoiceState.VOID:
            await PostgresRevenue(self._page).forget_invoice(invoice_id)
        body = {
            "invoice_id": invoice_id,
            "stripe_invoice_id": moved.stripe_invoice_id,
            "actor": actor,
        }
        await self._page.append(kind=f"invoice_{state.value.lower()}", body=body)
        return True

    async def take_off(self, invoice_id: str) -> None:
        """As PaymentBook."""
        await self._page.execute(_DELETE_DUE, self._page.names(invoice_id=invoice_id))

    async def refunds(self, invoice_id: str) -> Sequence[StripeRefund]:
        """As PaymentBook."""
        rows = await self._page.execute(_REFUNDS, self._page.names(invoice_id=invoice_id))
        return [_refund_from_row(row) for row in rows]

    async def disputes(self, invoice_id: str) -> Sequence[StripeDispute]:
        """As PaymentBook."""
        rows = await self._page.execute(_DISPUTES, self._page.names(invoice_id=invoice_id))
        return [_dispute_from_row(row) for row in rows]

    async def keep_refund(self, invoice_id: str, refund: StripeRefund) -> None:
        """As PaymentBook."""
        names = self._page.names(
            invoice_id=invoice_id,
            stripe_refund_id=refund.stripe_refund_id,
            amount_minor=refund.amount_minor,
            currency_code=refund.currency_code,
            status=refund.status,
            credit_note_id=refund.credit_note_id,
        )
        if (await self._page.execute(_KEEP_REFUND, names)).rowcount:
            body = {
                "invoice_id": invoice_id,
                "stripe_refund_id": refund.stripe_refund_id,
                "amount_minor": str(refund.amount_minor),
                "currency_code": refund.currency_code,
                "status": refund.status,
            }
            await self._page.append(kind=_REFUND, body=body)

    async def keep_dispute(self, invoice_id: str, dispute: StripeDispute) -> None:
        """As PaymentBook."""
        names = self._page.names(
            invoice_id=invoice_id,
            stripe_dispute_id=dispute.stripe_dispute_id,
            stripe_charge_id=dispute.stripe_charge_id,
            amount_minor=dispute.amount_minor,
            currency_code=dispute.currency_code,
            status=dispute.status,
            reason=dispute.reason,
        )
        if (await self._page.execute(_KEEP_DISPUTE, names)).rowcount:
            body = {
                "invoice_id": invoice_id,
                "stripe_dispute_id": dispute.stripe_dispute_id,
                "status": dispute.status,
                "reason": dispute.reason,
            }
            await self._page.append(kind=_DISPUTE, body=body)

    async def waiting_draft(self, invoice_id: str) -> WaitingDraft | None:
        """As PaymentBook."""
        row = (await self._page.execute(_WAITING_DRAFT, self._page.names(invoice_id=invoice_id))).one_or_none()
        return None if row is None else WaitingDraft(row.stripe_invoice_id, row.stripe_customer_id)

    async def keep_draft(self, draft: WaitingDraft) -> None:
        """As PaymentBook."""
        names = self._page.names(stripe_invoice_id=draft.stripe_invoice_id, stripe_customer_id=draft.stripe_customer_id)
        await self._page.execute(_KEEP_DRAFT, names)

    async def drop_draft(self, stripe_invoice_id: str) -> None:
        """As PaymentBook."""
        await self._page.execute(_DROP_DRAFT, self._page.names(stripe_invoice_id=stripe_invoice_id))

    async def use_draft(self, stripe_invoice_id: str, invoice_id: str) -> None:
        """As PaymentBook."""
        names = self._page.names(stripe_invoice_id=stripe_invoice_id, invoice_id=invoice_id)
        await self._page.execute(_USE_DRAFT, names)


def _refund_from_row(row: Row[Any]) -> StripeRefund:
    return StripeRefund(
        stripe_refund_id=row.stripe_refund_id,
        amount_minor=int(row.amount_minor),
        currency_code=row.currency_code,
        status=row.status,
        credit_note_id=row.credit_note_id,
    )


def _dispute_from_row(row: Row[Any]) -> StripeDispute:
    return StripeDispute(
        stripe_dispute_id=row.stripe_dispute_id,
        stripe_charge_id=row.stripe_charge_id,
        amount_minor=int(row.amount_minor),
        currency_code=row.currency_code,
        status=row.status,
        reason=row.reason,
    )


_FOLLOW = text("""
    UPDATE billing.invoices SET state = :state,
        stripe_invoice_id = CASE WHEN :stripe_invoice_id = '' THEN stripe_invoice_id ELSE :stripe_invoice_id END
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id AND state = ANY(:befores)
    RETURNING stripe_invoice_id
""")
_DELETE_DUE = text("""
    DELETE FROM billing.due_invoices WHERE organization_id = :organization_id AND invoice_id = :invoice_id
""")
_REFUNDS = text("""
    SELECT stripe_refund_id, amount_minor, currency_code, status, credit_note_id FROM billing.refunds
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id
""")
_DISPUTES = text("""
    SELECT stripe_dispute_id, stripe_charge_id, amount_minor, currency_code, status, reason FROM billing.disputes
    WHERE organization_id = :organization_id AND invoice_id = :invoice_id
""")
# Of what never changes nothing is rewritten; and what is told again as it was is no change.
_KEEP_REFUND = text("""
    INSERT INTO billing.refunds AS kept (
        organization_id, stripe_refund_id, invoice_id, amount_minor, currency_code, status, credit_note_id)
    VALUES (:organization_id, :stripe_refund_id, :invoice_id, :amount_minor, :currency_code, :status, :credit_note_id)
    ON CONFLICT (organization_id, stripe_refund_id) DO UPDATE SET status = :status WHERE kept.status <> :status
""")
_KEEP_DISPUTE = text("""
    INSERT INTO billing.disputes AS kept (
        organization_id, stripe_dispute_id, invoice_id, stripe_charge_id, amount_minor, currency_code, status, reason)
    VALUES (:organization_id, :stripe_dispute_id, :invoice_id, :stripe_charge_id, :amount_minor, :currency_code,
        :status, :reason)
    ON CONFLICT (organization_id, stripe_dispute_id) DO UPDATE SET status = :status, reason = :reason
    WHERE (kept.status, kept.reason) <> (:status, :reason)
""")
_WAITING_DRAFT = text("""
    SELECT stripe_invoice_id, stripe_customer_id FROM billing.stripe_drafts
    WHERE organization_id = :organization_id AND invoice_id IN (:invoice_id, '')
    ORDER BY invoice_id DESC, create_time, stripe_invoice_id LIMIT 1
""")
_KEEP_DRAFT = text("""
    INSERT INTO billing.stripe_drafts (organization_id, stripe_invoice_id, stripe_customer_id)
    VALUES (:organization_id, :stripe_invoice_id, :stripe_customer_id) ON CONFLICT DO NOTHING
""")
_DROP_DRAFT = text("""
    DELETE FROM billing.stripe_drafts
    WHERE organization_id = :organization_id AND stripe_invoice_id = :stripe_invoice_id
""")
_USE_DRAFT = text("""
    UPDATE billing.stripe_drafts SET invoice_id = :invoice_id
    WHERE organization_id = :organization_id AND stripe_invoice_id = :stripe_invoice_id
""")
