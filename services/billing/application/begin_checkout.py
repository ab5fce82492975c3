"""Begin checkout: sends a customer to Stripe to say how to pay for a plan."""

from __future__ import annotations

from collections.abc import Collection

from kit.clock import Clock
from kit.errors import InvalidField, InvalidState
from services.billing.application.find_wanted_plan import FindWantedPlan
from services.billing.application.ports.books import Books
from services.billing.application.ports.stripe import CheckoutOrder, CheckoutsAtStripe, CustomersAtStripe, HostedPage
from services.billing.application.stripe_customer import stripe_customer
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.catalog import FREE_PLAN, Plan
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.requests import request_digest, require_request_id
from services.billing.domain.return_urls import require_return_url


class BeginCheckout:
    """Makes a checkout session."""

    def __init__(
        self,
        *,
        books: Books,
        find_wanted_plan: FindWantedPlan,
        subscription_in_force: SubscriptionInForce,
        customers: CustomersAtStripe,
        checkouts: CheckoutsAtStripe,
        hosts: Collection[str],
        clock: Clock,
    ) -> None:
        self._books = books
        self._find_wanted_plan = find_wanted_plan
        self._subscription_in_force = subscription_in_force
        self._customers = customers
        self._checkouts = checkouts
        self._hosts = hosts
        self._clock = clock

    async def __call__(
        self, organization_id: str, plan_id: str, *, success_url: str, cancel_url: str, request_id: str
    ) -> HostedPage:
        """The page for that plan; the plan begins when the customer is through with it, and not before. The same
        request again is the same page, for a day.

        Raises NotFound for an unknown plan, InvalidState for one that is not sold or is in force already, InvalidField
        for `free` and for a URL of a host that is not allowed, and DependencyUnavailable.
        """
        require_request_id(request_id)
        for field, url in (("success_url", success_url), ("cancel_url", cancel_url)):
            require_return_url(field, url, self._hosts)
        if plan_id == FREE_PLAN:
            raise InvalidField(field="plan_id", problem=f"{FREE_PLAN!r} costs nothing")
        wanted = await self._find_wanted_plan(plan_id, None)
        wanted.require_sold()
        current = (await self._subscription_in_force(organization_id)).subscription
        if current.plan_id == plan_id:
            raise InvalidState(problem=f"The organization is on {plan_id!r} already.")
        customer_id = await stripe_customer(self._books, self._customers, organization_id, now=self._clock.now())
        on_free = current.plan_id == FREE_PLAN
        currency_code = current.currency_code
        if on_free:
            async with self._books.read(organization_id) as book:
                agreed = (await book.profile.current()).terms.currency_code
            # What the customer reads at Stripe is what the subscription will be in.
            currency_code = wanted.plan.book(agreed or wanted.plan.default_book.currency_code).currency_code
        # The id tells what is ordered, so that one request_id with other content is not answered with the first page.
        digest = request_digest("BeginCheckout", organization_id, plan_id, success_url, cancel_url, request_id)
        try:
            return await self._checkouts.begin(
                CheckoutOrder(
                    order_id=digest.hex(),
                    organization_id=organization_id,
                    plan_id=plan_id,
                    stripe_customer_id=customer_id,
                    currency_code=currency_code,
                    success_url=success_url,
                    cancel_url=cancel_url,
                    message=_message(wanted.plan, currency_code),
                )
            )
        except CollectionRefused as refusal:
            raise InvalidState(problem=f"Stripe does not allow it: {refusal}") from refusal


def _message(plan: Plan, currency_code: str) -> str:
    price = plan.book(currency_code).base_price
    return f"{plan.display_name}: {price.currency_code} {price} per {plan.interval.value.lower()}, and usage as priced."
