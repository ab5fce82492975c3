"""What a checkout session asks for when it is made, and what comes of it when the customer goes through with it."""

import json

from tools.stripe_simulator import payments, saving
from tools.stripe_simulator.errors import card_declined, not_possible, parameter_invalid, parameter_missing
from tools.stripe_simulator.forms import Tree
from tools.stripe_simulator.operations import Call, Tasks
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.resources import customers, payment_methods, prices, products, subscriptions
from tools.stripe_simulator.store import StripeObject

EXPIRE = "expire_session"
LINE_ITEMS_MAX = 100


def note_wish(call: Call, session: StripeObject, wish: Tree) -> None:
    """Keeps what the session was asked for and does not show, such as `subscription_data`, until it is completed."""
    call.store.set_setting(f"wish.{session['id']}", json.dumps(wish))


def _wish(call: Call, session: StripeObject) -> Tree:
    wish: Tree = json.loads(call.store.setting(f"wish.{session['id']}") or "{}")
    return wish


def read_line_items(call: Call, session: StripeObject, groups: list[Params]) -> list[StripeObject]:
    """The items that the groups name, each of a price in one currency that is right for the session's mode."""
    if not groups:
        raise parameter_missing("line_items")
    if len(groups) > LINE_ITEMS_MAX:
        raise parameter_invalid("line_items", f"A session has up to {LINE_ITEMS_MAX} line items.")
    items = [_read_line_item(call, session, group) for group in groups]
    if len({item["currency"] for item in items}) > 1:
        raise parameter_invalid("line_items", "All line items have to be in one currency.")
    return items


def _read_line_item(call: Call, session: StripeObject, group: Params) -> StripeObject:
    recurs = session["mode"] == "subscription"
    data, identifier = group.group("price_data"), group.text("price")
    if data is not None:
        price = prices.create_recurring(call, data) if recurs else prices.create_one_time(call, data)
    elif identifier:
        price = call.find("price", identifier, param=group.name("price"))
    else:
        raise parameter_missing(group.name("price"))
    if (price["recurring"] is not None) != recurs:
        message = (
            "In `subscription` mode every price has to recur, in `payment` mode none may (mixing is not simulated)."
        )
        raise parameter_invalid(group.name("price"), message)
    quantity = group.integer("quantity")
    total = prices.cost(price, quantity or 0)
    if recurs and price["recurring"]["usage_type"] == "metered":
        quantity, total = None, 0
    elif quantity is None:
        raise parameter_missing(group.name("quantity"))
    return call.begin("item", dated=False, moded=False) | {
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": total,
        "amount_tax": 0,
        "amount_total": total,
        "currency": price["currency"],
        "description": products.name_of(call, price["product"]),
        "metadata": group.metadata("metadata", {}),
        "price": price,
        "quantity": quantity,
    }


def complete(call: Call, session: StripeObject, *, card: str, email: str | None, name: str | None) -> None:
    """The customer pays, or saves a card: what the session is for is made, and told of.

    A card that is declined leaves everything as it was; the customer may try another one.
    """
    require_open(session)
    wish = _wish(call, session)
    customer = _customer_of(call, session, email=email, name=name)
    identifier = None if customer is None else str(customer["id"])
    if identifier is None:
        method = payment_methods.new_card(call, card, None, param="payment_method")
    else:
        method = payment_methods.attach_to(call, card, identifier, param="payment_method")
    match session["mode"]:
        case "payment":
            _pay(call, session, method, wish, customer=identifier)
        case "setup":
            saving.succeed(call, call.find("setup_intent", session["setup_intent"]), method)
            session["payment_status"] = "no_payment_required"
        case _:
            _subscribe(call, session, method, wish, customer=identifier or "")
    details = method["billing_details"] if customer is None else customer
    session |= {
        "customer": identifier,
        "customer_details": {
            "address": details["address"],
            "business_name": None,
            "email": email or details["email"] or session["customer_email"],
            "individual_name": None,
            "name": name or details["name"],
            "phone": details["phone"],
            "tax_exempt": "none",
            "tax_ids": [],
        },
        "status": "complete",
        "url": None,
    }
    call.store.unplan(session["id"])
    call.change(session, "checkout.session.completed")


def _customer_of(call: Call, session: StripeObject, *, email: str | None, name: str | None) -> StripeObject | None:
    if session["customer"] is not None:
        return call.find("customer", session["customer"])
    if session["mode"] != "subscription" and session["customer_creation"] != "always":
        return None
    return customers.make(call, email=email or session["customer_email"], name=name)


def _pay(call: Call, session: StripeObject, method: StripeObject, wish: Tree, *, customer: str | None) -> None:
    data = Params(wish).group("payment_intent_data")
    description = None if data is None else data.text("description")
    metadata = {} if data is None else data.metadata("metadata", {})
    intent = payments.new_intent(
        call, amount=session["amount_total"], currency=session["currency"], customer=customer, description=description
    )
    intent["metadata"] = metadata
    if not payments.charge(call, intent, method):
        raise card_declined()
    session |= {"payment_intent": intent["id"], "payment_status": "paid"}


def _subscribe(call: Call, session: StripeObject, method: StripeObject, wish: Tree, *, customer: str) -> None:
    items: Tree = {}
    for index, item in enumerate(call.store.oldest_first("item", owner=session["id"])):
        wanted: Tree = {"price": item["price"]["id"]}
        if item["quantity"] is not None:
            wanted["quantity"] = str(item["quantity"])
        items[str(index)] = wanted
    data = wish.get("subscription_data", {})
    asked: Tree = dict(data) if isinstance(data, dict) else {}
    asked |= {"default_payment_method": method["id"], "items": items, "currency": session["currency"]}
    params = Params(asked)
    subscription = subscriptions.begin(
        call, call.find("customer", customer), params.groups("items"), params, attempts=True, inactive_prices=True
    )
    if subscription["status"] == "incomplete":
        raise card_declined()
    session |= {
        "invoice": subscription["latest_invoice"],
        "payment_status": "paid" if session["amount_total"] else "no_payment_required",
        "subscription": subscription["id"],
    }


def check_subscription_data(call: Call, data: Params | None) -> bool:
    """Whether the subscription begins with a trial; refuses what a completed session could not make of it."""
    if data is None:
        return False
    data.text("description")
    data.metadata("metadata", {})
    days, trial_end = data.integer("trial_period_days"), data.integer("trial_end")
    anchor = data.integer("billing_cycle_anchor")
    data.choice("proration_behavior", ("create_prorations", "none"))
    if (settings := data.group("trial_settings")) is not None and (end := settings.group("end_behavior")) is not None:
        end.choice("missing_payment_method", ("cancel", "create_invoice", "pause"))
    if (mode := data.group("billing_mode")) is not None:
        mode.choice("type", ("classic", "flexible"))
    for name, moment in (("trial_end", trial_end), ("billing_cycle_anchor", anchor)):
        if moment is not None and moment <= call.now:
            raise parameter_invalid(data.name(name), "Invalid timestamp: must be in the future.")
    return bool(days) or trial_end is not None


def expire(call: Call, session: StripeObject) -> None:
    """Nobody can go through with it any more."""
    require_open(session)
    session |= {"status": "expired", "url": None}
    call.store.unplan(session["id"])
    call.change(session, "checkout.session.expired")


def require_open(session: StripeObject) -> None:
    """Raises not_possible where the session was completed or has expired."""
    if session["status"] != "open":
        raise not_possible(
            f"Only Checkout Sessions with a status in [open] can be used. This one is {session['status']}."
        )


TASKS: Tasks = {EXPIRE: expire}
