"""Customer and payment method events."""

from __future__ import annotations

from services.billing.application.ports.stripe import CustomersAtStripe
from services.billing.application.ports.stripe_events import DueEvent
from services.billing.application.stripe_events.effects import Effect, Nothing


class LookAtCustomer:
    """Handles customer.updated and customer.deleted. Nothing of a customer is copied, so nothing can be stale; a
    deleted one is noticed, and made anew, at the next collection, which fails for that reason.
    """

    def __init__(self, customers: CustomersAtStripe) -> None:
        self._customers = customers

    async def __call__(self, due: DueEvent) -> Nothing | Effect:
        """See effects.Handler."""
        customer = await self._customers.look_up(due.object_id) if due.object_id else None
        if customer is None or customer.is_deleted:
            return Nothing("deleted at Stripe: another one is made at the next collection")
        return Nothing("noted" if customer.organization_id else "not a customer of ours")


class UseFirstPaymentMethod:
    """Handles payment_method.*: the first one that a customer of ours has becomes what invoices are charged to."""

    def __init__(self, customers: CustomersAtStripe) -> None:
        self._customers = customers

    async def __call__(self, due: DueEvent) -> Nothing | Effect:
        """See effects.Handler."""
        owner = await self._customers.payment_method_owner(due.object_id) if due.object_id else ""
        customer = await self._customers.look_up(owner) if owner else None
        if customer is None or not customer.organization_id:
            return Nothing("not a customer of ours")
        if customer.has_default_payment_method:
            return Nothing("noted")
        await self._customers.keep_payment_method(owner, due.object_id)
        return Nothing("charged to from now on")
