"""invoice.created: a draft that Stripe makes for a subscription of ours is held until our invoice goes onto it."""

from __future__ import annotations

from kit.errors import NotFound
from services.billing.application.ports.books import Book
from services.billing.application.ports.collection import Collector
from services.billing.application.ports.payments import WaitingDraft
from services.billing.application.ports.stripe import CustomersAtStripe
from services.billing.application.ports.stripe_events import DueEvent
from services.billing.application.stripe_events.effects import Effect, Nothing
from services.billing.domain.stripe_objects import StripeInvoiceStatus

_CHARGED = frozenset({StripeInvoiceStatus.OPEN, StripeInvoiceStatus.PAID})


class HoldDraft:
    """Keeps Stripe's draft from finalizing itself. What goes onto it is the invoice that our own close makes, when the
    period's late usage is in: the collector takes the draft for it.
    """

    def __init__(self, collector: Collector, customers: CustomersAtStripe) -> None:
        self._collector = collector
        self._customers = customers

    async def __call__(self, due: DueEvent) -> Nothing | Effect:
        """See effects.Handler."""
        theirs = await self._collector.look_up(due.object_id) if due.object_id else None
        if theirs is None:
            return Nothing("no such invoice at Stripe")
        if theirs.invoice_id or not theirs.stripe_subscription_id:
            return Nothing("not drafted for a subscription")
        organization_id = theirs.organization_id
        if not organization_id:
            customer = await self._customers.look_up(theirs.stripe_customer_id)
            organization_id = customer.organization_id if customer else ""
        if not organization_id:
            # Somebody else's, in the same account: not ours to touch.
            return Nothing("not an invoice of ours")
        outcome = "held"
        if theirs.status is StripeInvoiceStatus.DRAFT:
            await self._collector.hold(theirs.stripe_invoice_id)
        elif theirs.status in _CHARGED and theirs.total_minor:
            # A subscription's first invoice is charged at once. It stands for ours if it is of the same amount.
            outcome = f"{theirs.status.value} at Stripe before it could be held: to be compared with ours"
        else:
            return Nothing(f"{theirs.status.value} at Stripe, over {theirs.total_minor}")

        async def apply(book: Book) -> str:
            if await book.subscriptions.in_force() is None:
                raise NotFound(what="organization", name=organization_id)
            await book.payments.keep_draft(WaitingDraft(theirs.stripe_invoice_id, theirs.stripe_customer_id))
            return outcome

        return Effect(organization_id, apply)
