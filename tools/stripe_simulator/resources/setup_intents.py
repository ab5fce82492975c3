"""Setup intents: cards saved for later, without a payment."""

from tools.stripe_simulator import lists, saving
from tools.stripe_simulator.errors import not_possible
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.resources import payment_methods
from tools.stripe_simulator.store import StripeObject

_OPEN = ("requires_payment_method", "requires_confirmation")
_REASONS = ("abandoned", "duplicate", "requested_by_customer")
_USAGES = ("off_session", "on_session")


def create(call: Call) -> StripeObject:
    """POST /v1/setup_intents: of a customer, and with `confirm` done at once."""
    params = call.params
    customer, method = params.text("customer") or None, params.text("payment_method") or None
    if customer is not None:
        call.find("customer", customer, param="customer")
    usage = params.choice("usage", _USAGES) or "off_session"
    description, metadata = params.text("description") or None, params.metadata("metadata", {})
    confirms = params.boolean("confirm") or False
    # Cards are all there is.
    params.texts("payment_method_types")
    params.finish()
    intent = saving.new_intent(call, customer=customer, usage=usage, description=description, metadata=metadata)
    if method is not None:
        intent |= {"payment_method": _saved(call, method, intent)["id"], "status": "requires_confirmation"}
    call.store.replace(intent)
    if confirms:
        _confirm(call, intent)
    return intent


def _saved(call: Call, method: str, intent: StripeObject) -> StripeObject:
    if intent["customer"] is None:
        return payment_methods.new_card(call, method, None, param="payment_method")
    return payment_methods.attach_to(call, method, intent["customer"], param="payment_method")


def _confirm(call: Call, intent: StripeObject) -> None:
    if intent["status"] not in _OPEN or intent["payment_method"] is None:
        message = f"You cannot confirm this SetupIntent because it has a status of {intent['status']}."
        raise not_possible(message, code="setup_intent_unexpected_state")
    saving.succeed(call, intent, call.find("payment_method", intent["payment_method"]))


def retrieve(call: Call) -> StripeObject:
    """GET /v1/setup_intents/{id}."""
    call.params.finish()
    return call.target("setup_intent")


def confirm(call: Call) -> StripeObject:
    """POST /v1/setup_intents/{id}/confirm."""
    intent = call.target("setup_intent")
    method = call.params.text("payment_method")
    call.params.finish()
    if method:
        intent["payment_method"] = _saved(call, method, intent)["id"]
    _confirm(call, intent)
    return intent


def cancel(call: Call) -> StripeObject:
    """POST /v1/setup_intents/{id}/cancel."""
    intent = call.target("setup_intent")
    reason = call.params.choice("cancellation_reason", _REASONS)
    call.params.finish()
    if intent["status"] not in _OPEN:
        message = f"You cannot cancel this SetupIntent because it has a status of {intent['status']}."
        raise not_possible(message, code="setup_intent_unexpected_state")
    intent |= {"cancellation_reason": reason, "status": "canceled"}
    call.change(intent, "setup_intent.canceled")
    return intent


def list_all(call: Call) -> StripeObject:
    """GET /v1/setup_intents: of a customer or a payment method, created in a range."""
    customer, method = call.params.text("customer"), call.params.text("payment_method")
    created = lists.time_filter(call.params, "created")
    return lists.page(
        call,
        "setup_intent",
        url="/v1/setup_intents",
        owner=customer,
        keep=lambda body: method in {None, body["payment_method"]} and created(body["created"]),
    )


OPERATIONS = (
    Operation("POST", "/v1/setup_intents", create),
    Operation("GET", "/v1/setup_intents", list_all),
    Operation("GET", "/v1/setup_intents/{id}", retrieve),
    Operation("POST", "/v1/setup_intents/{id}/confirm", confirm),
    Operation("POST", "/v1/setup_intents/{id}/cancel", cancel),
)
