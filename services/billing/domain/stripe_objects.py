"""Stripe's objects, as far as we act on them: what was fetched, in our words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from services.billing.domain.periods import Period


class StripeInvoiceStatus(Enum):
    """Where an invoice stands at Stripe."""

    DRAFT = "draft"
    OPEN = "open"
    PAID = "paid"
    UNCOLLECTIBLE = "uncollectible"
    VOID = "void"


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeInvoice:
    """An invoice at Stripe now."""

    stripe_invoice_id: str
    status: StripeInvoiceStatus
    stripe_customer_id: str
    organization_id: str
    """What we wrote on it, or on the subscription that it is for; empty when neither is ours."""
    invoice_id: str
    """What we wrote on it; empty on a draft that Stripe made and we have not filled."""
    number: str
    total_minor: int
    currency_code: str
    has_failed: bool
    """Whether it is still open though its charge was tried and failed, or its due date has passed."""
    has_lines: bool = False
    is_paid_outside: bool = False
    """Whether it was marked paid without Stripe having charged for it."""
    stripe_subscription_id: str = ""
    """The subscription at Stripe that it was drafted for; empty when it was not."""
    create_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeSubscription:
    """A subscription at Stripe now."""

    stripe_subscription_id: str
    stripe_customer_id: str
    organization_id: str
    """What is written on it; empty: to be learned from its customer."""
    plan_id: str
    """Our plan, as written on the subscription, on its price, or as the price's lookup key."""
    status: str
    """Stripe's word: `active`, `trialing`, `past_due`, `unpaid`, `canceled`, `incomplete`, `incomplete_expired`,
    `paused`.
    """
    period: Period | None
    cancels_at_period_end: bool

    @property
    def has_begun(self) -> bool:
        """Whether what it sells is in force; whether it is paid is its invoices' matter."""
        return self.status in {"active", "trialing", "past_due", "unpaid"}

    @property
    def has_ended(self) -> bool:
        """Whether it is over, or never began."""
        return self.status in {"canceled", "incomplete_expired"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeCustomer:
    """A customer at Stripe now."""

    stripe_customer_id: str
    organization_id: str
    """What we wrote on it; empty when it is none of ours, or deleted."""
    is_deleted: bool
    has_default_payment_method: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeRefund:
    """Money that went back."""

    stripe_refund_id: str
    amount_minor: int
    currency_code: str
    status: str
    """Stripe's word: `pending`, `requires_action`, `succeeded`, `failed`, `canceled`."""
    credit_note_id: str = ""
    """The credit note of ours that it pays out; empty when it was made at Stripe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeCharge:
    """A charge at Stripe now, with every refund of it."""

    stripe_charge_id: str
    stripe_invoice_id: str
    """The invoice that it pays; empty when it pays none."""
    refunds: tuple[StripeRefund, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeDispute:
    """A payment that its payer disputes."""

    stripe_dispute_id: str
    stripe_charge_id: str
    amount_minor: int
    currency_code: str
    status: str
    """Stripe's word, such as `needs_response`, `under_review`, `won`, `lost`."""
    reason: str

    @property
    def is_open(self) -> bool:
        """Whether somebody has to look."""
        return self.status not in {"won", "lost", "warning_closed", "prevented"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeCheckout:
    """A checkout session now."""

    stripe_checkout_id: str
    stripe_customer_id: str
    organization_id: str
    plan_id: str
    is_complete: bool
    payment_method_id: str
    """What the customer left to be charged; empty when nothing was."""
