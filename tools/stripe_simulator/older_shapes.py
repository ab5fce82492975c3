"""Objects as API version 2024-06-20 wrote them, for whoever has to read events of both.

From 2025-03-31.basil on the period is on a subscription's items, an invoice's subscription is in `parent`, its payment
in invoice payments, and a line's price in `pricing`: https://docs.stripe.com/changelog/basil.
"""

from collections.abc import Callable
from typing import Any

from tools.stripe_simulator.store import Store, StripeObject

OLDER_VERSION = "2024-06-20"

_NEW_ON_INVOICES = ("amount_overpaid", "amount_paid_off_stripe", "customer_account", "parent", "total_taxes")
_NEW_ON_LINES = ("parent", "pricing", "quantity_decimal", "subtotal", "taxes")
_NEW_ON_ITEMS = ("current_period_end", "current_period_start")
_NEW_ON_INVOICE_ITEMS = ("customer_account", "net_amount", "parent", "pricing", "quantity_decimal")
_NEW_ON_SUBSCRIPTIONS = ("billing_mode", "billing_schedules", "customer_account", "managed_payments")


def older(store: Store, body: StripeObject) -> StripeObject:
    """The object in the older shape; one whose shape did not change as it is. Does not change it."""
    rewrite = _REWRITES.get(body["object"])
    return body if rewrite is None else rewrite(store, body)


def before(body: Any, previous: Any) -> Any:
    """The object as it was, from what it is and the old values of what changed."""
    if not isinstance(body, dict) or not isinstance(previous, dict):
        return previous
    return body | {name: before(body.get(name), value) for name, value in previous.items()}


def _invoice(store: Store, body: StripeObject) -> StripeObject:
    details = None if body["parent"] is None else body["parent"]["subscription_details"]
    payment = next(store.newest_first("invoice_payment", owner=body["id"]), None)
    intent = None if payment is None else store.get(payment["payment"]["payment_intent"])
    lines = body["lines"] | {"data": [_line(store, line) for line in body["lines"]["data"]]}
    return _without(body, _NEW_ON_INVOICES) | {
        "application_fee_amount": None,
        "charge": None if intent is None else intent["latest_charge"],
        "discount": None,
        "lines": lines,
        "paid": body["status"] == "paid",
        "paid_out_of_band": body["amount_paid_off_stripe"] > 0,
        "payment_intent": None if intent is None else intent["id"],
        "quote": None,
        "subscription": None if details is None else details["subscription"],
        "subscription_details": {"metadata": None if details is None else details["metadata"]},
        "tax": None,
        "total_tax_amounts": [],
        "transfer_data": None,
    }


def _line(store: Store, body: StripeObject) -> StripeObject:
    of_item, of_subscription = body["parent"]["invoice_item_details"], body["parent"]["subscription_item_details"]
    price = _price(store, body)
    written = _without(body, _NEW_ON_LINES) | {
        "amount_excluding_tax": body["amount"],
        "plan": None,
        "price": price,
        "proration": False,
        "proration_details": {"credited_items": None},
        "tax_amounts": [],
        "tax_rates": [],
        "type": "subscription" if of_item is None else "invoiceitem",
        "unit_amount_excluding_tax": None if price is None else price["unit_amount_decimal"],
    }
    if of_item is not None:
        return written | {"invoice_item": of_item["invoice_item"]}
    return written | {"subscription_item": of_subscription["subscription_item"]}


def _invoice_item(store: Store, body: StripeObject) -> StripeObject:
    price = _price(store, body)
    return _without(body, _NEW_ON_INVOICE_ITEMS) | {
        "plan": None,
        "price": price,
        "subscription": None,
        "unit_amount": None if price is None else price["unit_amount"],
        "unit_amount_decimal": None if price is None else price["unit_amount_decimal"],
    }


def _price(store: Store, body: StripeObject) -> StripeObject | None:
    pricing = body["pricing"]
    return None if pricing is None else store.get(pricing["price_details"]["price"])


def _subscription(_: Store, body: StripeObject) -> StripeObject:
    items = body["items"]["data"]
    only = items[0] if len(items) == 1 else None
    return _without(body, _NEW_ON_SUBSCRIPTIONS) | {
        "current_period_end": items[0]["current_period_end"],
        "current_period_start": items[0]["current_period_start"],
        "discount": None,
        "items": body["items"] | {"data": [_without(item, _NEW_ON_ITEMS) for item in items]},
        "plan": None if only is None else only["plan"],
        "quantity": None if only is None else only.get("quantity"),
    }


def _paying(store: Store, body: StripeObject) -> StripeObject:
    """A payment intent, or a charge, which named its invoice."""
    intent = body["id"] if body["object"] == "payment_intent" else body["payment_intent"]
    payment = store.named("invoice_payment", intent)
    return body | {"invoice": None if payment is None else payment["invoice"]}


def _session(_: Store, body: StripeObject) -> StripeObject:
    return body | {"ui_mode": "hosted"}


def _without(body: StripeObject, names: tuple[str, ...]) -> StripeObject:
    return {name: value for name, value in body.items() if name not in names}


_REWRITES: dict[str, Callable[[Store, StripeObject], StripeObject]] = {
    "charge": _paying,
    "checkout.session": _session,
    "invoice": _invoice,
    "invoiceitem": _invoice_item,
    "payment_intent": _paying,
    "subscription": _subscription,
}
