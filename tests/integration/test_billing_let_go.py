"""What the database itself lets nobody delete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from kit.clock import SystemClock
from kit.postgres.embedded import EmbeddedPostgres
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_leftovers import PostgresLeftovers
from services.billing.application.let_go import LetGo
from services.billing.domain.leftovers import KEPT, Leftover
from tests.contracts.test_billing_mails import count_in_postgres, keep_in_postgres
from tests.integration.billing_database import BillingDatabase, billing_database

DAY = timedelta(days=1)


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[BillingDatabase]:
    async with billing_database(postgres.url) as fresh:
        yield fresh


@pytest.mark.parametrize("kind", [Leftover.REQUESTS, Leftover.MAILS])
async def test_no_request_and_no_mail_is_let_go_of_that_is_younger_than_ninety_days_whoever_asks(
    database: BillingDatabase, kind: Leftover
) -> None:
    now = datetime.now(UTC)
    for days in (89, 91):
        await keep_in_postgres(database, kind, now - days * DAY)
    assert await PostgresLeftovers(database.fleet).drop(kind, before=now + DAY, count=9) == 1
    assert await count_in_postgres(database, kind) == 1


async def test_who_lets_go_of_a_request_cannot_read_what_it_was(database: BillingDatabase) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with database.fleet.transaction() as connection:
            await connection.execute(text("SELECT result_id FROM billing.requests"))


async def test_what_is_over_goes_and_a_retry_of_yesterday_is_still_told_what_was_done(
    database: BillingDatabase,
) -> None:
    now = datetime.now(UTC)
    for kind, kept in KEPT.items():
        for age in (kept - DAY, kept + DAY):
            await keep_in_postgres(database, kind, now - age)
    async with PostgresBooks(database.tenant).open("acme") as book:
        await book.requests.remember("yesterday", b"digest", "sub_1")
    await LetGo(PostgresLeftovers(database.fleet), SystemClock())()
    assert [await count_in_postgres(database, kind) for kind in KEPT] == [2, 1, 1]
    async with PostgresBooks(database.tenant).open("acme") as book:
        assert await book.requests.answer_to("yesterday", b"digest") == "sub_1"
