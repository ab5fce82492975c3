"""Payment intents: what is to be paid once, behind an invoice or a checkout."""

from tools.stripe_simulator import lists, payments
from tools.stripe_simulator.errors import not_possible
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.store import StripeObject

_CANCELABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
_REASONS = ("abandoned", "duplicate", "fraudulent", "requested_by_customer")


def retrieve(call: Call) -> StripeObject:
    """GET /v1/payment_intents/{id}."""
    call.params.finish()
    return call.target("payment_intent")


def update(call: Call) -> StripeObject:
    """POST /v1/payment_intents/{id}: what is written on it."""
    intent, params = call.target("payment_intent"), call.params
    if "description" in params:
        intent["description"] = params.text("description") or None
    intent["metadata"] = params.metadata("metadata", intent["metadata"])
    params.finish()
    call.change(intent)
    return intent


def list_all(call: Call) -> StripeObject:
    """GET /v1/payment_intents: of a customer, created in a range."""
    customer = call.params.text("customer")
    created = lists.time_filter(call.params, "created")
    return lists.page(
        call,
        "payment_intent",
        url="/v1/payment_intents",
        owner=customer,
        keep=lambda body: created(body["created"]),
    )


def cancel(call: Call) -> StripeObject:
    """POST /v1/payment_intents/{id}/cancel: not one that belongs to an invoice, which is voided instead."""
    intent = call.target("payment_intent")
    reason = call.params.choice("cancellation_reason", _REASONS)
    call.params.finish()
    if intent["status"] not in _CANCELABLE:
        message = f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}."
        raise not_possible(message, code="payment_intent_unexpected_state")
    if call.store.named("invoice_payment", intent["id"]) is not None:
        raise not_possible("This PaymentIntent belongs to an invoice: void the invoice instead.")
    payments.cancel(call, intent, reason=reason or "requested_by_customer")
    return intent


OPERATIONS = (
    Operation("GET", "/v1/payment_intents", list_all),
    Operation("GET", "/v1/payment_intents/{id}", retrieve),
    Operation("POST", "/v1/payment_intents/{id}", update),
    Operation("POST", "/v1/payment_intents/{id}/cancel", cancel),
)
