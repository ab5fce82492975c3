"""Our organizations as Stripe's customers."""

from __future__ import annotations

from datetime import datetime

from kit.clock import unix_microseconds
from services.billing.adapters.stripe.client import Missing, StripeApi, keyed
from services.billing.adapters.stripe.shapes import ORGANIZATION_KEY, customer_from_stripe, customer_of
from services.billing.domain.stripe_objects import StripeCustomer


class StripeCustomers:
    """CustomersAtStripe over the API."""

    def __init__(self, api: StripeApi) -> None:
        self._api = api
        self._customers = api.v1.customers

    async def ensure(self, organization_id: str, *, since: datetime, attempt_count: int, generation: int = 0) -> str:
        """As CustomersAtStripe."""
        if attempt_count > 1:
            found = await self._find(organization_id, since)
            if found:
                return found
        made = await self._api(
            self._customers.create_async,
            {"name": organization_id, "metadata": {ORGANIZATION_KEY: organization_id}},
            # A customer that was deleted at Stripe is made anew: not under the key that made the first.
            keyed("customer", f"{organization_id}-{generation}" if generation else organization_id, attempt_count),
        )
        return made.id

    async def look_up(self, stripe_customer_id: str) -> StripeCustomer | None:
        """As CustomersAtStripe."""
        try:
            return customer_from_stripe((await self._api(self._customers.retrieve_async, stripe_customer_id)).to_dict())
        except Missing:
            return None

    async def payment_method_owner(self, payment_method_id: str) -> str:
        """As CustomersAtStripe."""
        try:
            body = await self._api(self._api.v1.payment_methods.retrieve_async, payment_method_id)
        except Missing:
            return ""
        return customer_of(body.to_dict())

    async def keep_payment_method(self, stripe_customer_id: str, payment_method_id: str) -> None:
        """As CustomersAtStripe."""
        await self._api(
            self._customers.update_async,
            stripe_customer_id,
            {"invoice_settings": {"default_payment_method": payment_method_id}},
        )

    async def _find(self, organization_id: str, since: datetime) -> str:
        """The customer that an attempt before may have made."""
        created = {"gte": unix_microseconds(since) // 1_000_000}
        async for body in self._api.all_of(self._customers.list_async, {"created": created}):
            customer = customer_from_stripe(body)
            if customer.organization_id == organization_id:
                return customer.stripe_customer_id
        return ""
