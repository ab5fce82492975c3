"""Events: everything that happened, for whoever missed its webhook."""

from tools.stripe_simulator import lists
from tools.stripe_simulator.errors import parameter_invalid
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.store import Store, StripeObject


def retrieve(call: Call) -> StripeObject:
    """GET /v1/events/{id}."""
    call.params.finish()
    return _current(call.store, call.target("event"))


def list_all(call: Call) -> StripeObject:
    """GET /v1/events: of some types (`type` may end in `.*`), in a range of time, delivered or not."""
    params = call.params
    pattern = params.text("type")
    types = set(params.texts("types"))
    if pattern and types:
        message = "You may only specify one of these parameters: type, types."
        raise parameter_invalid("types", message, code="parameters_exclusive")
    created = lists.time_filter(params, "created")
    delivery_success = params.boolean("delivery_success")
    found = lists.page(
        call,
        "event",
        url="/v1/events",
        keep=lambda body: (
            (not pattern or _matches(body["type"], pattern))
            and (not types or body["type"] in types)
            and created(body["created"])
            and delivery_success in {None, _current(call.store, body)["pending_webhooks"] == 0}
        ),
    )
    found["data"] = [_current(call.store, body) for body in found["data"]]
    return found


def _current(store: Store, event: StripeObject) -> StripeObject:
    delivery = store.delivery(event["id"])
    still_pending = delivery is not None and delivery.state != "delivered"
    return event | {"pending_webhooks": int(still_pending)}


def _matches(event_type: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return event_type.startswith(pattern.removesuffix("*"))
    return event_type == pattern


OPERATIONS = (
    Operation("GET", "/v1/events", list_all),
    Operation("GET", "/v1/events/{id}", retrieve),
)
