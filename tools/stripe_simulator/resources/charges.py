"""Charges: each try to take an amount from a card. Collecting makes them; nobody else does."""

from tools.stripe_simulator import lists
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.store import StripeObject


def retrieve(call: Call) -> StripeObject:
    """GET /v1/charges/{id}."""
    call.params.finish()
    return call.target("charge")


def update(call: Call) -> StripeObject:
    """POST /v1/charges/{id}: what is written on it."""
    charge, params = call.target("charge"), call.params
    for name in ("description", "receipt_email"):
        if name in params:
            charge[name] = params.text(name) or None
    charge["metadata"] = params.metadata("metadata", charge["metadata"])
    params.finish()
    call.change(charge)
    return charge


def list_all(call: Call) -> StripeObject:
    """GET /v1/charges: of a customer or a payment intent, created in a range."""
    customer, intent = call.params.text("customer"), call.params.text("payment_intent")
    created = lists.time_filter(call.params, "created")
    return lists.page(
        call,
        "charge",
        url="/v1/charges",
        owner=customer,
        keep=lambda body: intent in {None, body["payment_intent"]} and created(body["created"]),
    )


OPERATIONS = (
    Operation("GET", "/v1/charges", list_all),
    Operation("GET", "/v1/charges/{id}", retrieve),
    Operation("POST", "/v1/charges/{id}", update),
)
