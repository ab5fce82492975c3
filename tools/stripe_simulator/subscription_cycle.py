"""A subscription's time: its periods, what happens at each boundary, and the invoice that Stripe drafts there."""

from tools.stripe_simulator import (
    collection,
    intervals,
    invoice_drafts,
    invoice_lines,
    meter_usage,
    subscription_items,
    subscription_state,
)
from tools.stripe_simulator.operations import Call, Tasks
from tools.stripe_simulator.resources import prices
from tools.stripe_simulator.store import StripeObject

_RENEW, _CANCEL, _REMIND, _EXPIRE, _RESUME = (
    "renew_subscription",
    "cancel_subscription",
    "remind_of_trial_end",
    "expire_incomplete",
    "resume_collection",
)

# https://docs.stripe.com/billing/subscriptions/overview: so long the first payment may take.
_INCOMPLETE_SECONDS = 23 * 3_600
_REMIND_DAYS_BEFORE = 3
# Beside them there is room for a line of each of the subscription's own items.
_PENDING_ITEMS_MAX = invoice_lines.LINES_MAX - subscription_items.ITEMS_MAX


def period(subscription: StripeObject) -> tuple[int, int]:
    """The period that the subscription is in, half-open; its items have it."""
    item = subscription["items"]["data"][0]
    return item["current_period_start"], item["current_period_end"]


def begin(call: Call, subscription: StripeObject, *, attempts: bool) -> None:
    """Starts a stored subscription: a trial, or a first period that is billed at once.

    `attempts` is whether the first invoice is charged; if not, somebody else has to pay it.
    """
    start, end = period(subscription)
    _plan_ahead(call, subscription)
    call.tell("customer.subscription.created", subscription)
    if subscription["status"] == "trialing":
        _plan_reminder(call, subscription)
        _bill(call, subscription, start=start, end=end, reason="subscription_create")
        return
    if start == subscription["start_date"] and end == subscription["billing_cycle_anchor"]:
        # Without prorations the time until a later anchor is free.
        subscription["status"] = "active"
        call.change(subscription)
        return
    if subscription["collection_method"] == "send_invoice":
        subscription["status"] = "active"
        call.change(subscription)
    call.plan(subscription, _EXPIRE, due_at=call.now + _INCOMPLETE_SECONDS)
    invoice = _bill(call, subscription, start=start, end=end, reason="subscription_create")
    if invoice["status"] == "open" and attempts:
        collection.advance(call, invoice)


def restart(call: Call, subscription: StripeObject) -> None:
    """Begins a new period now, which is billed at once; boundaries are counted from now."""
    subscription["billing_cycle_anchor"] = call.now
    interval, count = subscription_items.rhythm(call, subscription)
    end = intervals.boundary(call.now, interval=interval, interval_count=count, index=1)
    subscription_items.set_period(call, subscription, start=call.now, end=end)
    call.change(subscription)
    _plan_ahead(call, subscription)
    invoice = _bill(call, subscription, start=call.now, end=end, reason="subscription_update")
    if invoice["status"] == "open":
        collection.advance(call, invoice)


def end_trial(call: Call, subscription: StripeObject) -> None:
    """The trial is over now; the first period that costs something begins."""
    call.store.unplan(subscription["id"], _REMIND)
    subscription |= {"status": "active", "trial_end": call.now}
    call.change(subscription)
    restart(call, subscription)


def move_trial_end(call: Call, subscription: StripeObject, trial_end: int) -> None:
    """The subscription is on trial until then, and periods are counted from there."""
    start, _ = period(subscription)
    subscription |= {
        "billing_cycle_anchor": trial_end,
        "status": "trialing",
        "trial_end": trial_end,
        "trial_start": subscription["trial_start"] or call.now,
    }
    subscription_items.set_period(call, subscription, start=start, end=trial_end)
    call.change(subscription)
    _plan_ahead(call, subscription)
    _plan_reminder(call, subscription)


def cancel_now(call: Call, subscription: StripeObject, *, invoice_now: bool) -> None:
    """Ends it; with `invoice_now` the usage since the period's start is billed."""
    start, _ = period(subscription)
    if invoice_now:
        _bill_usage(call, subscription, start=start, end=call.now)
    subscription_state.end(call, subscription, reason="cancellation_requested")


