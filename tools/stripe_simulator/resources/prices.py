"""Prices: an amount per unit of a product, once or every so often."""

from decimal import ROUND_HALF_UP, Decimal

from tools.stripe_simulator import lists
from tools.stripe_simulator.errors import not_possible, parameter_invalid, parameter_missing
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.resources import products
from tools.stripe_simulator.store import StripeObject

_INTERVALS = ("day", "week", "month", "year")
_USAGE_TYPES = ("licensed", "metered")


def create(call: Call) -> StripeObject:
    """POST /v1/prices, of a product that exists or of `product_data` (per unit; tiers are not simulated)."""
    params = call.params
    currency = params.currency()
    if currency is None:
        raise parameter_missing("currency")
    unit_amount = read_unit_amount(params)
    recurring = _recurring(params.group("recurring"))
    lookup_key = params.text("lookup_key") or None
    transfer_lookup_key = params.boolean("transfer_lookup_key") or False
    price = call.begin("price") | {
        "active": params.boolean("active") is not False,
        "billing_scheme": params.choice("billing_scheme", ("per_unit",)) or "per_unit",
        "currency": currency,
        "custom_unit_amount": None,
        "lookup_key": lookup_key,
        "metadata": params.metadata("metadata", {}),
        "nickname": params.text("nickname") or None,
        "recurring": recurring,
        "tax_behavior": params.choice("tax_behavior", ("exclusive", "inclusive", "unspecified")) or "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "one_time" if recurring is None else "recurring",
        **unit_amount_fields(unit_amount),
    }
    price["product"] = read_product(call, params)
    call.params.finish()
    _claim_lookup_key(call, lookup_key, transfer=transfer_lookup_key)
    call.add(price, owner=price["product"], event="price.created")
    return price


def cost(price: StripeObject, quantity: Decimal | int) -> int:
    """What so many units cost, rounded once, half away from zero."""
    return int((Decimal(price["unit_amount_decimal"]) * quantity).quantize(Decimal(1), ROUND_HALF_UP))


def create_recurring(call: Call, data: Params) -> StripeObject:
    """Makes an inactive price of a subscription's inline `price_data`; nobody is told."""
    price = _inline(call, data) | {"recurring": _recurring(data.group("recurring")), "type": "recurring"}
    if price["recurring"] is None:
        raise parameter_missing(data.name("recurring"))
    call.add(price, owner=price["product"])
    return price


def create_one_time(call: Call, data: Params) -> StripeObject:
    """Makes an inactive price of a line's inline `price_data`, so that the line can name it; nobody is told."""
    price = _inline(call, data)
    call.add(price, owner=price["product"])
    return price


def _inline(call: Call, data: Params) -> StripeObject:
    currency = data.currency()
    if currency is None:
        raise parameter_missing(data.name("currency"))
    return call.begin("price") | {
        "active": False,
        "billing_scheme": "per_unit",
        "currency": currency,
        "custom_unit_amount": None,
        "lookup_key": None,
        "metadata": {},
        "nickname": None,
        "product": read_product(call, data),
        "recurring": None,
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "one_time",
        **unit_amount_fields(read_unit_amount(data)),
    }


def read_unit_amount(params: Params) -> Decimal:
    """Reads the amount per unit from `unit_amount` or `unit_amount_decimal`, one of which has to be there."""
    whole, exact = params.integer("unit_amount"), params.decimal("unit_amount_decimal")
    if whole is not None and exact is not None:
        message = "You may only specify one of these parameters: unit_amount, unit_amount_decimal."
        raise parameter_invalid(params.name("unit_amount"), message, code="parameters_exclusive")
    if whole is not None:
        return Decimal(whole)
    if exact is None:
        raise parameter_missing(params.name("unit_amount"))
    return exact


def unit_amount_fields(unit_amount: Decimal) -> StripeObject:
    """Both spellings of the amount; the whole one is null when it would have to be rounded."""
    whole = unit_amount == unit_amount.to_integral_value()
    return {
        "unit_amount": int(unit_amount) if whole else None,
        "unit_amount_decimal": decimal_text(unit_amount),
    }


def decimal_text(number: Decimal) -> str:
    """The number in plain digits, without zeros that say nothing."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def read_product(call: Call, params: Params) -> str:
    """Reads `product`, which has to exist, or makes one of `product_data`; answers its id."""
    product = params.text("product")
    data = params.group("product_data")
    if product and data is not None:
        message = "You may only specify one of these parameters: product, product_data."
        raise parameter_invalid(params.name("product"), message, code="parameters_exclusive")
    if data is not None:
        return str(products.create_from(call, data)["id"])
    if not product:
        raise parameter_missing(params.name("product"))
    return str(call.find("product", product, param=params.name("product"))["id"])


def retrieve(call: Call) -> StripeObject:
    """GET /v1/prices/{id}."""
    call.params.finish()
    return call.target("price")


def update(call: Call) -> StripeObject:
    """POST /v1/prices/{id}: its amount never changes."""
    price, params = call.target("price"), call.params
    if (active := params.boolean("active")) is not None:
        price["active"] = active
    if "nickname" in params:
        price["nickname"] = params.text("nickname") or None
    price["metadata"] = params.metadata("metadata", price["metadata"])
    transfer_lookup_key = params.boolean("transfer_lookup_key") or False
    changes_lookup_key = "lookup_key" in params
    lookup_key = params.text("lookup_key") or None
    params.finish()
    if changes_lookup_key and lookup_key != price["lookup_key"]:
        _claim_lookup_key(call, lookup_key, transfer=transfer_lookup_key)
        price["lookup_key"] = lookup_key
    call.change(price)
    return price


def list_all(call: Call) -> StripeObject:
    """GET /v1/prices: of a product, with these lookup keys, of a type or currency, active or not."""
    params = call.params
    product = params.text("product")
    lookup_keys = set(params.texts("lookup_keys"))
    active = params.boolean("active")
    currency = params.currency()
    price_type = params.choice("type", ("one_time", "recurring"))
    created = lists.time_filter(params, "created")
    return lists.page(
        call,
        "price",
        url="/v1/prices",
        owner=product,
        keep=lambda body: (
            active in {None, body["active"]}
            and currency in {None, body["currency"]}
            and price_type in {None, body["type"]}
            and (not lookup_keys or body["lookup_key"] in lookup_keys)
            and created(body["created"])
        ),
    )


def _recurring(params: Params | None) -> StripeObject | None:
    if params is None:
        return None
    interval = params.choice("interval", _INTERVALS)
    if interval is None:
        raise parameter_missing(params.name("interval"))
    interval_count = params.integer("interval_count")
    return {
        "interval": interval,
        "interval_count": 1 if interval_count is None else interval_count,
        "meter": params.text("meter") or None,
        "trial_period_days": None,
        "usage_type": params.choice("usage_type", _USAGE_TYPES) or "licensed",
    }


def _claim_lookup_key(call: Call, lookup_key: str | None, *, transfer: bool) -> None:
    if lookup_key is None:
        return
    holder = call.store.named("price", lookup_key)
    if holder is None:
        return
    if not transfer:
        message = f"A price (`{holder['id']}`) already uses that lookup key."
        raise not_possible(message, code="resource_already_exists", param="lookup_key")
    holder["lookup_key"] = None
    call.change(holder)


OPERATIONS = (
    Operation("POST", "/v1/prices", create),
    Operation("GET", "/v1/prices", list_all),
    Operation("GET", "/v1/prices/{id}", retrieve),
    Operation("POST", "/v1/prices/{id}", update),
)
