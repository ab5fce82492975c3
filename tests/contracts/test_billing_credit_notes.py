"""The promises of the ports of credit notes, on memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from kit.errors import DependencyUnavailable, InvalidState, NotFound
from kit.feed import START
from kit.ids import new_id
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.operators import MemoryCreditNoteList, MemoryLegalEntities
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_legal_entities import PostgresLegalEntities
from services.billing.adapters.postgres_money_lists import PostgresCreditNoteList
from services.billing.application.create_credit_note import CreateCreditNote
from services.billing.application.follow_payment import FollowPayment
from services.billing.application.hand_over_credit_notes import HandOverCreditNotes
from services.billing.application.ports.books import Books
from services.billing.application.ports.credit_notes import CreditNoteKey, CreditNoteList
from services.billing.application.ports.profile import LegalEntities
from services.billing.domain import limits
from services.billing.domain.credit_notes import CitedLine, CreditDestination, CreditNote, CreditNoteReason
from services.billing.domain.credits import CreditAccount, CreditGrant, CreditSource, CreditUse
from services.billing.domain.errors import CollectionRefused
from services.billing.domain.invoices import Invoice, InvoiceState, Line, LineKind
from services.billing.domain.profile import BillingProfile, BillingTerms, LegalEntity, Party
from services.billing.domain.retries import retry_pause
from services.billing.domain.stripe_objects import StripeInvoice, StripeInvoiceStatus
from tests.integration.billing_database import billing_database
from tests.unit.billing.plans import PLANS
from tests.unit.billing.timelines import begun, by_tests

NOW = datetime(2026, 11, 25, 12, 30, 15, 123_456, tzinfo=UTC)
SOLD = NOW - timedelta(days=3)
ACME, GLOBEX = "acme", "globex"


@dataclass
class RecordingCollector:
    """A CreditNoteCollector that keeps what it is told, and fails when it is told to."""

    told: list[tuple[str, str, int]] = field(default_factory=list)
    failure: Exception | None = None

    async def take_back(self, note: CreditNote, stripe_invoice_id: str, *, attempt_count: int) -> str:
        """As CreditNoteCollector."""
        if self.failure is not None:
            raise self.failure
        self.told.append((note.credit_note_id, stripe_invoice_id, attempt_count))
        return f"cn_{note.number}"


@dataclass
class Store:
    """The ports over one store of their own, with two customers on a plan."""

    books: Books
    due: CreditNoteList
    entities: LegalEntities
    clock: FakeClock = field(default_factory=lambda: FakeClock(NOW))
    collector: RecordingCollector = field(default_factory=RecordingCollector)

    async def invoice(
        self,
        cents: int = 4900,
        organization_id: str = ACME,
        *,
        granted: CreditGrant | None = None,
        is_paid: bool = False,
    ) -> Invoice:
        async with self.books.open(organization_id) as book:
            sold = await book.subscriptions.in_force()
            sold = sold or await book.subscriptions.begin(begun("starter", start=SOLD), by_tests(NOW))
            count = len(await book.invoices.newest_first(before=None, count=100))
            period = begun("starter", start=SOLD).periods(SOLD + timedelta(days=400))[count]
            line = Line(kind=LineKind.BASE_FEE, description="Starter", amount=Money(cents, "USD"), period=period)
            draft = Invoice(
                organization_id=organization_id,
                subscription_id=sold.subscription_id,
                plan_id="starter",
                plan_version=1,
                state=InvoiceState.FINALIZED,
                total=Money(cents - (granted.amount.minor if granted else 0), "USD"),
                lines=(line,),
                period=period,
                closed_through_sequence=0,
                invoice_id=new_id("inv"),
                finalize_time=self.clock.now(),
                legal_entity_id=(await book.profile.current()).terms.legal_entity_id,
            )
            if granted is not None:
                await book.credits.grant(granted, actor="tests", request_id="r")
                uses = [CreditUse(granted.grant_id, granted.amount)]
                await book.credits.apply(uses, invoice_id=draft.invoice_id, at=NOW)
            final = await book.invoices.finalize(draft, actor="tests", request_id="r")
            if is_paid:
                await book.invoices.set_paid(final.invoice_id, "in_1")
            return final

    async def note(
        self,
        invoice: Invoice,
        cents: int | None = None,
        *,
        destination: CreditDestination = CreditDestination.CREDIT,
        request_id: str = "",
    ) -> CreditNote:
        amount = None if cents is None else Money(cents, "USD")
        return await CreateCreditNote(self.books, self.clock)(
            invoice.organization_id,
            invoice.invoice_id,
            [CitedLine(line_number=1, amount=amount)],
            reason=CreditNoteReason.GOODWILL,
            memo="For patience",
            destination=destination,
            request_id=request_id or new_id("req"),
            actor="tests",
        )

    async def hand_over(self) -> int:
        return await HandOverCreditNotes(self.due, self.books, self.collector, self.clock)()

    async def parked_or_waiting(self) -> int:
        """How many are still on the list, whenever they are due; it claims them."""
        return len(await self.due.claim(now=NOW + timedelta(days=365), count=100))


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryBooks()
        yield Store(memory, MemoryCreditNoteList(memory), MemoryLegalEntities(memory))
        return
    async with billing_database(postgres.url) as database:
        plans = PostgresPlans(database.tenant, database.fleet)
        await plans.apply(PLANS, request_id="stock", digest=b"", actor="tests")
        yield Store(
            PostgresBooks(database.tenant),
            PostgresCreditNoteList(database.fleet),
            PostgresLegalEntities(database.tenant, database.fleet),
        )


async def test_a_credit_note_reads_back_as_it_was_written_and_is_in_the_change_log(store: Store) -> None:
    invoice = await store.invoice()
    async with store.books.read(ACME) as book:
        before = (await book.entitlements.after(START)).position.sequence
    note = await store.note(invoice, 1234)
    assert (note.number, note.invoice_number, note.total) == ("CN-000001", invoice.number, Money(1234, "USD"))
    async with store.books.read(ACME) as book:
        assert await book.credit_notes.get(note.credit_note_id) == note
        assert await book.credit_notes.of_invoice(invoice.invoice_id) == [note]
        assert await book.credit_notes.reduced_minor([invoice.invoice_id, "inv_other"]) == {invoice.invoice_id: 1234}
        assert (await book.entitlements.after(START)).position.sequence == before + 1
    async with store.books.read(GLOBEX) as book:
        assert await book.credit_notes.of_invoice(invoice.invoice_id) == []
        assert await book.credit_notes.reduced_minor([invoice.invoice_id]) == {}
        for credit_note_id in (note.credit_note_id, "", "a\0b"):
            with pytest.raises(NotFound):
                await book.credit_notes.get(credit_note_id)


async def test_credit_notes_page_newest_first_and_the_id_decides_within_an_instant(store: Store) -> None:
    invoice = await store.invoice()
    notes = [await store.note(invoice, 100) for _ in range(3)]
    store.clock.advance(timedelta(microseconds=1))
    notes.append(await store.note(invoice, 100))
    expected = sorted(notes, key=lambda each: (each.create_time, each.credit_note_id), reverse=True)
    async with store.books.read(ACME) as book:
        first = await book.credit_notes.newest_first(before=None, count=2)
        key = CreditNoteKey(first[-1].create_time, first[-1].credit_note_id)
        rest = await book.credit_notes.newest_first(before=key, count=5)
    assert [*first, *rest] == expected


async def test_f30_credit_notes_that_race_take_back_each_line_once_and_their_numbers_have_no_gap(store: Store) -> None:
    invoices = [await store.invoice(4900, organization_id) for organization_id in (ACME, GLOBEX)]
    racing = [store.note(invoice, 1000) for invoice in invoices for _ in range(8)]
    outcomes = await asyncio.gather(*racing, return_exceptions=True)
    notes = [each for each in outcomes if isinstance(each, CreditNote)]
    assert [type(each) for each in outcomes if not isinstance(each, CreditNote)] == [InvalidState] * 8
    assert sorted(note.number for note in notes) == [f"CN-{number:06d}" for number in range(1, 9)]
    assert [sum(note.invoice_id == invoice.invoice_id for note in notes) for invoice in invoices] == [4, 4]


async def test_a_refused_credit_note_leaves_nothing_and_takes_no_number(store: Store) -> None:
    invoice = await store.invoice(4900, is_paid=True)
    with pytest.raises(InvalidState):
        await store.note(invoice, 4901)
    async with store.books.read(ACME) as book:
        assert await book.credits.balances() == {}
    assert (await store.note(invoice)).number == "CN-000001"


async def test_each_legal_entity_has_a_series_of_its_own(store: Store) -> None:
    gmbh = LegalEntity(
        legal_entity_id="gmbh", party=Party(legal_name="GmbH"), invoice_prefix="DE", credit_note_prefix="GS"
    )
    await store.entities.apply([gmbh], request_id="apply", digest=b"", actor="tests")
    async with store.books.open(GLOBEX) as book:
        profile = BillingProfile(update_time=NOW, terms=BillingTerms(legal_entity_id="gmbh"))
        await book.profile.set(profile, actor="tests", request_id="r")
    invoices = [await store.invoice(4900, name) for name in (ACME, GLOBEX)]
    assert [invoice.number for invoice in invoices] == ["TB-000001", "DE-000001"]
    notes = [await store.note(invoice, 100) for invoice in invoices]
    assert [note.number for note in notes] == ["CN-000001", "GS-000001"]
    assert [note.legal_entity_id for note in notes] == ["default", "gmbh"]


async def test_what_becomes_credit_is_granted_in_the_transaction_of_its_note_once(store: Store) -> None:
    invoice = await store.invoice(4900, is_paid=True)
    for _ in range(2):
        await store.note(invoice, 900, request_id="once")
    async with store.books.read(ACME) as book:
        accounts = (await book.credits.balances())["USD"]
    assert accounts[CreditAccount.AVAILABLE] == Money(900, "USD")
    assert await store.parked_or_waiting() == 0


def void(invoice: Invoice) -> StripeInvoice:
    return StripeInvoice(
        stripe_invoice_id="in_1",
        status=StripeInvoiceStatus.VOID,
        stripe_customer_id="cus_1",
        organization_id=invoice.organization_id,
        invoice_id=invoice.invoice_id,
        number=invoice.number,
        total_minor=invoice.total.minor,
        currency_code="USD",
        has_failed=False,
    )


async def test_a_voided_invoice_gives_its_credits_back_once_and_not_what_a_credit_note_gave_for_it(
    store: Store,
) -> None:
    grant = CreditGrant(
        grant_id=new_id("crg"),
        amount=Money(2000, "USD"),
        priority=50,
        grant_time=NOW,
        expire_time=None,
        source=CreditSource.OPERATOR,
    )
    invoice = await store.invoice(4900, granted=grant)
    note = await store.note(invoice, 3900)
    assert (note.split.reduced, note.split.credited) == (Money(2900, "USD"), Money(1000, "USD"))
    for _ in range(2):
        async with store.books.open(ACME) as book:
            await FollowPayment(store.clock)(book, invoice, void(invoice), actor="tests")
    async with store.books.read(ACME) as book:
        accounts = (await book.credits.balances())["USD"]
    assert accounts[CreditAccount.AVAILABLE] == Money(2000, "USD")
    assert accounts[CreditAccount.APPLIED] == Money(1000, "USD")
    with pytest.raises(InvalidState, match="VOID"):
        await store.note(invoice)


async def test_f30_a_voiding_and_credit_notes_at_once_give_back_what_credits_paid_and_no_more(store: Store) -> None:
    grant = CreditGrant(
        grant_id=new_id("crg"),
        amount=Money(2000, "USD"),
        priority=50,
        grant_time=NOW,
        expire_time=None,
        source=CreditSource.OPERATOR,
    )
    invoice = await store.invoice(4900, granted=grant)

    async def voided() -> None:
        async with store.books.open(ACME) as book:
            await FollowPayment(store.clock)(book, invoice, void(invoice), actor="tests")

    notes = [store.note(invoice, 1100) for _ in range(4)]
    outcomes = await asyncio.gather(*notes[:2], voided(), *notes[2:], voided(), return_exceptions=True)
    written = [each for each in outcomes if isinstance(each, CreditNote)]
    assert all(each is None or isinstance(each, CreditNote | InvalidState) for each in outcomes)
    async with store.books.read(ACME) as book:
        accounts = (await book.credits.balances())["USD"]
        assert (await book.invoices.get(invoice.invoice_id)).state is InvoiceState.VOID
        assert list(await book.credit_notes.of_invoice(invoice.invoice_id)) == sorted(
            written, key=lambda each: (each.create_time, each.number)
        )
    assert accounts[CreditAccount.AVAILABLE] == Money(2000, "USD")
    assert sum(each.minor for each in accounts.values()) == 0


# --- Handing over


async def collected(store: Store, invoice: Invoice, stripe_invoice_id: str = "in_1") -> None:
    async with store.books.open(invoice.organization_id) as book:
        await book.invoices.set_collected(invoice.invoice_id, stripe_invoice_id)


async def test_a_credit_note_is_handed_over_once_its_invoice_is_there(store: Store) -> None:
    invoice = await store.invoice()
    note = await store.note(invoice, 1000)
    assert await store.hand_over() == 1
    assert store.collector.told == []
    await collected(store, invoice)
    assert await store.hand_over() == 0
    store.clock.advance(retry_pause(1))
    assert await store.hand_over() == 1
    assert store.collector.told == [(note.credit_note_id, "in_1", 2)]
    async with store.books.read(ACME) as book:
        assert (await book.credit_notes.get(note.credit_note_id)).stripe_credit_note_id == "cn_CN-000001"
    assert await store.parked_or_waiting() == 0


async def test_a_refund_is_handed_over(store: Store) -> None:
    invoice = await store.invoice(4900, is_paid=True)
    note = await store.note(invoice, destination=CreditDestination.REFUND)
    assert note.split.refunded == Money(4900, "USD")
    await store.hand_over()
    assert store.collector.told == [(note.credit_note_id, "in_1", 1)]


@pytest.mark.parametrize("failure", [DependencyUnavailable(dependency="Stripe"), RuntimeError("a defect")])
async def test_what_fails_is_tried_again(store: Store, failure: Exception) -> None:
    invoice = await store.invoice()
    await collected(store, invoice)
    await store.note(invoice, 1000)
    store.collector.failure = failure
    await store.hand_over()
    store.collector.failure = None
    store.clock.advance(retry_pause(1))
    assert await store.hand_over() == 1
    assert len(store.collector.told) == 1


async def test_what_the_collector_refuses_waits_for_a_person(store: Store) -> None:
    invoice = await store.invoice()
    await collected(store, invoice)
    await store.note(invoice, 1000)
    store.collector.failure = CollectionRefused("already paid")
    await store.hand_over()
    assert await store.parked_or_waiting() == 0
    assert store.collector.told == []


async def test_a_claim_is_nobody_elses_until_its_lease_ends_and_a_late_word_of_its_holder_counts_no_more(
    store: Store,
) -> None:
    invoice = await store.invoice()
    await store.note(invoice, 1000)
    claims = await asyncio.gather(*(store.due.claim(now=NOW, count=5) for _ in range(4)))
    (held,) = [each for claim in claims for each in claim]
    later = NOW + limits.CLAIM_LEASE
    (again,) = await store.due.claim(now=later, count=5)
    assert (held.attempt_count, again.attempt_count) == (1, 2)
    await store.due.park(held, reason="too late")
    await store.due.retry(held, at=later, error="too late")
    assert await store.due.claim(now=later, count=5) == []
    await store.due.retry(again, at=later, error="once more")
    assert [each.attempt_count for each in await store.due.claim(now=later, count=5)] == [3]
    assert replace(again, attempt_count=1) == held
