"""What else is asked of Stripe than to collect invoices: customers, subscriptions, payments, hosted pages.

Every call raises DependencyUnavailable when trying again later may help, and CollectionRefused when not. A look-up
answers the object as it is now, None when there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.billing.domain.profile import BillingProfile
from services.billing.domain.stripe_objects import (
    StripeCharge,
    StripeCheckout,
    StripeCustomer,
    StripeDispute,
    StripeSubscription,
)


class CustomersAtStripe(Protocol):
    """Our organizations as customers."""

    async def ensure(self, organization_id: str, *, since: datetime, attempt_count: int, generation: int = 0) -> str:
        """The organization's customer, made if it is not. A later attempt looks first whether one before made it, among
        those made after `since`. `generation` counts the customers that were deleted there.
        """
        ...

    async def describe(self, stripe_customer_id: str, profile: BillingProfile) -> None:
        """Says there who the customer is: name, mail, address and tax id, as its own pages and receipts show
        them. What is not known is left as it is there; how it pays is not touched. Repeating it changes nothing.
        Raises CustomerGone when there is no such customer.
        """
        ...

    async def look_up(self, stripe_customer_id: str) -> StripeCustomer | None:
        """The customer, or what is still said of a deleted one."""
        ...

    async def payment_method_owner(self, payment_method_id: str) -> str:
        """The customer that has it; empty when nobody does, or there is none."""
        ...

    async def keep_payment_method(self, stripe_customer_id: str, payment_method_id: str) -> None:
        """Charges the customer by this from now on."""
        ...


class SubscriptionsAtStripe(Protocol):
    """Subscriptions that were made at Stripe, by whoever may."""

    async def of_customer(self, stripe_customer_id: str) -> Sequence[StripeSubscription]:
        """All of a customer's, ended ones too, newest first."""
        ...

    async def look_up(self, stripe_subscription_id: str) -> StripeSubscription | None:
        """The subscription."""
        ...


class PaymentsAtStripe(Protocol):
    """Charges, and what became of them."""

    async def charge(self, stripe_charge_id: str) -> StripeCharge | None:
        """The charge, the invoice that it pays, and all of its refunds."""
        ...

    async def charge_of_refund(self, stripe_refund_id: str) -> str:
        """The charge of which a refund is; empty when there is no such refund."""
        ...

    async def dispute(self, stripe_dispute_id: str) -> StripeDispute | None:
        """The dispute."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutOrder:
    """What a customer is sent to checkout for."""

    order_id: str
    """Ours; the same one is the same session."""
    organization_id: str
    plan_id: str
    stripe_customer_id: str
    currency_code: str
    success_url: str
    cancel_url: str
    message: str
    """What the customer reads beside the button: what will be charged, and how often."""


@dataclass(frozen=True, slots=True)
class HostedPage:
    """A page to send a customer to."""

    stripe_id: str
    url: str


class CheckoutsAtStripe(Protocol):
    """Stripe's own pages."""

    async def begin(self, order: CheckoutOrder) -> HostedPage:
        """The page where the customer says how to pay; the same order again is the same page, for a day."""
        ...

    async def look_up(self, stripe_checkout_id: str) -> StripeCheckout | None:
        """The session behind such a page."""
        ...

    async def open_portal(self, stripe_customer_id: str, return_url: str) -> HostedPage:
        """The page where a customer manages cards and sees invoices."""
        ...
