"""What a subscription is for: prices, how many of each, and the period that each is in."""

from collections.abc import Iterable
from decimal import Decimal

from tools.stripe_simulator.errors import not_possible, parameter_invalid, parameter_missing
from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.resources import prices, products
from tools.stripe_simulator.store import StripeObject

# https://docs.stripe.com/billing/subscriptions/multiple-products
ITEMS_MAX = 20


def of(call: Call, subscription: StripeObject) -> list[StripeObject]:
    """The subscription's items, in their order."""
    return list(call.store.oldest_first("subscription_item", owner=subscription["id"]))


def read(
    call: Call,
    subscription: StripeObject,
    groups: Iterable[Params],
    *,
    start: int,
    end: int,
    inactive_prices: bool = False,
) -> None:
    """Adds, changes and removes items as the groups say, and sets what the subscription shows of them.

    New ones are in the period that is given. All of them have to recur alike, and in the subscription's currency.
    """
    for group in groups:
        _read_one(call, subscription, group, start=start, end=end, inactive_prices=inactive_prices)
    items = of(call, subscription)
    if not items:
        raise not_possible("A subscription must have at least one item.", param="items")
    if len(items) > ITEMS_MAX:
        raise not_possible(f"A subscription has up to {ITEMS_MAX} items.", param="items")
    if len({_rhythm(item["price"]) for item in items}) > 1:
        message = "All prices of a subscription have to recur alike (mixed intervals are not simulated)."
        raise not_possible(message, param="items")
    if len({item["price"]["currency"] for item in items} | {subscription["currency"]}) > 1:
        raise not_possible("All prices of a subscription have to be in its currency.", param="items")
    if len({item["price"]["id"] for item in items}) < len(items):
        raise not_possible("Two items of a subscription can't have the same price.", param="items")
    show(call, subscription)


def _read_one(
    call: Call, subscription: StripeObject, group: Params, *, start: int, end: int, inactive_prices: bool
) -> None:
    identifier = group.text("id")
    if identifier and group.boolean("deleted"):
        item = _own(call, subscription, identifier, group)
        call.store.remove(item["id"])
        return
    if identifier:
        item = _own(call, subscription, identifier, group)
        price = _read_price(call, group, inactive_prices=inactive_prices)
        if price is not None:
            item |= {"plan": _plan(price), "price": price}
        _read_quantity(group, item)
        item["metadata"] = group.metadata("metadata", item["metadata"])
        call.store.replace(item)
        return
    price = _read_price(call, group, inactive_prices=inactive_prices)
    if price is None:
        raise parameter_missing(group.name("price"))
    item = call.begin("subscription_item", moded=False) | {
        "billing_thresholds": None,
        "current_period_end": end,
        "current_period_start": start,
        "discounts": [],
        "metadata": group.metadata("metadata", {}),
        "plan": _plan(price),
        "price": price,
        "subscription": subscription["id"],
        "tax_rates": [],
    }
    _read_quantity(group, item)
    call.store.insert(item, owner=subscription["id"])


def _own(call: Call, subscription: StripeObject, identifier: str, group: Params) -> StripeObject:
    item = call.find("subscription_item", identifier, param=group.name("id"))
    if item["subscription"] != subscription["id"]:
        raise parameter_invalid(group.name("id"), f"The item {identifier} is another subscription's.")
    return item


def _read_price(call: Call, group: Params, *, inactive_prices: bool) -> StripeObject | None:
    identifier, data = group.text("price"), group.group("price_data")
    if data is not None:
        return prices.create_recurring(call, data)
    if not identifier:
        return None
    price = call.find("price", identifier, param=group.name("price"))
    if price["recurring"] is None:
        message = (
            "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`."
        )
        raise not_possible(message, param=group.name("price"))
    if not price["active"] and not inactive_prices:
        raise not_possible("The price specified is inactive.", param=group.name("price"))
    return price


def _read_quantity(group: Params, item: StripeObject) -> None:
    quantity = group.integer("quantity")
    if is_metered(item):
        if quantity is not None:
            raise parameter_invalid(group.name("quantity"), "You cannot set the quantity of a metered price.")
        item.pop("quantity", None)
    elif quantity is not None or "quantity" not in item:
        item["quantity"] = 1 if quantity is None else quantity


def is_metered(item: StripeObject) -> bool:
    """Whether the item is billed by usage, after its period."""
    return bool(item["price"]["recurring"]["usage_type"] == "metered")


def _rhythm(price: StripeObject) -> tuple[str, int]:
    return price["recurring"]["interval"], price["recurring"]["interval_count"]


def rhythm(call: Call, subscription: StripeObject) -> tuple[str, int]:
    """The interval at which the subscription recurs, and how many of them make a period."""
    return _rhythm(of(call, subscription)[0]["price"])


def is_free(call: Call, subscription: StripeObject) -> bool:
    """Whether nothing of it costs anything."""
    return all(Decimal(item["price"]["unit_amount_decimal"]) == 0 for item in of(call, subscription))


def set_period(call: Call, subscription: StripeObject, *, start: int, end: int) -> None:
    """Puts every item into the period, half-open."""
    for item in of(call, subscription):
        call.store.replace(item | {"current_period_end": end, "current_period_start": start})
    show(call, subscription)


def show(call: Call, subscription: StripeObject) -> None:
    """Sets the subscription's own list of its items. Does not store it."""
    subscription["items"] = {
        "object": "list",
        "data": of(call, subscription),
        "has_more": False,
        "url": f"/v1/subscription_items?subscription={subscription['id']}",
    }


def product_name(call: Call, price: StripeObject) -> str:
    """What the price is of, as lines say it."""
    return products.name_of(call, price["product"])


def _plan(price: StripeObject) -> StripeObject:
    """What prices were called before; items carry both."""
    return {
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "id": price["id"],
        "interval": price["recurring"]["interval"],
        "interval_count": price["recurring"]["interval_count"],
        "livemode": False,
        "metadata": price["metadata"],
        "meter": price["recurring"]["meter"],
        "nickname": price["nickname"],
        "object": "plan",
        "product": price["product"],
        "tiers_mode": None,
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": price["recurring"]["usage_type"],
    }
