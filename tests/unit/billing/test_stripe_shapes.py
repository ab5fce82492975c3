from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from services.billing.adapters.stripe.shapes import (
    checkout_from_stripe,
    customer_from_stripe,
    dispute_from_stripe,
    invoice_from_stripe,
    invoice_of_charge,
    payment_intent_of_charge,
    refund_from_stripe,
    subscription_from_stripe,
)
from services.billing.domain.periods import Period
from services.billing.domain.stripe_objects import StripeInvoiceStatus

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
START, END = 1_795_000_000, 1_797_592_000
PERIOD = Period(datetime.fromtimestamp(START, UTC), datetime.fromtimestamp(END, UTC))
OURS = {"tollbook_organization_id": "acme", "tollbook_invoice_id": "inv_1"}


def invoice(**fields: Any) -> dict[str, Any]:
    body = {
        "id": "in_1",
        "object": "invoice",
        "status": "open",
        "customer": "cus_1",
        "number": "TB-000001",
        "total": 5399,
        "currency": "usd",
        "attempted": False,
        "created": START,
        "metadata": OURS,
        "lines": {"data": [{"id": "il_1"}]},
    }
    return body | fields


def test_an_invoice_is_read_whole() -> None:
    read = invoice_from_stripe(invoice(), NOW)
    assert (read.stripe_invoice_id, read.stripe_customer_id, read.number) == ("in_1", "cus_1", "TB-000001")
    assert (read.organization_id, read.invoice_id) == ("acme", "inv_1")
    assert (read.total_minor, read.currency_code, read.status) == (5399, "USD", StripeInvoiceStatus.OPEN)
    assert (read.has_failed, read.has_lines, read.is_paid_outside) == (False, True, False)
    assert read.create_time == PERIOD.start


CURRENT = {
    "parent": {"type": "subscription_details", "subscription_details": {"subscription": "sub_1", "metadata": {}}}
}
EXPANDED = {"parent": {"subscription_details": {"subscription": {"id": "sub_1"}}}}
OLDER = {"subscription": "sub_1", "subscription_details": {"metadata": {}}, "paid": False}
OLDEST = {"subscription": "sub_1"}


@pytest.mark.parametrize("shape", [CURRENT, EXPANDED, OLDER, OLDEST], ids=["current", "expanded", "older", "oldest"])
def test_the_subscription_of_an_invoice_is_read_from_every_shape(shape: dict[str, Any]) -> None:
    assert invoice_from_stripe(invoice(**shape), NOW).stripe_subscription_id == "sub_1"


@pytest.mark.parametrize(
    "details",
    [
        {"parent": {"subscription_details": {"metadata": {"tollbook_organization_id": "globex"}}}},
        {"subscription_details": {"metadata": {"tollbook_organization_id": "globex"}}},
    ],
    ids=["current", "older"],
)
def test_a_draft_of_stripes_own_is_known_by_what_is_written_on_its_subscription(details: dict[str, Any]) -> None:
    read = invoice_from_stripe(invoice(metadata={}, status="draft", **details), NOW)
    assert (read.organization_id, read.invoice_id) == ("globex", "")


@pytest.mark.parametrize("name", ["'; --", "", "a" * 500, "A B", "\0"])
def test_what_is_no_name_of_an_organization_names_none(name: str) -> None:
    read = invoice_from_stripe(invoice(metadata={"tollbook_organization_id": name}), NOW)
    assert read.organization_id == ""


@pytest.mark.parametrize(
    ("fields", "has_failed"),
    [
        ({"attempted": True}, True),
        ({"attempted": True, "status": "paid"}, False),
        ({"attempted": True, "status": "draft"}, False),
        ({"due_date": int(NOW.timestamp()) - 1}, True),
        ({"due_date": int(NOW.timestamp()) + 1}, False),
        ({"due_date": None}, False),
    ],
)
def test_an_open_invoice_has_failed_when_it_was_tried_or_is_late(fields: dict[str, Any], has_failed: bool) -> None:  # noqa: FBT001
    assert invoice_from_stripe(invoice(**fields), NOW).has_failed is has_failed


@pytest.mark.parametrize(
    "paid", [{"amount_paid_off_stripe": 5399}, {"paid_out_of_band": True}], ids=["current", "older"]
)
def test_a_payment_outside_of_stripe_is_told_from_a_charge(paid: dict[str, Any]) -> None:
    assert invoice_from_stripe(invoice(status="paid", **paid), NOW).is_paid_outside
    assert not invoice_from_stripe(invoice(status="paid"), NOW).is_paid_outside


def subscription(**fields: Any) -> dict[str, Any]:
    return {"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active", "metadata": {}} | fields


