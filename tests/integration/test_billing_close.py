"""Closing on a real database, from several places at once; and what its roles cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import errors

from kit.errors import DependencyUnavailable, RequestIdReused
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.organizations import MemoryOrganizations
from services.billing.adapters.memory.usage import MemoryUsage
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.application.close_billing_period import CloseBillingPeriod
from services.billing.application.create_subscription import CreateSubscription
from services.billing.application.find_plan import FindPlan
from services.billing.application.find_wanted_plan import FindWantedPlan
from services.billing.application.make_cut import MakeCut
from services.billing.application.ports.usage import UsageTotals
from services.billing.application.subscription_in_force import SubscriptionInForce
from services.billing.domain.periods import Period
from tests.integration.billing_database import BillingDatabase, billing_database
from tests.unit.billing.plans import METERS, MINUTE, PLANS

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
ORGANIZATIONS = [f"org-{number}" for number in range(12)]


class FailingUsage(MemoryUsage):
    """Usage that cannot be asked about some organizations."""

    def __init__(self) -> None:
        super().__init__(*METERS.values())
        self.down_for: set[str] = set()

    async def totals(
        self, organization_id: str, period: Period, meters: Collection[str], *, as_of_sequence: int | None = None
    ) -> UsageTotals:
        await asyncio.sleep(0)
        if organization_id in self.down_for:
            raise DependencyUnavailable(dependency="metering")
        return await super().totals(organization_id, period, meters, as_of_sequence=as_of_sequence)


@dataclass
class Worker:
    """One process of billing: a pool and use cases of its own."""

    create: CreateSubscription
    close: CloseBillingPeriod
    in_force: SubscriptionInForce


@dataclass
class Scene:
    database: BillingDatabase
    usage: FailingUsage
    clock: FakeClock
    workers: list[Worker]

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """As the owner, past every policy."""
        with psycopg.connect(self.database.owner_url) as owner:
            return owner.execute(query.encode()).fetchall()


@pytest.fixture
async def scene(postgres: EmbeddedPostgres) -> AsyncIterator[Scene]:
    clock, usage = FakeClock(NOW), FailingUsage()
    organizations = MemoryOrganizations(dict.fromkeys(ORGANIZATIONS, NOW - timedelta(days=60)))
    async with billing_database(postgres.url) as database:
        pools = [Database(database.tenant_url) for _ in range(3)]

        def worker(pool: Database) -> Worker:
            books, plans = PostgresBooks(pool), PostgresPlans(pool, database.fleet)
            in_force = SubscriptionInForce(books, plans, organizations, clock)
            make_cut = MakeCut(books, FindPlan(books, plans), usage, clock)
            close = CloseBillingPeriod(books, in_force, make_cut, clock)
            return Worker(CreateSubscription(books, FindWantedPlan(plans, usage), in_force, clock), close, in_force)

        catalog = PostgresPlans(database.tenant, database.fleet)
        await catalog.apply(PLANS, request_id="stock", digest=b"", actor="tests")
        yield Scene(database, usage, clock, [worker(pool) for pool in pools])
        for pool in pools:
            await pool.close()


async def sell(scene: Scene, organization_id: str) -> None:
    await scene.workers[0].create(
        organization_id, "starter", start_time=None, request_id=f"sell-{organization_id}", actor="tests"
    )


async def test_a_period_closed_from_many_places_at_once_makes_one_invoice(scene: Scene) -> None:
    await sell(scene, "org-0")
    scene.usage.used["org-0"] = UsageTotals({"agent_minutes": 1_100 * MINUTE}, 7)
    closes = [
        worker.close("org-0", request_id=f"request-{number}", actor="tests")
        for number in range(3)
        for worker in scene.workers
    ]
    made = await asyncio.gather(*closes)
    assert len({invoice.invoice_id for invoice in made if invoice}) == 1
    assert {str(invoice.total) for invoice in made if invoice} == {"54.00"}
    assert scene.rows("SELECT number FROM billing.invoices") == [("TB-000001",)]
    assert scene.rows("SELECT count(*) FROM billing.due_invoices") == [(1,)]
    assert scene.rows("SELECT last_number FROM billing.invoice_numbers") == [(1,)]


async def test_numbers_have_no_gap_though_some_closes_fail_and_all_race(scene: Scene) -> None:
    for organization_id in ORGANIZATIONS:
        await sell(scene, organization_id)
    scene.usage.down_for = set(ORGANIZATIONS[::3])
    for _ in range(2):
        closes = [
            worker.close(organization_id, request_id="close", actor="tests")
            for organization_id in ORGANIZATIONS
            for worker in scene.workers
        ]
        outcomes = await asyncio.gather(*closes, return_exceptions=True)
        assert all(isinstance(each, DependencyUnavailable) for each in outcomes if isinstance(each, BaseException))
        scene.usage.down_for = set()
    numbers = sorted(str(row[0]) for row in scene.rows("SELECT number FROM billing.invoices"))
    assert numbers == [f"TB-{number:06d}" for number in range(1, len(ORGANIZATIONS) + 1)]


async def test_every_invoice_is_the_sum_of_its_lines_in_the_database_too(scene: Scene) -> None:
    for number, organization_id in enumerate(ORGANIZATIONS):
        await sell(scene, organization_id)
        scene.usage.used[organization_id] = UsageTotals({"agent_minutes": 999 * MINUTE + number * 33_333}, number)
        await scene.workers[number % 3].close(organization_id, request_id="close", actor="tests")
    differing = scene.rows(
        "SELECT invoice_id FROM billing.invoices JOIN billing.invoice_lines USING (organization_id, invoice_id)"
        " GROUP BY organization_id, invoice_id, total_minor HAVING total_minor <> sum(amount_minor)"
    )
    assert differing == []
    assert scene.rows("SELECT count(*) FROM billing.invoice_lines") == [(2 * len(ORGANIZATIONS),)]


async def test_the_first_asked_about_at_once_everywhere_is_put_on_free_once(scene: Scene) -> None:
    standings = await asyncio.gather(*(worker.in_force("org-0") for worker in scene.workers for _ in range(3)))
    assert len({standing.subscription.subscription_id for standing in standings}) == 1
    assert scene.rows("SELECT sequence, kind FROM billing.changes") == [(1, "entitlement")]


async def test_the_history_of_an_organization_begins_with_free_whoever_asked_first(scene: Scene) -> None:
    await sell(scene, "org-0")
    await scene.workers[0].in_force("org-1")
    await sell(scene, "org-1")
    rows = scene.rows(
        "SELECT sequence, body->>'plan_id', body->>'actor' FROM billing.changes ORDER BY organization_id, sequence"
    )
    assert rows == [(1, "free", "service:billing"), (2, "starter", "tests")] * 2


async def test_a_sale_repeated_at_once_everywhere_is_one_subscription(scene: Scene) -> None:
    sales = [
        worker.create("org-0", "starter", start_time=None, request_id="r", actor="tests")
        for worker in scene.workers
        for _ in range(3)
    ]
    standings = await asyncio.gather(*sales)
    assert len({standing.subscription.subscription_id for standing in standings}) == 1
    with pytest.raises(RequestIdReused):
        await scene.workers[0].create("org-0", "free", start_time=None, request_id="r", actor="tests")


async def test_an_invoice_and_its_finalizing_are_one_transaction_with_the_audit_entry(scene: Scene) -> None:
    await sell(scene, "org-0")
    made = await scene.workers[0].close("org-0", request_id="close", actor="admin:admin")
    assert made is not None
    (body,) = scene.rows("SELECT body FROM billing.changes WHERE kind = 'invoice_finalized'")[0]
    assert body == {
        "invoice_id": made.invoice_id,
        "total": "49.00",
        "currency_code": "USD",
        "closed_through_sequence": 0,
        "cut": "EARLY",
        "actor": "admin:admin",
        "request_id": "close",
    }


TENANT_TABLES = (
    "subscriptions",
    "subscription_phases",
    "requests",
    "stripe_customers",
    "invoices",
    "invoice_lines",
    "due_invoices",
    "closes",
    "due_closes",
    "changes",
    "change_heads",
)


async def test_the_tenant_role_sees_its_own_rows_and_nobody_elses(scene: Scene) -> None:
    for organization_id in ("org-0", "org-1"):
        await sell(scene, organization_id)
        await scene.workers[0].close(organization_id, request_id="close", actor="tests")
        async with PostgresBooks(scene.database.tenant).open(organization_id) as book:
            await book.customer.set_stripe_id("cus_1")
    with psycopg.connect(scene.database.tenant_url) as tenant:
        for table in TENANT_TABLES:
            query = f"SELECT DISTINCT organization_id FROM billing.{table}".encode()  # noqa: S608 - names from above
            tenant.execute("SET LOCAL tollbook.organization_id = 'org-0'")
            assert tenant.execute(query).fetchall() == [("org-0",)]
            tenant.rollback()
            assert tenant.execute(query).fetchall() == []
            tenant.rollback()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing.invoices SET total_minor = 0",
        "UPDATE billing.invoices SET number = 'TB-000000'",
        "DELETE FROM billing.invoices",
        "UPDATE billing.invoice_lines SET amount_minor = 0",
        "DELETE FROM billing.invoice_lines",
        "UPDATE billing.changes SET body = '{}'",
        "DELETE FROM billing.changes",
        "UPDATE billing.plan_versions SET content = '{}'",
        "INSERT INTO billing.plan_versions VALUES ('gold', 1, '{}')",
        "SELECT payload FROM billing.stripe_events",
        "UPDATE billing.subscriptions SET plan_id = 'enterprise'",
        "UPDATE billing.subscriptions SET anchor = now()",
        "UPDATE billing.subscription_phases SET start_time = now()",
        "UPDATE billing.subscription_phases SET plan_id = 'enterprise'",
        "DELETE FROM billing.subscription_phases",
        "UPDATE billing.custom_plans SET content = '{}'",
        "DELETE FROM billing.custom_plans",
        "INSERT INTO billing.invoice_numbers VALUES ('other', 'XX', 0)",
        "UPDATE billing.closes SET through_sequence = 0",
        "DELETE FROM billing.closes",
    ],
)
async def test_the_tenant_role_cannot_rewrite_what_is_final(scene: Scene, statement: str) -> None:
    with (
        psycopg.connect(scene.database.tenant_url) as tenant,
        pytest.raises(errors.InsufficientPrivilege, match="permission denied"),
    ):
        tenant.execute(statement.encode())


@pytest.mark.parametrize(
    "table",
    [
        "subscriptions",
        "subscription_phases",
        "custom_plans",
        "invoices",
        "invoice_lines",
        "closes",
        "changes",
    ],
)
async def test_the_fleet_role_reads_no_organizations_books(scene: Scene, table: str) -> None:
    with (
        psycopg.connect(scene.database.fleet_url) as fleet,
        pytest.raises(errors.InsufficientPrivilege, match="permission denied"),
    ):
        fleet.execute(f"SELECT 1 FROM billing.{table}".encode())  # noqa: S608 - names from above


async def test_the_fleet_role_sees_of_requests_the_keys_alone_and_only_of_old_ones(scene: Scene) -> None:
    await sell(scene, "org-0")
    with psycopg.connect(scene.database.owner_url, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO billing.requests SELECT 'org-0', age || ' days', '', '', now() - make_interval(days => age)"
            " FROM generate_series(80, 100, 20) AS age"
        )
    with psycopg.connect(scene.database.fleet_url) as fleet:
        kept = fleet.execute("SELECT request_id FROM billing.requests").fetchall()
        assert kept == [("100 days",)]
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
            fleet.execute("SELECT digest FROM billing.requests")


async def test_a_tenant_cannot_write_another_organizations_rows(scene: Scene) -> None:
    await sell(scene, "org-0")
    with psycopg.connect(scene.database.tenant_url) as tenant:
        tenant.execute("SET LOCAL tollbook.organization_id = 'org-0'")
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            tenant.execute("INSERT INTO billing.requests VALUES ('org-1', 'r', '', 'x')")
