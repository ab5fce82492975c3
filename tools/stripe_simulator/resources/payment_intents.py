"""Payment intents: what is to be paid once, behind an invoice or a checkout."""

from tools.stripe_simulator import lists, payments
from tools.stripe_simulator.currencies import minimum_charge
from tools.stripe_simulator.errors import card_declined, not_possible, parameter_missing
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.resources import payment_methods
from tools.stripe_simulator.store import StripeObject

_CONFIRMABLE = ("requires_payment_method", "requires_confirmation")
_CANCELABLE = (*_CONFIRMABLE, "requires_action")
_REASONS = ("abandoned", "duplicate", "fraudulent", "requested_by_customer")


def create(call: Call) -> StripeObject:
    """POST /v1/payment_intents: of a customer, and with `confirm` charged at once."""
    params = call.params
    amount, currency = params.integer("amount"), params.currency()
    if amount is None or currency is None:
        raise parameter_missing("amount" if amount is None else "currency")
    if amount < minimum_charge(currency):
        message = f"Amount must be at least {minimum_charge(currency)}."
        raise not_possible(message, code="amount_too_small", param="amount")
    customer, method = params.text("customer") or None, params.text("payment_method") or None
    if customer is not None:
        call.find("customer", customer, param="customer")
    description, metadata = params.text("description") or None, params.metadata("metadata", {})
    confirm = params.boolean("confirm") or False
    # Cards are all there is, and nobody has to be there to use one.
    params.texts("payment_method_types")
    params.boolean("off_session")
    params.finish()
    intent = payments.new_intent(call, amount=amount, currency=currency, customer=customer, description=description)
    intent["metadata"] = metadata
    if method is not None:
        intent |= {"payment_method": _usable(call, method, intent), "status": "requires_confirmation"}
    call.store.replace(intent)
    if confirm:
        _confirm(call, intent)
    return intent


def confirm(call: Call) -> StripeObject:
    """POST /v1/payment_intents/{id}/confirm: charges it; not one of an invoice, which is paid instead."""
    intent = call.target("payment_intent")
    method = call.params.text("payment_method")
    call.params.boolean("off_session")
    call.params.finish()
    _require_free(call, intent)
    if method:
        intent["payment_method"] = _usable(call, method, intent)
    _confirm(call, intent)
    return intent


def _usable(call: Call, method: str, intent: StripeObject) -> str:
    """A test card is used once; any other payment method has to be the customer's."""
    if intent["customer"] is None:
        return str(payment_methods.new_card(call, method, None, param="payment_method")["id"])
    return str(payment_methods.attach_to(call, method, intent["customer"], param="payment_method")["id"])


def _confirm(call: Call, intent: StripeObject) -> None:
    if intent["status"] not in _CONFIRMABLE:
        message = f"You cannot confirm this PaymentIntent because it has a status of {intent['status']}."
        raise not_possible(message, code="payment_intent_unexpected_state")
    if intent["payment_method"] is None:
        message = "You cannot confirm this PaymentIntent because it's missing a payment method."
        raise not_possible(message, code="payment_intent_unexpected_state")
    method = call.find("payment_method", intent["payment_method"])
    if not payments.charge(call, intent, method):
        raise card_declined(keeps_effects=True)


def _require_free(call: Call, intent: StripeObject) -> None:
    if call.store.named("invoice_payment", intent["id"]) is not None:
        raise not_possible("This PaymentIntent belongs to an invoice: pay or void the invoice instead.")


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
    _require_free(call, intent)
    payments.cancel(call, intent, reason=reason or "requested_by_customer")
    return intent


OPERATIONS = (
    Operation("POST", "/v1/payment_intents", create),
    Operation("GET", "/v1/payment_intents", list_all),
    Operation("GET", "/v1/payment_intents/{id}", retrieve),
    Operation("POST", "/v1/payment_intents/{id}", update),
    Operation("POST", "/v1/payment_intents/{id}/confirm", confirm),
    Operation("POST", "/v1/payment_intents/{id}/cancel", cancel),
)
