"""Meters: what is counted of a customer's meter events, for metered prices."""

from tools.stripe_simulator import lists, meter_usage
from tools.stripe_simulator.errors import not_possible, parameter_invalid, parameter_missing
from tools.stripe_simulator.ids import random_text
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.store import StripeObject

_KIND = "billing.meter"
_FORMULAS = ("count", "last", "sum")
_CUSTOMER_KEY, _VALUE_KEY = "stripe_customer_id", "value"
_MINUTE_SECONDS = 60
_ID_LENGTH = 24


def create(call: Call) -> StripeObject:
    """POST /v1/billing/meters: of an event name that no other active meter has."""
    params = call.params
    aggregation = params.group("default_aggregation")
    formula = None if aggregation is None else aggregation.choice("formula", _FORMULAS)
    if formula is None:
        raise parameter_missing("default_aggregation[formula]")
    mapping, values = params.group("customer_mapping"), params.group("value_settings")
    if mapping is not None:
        mapping.choice("type", ("by_id",))
    meter = call.begin(_KIND) | {
        "customer_mapping": {
            "event_payload_key": _CUSTOMER_KEY if mapping is None else mapping.required_text("event_payload_key"),
            "type": "by_id",
        },
        "default_aggregation": {"formula": formula},
        "display_name": params.required_text("display_name"),
        "event_name": params.required_text("event_name"),
        "event_time_window": params.choice("event_time_window", ("day", "hour")),
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": call.now,
        "value_settings": {
            "event_payload_key": _VALUE_KEY if values is None else values.required_text("event_payload_key")
        },
    }
    params.finish()
    _claim(call, meter)
    call.add(meter, event="billing.meter.created")
    return meter


def _claim(call: Call, meter: StripeObject) -> None:
    if call.store.named(_KIND, meter["event_name"]) is not None:
        message = f"An active meter already exists with event name {meter['event_name']}."
        raise not_possible(message, code="resource_already_exists", param="event_name")


def retrieve(call: Call) -> StripeObject:
    """GET /v1/billing/meters/{id}."""
    call.params.finish()
    return call.target(_KIND)


def update(call: Call) -> StripeObject:
    """POST /v1/billing/meters/{id}: what it is called."""
    meter = call.target(_KIND)
    if "display_name" in call.params:
        meter["display_name"] = call.params.required_text("display_name")
    call.params.finish()
    call.change(meter | {"updated": call.now})
    return call.target(_KIND)


def list_all(call: Call) -> StripeObject:
    """GET /v1/billing/meters, in a status."""
    status = call.params.choice("status", ("active", "inactive"))
    return lists.page(call, _KIND, url="/v1/billing/meters", keep=lambda body: status in {None, body["status"]})


def deactivate(call: Call) -> StripeObject:
    """POST /v1/billing/meters/{id}/deactivate: no more events are accepted for it."""
    meter = call.target(_KIND)
    call.params.finish()
    if meter["status"] != "active":
        raise not_possible("The meter is not active.")
    meter |= {"status": "inactive", "status_transitions": {"deactivated_at": call.now}, "updated": call.now}
    call.change(meter, told_as="billing.meter.deactivated")
    return meter


def reactivate(call: Call) -> StripeObject:
    """POST /v1/billing/meters/{id}/reactivate."""
    meter = call.target(_KIND)
    call.params.finish()
    if meter["status"] == "active":
        raise not_possible("The meter is active.")
    _claim(call, meter)
    meter |= {"status": "active", "status_transitions": {"deactivated_at": None}, "updated": call.now}
    call.change(meter, told_as="billing.meter.reactivated")
    return meter


def list_summaries(call: Call) -> StripeObject:
    """GET /v1/billing/meters/{id}/event_summaries: what a customer used in a range of whole minutes, in one summary."""
    meter, params = call.target(_KIND), call.params
    customer = params.required_text("customer")
    start, end = params.integer("start_time"), params.integer("end_time")
    params.integer("limit")
    params.finish()
    if start is None or end is None:
        raise parameter_missing("start_time" if start is None else "end_time")
    for name, moment in (("start_time", start), ("end_time", end)):
        if moment % _MINUTE_SECONDS:
            raise parameter_invalid(name, f"{name} has to be aligned with minute boundaries.")
    values = meter_usage.values(call, meter, customer, since=start, until=end)
    summary = {
        "aggregated_value": float(meter_usage.aggregate(meter, values)),
        "end_time": end,
        "id": f"mtrusg_test_{random_text(_ID_LENGTH)}",
        "livemode": False,
        "meter": meter["id"],
        "object": "billing.meter_event_summary",
        "start_time": start,
    }
    url = f"/v1/billing/meters/{meter['id']}/event_summaries"
    return {"object": "list", "data": [summary] if values else [], "has_more": False, "url": url}


OPERATIONS = (
    Operation("POST", "/v1/billing/meters", create),
    Operation("GET", "/v1/billing/meters", list_all),
    Operation("GET", "/v1/billing/meters/{id}", retrieve),
    Operation("POST", "/v1/billing/meters/{id}", update),
    Operation("POST", "/v1/billing/meters/{id}/deactivate", deactivate),
    Operation("POST", "/v1/billing/meters/{id}/reactivate", reactivate),
    Operation("GET", "/v1/billing/meters/{id}/event_summaries", list_summaries),
)
