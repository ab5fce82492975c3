"""Meter events: usage of a customer, counted once per identifier."""

from decimal import Decimal, InvalidOperation

from tools.stripe_simulator.errors import not_possible, parameter_invalid, parameter_missing
from tools.stripe_simulator.ids import random_text
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.store import StripeObject

_KIND = "billing.meter_event"
_IDENTIFIER_LENGTH = 32
_IDENTIFIER_LENGTH_MAX = 100

# https://docs.stripe.com/api/billing/meter-event/create
_PAST_SECONDS_MAX = 35 * 86_400
_FUTURE_SECONDS_MAX = 5 * 60


def create(call: Call) -> StripeObject:
    """POST /v1/billing/meter_events: at most 35 days old, five minutes ahead, and never the same identifier twice.

    Stripe promises to know an identifier for a day at least; here it is known for ever.
    """
    params = call.params
    event_name = params.required_text("event_name")
    identifier = params.text("identifier") or random_text(_IDENTIFIER_LENGTH)
    timestamp = params.integer("timestamp")
    timestamp = call.now if timestamp is None else timestamp
    payload = _read_payload(params)
    params.finish()
    meter = call.store.named("billing.meter", event_name)
    if meter is None:
        raise not_possible(f"No active meter found for event name {event_name}.", param="event_name")
    _check_time(call, timestamp)
    if len(identifier) > _IDENTIFIER_LENGTH_MAX:
        raise parameter_invalid("identifier", f"An identifier has up to {_IDENTIFIER_LENGTH_MAX} characters.")
    if call.store.named(_KIND, identifier) is not None:
        raise not_possible(f"An event already exists with identifier {identifier}.", param="identifier")
    customer = _check_payload(call, meter, payload)
    event = call.begin(_KIND) | {
        "event_name": event_name,
        "identifier": identifier,
        "payload": payload,
        "timestamp": timestamp,
    }
    call.store.insert(event, owner=customer)
    # It has no id of its own at Stripe.
    return {name: value for name, value in event.items() if name != "id"}


def _read_payload(params: Params) -> dict[str, str]:
    group = params.group("payload")
    if group is None:
        raise parameter_missing("payload")
    return {name: group.text(name) or "" for name in group.names()}


def _check_time(call: Call, timestamp: int) -> None:
    earliest = call.now - _PAST_SECONDS_MAX
    if timestamp < earliest:
        message = (
            "The event timestamp cannot be more than 35 days in past. "
            f"Expected a timestamp greater than or equal to {earliest}."
        )
        raise not_possible(message, param="timestamp")
    if timestamp > call.now + _FUTURE_SECONDS_MAX:
        raise not_possible("The event timestamp cannot be more than 5 minutes in the future.", param="timestamp")


def _check_payload(call: Call, meter: StripeObject, payload: dict[str, str]) -> str:
    """The customer that the payload names."""
    customer_key = meter["customer_mapping"]["event_payload_key"]
    if not payload.get(customer_key):
        raise parameter_missing(f"payload[{customer_key}]")
    customer = call.find("customer", payload[customer_key], param=f"payload[{customer_key}]")
    value_key = meter["value_settings"]["event_payload_key"]
    if meter["default_aggregation"]["formula"] != "count":
        try:
            Decimal(payload.get(value_key, ""))
        except InvalidOperation:
            message = f"The value of payload[{value_key}] is no number."
            raise parameter_invalid(f"payload[{value_key}]", message) from None
    return str(customer["id"])


OPERATIONS = (Operation("POST", "/v1/billing/meter_events", create),)
