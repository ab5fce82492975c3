"""A customer takes a charge back: what a dispute goes through, from the bank's word to its end."""

from tools.stripe_simulator.errors import not_possible
from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.store import StripeObject

_DAY_SECONDS = 86_400
_EVIDENCE_DAYS = 9

OPEN_STATUSES = ("needs_response", "under_review")
CLOSED_STATUSES = ("won", "lost")

EVIDENCE_TEXTS = (
    "access_activity_log", "billing_address", "cancellation_policy_disclosure", "cancellation_rebuttal",
    "customer_email_address", "customer_name", "customer_purchase_ip", "duplicate_charge_explanation",
    "duplicate_charge_id", "product_description", "refund_policy_disclosure", "refund_refusal_explanation",
    "service_date", "shipping_address", "shipping_carrier", "shipping_date", "shipping_tracking_number",
    "uncategorized_text",
)  # fmt: skip
_EVIDENCE_FILES = (
    "cancellation_policy", "customer_communication", "customer_signature", "duplicate_charge_documentation",
    "receipt", "refund_policy", "service_documentation", "shipping_documentation", "uncategorized_file",
)  # fmt: skip


def begin(call: Call, charge: StripeObject, *, amount: int, reason: str) -> StripeObject:
    """The customer's bank takes so much of the charge back until the dispute ends."""
    dispute = call.begin("dispute") | {
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {**dict.fromkeys((*EVIDENCE_TEXTS, *_EVIDENCE_FILES)), "enhanced_evidence": {}},
        "evidence_details": {
            "due_by": call.now + _EVIDENCE_DAYS * _DAY_SECONDS,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        "is_charge_refundable": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": charge["payment_method_details"]["card"]["brand"],
                "case_type": "chargeback",
                "network": charge["payment_method_details"]["card"]["brand"],
                "network_reason_code": "10",
            },
            "type": "card",
        },
        "reason": reason,
        "status": "needs_response",
    }
    charge["disputed"] = True
    call.change(charge)
    call.add(dispute, owner=charge["id"], event="charge.dispute.created")
    call.tell("charge.dispute.funds_withdrawn", dispute)
    return dispute


def move(call: Call, dispute: StripeObject, status: str) -> None:
    """Puts the dispute under review, or ends it won (the money comes back) or lost."""
    if dispute["status"] in CLOSED_STATUSES:
        raise not_possible("This dispute is already closed.", code="dispute_closed")
    dispute["status"] = status
    call.change(dispute, *(["charge.dispute.closed"] if status in CLOSED_STATUSES else []))
    if status == "won":
        call.tell("charge.dispute.funds_reinstated", dispute)
