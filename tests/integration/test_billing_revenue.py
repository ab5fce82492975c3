"""Revenue in Postgres: the lists say what the books say, at every moment."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from kit.ids import new_id
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_revenue import PostgresRevenueLists
from services.billing.application.report_revenue import ReportRevenue
from services.billing.domain import lifecycle
from services.billing.domain.invoices import Invoice, InvoiceState, Line, LineKind, total_of
from services.billing.domain.periods import Period, nth_start
from services.billing.domain.revenue import MeteredCustomers, RevenueReport
from services.billing.domain.subscriptions import PaymentStanding, SubscriptionStatus
from services.billing.domain.timeline import PlanRef
from tests.integration.billing_database import BillingDatabase, billing_database
from tests.unit.billing.plans import PLANS
from tests.unit.billing.timelines import begun, by_tests

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAYS = 40
EARNING = (SubscriptionStatus.ACTIVE, SubscriptionStatus.PAST_DUE)
SEEDS = (1, 2, 3)


@dataclass
class World:
    """A database, and what a test did to it, told by hand."""

    database: BillingDatabase
    standing: dict[str, list[tuple[datetime, str, SubscriptionStatus]]] = field(default_factory=dict)
    invoices: list[Invoice] = field(default_factory=list)

    @property
    def books(self) -> PostgresBooks:
        return PostgresBooks(self.database.tenant)

    async def report(self, as_of: datetime) -> RevenueReport:
        return await ReportRevenue(PostgresRevenueLists(self.database.fleet), FakeClock(NOW))(as_of)

    async def begin(self, organization_id: str, plan_id: str, now: datetime) -> str:
        async with self.books.open(organization_id) as book:
            sold = await book.subscriptions.begin(begun(plan_id, start=now), by_tests(now))
        self.standing.setdefault(organization_id, []).append((now, plan_id, sold.status))
        return sold.subscription_id

    async def change(self, organization_id: str, plan_id: str, standing: PaymentStanding, now: datetime) -> None:
        async with self.books.open(organization_id) as book:
            current = await book.subscriptions.in_force()
            assert current is not None
            timeline = await book.subscriptions.timeline(current.subscription_id)
            changed = lifecycle.change_plan(timeline, PlanRef(plan_id, 1), now=now, at=now)
            after = await book.subscriptions.change(changed, standing, by_tests(now))
        self.standing[organization_id].append((now, plan_id, after.status))

    async def invoice(self, organization_id: str, plan_id: str, *lines: Line, at: datetime) -> str:
        async with self.books.open(organization_id) as book:
            current = await book.subscriptions.in_force()
            assert current is not None
            draft = Invoice(
                organization_id=organization_id,
                subscription_id=current.subscription_id,
                plan_id=plan_id,
                plan_version=1,
                state=InvoiceState.FINALIZED,
                total=total_of(lines, "USD"),
                lines=lines,
                period=lines[0].period,
                closed_through_sequence=1,
                invoice_id=new_id("inv"),
                finalize_time=at,
            )
            self.invoices.append(await book.invoices.finalize(draft, actor="tests", request_id="r"))
        return draft.invoice_id

    async def void(self, organization_id: str, invoice_id: str) -> None:
        async with self.books.open(organization_id) as book:
            assert await book.payments.follow(invoice_id, InvoiceState.VOID, stripe_invoice_id="", actor="tests")
        self.invoices = [each for each in self.invoices if each.invoice_id != invoice_id]


@pytest.fixture
async def world(postgres: EmbeddedPostgres) -> AsyncIterator[World]:
    async with billing_database(postgres.url) as database:
        await PostgresPlans(database.tenant, database.fleet).apply(PLANS, request_id="r", digest=b"", actor="tests")
        yield World(database)


def usage(month: int, minutes: int, cents: int, *, kind: LineKind = LineKind.OVERAGE) -> Line:
    period = Period(nth_start(NOW, month), nth_start(NOW, month + 1))
    return Line(
        kind=kind,
        description="Agent minutes",
        amount=Money(cents, "USD"),
        period=period,
        meter="agent_minutes",
        used_quantity=minutes,
        difference_quantity=minutes,
    )


def price(plan_id: str) -> int:
    return next(plan.default_book.base_price.minor for plan in PLANS if plan.plan_id == plan_id)


def monthly_at(world: World, moment: datetime) -> int:
    total = 0
    for changes in world.standing.values():
        known = [(plan_id, status) for since, plan_id, status in changes if since <= moment]
        if known and known[-1][1] in EARNING:
            total += price(known[-1][0])
    return total


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_report_says_of_every_moment_what_the_books_said_then(world: World, seed: int) -> None:
    dice = random.Random(seed)
    plan_ids = (
        ["starter", "pro", "enterprise"] if "pro" in {plan.plan_id for plan in PLANS} else ["starter", "enterprise"]
    )
    now = NOW - timedelta(days=DAYS)
    names = [f"org{number}" for number in range(6)]
    for name in names:
        await world.begin(name, "free", now)
    for _ in range(40):
        now += timedelta(hours=dice.randrange(1, DAYS * 24 // 45))
        name, plan_id = dice.choice(names), dice.choice(plan_ids)
        current = world.standing[name][-1][1]
        if dice.random() < 0.4 or current == "free":
            await world.begin(name, dice.choice([*plan_ids, "free"]), now)
        else:
            await world.change(name, plan_id, dice.choice(list(PaymentStanding)), now)
        if dice.random() < 0.5 and world.standing[name][-1][1] != "free":
            line = usage(dice.randrange(-3, 0), dice.randrange(1, 10**6), dice.randrange(0, 10**5))
            made = await world.invoice(name, world.standing[name][-1][1], line, at=now)
            if dice.random() < 0.2:
                await world.void(name, made)
    for _ in range(15):
        as_of = NOW - timedelta(days=DAYS) * dice.random()
        report = await world.report(as_of)
        expected = [monthly_at(world, moment) for moment in (as_of, as_of - timedelta(days=7))]
        overage = sum(
            invoice.total.minor
            for invoice in world.invoices
            if invoice.finalize_time is not None and as_of - timedelta(days=30) < invoice.finalize_time <= as_of
        )
        found = [(each.monthly.minor, each.monthly_before.minor, each.overage.minor) for each in report.currencies]
        assert found == [(*expected, overage)] or (not found and not any([*expected, overage]))
        latest = Counter(
            next((plan_id, status) for since, plan_id, status in reversed(changes) if since <= as_of)
            for changes in world.standing.values()
        )
        assert latest == Counter(
            {(tier.plan_id, status): count for tier in report.tiers for status, count in tier.counts.items()}
        )


async def test_customers_are_averaged_over_their_last_invoiced_period_with_its_corrections(world: World) -> None:
    for name, plan_id in {"one": "starter", "two": "starter", "three": "enterprise"}.items():
        await world.begin(name, plan_id, NOW - timedelta(days=90))
    await world.invoice("one", "starter", usage(-3, 999, 1), at=NOW - timedelta(days=50))
    await world.invoice("one", "starter", usage(-2, 100, 1), at=NOW - timedelta(days=20))
    await world.invoice("two", "starter", usage(-2, 300, 1), at=NOW - timedelta(days=20))
    await world.invoice("three", "enterprise", usage(-2, 7, 1), at=NOW - timedelta(days=20))
    corrected = replace(usage(-2, -50, -1, kind=LineKind.ADJUSTMENT), used_quantity=50)
    await world.invoice("one", "starter", corrected, at=NOW - timedelta(days=1))
    metered = [each for tier in (await world.report(NOW)).tiers for each in tier.metered]
    of_all = MeteredCustomers(plan_id="enterprise", meter="agent_minutes", customer_count=1, quantity=7)
    assert metered == [of_all, replace(of_all, plan_id="starter", customer_count=2, quantity=350)]


async def test_a_voided_invoice_is_no_revenue(world: World) -> None:
    await world.begin("one", "starter", NOW - timedelta(days=9))
    made = await world.invoice("one", "starter", usage(-1, 10, 500), at=NOW - timedelta(days=1))
    assert (await world.report(NOW)).currencies[0].overage == Money(500, "USD")
    await world.void("one", made)
    assert (await world.report(NOW)).currencies[0].overage == Money(0, "USD")


async def test_a_list_of_revenue_shows_an_organization_its_own_rows_alone(world: World) -> None:
    for name in ("one", "two"):
        await world.begin(name, "starter", NOW)
        await world.invoice(name, "starter", usage(-1, 10, 500), at=NOW)
    async with world.database.tenant.transaction(organization_id="one") as connection:
        for table in ("revenue_standings", "revenue_usage"):
            rows = (await connection.exec_driver_sql(f"SELECT organization_id FROM billing.{table}")).all()  # noqa: S608
            assert {row.organization_id for row in rows} == {"one"}
