"""Customers: who is billed, and from which card."""

from tools.stripe_simulator import lists, subscription_state
from tools.stripe_simulator.errors import resource_missing
from tools.stripe_simulator.ids import new_invoice_prefix
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.resources import payment_methods
from tools.stripe_simulator.store import StripeObject

_TEXTS = ("description", "email", "name", "phone")
_ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")
_TAX_EXEMPTIONS = ("none", "exempt", "reverse")


def create(call: Call) -> StripeObject:
    """POST /v1/customers; `payment_method` attaches one in the same step."""
    customer = _empty(call)
    if clock := call.params.text("test_clock"):
        customer["test_clock"] = call.find("test_helpers.test_clock", clock, param="test_clock")["id"]
    attached = call.params.text("payment_method")
    default = _read(call.params, customer)
    call.params.finish()
    if not attached and call.card_on_file:
        attached = default = call.card_on_file
    call.add(customer, event="customer.created")
    if attached:
        method = payment_methods.attach_to(call, attached, customer["id"], param="payment_method")
        # Stripe lets the call name a test card twice: once to attach it, once as the default.
        default = method["id"] if default == attached else default
    return _with_default_payment_method(call, customer, default)


def make(call: Call, *, email: str | None, name: str | None) -> StripeObject:
    """A new customer, such as a checkout makes of whoever came."""
    customer = _empty(call) | {"email": email, "name": name}
    call.add(customer, event="customer.created")
    return customer


def _empty(call: Call) -> StripeObject:
    return call.begin("customer") | {
        "address": None,
        "balance": 0,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "email": None,
        "invoice_prefix": new_invoice_prefix(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }


def retrieve(call: Call) -> StripeObject:
    """GET /v1/customers/{id}; of a deleted one Stripe still answers the stub."""
    body = call.store.get(call.path["id"])
    if body is None or body["object"] != "customer":
        raise resource_missing("customer", call.path["id"])
    return body


def update(call: Call) -> StripeObject:
    """POST /v1/customers/{id}."""
    customer = call.target("customer")
    default = _read(call.params, customer)
    call.params.finish()
    return _with_default_payment_method(call, customer, default)


def list_all(call: Call) -> StripeObject:
    """GET /v1/customers, of one email address or created in a range; of a test clock only where it is named."""
    email, clock = call.params.text("email"), call.params.text("test_clock")
    created = lists.time_filter(call.params, "created")
    return lists.page(
        call,
        "customer",
        url="/v1/customers",
        keep=lambda body: email in {None, body["email"]} and clock == body["test_clock"] and created(body["created"]),
    )


def delete(call: Call) -> StripeObject:
    """DELETE /v1/customers/{id}: gone for good, but what it was billed stays."""
    customer = call.target("customer")
    call.params.finish()
    forget(call, customer)
    return {"id": customer["id"], "object": "customer", "deleted": True}


def forget(call: Call, customer: StripeObject) -> None:
    """Deletes the customer, after ending the subscriptions and detaching the cards."""
    for subscription in list(call.store.oldest_first("subscription", owner=customer["id"])):
        if subscription["status"] not in subscription_state.ENDED:
            subscription_state.end(call, subscription, reason="cancellation_requested")
    for method in list(call.store.oldest_first("payment_method", owner=customer["id"])):
        payment_methods.detach_from_customer(call, method)
    customer = call.find("customer", customer["id"])
    call.store.leave_stub({"id": customer["id"], "object": "customer", "deleted": True})
    call.tell("customer.deleted", customer)


def _read(params: Params, customer: StripeObject) -> str | None:
    """Takes over what was sent; answers the default payment method sent, which is still to be looked up."""
    for name in _TEXTS:
        if name in params:
            customer[name] = params.text(name) or None
    if "address" in params:
        address = params.group("address")
        customer["address"] = address and {name: address.text(name) or None for name in _ADDRESS}
    if (balance := params.integer("balance")) is not None:
        customer["balance"] = balance
    if (tax_exempt := params.choice("tax_exempt", _TAX_EXEMPTIONS)) is not None:
        customer["tax_exempt"] = tax_exempt
    if (prefix := params.text("invoice_prefix")) is not None:
        customer["invoice_prefix"] = prefix
    if (sequence := params.integer("next_invoice_sequence")) is not None:
        customer["next_invoice_sequence"] = sequence
    customer["metadata"] = params.metadata("metadata", customer["metadata"])
    settings = params.group("invoice_settings")
    if settings is None:
        return None
    if "footer" in settings:
        customer["invoice_settings"]["footer"] = settings.text("footer") or None
    _read_custom_fields(settings, customer)
    return settings.text("default_payment_method")


def _read_custom_fields(settings: Params, customer: StripeObject) -> None:
    if "custom_fields" in settings:
        groups = settings.groups("custom_fields")
        fields = [{"name": group.required_text("name"), "value": group.required_text("value")} for group in groups]
        customer["invoice_settings"]["custom_fields"] = fields or None


def _with_default_payment_method(call: Call, customer: StripeObject, default: str | None) -> StripeObject:
    if default is not None:
        if default:
            payment_methods.find_attached(call, default, customer["id"])
        customer["invoice_settings"]["default_payment_method"] = default or None
    call.change(customer)
    return customer


OPERATIONS = (
    Operation("POST", "/v1/customers", create),
    Operation("GET", "/v1/customers", list_all),
    Operation("GET", "/v1/customers/{id}", retrieve),
    Operation("POST", "/v1/customers/{id}", update),
    Operation("DELETE", "/v1/customers/{id}", delete),
)
