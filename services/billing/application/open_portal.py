"""Open portal: sends a customer to Stripe's page for cards and receipts."""

from __future__ import annotations

from collections.abc import Collection

from kit.clock import Clock
from kit.errors import InvalidState
from services.billing.application.ports.books import Books
from services.billing.application.ports.stripe import CheckoutsAtStripe, CustomersAtStripe, HostedPage
from services.billing.application.stripe_customer import stripe_customer
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.return_urls import require_return_url


class OpenPortal:
    """Makes a portal session."""

    def __init__(
        self,
        *,
        books: Books,
        subscription_in_force: SubscriptionInForce,
        customers: CustomersAtStripe,
        checkouts: CheckoutsAtStripe,
        hosts: Collection[str],
        clock: Clock,
    ) -> None:
        self._books = books
        self._subscription_in_force = subscription_in_force
        self._customers = customers
        self._checkouts = checkouts
        self._hosts = hosts
        self._clock = clock

    async def __call__(self, organization_id: str, *, return_url: str) -> HostedPage:
        """A page for this customer, good for some minutes. Raises InvalidField for a URL of a host that is not allowed,
        OrganizationNotFound, InvalidState when Stripe has no portal configured, and DependencyUnavailable.
        """
        require_return_url("return_url", return_url, self._hosts)
        await self._subscription_in_force(organization_id)
        customer_id = await stripe_customer(self._books, self._customers, organization_id, now=self._clock.now())
        try:
            return await self._checkouts.open_portal(customer_id, return_url)
        except CollectionRefused as refusal:
            raise InvalidState(problem=f"Stripe does not allow it: {refusal}") from refusal
