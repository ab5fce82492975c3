"""The promises of billing's ports, on memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from kit.errors import LogRewound, NotFound, RequestIdReused
from kit.feed import START, Position
from kit.head_watch import FROM_THE_START
from kit.ids import new_id
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.adapters.memory.collection_list import MemoryCollectionList
from services.billing.adapters.memory.stripe_events import MemoryStripeInbox
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_books.entitlements import PostgresEntitlementHeads
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_lists import PostgresCollectionList, PostgresStripeInbox
from services.billing.application.ports.books import Books
from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.collection import CollectionList
from services.billing.application.ports.entitlements import EntitlementHeads
from services.billing.application.ports.stripe_events import StripeInbox
from services.billing.domain import limits
from services.billing.domain.catalog import CatalogPlan
from services.billing.domain.invoices import Invoice, InvoiceKey, InvoiceState, total_of
from services.billing.domain.periods import period_at
from services.billing.domain.stripe_events import StripeEvent
from services.billing.domain.subscriptions import Subscription, SubscriptionStatus
from tests.integration.billing_database import billing_database
from tests.unit.billing.plans import ENTERPRISE, EVERYTHING, FREE, METERS, PLANS, STARTER, priced
from tests.unit.billing.rated import rate
from tests.unit.billing.timelines import begun, by_tests

NOW = datetime(2026, 11, 25, 12, 30, 15, 123_456, tzinfo=UTC)
SOLD = NOW - timedelta(days=3)
ACME, GLOBEX = "acme", "globex"
DIGEST, OTHER_DIGEST = b"\x01" * 32, b"\x02" * 32


@dataclass
class Store:
    """Billing's ports over one store of their own."""

    books: Books
    heads: EntitlementHeads
    plans: Plans
    due: CollectionList
    inbox: StripeInbox


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryBooks()
        yield Store(memory, memory, MemoryPlans(), MemoryCollectionList(memory), MemoryStripeInbox(memory))
        return
    async with billing_database(postgres.url) as database:
        yield Store(
            PostgresBooks(database.tenant),
            PostgresEntitlementHeads(database.fleet),
            PostgresPlans(database.tenant, database.fleet),
            PostgresCollectionList(database.fleet),
            PostgresStripeInbox(database.fleet),
        )


@pytest.fixture
async def stocked(store: Store) -> Store:
    await store.plans.apply(PLANS, request_id="stock", digest=DIGEST, actor="tests")
    return store


def invoice_of(sold: Subscription, *, months: int = 0, total: Money | None = None) -> Invoice:
    period = period_at(sold.anchor, NOW + timedelta(days=31 * months))
    lines = rate(STARTER, period, {"agent_minutes": 61_000_000}, METERS)
    if total is not None:
        lines = (replace(lines[0], amount=total),)
    return Invoice(
        organization_id=sold.organization_id,
        subscription_id=sold.subscription_id,
        plan_id=sold.plan_id,
        plan_version=1,
        state=InvoiceState.FINALIZED,
        total=total_of(lines, "USD"),
        lines=lines,
        period=period,
        closed_through_sequence=42,
        invoice_id=new_id("inv"),
        finalize_time=NOW + timedelta(days=31 * months),
    )


async def sell(store: Store, plan_id: str = "starter", organization_id: str = ACME) -> Subscription:
    async with store.books.open(organization_id) as book:
        return await book.subscriptions.begin(begun(plan_id, start=SOLD), by_tests(NOW))


async def finalize(store: Store, invoice: Invoice) -> Invoice:
    async with store.books.open(invoice.organization_id) as book:
        return await book.invoices.finalize(invoice, actor="tests", request_id="r")


# --- the books: subscriptions


async def test_books_that_were_never_written_in_are_empty(stocked: Store) -> None:
    async with stocked.books.read(ACME) as book:
        assert await book.subscriptions.in_force() is None
        assert await book.invoices.newest_first(before=None, count=10) == []
        assert await book.customer.stripe_id() == ""
        assert await book.entitlements.head() == START
        assert (await book.entitlements.after(START)).entries == ()


