"""Disputes: what a customer's bank took back. A control makes them, or the test card that is always disputed."""

from tools.stripe_simulator import disputing, lists
from tools.stripe_simulator.errors import not_possible, parameter_missing
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.store import StripeObject

_REASONS = (
    "bank_cannot_process", "credit_not_processed", "customer_initiated", "duplicate", "fraudulent", "general",
    "product_not_received", "product_unacceptable", "subscription_canceled", "unrecognized",
)  # fmt: skip

# https://docs.stripe.com/testing: the words by which evidence wins or loses at once.
_DECIDING_EVIDENCE = {"winning_evidence": "won", "losing_evidence": "lost"}


def retrieve(call: Call) -> StripeObject:
    """GET /v1/disputes/{id}."""
    call.params.finish()
    return call.target("dispute")


def list_all(call: Call) -> StripeObject:
    """GET /v1/disputes: of a charge or a payment intent, created in a range."""
    charge, intent = call.params.text("charge"), call.params.text("payment_intent")
    created = lists.time_filter(call.params, "created")
    return lists.page(
        call,
        "dispute",
        url="/v1/disputes",
        owner=charge,
        keep=lambda body: intent in {None, body["payment_intent"]} and created(body["created"]),
    )


def update(call: Call) -> StripeObject:
    """POST /v1/disputes/{id}: evidence, which is submitted unless `submit` is false."""
    dispute, params = call.target("dispute"), call.params
    dispute["metadata"] = params.metadata("metadata", dispute["metadata"])
    evidence = params.group("evidence")
    submit = params.boolean("submit")
    if evidence is not None:
        for name in disputing.EVIDENCE_TEXTS:
            if name in evidence:
                dispute["evidence"][name] = evidence.text(name) or None
        dispute["evidence_details"]["has_evidence"] = True
    params.finish()
    if evidence is None or submit is False:
        call.change(dispute)
        return dispute
    dispute["evidence_details"]["submission_count"] += 1
    dispute["evidence_details"]["submission_method"] = "manual"
    disputing.move(call, dispute, "under_review")
    decision = _DECIDING_EVIDENCE.get(dispute["evidence"]["uncategorized_text"] or "")
    if decision is not None:
        disputing.move(call, dispute, decision)
    return dispute


def close(call: Call) -> StripeObject:
    """POST /v1/disputes/{id}/close: gives in, which loses it."""
    dispute = call.target("dispute")
    call.params.finish()
    disputing.move(call, dispute, "lost")
    return dispute


def begin(call: Call) -> StripeObject:
    """POST /_simulator/disputes: the customer's bank takes back `amount` (all by default) of `charge`."""
    params = call.params
    charge_id = params.text("charge")
    if not charge_id:
        raise parameter_missing("charge")
    charge = call.find("charge", charge_id, param="charge")
    amount, reason = params.integer("amount"), params.choice("reason", _REASONS)
    params.finish()
    if not charge["paid"] or charge["disputed"]:
        raise not_possible("Only a charge that succeeded, and is not disputed yet, can be disputed.", param="charge")
    return disputing.begin(
        call, charge, amount=charge["amount"] if amount is None else amount, reason=reason or "fraudulent"
    )


def decide(call: Call) -> StripeObject:
    """POST /_simulator/disputes/{id}: the bank decides: `status` is under_review, won or lost."""
    dispute = call.target("dispute")
    status = call.params.choice("status", (*disputing.OPEN_STATUSES, *disputing.CLOSED_STATUSES))
    call.params.finish()
    if status is None:
        raise parameter_missing("status")
    disputing.move(call, dispute, status)
    return dispute


OPERATIONS = (
    Operation("GET", "/v1/disputes", list_all),
    Operation("GET", "/v1/disputes/{id}", retrieve),
    Operation("POST", "/v1/disputes/{id}", update),
    Operation("POST", "/v1/disputes/{id}/close", close),
)
CONTROLS = (
    Operation("POST", "/_simulator/disputes", begin),
    Operation("POST", "/_simulator/disputes/{id}", decide),
)
