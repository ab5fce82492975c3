"""What becomes of invoices at Stripe: payments, failures, suspension, refunds, disputes, settlements, drafts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest

from kit.errors import InvalidState
from kit.ids import new_id
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from services.billing.domain.credit_notes import (
    CreditNote,
    CreditNoteLine,
    CreditNoteReason,
    CreditSplit,
    LineRole,
)
from services.billing.domain.errors import CollectionRefused, InvoiceBusy
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.mails import MailKind
from services.billing.domain.payments import Settlement
from services.billing.domain.profile import BY_CARD
from tests.integration.billing_scene import ACME, Scene, Simulator, billing_scene, running_simulator

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

GOOD, BAD, DISPUTED = "pm_card_visa", "pm_card_chargeCustomerFail", "pm_card_createDispute"
DAY = timedelta(days=1)


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
    monkeypatch.setattr("stripe._http_client.HTTPClient.INITIAL_DELAY", 0.01)
    monkeypatch.setattr("stripe._http_client.HTTPClient.MAX_DELAY", 0.02)
    return iter([None])


async def collected(scene: Scene, simulator: Simulator, payment_method: str) -> Invoice:
    """An invoice of 54.00 that Stripe has tried to charge to this, and whose events were handled."""
    await scene.customer_with(simulator, payment_method)
    made = await scene.finalize()
    await scene.work_until_idle()
    await scene.deliver_all(simulator)
    return await scene.read(made)


async def dun_until_idle(scene: Scene) -> None:
    while await scene.dun():
        pass


async def mails(scene: Scene) -> list[MailKind]:
    async with scene.books.read(ACME) as book:
        return [mail.kind for mail in await book.mails.all()]


# --- payment, failure, grace, suspension


async def test_a_card_that_is_good_pays_the_invoice_and_nobody_is_dunned(scene: Scene, simulator: Simulator) -> None:
    paid = await collected(scene, simulator, GOOD)
    assert (paid.state, await scene.status()) == (InvoiceState.PAID, "ACTIVE")
    assert await scene.dun() == 0
    assert await mails(scene) == []


async def test_a_failed_payment_is_grace_then_suspension_and_a_payment_lifts_it(
    scene: Scene, simulator: Simulator
) -> None:
    unpaid = await collected(scene, simulator, BAD)
    assert (unpaid.state, await scene.status()) == (InvoiceState.PAST_DUE, "PAST_DUE")
    statuses = {}
    for day in range(20):
        await dun_until_idle(scene)
        statuses[day] = await scene.status()
        await scene.pass_time(simulator, days=1)
    assert {day for day, status in statuses.items() if status == "PAST_DUE"} == set(range(14))
    assert {day for day, status in statuses.items() if status == "SUSPENDED"} == set(range(14, 20))
    assert await mails(scene) == [
        MailKind.PAYMENT_FAILED,
        MailKind.PAYMENT_REMINDER,
        MailKind.PAYMENT_REMINDER,
        MailKind.SUBSCRIPTION_SUSPENDED,
    ]
    simulator.form(f"/v1/invoices/{unpaid.stripe_invoice_id}/pay", paid_out_of_band="true")
    await scene.deliver_all(simulator)
    assert ((await scene.read(unpaid)).state, await scene.status()) == (InvoiceState.PAID, "ACTIVE")
    assert (await mails(scene))[-1] is MailKind.PAYMENT_RECEIVED
    await scene.pass_time(simulator, days=60)
    assert await scene.dun() == 0


async def test_what_is_not_paid_in_the_end_is_given_up_here_and_at_stripe_and_stays_suspended(
    scene: Scene, simulator: Simulator
) -> None:
    unpaid = await collected(scene, simulator, BAD)
    for _ in range(61):
        await dun_until_idle(scene)
        scene.clock.advance(DAY)
    assert (await scene.read(unpaid)).state is InvoiceState.UNCOLLECTIBLE
    theirs = simulator.call("GET", f"/v1/invoices/{unpaid.stripe_invoice_id}")
    assert (theirs["status"], await scene.status()) == ("uncollectible", "SUSPENDED")
    simulator.form(f"/v1/invoices/{unpaid.stripe_invoice_id}/pay", paid_out_of_band="true")
    await scene.deliver_all(simulator)
    assert ((await scene.read(unpaid)).state, await scene.status()) == (InvoiceState.PAID, "ACTIVE")


async def test_an_invoice_paid_at_the_moment_it_is_given_up_is_paid(scene: Scene, simulator: Simulator) -> None:
    unpaid = await collected(scene, simulator, BAD)
    for _ in range(60):
        await dun_until_idle(scene)
        scene.clock.advance(DAY)
    simulator.form(f"/v1/invoices/{unpaid.stripe_invoice_id}/pay", paid_out_of_band="true")
    # Nothing has told us: the step asks Stripe, and believes it.
    await dun_until_idle(scene)
    assert ((await scene.read(unpaid)).state, await scene.status()) == (InvoiceState.PAID, "ACTIVE")


async def test_each_step_of_dunning_is_taken_once_by_however_many_workers(scene: Scene, simulator: Simulator) -> None:
    await collected(scene, simulator, BAD)
    for _ in range(16):
        while sum(await asyncio.gather(*(scene.dun() for _ in range(3)))):
            pass
        scene.clock.advance(DAY)
    steps = scene.rows("SELECT step, count(*) FROM billing.dunning_steps GROUP BY step")
    assert sorted(steps) == [("REMIND_1", 1), ("REMIND_2", 1), ("REMIND_3", 1), ("SUSPEND", 1)]
    assert len(await mails(scene)) == 4


async def test_an_invoice_that_is_voided_is_dunned_no_more(scene: Scene, simulator: Simulator) -> None:
    unpaid = await collected(scene, simulator, BAD)
    scene.clock.advance(15 * DAY)
    await dun_until_idle(scene)
    assert await scene.status() == "SUSPENDED"
    simulator.form(f"/v1/invoices/{unpaid.stripe_invoice_id}/void")
    await scene.deliver_all(simulator)
    assert ((await scene.read(unpaid)).state, await scene.status()) == (InvoiceState.VOID, "ACTIVE")
    scene.clock.advance(60 * DAY)
    assert await scene.dun() == 0


# --- payment terms


async def with_a_term(scene: Scene, simulator: Simulator) -> Invoice:
    """An invoice to be paid within 30 days by a customer who has a good card, which it is not for us to charge."""
    await scene.customer_with(simulator, GOOD)
    made = await scene.finalize(term_days=30)
    await scene.work_until_idle()
    await scene.deliver_all(simulator)
    return await scene.read(made)


async def test_an_invoice_with_a_term_is_never_charged_and_past_due_when_its_time_has_passed(
    scene: Scene, simulator: Simulator
) -> None:
    made = await with_a_term(scene, simulator)
    theirs = simulator.call("GET", f"/v1/invoices/{made.stripe_invoice_id}")
    assert (theirs["collection_method"], theirs["status"], theirs["total"]) == ("send_invoice", "open", 5400)
    assert theirs["due_date"] == theirs["created"] + 30 * 24 * 3600
    await scene.pass_time(simulator, days=29)
    await dun_until_idle(scene)
    await scene.deliver_all(simulator)
    assert ((await scene.read(made)).state, await scene.status()) == (InvoiceState.FINALIZED, "ACTIVE")
    await scene.pass_time(simulator, days=2)
    # By our own clock: Stripe tells nothing when a due date passes.
    await dun_until_idle(scene)
    assert ((await scene.read(made)).state, await scene.status()) == (InvoiceState.PAST_DUE, "PAST_DUE")
    assert await mails(scene) == [MailKind.PAYMENT_REMINDER]
    await scene.pass_time(simulator, days=14)
    await dun_until_idle(scene)
    assert await scene.status() == "SUSPENDED"
    assert simulator.call("GET", "/v1/charges")["data"] == []
    assert (await settle(scene, made, Settlement.PAID_OUTSIDE)).state is InvoiceState.PAID
    assert await scene.status() == "ACTIVE"


@pytest.mark.parametrize("days", [3, 33])
async def test_an_invoice_with_a_term_is_paid_on_stripes_page_before_and_after_its_due_time(
    scene: Scene, simulator: Simulator, days: int
) -> None:
    made = await with_a_term(scene, simulator)
    await scene.pass_time(simulator, days=days)
    await dun_until_idle(scene)
    card = simulator.form("/v1/payment_methods/pm_card_visa/attach", customer=await customer_of(scene))["id"]
    simulator.form(f"/v1/invoices/{made.stripe_invoice_id}/pay", payment_method=card)
    await scene.deliver_all(simulator)
    assert ((await scene.read(made)).state, await scene.status()) == (InvoiceState.PAID, "ACTIVE")
    await scene.pass_time(simulator, days=60)
    assert await scene.dun() == 0


async def test_a_transfer_that_is_marked_within_the_term_is_never_dunned(scene: Scene, simulator: Simulator) -> None:
    made = await with_a_term(scene, simulator)
    assert (await settle(scene, made, Settlement.PAID_OUTSIDE)).state is InvoiceState.PAID
    await scene.pass_time(simulator, days=31)
    assert await scene.dun() == 0
    assert await mails(scene) == []


async def test_a_card_that_fails_within_the_term_is_no_failure_yet(scene: Scene, simulator: Simulator) -> None:
    made = await with_a_term(scene, simulator)
    card = simulator.form(f"/v1/payment_methods/{BAD}/attach", customer=await customer_of(scene))["id"]
    assert simulator.try_form(f"/v1/invoices/{made.stripe_invoice_id}/pay", payment_method=card) == 402
    await scene.deliver_all(simulator)
    assert ((await scene.read(made)).state, await scene.status()) == (InvoiceState.FINALIZED, "ACTIVE")


async def test_what_is_paid_at_stripe_when_its_due_time_passes_is_paid_though_nobody_told(
    scene: Scene, simulator: Simulator
) -> None:
    made = await with_a_term(scene, simulator)
    simulator.form(f"/v1/invoices/{made.stripe_invoice_id}/pay", paid_out_of_band="true")
    await scene.pass_time(simulator, days=31)
    await dun_until_idle(scene)
    assert (await scene.read(made)).state is InvoiceState.PAID


async def test_an_invoice_that_stripe_does_not_have_yet_is_not_past_due_when_its_time_passes(scene: Scene) -> None:
    made = await scene.finalize(term_days=1)
    scene.clock.advance(2 * DAY)
    assert await scene.dun() == 1
    assert ((await scene.read(made)).state, await scene.status()) == (InvoiceState.FINALIZED, "ACTIVE")
    await scene.work_until_idle()
    scene.clock.advance(DAY)
    await dun_until_idle(scene)
    assert (await scene.read(made)).state is InvoiceState.PAST_DUE


# --- F25: any number, any order, any delay, any death


@pytest.mark.parametrize("seed", range(6))
async def test_f25_events_three_times_shuffled_late_and_of_one_second_lead_to_what_stripe_says(
    scene: Scene, simulator: Simulator, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    await scene.customer_with(simulator, chance.choice([GOOD, BAD, DISPUTED]))
    made = [await scene.finalize(months=months) for months in range(3)]
    await scene.work_until_idle()
    for invoice in made:
        theirs = simulator.call("GET", f"/v1/invoices/{(await scene.read(invoice)).stripe_invoice_id}")
        ends = ["void", "mark_uncollectible", "pay", "leave"] if theirs["status"] == "open" else ["leave"]
        end = chance.choice(ends)
        if end != "leave":
            options = {"paid_out_of_band": "true"} if end == "pay" else {}
            simulator.form(f"/v1/invoices/{theirs['id']}/{end}", **options)
    events = simulator.events() * 3
    chance.shuffle(events)
    handler_fails = iter(chance.choices([True, False], weights=[1, 4], k=1000))
    look_up = scene.collector.look_up

    async def dying(stripe_invoice_id: str) -> object:
        if next(handler_fails):
            raise RuntimeError("died")
        return await look_up(stripe_invoice_id)

    monkeypatch.setattr(scene.collector, "look_up", dying)
    for number, event in enumerate(events):
        # Ties happen: all of Stripe's times are whole seconds.
        await scene.deliver(event | {"created": 1})
        if number == len(events) // 2:
            await asyncio.gather(*(scene.handle() for _ in range(3)))
            scene.clock.advance(3 * DAY)
    for _ in range(60):
        await asyncio.gather(*(scene.handle() for _ in range(3)))
        scene.clock.advance(timedelta(minutes=30))
    assert scene.rows("SELECT count(*) FROM billing.stripe_events WHERE handle_time IS NULL") == [(0,)]
    expected = {"paid": "PAID", "void": "VOID", "uncollectible": "UNCOLLECTIBLE", "open": "PAST_DUE"}
    for invoice in made:
        ours = await scene.read(invoice)
        theirs = simulator.call("GET", f"/v1/invoices/{ours.stripe_invoice_id}")
        assert ours.state.value == expected[theirs["status"]]
    told = scene.rows("SELECT kind, body ->> 'invoice_id', count(*) FROM billing.changes GROUP BY 1, 2")
    assert all(count == 1 for kind, about, count in told if kind.startswith("invoice_") and about)


@pytest.mark.parametrize("step", ["handler", "effect", "mark"])
async def test_f25_b40_a_worker_that_dies_at_any_step_leaves_the_event_to_be_handled_whole(
    scene: Scene, simulator: Simulator, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.customer_with(simulator, GOOD)
    made = await scene.finalize()
    await scene.work_until_idle()
    places = {
        "handler": "services.billing.adapters.stripe.invoices.StripeInvoices.look_up",
        "effect": "services.billing.adapters.postgres_books.payments.PostgresPayments.follow",
        "mark": "services.billing.adapters.postgres_books.stripe_events.PostgresStripeEvents.set_handled",
    }
    with monkeypatch.context() as broken:

        async def die(*_: object, **__: object) -> None:
            raise asyncio.CancelledError

        broken.setattr(places[step], die)
        (paid,) = [event for event in simulator.events() if event["type"] == "invoice.paid"]
        await scene.deliver(paid)
        with pytest.raises(asyncio.CancelledError):
            await scene.handle()
    assert (await scene.read(made)).state is InvoiceState.FINALIZED
    assert scene.rows("SELECT count(*) FROM billing.changes WHERE kind = 'invoice_paid'") == [(0,)]
    scene.clock.advance(timedelta(minutes=3))
    await scene.handle_all()
    assert (await scene.read(made)).state is InvoiceState.PAID
    assert scene.rows("SELECT count(*) FROM billing.changes WHERE kind = 'invoice_paid'") == [(1,)]


async def test_b40_an_event_whose_handler_fails_four_times_is_handled_the_fifth_time(
    scene: Scene, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.customer_with(simulator, GOOD)
    made = await scene.finalize()
    await scene.work_until_idle()
    (paid,) = [event for event in simulator.events() if event["type"] == "invoice.paid"]
    look_up, failures = scene.collector.look_up, [0]

    async def failing(stripe_invoice_id: str) -> object:
        failures[0] += 1
        if failures[0] <= 4:
            raise RuntimeError("on purpose")
        return await look_up(stripe_invoice_id)

    monkeypatch.setattr(scene.collector, "look_up", failing)
    await scene.deliver(paid)
    for attempt in range(5):
        assert (await scene.read(made)).state is InvoiceState.FINALIZED, attempt
        await scene.handle()
        scene.clock.advance(timedelta(minutes=1))
    assert (await scene.read(made)).state is InvoiceState.PAID


async def test_b39_an_older_event_told_last_overwrites_nothing(scene: Scene, simulator: Simulator) -> None:
    unpaid = await collected(scene, simulator, BAD)
    failed = next(event for event in simulator.events() if event["type"] == "invoice.payment_failed")
    simulator.form(f"/v1/invoices/{unpaid.stripe_invoice_id}/pay", paid_out_of_band="true")
    await scene.deliver_all(simulator)
    await scene.deliver(failed | {"id": "evt_again"})
    await scene.handle_all()
    assert ((await scene.read(unpaid)).state, await scene.status()) == (InvoiceState.PAID, "ACTIVE")


# --- refunds and disputes


async def test_a_refund_at_stripe_is_kept_with_the_invoice_once(scene: Scene, simulator: Simulator) -> None:
    paid = await collected(scene, simulator, GOOD)
    (charge,) = simulator.call("GET", "/v1/charges")["data"]
    simulator.form("/v1/refunds", charge=charge["id"], amount="499")
    for _ in range(2):
        await scene.deliver_all(simulator)
    async with scene.books.read(ACME) as book:
        (refund,) = await book.payments.refunds(paid.invoice_id)
    assert (refund.amount_minor, refund.currency_code, refund.status) == (499, "USD", "succeeded")
    assert (await scene.read(paid)).state is InvoiceState.PAID


async def test_a_dispute_is_kept_with_the_invoice_until_it_is_decided(scene: Scene, simulator: Simulator) -> None:
    paid = await collected(scene, simulator, DISPUTED)
    async with scene.books.read(ACME) as book:
        (dispute,) = await book.payments.disputes(paid.invoice_id)
    assert (dispute.is_open, dispute.amount_minor) == (True, 5400)
    simulator.form(f"/_simulator/disputes/{dispute.stripe_dispute_id}", status="lost")
    await scene.deliver_all(simulator)
    async with scene.books.read(ACME) as book:
        (decided,) = await book.payments.disputes(paid.invoice_id)
    assert (decided.is_open, decided.status) == (False, "lost")


def credit_note(invoice: Invoice, *, reduced: int = 0, refunded: int = 0) -> CreditNote:
    total = Money(reduced + refunded, "USD")
    line = CreditNoteLine(line_number=1, role=LineRole.CHARGE, description="back", amount=total)
    return CreditNote(
        credit_note_id=new_id("cn"),
        organization_id=ACME,
        invoice_id=invoice.invoice_id,
        invoice_number=invoice.number,
        legal_entity_id="default",
        lines=(line,),
        total=total,
        split=CreditSplit(reduced=Money(reduced, "USD"), credited=Money(0, "USD"), refunded=Money(refunded, "USD")),
        reason=CreditNoteReason.GOODWILL,
        memo="",
        create_time=invoice.finalize_time or pytest.fail("not finalized"),
    )


async def test_a_credit_note_pays_back_what_it_says_once_whatever_fails(scene: Scene, simulator: Simulator) -> None:
    paid = await collected(scene, simulator, GOOD)
    async with scene.books.open(ACME) as book:
        await book.credit_notes.add(credit_note(paid, refunded=499), actor="tests", request_id="r")
    simulator.inject({"path": "/v1/credit_notes", "kind": "500_saved", "count": 4})
    for _ in range(8):
        await scene.hand_over_credit_notes()
        scene.clock.advance(timedelta(hours=1))
    assert [each["amount"] for each in simulator.call("GET", "/v1/refunds")["data"]] == [499]
    async with scene.books.read(ACME) as book:
        (note,) = await book.credit_notes.of_invoice(paid.invoice_id)
    assert note.stripe_credit_note_id
    await scene.deliver_all(simulator)
    async with scene.books.read(ACME) as book:
        (refund,) = await book.payments.refunds(paid.invoice_id)
    assert refund.amount_minor == 499


async def test_a_credit_note_takes_off_what_stripe_still_asks_for(scene: Scene, simulator: Simulator) -> None:
    unpaid = await collected(scene, simulator, BAD)
    async with scene.books.open(ACME) as book:
        await book.credit_notes.add(credit_note(unpaid, reduced=400), actor="tests", request_id="r")
    await scene.hand_over_credit_notes()
    theirs = simulator.call("GET", f"/v1/invoices/{unpaid.stripe_invoice_id}")
    assert (theirs["total"], theirs["amount_remaining"]) == (5400, 5000)


async def test_a_credit_note_of_an_invoice_that_was_voided_meanwhile_is_nothing_for_stripe_to_do(
    scene: Scene, simulator: Simulator
) -> None:
    unpaid = await collected(scene, simulator, BAD)
    async with scene.books.open(ACME) as book:
        await book.credit_notes.add(credit_note(unpaid, reduced=400), actor="tests", request_id="r")
    simulator.form(f"/v1/invoices/{unpaid.stripe_invoice_id}/void")
    await scene.deliver_all(simulator)
    assert await scene.hand_over_credit_notes() == 1
    scene.clock.advance(DAY)
    assert await scene.hand_over_credit_notes() == 0
    async with scene.books.read(ACME) as book:
        (note,) = await book.credit_notes.of_invoice(unpaid.invoice_id)
    assert note.stripe_credit_note_id == ""
    assert simulator.call("GET", "/v1/credit_notes")["data"] == []


# --- settlements, and who was first (F30, B36)


async def settle(scene: Scene, invoice: Invoice, settlement: Settlement, request_id: str = "s") -> Invoice:
    return await scene.settle(ACME, invoice.invoice_id, settlement, request_id=request_id, actor="operator")


@pytest.mark.parametrize(
    ("settlement", "status"),
    [(Settlement.VOID, "void"), (Settlement.UNCOLLECTIBLE, "uncollectible"), (Settlement.PAID_OUTSIDE, "paid")],
)
async def test_an_operator_settles_an_open_invoice_here_and_at_stripe(
    scene: Scene, simulator: Simulator, settlement: Settlement, status: str
) -> None:
    unpaid = await collected(scene, simulator, BAD)
    settled = await settle(scene, unpaid, settlement)
    assert settled.state is settlement.state
    assert simulator.call("GET", f"/v1/invoices/{unpaid.stripe_invoice_id}")["status"] == status
    assert await settle(scene, unpaid, settlement) == settled
    assert await scene.status() == ("SUSPENDED" if settlement is Settlement.UNCOLLECTIBLE else "ACTIVE")


@pytest.mark.parametrize("settlement", list(Settlement))
async def test_f30_b36_what_a_card_paid_first_is_settled_no_other_way(
    scene: Scene, simulator: Simulator, settlement: Settlement
) -> None:
    unpaid = await collected(scene, simulator, BAD)
    # The hosted page: the customer pays with another card, and we have not heard of it.
    card = simulator.form("/v1/payment_methods/pm_card_visa/attach", customer=await customer_of(scene))["id"]
    simulator.form(f"/v1/invoices/{unpaid.stripe_invoice_id}/pay", payment_method=card)
    with pytest.raises(InvalidState, match="PAID through Stripe"):
        await settle(scene, unpaid, settlement)
    assert (await scene.read(unpaid)).state is InvoiceState.PAID
    charges = [each for each in simulator.call("GET", "/v1/charges")["data"] if each["paid"]]
    assert [each["amount"] for each in charges] == [5400]


@pytest.mark.parametrize("seed", range(4))
async def test_f30_void_mark_paid_and_payment_at_once_one_wins_and_both_books_agree(
    scene: Scene, simulator: Simulator, seed: int
) -> None:
    unpaid = await collected(scene, simulator, BAD)
    card = simulator.form("/v1/payment_methods/pm_card_visa/attach", customer=await customer_of(scene))["id"]

    async def pay_with_card() -> None:
        path = f"/v1/invoices/{unpaid.stripe_invoice_id}/pay"
        await asyncio.to_thread(simulator.try_form, path, payment_method=card)

    async def try_to(settlement: Settlement) -> bool:
        try:
            await settle(scene, unpaid, settlement, request_id=settlement.value)
        except InvalidState:
            return False
        return True

    acts = [pay_with_card(), *(try_to(settlement) for settlement in (Settlement.VOID, Settlement.PAID_OUTSIDE))]
    random.Random(seed).shuffle(acts)
    done = await asyncio.gather(*acts)
    await scene.deliver_all(simulator)
    theirs = simulator.call("GET", f"/v1/invoices/{unpaid.stripe_invoice_id}")
    ours = await scene.read(unpaid)
    assert ours.state.value == {"paid": "PAID", "void": "VOID"}[theirs["status"]]
    charged = [each for each in simulator.call("GET", "/v1/charges")["data"] if each["paid"]]
    assert len(charged) + sum(each is True for each in done) == 1


async def customer_of(scene: Scene) -> str:
    async with scene.books.read(ACME) as book:
        return await book.customer.stripe_id()


async def test_an_invoice_that_never_reached_stripe_is_settled_here_and_handed_over_no_more(
    scene: Scene, simulator: Simulator
) -> None:
    made = await scene.finalize()
    assert (await settle(scene, made, Settlement.VOID)).state is InvoiceState.VOID
    scene.clock.advance(DAY)
    assert await scene.collect() == 0
    assert simulator.invoices() == []


@pytest.mark.parametrize("forgiven", [Settlement.VOID, Settlement.PAID_OUTSIDE])
async def test_an_invoice_given_up_before_it_reached_stripe_suspends_until_it_is_settled(
    scene: Scene, forgiven: Settlement
) -> None:
    made = await scene.finalize()
    await settle(scene, made, Settlement.UNCOLLECTIBLE)
    assert await scene.status() == "SUSPENDED"
    scene.clock.advance(DAY)
    assert await scene.dun() == 0
    await settle(scene, made, forgiven, request_id="forgiven")
    assert await scene.status() == "ACTIVE"


async def test_f30_an_invoice_that_is_being_handed_over_is_settled_when_that_is_through(
    scene: Scene, simulator: Simulator
) -> None:
    made = await scene.finalize()
    (claimed,) = await scene.due.claim(now=scene.clock.now(), count=1)
    with pytest.raises(InvoiceBusy):
        await settle(scene, made, Settlement.VOID)
    await scene.due.retry(claimed, at=scene.clock.now(), error="e")
    await scene.work_until_idle()
    assert (await settle(scene, made, Settlement.VOID)).state is InvoiceState.VOID
    assert [each["status"] for each in simulator.invoices()] == ["void"]


async def test_a_draft_that_an_attempt_left_at_stripe_goes_with_the_invoice(scene: Scene, simulator: Simulator) -> None:
    made = await scene.finalize()
    simulator.inject({"path": "/v1/invoices/*/finalize", "kind": "500", "count": 3})
    await scene.collect()
    assert [each["status"] for each in simulator.invoices()] == ["draft"]
    assert (await settle(scene, made, Settlement.VOID)).state is InvoiceState.VOID
    assert simulator.invoices() == []
    scene.clock.advance(DAY)
    assert await scene.collect() == 0


# --- a customer that is gone


async def test_a_customer_deleted_at_stripe_is_made_anew_at_the_next_collection(
    scene: Scene, simulator: Simulator
) -> None:
    first = await scene.customer_with(simulator, GOOD)
    simulator.call("DELETE", f"/v1/customers/{first}")
    await scene.deliver_all(simulator)
    made = await scene.finalize()
    await scene.work_until_idle()
    theirs = simulator.call("GET", f"/v1/invoices/{(await scene.read(made)).stripe_invoice_id}")
    assert theirs["customer"] != first
    assert await customer_of(scene) == theirs["customer"]


async def test_the_first_payment_method_of_a_customer_is_what_is_charged(scene: Scene, simulator: Simulator) -> None:
    customer = await scene.customers.ensure(ACME, since=scene.clock.now(), attempt_count=1)
    attached = simulator.form("/v1/payment_methods/pm_card_visa/attach", customer=customer)["id"]
    await scene.deliver_all(simulator)
    theirs = simulator.call("GET", f"/v1/customers/{customer}")
    assert theirs["invoice_settings"]["default_payment_method"] == attached


# --- F27: 24 hours


async def test_f27_an_attempt_after_stripe_forgot_the_key_makes_no_second_invoice(
    scene: Scene, simulator: Simulator
) -> None:
    made = await scene.finalize()
    customer = await scene.customers.ensure(ACME, since=scene.clock.now(), attempt_count=1)
    first = await scene.collector.collect(made, customer, attempt_count=1)
    simulator.advance(25 * 3600)
    assert await scene.collector.collect(made, customer, attempt_count=2) == first
    assert await scene.customers.ensure(ACME, since=scene.clock.now() - DAY, attempt_count=2) == customer
    assert len(simulator.invoices()) == len(simulator.call("GET", "/v1/customers")["data"]) == 1


async def test_f27_a_key_used_with_other_parameters_is_cured_by_a_later_attempt(
    scene: Scene, simulator: Simulator
) -> None:
    made = await scene.finalize()
    # As an older version of ours would have left it: the same key, other parameters.
    headers = {"Idempotency-Key": f"tollbook-customer-{ACME}-0", "Authorization": "Bearer sk_test_billing"}
    simulator.call("POST", "/v1/customers", data={"name": "older"}, headers=headers)
    await scene.work_until_idle()
    assert (await scene.read(made)).stripe_invoice_id
    assert len(simulator.invoices()) == 1


# --- B41, B42


async def test_b41_forty_lines_are_charged_to_the_unit(scene: Scene, simulator: Simulator) -> None:
    await scene.customer_with(simulator, GOOD)
    made = await scene.finalize(copies=20)
    assert len(made.lines) == 40
    await scene.work_until_idle()
    theirs = simulator.call("GET", f"/v1/invoices/{(await scene.read(made)).stripe_invoice_id}")
    assert (theirs["total"], theirs["status"]) == (20 * 5400, "paid")
    await scene.deliver_all(simulator)
    assert (await scene.read(made)).state is InvoiceState.PAID


AMOUNTS = [("USD", 5400), ("JPY", 5400), ("KWD", 49_990)]


@pytest.mark.parametrize(("currency_code", "minor"), AMOUNTS)
async def test_b42_what_stripe_charges_and_pays_back_is_our_amount_in_the_currencys_smallest_unit(
    scene: Scene, simulator: Simulator, currency_code: str, minor: int
) -> None:
    await scene.customer_with(simulator, GOOD)
    made = await scene.finalize(total=Money(minor, currency_code))
    await scene.work_until_idle()
    ours = await scene.read(made)
    theirs = simulator.call("GET", f"/v1/invoices/{ours.stripe_invoice_id}")
    assert (theirs["currency"], theirs["total"], theirs["amount_paid"]) == (currency_code.lower(), minor, minor)
    (charge,) = simulator.call("GET", "/v1/charges")["data"]
    assert (charge["currency"], charge["amount"]) == (currency_code.lower(), minor)
    simulator.form("/v1/refunds", charge=charge["id"], amount="490")
    await scene.deliver_all(simulator)
    async with scene.books.read(ACME) as book:
        (refund,) = await book.payments.refunds(made.invoice_id)
    assert (refund.currency_code, refund.amount_minor) == (currency_code, 490)
    assert (await scene.read(made)).total == Money(minor, currency_code)


@pytest.mark.parametrize(("currency_code", "minor"), AMOUNTS)
@pytest.mark.parametrize("factor", [Fraction(100), Fraction(1, 100)])
async def test_b42_a_hundredfold_at_stripe_in_either_direction_is_found_before_it_is_charged(
    scene: Scene, simulator: Simulator, currency_code: str, minor: int, factor: Fraction
) -> None:
    customer = await scene.customer_with(simulator, GOOD)
    made = await scene.finalize(total=Money(minor, currency_code))
    # As somebody who mistakes the currency's decimals would have left it.
    draft = await scene.collector._create(made, customer, BY_CARD, 1)
    amount = str(int(minor * factor))
    item = {"customer": customer, "invoice": draft.id, "amount": amount, "currency": currency_code.lower()}
    simulator.form("/v1/invoiceitems", **item)
    with pytest.raises(CollectionRefused, match=rf"{amount}\b.*ours is .*{minor}\b"):
        await scene.collector.collect(made, customer, attempt_count=2)
    assert [each["status"] for each in simulator.invoices()] == ["draft"]
    assert simulator.call("GET", "/v1/charges")["data"] == []


# --- B38


async def test_b38_f32_what_is_to_be_collected_is_seen_with_its_invoice_or_not_at_all(
    scene: Scene, simulator: Simulator
) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        await scene.finalize(before_commit=_fail)
    assert await scene.collect() == 0
    seen = []

    async def collect_meanwhile() -> None:
        seen.append(await scene.collect())

    made = await scene.finalize(before_commit=collect_meanwhile)
    assert seen == [0]
    assert simulator.invoices() == []
    assert await scene.collect() == 1
    assert [each["number"] for each in simulator.invoices()] == [made.number]


async def _fail() -> None:
    raise RuntimeError("on purpose")
