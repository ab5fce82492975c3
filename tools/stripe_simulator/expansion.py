"""Stripe's `expand`: an answer with the object in place of its id."""

import itertools
from collections.abc import Iterable

from tools.stripe_simulator.errors import StripeError
from tools.stripe_simulator.store import Store, StripeObject

# Stripe's limit, at https://docs.stripe.com/api/expanding_objects.
_DEPTH_MAX = 4

# Lists that an object carries only when they are asked for: of what kind, and where the rest of the list is.
_INCLUDED = {
    ("charge", "refunds"): ("refund", "/v1/charges/{id}/refunds"),
    ("checkout.session", "line_items"): ("item", "/v1/checkout/sessions/{id}/line_items"),
    ("customer", "subscriptions"): ("subscription", "/v1/customers/{id}/subscriptions"),
    ("invoice", "payments"): ("invoice_payment", "/v1/invoices/{id}/payments"),
}
_PAGE_SIZE = 10


def expand(store: Store, body: StripeObject, paths: Iterable[str]) -> StripeObject:
    """Replaces ids along each path, such as `customer` or, in a list, `data.customer`."""
    for path in paths:
        parts = path.split(".")
        if len(parts) > _DEPTH_MAX:
            raise _cannot(path)
        _expand(store, body, parts, path)
    return body


def _expand(store: Store, body: StripeObject, parts: list[str], path: str) -> None:
    name, rest = parts[0], parts[1:]
    if (body.get("object"), name) in _INCLUDED:
        kind, url = _INCLUDED[body["object"], name]
        found = list(itertools.islice(store.newest_first(kind, owner=body["id"]), _PAGE_SIZE + 1))
        body[name] = {
            "object": "list",
            "data": found[:_PAGE_SIZE],
            "has_more": len(found) > _PAGE_SIZE,
            "url": url.format(id=body["id"]),
        }
    if name not in body:
        raise _cannot(path)
    if isinstance(body[name], str):
        body[name] = store.get(body[name]) or body[name]
    children = body[name] if isinstance(body[name], list) else [body[name]]
    for child in children:
        if rest and isinstance(child, dict):
            _expand(store, child, rest, path)


def _cannot(path: str) -> StripeError:
    return StripeError(f"This property cannot be expanded ({path}).", param="expand", saved=False)
