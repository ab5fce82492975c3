"""The promises of what keeps subscriptions, on memory and on Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from kit.errors import NotFound
from kit.feed import START
from kit.postgres.embedded import EmbeddedPostgres
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.adapters.memory.change_list import MemoryChangeList
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_change_list import PostgresChangeList
from services.billing.application.ports.books import Books
from services.billing.application.ports.due_changes import ChangeList, DueChange
from services.billing.domain import lifecycle, limits
from services.billing.domain.subscriptions import PaymentStanding, Subscription, SubscriptionStatus
from services.billing.domain.timeline import Phase, PlanRef, Timeline
from tests.integration.billing_database import billing_database
from tests.unit.billing.plans import ENTERPRISE, PLANS
from tests.unit.billing.timelines import begun, by_tests

NOW = datetime(2028, 2, 3, 12, 30, 15, 123_456, tzinfo=UTC)
SOLD = datetime(2028, 1, 31, 9, tzinfo=UTC)
PERIOD_END = datetime(2028, 2, 29, 9, tzinfo=UTC)
ACME, GLOBEX = "acme", "globex"
ENTERPRISE_1 = PlanRef("enterprise", 1)
GOOD = PaymentStanding.GOOD


@dataclass
class Store:
    """Books with a catalog, and the list of what is due."""

    books: Books
    due: ChangeList

    async def sell(self, timeline: Timeline, organization_id: str = ACME) -> Subscription:
        async with self.books.open(organization_id) as book:
            return await book.subscriptions.begin(timeline, by_tests(NOW))

    async def change(
        self, timeline: Timeline, *, standing: PaymentStanding = GOOD, now: datetime = NOW
    ) -> Subscription:
        async with self.books.open(ACME) as book:
            return await book.subscriptions.change(timeline, standing, by_tests(now))

    async def kept(self, subscription_id: str) -> Timeline:
        async with self.books.read(ACME) as book:
            return await book.subscriptions.timeline(subscription_id)

    async def in_force(self) -> Subscription | None:
        async with self.books.read(ACME) as book:
            return await book.subscriptions.in_force()

    async def versions(self) -> list[tuple[int, str, str]]:
        async with self.books.read(ACME) as book:
            entries = (await book.entitlements.after(START)).entries
        return [(entry.version, entry.plan_id, entry.status.value) for entry in entries]


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryBooks()
        await MemoryPlans().apply(PLANS, request_id="stock", digest=b"", actor="tests")
        yield Store(memory, MemoryChangeList(memory))
        return
    async with billing_database(postgres.url) as database:
        plans = PostgresPlans(database.tenant, database.fleet)
        await plans.apply(PLANS, request_id="stock", digest=b"", actor="tests")
        yield Store(PostgresBooks(database.tenant), PostgresChangeList(database.fleet))


def changed(timeline: Timeline, *, at: datetime = PERIOD_END, plan: PlanRef = ENTERPRISE_1) -> Timeline:
    return lifecycle.change_plan(timeline, plan, now=NOW, at=at)


# --- timelines


async def test_a_timeline_is_read_as_it_was_begun(store: Store) -> None:
    timeline = replace(begun("free", start=SOLD, trial_days=14), currency_code="KWD", opening=NOW)
    sold = await store.sell(timeline)
    assert await store.kept(sold.subscription_id) == timeline
    assert await store.in_force() == sold
    assert (sold.start, sold.anchor, sold.currency_code) == (SOLD, SOLD + timedelta(days=14), "KWD")
    assert (sold.status, sold.next_change_time) == (SubscriptionStatus.TRIALING, timeline.anchor)


async def test_a_subscription_that_is_unknown_or_anothers_has_no_timeline(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD), GLOBEX)
    for name in (sold.subscription_id, "sub_unknown", "sub\x00"):
        with pytest.raises(NotFound):
            await store.kept(name)


async def test_a_change_that_is_scheduled_is_kept_and_not_in_force(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    timeline = changed(await store.kept(sold.subscription_id))
    after = await store.change(timeline)
    assert await store.kept(sold.subscription_id) == timeline
    assert after == await store.in_force() == replace(sold, next_change_time=PERIOD_END)


async def test_a_change_at_once_is_in_force_under_a_new_version(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    after = await store.change(changed(await store.kept(sold.subscription_id), at=NOW))
    assert after == await store.in_force()
    assert (after.plan_ref, after.entitlement_version) == (ENTERPRISE_1, 2)
    assert await store.versions() == [(1, "starter", "ACTIVE"), (2, "enterprise", "ACTIVE")]


async def test_a_scheduled_change_is_in_force_once_it_is_written_after_its_instant(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    timeline = changed(await store.kept(sold.subscription_id))
    await store.change(timeline)
    after = await store.change(timeline, now=PERIOD_END)
    assert (after.plan_ref, after.next_change_time) == (ENTERPRISE_1, None)
    assert await store.kept(sold.subscription_id) == timeline
    # Version 2 of the log scheduled it, and entitles to nothing new.
    assert await store.versions() == [(1, "starter", "ACTIVE"), (3, "enterprise", "ACTIVE")]


async def test_writing_what_is_in_force_already_entitles_to_nothing_new(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    timeline = await store.kept(sold.subscription_id)
    assert await store.change(timeline) == sold
    assert await store.versions() == [(1, "starter", "ACTIVE")]


async def test_a_phase_that_is_taken_back_leaves_the_timeline_and_may_come_again(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    first = await store.kept(sold.subscription_id)
    for _ in range(2):
        await store.change(changed(first))
        await store.change(first)
    assert await store.kept(sold.subscription_id) == first
    assert await store.in_force() == sold


async def test_f31_changes_back_and_forth_in_one_instant_end_where_they_began(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    first = await store.kept(sold.subscription_id)
    await store.change(changed(first, at=NOW))
    back = await store.change(changed(changed(first, at=NOW), at=NOW, plan=PlanRef("starter", 1)))
    assert await store.kept(sold.subscription_id) == first
    assert (back.plan_id, back.entitlement_version) == ("starter", 3)
    assert [plan for _, plan, _ in await store.versions()] == ["starter", "enterprise", "starter"]


async def test_what_payment_says_is_in_force_with_the_books(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    timeline = await store.kept(sold.subscription_id)
    for standing in (PaymentStanding.PAST_DUE, PaymentStanding.SUSPENDED, PaymentStanding.GOOD):
        after = await store.change(timeline, standing=standing)
        assert after.standing is standing
        assert await store.in_force() == after
    assert [status for *_, status in await store.versions()] == ["ACTIVE", "PAST_DUE", "SUSPENDED", "ACTIVE"]


async def test_a_subscription_that_is_superseded_ends_where_the_other_starts(store: Store) -> None:
    free = await store.sell(begun("free", start=SOLD))
    starter = await store.sell(begun("starter", start=NOW))
    async with store.books.read(ACME) as book:
        assert (await book.subscriptions.get(free.subscription_id)).status is SubscriptionStatus.CANCELED
        timelines = await book.subscriptions.timelines()
    assert [each.subscription_id for each in timelines] == [free.subscription_id, starter.subscription_id]
    assert [each.end for each in timelines] == [NOW, None]


async def test_a_subscription_that_is_superseded_from_before_it_began_was_never_in_force(store: Store) -> None:
    free = await store.sell(begun("free", start=NOW))
    await store.sell(begun("starter", start=SOLD))
    timeline = await store.kept(free.subscription_id)
    assert timeline.end == timeline.start
    assert timeline.phases == (Phase(start=NOW, plan=PlanRef("free", 1)),)


async def test_what_was_scheduled_beyond_an_end_is_no_longer_in_the_timeline(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    await store.change(changed(await store.kept(sold.subscription_id)))
    await store.sell(begun("free", start=NOW))
    timeline = await store.kept(sold.subscription_id)
    assert (timeline.end, len(timeline.phases)) == (NOW, 1)
    assert await store.due.claim(now=PERIOD_END, count=10) == []


async def test_one_whose_end_has_passed_is_in_force_and_due_until_another_is_begun(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    timeline = lifecycle.cancel(await store.kept(sold.subscription_id), now=NOW, at=PERIOD_END)
    after = await store.change(timeline, standing=PaymentStanding.PAST_DUE, now=PERIOD_END + timedelta(hours=1))
    assert (after.status, after.next_change_time) == (SubscriptionStatus.PAST_DUE, PERIOD_END)
    assert await store.due.claim(now=PERIOD_END, count=10) == [DueChange(ACME, 1)]


async def test_writing_after_a_stripe_customer_is_known_keeps_it(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    async with store.books.open(ACME) as book:
        await book.customer.set_stripe_id("cus_1")
    after = await store.change(changed(await store.kept(sold.subscription_id)))
    assert after.stripe_customer_id == "cus_1"
    assert await store.in_force() == after


# --- terms of an organization's own


async def test_terms_of_an_organizations_own_are_read_as_written_and_by_nobody_else(store: Store) -> None:
    terms = replace(ENTERPRISE.with_version(1), trial_days=3, features={"sso": False})
    async with store.books.open(ACME) as book:
        await book.custom_plans.add("terms_1", terms)
    async with store.books.read(ACME) as book:
        assert await book.custom_plans.get("terms_1") == terms
        with pytest.raises(NotFound):
            await book.custom_plans.get("terms_2")
    async with store.books.read(GLOBEX) as book:
        with pytest.raises(NotFound):
            await book.custom_plans.get("terms_1")


async def test_a_subscription_on_terms_of_its_own_says_which(store: Store) -> None:
    async with store.books.open(ACME) as book:
        await book.custom_plans.add("terms_1", ENTERPRISE.with_version(1))
        timeline = lifecycle.begin(
            "sub_1",
            PlanRef("enterprise", 1, "terms_1"),
            currency_code="USD",
            start=SOLD,
            trial_days=0,
            opening=SOLD,
        )
        sold = await book.subscriptions.begin(timeline, by_tests(NOW))
    assert sold.custom_id == "terms_1"
    assert await store.in_force() == sold
    assert await store.kept("sub_1") == timeline
    async with store.books.read(ACME) as book:
        assert (await book.entitlements.after(START)).entries[0].custom_id == "terms_1"


# --- the list of what is due


async def test_a_scheduled_change_is_due_from_its_instant_on_and_claimed_once_within_the_lease(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    await store.change(changed(await store.kept(sold.subscription_id)))
    assert await store.due.claim(now=PERIOD_END - timedelta(microseconds=1), count=10) == []
    assert await store.due.claim(now=PERIOD_END, count=10) == [DueChange(ACME, 1)]
    assert await store.due.claim(now=PERIOD_END, count=10) == []
    assert await store.due.claim(now=PERIOD_END + limits.CLAIM_LEASE, count=10) == [DueChange(ACME, 2)]


async def test_what_is_longest_due_is_claimed_first_and_no_more_than_asked_for(store: Store) -> None:
    for organization_id, days in ((ACME, 20), (GLOBEX, 10)):
        await store.sell(begun("starter", start=SOLD, trial_days=days), organization_id)
    assert await store.due.claim(now=PERIOD_END, count=1) == [DueChange(GLOBEX, 1)]
    assert await store.due.claim(now=PERIOD_END, count=1) == [DueChange(ACME, 1)]


async def test_a_change_that_was_put_in_force_or_taken_back_is_due_no_more(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    first = await store.kept(sold.subscription_id)
    await store.change(changed(first))
    await store.change(first)
    assert await store.due.claim(now=PERIOD_END, count=10) == []
    await store.change(changed(first))
    await store.change(changed(first), now=PERIOD_END)
    assert await store.due.claim(now=PERIOD_END, count=10) == []


async def test_f32_a_change_that_is_undone_leaves_nothing_due(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    timeline = changed(await store.kept(sold.subscription_id))

    async def write_and_fail() -> None:
        async with store.books.open(ACME) as book:
            await book.subscriptions.change(timeline, GOOD, by_tests(NOW))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await write_and_fail()
    assert await store.due.claim(now=PERIOD_END, count=10) == []
    assert await store.in_force() == sold


async def test_what_is_tried_again_is_due_when_it_was_said_unless_it_was_scheduled_anew(store: Store) -> None:
    sold = await store.sell(begun("starter", start=SOLD))
    timeline = changed(await store.kept(sold.subscription_id))
    await store.change(timeline)
    (due,) = await store.due.claim(now=PERIOD_END, count=10)
    await store.due.retry(due, at=PERIOD_END + timedelta(seconds=5), error="no")
    assert await store.due.claim(now=PERIOD_END + timedelta(seconds=4), count=10) == []
    (due,) = await store.due.claim(now=PERIOD_END + timedelta(seconds=5), count=10)
    await store.change(timeline)
    await store.due.retry(due, at=PERIOD_END + timedelta(days=1), error="late")
    assert await store.due.claim(now=PERIOD_END, count=10) == [DueChange(ACME, 1)]
