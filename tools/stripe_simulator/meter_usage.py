"""What a customer used of a metered price, by the meter events of the period."""

from decimal import ROUND_HALF_UP, Decimal

from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.store import StripeObject


def used(call: Call, customer: str, price: StripeObject, *, since: int, until: int) -> int:
    """The quantity, rounded to whole units, of a period, half-open; nothing without a meter."""
    meter_id = price["recurring"]["meter"]
    meter = None if meter_id is None else call.store.get(meter_id)
    if meter is None:
        return 0
    quantity = aggregate(meter, values(call, meter, customer, since=since, until=until))
    return int(quantity.quantize(Decimal(1), ROUND_HALF_UP))


def values(call: Call, meter: StripeObject, customer: str, *, since: int, until: int) -> list[Decimal]:
    """What each of the customer's events of a time, half-open, says was used, in the order of their times."""
    events = [
        event
        for event in call.store.oldest_first("billing.meter_event", owner=customer)
        if event["event_name"] == meter["event_name"] and since <= event["timestamp"] < until
    ]
    key = meter["value_settings"]["event_payload_key"]
    return [Decimal(event["payload"].get(key, "1")) for event in sorted(events, key=lambda event: event["timestamp"])]


def aggregate(meter: StripeObject, found: list[Decimal]) -> Decimal:
    """All values, in their order, as the meter adds them up."""
    match meter["default_aggregation"]["formula"]:
        case "count":
            return Decimal(len(found))
        case "last":
            return found[-1] if found else Decimal(0)
        case _:
            return sum(found, Decimal(0))
