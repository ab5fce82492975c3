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
    values = [
        value
        for event in call.store.oldest_first("billing.meter_event", owner=customer)
        if event["event_name"] == meter["event_name"]
        and since <= event["timestamp"] < until
        and (value := value_of(meter, event)) is not None
    ]
    return int(aggregate(meter, values).quantize(Decimal(1), ROUND_HALF_UP))


def value_of(meter: StripeObject, event: StripeObject) -> Decimal | None:
    """What the event says was used."""
    text = event["payload"].get(meter["value_settings"]["event_payload_key"])
    return None if text is None else Decimal(text)


def aggregate(meter: StripeObject, values: list[Decimal]) -> Decimal:
    """All values, in their order, as the meter adds them up."""
    match meter["default_aggregation"]["formula"]:
        case "count":
            return Decimal(len(values))
        case "last":
            return values[-1] if values else Decimal(0)
        case _:
            return sum(values, Decimal(0))
