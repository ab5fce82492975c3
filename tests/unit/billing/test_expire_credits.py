"""Taking credits whose time is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from kit.errors import DependencyUnavailable
from kit.money import Money
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.books import MemoryBook, MemoryBooks
from services.billing.adapters.memory.operators import MemoryExpiryList
from services.billing.application.expire_credits import ExpireCredits
from services.billing.domain.credits import CreditAccount, CreditGrant, CreditSource

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


class BooksThatMayBeTorn(MemoryBooks):
    """Books of which one organization's cannot be opened."""

    torn = ""

    @asynccontextmanager
    async def open(self, organization_id: str) -> AsyncIterator[MemoryBook]:
        if organization_id == self.torn:
            raise DependencyUnavailable(dependency="Postgres")
        async with super().open(organization_id) as book:
            yield book


async def test_one_organization_that_fails_keeps_no_other_waiting_and_is_tried_again() -> None:
    books, clock = BooksThatMayBeTorn(), FakeClock(NOW)
    for organization_id in ("acme", "globex"):
        grant = CreditGrant(
            grant_id=f"crg_{organization_id}",
            amount=Money(100, "USD"),
            priority=50,
            grant_time=NOW,
            expire_time=NOW + timedelta(days=1),
            source=CreditSource.OPERATOR,
        )
        async with books.open(organization_id) as book:
            await book.credits.grant(grant, actor="tests", request_id="r")
    expire = ExpireCredits(MemoryExpiryList(books), books, clock)
    assert await expire() == 0
    clock.advance(timedelta(days=1))
    books.torn = "acme"
    assert await expire() == 1
    assert await expire() == 0
    books.torn = ""
    assert await expire() == 1
    for organization_id in ("acme", "globex"):
        async with books.read(organization_id) as reader:
            assert (await reader.credits.balances())["USD"][CreditAccount.EXPIRED] == Money(100, "USD")