async def test_a_begun_subscription_is_in_force_as_it_was_written(stocked: Store) -> None:
    begun = await sell(stocked)
    assert begun.entitlement_version == 1
    async with stocked.books.read(ACME) as book:
        assert await book.subscriptions.in_force() == begun
        assert await book.subscriptions.get(begun.subscription_id) == begun


async def test_beginning_a_subscription_ends_the_one_in_force(stocked: Store) -> None:
    free, starter = await sell(stocked, "free"), await sell(stocked)
    assert (free.entitlement_version, starter.entitlement_version) == (1, 2)
    async with stocked.books.read(ACME) as book:
        assert await book.subscriptions.in_force() == starter
        assert (await book.subscriptions.get(free.subscription_id)).status is SubscriptionStatus.CANCELED


async def test_what_is_written_in_books_that_raise_is_undone(stocked: Store) -> None:
    before = await sell(stocked, "free")

    async def write_and_fail() -> None:
        async with stocked.books.open(ACME) as book:
            sold = await book.subscriptions.begin(begun("starter", start=SOLD), by_tests(NOW))
            await book.requests.remember("r", DIGEST, "x")
            await book.invoices.finalize(invoice_of(sold), actor="tests", request_id="r")
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await write_and_fail()
    async with stocked.books.read(ACME) as book:
        assert await book.subscriptions.in_force() == before
        assert await book.requests.answer_to("r", DIGEST) is None
        assert await book.invoices.newest_first(before=None, count=10) == []
        assert (await book.entitlements.head()).sequence == 1
    assert await stocked.due.claim(now=NOW + timedelta(days=1), count=10) == []


async def test_writers_of_one_organization_take_turns(stocked: Store) -> None:
    async def begin_if_none(_: int) -> bool:
        async with stocked.books.open(ACME) as book:
            if await book.subscriptions.in_force() is not None:
                return False
            await book.subscriptions.begin(begun("free", start=SOLD), by_tests(NOW))
            return True

    assert sorted(await asyncio.gather(*map(begin_if_none, range(6)))) == [False] * 5 + [True]


async def test_one_organization_sees_nothing_of_another(stocked: Store) -> None:
    sold = await sell(stocked)
    made = await finalize(stocked, invoice_of(sold))
    async with stocked.books.open(GLOBEX) as book:
        assert await book.subscriptions.in_force() is None
        assert await book.invoices.newest_first(before=None, count=10) == []
        with pytest.raises(NotFound):
            await book.invoices.get(made.invoice_id)
        with pytest.raises(NotFound):
            await book.subscriptions.get(sold.subscription_id)


# --- the books: requests


async def test_a_request_is_answered_as_the_first_time(stocked: Store) -> None:
    async with stocked.books.open(ACME) as book:
        assert await book.requests.answer_to("r", DIGEST) is None
        await book.requests.remember("r", DIGEST, "result")
    async with stocked.books.open(ACME) as book:
        assert await book.requests.answer_to("r", DIGEST) == "result"
        assert await book.requests.answer_to("other", DIGEST) is None


async def test_a_request_id_with_other_content_is_refused(stocked: Store) -> None:
    async with stocked.books.open(ACME) as book:
        await book.requests.remember("r", DIGEST, "result")
    async with stocked.books.open(ACME) as book:
        with pytest.raises(RequestIdReused):
            await book.requests.answer_to("r", OTHER_DIGEST)


async def test_request_ids_are_an_organizations_own(stocked: Store) -> None:
    async with stocked.books.open(ACME) as book:
        await book.requests.remember("r", DIGEST, "result")
    async with stocked.books.open(GLOBEX) as book:
        assert await book.requests.answer_to("r", OTHER_DIGEST) is None


# --- the books: entitlements


