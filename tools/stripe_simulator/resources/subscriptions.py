"""Subscriptions: prices that a customer pays again and again. Prorations are not simulated."""

from tools.stripe_simulator import (
    intervals,
    lists,
    subscription_cycle,
    subscription_items,
    subscription_params,
    subscription_state,
)
from tools.stripe_simulator.errors import card_declined, not_possible, parameter_invalid, parameter_missing
from tools.stripe_simulator.operations import Call, Operation
from tools.stripe_simulator.params import Params
from tools.stripe_simulator.store import StripeObject

_STATUSES = (
    "active", "all", "canceled", "ended", "incomplete", "incomplete_expired", "past_due", "paused", "trialing",
    "unpaid",
)  # fmt: skip


def create(call: Call) -> StripeObject:
    """POST /v1/subscriptions: on trial, or billed at once; `incomplete` when the first payment did not come."""
    params = call.params
    customer_id = params.text("customer")
    if not customer_id:
        raise parameter_missing("customer")
    customer = call.find("customer", customer_id, param="customer")
    behavior = params.choice("payment_behavior", ("allow_incomplete", "default_incomplete", "error_if_incomplete"))
    # Whether a payment is on session, and what is prorated when nothing came before, makes no difference.
    params.boolean("off_session")
    subscription_params.read_proration(params)
    groups = params.groups("items")
    subscription = begin(call, customer, groups, params, attempts=behavior != "default_incomplete")
    params.finish()
    if behavior == "error_if_incomplete" and subscription["status"] == "incomplete":
        raise card_declined()
    return subscription


def begin(
    call: Call,
    customer: StripeObject,
    groups: list[Params],
    params: Params,
    *,
    attempts: bool,
    inactive_prices: bool = False,
) -> StripeObject:
    """Makes and starts a subscription of the customer's.

    It may be what a checkout ends in, whose inline prices, and those archived since, are inactive.
    """
    if not groups:
        raise parameter_missing(params.name("items"))
    subscription = call.begin("subscription") | _empty(call, customer)
    trial_end = subscription_params.read_trial(call, params)
    anchor = params.integer("billing_cycle_anchor")
    if anchor is not None and (anchor <= call.now or trial_end is not None):
        raise parameter_invalid(
            params.name("billing_cycle_anchor"), "The anchor has to be in the future, and no trial."
        )
    subscription_params.read_shared(call, params, subscription)
    # The end is set as soon as it is known how the prices recur.
    call.store.insert(subscription, owner=customer["id"])
    first_end = trial_end or anchor
    currency = params.currency()
    subscription["currency"] = currency or customer["currency"] or "usd"
    subscription_items.read(
        call, subscription, groups, start=call.now, end=first_end or call.now, inactive_prices=inactive_prices
    )
    if trial_end is not None:
        subscription |= {"status": "trialing", "trial_end": trial_end, "trial_start": call.now}
    subscription["billing_cycle_anchor"] = first_end or call.now
    if first_end is None:
        interval, count = subscription_items.rhythm(call, subscription)
        end = intervals.boundary(call.now, interval=interval, interval_count=count, index=1)
        subscription_items.set_period(call, subscription, start=call.now, end=end)
    subscription_params.set_cancellation(call, subscription)
    call.store.replace(subscription)
    if attempts and first_end is None:
        _require_payment_method(call, subscription, customer)
    subscription_cycle.begin(call, subscription, attempts=attempts)
    return call.find("subscription", subscription["id"])


def _require_payment_method(call: Call, subscription: StripeObject, customer: StripeObject) -> None:
    """What is charged now has to have something to be charged to."""
    method = subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    charged = subscription["collection_method"] == "charge_automatically"
    if charged and method is None and not subscription_items.is_free(call, subscription):
        message = "This customer has no default payment method. Please consider adding a default payment method."
        raise not_possible(message, code="resource_missing")


def _empty(call: Call, customer: StripeObject) -> StripeObject:
    return {
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": call.now,
        "billing_cycle_anchor_config": None,
        "billing_mode": {"flexible": None, "type": "classic"},
        "billing_schedules": [],
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "currency": "usd",
        "customer": customer["id"],
        "customer_account": None,
        "days_until_due": None,
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "latest_invoice": None,
        "metadata": {},
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": call.now,
        "status": "incomplete",
        "test_clock": customer["test_clock"],
        "transfer_data": None,
        "trial_end": None,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": None,
    }


def retrieve(call: Call) -> StripeObject:
    """GET /v1/subscriptions/{id}."""
    call.params.finish()
    return call.target("subscription")


