"""What an event says besides the object's new state."""

from tools.stripe_simulator.store import StripeObject

# The version whose shapes the objects have, and whose name events carry. Calls may ask for any version from
# the first with these shapes on; before it, invoices had other fields.
API_VERSION = "2026-10-28.endive"
API_VERSION_MIN = "2025-03-31.basil"

# What tells of a change is called after the object, such as `invoice.updated`, but for these. Null: nobody is told.
_UPDATE_EVENTS = {
    "checkout.session": None,
    "dispute": "charge.dispute.updated",
    "invoice_payment": None,
    "invoiceitem": None,
    "payment_intent": None,
    "setup_intent": None,
    "subscription": "customer.subscription.updated",
    "test_helpers.test_clock": None,
}


def update_event(kind: str) -> str | None:
    """The type of the event that tells that an object of this kind changed; None where Stripe has none."""
    return _UPDATE_EVENTS.get(kind, f"{kind}.updated")


def previous_attributes(before: StripeObject, after: StripeObject) -> StripeObject:
    """The old values of what changed: of a nested object only its changed part, of a list all, None for nothing."""
    previous: StripeObject = {}
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            previous[name] = previous_attributes(old, new)
        else:
            previous[name] = old
    return previous