def plan_cancellation(call: Call, subscription: StripeObject) -> None:
    """Has a subscription that names a `cancel_at` ended then; at a period's end renewing sees to it."""
    cancel_at = subscription["cancel_at"]
    if cancel_at is None or subscription["cancel_at_period_end"]:
        call.store.unplan(subscription["id"], _CANCEL)
    else:
        call.plan(subscription, _CANCEL, due_at=cancel_at)


def plan_resumption(call: Call, subscription: StripeObject) -> None:
    """Has collection go on when its pause says so."""
    pause = subscription["pause_collection"]
    if pause is None or pause["resumes_at"] is None:
        call.store.unplan(subscription["id"], _RESUME)
    else:
        call.plan(subscription, _RESUME, due_at=pause["resumes_at"])


def _plan_ahead(call: Call, subscription: StripeObject) -> None:
    call.plan(subscription, _RENEW, due_at=period(subscription)[1])
    plan_cancellation(call, subscription)


def _plan_reminder(call: Call, subscription: StripeObject) -> None:
    reminder = intervals.later_by_days(subscription["trial_end"], -_REMIND_DAYS_BEFORE)
    call.plan(subscription, _REMIND, due_at=max(call.now, reminder))


# ---- what falls due


def _renew(call: Call, subscription: StripeObject) -> None:
    """The period is over: the subscription ends, or the next period begins and an invoice is drafted."""
    if subscription["status"] not in {"active", "trialing", "past_due", "unpaid"}:
        return
    start, end = period(subscription)
    cancel_at = subscription["cancel_at"]
    if subscription["cancel_at_period_end"] or (cancel_at is not None and cancel_at <= end):
        _bill_usage(call, subscription, start=start, end=end)
        subscription_state.end(call, subscription, reason="cancellation_requested")
        return
    if subscription["status"] == "trialing":
        if not _may_go_on(call, subscription):
            return
        subscription["status"] = "active"
    interval, count = subscription_items.rhythm(call, subscription)
    next_end = intervals.first_boundary_after(
        subscription["billing_cycle_anchor"], interval=interval, interval_count=count, moment=end
    )
    subscription_items.set_period(call, subscription, start=end, end=next_end)
    call.change(subscription)
    _plan_ahead(call, subscription)
    _bill(call, subscription, start=end, end=next_end, reason="subscription_cycle", used_since=start)


def _may_go_on(call: Call, subscription: StripeObject) -> bool:
    """After a trial a subscription without a payment method is paused or canceled, where it says so."""
    behavior = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    customer = call.find("customer", subscription["customer"])
    method = subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]
    if method is not None or behavior == "create_invoice":
        return True
    if behavior == "cancel":
        subscription_state.end(call, subscription, reason="cancellation_requested")
    else:
        subscription["status"] = "paused"
        call.change(subscription, "customer.subscription.paused")
    return False


def _cancel(call: Call, subscription: StripeObject) -> None:
    if subscription["status"] not in subscription_state.ENDED:
        subscription_state.end(call, subscription, reason="cancellation_requested")


def _remind(call: Call, subscription: StripeObject) -> None:
    if subscription["status"] == "trialing":
        call.tell("customer.subscription.trial_will_end", subscription)


def _expire(call: Call, subscription: StripeObject) -> None:
    """The first payment never came: its invoice is void, and the subscription never was."""
    if subscription["status"] != "incomplete":
        return
    invoice = call.store.get(subscription["latest_invoice"])
    if invoice is not None and invoice["status"] == "open":
        collection.void(call, invoice)
    else:
        subscription_state.expire(call, subscription)


def _resume(call: Call, subscription: StripeObject) -> None:
    if subscription["status"] not in subscription_state.ENDED:
        subscription["pause_collection"] = None
        call.change(subscription)


TASKS: Tasks = {
    _RENEW: _renew,
    _CANCEL: _cancel,
    _REMIND: _remind,
    _EXPIRE: _expire,
    _RESUME: _resume,
}


# ---- invoices


def _bill(
    call: Call, subscription: StripeObject, *, start: int, end: int, reason: str, used_since: int | None = None
) -> StripeObject:
    """Drafts the invoice of a period that begins, and of the usage since the time that is given.

    The first one, and one in the middle of a period, is finalized at once; a renewal's in an hour, or never while the
    subscription is unpaid or its collection is paused.
    """
    invoice = _draft(call, subscription, reason=reason, start=start if used_since is None else used_since, end=start)
    for item in subscription_items.of(call, subscription):
        if not subscription_items.is_metered(item):
            _add_line(call, subscription, invoice, item, quantity=item["quantity"], start=start, end=end)
        elif used_since is not None:
            used = meter_usage.used(call, subscription["customer"], item["price"], since=used_since, until=start)
            _add_line(call, subscription, invoice, item, quantity=used, start=used_since, end=start)
    if reason == "subscription_cycle":
        _take_pending_items(call, invoice)
    return _send_on_its_way(call, subscription, invoice)


