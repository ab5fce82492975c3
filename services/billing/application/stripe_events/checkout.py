"""checkout.session.completed: the plan that it was for begins, charged to what the customer left there."""

from __future__ import annotations

from services.billing.application.ports.books import Books
from services.billing.application.ports.stripe import CheckoutsAtStripe, CustomersAtStripe
from services.billing.application.ports.stripe_events import DueEvent
from services.billing.application.put_on_plan import PutOnPlan
from services.billing.application.stripe_events.effects import ACTOR, Effect, Nothing


class FinishCheckout:
    """Begins what was bought, once, however often it is told."""

    def __init__(
        self, checkouts: CheckoutsAtStripe, customers: CustomersAtStripe, books: Books, put_on_plan: PutOnPlan
    ) -> None:
        self._checkouts = checkouts
        self._customers = customers
        self._books = books
        self._put_on_plan = put_on_plan

    async def __call__(self, due: DueEvent) -> Nothing | Effect:
        """See effects.Handler."""
        session = await self._checkouts.look_up(due.object_id) if due.object_id else None
        if session is None:
            return Nothing("no such checkout at Stripe")
        if not session.organization_id or not session.plan_id:
            return Nothing("not a checkout of ours")
        if not session.is_complete:
            return Nothing("not complete at Stripe")
        async with self._books.read(session.organization_id) as reader:
            if session.stripe_customer_id != await reader.customer.stripe_id():
                return Nothing("of another customer than the organization's")
        if session.payment_method_id:
            await self._customers.keep_payment_method(session.stripe_customer_id, session.payment_method_id)
        outcome = await self._put_on_plan(
            session.organization_id,
            session.plan_id,
            request_id=f"checkout:{session.stripe_checkout_id}"[:128],
            actor=ACTOR,
        )
        return Nothing(outcome)
