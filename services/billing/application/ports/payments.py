"""What became of an organization's invoices at Stripe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.billing.domain.invoices import InvoiceState
from services.billing.domain.stripe_objects import StripeDispute, StripeRefund


@dataclass(frozen=True, slots=True)
class WaitingDraft:
    """A draft that Stripe made for a subscription, held until an invoice of ours goes onto it."""

    stripe_invoice_id: str
    stripe_customer_id: str


class PaymentReader(Protocol):
    """The payments in one organization's books."""

    async def refunds(self, invoice_id: str) -> Sequence[StripeRefund]:
        """What went back of an invoice, in no order."""
        ...

    async def disputes(self, invoice_id: str) -> Sequence[StripeDispute]:
        """Who disputes an invoice's payment, in no order."""
        ...

    async def waiting_draft(self, invoice_id: str) -> WaitingDraft | None:
        """The draft that is set aside for the invoice; else the oldest that no invoice has; None when there is none."""
        ...


class PaymentBook(PaymentReader, Protocol):
    """The same, open for writing. Every change is an entry of the change log."""

    async def follow(self, invoice_id: str, state: InvoiceState, *, stripe_invoice_id: str, actor: str) -> bool:
        """Moves a finalized invoice to the state, if it may go there from where it is; True when it moved. Paid and
        void ones move no more, so nothing that is told late or twice takes a payment back. What is settled is off the
        list of what is to be collected.
        """
        ...

    async def take_off(self, invoice_id: str) -> None:
        """Takes an invoice off the list of what is to be collected."""
        ...

    async def keep_refund(self, invoice_id: str, refund: StripeRefund) -> None:
        """Keeps a refund as it is now."""
        ...

    async def keep_dispute(self, invoice_id: str, dispute: StripeDispute) -> None:
        """Keeps a dispute as it is now."""
        ...

    async def keep_draft(self, draft: WaitingDraft) -> None:
        """Keeps a draft for the next invoice; one that is kept already stays as it is."""
        ...

    async def drop_draft(self, stripe_invoice_id: str) -> None:
        """Forgets a draft that is gone or void at Stripe."""
        ...

    async def use_draft(self, stripe_invoice_id: str, invoice_id: str) -> None:
        """Sets a draft aside for one invoice."""
        ...
