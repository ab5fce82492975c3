"""Checkout sessions: a page of Stripe's on which a customer pays once, subscribes, or saves a card.

There is no page here; a control goes through with a session in the customer's place.
"""

from tools.stripe_simulator import checkout, lists, saving
from tools.stripe_simulator.errors import parameter_invalid, parameter_missing
from tools.stripe_simulator.forms import Tree
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.store import StripeObject

_KIND = "checkout.session"
_MODES = ("payment", "setup", "subscription")
_STATUSES = ("complete", "expired", "open")

# https://docs.stripe.com/api/checkout/sessions/create: a day by default and at most, half an hour at least.
_EXPIRES_SECONDS_MAX = 24 * 3_600
_EXPIRES_SECONDS_MIN = 30 * 60


def create(call: Call) -> StripeObject:
    """POST /v1/checkout/sessions, with a hosted page."""
    params = call.params
    mode = params.choice("mode", _MODES)
    if mode is None:
        raise parameter_missing("mode")
    session = call.begin(_KIND) | _empty(mode)
    _read(call, params, session)
    _read_expiry(call, params, session)
    wish: Tree = {name: tree for name in ("subscription_data", "payment_intent_data") if (tree := params.tree(name))}
    setup_data = params.group("setup_intent_data")
    on_trial = checkout.check_subscription_data(call, params.group("subscription_data"))
    _check_payment_data(params.group("payment_intent_data"))
    items = []
    if mode == "setup":
        session["currency"] = params.currency()
        session["setup_intent"] = _new_setup_intent(call, session, setup_data)
    else:
        if setup_data is not None:
            raise parameter_invalid("setup_intent_data", "`setup_intent_data` can only be used in `setup` mode.")
        items = checkout.read_line_items(call, session, params.groups("line_items"))
        total = 0 if on_trial else sum(item["amount_total"] for item in items)
        session |= {
            "amount_subtotal": total,
            "amount_total": total,
            "currency": params.currency() or items[0]["currency"],
            "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        }
    params.finish()
    call.store.insert(session, owner=session["customer"])
    for item in items:
        call.store.insert(item, owner=session["id"])
    checkout.note_wish(call, session, wish)
    call.plan(session, checkout.EXPIRE, due_at=session["expires_at"])
    return session


def _new_setup_intent(call: Call, session: StripeObject, data: Params | None) -> str:
    description = None if data is None else data.text("description") or None
    metadata = {} if data is None else data.metadata("metadata", {})
    intent = saving.new_intent(call, customer=session["customer"], description=description, metadata=metadata)
    return str(intent["id"])


def _empty(mode: str) -> StripeObject:
    return {
        "adaptive_pricing": None,
        "after_expiration": None,
        "allow_promotion_codes": None,
        "amount_subtotal": None,
        "amount_total": None,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": None,
        "cancel_url": None,
        "client_reference_id": None,
        "client_secret": None,
        "collected_information": None,
        "consent": None,
        "consent_collection": None,
        "currency": None,
        "currency_conversion": None,
        "custom_fields": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "customer": None,
        "customer_account": None,
        "customer_creation": "if_required" if mode == "payment" else "always" if mode == "subscription" else None,
        "customer_details": None,
        "customer_email": None,
        "discounts": [],
        "invoice": None,
        "invoice_creation": None,
        "locale": None,
        "metadata": {},
        "mode": mode,
        "origin_context": None,
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": "always" if mode == "subscription" else None,
        "payment_method_configuration_details": None,
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "payment_status": "no_payment_required" if mode == "setup" else "unpaid",
        "permissions": None,
        "phone_number_collection": {"enabled": False},
        "recovered_from": None,
        "saved_payment_method_options": None,
        "setup_intent": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": None,
        "subscription": None,
        "success_url": None,
        "total_details": None,
        "ui_mode": "hosted_page",
        "wallet_options": None,
    }


def _read(call: Call, params: Params, session: StripeObject) -> None:
    session["success_url"] = params.required_text("success_url")
    session["cancel_url"] = params.text("cancel_url") or None
    session["client_reference_id"] = params.text("client_reference_id") or None
    session["customer_email"] = params.text("customer_email") or None
    session["metadata"] = params.metadata("metadata", {})
    session["url"] = f"https://checkout.stripe.com/c/pay/{session['id']}"
    _read_page(params, session)
    if (creation := params.choice("customer_creation", ("always", "if_required"))) is not None:
        if session["mode"] != "payment":
            raise parameter_invalid("customer_creation", "`customer_creation` can only be used in `payment` mode.")
        session["customer_creation"] = creation
    if customer := params.text("customer"):
        if session["customer_email"] is not None:
            message = "You may only specify one of these parameters: customer, customer_email."
            raise parameter_invalid("customer", message, code="parameters_exclusive")
        session["customer"] = call.find("customer", customer, param="customer")["id"]
        session["customer_creation"] = None


def _read_page(params: Params, session: StripeObject) -> None:
    """What the page shows and asks for."""
    params.choice("ui_mode", ("hosted_page",))
    params.texts("payment_method_types")
    if (locale := params.text("locale")) is not None:
        session["locale"] = locale or None
    if (codes := params.boolean("allow_promotion_codes")) is not None:
        session["allow_promotion_codes"] = codes
    if (address := params.choice("billing_address_collection", ("auto", "required"))) is not None:
        session["billing_address_collection"] = address
    if (collection := params.choice("payment_method_collection", ("always",))) is not None:
        session["payment_method_collection"] = collection
    if (custom_text := params.group("custom_text")) is not None:
        for name in session["custom_text"]:
            if (position := custom_text.group(name)) is not None:
                session["custom_text"][name] = {"message": position.required_text("message")}


def _read_expiry(call: Call, params: Params, session: StripeObject) -> None:
    expires_at = params.integer("expires_at")
    if expires_at is None:
        expires_at = call.now + _EXPIRES_SECONDS_MAX
    if not _EXPIRES_SECONDS_MIN <= expires_at - call.now <= _EXPIRES_SECONDS_MAX:
        message = "The `expires_at` timestamp must be between half an hour and 24 hours from Checkout Session creation."
        raise parameter_invalid("expires_at", message)
    session["expires_at"] = expires_at


def _check_payment_data(data: Params | None) -> None:
    if data is not None:
        data.text("description")
        data.metadata("metadata", {})


def retrieve(call: Call) -> StripeObject:
    """GET /v1/checkout/sessions/{id}."""
    call.params.finish()
    return call.target(_KIND)


def update(call: Call) -> StripeObject:
    """POST /v1/checkout/sessions/{id}: its metadata."""
    session = call.target(_KIND)
    session["metadata"] = call.params.metadata("metadata", session["metadata"])
    call.params.finish()
    call.change(session)
    return session


def list_all(call: Call) -> StripeObject:
    """GET /v1/checkout/sessions: in a status, of a customer, or that made a subscription or a payment intent."""
    params = call.params
    customer, subscription = params.text("customer"), params.text("subscription")
    intent, status = params.text("payment_intent"), params.choice("status", _STATUSES)
    created = lists.time_filter(params, "created")
    return lists.page(
        call,
        _KIND,
        url="/v1/checkout/sessions",
        keep=lambda body: (
            customer in {None, body["customer"]}
            and subscription in {None, body["subscription"]}
            and intent in {None, body["payment_intent"]}
            and status in {None, body["status"]}
            and created(body["created"])
        ),
    )


def list_line_items(call: Call) -> StripeObject:
    """GET /v1/checkout/sessions/{id}/line_items, in their order."""
    session = call.target(_KIND)
    url = f"/v1/checkout/sessions/{session['id']}/line_items"
    return lists.page(call, "item", url=url, owner=session["id"], oldest_first=True)


def expire(call: Call) -> StripeObject:
    """POST /v1/checkout/sessions/{id}/expire."""
    session = call.target(_KIND)
    call.params.finish()
    checkout.expire(call, session)
    return session


def complete(call: Call) -> StripeObject:
    """POST /_simulator/checkout/sessions/{id}/complete: the customer goes through with it.

    With the test card `payment_method` (pm_card_visa by default), and saying an `email` and a `name`.
    """
    session, params = call.target(_KIND), call.params
    card = params.text("payment_method") or "pm_card_visa"
    email, name = params.text("email"), params.text("name")
    params.finish()
    checkout.complete(call, session, card=card, email=email, name=name)
    return session


OPERATIONS = (
    Operation("POST", "/v1/checkout/sessions", create),
    Operation("GET", "/v1/checkout/sessions", list_all),
    Operation("GET", "/v1/checkout/sessions/{id}", retrieve),
    Operation("POST", "/v1/checkout/sessions/{id}", update),
    Operation("GET", "/v1/checkout/sessions/{id}/line_items", list_line_items),
    Operation("POST", "/v1/checkout/sessions/{id}/expire", expire),
)
CONTROLS = (Operation("POST", "/_simulator/checkout/sessions/{id}/complete", complete),)
