"""Payment methods: Stripe's test cards, attached to customers."""

from dataclasses import dataclass

from tools.stripe_simulator import lists
from tools.stripe_simulator.errors import StripeError, card_declined, parameter_missing, resource_missing
from tools.stripe_simulator.ids import new_id
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.store import StripeObject


@dataclass(frozen=True, kw_only=True)
class _TestCard:
    brand: str
    last4: str
    attach_decline_code: str | None = None


# https://docs.stripe.com/testing: of a card with chargeCustomerFail only the charges fail, not the attaching; those of
# the card with createDispute succeed, and the customer takes them back.
_CHARGES_FAIL_LAST4 = "0341"
_DISPUTES_LAST4 = "0259"
_TEST_CARDS = {
    "pm_card_visa": _TestCard(brand="visa", last4="4242"),
    "pm_card_mastercard": _TestCard(brand="mastercard", last4="4444"),
    "pm_card_amex": _TestCard(brand="amex", last4="8431"),
    "pm_card_createDispute": _TestCard(brand="visa", last4=_DISPUTES_LAST4),
    "pm_card_chargeCustomerFail": _TestCard(brand="visa", last4=_CHARGES_FAIL_LAST4),
    "pm_card_chargeDeclined": _TestCard(brand="visa", last4="0002", attach_decline_code="generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": _TestCard(
        brand="visa", last4="9995", attach_decline_code="insufficient_funds"
    ),
}

_EXPIRY_YEAR = 2034


def attach(call: Call) -> StripeObject:
    """POST /v1/payment_methods/{id}/attach: of a test card, each attaching makes a new payment method."""
    customer = call.params.text("customer")
    call.params.finish()
    if not customer:
        raise parameter_missing("customer")
    call.find("customer", customer, param="customer")
    return attach_to(call, call.path["id"], customer)


def attach_to(call: Call, identifier: str, customer: str, *, param: str | None = None) -> StripeObject:
    """Attaches a test card, or a payment method that is the customer's already; tells payment_method.attached."""
    if identifier in _TEST_CARDS:
        return new_card(call, identifier, customer, param=param)
    method = call.find("payment_method", identifier, param=param)
    if method["customer"] != customer:
        raise StripeError(
            "This PaymentMethod was previously used without being attached to a Customer or was detached "
            "from a Customer, and may not be used again."
        )
    return method


def new_card(call: Call, identifier: str, customer: str | None, *, param: str | None = None) -> StripeObject:
    """A new payment method of the test card, of the customer's or for this once; a card may refuse that."""
    card = _TEST_CARDS.get(identifier)
    if card is None:
        raise resource_missing("payment_method", identifier, param=param)
    if card.attach_decline_code is not None:
        raise card_declined(card.attach_decline_code)
    method = call.begin("payment_method") | {
        "allow_redisplay": "unspecified",
        "billing_details": {"address": _EMPTY_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None},
        "card": {
            "brand": card.brand,
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": "US",
            "display_brand": card.brand,
            "exp_month": 12,
            "exp_year": _EXPIRY_YEAR,
            "fingerprint": new_id("request").removeprefix("req_"),
            "funding": "credit",
            "generated_from": None,
            "last4": card.last4,
            "networks": {"available": [card.brand], "preferred": None},
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "customer": customer,
        "metadata": {},
        "type": "card",
    }
    call.add(method, owner=customer, event=None if customer is None else "payment_method.attached")
    return method


def find_attached(call: Call, identifier: str, customer: str) -> StripeObject:
    """The payment method, which has to be the customer's."""
    method = call.store.get(identifier)
    if method is None or method["object"] != "payment_method" or method["customer"] != customer:
        message = (
            f"The customer does not have a payment method with the ID {identifier}. "
            "The payment method must be attached to the customer."
        )
        raise StripeError(message, code="resource_missing", param="default_payment_method")
    return method


def decline_code(method: StripeObject) -> str | None:
    """Why charging this payment method is declined; None where it is not."""
    return "generic_decline" if method["card"]["last4"] == _CHARGES_FAIL_LAST4 else None


def is_disputed(method: StripeObject) -> bool:
    """Whether the customer takes back what this payment method was charged."""
    return bool(method["card"]["last4"] == _DISPUTES_LAST4)


def retrieve(call: Call) -> StripeObject:
    """GET /v1/payment_methods/{id}."""
    call.params.finish()
    return call.target("payment_method")


def update(call: Call) -> StripeObject:
    """POST /v1/payment_methods/{id}: of an attached card its expiry, its billing details and its metadata."""
    method, params = call.target("payment_method"), call.params
    card, details = params.group("card"), params.group("billing_details")
    if card is not None:
        for name in ("exp_month", "exp_year"):
            if (number := card.integer(name)) is not None:
                method["card"][name] = number
    if details is not None:
        for name in ("email", "name", "phone"):
            if name in details:
                method["billing_details"][name] = details.text(name) or None
        if (address := details.group("address")) is not None:
            method["billing_details"]["address"] = {name: address.text(name) or None for name in _EMPTY_ADDRESS}
    method["metadata"] = params.metadata("metadata", method["metadata"])
    params.finish()
    if method["customer"] is None:
        raise StripeError("You must save this PaymentMethod to a customer before you can update it.")
    call.change(method)
    return method


def detach(call: Call) -> StripeObject:
    """POST /v1/payment_methods/{id}/detach: it is nobody's any more, nor anybody's default."""
    method = call.target("payment_method")
    call.params.finish()
    if method["customer"] is None:
        raise StripeError("The payment method you provided is not attached to a customer so detachment is impossible.")
    detach_from_customer(call, method)
    return method


def detach_from_customer(call: Call, method: StripeObject) -> None:
    """Takes the payment method off its customer, who may be deleted."""
    customer = call.store.get(method["customer"])
    before = {"customer": method["customer"]}
    method["customer"] = None
    call.store.replace(method)
    call.store.set_owner(method["id"], None)
    call.tell("payment_method.detached", method, before)
    if customer is not None and not customer.get("deleted"):
        settings = customer["invoice_settings"]
        if settings["default_payment_method"] == method["id"]:
            settings["default_payment_method"] = None
            call.change(customer)


def list_all(call: Call) -> StripeObject:
    """GET /v1/payment_methods, of a customer."""
    customer = call.params.text("customer")
    kind = call.params.text("type")
    return lists.page(
        call,
        "payment_method",
        url="/v1/payment_methods",
        owner=customer,
        keep=lambda body: body["customer"] is not None and kind in {None, body["type"]},
    )


def list_of_customer(call: Call) -> StripeObject:
    """GET /v1/customers/{id}/payment_methods."""
    customer = call.target("customer")["id"]
    kind = call.params.text("type")
    return lists.page(
        call,
        "payment_method",
        url=f"/v1/customers/{customer}/payment_methods",
        owner=customer,
        keep=lambda body: kind in {None, body["type"]},
    )


_EMPTY_ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))

OPERATIONS = (
    Operation("GET", "/v1/payment_methods", list_all),
    Operation("GET", "/v1/payment_methods/{id}", retrieve),
    Operation("POST", "/v1/payment_methods/{id}", update),
    Operation("POST", "/v1/payment_methods/{id}/attach", attach),
    Operation("POST", "/v1/payment_methods/{id}/detach", detach),
    Operation("GET", "/v1/customers/{id}/payment_methods", list_of_customer),
)
