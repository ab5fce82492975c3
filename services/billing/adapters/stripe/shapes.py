"""What Stripe's objects mean, in the current shapes and in the older ones.

Since API version 2025-03-31 a subscription's period is on its items, an invoice names its subscription under
`parent.subscription_details`, and its payments are objects of their own. Accounts, and objects kept by others, still
have the shapes from before; both are read, the current one first. Pure: from decoded JSON to our words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from kit.clock import from_unix_microseconds
from kit.ids import is_organization_id
from services.billing.domain.periods import Period
from services.billing.domain.stripe_objects import (
    StripeCheckout,
    StripeCustomer,
    StripeDispute,
    StripeInvoice,
    StripeInvoiceStatus,
    StripeRefund,
    StripeSubscription,
)

ORGANIZATION_KEY = "tollbook_organization_id"
INVOICE_KEY = "tollbook_invoice_id"
PLAN_KEY = "tollbook_plan_id"
CREDIT_NOTE_KEY = "tollbook_credit_note_id"
"""What we write into the metadata of objects at Stripe."""
PLAN_LOOKUP_PREFIX = "tollbook_"
"""A price whose lookup key is `tollbook_starter` sells the plan `starter`."""

Body = Mapping[str, Any]


def invoice_from_stripe(body: Body, now: datetime) -> StripeInvoice:
    """An invoice. `now` decides whether its due date has passed."""
    about = _subscription_details(body)
    status = StripeInvoiceStatus(body.get("status") or "draft")
    due_date = _moment(body.get("due_date"))
    is_late = due_date is not None and due_date < now
    # Who has a term may try a card that fails within it, and still pays in time.
    is_attempted = bool(body.get("attempted")) and body.get("collection_method") != "send_invoice"
    return StripeInvoice(
        stripe_invoice_id=body["id"],
        status=status,
        stripe_customer_id=_id(body.get("customer")),
        organization_id=_organization(body) or _organization(about),
        invoice_id=_metadata(body).get(INVOICE_KEY, ""),
        number=body.get("number") or "",
        total_minor=body["total"],
        currency_code=body["currency"].upper(),
        has_failed=status is StripeInvoiceStatus.OPEN and (is_attempted or is_late),
        has_lines=bool((body.get("lines") or {}).get("data")),
        is_paid_outside=bool(body.get("amount_paid_off_stripe") or body.get("paid_out_of_band")),
        stripe_subscription_id=_id(about.get("subscription")) or _id(body.get("subscription")),
        create_time=_moment(body.get("created")),
    )


def subscription_from_stripe(body: Body) -> StripeSubscription:
    """A subscription; the period is that of its first item, or its own in the older shape."""
    items: Sequence[Body] = (body.get("items") or {}).get("data") or ()
    holder = next((item for item in items if item.get("current_period_start")), body)
    start, end = _moment(holder.get("current_period_start")), _moment(holder.get("current_period_end"))
    price: Body = (items[0].get("price") or {}) if items else {}
    return StripeSubscription(
        stripe_subscription_id=body["id"],
        stripe_customer_id=_id(body.get("customer")),
        organization_id=_organization(body),
        plan_id=_metadata(body).get(PLAN_KEY) or _metadata(price).get(PLAN_KEY) or _looked_up(price),
        status=body.get("status") or "",
        period=Period(start, end) if start and end and start < end else None,
        cancels_at_period_end=bool(body.get("cancel_at_period_end")),
    )


def customer_from_stripe(body: Body) -> StripeCustomer:
    """A customer, or what Stripe still says of a deleted one."""
    settings = body.get("invoice_settings") or {}
    return StripeCustomer(
        stripe_customer_id=body["id"],
        organization_id=_organization(body),
        is_deleted=bool(body.get("deleted")),
        has_default_payment_method=bool(settings.get("default_payment_method") or body.get("default_source")),
    )


def refund_from_stripe(body: Body) -> StripeRefund:
    """A refund."""
    return StripeRefund(
        stripe_refund_id=body["id"],
        amount_minor=body["amount"],
        currency_code=body["currency"].upper(),
        status=body.get("status") or "",
        credit_note_id=_metadata(body).get(CREDIT_NOTE_KEY, ""),
    )


def dispute_from_stripe(body: Body) -> StripeDispute:
    """A dispute."""
    return StripeDispute(
        stripe_dispute_id=body["id"],
        stripe_charge_id=_id(body.get("charge")),
        amount_minor=body["amount"],
        currency_code=body["currency"].upper(),
        status=body.get("status") or "",
        reason=body.get("reason") or "",
    )


def checkout_from_stripe(body: Body) -> StripeCheckout:
    """A checkout session, fetched with its setup intent."""
    intent = body.get("setup_intent")
    return StripeCheckout(
        stripe_checkout_id=body["id"],
        stripe_customer_id=_id(body.get("customer")),
        organization_id=_organization(body),
        plan_id=_metadata(body).get(PLAN_KEY, ""),
        is_complete=body.get("status") == "complete",
        payment_method_id=_id(intent.get("payment_method")) if isinstance(intent, Mapping) else "",
    )


def customer_of(body: Body) -> str:
    """The customer that an object names; empty when it names none."""
    return _id(body.get("customer"))


def charge_of(body: Body) -> str:
    """The charge that an object names; empty when it names none."""
    return _id(body.get("charge"))


def invoice_of_charge(body: Body) -> str:
    """The invoice that a charge names itself, as it did in the older shape; empty in the current one."""
    return _id(body.get("invoice"))


def payment_intent_of_charge(body: Body) -> str:
    """The payment intent behind a charge, by which its invoice is found in the current shape."""
    return _id(body.get("payment_intent"))


def _subscription_details(invoice: Body) -> Body:
    parent = invoice.get("parent") or {}
    return parent.get("subscription_details") or invoice.get("subscription_details") or {}


def _looked_up(price: Body) -> str:
    key = price.get("lookup_key") or ""
    return key.removeprefix(PLAN_LOOKUP_PREFIX) if key.startswith(PLAN_LOOKUP_PREFIX) else ""


def _organization(body: Body) -> str:
    # Whoever may write at Stripe may write anything there; it names rows of ours.
    written = _metadata(body).get(ORGANIZATION_KEY, "")
    return written if is_organization_id(written) else ""


def _metadata(body: Body) -> Mapping[str, str]:
    return body.get("metadata") or {}


def _id(reference: object) -> str:
    """A reference: an id, or the object itself where it was expanded."""
    if isinstance(reference, Mapping):
        reference = reference.get("id")
    return reference if isinstance(reference, str) else ""


def _moment(seconds: object) -> datetime | None:
    return from_unix_microseconds(seconds * 1_000_000) if isinstance(seconds, int) and seconds > 0 else None
