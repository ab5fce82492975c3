"""Our organizations as Stripe's customers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kit.clock import unix_microseconds
from services.billing.adapters.stripe.client import Missing, StripeApi, keyed
from services.billing.adapters.stripe.shapes import ORGANIZATION_KEY, customer_from_stripe, customer_of
from services.billing.domain.errors import CustomerGone
from services.billing.domain.profile import BillingProfile
from services.billing.domain.stripe_objects import StripeCustomer

_ADDRESS_LINES = ("line1", "line2")
_FIELD_CHARACTERS_MAX = 140
"""Of a custom field's value, at Stripe."""


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

    async def describe(self, stripe_customer_id: str, profile: BillingProfile) -> None:
        """As CustomersAtStripe."""
        try:
            await self._api(self._customers.update_async, stripe_customer_id, _described(profile))  # type: ignore[arg-type]  # a dict built in another place
        except Missing as refusal:
            raise CustomerGone(str(refusal)) from refusal

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


def _described(profile: BillingProfile) -> dict[str, Any]:
    """What is not known is left as it is there."""
    party, described = profile.party, dict[str, Any]()
    if party.legal_name:
        described["name"] = party.legal_name
    if party.mail:
        described["email"] = party.mail
    # Ours are lines as they are printed; beyond the first one, Stripe has one more.
    lines = [party.address_lines[0], ", ".join(party.address_lines[1:])] if party.address_lines else []
    address = {name: line for name, line in zip(_ADDRESS_LINES, lines, strict=False) if line}
    if party.country_code:
        address["country"] = party.country_code
    if party.tax_id:
        # As text on its invoices: Stripe's own tax ids want a kind for each country, which we do not know.
        field = {"name": "Tax ID", "value": party.tax_id[:_FIELD_CHARACTERS_MAX]}
        described["invoice_settings"] = {"custom_fields": [field]}
    return described | ({"address": address} if address else {})
