"""Stripe in memory: what the ports that face it promise, for tests of what stands on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.billing.application.ports.collection import CollectedInvoice
from services.billing.application.ports.stripe import CheckoutOrder, HostedPage
from services.billing.domain.errors import CollectionRefused, CustomerGone
from services.billing.domain.invoices import Invoice
from services.billing.domain.payments import Settlement
from services.billing.domain.profile import BY_CARD, BillingProfile, BillingTerms
from services.billing.domain.stripe_objects import (
    StripeCharge,
    StripeCheckout,
    StripeCustomer,
    StripeDispute,
    StripeInvoice,
    StripeInvoiceStatus,
    StripeSubscription,
)

_SETTLED = {
    Settlement.VOID: StripeInvoiceStatus.VOID,
    Settlement.UNCOLLECTIBLE: StripeInvoiceStatus.UNCOLLECTIBLE,
    Settlement.PAID_OUTSIDE: StripeInvoiceStatus.PAID,
}
_MAY_SETTLE = {
    Settlement.VOID: {StripeInvoiceStatus.OPEN, StripeInvoiceStatus.UNCOLLECTIBLE},
    Settlement.UNCOLLECTIBLE: {StripeInvoiceStatus.OPEN},
    Settlement.PAID_OUTSIDE: {StripeInvoiceStatus.OPEN, StripeInvoiceStatus.UNCOLLECTIBLE},
}


@dataclass
class MemoryStripe:
    """Collector over dictionaries that a test looks into and writes to."""

    invoices: dict[str, StripeInvoice] = field(default_factory=dict)
    """By their id there."""
    refusal: str = ""
    """Why it takes no invoice; empty: it does."""
    gone: set[str] = field(default_factory=set)
    """Customers that were deleted."""

    async def collect(
        self,
        invoice: Invoice,
        stripe_customer_id: str,
        *,
        terms: BillingTerms = BY_CARD,  # noqa: ARG002
        attempt_count: int,  # noqa: ARG002
    ) -> CollectedInvoice:
        """As Collector."""
        if stripe_customer_id in self.gone:
            raise CustomerGone(stripe_customer_id)
        return self._take(invoice, f"in_{invoice.invoice_id}", stripe_customer_id)

    async def adopt(
        self,
        invoice: Invoice,
        stripe_invoice_id: str,
        *,
        terms: BillingTerms = BY_CARD,  # noqa: ARG002
        attempt_count: int,  # noqa: ARG002
    ) -> CollectedInvoice:
        """As Collector."""
        theirs = self.invoices.get(stripe_invoice_id)
        if theirs is None:
            raise CollectionRefused(f"there is no {stripe_invoice_id}")
        if theirs.status is not StripeInvoiceStatus.DRAFT and theirs.invoice_id != invoice.invoice_id:
            raise CollectionRefused(f"{stripe_invoice_id} is {theirs.status.value}")
        if theirs.status is StripeInvoiceStatus.DRAFT:
            del self.invoices[stripe_invoice_id]
        return self._take(invoice, stripe_invoice_id, theirs.stripe_customer_id)

    async def hold(self, stripe_invoice_id: str) -> StripeInvoice | None:
        """As Collector."""
        return self.invoices.get(stripe_invoice_id)

    async def look_up(self, stripe_invoice_id: str) -> StripeInvoice | None:
        """As Collector."""
        return self.invoices.get(stripe_invoice_id)

    async def find(self, invoice: Invoice, stripe_customer_id: str) -> StripeInvoice | None:
        """As Collector."""
        for each in self.invoices.values():
            if (each.invoice_id, each.stripe_customer_id) == (invoice.invoice_id, stripe_customer_id):
                return each
        return None

    async def settle(self, stripe_invoice_id: str, settlement: Settlement) -> StripeInvoice:
        """As Collector."""
        theirs = self.invoices.get(stripe_invoice_id)
        if theirs is None:
            raise CollectionRefused(f"there is no {stripe_invoice_id}")
        if theirs.status is StripeInvoiceStatus.DRAFT and settlement is Settlement.VOID:
            return replace(self.invoices.pop(stripe_invoice_id), status=StripeInvoiceStatus.VOID)
        if theirs.status in _MAY_SETTLE[settlement]:
            outside = settlement is Settlement.PAID_OUTSIDE
            self.invoices[stripe_invoice_id] = replace(
                theirs, status=_SETTLED[settlement], has_failed=False, is_paid_outside=outside
            )
        return self.invoices[stripe_invoice_id]

    def _take(self, invoice: Invoice, stripe_invoice_id: str, stripe_customer_id: str) -> CollectedInvoice:
        if self.refusal:
            raise CollectionRefused(self.refusal)
        taken = StripeInvoice(
            stripe_invoice_id=stripe_invoice_id,
            status=StripeInvoiceStatus.OPEN,
            stripe_customer_id=stripe_customer_id,
            organization_id=invoice.organization_id,
            invoice_id=invoice.invoice_id,
            number=invoice.number,
            total_minor=invoice.total.minor,
            currency_code=invoice.total.currency_code,
            has_failed=False,
            has_lines=bool(invoice.lines),
        )
        self.invoices.setdefault(stripe_invoice_id, taken)
        return CollectedInvoice(stripe_invoice_id)


@dataclass
class MemoryCustomersAtStripe:
    """CustomersAtStripe over dictionaries."""

    customers: dict[str, StripeCustomer] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    """Of payment methods."""
    described: dict[str, BillingProfile] = field(default_factory=dict)
    """Who each is said to be."""

    async def ensure(self, organization_id: str, *, since: datetime, attempt_count: int, generation: int = 0) -> str:  # noqa: ARG002
        """As CustomersAtStripe."""
        stripe_customer_id = f"cus_{organization_id}_{generation}"
        fresh = StripeCustomer(
            stripe_customer_id=stripe_customer_id,
            organization_id=organization_id,
            is_deleted=False,
            has_default_payment_method=False,
        )
        self.customers.setdefault(stripe_customer_id, fresh)
        return stripe_customer_id

    async def describe(self, stripe_customer_id: str, profile: BillingProfile) -> None:
        """As CustomersAtStripe."""
        if stripe_customer_id not in self.customers:
            raise CustomerGone(stripe_customer_id)
        self.described[stripe_customer_id] = profile

    async def look_up(self, stripe_customer_id: str) -> StripeCustomer | None:
        """As CustomersAtStripe."""
        return self.customers.get(stripe_customer_id)

    async def payment_method_owner(self, payment_method_id: str) -> str:
        """As CustomersAtStripe."""
        return self.owners.get(payment_method_id, "")

    async def keep_payment_method(self, stripe_customer_id: str, payment_method_id: str) -> None:
        """As CustomersAtStripe."""
        self.owners[payment_method_id] = stripe_customer_id
        found = self.customers[stripe_customer_id]
        self.customers[stripe_customer_id] = replace(found, has_default_payment_method=True)


@dataclass
class MemorySubscriptionsAtStripe:
    """SubscriptionsAtStripe over a dictionary, oldest first."""

    subscriptions: dict[str, StripeSubscription] = field(default_factory=dict)

    async def of_customer(self, stripe_customer_id: str) -> Sequence[StripeSubscription]:
        """As SubscriptionsAtStripe."""
        newest_first = reversed(list(self.subscriptions.values()))
        return [each for each in newest_first if each.stripe_customer_id == stripe_customer_id]

    async def look_up(self, stripe_subscription_id: str) -> StripeSubscription | None:
        """As SubscriptionsAtStripe."""
        return self.subscriptions.get(stripe_subscription_id)


@dataclass
class MemoryPaymentsAtStripe:
    """PaymentsAtStripe over dictionaries."""

    charges: dict[str, StripeCharge] = field(default_factory=dict)
    disputes: dict[str, StripeDispute] = field(default_factory=dict)

    async def charge(self, stripe_charge_id: str) -> StripeCharge | None:
        """As PaymentsAtStripe."""
        return self.charges.get(stripe_charge_id)

    async def charge_of_refund(self, stripe_refund_id: str) -> str:
        """As PaymentsAtStripe."""
        for each in self.charges.values():
            if any(refund.stripe_refund_id == stripe_refund_id for refund in each.refunds):
                return each.stripe_charge_id
        return ""

    async def dispute(self, stripe_dispute_id: str) -> StripeDispute | None:
        """As PaymentsAtStripe."""
        return self.disputes.get(stripe_dispute_id)


@dataclass
class MemoryCheckoutsAtStripe:
    """CheckoutsAtStripe over a dictionary."""

    sessions: dict[str, StripeCheckout] = field(default_factory=dict)

    async def begin(self, order: CheckoutOrder) -> HostedPage:
        """As CheckoutsAtStripe."""
        stripe_id = f"cs_{order.order_id}"
        session = StripeCheckout(
            stripe_checkout_id=stripe_id,
            stripe_customer_id=order.stripe_customer_id,
            organization_id=order.organization_id,
            plan_id=order.plan_id,
            is_complete=False,
            payment_method_id="",
        )
        self.sessions.setdefault(stripe_id, session)
        return HostedPage(stripe_id, f"https://checkout.invalid/{stripe_id}")

    async def look_up(self, stripe_checkout_id: str) -> StripeCheckout | None:
        """As CheckoutsAtStripe."""
        return self.sessions.get(stripe_checkout_id)

    async def open_portal(self, stripe_customer_id: str, return_url: str) -> HostedPage:
        """As CheckoutsAtStripe."""
        return HostedPage(f"bps_{stripe_customer_id}", f"https://portal.invalid/?to={return_url}")
