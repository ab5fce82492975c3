"""The promises of billing's ports of the list of mails and of what is let go of, on memory and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from kit.errors import NotFound
from kit.postgres.embedded import EmbeddedPostgres
from services.billing.adapters.memory.books import MemoryBooks
from services.billing.adapters.memory.leftovers import MemoryLeftovers
from services.billing.adapters.memory.mail_list import MemoryMailList
from services.billing.adapters.postgres_books.books import PostgresBooks
from services.billing.adapters.postgres_leftovers import PostgresLeftovers
from services.billing.adapters.postgres_mail_list import PostgresMailList
from services.billing.application.ports.books import Books
from services.billing.application.ports.leftovers import Leftovers
from services.billing.application.ports.mails import Mail, MailList
from services.billing.domain import limits
from services.billing.domain.leftovers import Leftover
from services.billing.domain.mails import MailKind, MailOutcome
from tests.integration.billing_database import BillingDatabase, billing_database

NOW = datetime(2025, 11, 25, 12, 30, 15, 123_456, tzinfo=UTC)
DAY = timedelta(days=1)
ACME, GLOBEX = "acme", "globex"


@dataclass
class Store:
    """The ports over one store of their own."""

    books: Books
    mails: MailList


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[Store]:
    if request.param == "memory":
        memory = MemoryBooks()
        yield Store(memory, MemoryMailList(memory))
        return
    async with billing_database(postgres.url) as database:
        yield Store(PostgresBooks(database.tenant), PostgresMailList(database.fleet))


async def write(store: Store, reason: str = "inv_1", *, send_time: datetime | None = None) -> Mail:
    async with store.books.open(ACME) as book:
        mail = Mail(kind=MailKind.PAYMENT_RECEIVED, reason=reason, data={"number": "TB-000001"})
        await book.mails.add(mail, now=NOW, send_time=send_time)
        return next(each for each in await book.mails.all() if each.reason == reason)


async def test_a_mail_is_due_at_once_and_claimed_by_one_at_a_time_and_again_after_the_lease(store: Store) -> None:
    mail = await write(store)
    claims = await asyncio.gather(*(store.mails.claim(now=NOW, count=10) for _ in range(5)))
    (first,) = [due for claim in claims for due in claim]
    assert (first.organization_id, first.mail_id, first.attempt_count) == (ACME, mail.mail_id, 1)
    (again,) = await store.mails.claim(now=NOW + limits.CLAIM_LEASE, count=10)
    assert again.attempt_count == 2


async def test_a_mail_for_later_is_due_then_and_one_for_a_time_that_has_passed_at_once(store: Store) -> None:
    later = await write(store, "later", send_time=NOW + DAY)
    late = await write(store, "late", send_time=NOW - DAY)
    assert [due.mail_id for due in await store.mails.claim(now=NOW, count=10)] == [late.mail_id]
    due = await store.mails.claim(now=NOW + DAY, count=10)
    assert [each.mail_id for each in due] == [late.mail_id, later.mail_id]


async def test_a_closed_mail_keeps_its_first_outcome_and_is_due_no_more(store: Store) -> None:
    mail = await write(store)
    assert mail.outcome is None
    for outcome in (MailOutcome.SENT, MailOutcome.SKIPPED):
        async with store.books.open(ACME) as book:
            await book.mails.close(mail.mail_id, outcome, now=NOW)
    async with store.books.read(ACME) as reader:
        assert (await reader.mails.get(mail.mail_id)).outcome is MailOutcome.SENT
    assert await store.mails.claim(now=NOW + DAY, count=10) == []
    async with store.books.open(ACME) as book:
        assert not await book.mails.add(mail, now=NOW + DAY)


async def test_a_retry_and_a_parking_count_of_the_last_claim_only(store: Store) -> None:
    await write(store)
    (first,) = await store.mails.claim(now=NOW, count=10)
    (second,) = await store.mails.claim(now=NOW + limits.CLAIM_LEASE, count=10)
    await store.mails.park(first, reason="of one who lost the claim")
    await store.mails.retry(first, at=NOW, error="the same")
    assert await store.mails.claim(now=NOW + limits.CLAIM_LEASE, count=10) == []
    await store.mails.retry(second, at=NOW + DAY, error="later")
    (third,) = await store.mails.claim(now=NOW + DAY, count=10)
    await store.mails.park(third, reason="550 nobody here")
    assert await store.mails.claim(now=NOW + 9 * DAY, count=10) == []


async def test_no_other_organization_reads_or_closes_a_mail(store: Store) -> None:
    mail = await write(store)
    async with store.books.read(GLOBEX) as reader:
        with pytest.raises(NotFound):
            await reader.mails.get(mail.mail_id)


# --- what is let go of

Keep = Callable[[Leftover, datetime | None], Awaitable[None]]


@dataclass
class Cellar:
    """What is kept, and a way to put something there."""

    leftovers: Leftovers
    keep: Keep
    count: Callable[[Leftover], Awaitable[int]]


@pytest.fixture(params=["memory", "postgres"])
async def cellar(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[Cellar]:
    if request.param == "memory":
        memory = MemoryLeftovers()

        async def put(kind: Leftover, time: datetime | None) -> None:
            memory.kept[kind].append(time)

        async def left(kind: Leftover) -> int:
            return len(memory.kept[kind])

        yield Cellar(memory, put, left)
        return
    async with billing_database(postgres.url) as database:
        yield Cellar(
            PostgresLeftovers(database.fleet),
            lambda kind, time: keep_in_postgres(database, kind, time),
            lambda kind: count_in_postgres(database, kind),
        )


async def keep_in_postgres(database: BillingDatabase, kind: Leftover, time: datetime | None) -> None:
    async with await psycopg.AsyncConnection.connect(database.owner_url, autocommit=True) as owner:
        match kind:
            case Leftover.REQUESTS:
                await owner.execute(
                    "INSERT INTO billing.requests VALUES ('acme', gen_random_uuid()::text, '', '', %s)", (time,)
                )
            case Leftover.STRIPE_EVENTS:
                await owner.execute(
                    "INSERT INTO billing.stripe_events"
                    " (event_id, type, object_id, lane, payload, receive_time, next_attempt_time, handle_time)"
                    " VALUES (gen_random_uuid()::text, '', '', '', '', %s, %s, %s)",
                    (NOW, NOW, time),
                )
            case Leftover.MAILS:
                await owner.execute(
                    "INSERT INTO billing.mail_outbox"
                    " (organization_id, mail_id, kind, reason, data, create_time, outcome, close_time) VALUES"
                    " ('acme', gen_random_uuid()::text, '', gen_random_uuid()::text, '{}', %s, %s, %s)",
                    (NOW, "SENT" if time else "", time),
                )


async def count_in_postgres(database: BillingDatabase, kind: Leftover) -> int:
    table = {Leftover.MAILS: "mail_outbox"}.get(kind, kind.value.lower())
    async with await psycopg.AsyncConnection.connect(database.owner_url) as owner:
        row = await (await owner.execute(f"SELECT count(*) FROM billing.{table}".encode())).fetchone()  # noqa: S608
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("kind", Leftover)
async def test_what_is_over_is_let_go_of_in_bounded_steps_and_the_rest_stays(cellar: Cellar, kind: Leftover) -> None:
    for days in (3, 2, 1, 0):
        await cellar.keep(kind, NOW - days * DAY)
    steps = [await cellar.leftovers.drop(kind, before=NOW, count=2) for _ in range(3)]
    assert (steps, await cellar.count(kind)) == ([2, 1, 0], 1)


@pytest.mark.parametrize("kind", [Leftover.STRIPE_EVENTS, Leftover.MAILS])
async def test_what_is_still_to_be_handled_or_sent_is_never_let_go_of(cellar: Cellar, kind: Leftover) -> None:
    await cellar.keep(kind, None)
    assert (await cellar.leftovers.drop(kind, before=NOW + 999 * DAY, count=9), await cellar.count(kind)) == (0, 1)
