"""Random lives of subscriptions through billing's own books and workers: written, used, changed and closed in time."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest

from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.adapters.memory.close_list import MemoryCloseList
from services.billing.adapters.memory.organizations import MemoryOrganizations
from services.billing.adapters.memory.usage import MemoryUsage, Used
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_close_list import PostgresCloseList
from services.billing.application.close_billing_period import CloseBillingPeriod
from services.billing.application.close_due_subscriptions import CloseDueSubscriptions
from services.billing.application.find_plan import FindPlan
from services.billing.application.make_cut import MakeCut
from services.billing.application.ports.books import Book, Books
from services.billing.application.ports.catalog import Plans
from services.billing.application.ports.closes import CloseList
from services.billing.application.schedule_closes import schedule_closes
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.invoices import Invoice, total_of
from services.billing.domain.subscriptions import PaymentStanding
from services.billing.domain.timeline import Phase, PlanRef, Timeline
from tests.integration.billing_database import billing_database
from tests.properties.billing_lives import METERS, Life, Lived, life, plan_of
from tests.properties.billing_oracle import owed
from tests.unit.billing.plans import FREE
from tests.unit.billing.timelines import by_tests

LIVES = 40
SOAK_LIVES = 1_000
STEP = timedelta(days=5)


@dataclass
class Stores:
    """What a process of billing keeps things in."""

    books: Books
    plans: Plans
    due: CloseList


class Kept:
    """One life, as an organization of its own."""

    def __init__(self, one: Life, stores: Stores) -> None:
        self.one = one
        self.name = f"life-{one.seed}"
        self.lived = Lived(one)
        self.stores = stores
        self.clock = FakeClock(one.case.start)
        self.usage = MemoryUsage(*METERS.values())
        self.arriving = sorted(one.uses, key=lambda use: use.arrival)
        make_cut = MakeCut(stores.books, FindPlan(stores.books, stores.plans), self.usage, self.clock)
        in_force = SubscriptionInForce(stores.books, stores.plans, MemoryOrganizations({}), self.clock)
        self.close = CloseBillingPeriod(stores.books, in_force, make_cut, self.clock)
        self.close_due = CloseDueSubscriptions(stores.due, stores.books, make_cut, self.clock)

    async def live(self) -> list[Invoice]:
        """From the start until its last cut; every invoice of it."""
        case = self.one.case
        wanted = [
            replace(plan_of(plan, case.currency_code), plan_id=self._plan_id(plan.name))
            for plan in {phase.plan.name: phase.plan for phase in case.phases}.values()
        ]
        await self.stores.plans.apply([FREE, *wanted], request_id=self.name, digest=b"", actor="tests")
        async with self.stores.books.open(self.name) as book:
            await book.subscriptions.begin(self.timeline(case.start), by_tests(case.start))
            await schedule_closes(book)
        for moment in self._moments():
            self.clock.advance(moment - self.clock.now())
            await self._at(moment)
        async with self.stores.books.read(self.name) as reader:
            return list(await reader.invoices.newest_first(before=None, count=10_000))

    def timeline(self, now: datetime) -> Timeline:
        """As it is known, with plans of this life's own; of changes at one instant only the last is kept."""
        known = self.lived.timeline(now)
        phases = {phase.start: replace(phase, plan=self._ref(phase)) for phase in known.phases}
        return replace(known, subscription_id=f"sub-{self.name}", phases=tuple(phases.values()))

    def _moments(self) -> list[datetime]:
        one, case = self.one, self.one.case
        last = case.end + timedelta(days=40)
        steps = (case.start + STEP * number for number in range((last - case.start) // STEP + 2))
        return sorted({*one.decisions, one.end_decision, case.end, *one.extra_closes, *steps})

    async def _at(self, moment: datetime) -> None:
        while self.arriving and self.arriving[0].arrival <= moment:
            event = self.arriving.pop(0).event
            self.usage.events[self.name].append(Used(event.meter, event.quantity, event.time))
        if moment in (*self.one.decisions, self.one.end_decision, self.one.case.end) and moment > self.one.case.start:
            async with self.stores.books.open(self.name) as book:
                await self._change(book, moment)
        while await self.close_due():
            pass
        for number, extra in enumerate(self.one.extra_closes):
            if extra == moment:
                subscription_id = f"sub-{self.name}"
                await self.close(
                    self.name, subscription_id=subscription_id, request_id=f"close-{number}", actor="tests"
                )

    async def _change(self, book: Book, now: datetime) -> None:
        timeline = self.timeline(now)
        if timeline.end is not None and timeline.end <= now:
            free = Phase(start=timeline.end, plan=PlanRef("free", 1))
            ended = await book.subscriptions.timeline(timeline.subscription_id)
            if ended.end == timeline.end and timeline.end < now:
                return
            follower = replace(
                timeline,
                subscription_id=f"free-{self.name}",
                start=timeline.end,
                anchor=timeline.end,
                end=None,
                phases=(free,),
                opening=timeline.end,
            )
            await book.subscriptions.begin(follower, by_tests(now))
        else:
            await book.subscriptions.change(timeline, PaymentStanding.GOOD, by_tests(now))
        await schedule_closes(book)

    def _ref(self, phase: Phase) -> PlanRef:
        return PlanRef(self._plan_id(phase.plan.plan_id), 1)

    def _plan_id(self, name: str) -> str:
        return f"{self.name}_{name}".replace("-", "_")


async def require_exact(seeds: Iterable[int], stores: Stores) -> None:
    """Every life costs what the oracle says, and each invoice is the sum of its lines."""
    for seed in seeds:
        one = life(seed)
        if one.case.discount is not None:
            # Coupons are the operator's: what they take off is proved without books.
            one = replace(one, case=replace(one.case, discount=None))
        invoices = await Kept(one, stores).live()
        assert sum(invoice.subtotal.minor for invoice in invoices) == owed(one.case), seed
        for invoice in invoices:
            assert total_of(invoice.lines, one.case.currency_code) == invoice.total, seed
            assert invoice.total.minor >= 0, seed


async def test_lives_that_are_kept_in_books_cost_what_the_oracle_says() -> None:
    books = MemoryBooks()
    for seed in range(LIVES):
        await require_exact([seed], Stores(books, MemoryPlans(), MemoryCloseList(books)))
        books = MemoryBooks()


@pytest.mark.soak
async def test_a_thousand_random_lives_in_postgres_cost_what_the_oracle_says(postgres: EmbeddedPostgres) -> None:
    first = secrets.randbelow(2**48)
    print(f"seeds from {first} to {first + SOAK_LIVES - 1}")  # noqa: T201 - whoever runs it needs them
    async with billing_database(postgres.url) as database:
        stores = Stores(
            PostgresBooks(database.tenant),
            PostgresPlans(database.tenant, database.fleet),
            PostgresCloseList(database.fleet),
        )
        await require_exact(range(first, first + SOAK_LIVES), stores)