async def test_entitlement_entries_come_in_sequence_and_other_entries_move_only_the_position(stocked: Store) -> None:
    free, starter = await sell(stocked, "free"), await sell(stocked)
    await finalize(stocked, invoice_of(starter))
    async with stocked.books.read(ACME) as book:
        everything = await book.entitlements.after(START)
        assert [entry.version for entry in everything.entries] == [1, 2]
        assert [entry.plan_id for entry in everything.entries] == ["free", "starter"]
        assert everything.entries[1].anchor == starter.anchor
        assert everything.position == await book.entitlements.head()
        assert everything.position.sequence == 3
        assert (await book.entitlements.after(everything.position)).entries == ()
    assert free.entitlement_version == 1


async def test_a_position_that_is_not_in_the_log_is_told(stocked: Store) -> None:
    await sell(stocked)
    async with stocked.books.read(ACME) as book:
        with pytest.raises(LogRewound):
            await book.entitlements.after(Position(1, "another"))
        with pytest.raises(LogRewound):
            await book.entitlements.after(Position(9, "beyond"))


async def test_heads_name_every_organization_that_has_a_log(stocked: Store) -> None:
    assert not (await stocked.heads.heads(FROM_THE_START)).heads
    await sell(stocked)
    await sell(stocked, "free", GLOBEX)
    async with stocked.books.read(ACME) as book:
        acme = await book.entitlements.head()
    heads = {head.key: head.position for head in (await stocked.heads.heads(FROM_THE_START)).heads}
    assert heads.keys() == {ACME, GLOBEX}
    assert heads[ACME] == acme


# --- the books: invoices


async def test_a_finalized_invoice_is_read_as_it_was_written(stocked: Store) -> None:
    sold = await sell(stocked)
    made = await finalize(stocked, invoice_of(sold))
    assert made.number == "TB-000001"
    async with stocked.books.read(ACME) as book:
        assert await book.invoices.get(made.invoice_id) == made
        assert await book.invoices.newest_first(before=None, count=10) == [made]


@pytest.mark.parametrize(
    "name",
    ["", "inv_unknown", "inv_\0", "inv_\ud800", "i" * 100_000],
    ids=["empty", "unknown", "nul", "surrogate", "long"],
)
async def test_an_invoice_that_no_id_can_name_is_not_found(stocked: Store, name: str) -> None:
    async with stocked.books.read(ACME) as book:
        with pytest.raises(NotFound):
            await book.invoices.get(name)


async def test_amounts_beyond_64_bits_are_kept(stocked: Store) -> None:
    made = await finalize(stocked, invoice_of(await sell(stocked), total=Money(10**24, "USD")))
    async with stocked.books.read(ACME) as book:
        assert (await book.invoices.get(made.invoice_id)).total == Money(10**24, "USD")


async def test_invoices_page_newest_first_and_the_id_decides_between_those_of_one_instant(stocked: Store) -> None:
    sold = await sell(stocked)
    made = [await finalize(stocked, replace(invoice_of(sold, months=n), finalize_time=NOW)) for n in range(3)]
    made.append(await finalize(stocked, invoice_of(sold, months=4)))
    expected = [made[3].invoice_id, *sorted((each.invoice_id for each in made[:3]), reverse=True)]
    seen: list[str] = []
    before: InvoiceKey | None = None
    while True:
        async with stocked.books.read(ACME) as book:
            page = await book.invoices.newest_first(before=before, count=1)
        if not page:
            break
        assert page[0].finalize_time is not None
        before = InvoiceKey(page[0].finalize_time, page[0].invoice_id)
        seen.append(page[0].invoice_id)
    assert seen == expected


async def test_a_paid_invoice_stays_paid_and_says_so_once(stocked: Store) -> None:
    made = await finalize(stocked, invoice_of(await sell(stocked)))
    for _ in range(2):
        async with stocked.books.open(ACME) as book:
            await book.invoices.set_paid(made.invoice_id, "in_1")
    async with stocked.books.read(ACME) as book:
        paid = await book.invoices.get(made.invoice_id)
        assert paid == replace(made, state=InvoiceState.PAID, stripe_invoice_id="in_1")
        assert (await book.entitlements.head()).sequence == 3


