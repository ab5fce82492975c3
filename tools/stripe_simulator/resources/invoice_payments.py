"""Invoice payments: which payment intent pays which invoice."""

from tools.stripe_simulator import lists
from tools.stripe_simulator.errors import parameter_missing
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.store import StripeObject

_STATUSES = ("canceled", "open", "paid")


def retrieve(call: Call) -> StripeObject:
    """GET /v1/invoice_payments/{id}."""
    call.params.finish()
    return call.target("invoice_payment")


def list_all(call: Call) -> StripeObject:
    """GET /v1/invoice_payments: of an invoice or of a payment intent, in a status, created in a range."""
    params = call.params
    invoice, status = params.text("invoice"), params.choice("status", _STATUSES)
    created = lists.time_filter(params, "created")
    payment = params.group("payment")
    intent = None
    if payment is not None:
        if payment.choice("type", ("payment_intent",)) is None:
            raise parameter_missing(payment.name("type"))
        intent = payment.text("payment_intent")
    return lists.page(
        call,
        "invoice_payment",
        url="/v1/invoice_payments",
        owner=invoice,
        keep=lambda body: (
            status in {None, body["status"]}
            and intent in {None, body["payment"]["payment_intent"]}
            and created(body["created"])
        ),
    )


OPERATIONS = (
    Operation("GET", "/v1/invoice_payments", list_all),
    Operation("GET", "/v1/invoice_payments/{id}", retrieve),
)
