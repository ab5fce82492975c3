"""Checkout and the customer's portal: pages of Stripe's that a customer is sent to and comes back from.

Checkout runs in setup mode: it leaves us with a way to charge the customer and with no invoice of Stripe's own, so the
first invoice, as every other, is ours (docs/adr/0027-tollbook-authors-stripe-collects.md).
"""

from __future__ import annotations

from services.billing.adapters.stripe.client import Missing, StripeApi, keyed
from services.billing.adapters.stripe.shapes import ORGANIZATION_KEY, PLAN_KEY, checkout_from_stripe
from services.billing.application.ports.stripe import CheckoutOrder, HostedPage
from services.billing.domain.stripe_objects import StripeCheckout


class StripeCheckouts:
    """CheckoutsAtStripe over the API."""

    def __init__(self, api: StripeApi) -> None:
        self._api = api

    async def begin(self, order: CheckoutOrder) -> HostedPage:
        """As CheckoutsAtStripe."""
        metadata = {ORGANIZATION_KEY: order.organization_id, PLAN_KEY: order.plan_id}
        session = await self._api(
            self._api.v1.checkout.sessions.create_async,
            {
                "mode": "setup",
                "customer": order.stripe_customer_id,
                "currency": order.currency_code.lower(),
                "success_url": order.success_url,
                "cancel_url": order.cancel_url,
                "client_reference_id": order.organization_id,
                "metadata": metadata,
                "setup_intent_data": {"metadata": metadata},
                "custom_text": {"submit": {"message": order.message}},
            },
            keyed("checkout", order.order_id, 1),
        )
        return HostedPage(session.id, session.url or "")

    async def look_up(self, stripe_checkout_id: str) -> StripeCheckout | None:
        """As CheckoutsAtStripe."""
        try:
            body = await self._api(
                self._api.v1.checkout.sessions.retrieve_async, stripe_checkout_id, {"expand": ["setup_intent"]}
            )
        except Missing:
            return None
        return checkout_from_stripe(body.to_dict())

    async def open_portal(self, stripe_customer_id: str, return_url: str) -> HostedPage:
        """As CheckoutsAtStripe."""
        session = await self._api(
            self._api.v1.billing_portal.sessions.create_async,
            {"customer": stripe_customer_id, "return_url": return_url},
        )
        return HostedPage(session.id, session.url)