async def test_the_first_customer_at_stripe_stays(stocked: Store) -> None:
    await sell(stocked)
    for customer in ("cus_1", "cus_2"):
        async with stocked.books.open(ACME) as book:
            await book.customer.set_stripe_id(customer)
    async with stocked.books.read(ACME) as book:
        assert await book.customer.stripe_id() == "cus_1"
        in_force = await book.subscriptions.in_force()
        assert in_force is not None
        assert in_force.stripe_customer_id == "cus_1"


# --- the list of what is to be collected


async def test_an_invoice_is_due_once_it_is_finalized_and_until_it_is_collected(stocked: Store) -> None:
    made = await finalize(stocked, invoice_of(await sell(stocked)))
    (due,) = await stocked.due.claim(now=NOW, count=10)
    assert (due.organization_id, due.invoice_id, due.attempt_count) == (ACME, made.invoice_id, 1)
    async with stocked.books.open(ACME) as book:
        await book.invoices.set_collected(made.invoice_id, "in_1")
    assert await stocked.due.claim(now=NOW + timedelta(days=1), count=10) == []
    async with stocked.books.read(ACME) as book:
        assert (await book.invoices.get(made.invoice_id)).stripe_invoice_id == "in_1"


async def test_an_invoice_over_nothing_is_not_to_be_collected(stocked: Store) -> None:
    await finalize(stocked, invoice_of(await sell(stocked), total=Money(0, "USD")))
    assert await stocked.due.claim(now=NOW + timedelta(days=1), count=10) == []


async def test_a_claim_is_the_claimers_until_the_lease_ends(stocked: Store) -> None:
    await finalize(stocked, invoice_of(await sell(stocked)))
    claims = await asyncio.gather(*(stocked.due.claim(now=NOW, count=10) for _ in range(4)))
    assert sorted(map(len, claims)) == [0, 0, 0, 1]
    assert await stocked.due.claim(now=NOW + limits.CLAIM_LEASE - timedelta(seconds=1), count=10) == []
    (again,) = await stocked.due.claim(now=NOW + limits.CLAIM_LEASE, count=10)
    assert again.attempt_count == 2


async def test_a_claim_takes_no_more_than_it_asked_for(stocked: Store) -> None:
    sold = await sell(stocked)
    for months in range(3):
        await finalize(stocked, replace(invoice_of(sold, months=months), finalize_time=NOW))
    assert len(await stocked.due.claim(now=NOW, count=2)) == 2
    assert len(await stocked.due.claim(now=NOW, count=2)) == 1


async def test_what_failed_is_due_again_at_its_time(stocked: Store) -> None:
    await finalize(stocked, invoice_of(await sell(stocked)))
    (due,) = await stocked.due.claim(now=NOW, count=10)
    await stocked.due.retry(due, at=NOW + timedelta(seconds=5), error="gone")
    assert await stocked.due.claim(now=NOW + timedelta(seconds=4), count=10) == []
    assert len(await stocked.due.claim(now=NOW + timedelta(seconds=5), count=10)) == 1


async def test_a_parked_invoice_is_not_due(stocked: Store) -> None:
    await finalize(stocked, invoice_of(await sell(stocked)))
    (due,) = await stocked.due.claim(now=NOW, count=10)
    await stocked.due.park(due, reason="the totals differ")
    assert await stocked.due.claim(now=NOW + timedelta(days=1), count=10) == []


async def test_a_claimer_whose_lease_ended_has_no_say(stocked: Store) -> None:
    await finalize(stocked, invoice_of(await sell(stocked)))
    (late,) = await stocked.due.claim(now=NOW, count=10)
    later = NOW + limits.CLAIM_LEASE
    assert len(await stocked.due.claim(now=later, count=10)) == 1
    await stocked.due.park(late, reason="late")
    await stocked.due.retry(late, at=NOW, error="late")
    assert await stocked.due.claim(now=later, count=10) == []
    assert len(await stocked.due.claim(now=later + limits.CLAIM_LEASE, count=10)) == 1


