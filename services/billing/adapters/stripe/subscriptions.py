"""Subscriptions that were made at Stripe."""

from __future__ import annotations

from collections.abc import Sequence

from services.billing.adapters.stripe.client import Missing, StripeApi
from services.billing.adapters.stripe.shapes import subscription_from_stripe
from services.billing.domain.stripe_objects import StripeSubscription


class StripeSubscriptions:
    """SubscriptionsAtStripe over the API."""

    def __init__(self, api: StripeApi) -> None:
        self._api = api
        self._subscriptions = api.v1.subscriptions

    async def of_customer(self, stripe_customer_id: str) -> Sequence[StripeSubscription]:
        """As SubscriptionsAtStripe."""
        params = {"customer": stripe_customer_id, "status": "all"}
        return [
            subscription_from_stripe(each) async for each in self._api.all_of(self._subscriptions.list_async, params)
        ]

    async def look_up(self, stripe_subscription_id: str) -> StripeSubscription | None:
        """As SubscriptionsAtStripe."""
        try:
            body = await self._api(self._subscriptions.retrieve_async, stripe_subscription_id)
        except Missing:
            return None
        return subscription_from_stripe(body.to_dict())
