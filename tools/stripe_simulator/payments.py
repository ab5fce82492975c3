"""Money on its way: the payment intent behind an invoice or a checkout, and a charge for each try to collect it."""

from tools.stripe_simulator import disputing
from tools.stripe_simulator.ids import random_text
from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.resources import payment_methods
from tools.stripe_simulator.store import StripeObject

_SECRET_LENGTH = 25


def new_intent(
    call: Call, *, amount: int, currency: str, customer: str | None, description: str | None
) -> StripeObject:
    """A payment intent that has no payment method yet, stored and told of."""
    intent = call.begin("payment_intent")
    intent |= {
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": None,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic",
        "client_secret": f"{intent['id']}_secret_{random_text(_SECRET_LENGTH)}",
        "confirmation_method": "automatic",
        "currency": currency,
        "customer": customer,
        "customer_account": None,
        "description": description,
        "excluded_payment_method_types": None,
        "last_payment_error": None,
        "latest_charge": None,
        "metadata": {},
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
            }
        },
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": None,
        "review": None,
        "setup_future_usage": None,
        "shipping": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
    }
    call.add(intent, owner=customer, event="payment_intent.created")
    return intent


def charge(call: Call, intent: StripeObject, method: StripeObject) -> bool:
    """Charges the intent's whole amount to the payment method; answers whether the card let it."""
    declined = payment_methods.decline_code(method)
    made = _new_charge(call, intent, method, declined)
    intent["latest_charge"] = made["id"]
    if declined is not None:
        intent |= {
            "last_payment_error": _payment_error(made, method, declined),
            "payment_method": None,
            "status": "requires_payment_method",
        }
        call.add(made, owner=intent["customer"], event="charge.failed")
        call.change(intent, "payment_intent.payment_failed")
        return False
    intent |= {
        "amount_received": intent["amount"],
        "last_payment_error": None,
        "payment_method": method["id"],
        "status": "succeeded",
    }
    call.add(made, owner=intent["customer"], event="charge.succeeded")
    call.change(intent, "payment_intent.succeeded")
    if payment_methods.is_disputed(method):
        disputing.begin(call, made, amount=made["amount"], reason="fraudulent")
    return True


def cancel(call: Call, intent: StripeObject, *, reason: str) -> None:
    """Ends an intent that did not succeed."""
    intent |= {"canceled_at": call.now, "cancellation_reason": reason, "status": "canceled"}
    call.change(intent, "payment_intent.canceled")


def _new_charge(call: Call, intent: StripeObject, method: StripeObject, declined: str | None) -> StripeObject:
    card = method["card"]
    succeeded = declined is None
    return call.begin("charge") | {
        "amount": intent["amount"],
        "amount_captured": intent["amount"] if succeeded else 0,
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": None,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "STRIPE SIMULATOR",
        "captured": succeeded,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": None if succeeded else "card_declined",
        "failure_message": None if succeeded else "Your card was declined.",
        "fraud_details": {},
        "metadata": {},
        "on_behalf_of": None,
        "outcome": _outcome(declined),
        "paid": succeeded,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {
            "card": {
                "amount_authorized": intent["amount"] if succeeded else None,
                "authorization_code": None,
                "brand": card["brand"],
                "checks": card["checks"],
                "country": card["country"],
                "exp_month": card["exp_month"],
                "exp_year": card["exp_year"],
                "fingerprint": card["fingerprint"],
                "funding": card["funding"],
                "installments": None,
                "last4": card["last4"],
                "mandate": None,
                "network": card["brand"],
                "network_token": {"used": False},
                "network_transaction_id": None,
                "regulated_status": "unregulated",
                "three_d_secure": None,
                "wallet": None,
            },
            "type": "card",
        },
        "radar_options": {},
        "receipt_email": None,
        "receipt_number": None,
        "receipt_url": None,
        "refunded": False,
        "review": None,
        "shipping": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "succeeded" if succeeded else "failed",
        "transfer_data": None,
        "transfer_group": None,
    }


def _outcome(declined: str | None) -> StripeObject:
    succeeded = declined is None
    return {
        "advice_code": None if succeeded else "try_again_later",
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": "approved_by_network" if succeeded else "declined_by_network",
        "reason": declined,
        "risk_level": "normal",
        "risk_score": 20,
        "seller_message": "Payment complete." if succeeded else "The bank did not return any further details.",
        "type": "authorized" if succeeded else "issuer_declined",
    }


def _payment_error(made: StripeObject, method: StripeObject, declined: str) -> StripeObject:
    return {
        "charge": made["id"],
        "code": "card_declined",
        "decline_code": declined,
        "doc_url": "https://stripe.com/docs/error-codes/card-declined",
        "message": "Your card was declined.",
        "payment_method": method,
        "type": "card_error",
    }
