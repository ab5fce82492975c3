"""The lines of invoices: what they cost, and what they add up to."""

from collections.abc import Iterable
from decimal import Decimal

from tools.stripe_simulator import collection, lists
from tools.stripe_simulator.errors import not_possible, parameter_invalid, parameter_missing
from tools.stripe_simulator.operations import Call
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.resources import prices
from tools.stripe_simulator.store import StripeObject

# https://docs.stripe.com/billing/invoices/subscription: beyond it, Stripe refuses as well.
LINES_MAX = 250

# Far beyond any invoice, and sums of 250 of them stay exact wherever JSON numbers are read as doubles.
_AMOUNT_MAX = 10**12


def new_item(call: Call, params: Params, *, customer: str, currency: str) -> StripeObject:
    """An invoice item read from `amount`, or from `price_data` or `pricing[price]` times `quantity`.

    It is not stored yet, and belongs to no invoice.
    """
    quantity, amount, pricing = _read_cost(call, params, currency)
    period = _read_period(params, now=call.now)
    if abs(amount) > _AMOUNT_MAX:
        raise parameter_invalid(params.name("amount"), f"Amounts go up to {_AMOUNT_MAX}.")
    discountable = params.boolean("discountable")
    return call.begin("invoiceitem", dated=False) | {
        "amount": amount,
        "currency": currency,
        "customer": customer,
        "customer_account": None,
        "date": call.now,
        "description": params.text("description") or None,
        "discountable": amount >= 0 if discountable is None else discountable,
        "discounts": [],
        "invoice": None,
        "metadata": params.metadata("metadata", {}),
        "net_amount": amount,
        "parent": None,
        "period": period,
        "pricing": pricing,
        "proration": False,
        "quantity": int(quantity),
        "quantity_decimal": prices.decimal_text(quantity),
        "tax_rates": [],
        "test_clock": call.find("customer", customer)["test_clock"],
    }


def _read_cost(call: Call, params: Params, currency: str) -> tuple[Decimal, int, StripeObject | None]:
    """The quantity, the amount, and the price it is made from where there is one."""
    amount = params.integer("amount")
    price_data, price_choice = params.group("price_data"), params.group("pricing")
    sources = [source for source in (amount, price_data, price_choice) if source is not None]
    if len(sources) > 1:
        message = "You may only specify one of these parameters: amount, price_data, pricing."
        raise parameter_invalid(params.name("amount"), message, code="parameters_exclusive")
    whole_quantity, exact_quantity = params.integer("quantity"), params.decimal("quantity_decimal")
    if whole_quantity is not None and exact_quantity is not None:
        message = "You may only specify one of these parameters: quantity, quantity_decimal."
        raise parameter_invalid(params.name("quantity"), message, code="parameters_exclusive")
    quantity = Decimal(whole_quantity) if whole_quantity is not None else exact_quantity or Decimal(1)

    if amount is not None:
        if quantity != 1:
            message = "You may only specify one of these parameters: amount, quantity."
            raise parameter_invalid(params.name("quantity"), message, code="parameters_exclusive")
        return quantity, amount, None
    if price_data is not None:
        price = prices.create_one_time(call, price_data)
    elif price_choice is not None:
        identifier = price_choice.required_text("price")
        price = call.find("price", identifier, param=price_choice.name("price"))
    else:
        raise parameter_missing(params.name("amount"))
    if price["currency"] != currency:
        message = f"The currency of the price ({price['currency']}) is not that of the invoice ({currency})."
        raise not_possible(message, param=params.name("currency"))
    if price["recurring"] is not None:
        message = (
            "The price specified is set to `type=recurring` but this field only accepts prices with `type=one_time`."
        )
        raise not_possible(message, param=params.name("pricing"))
    pricing = {
        "price_details": {"price": price["id"], "product": price["product"]},
        "type": "price_details",
        "unit_amount_decimal": price["unit_amount_decimal"],
    }
    return quantity, prices.cost(price, quantity), pricing


def _read_period(params: Params, *, now: int) -> StripeObject:
    group = params.group("period")
    if group is None:
        return {"start": now, "end": now}
    start, end = group.integer("start"), group.integer("end")
    if start is None or end is None:
        raise parameter_missing(group.name("start" if start is None else "end"))
    if end < start:
        raise parameter_invalid(group.name("end"), "The period ends before it starts.")
    return {"start": start, "end": end}


def put_on_invoice(call: Call, items: Iterable[StripeObject], invoice: StripeObject) -> None:
    """Makes a line of each item, which has to be stored already; the caller refreshes the invoice afterwards."""
    for item in items:
        if item["currency"] != invoice["currency"]:
            message = f"The item's currency ({item['currency']}) is not the invoice's ({invoice['currency']})."
            raise not_possible(message, param="currency")
        item["invoice"] = invoice["id"]
        call.store.replace(item)
        call.store.insert(_line(call, item, invoice), owner=invoice["id"])


def blank(call: Call, invoice: StripeObject) -> StripeObject:
    """What every line of the invoice says."""
    return call.begin("line_item", dated=False) | {
        "currency": invoice["currency"],
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice["id"],
        "pretax_credit_amounts": [],
        "subscription": None,
        "taxes": [],
    }


def _line(call: Call, item: StripeObject, invoice: StripeObject) -> StripeObject:
    return blank(call, invoice) | {
        "amount": item["amount"],
        "description": item["description"],
        "discountable": item["discountable"],
        "metadata": item["metadata"],
        "parent": {
            "invoice_item_details": {
                "invoice_item": item["id"],
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": None,
            },
            "subscription_item_details": None,
            "type": "invoice_item_details",
        },
        "period": item["period"],
        "pricing": item["pricing"],
        "quantity": item["quantity"],
        "quantity_decimal": item["quantity_decimal"],
        "subtotal": item["amount"],
    }


def item_of(line: StripeObject) -> str | None:
    """The invoice item that the line stands for; None for a line of a subscription's."""
    details = line["parent"]["invoice_item_details"]
    return None if details is None else str(details["invoice_item"])


def take_off_invoice(call: Call, item: StripeObject) -> None:
    """Removes the item's line; the caller refreshes the invoice afterwards."""
    for line in list(call.store.oldest_first("line_item", owner=item["invoice"])):
        if item_of(line) == item["id"]:
            call.store.remove(line["id"])


def refresh(call: Call, invoice: StripeObject, customer: StripeObject) -> None:
    """Sets the draft's totals, and the first page of lines that it carries, from its lines. Does not store it."""
    lines = list(call.store.oldest_first("line_item", owner=invoice["id"]))
    if len(lines) > LINES_MAX:
        raise not_possible(f"An invoice has up to {LINES_MAX} line items.")
    total = sum(line["amount"] for line in lines)
    invoice["lines"] = {
        "object": "list",
        "data": lines[: lists.PAGE_SIZE],
        "has_more": len(lines) > lists.PAGE_SIZE,
        "url": f"/v1/invoices/{invoice['id']}/lines",
    }
    for name in ("subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax"):
        invoice[name] = total
    invoice["starting_balance"] = customer["balance"]
    amount_due, _ = collection.apply_balance(total, customer["balance"], currency=invoice["currency"])
    invoice["amount_due"] = invoice["amount_remaining"] = amount_due
