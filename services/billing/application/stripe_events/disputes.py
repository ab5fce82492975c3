"""Refunds and disputes of our invoices' payments."""

from __future__ import annotations

import structlog

from kit.clock import Clock
from services.billing.application.ports.books import Book
from services.billing.application.ports.collection import Collector
from services.billing.application.ports.stripe import PaymentsAtStripe
from services.billing.application.ports.stripe_events import DueEvent
from services.billing.application.settle_purchase import settle_purchase
from services.billing.application.stripe_events.effects import ACTOR, Effect, Nothing
from services.billing.domain.stripe_objects import StripeCharge, StripeInvoice

log = structlog.get_logger()


class KeepRefunds:
    """Handles charge.refunded and refund.*: every refund of the charge is kept as it is now."""

    def __init__(self, payments: PaymentsAtStripe, collector: Collector, clock: Clock) -> None:
        self._payments = payments
        self._collector = collector
        self._clock = clock

    async def __call__(self, due: DueEvent) -> Nothing | Effect:
        """See effects.Handler."""
        charge_id = due.object_id
        if charge_id.startswith(("re_", "pyr_")):
            charge_id = await self._payments.charge_of_refund(charge_id)
        charge, theirs = await _paid_by(charge_id, self._payments, self._collector)
        if charge is None or theirs is None:
            return Nothing("not a payment of an invoice of ours")

        async def apply(book: Book) -> str:
            invoice = await book.invoices.get(theirs.invoice_id)
            for refund in charge.refunds:
                await book.payments.keep_refund(invoice.invoice_id, refund)
            await settle_purchase(book, invoice.invoice_id, at=self._clock.now(), actor=ACTOR)
            return f"{len(charge.refunds)} refunds"

        return Effect(theirs.organization_id, apply)


class KeepDispute:
    """Handles charge.dispute.*: the dispute is kept as it is now; an open one is the operator's to answer."""

    def __init__(self, payments: PaymentsAtStripe, collector: Collector, clock: Clock) -> None:
        self._payments = payments
        self._collector = collector
        self._clock = clock

    async def __call__(self, due: DueEvent) -> Nothing | Effect:
        """See effects.Handler."""
        dispute = await self._payments.dispute(due.object_id) if due.object_id else None
        if dispute is None:
            return Nothing("no such dispute at Stripe")
        charge, theirs = await _paid_by(dispute.stripe_charge_id, self._payments, self._collector)
        if charge is None or theirs is None:
            return Nothing("not a payment of an invoice of ours")

        async def apply(book: Book) -> str:
            invoice = await book.invoices.get(theirs.invoice_id)
            await book.payments.keep_dispute(invoice.invoice_id, dispute)
            await settle_purchase(book, invoice.invoice_id, at=self._clock.now(), actor=ACTOR)
            if dispute.is_open:
                log.error("dispute_open", invoice_id=invoice.invoice_id, stripe_id=dispute.stripe_dispute_id)
            return f"dispute {dispute.status}"

        return Effect(theirs.organization_id, apply)


async def _paid_by(
    charge_id: str, payments: PaymentsAtStripe, collector: Collector
) -> tuple[StripeCharge | None, StripeInvoice | None]:
    """The charge, and the invoice of ours at Stripe that it pays; None where there is none."""
    charge = await payments.charge(charge_id) if charge_id else None
    if charge is None or not charge.stripe_invoice_id:
        return charge, None
    theirs = await collector.look_up(charge.stripe_invoice_id)
    return charge, theirs if theirs is not None and theirs.organization_id and theirs.invoice_id else None
