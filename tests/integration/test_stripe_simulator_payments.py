"""The Stripe stand-in's money: intents, charges, retries, refunds, disputes and credit notes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stripe_stand_in import DAY, HOUR, START, StandIn, running_stand_in

FAILS = "pm_card_chargeCustomerFail"


@pytest.fixture
async def stripe(tmp_path: Path) -> AsyncIterator[StandIn]:
    async with running_stand_in(tmp_path) as stand_in:
        yield stand_in


async def intent_of(stripe: StandIn, invoice: Any) -> Any:
    payments = await stripe.get("/v1/invoice_payments", invoice=invoice["id"])
    return await stripe.get(f"/v1/payment_intents/{payments['data'][0]['payment']['payment_intent']}")


# ---- collecting


async def test_finalizing_makes_an_intent_that_waits_and_paying_makes_its_charge(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    opened = await stripe.open_invoice(customer, 4900)
    assert opened["hosted_invoice_url"]
    assert opened["status_transitions"]["finalized_at"] == int(START.timestamp())
    waiting = await intent_of(stripe, opened)
    assert (waiting["status"], waiting["amount"], waiting["latest_charge"]) == ("requires_payment_method", 4900, None)

    await stripe.post(f"/v1/invoices/{opened['id']}/pay")
    paid = await stripe.get(f"/v1/invoices/{opened['id']}", expand=["payments"])
    payment = paid["payments"]["data"][0]
    assert (paid["status"], payment["status"], payment["amount_paid"]) == ("paid", "paid", 4900)
    intent = await intent_of(stripe, opened)
    charge = await stripe.charge_of(opened)
    assert (intent["status"], intent["amount_received"]) == ("succeeded", 4900)
    assert (charge["paid"], charge["amount"], charge["payment_intent"]) == (True, 4900, intent["id"])
    types = await stripe.event_types()
    assert types[-6:] == [
        "charge.succeeded",
        "payment_intent.succeeded",
        "invoice_payment.paid",
        "invoice.updated",
        "invoice.paid",
        "invoice.payment_succeeded",
    ]


async def test_a_payment_is_found_by_its_intent(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    first, second = await stripe.paid_invoice(customer, 100), await stripe.paid_invoice(customer, 200)
    intent = await intent_of(stripe, second)
    found = await stripe.get("/v1/invoice_payments", payment={"type": "payment_intent", "payment_intent": intent["id"]})
    assert [payment["invoice"] for payment in found["data"]] == [second["id"]] != [first["id"]]


async def test_a_draft_that_advances_is_finalized_after_an_hour_and_a_held_one_never(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    advancing = await stripe.draft(customer, 100, auto_advance=True)
    held = await stripe.draft(customer, 200, auto_advance=False)
    assert advancing["automatically_finalizes_at"] == int((START + HOUR).timestamp())
    await stripe.advance(HOUR - timedelta(seconds=1))
    assert (await stripe.get(f"/v1/invoices/{advancing['id']}"))["status"] == "draft"
    await stripe.advance(timedelta(seconds=1))
    assert (await stripe.get(f"/v1/invoices/{advancing['id']}"))["status"] == "paid"
    await stripe.advance(30 * DAY)
    assert (await stripe.get(f"/v1/invoices/{held['id']}"))["status"] == "draft"


async def test_a_draft_that_is_held_in_time_is_not_finalized(stripe: StandIn) -> None:
    draft = await stripe.draft((await stripe.customer())["id"], 100, auto_advance=True)
    await stripe.advance(HOUR / 2)
    await stripe.post(f"/v1/invoices/{draft['id']}", auto_advance=False)
    await stripe.advance(2 * HOUR)
    assert (await stripe.get(f"/v1/invoices/{draft['id']}"))["status"] == "draft"


async def test_a_declined_payment_is_tried_again_as_the_schedule_says_until_it_is_given_up(stripe: StandIn) -> None:
    await stripe.control("dunning", retry_days=[1, 2], then_invoice="uncollectible")
    draft = await stripe.draft((await stripe.customer(FAILS))["id"], 4900, auto_advance=True)
    opened = await stripe.post(f"/v1/invoices/{draft['id']}/finalize")
    assert (opened["status"], opened["attempt_count"]) == ("open", 1)
    assert opened["next_payment_attempt"] == int((START + DAY).timestamp())
    await stripe.advance(DAY)
    second = await stripe.get(f"/v1/invoices/{draft['id']}")
    assert (second["attempt_count"], second["next_payment_attempt"]) == (2, int((START + 3 * DAY).timestamp()))
    await stripe.advance(2 * DAY)
    last = await stripe.get(f"/v1/invoices/{draft['id']}")
    assert (last["status"], last["attempt_count"], last["next_payment_attempt"]) == ("uncollectible", 3, None)
    failures = [event for event in await stripe.events() if event["type"] == "invoice.payment_failed"]
    assert [event["data"]["object"]["attempt_count"] for event in failures] == [1, 2, 3]
    assert [event["request"]["id"] is None for event in failures] == [False, True, True]
    assert "invoice.marked_uncollectible" in await stripe.event_types()


async def test_a_better_card_ends_the_retries(stripe: StandIn) -> None:
    customer = (await stripe.customer(FAILS))["id"]
    draft = await stripe.draft(customer, 4900, auto_advance=True)
    await stripe.post(f"/v1/invoices/{draft['id']}/finalize")
    good = await stripe.post("/v1/payment_methods/pm_card_visa/attach", customer=customer)
    await stripe.post(f"/v1/customers/{customer}", invoice_settings={"default_payment_method": good["id"]})
    await stripe.advance(60 * DAY)
    paid = await stripe.get(f"/v1/invoices/{draft['id']}")
    assert (paid["status"], paid["attempt_count"]) == ("paid", 2)
    charges = await stripe.get("/v1/charges", customer=customer)
    assert [charge["status"] for charge in charges["data"]] == ["succeeded", "failed"]
    assert not (await stripe.get(f"/v1/customers/{customer}"))["delinquent"]


async def test_voiding_cancels_the_intent_and_paying_elsewhere_does_too(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    voided, elsewhere = await stripe.open_invoice(customer, 900), await stripe.open_invoice(customer, 800)
    await stripe.post(f"/v1/invoices/{voided['id']}/void")
    paid = await stripe.post(f"/v1/invoices/{elsewhere['id']}/pay", paid_out_of_band=True)
    assert (paid["status"], paid["amount_paid"], paid["amount_paid_off_stripe"]) == ("paid", 800, 800)
    for invoice in (voided, elsewhere):
        assert (await intent_of(stripe, invoice))["status"] == "canceled"
    assert (await stripe.get("/v1/charges", customer=customer))["data"] == []


async def test_an_invoice_that_is_sent_is_not_charged(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    draft = await stripe.draft(customer, 900, collection_method="send_invoice", days_until_due=30, auto_advance=True)
    sent = await stripe.post(f"/v1/invoices/{draft['id']}/send")
    assert (sent["status"], sent["due_date"]) == ("open", int((START + 30 * DAY).timestamp()))
    assert "invoice.sent" in await stripe.event_types()
    charged = await stripe.draft(customer, 1)
    assert (await stripe.refused("POST", f"/v1/invoices/{charged['id']}/send"))["status"] == 400


# ---- refunds


async def test_a_charge_is_refunded_in_parts_up_to_its_amount_and_the_invoice_stays_paid(stripe: StandIn) -> None:
    invoice = await stripe.paid_invoice((await stripe.customer())["id"], 4900)
    charge = await stripe.charge_of(invoice)
    part = await stripe.post("/v1/refunds", charge=charge["id"], amount=900, reason="requested_by_customer")
    assert (part["amount"], part["status"], part["payment_intent"]) == (900, "succeeded", charge["payment_intent"])
    refused = await stripe.refused("POST", "/v1/refunds", charge=charge["id"], amount=4001)
    assert refused["param"] == "amount"
    await stripe.post("/v1/refunds", payment_intent=charge["payment_intent"])
    after = await stripe.get(f"/v1/charges/{charge['id']}", expand=["refunds"])
    assert (after["amount_refunded"], after["refunded"]) == (4900, True)
    assert sorted(refund["amount"] for refund in after["refunds"]["data"]) == [900, 4000]
    again = await stripe.refused("POST", "/v1/refunds", charge=charge["id"])
    assert again["code"] == "charge_already_refunded"
    refunded = [event for event in await stripe.events() if event["type"] == "charge.refunded"]
    assert [event["data"]["object"]["amount_refunded"] for event in refunded] == [900, 4900]
    assert refunded[0]["data"]["previous_attributes"]["amount_refunded"] == 0
    assert (await stripe.get(f"/v1/invoices/{invoice['id']}"))["status"] == "paid"


# ---- disputes


async def test_a_charge_of_the_disputed_card_is_taken_back_at_once(stripe: StandIn) -> None:
    invoice = await stripe.paid_invoice((await stripe.customer("pm_card_createDispute"))["id"], 4900)
    charge = await stripe.charge_of(invoice)
    found = (await stripe.get("/v1/disputes", charge=charge["id"]))["data"]
    assert [(dispute["amount"], dispute["status"]) for dispute in found] == [(4900, "needs_response")]
    assert charge["disputed"]
    assert (await stripe.refused("POST", "/v1/refunds", charge=charge["id"]))["code"] == "charge_disputed"
    types = await stripe.event_types()
    assert {"charge.dispute.created", "charge.dispute.funds_withdrawn"} <= set(types)


@pytest.mark.parametrize(("evidence", "outcome"), [("winning_evidence", "won"), ("losing_evidence", "lost")])
async def test_a_dispute_is_decided_by_its_evidence(stripe: StandIn, evidence: str, outcome: str) -> None:
    charge = await stripe.charge_of(await stripe.paid_invoice((await stripe.customer())["id"], 4900))
    dispute = await stripe.post("/_simulator/disputes", charge=charge["id"], amount=1000, reason="general")
    saved = await stripe.post(f"/v1/disputes/{dispute['id']}", evidence={"product_description": "x"}, submit=False)
    assert saved["status"] == "needs_response"
    closed = await stripe.post(f"/v1/disputes/{dispute['id']}", evidence={"uncategorized_text": evidence})
    assert closed["status"] == outcome
    types = [event_type for event_type in await stripe.event_types() if event_type.startswith("charge.dispute")]
    assert types.count("charge.dispute.closed") == 1
    assert ("charge.dispute.funds_reinstated" in types) == (outcome == "won")
    assert (await stripe.refused("POST", f"/v1/disputes/{dispute['id']}/close"))["status"] == 400


async def test_the_bank_decides_a_dispute_when_it_is_told_to(stripe: StandIn) -> None:
    charge = await stripe.charge_of(await stripe.paid_invoice((await stripe.customer())["id"], 4900))
    dispute = await stripe.post("/_simulator/disputes", charge=charge["id"])
    twice = await stripe.refused("POST", "/_simulator/disputes", charge=charge["id"])
    assert twice["param"] == "charge"
    await stripe.post(f"/_simulator/disputes/{dispute['id']}", status="under_review")
    await stripe.post(f"/_simulator/disputes/{dispute['id']}", status="won")
    moves = [
        event["data"]["object"]["status"]
        for event in await stripe.events()
        if event["type"] == "charge.dispute.updated"
    ]
    assert moves == ["under_review", "won"]


# ---- credit notes


async def test_a_credit_note_lowers_what_an_open_invoice_asks_for_until_it_is_void(stripe: StandIn) -> None:
    invoice = await stripe.open_invoice((await stripe.customer())["id"], 4900, number="TB-1")
    line = invoice["lines"]["data"][0]["id"]
    note = await stripe.post(
        "/v1/credit_notes",
        invoice=invoice["id"],
        lines=[{"type": "invoice_line_item", "invoice_line_item": line, "amount": 900}],
        reason="order_change",
    )
    assert (note["number"], note["type"], note["pre_payment_amount"]) == ("TB-1-CN-01", "pre_payment", 900)
    lowered = await stripe.get(f"/v1/invoices/{invoice['id']}")
    assert (lowered["amount_due"], lowered["amount_remaining"], lowered["total"]) == (4000, 4000, 4900)
    assert (await intent_of(stripe, invoice))["amount"] == 4000
    await stripe.post(f"/v1/credit_notes/{note['id']}/void")
    assert (await stripe.get(f"/v1/invoices/{invoice['id']}"))["amount_remaining"] == 4900
    paid = await stripe.post(f"/v1/invoices/{invoice['id']}/pay")
    assert (paid["amount_paid"], paid["pre_payment_credit_notes_amount"]) == (4900, 0)
    assert "credit_note.voided" in await stripe.event_types()


async def test_an_invoice_that_is_credited_in_full_is_paid_with_nothing(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    invoice = await stripe.open_invoice(customer, 4900)
    await stripe.post("/v1/credit_notes", invoice=invoice["id"], amount=4900)
    paid = await stripe.get(f"/v1/invoices/{invoice['id']}")
    assert (paid["status"], paid["amount_paid"], paid["amount_remaining"]) == ("paid", 0, 0)
    assert (await stripe.get("/v1/charges", customer=customer))["data"] == []


async def test_a_credit_note_on_a_paid_invoice_gives_back_just_its_amount(stripe: StandIn) -> None:
    customer = (await stripe.customer())["id"]
    invoice = await stripe.paid_invoice(customer, 4900)
    wrong = await stripe.refused("POST", "/v1/credit_notes", invoice=invoice["id"], amount=1000, refund_amount=500)
    assert "must equal" in wrong["message"]
    note = await stripe.post(
        "/v1/credit_notes",
        invoice=invoice["id"],
        lines=[{"type": "custom_line_item", "description": "goodwill", "quantity": 2, "unit_amount": 500}],
        refund_amount=600,
        credit_amount=300,
        out_of_band_amount=100,
    )
    assert (note["type"], note["post_payment_amount"], note["total"]) == ("post_payment", 1000, 1000)
    refund = await stripe.get(f"/v1/refunds/{note['refunds'][0]['refund']}")
    assert refund["amount"] == 600
    assert (await stripe.get(f"/v1/customers/{customer}"))["balance"] == -300
    assert (await stripe.get(f"/v1/invoices/{invoice['id']}"))["post_payment_credit_notes_amount"] == 1000
    too_much = await stripe.refused("POST", "/v1/credit_notes", invoice=invoice["id"], amount=3901)
    assert too_much["param"] == "amount"
    void = await stripe.refused("POST", f"/v1/credit_notes/{note['id']}/void")
    assert void["status"] == 400


async def test_what_was_refunded_is_not_credited_again(stripe: StandIn) -> None:
    invoice = await stripe.paid_invoice((await stripe.customer())["id"], 4900)
    charge = await stripe.charge_of(invoice)
    await stripe.post("/v1/refunds", charge=charge["id"], amount=900)
    too_much = await stripe.refused("POST", "/v1/credit_notes", invoice=invoice["id"], amount=4001, credit_amount=4001)
    assert too_much["param"] == "amount"
    await stripe.post("/v1/credit_notes", invoice=invoice["id"], amount=4000, refund_amount=4000)
    assert (await stripe.get(f"/v1/charges/{charge['id']}"))["refunded"]


# ---- behind everybody's back


async def test_a_line_that_vanishes_leaves_the_totals_and_tells_nobody(stripe: StandIn) -> None:
    invoice = await stripe.open_invoice((await stripe.customer())["id"], *range(1_000, 1_012))
    told = len(await stripe.events())
    lines = (await stripe.get(f"/v1/invoices/{invoice['id']}/lines", limit=100))["data"]
    assert (await stripe.send("DELETE", f"/_simulator/objects/{lines[0]['id']}", {})).status_code == 200
    after = await stripe.get(f"/v1/invoices/{invoice['id']}")
    assert (after["total"], after["lines"]["data"][0]["id"]) == (invoice["total"], lines[1]["id"])
    assert len(await stripe.events()) == told


async def test_an_object_is_changed_as_told_and_only_there(stripe: StandIn) -> None:
    invoice = await stripe.open_invoice((await stripe.customer())["id"], 4900)
    await stripe.control(f"objects/{invoice['id']}", status="draft", status_transitions={"finalized_at": None})
    after = await stripe.get(f"/v1/invoices/{invoice['id']}")
    assert (after["status"], after["status_transitions"]["finalized_at"], after["total"]) == ("draft", None, 4900)
    assert (await stripe.send("DELETE", f"/_simulator/objects/{invoice['id']}", {})).status_code == 200
    assert (await stripe.refused("GET", f"/v1/invoices/{invoice['id']}"))["status"] == 404
    assert (await stripe.send("DELETE", "/_simulator/objects/in_none", {})).status_code == 404


# ---- payment methods and customers


async def test_a_deleted_customer_is_charged_nothing_any_more(stripe: StandIn) -> None:
    customer = (await stripe.customer(FAILS))["id"]
    draft = await stripe.draft(customer, 4900, auto_advance=True)
    await stripe.post(f"/v1/invoices/{draft['id']}/finalize")
    await stripe.delete(f"/v1/customers/{customer}")
    await stripe.advance(60 * DAY)
    assert (await stripe.get(f"/v1/invoices/{draft['id']}"))["status"] == "open"
    types = await stripe.event_types()
    assert {"payment_method.detached", "customer.deleted"} <= set(types)


async def test_a_cards_new_expiry_is_told(stripe: StandIn) -> None:
    customer = await stripe.customer()
    method = customer["invoice_settings"]["default_payment_method"]
    await stripe.post(f"/v1/payment_methods/{method}", card={"exp_month": 1, "exp_year": 2040})
    updated = [event for event in await stripe.events() if event["type"] == "payment_method.updated"]
    assert updated[0]["data"]["previous_attributes"]["card"]["exp_year"] == 2034
