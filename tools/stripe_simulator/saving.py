"""Saving a card for later: the setup intent that a checkout, or a page of one's own, ends in."""

from tools.stripe_simulator.ids import random_text
from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.store import StripeObject

_SECRET_LENGTH = 25


def new_intent(
    call: Call,
    *,
    customer: str | None,
    usage: str = "off_session",
    description: str | None = None,
    metadata: dict[str, str] | None = None,
) -> StripeObject:
    """A setup intent that has no payment method yet, stored and told of."""
    intent = call.begin("setup_intent")
    intent |= {
        "application": None,
        "automatic_payment_methods": None,
        "cancellation_reason": None,
        "client_secret": f"{intent['id']}_secret_{random_text(_SECRET_LENGTH)}",
        "customer": customer,
        "customer_account": None,
        "description": description,
        "excluded_payment_method_types": None,
        "flow_directions": None,
        "last_setup_error": None,
        "latest_attempt": None,
        "mandate": None,
        "metadata": metadata or {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": {"card": {"mandate_options": None, "network": None, "request_three_d_secure": None}},
        "payment_method_types": ["card"],
        "single_use_mandate": None,
        "status": "requires_payment_method",
        "usage": usage,
    }
    call.add(intent, owner=customer, event="setup_intent.created")
    return intent


def succeed(call: Call, intent: StripeObject, method: StripeObject) -> None:
    """The payment method is saved."""
    intent |= {"payment_method": method["id"], "status": "succeeded"}
    call.change(intent, "setup_intent.succeeded")
