"""The promises of the closes, of what is invoiced by key, and of the list of closes that are due: in memory and in
Postgres.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from kit.ids import new_id
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.adapters.memory.close_list import MemoryCloseList
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_close_list import PostgresCloseList
from services.billing.application.create_credit_note import CreateCreditNote
from services.billing.application.ports.books import Books
from services.billing.application.ports.closes import CloseList
from services.billing.domain import limits
from services.billing.domain.closing import Close, Cut, CutKind
from services.billing.domain.credit_notes import CitedLine, CreditDestination, CreditNoteReason
from services.billing.domain.dues import Category, DueKey, DueKind
from services.billing.domain.invoices import Invoice, InvoiceFilters, InvoiceState, Line, LineKind, total_of
from services.billing.domain.invoicing import Invoiced
from services.billing.domain.periods import Period, period_at
from tests.integration.billing_database import billing_database
from tests.unit.billing.plans import PLANS
from tests.unit.billing.timelines import begun, by_tests

NOW = datetime(2026, 11, 25, 12, 30, 15, 123_456, tzinfo=UTC)
SOLD = NOW - timedelta(days=3)
MONTH = period_at(SOLD, SOLD)
ACME, GLOBEX, SUB = "acme", "globex", "sub"


@dataclass
class Store:
    """The books, and the list of closes, of one store."""

    books: Books
    due: CloseList


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryBooks()
        await MemoryPlans().apply(PLANS, request_id="stock", digest=b"d", actor="tests")
        yield await sold(Store(memory, MemoryCloseList(memory)))
        return
    async with billing_database(postgres.url) as database:
        plans = PostgresPlans(database.tenant, database.fleet)
        await plans.apply(PLANS, request_id="stock", digest=b"d", actor="tests")
        yield await sold(Store(PostgresBooks(database.tenant), PostgresCloseList(database.fleet)))


async def sold(store: Store) -> Store:
    for organization_id in (ACME, GLOBEX):
        async with store.books.open(organization_id) as book:
            await book.subscriptions.begin(begun("starter", start=SOLD, subscription_id=SUB), by_tests(NOW))
    return store


def key(kind: DueKind, charge_id: str, *, interval: Period = MONTH) -> DueKey:
    category = Category.BASE if kind is DueKind.BASE_FEE else Category.USAGE
    return DueKey(kind=kind, category=category, interval=interval, charge_id=charge_id, segment_start=interval.start)


BASE, MINUTES = key(DueKind.BASE_FEE, "base"), key(DueKind.OVERAGE, "agent_minutes")


def line(of: DueKey | None, cents: int, *, used: int = 0, sequences: tuple[int, int] = (0, 0)) -> Line:
    return Line(
        kind=LineKind.TAX if of is None else LineKind[of.kind.name],
        description="a line",
        amount=Money(cents, "USD"),
        period=MONTH,
        meter="agent_minutes" if used else "",
        used_quantity=abs(used),
        difference_quantity=used,
        first_sequence=sequences[0],
        last_sequence=sequences[1],
        key=of,
        corrects_invoice_id="inv-before" if sequences[0] else "",
    )


def invoice(*lines: Line, finalized: datetime = NOW, state: InvoiceState = InvoiceState.FINALIZED) -> Invoice:
    return Invoice(
        organization_id=ACME,
        subscription_id=SUB,
        plan_id="starter",
        plan_version=1,
        state=state,
        total=total_of(lines, "USD"),
        lines=lines,
        period=MONTH,
        closed_through_sequence=9,
        cut=CutKind.PERIOD,
        invoice_id=new_id("inv"),
        finalize_time=finalized,
    )


async def finalize(store: Store, made: Invoice) -> Invoice:
    async with store.books.open(ACME) as book:
        return await book.invoices.finalize(made, actor="tests", request_id="r")


async def test_a_period_has_as_many_invoices_as_it_has_cuts_and_each_is_read_as_it_was_written(store: Store) -> None:
    first = await finalize(store, invoice(line(BASE, 4900), line(MINUTES, 300, used=60, sequences=(0, 7))))
    second = await finalize(store, invoice(line(MINUTES, -100, used=-20, sequences=(7, 9)), line(None, 19)))
    async with store.books.read(ACME) as reader:
        assert await reader.invoices.get(first.invoice_id) == first
        assert await reader.invoices.get(second.invoice_id) == second


async def test_what_is_invoiced_is_summed_by_key_and_says_its_latest_invoice(store: Store) -> None:
    first = await finalize(store, invoice(line(BASE, 4900), line(MINUTES, 300, used=60, sequences=(0, 7))))
    later = NOW + timedelta(hours=1)
    second = await finalize(
        store, invoice(line(MINUTES, -100, used=-20, sequences=(7, 9)), line(None, 19), finalized=later)
    )
    async with store.books.read(ACME) as reader:
        held = await reader.closes.invoiced(SUB, after=MONTH.start)
    assert held == {
        BASE: Invoiced(
            amount=Money(4900, "USD"),
            used_quantity=0,
            meter="",
            last_sequence=0,
            segment=MONTH,
            invoice_id=first.invoice_id,
            invoice_number=first.number,
        ),
        MINUTES: Invoiced(
            amount=Money(200, "USD"),
            used_quantity=40,
            meter="agent_minutes",
            last_sequence=9,
            segment=MONTH,
            invoice_id=second.invoice_id,
            invoice_number=second.number,
        ),
    }


async def test_what_ended_before_is_left_out_and_what_another_subscription_or_organization_has_too(
    store: Store,
) -> None:
    old = replace(BASE, interval=Period(MONTH.start - timedelta(days=31), MONTH.start))
    await finalize(store, invoice(line(old, 4900), line(BASE, 4900)))
    async with store.books.read(ACME) as reader:
        assert set(await reader.closes.invoiced(SUB, after=MONTH.start)) == {BASE}
        assert set(await reader.closes.invoiced(SUB, after=MONTH.start - timedelta(days=1))) == {BASE, old}
        assert await reader.closes.invoiced("another", after=old.interval.start) == {}
    async with store.books.read(GLOBEX) as reader:
        assert await reader.closes.invoiced(SUB, after=old.interval.start) == {}


async def test_a_voided_invoice_holds_what_it_invoiced_still(store: Store) -> None:
    made = await finalize(store, invoice(line(BASE, 4900)))
    async with store.books.open(ACME) as book:
        assert await book.payments.follow(made.invoice_id, InvoiceState.VOID, stripe_invoice_id="", actor="tests")
    async with store.books.read(ACME) as reader:
        held = (await reader.closes.invoiced(SUB, after=MONTH.start))[BASE]
    assert (held.amount, held.taken_back_minor) == (Money(4900, "USD"), 4900)


async def test_what_credit_notes_took_back_of_a_line_is_told_with_what_is_invoiced(store: Store) -> None:
    made = await finalize(store, invoice(line(MINUTES, 300, used=60, sequences=(0, 7)), line(BASE, 4900)))
    create = CreateCreditNote(store.books, FakeClock(NOW))
    for request_id in ("one", "two"):
        await create(
            ACME,
            made.invoice_id,
            [CitedLine(line_number=2, amount=Money(1000, "USD"))],
            reason=CreditNoteReason.GOODWILL,
            memo="",
            destination=CreditDestination.CREDIT,
            request_id=request_id,
            actor="tests",
        )
    async with store.books.read(ACME) as reader:
        held = await reader.closes.invoiced(SUB, after=MONTH.start)
    assert (held[BASE].amount, held[BASE].taken_back_minor) == (Money(4900, "USD"), 2000)
    assert held[MINUTES].taken_back_minor == 0


async def test_a_cut_is_made_once(store: Store) -> None:
    made = Close(cut=Cut(CutKind.PERIOD, MONTH.start), through_sequence=9, invoice_id="")
    again = replace(made, cut=replace(made.cut, ordinal=1))
    async with store.books.open(ACME) as book:
        await book.closes.add(SUB, made, at=NOW)
        await book.closes.add(SUB, again, at=NOW)
    async with store.books.read(ACME) as reader:
        assert set(await reader.closes.of(SUB)) == {made, again}
        assert await reader.closes.of("another") == []

    async def once_more() -> None:
        async with store.books.open(ACME) as book:
            await book.closes.add(SUB, replace(made, through_sequence=10), at=NOW)

    with pytest.raises(Exception, match=r"made already|duplicate key"):
        await once_more()
    async with store.books.read(ACME) as reader:
        assert set(await reader.closes.of(SUB)) == {made, again}


async def test_a_close_names_its_invoice(store: Store) -> None:
    made = invoice(line(BASE, 4900))
    close = Close(cut=Cut(CutKind.OPENING, SOLD), through_sequence=0, invoice_id=made.invoice_id)
    async with store.books.open(ACME) as book:
        await book.closes.add(SUB, close, at=NOW)
        await book.invoices.finalize(made, actor="tests", request_id="r")
    async with store.books.read(ACME) as reader:
        assert await reader.closes.of(SUB) == [close]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (InvoiceFilters(), [2, 1, 0]),
        (InvoiceFilters(states=frozenset({InvoiceState.PAID})), [1]),
        (InvoiceFilters(states=frozenset({InvoiceState.PAID, InvoiceState.FINALIZED})), [2, 1, 0]),
        (InvoiceFilters(states=frozenset({InvoiceState.VOID})), []),
        (InvoiceFilters(finalized_from=NOW + timedelta(hours=1)), [2, 1]),
        (InvoiceFilters(finalized_before=NOW + timedelta(hours=1)), [0]),
        (InvoiceFilters(finalized_from=NOW, finalized_before=NOW + timedelta(hours=2)), [1, 0]),
    ],
)
async def test_invoices_are_found_by_state_and_time(store: Store, filters: InvoiceFilters, found: list[int]) -> None:
    states = [InvoiceState.FINALIZED, InvoiceState.PAID, InvoiceState.FINALIZED]
    made = [
        await finalize(store, invoice(line(BASE, 4900), finalized=NOW + timedelta(hours=number), state=state))
        for number, state in enumerate(states)
    ]
    async with store.books.read(ACME) as reader:
        page = await reader.invoices.newest_first(before=None, count=10, filters=filters)
    assert [made.index(each) for each in page] == found


# --- the list of what is due


async def schedule(store: Store, at: datetime | None, *, organization_id: str = ACME) -> None:
    async with store.books.open(organization_id) as book:
        await book.closes.schedule(SUB, at)


async def test_a_subscription_is_due_when_it_was_scheduled_and_not_before(store: Store) -> None:
    await schedule(store, NOW)
    assert await store.due.claim(now=NOW - timedelta(microseconds=1), count=10) == []
    (due,) = await store.due.claim(now=NOW, count=10)
    assert (due.organization_id, due.subscription_id, due.attempt_count) == (ACME, SUB, 1)


async def test_scheduling_anew_replaces_what_was_there_and_nothing_takes_it_off(store: Store) -> None:
    await schedule(store, NOW)
    await schedule(store, NOW + timedelta(days=30))
    assert await store.due.claim(now=NOW + timedelta(days=29), count=10) == []
    await schedule(store, None)
    assert await store.due.claim(now=NOW + timedelta(days=99), count=10) == []


async def test_a_claimed_close_is_the_claimers_until_the_lease_ends(store: Store) -> None:
    await schedule(store, NOW)
    claims = await asyncio.gather(*(store.due.claim(now=NOW, count=10) for _ in range(4)))
    assert sorted(map(len, claims)) == [0, 0, 0, 1]
    assert await store.due.claim(now=NOW + limits.CLAIM_LEASE - timedelta(seconds=1), count=10) == []
    (again,) = await store.due.claim(now=NOW + limits.CLAIM_LEASE, count=10)
    assert again.attempt_count == 2


async def test_the_longest_due_comes_first_and_no_more_than_asked_for(store: Store) -> None:
    await schedule(store, NOW)
    await schedule(store, NOW - timedelta(hours=1), organization_id=GLOBEX)
    assert [due.organization_id for due in await store.due.claim(now=NOW, count=1)] == [GLOBEX]
    assert [due.organization_id for due in await store.due.claim(now=NOW, count=1)] == [ACME]


async def test_a_retry_is_due_at_its_time_unless_the_claim_has_passed_on(store: Store) -> None:
    await schedule(store, NOW)
    (lost,) = await store.due.claim(now=NOW, count=1)
    (held,) = await store.due.claim(now=NOW + limits.CLAIM_LEASE, count=1)
    await store.due.retry(lost, at=NOW, error="lost")
    assert await store.due.claim(now=NOW + limits.CLAIM_LEASE, count=1) == []
    await store.due.retry(held, at=NOW + limits.CLAIM_LEASE, error="held")
    assert len(await store.due.claim(now=NOW + limits.CLAIM_LEASE, count=1)) == 1


async def test_books_that_raise_leave_the_list_as_it_was(store: Store) -> None:
    await schedule(store, NOW)

    async def change_and_fail() -> None:
        async with store.books.open(ACME) as book:
            await book.closes.schedule(SUB, None)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await change_and_fail()
    assert len(await store.due.claim(now=NOW, count=10)) == 1
