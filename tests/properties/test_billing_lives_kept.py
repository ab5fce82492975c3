"""Random lives of subscriptions through billing's own books and workers: written, used, changed and closed in time."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace

import pytest

from kit.postgres.embedded import EmbeddedPostgres
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.catalog import MemoryPlans
from services.billing.adapters.memory.close_list import MemoryCloseList
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_catalog import PostgresPlans
from services.billing.adapters.postgres_close_list import PostgresCloseList
from services.billing.domain.invoices import total_of
from tests.integration.billing_database import billing_database
from tests.properties.billing_lives import life
from tests.properties.billing_oracle import owed
from tests.properties.kept_lives import Kept, Stores

LIVES = 40
SOAK_LIVES = 1_000


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