def _bill_usage(call: Call, subscription: StripeObject, *, start: int, end: int) -> None:
    """The last invoice of a subscription that ends; none where nothing was used."""
    used = [
        (item, meter_usage.used(call, subscription["customer"], item["price"], since=start, until=end))
        for item in subscription_items.of(call, subscription)
        if subscription_items.is_metered(item)
    ]
    if not any(quantity for _, quantity in used):
        return
    invoice = _draft(call, subscription, reason="subscription_cycle", start=start, end=end)
    for item, quantity in used:
        _add_line(call, subscription, invoice, item, quantity=quantity, start=start, end=end)
    _send_on_its_way(call, subscription, invoice)


def _draft(call: Call, subscription: StripeObject, *, reason: str, start: int, end: int) -> StripeObject:
    customer = call.find("customer", subscription["customer"])
    invoice = call.begin("invoice") | invoice_drafts.empty(call, customer)
    invoice |= {
        "auto_advance": _collects(subscription),
        "billing_reason": reason,
        "collection_method": subscription["collection_method"],
        "currency": subscription["currency"],
        "parent": invoice_drafts.parent_of(subscription),
        "period_end": end,
        "period_start": start,
    }
    if subscription["days_until_due"] is not None:
        invoice["due_date"] = intervals.later_by_days(call.now, subscription["days_until_due"])
    call.store.insert(invoice, owner=customer["id"])
    return invoice


def _collects(subscription: StripeObject) -> bool:
    return subscription["status"] != "unpaid" and subscription["pause_collection"] is None


def _take_pending_items(call: Call, invoice: StripeObject) -> None:
    items = call.store.newest_first("invoiceitem", owner=invoice["customer"])
    waiting = [item for item in items if item["invoice"] is None and item["currency"] == invoice["currency"]]
    invoice_lines.put_on_invoice(call, waiting[:_PENDING_ITEMS_MAX], invoice)


def _add_line(
    call: Call,
    subscription: StripeObject,
    invoice: StripeObject,
    item: StripeObject,
    *,
    quantity: int,
    start: int,
    end: int,
) -> None:
    price = item["price"]
    on_trial = subscription["status"] == "trialing"
    name = subscription_items.product_name(call, price)
    # As Stripe writes it.
    text = f"{quantity} × {name}"  # noqa: RUF001
    line = invoice_lines.blank(call, invoice) | {
        "amount": 0 if on_trial else prices.cost(price, quantity),
        "description": f"Trial period for {name}" if on_trial else text,
        "metadata": subscription["metadata"],
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": subscription["id"],
                "subscription_item": item["id"],
            },
            "type": "subscription_item_details",
        },
        "period": {"end": end, "start": start},
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subscription": subscription["id"],
    }
    line["subtotal"] = line["amount"]
    call.store.insert(line, owner=invoice["id"])


def _send_on_its_way(call: Call, subscription: StripeObject, invoice: StripeObject) -> StripeObject:
    """Tells of the draft, names it as the subscription's latest, and finalizes it now or has it finalized."""
    invoice_lines.refresh(call, invoice, call.find("customer", invoice["customer"]))
    at_once = invoice["billing_reason"] != "subscription_cycle" and invoice["collection_method"] != "send_invoice"
    if not at_once:
        collection.plan_finalizing(call, invoice)
    call.store.replace(invoice)
    call.tell("invoice.created", invoice)
    subscription["latest_invoice"] = invoice["id"]
    call.change(subscription)
    pause = subscription["pause_collection"]
    if pause is not None and pause["behavior"] != "keep_as_draft":
        collection.finalize(call, invoice)
        if invoice["status"] == "open":
            (collection.void if pause["behavior"] == "void" else collection.mark_uncollectible)(call, invoice)
    elif at_once and pause is None:
        # Charged by whoever began this, once the subscription says what the charge decides about.
        invoice["auto_advance"] = False
        collection.finalize(call, invoice)
        invoice["auto_advance"] = invoice["status"] == "open"
        call.store.replace(invoice)
    return invoice
