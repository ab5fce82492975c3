"""What became of invoices at Stripe, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.billing.adapters.memory.world import World
from services.billing.application.ports.payments import WaitingDraft
from services.billing.domain.invoices import InvoiceState
from services.billing.domain.payments import states_before
from services.billing.domain.stripe_objects import StripeDispute, StripeRefund


class MemoryPayments:
    """PaymentBook over a copy of the world."""

    def __init__(self, world: World, organization_id: str) -> None:
        self._world = world
        self._pages = world.pages[organization_id]
        self._organization_id = organization_id

    async def follow(self, invoice_id: str, state: InvoiceState, *, stripe_invoice_id: str, actor: str) -> bool:  # noqa: ARG002
        """As PaymentBook."""
        invoice = self._pages.invoices.get(invoice_id)
        if invoice is None or invoice.state not in states_before(state):
            return False
        at = stripe_invoice_id or invoice.stripe_invoice_id
        self._pages.invoices[invoice_id] = replace(invoice, state=state, stripe_invoice_id=at)
        if state in (InvoiceState.PAID, InvoiceState.VOID):
            self._world.due.pop((self._organization_id, invoice_id), None)
        self._pages.change(None)
        return True

    async def take_off(self, invoice_id: str) -> None:
        """As PaymentBook."""
        self._world.due.pop((self._organization_id, invoice_id), None)

    async def refunds(self, invoice_id: str) -> Sequence[StripeRefund]:
        """As PaymentBook."""
        return [refund for about, refund in self._pages.refunds.values() if about == invoice_id]

    async def disputes(self, invoice_id: str) -> Sequence[StripeDispute]:
        """As PaymentBook."""
        return [dispute for about, dispute in self._pages.disputes.values() if about == invoice_id]

    async def keep_refund(self, invoice_id: str, refund: StripeRefund) -> None:
        """As PaymentBook."""
        kept = self._pages.refunds.get(refund.stripe_refund_id)
        if kept is None or kept[1].status != refund.status:
            as_first = refund if kept is None else replace(kept[1], status=refund.status)
            self._pages.refunds[refund.stripe_refund_id] = (kept[0] if kept else invoice_id, as_first)
            self._pages.change(None)

    async def keep_dispute(self, invoice_id: str, dispute: StripeDispute) -> None:
        """As PaymentBook."""
        kept = self._pages.disputes.get(dispute.stripe_dispute_id)
        if kept is None or (kept[1].status, kept[1].reason) != (dispute.status, dispute.reason):
            as_first = dispute if kept is None else replace(kept[1], status=dispute.status, reason=dispute.reason)
            self._pages.disputes[dispute.stripe_dispute_id] = (kept[0] if kept else invoice_id, as_first)
            self._pages.change(None)

    async def waiting_draft(self, invoice_id: str) -> WaitingDraft | None:
        """As PaymentBook."""
        drafts = self._pages.drafts.values()
        chosen = [draft for draft, about in drafts if about == invoice_id] or [
            draft for draft, about in drafts if not about
        ]
        return chosen[0] if chosen else None

    async def keep_draft(self, draft: WaitingDraft) -> None:
        """As PaymentBook."""
        self._pages.drafts.setdefault(draft.stripe_invoice_id, (draft, ""))

    async def drop_draft(self, stripe_invoice_id: str) -> None:
        """As PaymentBook."""
        self._pages.drafts.pop(stripe_invoice_id, None)

    async def use_draft(self, stripe_invoice_id: str, invoice_id: str) -> None:
        """As PaymentBook."""
        draft, _ = self._pages.drafts[stripe_invoice_id]
        self._pages.drafts[stripe_invoice_id] = (draft, invoice_id)