def item(**fields: Any) -> dict[str, Any]:
    return {"items": {"data": [{"id": "si_1", "price": {"id": "price_1"}} | fields]}}


@pytest.mark.parametrize(
    "shape",
    [
        item(current_period_start=START, current_period_end=END),
        item() | {"current_period_start": START, "current_period_end": END},
    ],
    ids=["on the item", "on the subscription"],
)
def test_a_subscriptions_period_is_read_from_either_shape(shape: dict[str, Any]) -> None:
    assert subscription_from_stripe(subscription(**shape)).period == PERIOD


@pytest.mark.parametrize(
    "shape",
    [
        {"metadata": {"tollbook_plan_id": "pro"}},
        item(price={"metadata": {"tollbook_plan_id": "pro"}}),
        item(price={"metadata": {}, "lookup_key": "tollbook_pro"}),
    ],
    ids=["on the subscription", "on the price", "as lookup key"],
)
def test_the_plan_of_a_subscription_is_found_where_it_may_be_written(shape: dict[str, Any]) -> None:
    assert subscription_from_stripe(subscription(**shape)).plan_id == "pro"


@pytest.mark.parametrize(
    ("status", "begun", "ended"),
    [
        ("active", True, False),
        ("trialing", True, False),
        ("past_due", True, False),
        ("unpaid", True, False),
        ("incomplete", False, False),
        ("paused", False, False),
        ("incomplete_expired", False, True),
        ("canceled", False, True),
    ],
)
def test_every_status_of_a_subscription_is_begun_or_ended_or_neither(status: str, begun: bool, ended: bool) -> None:  # noqa: FBT001
    read = subscription_from_stripe(subscription(status=status))
    assert (read.has_begun, read.has_ended) == (begun, ended)


def test_a_subscription_of_somebody_else_has_no_plan_and_no_owner() -> None:
    read = subscription_from_stripe(subscription(**item(price={"lookup_key": "gold"})))
    assert (read.plan_id, read.organization_id, read.period) == ("", "", None)


def test_a_deleted_customer_is_told_from_one_without_a_card() -> None:
    gone = customer_from_stripe({"id": "cus_1", "object": "customer", "deleted": True})
    assert (gone.is_deleted, gone.organization_id) == (True, "")
    bare = customer_from_stripe({"id": "cus_1", "invoice_settings": {"default_payment_method": None}, "metadata": OURS})
    assert (bare.is_deleted, bare.has_default_payment_method, bare.organization_id) == (False, False, "acme")
    charged = customer_from_stripe({"id": "cus_1", "invoice_settings": {"default_payment_method": "pm_1"}})
    older = customer_from_stripe({"id": "cus_1", "default_source": "card_1"})
    assert charged.has_default_payment_method
    assert older.has_default_payment_method


def test_a_charge_names_its_invoice_in_the_older_shape_and_its_payment_intent_in_the_current_one() -> None:
    assert invoice_of_charge({"id": "ch_1", "invoice": "in_1"}) == "in_1"
    current = {"id": "ch_1", "payment_intent": "pi_1"}
    assert (invoice_of_charge(current), payment_intent_of_charge(current)) == ("", "pi_1")


def test_refunds_and_disputes_are_read_with_their_amount_and_state() -> None:
    refund = refund_from_stripe({"id": "re_1", "amount": 100, "currency": "jpy", "status": "pending", "metadata": None})
    assert (refund.amount_minor, refund.currency_code, refund.status, refund.credit_note_id) == (
        100,
        "JPY",
        "pending",
        "",
    )
    dispute = dispute_from_stripe({"id": "du_1", "charge": "ch_1", "amount": 5, "currency": "usd", "status": "lost"})
    assert (dispute.stripe_charge_id, dispute.is_open) == ("ch_1", False)
    assert dispute_from_stripe({"id": "du_1", "amount": 5, "currency": "usd", "status": "needs_response"}).is_open


def test_a_checkout_gives_what_the_customer_left_to_be_charged() -> None:
    session = {
        "id": "cs_1",
        "customer": "cus_1",
        "status": "complete",
        "metadata": {"tollbook_organization_id": "acme", "tollbook_plan_id": "pro"},
        "setup_intent": {"id": "seti_1", "payment_method": "pm_1"},
    }
    read = checkout_from_stripe(session)
    assert (read.organization_id, read.plan_id, read.is_complete, read.payment_method_id) == (
        "acme",
        "pro",
        True,
        "pm_1",
    )
    assert checkout_from_stripe(session | {"status": "open", "setup_intent": "seti_1"}).payment_method_id == ""
