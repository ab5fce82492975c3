"""The promises of billing's ports of reconciling, on memory and on Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from kit.errors import NotFound, RequestIdReused
from kit.money import Money
from kit.postgres.embedded import EmbeddedPostgres
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.reports import MemoryReports
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_reports import PostgresReports
from services.billing.application.ports.books import Books
from services.billing.application.ports.reconciliation import Found, Report, Reports
from services.billing.domain.reconciliation import Difference, DriftKind, Repair
from tests.integration.billing_database import billing_database

NOW = datetime(2026, 11, 25, 12, 30, 15, 123_456, tzinfo=UTC)
ACME, GLOBEX = "acme", "globex"
DIFFERENCE = Difference(
    kind=DriftKind.USAGE_NOT_INVOICED,
    organization_id=ACME,
    object_id="sub_1",
    stripe_id="",
    ours="not invoiced",
    theirs="1 lines",
    our_amount=None,
    their_amount=Money(1_234, "BHD"),
    repair=Repair.CLOSE_AGAIN,
    since=NOW - timedelta(days=3),
    period_start=NOW - timedelta(days=40),
)
OTHER = replace(DIFFERENCE, kind=DriftKind.INVOICE_EXTRA, stripe_id="in_1", period_start=None)
REPORT = Report(
    report_id="rec_1",
    actor="tests",
    begin_time=NOW,
    end_time=NOW + timedelta(seconds=3),
    organization_count=2,
    difference_count=1,
    pending_count=1,
    failed={GLOBEX: "Stripe said: no"},
    organization_ids=(ACME,),
)


@dataclass
class Store:
    """The ports over one store of their own."""

    books: Books
    reports: Reports


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryBooks()
        yield Store(memory, MemoryReports(memory))
        return
    async with billing_database(postgres.url) as database:
        yield Store(PostgresBooks(database.tenant), PostgresReports(database.fleet))


async def test_what_a_report_found_is_read_back_as_it_was_and_by_its_own_organization_alone(store: Store) -> None:
    found = [Found(difference=DIFFERENCE, is_pending=False), Found(difference=OTHER, is_pending=True)]
    async with store.books.open(ACME) as book:
        await book.reconciliation.keep("rec_1", found)
        await book.reconciliation.keep("rec_2", [])
    by_id = sorted(found, key=lambda each: each.difference.difference_id)
    async with store.books.read(ACME) as reader:
        assert await reader.reconciliation.of_report("rec_1") == by_id
        assert await reader.reconciliation.of_report("rec_2") == []
    async with store.books.read(GLOBEX) as reader:
        assert await reader.reconciliation.of_report("rec_1") == []


async def test_an_outcome_is_of_one_difference_of_one_report(store: Store) -> None:
    found = [Found(difference=DIFFERENCE, is_pending=False), Found(difference=OTHER, is_pending=False)]
    async with store.books.open(ACME) as book:
        for report_id in ("rec_1", "rec_2"):
            await book.reconciliation.keep(report_id, found)
        await book.reconciliation.set_outcome("rec_1", DIFFERENCE.difference_id, "repaired")
    async with store.books.read(ACME) as reader:
        told = {
            (report_id, each.difference.kind): each.outcome
            for report_id in ("rec_1", "rec_2")
            for each in await reader.reconciliation.of_report(report_id)
        }
    assert [key for key, outcome in told.items() if outcome] == [("rec_1", DriftKind.USAGE_NOT_INVOICED)]


async def test_what_is_accepted_is_kept_once_and_by_its_own_organization_alone(store: Store) -> None:
    for _ in range(2):
        async with store.books.open(ACME) as book:
            await book.reconciliation.accept(DIFFERENCE, actor="tests")
    async with store.books.read(ACME) as reader:
        assert set(await reader.reconciliation.accepted()) == {DIFFERENCE.difference_id}
    async with store.books.read(GLOBEX) as reader:
        assert set(await reader.reconciliation.accepted()) == set()


async def test_reports_are_kept_as_they_were_and_go_newest_first_by_pages(store: Store) -> None:
    later = replace(REPORT, report_id="rec_2", begin_time=NOW + timedelta(days=1), failed={}, organization_ids=())
    same_time = replace(REPORT, report_id="rec_0")
    for report in (REPORT, later, same_time):
        await store.reports.add(report)
    assert await store.reports.get("rec_1") == REPORT
    assert await store.reports.newest_first(before=None, count=2) == [later, REPORT]
    assert await store.reports.newest_first(before=(NOW, "rec_1"), count=2) == [same_time]
    for report_id in ("rec_9", "rec_\0"):
        with pytest.raises(NotFound):
            await store.reports.get(report_id)


async def test_repairs_are_begun_once_a_request(store: Store) -> None:
    async def begin(digest: bytes) -> bool:
        return await store.reports.begin_repairs("r-1", digest, report_id="rec_1", actor="tests")

    assert [await begin(b"one"), await begin(b"one")] == [True, False]
    with pytest.raises(RequestIdReused):
        await begin(b"other")


async def test_whom_to_compare_are_those_that_have_or_had_a_customer(store: Store) -> None:
    async with store.books.open(ACME) as book:
        await book.customer.set_stripe_id("cus_1")
    async with store.books.open(GLOBEX) as book:
        await book.customer.set_stripe_id("cus_2")
        await book.customer.forget_stripe_id("cus_2")
    assert list(await store.reports.organizations()) == [ACME, GLOBEX]
