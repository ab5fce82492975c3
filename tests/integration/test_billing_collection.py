"""Invoices on their way to Stripe and payments on their way back, with the Stripe simulator as a process of its own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from kit.errors import DependencyUnavailable
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.stores import free_port
from services.billing.adapters.stripe.client import StripeApi
from services.billing.adapters.stripe.customers import StripeCustomers
from services.billing.application.ports.collection import CollectedInvoice
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.profile import BillingProfile, BillingTerms, CollectionMethod, Party
from services.billing.domain.stripe_objects import StripeInvoice
from tests.integration.billing_scene import ACME, API_KEY, Scene, Simulator, billing_scene, running_simulator

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with running_simulator(tmp_path) as running:
        yield running


@pytest.fixture
async def scene(postgres: EmbeddedPostgres, simulator: Simulator) -> AsyncIterator[Scene]:
    async with billing_scene(postgres.url, simulator) as assembled:
        yield assembled


@pytest.fixture(autouse=True)
def quick_library_retries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Stripe's library waits half a second and more between its own retries; that it waits is not ours to test.
    monkeypatch.setattr("stripe._http_client.HTTPClient.INITIAL_DELAY", 0.01)
    monkeypatch.setattr("stripe._http_client.HTTPClient.MAX_DELAY", 0.02)
    return iter([None])


# --- to Stripe


async def test_what_stripe_charges_is_the_invoice_to_the_unit(scene: Scene, simulator: Simulator) -> None:
    made = await scene.finalize()
    assert await scene.work_until_idle() == 1
    (theirs,) = simulator.invoices()
    assert (theirs["status"], theirs["number"], theirs["currency"]) == ("open", made.number, "usd")
    assert theirs["total"] == theirs["amount_due"] == made.total.minor == 5400
    lines = simulator.call("GET", f"/v1/invoices/{theirs['id']}/lines")["data"]
    expected = sorted((line.amount.minor, line.description) for line in made.lines)
    assert sorted((line["amount"], line["description"]) for line in lines) == expected
    assert (await scene.read(made)).stripe_invoice_id == theirs["id"]
    async with scene.books.read(ACME) as book:
        assert await book.customer.stripe_id() == theirs["customer"]


async def test_all_invoices_of_an_organization_go_to_one_customer(scene: Scene, simulator: Simulator) -> None:
    for months in range(3):
        await scene.finalize(months=months)
    await scene.work_until_idle()
    assert len(simulator.invoices()) == 3
    assert len({theirs["customer"] for theirs in simulator.invoices()}) == 1
    assert len(simulator.call("GET", "/v1/customers")["data"]) == 1


async def test_an_invoice_goes_to_the_customer_that_is_kept_and_not_to_one_made_at_the_same_time(
    scene: Scene, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, first = await scene.finalize(), simulator.call("POST", "/v1/customers")["id"]
    ensure = scene.customers.ensure

    async def overtaken(organization_id: str, *, since: datetime, attempt_count: int, generation: int) -> str:
        async with scene.books.open(organization_id) as book:
            await book.customer.set_stripe_id(first)
        return await ensure(organization_id, since=since, attempt_count=attempt_count, generation=generation)

    monkeypatch.setattr(scene.customers, "ensure", overtaken)
    assert await scene.work_until_idle() == 1
    theirs = simulator.call("GET", f"/v1/invoices/{(await scene.read(made)).stripe_invoice_id}")
    assert theirs["customer"] == first


async def test_an_invoice_that_a_defect_meets_is_tried_again_and_stops_no_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison, other = await scene.finalize(), await scene.finalize(months=1)
    collect = scene.collector.collect

    async def failing(invoice: Invoice, customer: str, *, terms: BillingTerms, attempt_count: int) -> CollectedInvoice:
        if invoice.invoice_id == poison.invoice_id and attempt_count == 1:
            raise KeyError(invoice.invoice_id)
        return await collect(invoice, customer, terms=terms, attempt_count=attempt_count)

    monkeypatch.setattr(scene.collector, "collect", failing)
    assert await scene.collect() == 2
    assert (await scene.read(other)).stripe_invoice_id
    await scene.work_until_idle()
    assert (await scene.read(poison)).stripe_invoice_id


async def test_a_draft_that_is_not_ours_to_the_unit_is_never_finalized(scene: Scene, simulator: Simulator) -> None:
    made = await scene.finalize()
    customer = await scene.customers.ensure(ACME, since=scene.clock.now(), attempt_count=1)
    draft = simulator.call(
        "POST",
        "/v1/invoices",
        data={"customer": customer, "number": made.number, "metadata[tollbook_invoice_id]": made.invoice_id},
    )
    simulator.call("POST", "/v1/invoiceitems", data={"invoice": draft["id"], "amount": 5401, "currency": "usd"})
    with pytest.raises(CollectionRefused, match="5401"):
        await scene.collector.collect(made, customer, attempt_count=2)
    assert simulator.call("GET", f"/v1/invoices/{draft['id']}")["status"] == "draft"


async def test_an_invoice_that_stripe_will_not_take_is_parked_with_the_reason(
    scene: Scene, simulator: Simulator
) -> None:
    made = await scene.finalize()
    other = simulator.call("POST", "/v1/customers")["id"]
    simulator.call("POST", "/v1/invoices", data={"customer": other, "number": made.number})
    assert await scene.collect() == 1
    scene.clock.advance(timedelta(days=1))
    assert await scene.collect() == 0
    ((reason,),) = scene.rows("SELECT parked_reason FROM billing.due_invoices")
    assert made.number in reason
    assert (await scene.read(made)).stripe_invoice_id == ""


CALLS = {
    "customer": "/v1/customers",
    "invoice": "/v1/invoices",
    "lines": "/v1/invoices/*/add_lines",
    "finalize": "/v1/invoices/*/finalize",
}


@pytest.mark.parametrize("kind", ["429", "409", "500", "500_saved"])
@pytest.mark.parametrize("call", CALLS)
async def test_whatever_call_fails_one_invoice_is_collected_once(
    scene: Scene, simulator: Simulator, call: str, kind: str
) -> None:
    made = await scene.finalize()
    simulator.inject({"path": CALLS[call], "kind": kind, "count": 5})
    await scene.work_until_idle()
    (theirs,) = simulator.invoices()
    assert (theirs["status"], theirs["total"], theirs["number"]) == ("open", 5400, made.number)
    assert (await scene.read(made)).stripe_invoice_id == theirs["id"]


@pytest.mark.parametrize("call", CALLS)
async def test_an_answer_that_is_lost_is_no_second_charge(scene: Scene, simulator: Simulator, call: str) -> None:
    made = await scene.finalize()
    hasty = StripeApi(API_KEY, simulator.url, timeout_seconds=0.5)
    scene.collect = scene.collect_through(hasty)
    simulator.inject({"path": CALLS[call], "kind": "timeout_after_success", "count": 1, "seconds": 2})
    await scene.work_until_idle()
    await hasty.close()
    (theirs,) = simulator.invoices()
    assert (theirs["status"], theirs["total"]) == ("open", 5400)
    assert len(simulator.call("GET", "/v1/customers")["data"]) == 1
    assert (await scene.read(made)).stripe_invoice_id == theirs["id"]


async def test_an_attempt_that_died_half_way_is_gone_on_from(scene: Scene, simulator: Simulator) -> None:
    made = await scene.finalize()
    customer = await scene.customers.ensure(ACME, since=scene.clock.now(), attempt_count=1)
    collected = await scene.collector.collect(made, customer, attempt_count=1)
    # It died before it wrote down what it did. The next one has forgotten nothing, and neither has a much later one.
    for attempt_count in (2, 40):
        assert await scene.collector.collect(made, customer, attempt_count=attempt_count) == collected
    assert len(simulator.invoices()) == 1


async def test_without_stripe_closing_goes_on_and_collection_waits(scene: Scene) -> None:
    made = await scene.finalize()
    away = StripeApi(API_KEY, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(DependencyUnavailable):
        await StripeCustomers(away).ensure(ACME, since=scene.clock.now(), attempt_count=1)
    assert await scene.collect_through(away)() == 1
    await away.close()
    assert scene.rows("SELECT attempt_count, parked_reason FROM billing.due_invoices") == [(1, "")]
    assert await scene.work_until_idle() == 1
    assert (await scene.read(made)).stripe_invoice_id


async def test_a_wrong_key_is_waited_out_and_parks_nothing(scene: Scene, simulator: Simulator) -> None:
    made = await scene.finalize()
    stranger = StripeApi("sk_test_stranger", simulator.url)
    assert await scene.collect_through(stranger)() == 1
    await stranger.close()
    await scene.work_until_idle()
    assert (await scene.read(made)).stripe_invoice_id


# --- from Stripe


def pay(simulator: Simulator, theirs: str) -> None:
    simulator.call("POST", f"/v1/invoices/{theirs}/pay", data={"paid_out_of_band": "true"})


@pytest.mark.parametrize("seed", range(3))
async def test_a_payment_marks_the_invoice_paid_whatever_the_order_and_number_of_its_events(
    scene: Scene, simulator: Simulator, seed: int
) -> None:
    made = await scene.finalize()
    await scene.work_until_idle()
    pay(simulator, (await scene.read(made)).stripe_invoice_id)
    events = simulator.events() * 3
    random.Random(seed).shuffle(events)
    for event in events:
        await scene.deliver(event)
    await scene.handle_all()
    assert (await scene.read(made)).state is InvoiceState.PAID
    assert scene.rows("SELECT count(*) FROM billing.stripe_events") == [(len(events) // 3,)]
    assert scene.rows("SELECT count(*) FROM billing.stripe_events WHERE handle_time IS NULL") == [(0,)]
    assert scene.rows("SELECT count(*) FROM billing.changes WHERE kind = 'invoice_paid'") == [(1,)]


async def test_stripe_is_believed_and_not_the_event(scene: Scene, simulator: Simulator) -> None:
    made = await scene.finalize()
    await scene.work_until_idle()
    stripe_invoice_id = (await scene.read(made)).stripe_invoice_id
    about = {"id": stripe_invoice_id, "object": "invoice", "customer": "cus_1", "status": "paid"}
    await scene.deliver({"id": "evt_forged", "type": "invoice.paid", "data": {"object": about}})
    await scene.handle_all()
    assert (await scene.read(made)).state is InvoiceState.PAST_DUE
    assert scene.rows("SELECT outcome FROM billing.stripe_events") == [("past_due",)]
    pay(simulator, stripe_invoice_id)
    about["status"] = "open"
    await scene.deliver({"id": "evt_stale", "type": "invoice.payment_succeeded", "data": {"object": about}})
    await scene.handle_all()
    assert (await scene.read(made)).state is InvoiceState.PAID


async def test_a_payment_that_is_told_before_the_collection_was_written_down_counts(
    scene: Scene, simulator: Simulator
) -> None:
    made = await scene.finalize()
    customer = await scene.customers.ensure(ACME, since=scene.clock.now(), attempt_count=1)
    theirs = (await scene.collector.collect(made, customer, attempt_count=1)).stripe_invoice_id
    pay(simulator, theirs)
    for event in simulator.events():
        await scene.deliver(event)
    await scene.handle_all()
    paid = await scene.read(made)
    assert (paid.state, paid.stripe_invoice_id) == (InvoiceState.PAID, theirs)
    await scene.work_until_idle()
    assert await scene.read(made) == paid


@pytest.mark.parametrize(
    ("metadata", "outcome"),
    [
        ({}, "not an invoice of ours"),
        ({"tollbook_organization_id": "acme", "tollbook_invoice_id": "inv_x"}, "not ours"),
        ({"tollbook_organization_id": "'; --", "tollbook_invoice_id": "inv_x"}, "not an invoice of ours"),
    ],
    ids=["unmarked", "unknown", "malformed"],
)
async def test_payments_of_what_is_not_ours_have_no_effect(
    scene: Scene, simulator: Simulator, metadata: dict[str, str], outcome: str
) -> None:
    customer = simulator.call("POST", "/v1/customers")["id"]
    fields = {"customer": customer} | {f"metadata[{name}]": value for name, value in metadata.items()}
    theirs = simulator.call("POST", "/v1/invoices", data=fields)["id"]
    simulator.call("POST", "/v1/invoiceitems", data={"invoice": theirs, "amount": 100, "currency": "usd"})
    simulator.call("POST", f"/v1/invoices/{theirs}/finalize")
    pay(simulator, theirs)
    for event in simulator.events():
        await scene.deliver(event)
    await scene.handle_all()
    outcomes = {row[0] for row in scene.rows("SELECT outcome FROM billing.stripe_events WHERE type = 'invoice.paid'")}
    assert outcomes == {outcome}


async def test_a_payment_of_another_amount_is_not_taken_for_ours(scene: Scene, simulator: Simulator) -> None:
    made = await scene.finalize()
    customer = simulator.call("POST", "/v1/customers")["id"]
    fields = {
        "customer": customer,
        "metadata[tollbook_organization_id]": ACME,
        "metadata[tollbook_invoice_id]": made.invoice_id,
    }
    theirs = simulator.call("POST", "/v1/invoices", data=fields)["id"]
    simulator.call("POST", "/v1/invoiceitems", data={"invoice": theirs, "amount": 100, "currency": "usd"})
    simulator.call("POST", f"/v1/invoices/{theirs}/finalize")
    pay(simulator, theirs)
    for event in simulator.events():
        await scene.deliver(event)
    await scene.handle_all()
    assert (await scene.read(made)).state is InvoiceState.FINALIZED


async def test_an_event_that_names_what_no_id_can_be_has_no_effect_and_holds_nothing_up(
    scene: Scene, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await scene.finalize()
    await scene.work_until_idle()
    pay(simulator, (await scene.read(made)).stripe_invoice_id)
    look_up, seen = scene.collector.look_up, list[str]()

    async def forged(stripe_invoice_id: str) -> StripeInvoice | None:
        found = await look_up(stripe_invoice_id)
        seen.append(stripe_invoice_id)
        return found and replace(found, invoice_id="inv_\0\ud800")

    monkeypatch.setattr(scene.collector, "look_up", forged)
    for event in simulator.events():
        await scene.deliver(event)
    await scene.handle_all()
    assert seen
    assert scene.rows("SELECT count(*) FROM billing.stripe_events WHERE handle_time IS NULL") == [(0,)]


async def test_an_event_that_a_defect_meets_is_tried_again_and_stops_no_other_lane(
    scene: Scene, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await scene.finalize()
    await scene.work_until_idle()
    pay(simulator, (await scene.read(made)).stripe_invoice_id)
    look_up, failures = scene.collector.look_up, list[str]()

    async def failing(stripe_invoice_id: str) -> StripeInvoice | None:
        if not failures:
            failures.append(stripe_invoice_id)
            raise KeyError(stripe_invoice_id)
        return await look_up(stripe_invoice_id)

    monkeypatch.setattr(scene.collector, "look_up", failing)
    for event in simulator.events():
        await scene.deliver(event)
    for _ in range(5):
        await scene.handle_all()
        scene.clock.advance(timedelta(minutes=1))
    assert failures
    assert (await scene.read(made)).state is InvoiceState.PAID


async def test_an_event_whose_handling_fails_is_handled_later(scene: Scene, simulator: Simulator) -> None:
    made = await scene.finalize()
    await scene.work_until_idle()
    pay(simulator, (await scene.read(made)).stripe_invoice_id)
    for event in simulator.events():
        await scene.deliver(event)
    simulator.inject({"method": "GET", "path": "/v1/invoices/*", "kind": "500", "count": 6})
    for _ in range(10):
        await scene.handle_all()
        scene.clock.advance(timedelta(hours=1))
    assert (await scene.read(made)).state is InvoiceState.PAID
    assert scene.rows("SELECT max(attempt_count) FROM billing.stripe_events")[0][0] > 1
    assert scene.rows("SELECT count(*) FROM billing.stripe_events WHERE handle_time IS NULL") == [(0,)]


async def set_profile(scene: Scene, profile: BillingProfile) -> None:
    async with scene.books.open(ACME) as book:
        await book.profile.set(replace(profile, update_time=scene.clock.now()), actor="tests", request_id="profile")


async def test_who_pays_by_transfer_is_charged_to_no_card_and_is_past_due_after_the_term_alone(
    scene: Scene, simulator: Simulator
) -> None:
    await scene.customer_with(simulator, "pm_card_visa")
    terms = BillingTerms(collection_method=CollectionMethod.SEND_INVOICE, term_days=30)
    await set_profile(scene, BillingProfile(party=Party(mail="pay@acme.example"), terms=terms))
    made = await scene.finalize()
    scene.clock.advance(timedelta(seconds=1))
    # What is agreed later is for later invoices.
    await set_profile(scene, BillingProfile(party=Party(mail="pay@acme.example")))
    await scene.work_until_idle()
    (theirs,) = simulator.invoices()
    assert (theirs["collection_method"], theirs["status"], theirs["attempted"]) == ("send_invoice", "open", False)
    await scene.pass_time(simulator, days=29)
    await scene.deliver_all(simulator)
    assert (await scene.read(made)).state is InvoiceState.FINALIZED
    await scene.pass_time(simulator, days=2)
    await scene.deliver_all(simulator)
    assert ((await scene.read(made)).state, await scene.status()) == (InvoiceState.PAST_DUE, "PAST_DUE")
    assert simulator.call("GET", "/v1/charges")["data"] == []
    simulator.form(f"/v1/invoices/{theirs['id']}/pay", paid_out_of_band="true")
    await scene.deliver_all(simulator)
    assert ((await scene.read(made)).state, await scene.status()) == (InvoiceState.PAID, "ACTIVE")


async def test_stripe_knows_who_the_customer_is_as_of_the_last_invoice(scene: Scene, simulator: Simulator) -> None:
    party = Party(
        legal_name="Acme GmbH", address_lines=("Haus 1", "Ring 2", "10115 Berlin"), country_code="DE", mail="a@acme.de"
    )
    await set_profile(scene, BillingProfile(party=party))
    await scene.finalize()
    await scene.work_until_idle()
    (theirs,) = simulator.call("GET", "/v1/customers")["data"]
    assert (theirs["name"], theirs["email"]) == ("Acme GmbH", "a@acme.de")
    address = theirs["address"]
    assert (address["line1"], address["line2"], address["country"]) == ("Haus 1", "Ring 2, 10115 Berlin", "DE")


async def test_who_the_customer_is_is_ours_to_say_and_how_it_pays_is_stripes(
    scene: Scene, simulator: Simulator
) -> None:
    customer_id = await scene.customer_with(simulator, "pm_card_visa")
    party = Party(legal_name="Acme GmbH", mail="a@acme.de", tax_id="DE123456789")
    await set_profile(scene, BillingProfile(party=party))
    # Edited there: noted, and ours again with the next invoice.
    edited = simulator.form(f"/v1/customers/{customer_id}", name="Mallory", email="m@mallory.example", phone="1")
    await scene.deliver_all(simulator)
    await scene.finalize()
    await scene.work_until_idle()
    theirs = simulator.call("GET", f"/v1/customers/{customer_id}")
    assert (theirs["name"], theirs["email"], theirs["phone"]) == ("Acme GmbH", "a@acme.de", "1")
    settings = theirs["invoice_settings"]
    assert settings["custom_fields"] == [{"name": "Tax ID", "value": "DE123456789"}]
    assert settings["default_payment_method"] == edited["invoice_settings"]["default_payment_method"] is not None
    async with scene.books.read(ACME) as book:
        assert (await book.profile.current()).party == party


async def test_a_customer_whom_stripe_refuses_to_know_is_charged_all_the_same(
    scene: Scene, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise CollectionRefused("Invalid email address: a@acme.de")

    monkeypatch.setattr(StripeCustomers, "describe", refuse)
    await scene.customer_with(simulator, "pm_card_visa")
    await set_profile(scene, BillingProfile(party=Party(mail="a@acme.de")))
    made = await scene.finalize()
    await scene.work_until_idle()
    await scene.deliver_all(simulator)
    assert (await scene.read(made)).state is InvoiceState.PAID
