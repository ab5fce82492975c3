"""Taking credits whose time is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kit.money import Money
from kit.testing.clock import FakeClock
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.operators import MemoryExpiryList
from services.billing.application.expire_credits import ExpireCredits
from services.billing.domain.credits import CreditAccount, CreditGrant, CreditSource

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


async def test_credits_that_are_over_are_found_by_organization_and_taken_once() -> None:
    books, clock = MemoryBooks(), FakeClock(NOW)
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
    assert await expire.due() == []
    clock.advance(timedelta(days=1))
    assert sorted(await expire.due()) == ["acme", "globex"]
    for _ in range(2):
        await expire("acme")
    assert await expire.due() == ["globex"]
    async with books.read("acme") as reader:
        assert (await reader.credits.balances())["USD"][CreditAccount.EXPIRED] == Money(100, "USD")
