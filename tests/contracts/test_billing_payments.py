"""The promises of billing's ports of payments, dunning and mails, on memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from kit.ids import new_id
from kit.postgres.embedded import EmbeddedPostgres
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.adapters.memory.collection_list import MemoryCollectionList
from services.billing.adapters.memory.dunning_list import MemoryDunningList
from services.billing.adapters.memory.stripe_events import MemoryStripeInbox
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_dunning_list import PostgresDunningList
from services.billing.adapters.postgres_lists import PostgresCollectionList, PostgresStripeInbox
from services.billing.application.ports.books import Books
from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.collection import CollectionList
from services.billing.application.ports.dunning import DunningList
from services.billing.application.ports.mails import Mail
from services.billing.application.ports.payments import WaitingDraft
from services.billing.application.ports.stripe_events import StripeInbox
from services.billing.domain import limits
from services.billing.domain.dunning import Dunning
from services.billing.domain.invoices import Invoice, InvoiceState
from services.billing.domain.mails import MailKind
from services.billing.domain.stripe_events import StripeEvent
from services.billing.domain.stripe_objects import StripeDispute, StripeRefund
from tests.contracts.test_billing import DIGEST, invoice_of
from tests.integration.billing_database import billing_database
from tests.unit.billing.plans import PLANS
from tests.unit.billing.timelines import begun, by_tests

NOW = datetime(2026, 11, 25, 12, 30, 15, 123_456, tzinfo=UTC)
DAY = timedelta(days=1)
ACME, GLOBEX = "acme", "globex"
STATES = [InvoiceState.PAID, InvoiceState.PAST_DUE, InvoiceState.VOID, InvoiceState.UNCOLLECTIBLE]


@dataclass
class Store:
    """The ports over one store of their own."""

    books: Books
    plans: Plans
    due: CollectionList
    dunnings: DunningList
    inbox: StripeInbox


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryBooks()
        yield Store(
            memory, MemoryPlans(), MemoryCollectionList(memory), MemoryDunningList(memory), MemoryStripeInbox(memory)
        )
        return
    async with billing_database(postgres.url) as database:
        yield Store(
            PostgresBooks(database.tenant),
            PostgresPlans(database.tenant, database.fleet),
            PostgresCollectionList(database.fleet),
            PostgresDunningList(database.fleet),
            PostgresStripeInbox(database.fleet),
        )


@pytest.fixture
def inbox(store: Store) -> StripeInbox:
    return store.inbox


@pytest.fixture
async def made(store: Store) -> Invoice:
    await store.plans.apply(PLANS, request_id="stock", digest=DIGEST, actor="tests")
    async with store.books.open(ACME) as book:
        sold = await book.subscriptions.begin(begun("starter", start=NOW - 3 * DAY), by_tests(NOW))
        return await book.invoices.finalize(invoice_of(sold), actor="tests", request_id="r")


async def follow(store: Store, made: Invoice, state: InvoiceState, stripe_invoice_id: str = "in_1") -> bool:
    async with store.books.open(ACME) as book:
        return await book.payments.follow(made.invoice_id, state, stripe_invoice_id=stripe_invoice_id, actor="tests")


async def state_of(store: Store, made: Invoice) -> InvoiceState:
    async with store.books.read(ACME) as book:
        return (await book.invoices.get(made.invoice_id)).state


async def changes(store: Store) -> int:
    async with store.books.read(ACME) as book:
        return (await book.entitlements.head()).sequence


# --- states


@pytest.mark.parametrize("state", STATES)
async def test_an_invoice_goes_where_stripe_says_and_the_change_log_says_so(
    store: Store, made: Invoice, state: InvoiceState
) -> None:
    before = await changes(store)
    assert await follow(store, made, state)
    async with store.books.read(ACME) as book:
        assert await book.invoices.get(made.invoice_id) == replace(made, state=state, stripe_invoice_id="in_1")
    assert await changes(store) == before + 1


@pytest.mark.parametrize("state", STATES)
async def test_what_is_told_twice_changes_nothing(store: Store, made: Invoice, state: InvoiceState) -> None:
    await follow(store, made, state)
    before = await changes(store)
    assert not await follow(store, made, state)
    assert await changes(store) == before


@pytest.mark.parametrize("final", [InvoiceState.PAID, InvoiceState.VOID])
@pytest.mark.parametrize("later", STATES)
async def test_what_is_paid_or_void_stays_so_whatever_is_told_later(
    store: Store, made: Invoice, final: InvoiceState, later: InvoiceState
) -> None:
    await follow(store, made, final)
    assert not await follow(store, made, later)
    assert await state_of(store, made) is final


async def test_money_may_come_after_it_was_given_up(store: Store, made: Invoice) -> None:
    for state in (InvoiceState.PAST_DUE, InvoiceState.UNCOLLECTIBLE, InvoiceState.PAID):
        assert await follow(store, made, state)


async def test_of_a_payment_and_a_voiding_at_once_one_wins(store: Store, made: Invoice) -> None:
    told = [InvoiceState.PAID, InvoiceState.VOID] * 4
    moved = await asyncio.gather(*(follow(store, made, state) for state in told))
    assert sum(moved) == 1
    assert await state_of(store, made) is told[moved.index(True)]


async def test_an_invoice_of_nobody_goes_nowhere(store: Store, made: Invoice) -> None:
    assert not await follow(store, replace(made, invoice_id="inv_x"), InvoiceState.PAID)
    async with store.books.open(GLOBEX) as book:
        assert not await book.payments.follow(made.invoice_id, InvoiceState.PAID, stripe_invoice_id="", actor="tests")
    assert await state_of(store, made) is InvoiceState.FINALIZED


async def test_what_stripe_does_not_name_stays_named_as_it_was(store: Store, made: Invoice) -> None:
    await follow(store, made, InvoiceState.PAST_DUE, "in_1")
    await follow(store, made, InvoiceState.PAID, "")
    async with store.books.read(ACME) as book:
        assert (await book.invoices.get(made.invoice_id)).stripe_invoice_id == "in_1"


@pytest.mark.parametrize("state", [InvoiceState.PAID, InvoiceState.VOID])
async def test_what_is_settled_is_collected_no_more(store: Store, made: Invoice, state: InvoiceState) -> None:
    await follow(store, made, state)
    assert await store.due.claim(now=NOW + DAY, count=10) == []


# --- claims of one invoice


async def test_an_invoice_claimed_by_name_is_claimed_by_nobody_else(store: Store, made: Invoice) -> None:
    claim = await store.due.claim_one(ACME, made.invoice_id, now=NOW)
    assert claim.due is not None
    assert (claim.due.invoice_id, claim.due.attempt_count) == (made.invoice_id, 1)
    assert await store.due.claim(now=NOW, count=10) == []
    second = await store.due.claim_one(ACME, made.invoice_id, now=NOW)
    assert (second.due, second.is_held) == (None, True)
    third = await store.due.claim_one(ACME, made.invoice_id, now=NOW + limits.CLAIM_LEASE)
    assert third.due is not None


async def test_an_invoice_that_a_worker_hands_over_is_held(store: Store, made: Invoice) -> None:
    (worked_on,) = await store.due.claim(now=NOW, count=10)
    claim = await store.due.claim_one(ACME, made.invoice_id, now=NOW)
    assert (claim.due, claim.is_held) == (None, True)
    await store.due.retry(worked_on, at=NOW + DAY, error="e")
    assert (await store.due.claim_one(ACME, made.invoice_id, now=NOW)).due is not None


async def test_a_parked_invoice_can_be_claimed_by_name(store: Store, made: Invoice) -> None:
    (worked_on,) = await store.due.claim(now=NOW, count=10)
    await store.due.park(worked_on, reason="why")
    assert (await store.due.claim_one(ACME, made.invoice_id, now=NOW)).due is not None


async def test_an_invoice_that_is_not_on_the_list_is_held_by_nobody(store: Store, made: Invoice) -> None:
    async with store.books.open(ACME) as book:
        await book.invoices.set_collected(made.invoice_id, "in_1")
    claim = await store.due.claim_one(ACME, made.invoice_id, now=NOW)
    assert (claim.due, claim.is_held) == (None, False)


# --- customers


async def test_a_customer_that_is_gone_gives_its_place_to_another(store: Store) -> None:
    async with store.books.open(ACME) as book:
        await book.customer.set_stripe_id("cus_1")
        assert await book.customer.generation() == 0
        await book.customer.forget_stripe_id("cus_other")
        assert await book.customer.stripe_id() == "cus_1"
        await book.customer.forget_stripe_id("cus_1")
        assert (await book.customer.stripe_id(), await book.customer.generation()) == ("", 1)
        await book.customer.set_stripe_id("cus_2")
        await book.customer.set_stripe_id("cus_3")
    async with store.books.read(ACME) as book:
        assert (await book.customer.stripe_id(), await book.customer.generation()) == ("cus_2", 1)


# --- refunds, disputes, drafts


def refund(status: str = "pending") -> StripeRefund:
    return StripeRefund(stripe_refund_id="re_1", amount_minor=499, currency_code="USD", status=status)


def dispute(status: str = "needs_response") -> StripeDispute:
    return StripeDispute(
        stripe_dispute_id="du_1",
        stripe_charge_id="ch_1",
        amount_minor=5399,
        currency_code="USD",
        status=status,
        reason="fraudulent",
    )


async def test_a_refund_is_kept_once_and_follows_its_state(store: Store, made: Invoice) -> None:
    before = await changes(store)
    for status in ("pending", "pending", "succeeded", "succeeded"):
        async with store.books.open(ACME) as book:
            await book.payments.keep_refund(made.invoice_id, refund(status))
    async with store.books.read(ACME) as book:
        assert await book.payments.refunds(made.invoice_id) == [refund("succeeded")]
        assert await book.payments.refunds("inv_x") == []
    assert await changes(store) == before + 2


async def test_a_dispute_is_kept_once_and_follows_its_state(store: Store, made: Invoice) -> None:
    before = await changes(store)
    for status in ("needs_response", "needs_response", "lost"):
        async with store.books.open(ACME) as book:
            await book.payments.keep_dispute(made.invoice_id, dispute(status))
    async with store.books.read(ACME) as book:
        assert await book.payments.disputes(made.invoice_id) == [dispute("lost")]
    async with store.books.read(GLOBEX) as book:
        assert await book.payments.disputes(made.invoice_id) == []
    assert await changes(store) == before + 2


async def test_a_draft_waits_for_one_invoice_and_is_set_aside_for_it(store: Store) -> None:
    first, second = WaitingDraft("in_a", "cus_1"), WaitingDraft("in_b", "cus_1")
    for draft in (first, second, first):
        async with store.books.open(ACME) as book:
            await book.payments.keep_draft(draft)
    async with store.books.open(ACME) as book:
        assert await book.payments.waiting_draft("inv_1") == first
        await book.payments.use_draft("in_a", "inv_1")
    async with store.books.open(ACME) as book:
        assert await book.payments.waiting_draft("inv_1") == first
        assert await book.payments.waiting_draft("inv_2") == second
        await book.payments.drop_draft("in_b")
        assert await book.payments.waiting_draft("inv_2") is None


# --- dunning


async def test_an_invoice_with_a_due_time_is_looked_at_then_unless_it_is_paid_before(
    store: Store, made: Invoice
) -> None:
    due_time = NOW + 30 * DAY
    for invoice_id in ("inv_paid", "inv_late"):
        with_a_term = replace(made, invoice_id=invoice_id, finalize_time=NOW, due_time=due_time)
        async with store.books.open(made.organization_id) as book:
            await book.invoices.finalize(with_a_term, actor="tests", request_id="r")
    async with store.books.open(made.organization_id) as book:
        assert (await book.invoices.get("inv_late")).due_time == due_time
        assert await book.dunning.open_ones() == []
        await book.dunning.end("inv_paid", now=NOW)
    assert await store.dunnings.claim(now=due_time - timedelta(microseconds=1), count=10) == []
    assert [each.invoice_id for each in await store.dunnings.claim(now=due_time, count=10)] == ["inv_late"]


async def test_dunning_begins_once_and_its_first_step_is_due_at_once(store: Store, made: Invoice) -> None:
    for now in (NOW, NOW + DAY):
        async with store.books.open(ACME) as book:
            await book.dunning.begin(made.invoice_id, now=now)
    async with store.books.read(ACME) as book:
        assert await book.dunning.open_ones() == [Dunning(made.invoice_id, NOW, is_suspending=False)]
    (due,) = await store.dunnings.claim(now=NOW, count=10)
    assert (due.organization_id, due.invoice_id, due.attempt_count) == (ACME, made.invoice_id, 1)


async def test_a_step_is_kept_with_when_the_next_one_is_due(store: Store, made: Invoice) -> None:
    async with store.books.open(ACME) as book:
        await book.dunning.begin(made.invoice_id, now=NOW)
        await book.dunning.note(made.invoice_id, ["A", "B"], is_suspending=False, next_time=NOW + DAY, now=NOW)
    assert await store.dunnings.claim(now=NOW + DAY - timedelta(microseconds=1), count=10) == []
    async with store.books.open(ACME) as book:
        await book.dunning.note(made.invoice_id, ["C"], is_suspending=True, next_time=NOW + DAY, now=NOW)
        await book.dunning.note(made.invoice_id, [], is_suspending=False, next_time=NOW + DAY, now=NOW)
    async with store.books.read(ACME) as book:
        (kept,) = await book.dunning.open_ones()
    assert kept == Dunning(made.invoice_id, NOW, is_suspending=True, done=frozenset("ABC"))
    assert len(await store.dunnings.claim(now=NOW + DAY, count=10)) == 1


async def test_after_the_last_step_nothing_is_due_and_it_stays_open(store: Store, made: Invoice) -> None:
    async with store.books.open(ACME) as book:
        await book.dunning.begin(made.invoice_id, now=NOW)
        await book.dunning.note(made.invoice_id, ["A"], is_suspending=True, next_time=None, now=NOW)
    assert await store.dunnings.claim(now=NOW + 1000 * DAY, count=10) == []
    async with store.books.read(ACME) as book:
        assert len(await book.dunning.open_ones()) == 1


async def test_dunning_that_ended_is_open_no_more_and_begins_no_more(store: Store, made: Invoice) -> None:
    async with store.books.open(ACME) as book:
        await book.dunning.end(made.invoice_id, now=NOW)
        await book.dunning.begin(made.invoice_id, now=NOW)
        await book.dunning.end(made.invoice_id, now=NOW)
    async with store.books.open(ACME) as book:
        await book.dunning.begin(made.invoice_id, now=NOW + DAY)
        assert await book.dunning.open_ones() == []
    assert await store.dunnings.claim(now=NOW + 2 * DAY, count=10) == []


async def test_due_dunning_is_claimed_by_one_at_a_time_and_again_after_the_lease(store: Store, made: Invoice) -> None:
    async with store.books.open(ACME) as book:
        await book.dunning.begin(made.invoice_id, now=NOW)
    claims = await asyncio.gather(*(store.dunnings.claim(now=NOW, count=10) for _ in range(5)))
    assert sorted(len(claim) for claim in claims) == [0, 0, 0, 0, 1]
    (again,) = await store.dunnings.claim(now=NOW + limits.CLAIM_LEASE, count=10)
    assert again.attempt_count == 2
    (first,) = next(claim for claim in claims if claim)
    await store.dunnings.retry(first, at=NOW, error="of one who lost the claim")
    assert await store.dunnings.claim(now=NOW + limits.CLAIM_LEASE, count=10) == []
    await store.dunnings.retry(again, at=NOW + limits.CLAIM_LEASE, error="e")
    assert len(await store.dunnings.claim(now=NOW + limits.CLAIM_LEASE, count=10)) == 1


# --- mails


def mail(reason: str = "inv_1/REMIND_1", kind: MailKind = MailKind.PAYMENT_FAILED) -> Mail:
    return Mail(kind=kind, reason=reason, data={"number": "TB-000001", "total": "USD 53.99"})


async def test_a_mail_of_one_kind_and_reason_is_written_once(store: Store) -> None:
    async with store.books.open(ACME) as book:
        assert await book.mails.add(mail(), now=NOW)
        assert not await book.mails.add(mail(), now=NOW + DAY)
    async with store.books.open(ACME) as book:
        assert not await book.mails.add(replace(mail(), data={}), now=NOW + DAY)
        assert await book.mails.add(mail("other"), now=NOW + DAY)
        assert await book.mails.add(mail(kind=MailKind.PAYMENT_REMINDER), now=NOW + 2 * DAY)
    async with store.books.read(ACME) as book:
        written = await book.mails.all()
    assert [each.reason for each in written] == ["inv_1/REMIND_1", "other", "inv_1/REMIND_1"]
    assert replace(written[0], mail_id="", create_time=None) == mail()
    assert (len({each.mail_id for each in written}), written[0].create_time) == (3, NOW)


async def test_a_mail_in_books_that_raise_is_not_written(store: Store) -> None:
    async def write_and_fail() -> None:
        async with store.books.open(ACME) as book:
            await book.mails.add(mail(new_id("x")), now=NOW)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await write_and_fail()
    async with store.books.read(ACME) as book:
        assert await book.mails.all() == []


# --- events that arrive at once


def arrived(event_id: str, lane: str) -> StripeEvent:
    return StripeEvent(event_id=event_id, type="invoice.paid", object_id="in_1", lane=lane, payload=b"{}")


async def test_b39_of_an_event_that_arrives_many_times_at_once_one_is_new(inbox: StripeInbox) -> None:
    events = [arrived(f"evt_{number % 10}", f"cus_{number % 3}") for number in range(250)]
    new = await asyncio.gather(*(inbox.store(event, now=NOW) for event in events))
    assert sum(new) == 10
    assert [bool(each) for each in new[:10]] == [True] * 10


async def test_who_gives_up_waiting_takes_nothing_back_from_the_others(inbox: StripeInbox) -> None:
    calls = [asyncio.create_task(inbox.store(arrived(f"evt_{number}", "cus_1"), now=NOW)) for number in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert done[1::2] == [True] * 10
    assert await inbox.store(arrived("evt_1", "cus_1"), now=NOW) is False


async def test_events_of_a_lane_that_arrive_at_once_are_handled_in_that_order(inbox: StripeInbox) -> None:
    await asyncio.gather(*(inbox.store(arrived(f"evt_{number:02}", "cus_1"), now=NOW) for number in range(30)))
    handled = []
    while due := await inbox.claim(now=NOW, count=10):
        assert len(due) == 1
        handled.append(due[0].event_id)
        await inbox.set_handled(due[0], now=NOW, outcome="done")
    assert handled == [f"evt_{number:02}" for number in range(30)]
