"""Refunds: what was given back of a charge."""

from tools.stripe_simulator import lists, refunding
from tools.stripe_simulator.errors import parameter_invalid, parameter_missing
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.store import StripeObject

_REASONS = ("duplicate", "fraudulent", "requested_by_customer")


def create(call: Call) -> StripeObject:
    """POST /v1/refunds: of a `charge`, or of the latest one of a `payment_intent`; all that is left by default."""
    params = call.params
    charge = _charge(call)
    amount, reason = params.integer("amount"), params.choice("reason", _REASONS)
    metadata = params.metadata("metadata", {})
    params.finish()
    return refunding.refund(call, charge, amount=amount, reason=reason, metadata=metadata)


def _charge(call: Call) -> StripeObject:
    charge, intent = call.params.text("charge"), call.params.text("payment_intent")
    if charge:
        found = call.find("charge", charge, param="charge")
        if intent not in {None, found["payment_intent"]}:
            raise parameter_invalid("payment_intent", "The charge belongs to another PaymentIntent.")
        return found
    if not intent:
        raise parameter_missing("charge")
    latest = call.find("payment_intent", intent, param="payment_intent")["latest_charge"]
    if latest is None:
        raise parameter_invalid("payment_intent", f"This PaymentIntent ({intent}) does not have a successful charge.")
    return call.find("charge", latest)


def retrieve(call: Call) -> StripeObject:
    """GET /v1/refunds/{id}."""
    call.params.finish()
    return call.target("refund")


def update(call: Call) -> StripeObject:
    """POST /v1/refunds/{id}: its metadata."""
    refund = call.target("refund")
    refund["metadata"] = call.params.metadata("metadata", refund["metadata"])
    call.params.finish()
    call.change(refund)
    return refund


def list_all(call: Call) -> StripeObject:
    """GET /v1/refunds: of a charge or a payment intent, created in a range."""
    charge, intent = call.params.text("charge"), call.params.text("payment_intent")
    created = lists.time_filter(call.params, "created")
    return lists.page(
        call,
        "refund",
        url="/v1/refunds",
        owner=charge,
        keep=lambda body: intent in {None, body["payment_intent"]} and created(body["created"]),
    )


OPERATIONS = (
    Operation("POST", "/v1/refunds", create),
    Operation("GET", "/v1/refunds", list_all),
    Operation("GET", "/v1/refunds/{id}", retrieve),
    Operation("POST", "/v1/refunds/{id}", update),
)
