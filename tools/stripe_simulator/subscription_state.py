"""What becomes of a subscription when one of its invoices is paid, fails, or is given up.

See https://docs.stripe.com/billing/subscriptions/overview for the states.
"""

from typing import Literal

from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.store import StripeObject

ENDED = frozenset({"canceled", "incomplete_expired"})
_BEHIND = frozenset({"past_due", "unpaid"})


def subscription_id(invoice: StripeObject) -> str | None:
    """The id of the subscription that the invoice bills."""
    parent = invoice["parent"]
    if parent is None or parent["subscription_details"] is None:
        return None
    return str(parent["subscription_details"]["subscription"])


def of_invoice(call: Call, invoice: StripeObject) -> StripeObject | None:
    """The subscription that the invoice bills, unless it has ended."""
    identifier = subscription_id(invoice)
    subscription = None if identifier is None else call.store.get(identifier)
    return None if subscription is None or subscription["status"] in ENDED else subscription


def default_payment_method(call: Call, invoice: StripeObject) -> str | None:
    """The payment method that the invoice's subscription is or was paid by, where it has one of its own."""
    identifier = subscription_id(invoice)
    subscription = None if identifier is None else call.store.get(identifier)
    return None if subscription is None else subscription["default_payment_method"]


def awaits_first_payment(call: Call, invoice: StripeObject) -> bool:
    """Whether the invoice is the first one of a subscription that begins with its payment; it is not tried again."""
    subscription = of_invoice(call, invoice)
    return subscription is not None and subscription["status"] == "incomplete"


def invoice_paid(call: Call, invoice: StripeObject) -> None:
    """The first invoice activates the subscription; the latest one brings it back from behind."""
    subscription = of_invoice(call, invoice)
    if subscription is None or not _is_latest(subscription, invoice):
        return
    if subscription["status"] == "incomplete":
        call.store.unplan(subscription["id"], "expire_incomplete")
        _move(call, subscription, "active")
    elif subscription["status"] in _BEHIND:
        _move(call, subscription, "active")


def payment_failed(call: Call, invoice: StripeObject) -> None:
    """An active subscription falls behind; one that never was active waits for its first payment."""
    subscription = of_invoice(call, invoice)
    if subscription is not None and subscription["status"] in {"active", "trialing"}:
        _move(call, subscription, "past_due")


def retries_exhausted(call: Call, invoice: StripeObject, *, then: Literal["canceled", "unpaid", "past_due"]) -> None:
    """After the last try: canceled, unpaid (it goes on, its invoices stay drafts), or past due for good."""
    subscription = of_invoice(call, invoice)
    if subscription is None or subscription["status"] == "incomplete":
        return
    if then == "canceled":
        end(call, subscription, reason="payment_failed")
    else:
        _move(call, subscription, then)


def invoice_voided(call: Call, invoice: StripeObject) -> None:
    """Without its first invoice a subscription never begins; without the latest one nothing is owed."""
    subscription = of_invoice(call, invoice)
    if subscription is None or not _is_latest(subscription, invoice):
        return
    if subscription["status"] == "incomplete":
        expire(call, subscription)
    elif subscription["status"] in _BEHIND:
        _move(call, subscription, "active")


def expire(call: Call, subscription: StripeObject) -> None:
    """The first payment never came."""
    call.store.unplan(subscription["id"])
    subscription["ended_at"] = call.now
    _move(call, subscription, "incomplete_expired")


def end(call: Call, subscription: StripeObject, *, reason: str) -> None:
    """Cancels it now, and tries no more to collect its invoices that are open.

    `reason` is Stripe's: cancellation_requested, payment_failed or payment_disputed.
    """
    call.store.unplan(subscription["id"])
    subscription["cancellation_details"]["reason"] = reason
    subscription |= {
        "canceled_at": subscription["canceled_at"] or call.now,
        "ended_at": call.now,
        "status": "canceled",
    }
    call.store.replace(subscription)
    call.tell("customer.subscription.deleted", subscription)
    for invoice in list(call.store.newest_first("invoice", owner=subscription["customer"])):
        if invoice["status"] == "open" and subscription_id(invoice) == subscription["id"]:
            call.store.unplan(invoice["id"])
            call.change(invoice | {"auto_advance": False, "next_payment_attempt": None})


def _move(call: Call, subscription: StripeObject, status: str) -> None:
    subscription["status"] = status
    call.change(subscription)


def _is_latest(subscription: StripeObject, invoice: StripeObject) -> bool:
    return bool(subscription["latest_invoice"] == invoice["id"])
