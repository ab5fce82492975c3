"""Giving back what was charged, all or part of it."""

from tools.stripe_simulator.errors import not_possible
from tools.stripe_simulator.ids import random_text
from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.store import StripeObject

# Such as 7214 9823 6501 2456 7890 123; the bank prints it on the statement.
_REFERENCE_LENGTH = 23


def refund(
    call: Call, charge: StripeObject, *, amount: int | None, reason: str | None, metadata: dict[str, str]
) -> StripeObject:
    """Refunds so much of the charge, or all that is left of it; raises where that is more than is left."""
    if not charge["paid"]:
        raise not_possible("This charge did not succeed; there is nothing to refund.", param="charge")
    if charge["disputed"]:
        message = f"Charge {charge['id']} has been charged back; cannot issue a refund."
        raise not_possible(message, code="charge_disputed")
    left = charge["amount"] - charge["amount_refunded"]
    if left == 0:
        message = f"Charge {charge['id']} has already been refunded."
        raise not_possible(message, code="charge_already_refunded")
    given = left if amount is None else amount
    if given <= 0:
        raise not_possible("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    if given > left:
        message = f"Refund amount ({given}) is greater than unrefunded amount on charge ({left})."
        raise not_possible(message, code="amount_too_large", param="amount")
    made = call.begin("refund", moded=False) | {
        "amount": given,
        "balance_transaction": None,
        "charge": charge["id"],
        "currency": charge["currency"],
        "customer": charge["customer"],
        "destination_details": {
            "card": {
                "reference": random_text(_REFERENCE_LENGTH),
                "reference_status": "available",
                "reference_type": "acquirer_reference_number",
                "type": "refund",
            },
            "type": "card",
        },
        "metadata": metadata,
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }
    charge["amount_refunded"] += given
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    call.add(made, owner=charge["id"], event="refund.created")
    call.change(charge, told_as="charge.refunded")
    return made