def update(call: Call) -> StripeObject:
    """POST /v1/subscriptions/{id}: other items count from the next invoice on (`proration_behavior` none).

    But where they recur otherwise, or the first ones that cost something come, a new period begins and is billed now.
    """
    subscription, params = call.target("subscription"), call.params
    if subscription["status"] in subscription_state.ENDED:
        return _update_ended(call, subscription)
    params.choice("payment_behavior", ("allow_incomplete", "default_incomplete", "error_if_incomplete"))
    params.boolean("off_session")
    groups = params.groups("items")
    proration = subscription_params.read_proration(params)
    if groups and proration != "none":
        message = "Prorations are not simulated: items change with proration_behavior=none."
        raise parameter_invalid("proration_behavior", message)
    ends_trial = params.is_text("trial_end") and subscription["status"] == "trialing"
    trial_end = subscription_params.read_trial(call, params, ends_now=ends_trial)
    anchor = params.choice("billing_cycle_anchor", ("now", "unchanged"))
    subscription_params.read_shared(call, params, subscription)
    subscription_params.read_pause(params, subscription)
    start, end = subscription_cycle.period(subscription)
    recurred, was_free = subscription_items.rhythm(call, subscription), subscription_items.is_free(call, subscription)
    if groups:
        subscription_items.read(call, subscription, groups, start=start, end=end)
    recurs_otherwise = subscription_items.rhythm(call, subscription) != recurred
    begins_to_cost = was_free and not subscription_items.is_free(call, subscription)
    subscription_params.set_cancellation(call, subscription)
    params.finish()
    call.change(subscription)
    subscription_cycle.plan_cancellation(call, subscription)
    subscription_cycle.plan_resumption(call, subscription)
    if ends_trial and trial_end == call.now:
        subscription_cycle.end_trial(call, subscription)
    elif trial_end is not None:
        subscription_cycle.move_trial_end(call, subscription, trial_end)
    elif anchor == "now" or ((recurs_otherwise or begins_to_cost) and subscription["status"] != "trialing"):
        subscription_cycle.restart(call, subscription)
    return call.target("subscription")


def _update_ended(call: Call, subscription: StripeObject) -> StripeObject:
    subscription_params.read_cancellation_details(call.params, subscription)
    subscription["metadata"] = call.params.metadata("metadata", subscription["metadata"])
    if call.params.names():
        raise not_possible("A canceled subscription can only update its cancellation_details and metadata.")
    call.params.finish()
    call.change(subscription)
    return subscription


def cancel(call: Call) -> StripeObject:
    """DELETE /v1/subscriptions/{id}: now; with `invoice_now` what was used is billed."""
    subscription, params = call.target("subscription"), call.params
    if subscription["status"] in subscription_state.ENDED:
        raise not_possible("This subscription has ended already.", code="resource_missing")
    invoice_now = params.boolean("invoice_now") or False
    if params.boolean("prorate"):
        raise parameter_invalid("prorate", "Prorations are not simulated.")
    subscription_params.read_cancellation_details(params, subscription)
    params.finish()
    call.store.replace(subscription)
    subscription_cycle.cancel_now(call, subscription, invoice_now=invoice_now)
    return call.target("subscription")


def resume(call: Call) -> StripeObject:
    """POST /v1/subscriptions/{id}/resume: of a paused one, with a period that begins now."""
    subscription = call.target("subscription")
    call.params.choice("billing_cycle_anchor", ("now",))
    subscription_params.read_proration(call.params)
    call.params.finish()
    if subscription["status"] != "paused":
        raise not_possible("Only a paused subscription can be resumed.")
    subscription["status"] = "active"
    call.change(subscription, "customer.subscription.resumed")
    subscription_cycle.restart(call, subscription)
    return call.target("subscription")


def list_all(call: Call) -> StripeObject:
    """GET /v1/subscriptions: those that have not ended, or in a status; of a customer, with a price."""
    params = call.params
    customer, price, clock = params.text("customer"), params.text("price"), params.text("test_clock")
    status = params.choice("status", _STATUSES)
    collection_method = params.choice("collection_method", subscription_params.COLLECTION_METHODS)
    created = lists.time_filter(params, "created")
    ends, starts = lists.time_filter(params, "current_period_end"), lists.time_filter(params, "current_period_start")
    return lists.page(
        call,
        "subscription",
        url="/v1/subscriptions",
        owner=customer,
        keep=lambda body: (
            _has_status(body, status)
            and collection_method in {None, body["collection_method"]}
            and (customer is not None or clock == body["test_clock"])
            and price in {None, *(item["price"]["id"] for item in body["items"]["data"])}
            and created(body["created"])
            and starts(subscription_cycle.period(body)[0])
            and ends(subscription_cycle.period(body)[1])
        ),
    )


def _has_status(body: StripeObject, status: str | None) -> bool:
    if status is None:
        return body["status"] not in subscription_state.ENDED
    if status == "ended":
        return body["status"] in subscription_state.ENDED
    return status in {"all", body["status"]}


def list_items(call: Call) -> StripeObject:
    """GET /v1/subscription_items, of a subscription, in their order."""
    identifier = call.params.text("subscription")
    if not identifier:
        raise parameter_missing("subscription")
    subscription = call.find("subscription", identifier, param="subscription")
    return lists.page(
        call, "subscription_item", url="/v1/subscription_items", owner=subscription["id"], oldest_first=True
    )


def retrieve_item(call: Call) -> StripeObject:
    """GET /v1/subscription_items/{id}."""
    call.params.finish()
    return call.target("subscription_item")


OPERATIONS = (
    Operation("POST", "/v1/subscriptions", create),
    Operation("GET", "/v1/subscriptions", list_all),
    Operation("GET", "/v1/subscriptions/{id}", retrieve),
    Operation("POST", "/v1/subscriptions/{id}", update),
    Operation("DELETE", "/v1/subscriptions/{id}", cancel),
    Operation("POST", "/v1/subscriptions/{id}/resume", resume),
    Operation("GET", "/v1/subscription_items", list_items),
    Operation("GET", "/v1/subscription_items/{id}", retrieve_item),
)
