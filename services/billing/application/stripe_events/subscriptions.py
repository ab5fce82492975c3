"""customer.subscription.*: what our organization is subscribed to follows the subscriptions that it has at Stripe."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from services.billing.application.ports.stripe import CustomersAtStripe, SubscriptionsAtStripe
from services.billing.application.ports.stripe_events import DueEvent
from services.billing.application.put_on_plan import PutOnPlan
from services.billing.application.stripe_events.effects import ACTOR, Effect, Nothing
from services.billing.domain.stripe_objects import StripeSubscription

log = structlog.get_logger()


class FollowSubscription:
    """Activates, changes the tier, goes down to free. All of the customer's subscriptions are looked at, and not only
    the event's: so the end of an old one, told late, ends nothing that was begun since.
    """

    def __init__(
        self, subscriptions: SubscriptionsAtStripe, customers: CustomersAtStripe, put_on_plan: PutOnPlan
    ) -> None:
        self._subscriptions = subscriptions
        self._customers = customers
        self._put_on_plan = put_on_plan

    async def __call__(self, due: DueEvent) -> Nothing | Effect:
        """See effects.Handler."""
        told = await self._subscriptions.look_up(due.object_id) if due.object_id else None
        if told is None:
            return Nothing("no such subscription at Stripe")
        organization_id = told.organization_id or await self._owner(told.stripe_customer_id)
        if not organization_id:
            return Nothing("not a subscription of ours")
        begun = _in_force(await self._subscriptions.of_customer(told.stripe_customer_id))
        # The event's id and what is wanted: the same event, looked at again when that has changed, is another request.
        if begun is not None:
            request_id = f"stripe:{due.event_id}:{begun.plan_id}"[:128]
            return Nothing(
                await self._put_on_plan(
                    organization_id,
                    begun.plan_id,
                    request_id=request_id,
                    actor=ACTOR,
                    ends_with_period=begun.cancels_at_period_end,
                )
            )
        if told.has_ended and told.plan_id:
            request_id = f"stripe:{due.event_id}:end"[:128]
            return Nothing(
                await self._put_on_plan.end(organization_id, told.plan_id, request_id=request_id, actor=ACTOR)
            )
        return Nothing(f"{told.status} at Stripe")

    async def _owner(self, stripe_customer_id: str) -> str:
        customer = await self._customers.look_up(stripe_customer_id) if stripe_customer_id else None
        return customer.organization_id if customer else ""


def _in_force(subscriptions: Sequence[StripeSubscription]) -> StripeSubscription | None:
    """The newest that has begun and sells a plan of ours."""
    return next((each for each in subscriptions if each.has_begun and each.plan_id), None)
