"""Billing's jobs, on a real Postgres, done by several processes' workers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from kit.clock import SystemClock
from kit.errors import DependencyUnavailable
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from services.billing.adapters.jinja_letters.letters import JinjaLetters
from services.billing.adapters.memory.postman import MemoryPostman
from services.billing.adapters.postgres_books.books import PostgresBook, PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_leftovers import PostgresLeftovers
from services.billing.adapters.postgres_legal_entities import PostgresLegalEntities
from services.billing.adapters.postgres_mail_list import PostgresMailList
from services.billing.adapters.postgres_money_lists import PostgresExpiryList
from services.billing.application.expire_credits import ExpireCredits
from services.billing.application.find_plan import FindPlan
from services.billing.application.let_go import LetGo
from services.billing.application.send_mails import SendMails
from services.billing.domain.credits import CreditAccount, CreditGrant, CreditSource
from services.billing.workers.jobs import Duties, keep_working
from tests.integration.billing_database import BillingDatabase, billing_database
from tests.unit.billing.test_send_mails import Printer

PATIENCE_SECONDS = 60.0
ORGANIZATIONS = ("acme", "globex", "initech")


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[BillingDatabase]:
    async with billing_database(postgres.url) as fresh:
        yield fresh


class FragileBooks(PostgresBooks):
    """Books of which the first opening of each organization's fails."""

    def __init__(self, database: BillingDatabase) -> None:
        super().__init__(database.tenant)
        self.failed: set[str] = set()

    @asynccontextmanager
    async def open(self, organization_id: str) -> AsyncIterator[PostgresBook]:
        if organization_id not in self.failed:
            self.failed.add(organization_id)
            raise DependencyUnavailable(dependency="Postgres")
        async with super().open(organization_id) as book:
            yield book


async def compare_nothing() -> None:
    """Its time comes once a day."""


def duties(database: BillingDatabase, books: PostgresBooks) -> Duties:
    clock = SystemClock()
    return Duties(
        send_mails=SendMails(
            due=PostgresMailList(database.fleet),
            books=books,
            find_plan=FindPlan(books, PostgresPlans(database.tenant, database.fleet)),
            entities=PostgresLegalEntities(database.tenant, database.fleet),
            papers=Printer(),
            letters=JinjaLetters(),
            postman=MemoryPostman(),
            reply_to="",
            clock=clock,
        ),
        expire_credits=ExpireCredits(PostgresExpiryList(database.fleet), books, clock),
        let_go=LetGo(PostgresLeftovers(database.fleet), clock),
        reconcile=compare_nothing,
    )


@asynccontextmanager
async def working(database: BillingDatabase, duty: Duties) -> AsyncIterator[None]:
    worker = asyncio.create_task(keep_working(database.fleet_url, duty))
    try:
        yield
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def expired(database: BillingDatabase, organization_id: str) -> int:
    async with PostgresBooks(database.tenant).read(organization_id) as book:
        return (await book.credits.balances())["USD"][CreditAccount.EXPIRED].minor


async def test_credits_that_are_over_are_taken_once_though_it_fails_first_and_two_processes_look(
    database: BillingDatabase,
) -> None:
    now = datetime.now(UTC)
    for organization_id in ORGANIZATIONS:
        grant = CreditGrant(
            grant_id=f"crg_{organization_id}",
            amount=Money(100, "USD"),
            priority=50,
            grant_time=now - timedelta(days=2),
            expire_time=now - timedelta(days=1),
            source=CreditSource.OPERATOR,
        )
        async with PostgresBooks(database.tenant).open(organization_id) as book:
            await book.credits.grant(grant, actor="tests", request_id="r")
    books = FragileBooks(database)
    async with (
        working(database, duties(database, books)),
        working(database, duties(database, books)),
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        while [await expired(database, each) for each in ORGANIZATIONS] != [100] * len(ORGANIZATIONS):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert books.failed == set(ORGANIZATIONS)
