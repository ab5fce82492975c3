"""What an event says besides the object's new state."""

from datetime import UTC, datetime
from typing import Any

from tools.stripe_simulator import older_shapes
from tools.stripe_simulator.store import Store, StripeObject

# The version whose shapes the objects have, and whose name events carry. Calls may ask for any version from
# the first with these shapes on; before it, invoices had other fields.
API_VERSION = "2026-10-28.endive"
API_VERSION_MIN = "2025-03-31.basil"

_VERSION_SETTING = "event_api_version"

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


def api_version(store: Store) -> str:
    """The version in whose shapes events are written; at Stripe it is the webhook endpoint's."""
    return store.setting(_VERSION_SETTING) or API_VERSION


def set_api_version(store: Store, version: str) -> None:
    """From now on events are written so; a restart keeps it."""
    store.set_setting(_VERSION_SETTING, version)


def content(store: Store, body: StripeObject, previous: StripeObject | None) -> dict[str, Any]:
    """The event's version and its data: the object, and where something changed the old values, in that version."""
    version = api_version(store)
    told, old = body, previous
    if version == older_shapes.OLDER_VERSION:
        told = older_shapes.older(store, body)
        if previous is not None:
            old = previous_attributes(older_shapes.older(store, older_shapes.before(body, previous)), told)
    data = {"object": told} if old is None else {"object": told, "previous_attributes": old}
    return {"api_version": version, "data": data}


def thin(event: StripeObject) -> StripeObject:
    """The event as API v2 sends it: what happened to which object, and not what the object is."""
    about = event["data"]["object"]
    created = datetime.fromtimestamp(event["created"], UTC)
    url = f"/v1/{about['object'].replace('.', '/')}s/{about['id']}"
    return {
        "context": None,
        "created": created.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "id": event["id"],
        "livemode": False,
        "object": "v2.core.event",
        "reason": None,
        "related_object": {"id": about["id"], "type": about["object"], "url": url},
        "type": f"v1.{event['type']}",
    }


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