# --- Stripe's events


def event(name: str, lane: str = "cus_1") -> StripeEvent:
    return StripeEvent(event_id=name, type="invoice.paid", object_id=f"in_{name}", lane=lane, payload=b"\x00{}")


async def test_an_event_is_stored_once(store: Store) -> None:
    stored = await asyncio.gather(*(store.inbox.store(event("a"), now=NOW) for _ in range(4)))
    assert sorted(stored) == [False, False, False, True]
    (due,) = await store.inbox.claim(now=NOW, count=10)
    assert (due.event_id, due.type, due.object_id, due.attempt_count) == ("a", "invoice.paid", "in_a", 1)


async def test_events_of_one_lane_are_handled_one_after_the_other_in_order_of_arrival(store: Store) -> None:
    for name in ("b", "a", "c"):
        await store.inbox.store(event(name), now=NOW)
    await store.inbox.store(event("other", lane="cus_2"), now=NOW)
    seen: list[list[str]] = []
    for _ in range(3):
        claimed = await store.inbox.claim(now=NOW, count=10)
        assert await store.inbox.claim(now=NOW, count=10) == []
        seen.append(sorted(due.event_id for due in claimed))
        for due in claimed:
            await store.inbox.set_handled(due, now=NOW, outcome="no effect")
    assert seen == [["b", "other"], ["a"], ["c"]]
    assert await store.inbox.claim(now=NOW + timedelta(days=1), count=10) == []


async def test_an_event_that_failed_holds_its_lane_and_no_other(store: Store) -> None:
    await store.inbox.store(event("a"), now=NOW)
    await store.inbox.store(event("b"), now=NOW)
    await store.inbox.store(event("c", lane="cus_2"), now=NOW)
    first = {due.event_id: due for due in await store.inbox.claim(now=NOW, count=10)}
    assert first.keys() == {"a", "c"}
    await store.inbox.retry(first["a"], at=NOW + timedelta(seconds=5), error="gone")
    await store.inbox.set_handled(first["c"], now=NOW, outcome="no effect")
    assert await store.inbox.claim(now=NOW + timedelta(seconds=4), count=10) == []
    (again,) = await store.inbox.claim(now=NOW + timedelta(seconds=5), count=10)
    assert (again.event_id, again.attempt_count) == ("a", 2)


async def test_an_event_is_marked_handled_together_with_its_effect_or_not_at_all(stocked: Store) -> None:
    made = await finalize(stocked, invoice_of(await sell(stocked)))
    await stocked.inbox.store(event("a"), now=NOW)
    (due,) = await stocked.inbox.claim(now=NOW, count=10)

    async def mark_and_fail() -> None:
        async with stocked.books.open(ACME) as book:
            await book.invoices.set_paid(made.invoice_id, "in_1")
            assert await book.stripe_events.set_handled("a", attempt_count=1, outcome="paid")
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await mark_and_fail()
    async with stocked.books.read(ACME) as reader:
        assert (await reader.invoices.get(made.invoice_id)).state is InvoiceState.FINALIZED
    async with stocked.books.open(ACME) as book:
        await book.invoices.set_paid(made.invoice_id, "in_1")
        assert await book.stripe_events.set_handled("a", attempt_count=due.attempt_count, outcome="paid")
    assert await stocked.inbox.claim(now=NOW + timedelta(days=1), count=10) == []


async def test_a_handler_whose_claim_passed_on_cannot_mark_the_event(stocked: Store) -> None:
    await stocked.inbox.store(event("a"), now=NOW)
    (late,) = await stocked.inbox.claim(now=NOW, count=10)
    (held,) = await stocked.inbox.claim(now=NOW + limits.CLAIM_LEASE, count=10)
    async with stocked.books.open(ACME) as book:
        assert not await book.stripe_events.set_handled("a", attempt_count=late.attempt_count, outcome="late")
        assert await book.stripe_events.set_handled("a", attempt_count=held.attempt_count, outcome="paid")
        assert not await book.stripe_events.set_handled("a", attempt_count=held.attempt_count, outcome="again")


