"""Events: everything that happened, for whoever missed its webhook."""

from tools.stripe_simulator import events, lists, older_shapes
from tools.stripe_simulator.errors import not_possible, parameter_invalid, parameter_missing
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


def resend(call: Call) -> StripeObject:
    """POST /_simulator/events/{id}/resend: delivers it, again or late, as `stripe events resend` does."""
    event = call.target("event")
    call.params.finish()
    if not call.sends_webhooks:
        raise not_possible("Nobody receives webhooks: the simulator was started without a webhook URL.")
    call.store.add_delivery(event["id"], due_at=call.real_now)
    return _current(call.store, event)


def write_as(call: Call) -> StripeObject:
    """POST /_simulator/events/version: from now on events are written as `api_version` did."""
    version = call.params.choice("api_version", (events.API_VERSION, older_shapes.OLDER_VERSION))
    call.params.finish()
    if version is None:
        raise parameter_missing("api_version")
    events.set_api_version(call.store, version)
    return {"api_version": version}


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
CONTROLS = (
    Operation("POST", "/_simulator/events/version", write_as),
    Operation("POST", "/_simulator/events/{id}/resend", resend),
)
