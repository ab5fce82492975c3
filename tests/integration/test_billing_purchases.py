"""Credits that are bought, from the order through Stripe's webhooks to the journal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from kit.ids import new_id
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.billing.adapters.postgres_revenue import PostgresRevenueLists
from services.billing.application.buy_credits import BuyCredits
from services.billing.application.create_credit_note import CreateCreditNote
from services.billing.application.ports.payments import WaitingDraft
from services.billing.application.report_revenue import ReportRevenue
from services.billing.domain.credit_notes import CreditDestination, CreditNoteReason
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.payments import Settlement
from services.billing.domain.profile import BillingProfile, BillingTerms, CollectionMethod, Party
from tests.integration.billing_scene import ACME, Scene, Simulator, billing_scene, running_simulator

# Stripe's library passes its body to httpx in a way that httpx has come to discourage; ours to read, not to fix.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

GOOD, BAD = "pm_card_visa", "pm_card_chargeCustomerFail"


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


async def buy(scene: Scene, cents: int = 100_00) -> Invoice:
    verb = BuyCredits(scene.books, scene.clock, valid_days=0)
    return await verb(ACME, Money(cents, "USD"), request_id=new_id("req"), actor="tests")


async def buy_with(scene: Scene, simulator: Simulator, card: str) -> Invoice:
    """An order that Stripe has tried to charge to the card, and whose events were handled."""
    await scene.customer_with(simulator, card)
    invoice = await buy(scene)
    await scene.work_until_idle()
    await scene.deliver_all(simulator)
    return await scene.read(invoice)


async def available(scene: Scene) -> int:
    async with scene.books.read(ACME) as book:
        return sum(each.available.minor for each in await book.credits.standings())


async def test_a_card_that_is_good_buys_credits_once_however_often_its_events_are_told(
    scene: Scene, simulator: Simulator
) -> None:
    paid = await buy_with(scene, simulator, GOOD)
    (theirs,) = simulator.invoices()
    assert (theirs["number"], theirs["total"], theirs["status"]) == (paid.number, 100_00, "paid")
    assert paid.state is InvoiceState.PAID
    events = [event for event in simulator.events() if event["type"].startswith("invoice.pa")]
    for time in range(3):
        for event in events:
            await scene.deliver(event | {"id": f"evt_{time}_{event['id']}"})
        await scene.handle_all()
    assert scene.rows("SELECT source, source_id, amount_minor FROM billing.credit_grants") == [
        ("PURCHASE", paid.invoice_id, 100_00)
    ]
    assert await available(scene) == 100_00


async def test_a_card_that_is_declined_buys_nothing_and_the_subscription_goes_on(
    scene: Scene, simulator: Simulator
) -> None:
    unpaid = await buy_with(scene, simulator, BAD)
    assert (unpaid.state, await scene.status()) == (InvoiceState.PAST_DUE, "ACTIVE")
    for _ in range(70):
        await scene.dun()
        scene.clock.advance(timedelta(days=1))
    assert (await available(scene), await scene.status()) == (0, "ACTIVE")
    simulator.form(f"/v1/invoices/{unpaid.stripe_invoice_id}/pay", paid_out_of_band="true")
    await scene.deliver_all(simulator)
    assert await available(scene) == 100_00


async def test_an_order_that_is_to_be_transferred_and_is_not_leaves_nothing_to_dun(
    scene: Scene, simulator: Simulator
) -> None:
    terms = BillingTerms(collection_method=CollectionMethod.SEND_INVOICE, term_days=7)
    profile = BillingProfile(party=Party(mail="pay@acme.example"), terms=terms, update_time=scene.clock.now())
    async with scene.books.open(ACME) as book:
        await book.profile.set(profile, actor="tests", request_id="r")
    ordered = await buy(scene)
    await scene.work_until_idle()
    await scene.pass_time(simulator, days=8)
    while await scene.dun():
        pass
    assert ((await scene.read(ordered)).state, await scene.status()) == (InvoiceState.PAST_DUE, "ACTIVE")
    assert scene.rows("SELECT * FROM billing.due_dunnings") == []


@pytest.mark.parametrize(
    ("settlement", "left"), [(Settlement.VOID, 0), (Settlement.UNCOLLECTIBLE, 0), (Settlement.PAID_OUTSIDE, 100_00)]
)
@pytest.mark.parametrize("is_there", [True, False], ids=["at_stripe", "before_stripe"])
async def test_what_the_operator_settles_grants_if_it_was_paid(
    scene: Scene, simulator: Simulator, settlement: Settlement, left: int, *, is_there: bool
) -> None:
    invoice = await buy_with(scene, simulator, BAD) if is_there else await buy(scene)
    request_id = new_id("req")
    for _ in range(2):
        settled = await scene.settle(ACME, invoice.invoice_id, settlement, request_id=request_id, actor="tests")
        assert settled.state is settlement.state
    await scene.deliver_all(simulator)
    assert (await available(scene), await scene.status()) == (left, "ACTIVE")


async def test_a_refund_at_stripe_and_a_credit_note_of_ours_each_take_their_part_of_the_credits(
    scene: Scene, simulator: Simulator
) -> None:
    paid = await buy_with(scene, simulator, GOOD)
    (charge,) = simulator.call("GET", "/v1/charges")["data"]
    simulator.form("/v1/refunds", charge=charge["id"], amount="2500")
    for _ in range(2):
        await scene.deliver_all(simulator)
    assert await available(scene) == 75_00
    note = await CreateCreditNote(scene.books, scene.clock)(
        ACME,
        paid.invoice_id,
        (),
        reason=CreditNoteReason.ORDER_CHANGE,
        memo="",
        destination=CreditDestination.REFUND,
        request_id=new_id("req"),
        actor="tests",
    )
    assert note.total == Money(100_00, "USD")
    assert await available(scene) == 0
    for _ in range(3):
        await scene.hand_over_credit_notes()
        await scene.deliver_all(simulator)
    async with scene.books.read(ACME) as book:
        (balance,) = (await book.credits.balances()).values()
    assert {account.value: amount.minor for account, amount in balance.items()} == {
        "GRANTED": -100_00,
        "AVAILABLE": 0,
        "APPLIED": 0,
        "EXPIRED": 0,
        "REVOKED": 100_00,
    }


async def test_an_order_goes_onto_no_draft_that_stripe_made_for_a_subscription(
    scene: Scene, simulator: Simulator
) -> None:
    customer_id = await scene.customer_with(simulator, GOOD)
    draft = simulator.form("/v1/invoices", customer=customer_id, currency="usd", auto_advance="false")
    async with scene.books.open(ACME) as book:
        await book.payments.keep_draft(WaitingDraft(draft["id"], customer_id))
    ordered = await buy(scene)
    await scene.work_until_idle()
    assert (await scene.read(ordered)).stripe_invoice_id != draft["id"]
    due = await scene.finalize()
    await scene.work_until_idle()
    assert (await scene.read(due)).stripe_invoice_id == draft["id"]


async def test_credits_that_are_sold_are_no_revenue_from_usage(scene: Scene) -> None:
    report = ReportRevenue(PostgresRevenueLists(scene.database.fleet), FakeClock(scene.clock.now()))
    before = await report(None)
    await buy(scene)
    assert await report(None) == before
    assert scene.rows("SELECT * FROM billing.revenue_usage") == []


async def test_an_invoice_is_about_a_subscription_unless_it_sells_credits(scene: Scene) -> None:
    await buy(scene)
    await scene.finalize()
    rows = scene.rows("SELECT cut, subscription_id IS NULL FROM billing.invoices ORDER BY number")
    assert rows == [("PURCHASE", True), ("EARLY", False)]