# --- the catalog


async def test_an_applied_catalog_is_sold_cheapest_first_from_version_1(store: Store) -> None:
    change = await store.plans.apply([STARTER, FREE], request_id="r1", digest=DIGEST, actor="tests")
    expected = [FREE.with_version(1), STARTER.with_version(1)]
    assert list(change.sold) == list(await store.plans.sold()) == expected
    assert {plan.plan_id for plan in change.changed} == {"free", "starter"}
    assert await store.plans.version("starter", 1) == STARTER.with_version(1)
    assert await store.plans.newest("pro") is None


async def test_every_kind_of_price_is_kept_to_the_last_decimal(stocked: Store) -> None:
    await stocked.plans.apply([FREE, EVERYTHING], request_id="r2", digest=OTHER_DIGEST, actor="tests")
    assert await stocked.plans.version("everything", 1) == EVERYTHING.with_version(1)


async def test_every_plan_that_there_ever_was_is_known_sold_or_not(stocked: Store) -> None:
    sold = {plan.plan_id: CatalogPlan(plan.with_version(1), is_sold=True) for plan in PLANS}
    assert await stocked.plans.known() == sold
    await stocked.plans.apply([FREE], request_id="r2", digest=OTHER_DIGEST, actor="tests")
    assert {name: entry.is_sold for name, entry in (await stocked.plans.known()).items()} == {
        "free": True,
        "starter": False,
        "enterprise": False,
    }


async def test_a_version_once_sold_never_changes(stocked: Store) -> None:
    dearer = priced(STARTER, Money(5900, "USD"))
    change = await stocked.plans.apply([FREE, dearer, ENTERPRISE], request_id="r2", digest=OTHER_DIGEST, actor="tests")
    assert [plan.plan_id for plan in change.changed] == ["starter"]
    assert await stocked.plans.version("starter", 1) == STARTER.with_version(1)
    assert await stocked.plans.version("starter", 2) == dearer.with_version(2)


async def test_a_plan_left_out_is_no_longer_sold_and_still_known(stocked: Store) -> None:
    change = await stocked.plans.apply([FREE], request_id="r2", digest=OTHER_DIGEST, actor="tests")
    assert change.withdrawn == ("enterprise", "starter")
    assert [plan.plan_id for plan in await stocked.plans.sold()] == ["free"]
    starter = await stocked.plans.newest("starter")
    assert starter is not None
    assert not starter.is_sold
    assert starter.plan == STARTER.with_version(1)


async def test_the_same_request_applies_nothing_again_and_names_what_it_changed(stocked: Store) -> None:
    await stocked.plans.apply([FREE], request_id="later", digest=OTHER_DIGEST, actor="tests")
    again = await stocked.plans.apply(PLANS, request_id="stock", digest=DIGEST, actor="tests")
    assert {plan.plan_id for plan in again.changed} == {"free", "starter", "enterprise"}
    assert [plan.plan_id for plan in await stocked.plans.sold()] == ["free"]
    with pytest.raises(RequestIdReused):
        await stocked.plans.apply([FREE], request_id="stock", digest=OTHER_DIGEST, actor="tests")


async def test_catalogs_applied_at_once_take_turns(store: Store) -> None:
    prices = [Money(minor, "USD") for minor in range(100, 106)]

    async def apply(price: Money) -> int:
        plans = [FREE, priced(STARTER, price)]
        change = await store.plans.apply(plans, request_id=str(price.minor), digest=DIGEST, actor="tests")
        return next(plan.version for plan in change.sold if plan.plan_id == "starter")

    versions = await asyncio.gather(*map(apply, prices))
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]
    for version, price in zip(versions, prices, strict=True):
        assert (await store.plans.version("starter", version)).default_book.base_price == price
