"""What the ledger promises of its tables in Postgres, seen from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from kit.clock import unix_microseconds
from kit.errors import LogRewound
from kit.feed import START
from kit.postgres.database import Database, set_organization
from kit.postgres.embedded import EmbeddedPostgres
from services.metering.adapters.postgres_ledger import PostgresLedgerReader, PostgresLedgerWriter
from services.metering.application.ports import Interval
from services.metering.domain import limits
from services.metering.domain.events import EventRef, LedgerEvent, Measurement, Subject, UsageEvent

NOW = datetime.now(UTC)


@dataclass
class Ledger:
    """One organization's ledger, and the owner's way to what is kept of it."""

    writer: PostgresLedgerWriter
    reader: PostgresLedgerReader
    owner_url: str
    organization_id: str

    def event(self, event_id: str, *, reversal_of: str = "") -> UsageEvent:
        return UsageEvent(
            id=event_id,
            source="tests",
            subject=Subject(organization_id=self.organization_id),
            event_time_ns=None if reversal_of else unix_microseconds(NOW - timedelta(minutes=1)) * 1_000,
            measurements=() if reversal_of else (Measurement("api_calls", 7),),
            reversal_of=EventRef("tests", reversal_of) if reversal_of else None,
        )

    async def reasons(self, *events: UsageEvent) -> list[str]:
        outcomes = await self.writer.append(events, now=NOW)
        return [outcome.refusal.reason if outcome.refusal else outcome.status.value for outcome in outcomes]

    async def entries(self) -> list[LedgerEvent]:
        found = await self.reader.page(self.organization_id, Interval(None, None), after_sequence=0, count=100)
        return list(found.entries)

    async def total(self) -> int:
        totals = await self.reader.totals(self.organization_id, Interval(None, None), as_of_sequence=None)
        return totals.quantities.get("api_calls", 0)

    def rewind(self, sequence: int) -> None:
        """As a failover does to a standby that had not received the rest."""
        with psycopg.connect(self.owner_url) as owner:
            names = {"of": self.organization_id, "at": sequence}
            owner.execute("DELETE FROM metering.events WHERE organization_id = %(of)s AND sequence > %(at)s", names)
            owner.execute(
                "DELETE FROM metering.event_identities WHERE organization_id = %(of)s AND sequence > %(at)s", names
            )
            owner.execute(
                "UPDATE metering.ledger_heads AS heads SET sequence = last.sequence, commit_id = last.commit_id"
                " FROM metering.events AS last WHERE heads.organization_id = %(of)s"
                " AND last.organization_id = %(of)s AND last.sequence = %(at)s",
                names,
            )

    def drop_raw_event(self, sequence: int) -> None:
        """As retention does, partition by partition."""
        with psycopg.connect(self.owner_url) as owner:
            dropped = owner.execute(
                "DELETE FROM metering.events WHERE organization_id = %s AND sequence = %s",
                (self.organization_id, sequence),
            )
            assert dropped.rowcount == 1


@pytest.fixture
async def ledger(postgres: EmbeddedPostgres, migrated: Callable[[str], dict[str, str]]) -> AsyncIterator[Ledger]:
    urls = migrated("metering")
    writer, tenant = Database(urls["writer"]), Database(urls["tenant"])
    yield Ledger(PostgresLedgerWriter(writer), PostgresLedgerReader(tenant), postgres.url, f"org-{uuid4().hex}")
    await writer.close()
    await tenant.close()


async def test_the_memory_of_an_event_outlives_its_raw_event(ledger: Ledger) -> None:
    event = ledger.event("a")
    await ledger.reasons(event)
    ledger.drop_raw_event(1)
    assert await ledger.reasons(event) == ["DUPLICATE"]
    assert await ledger.reasons(replace(event, reservation_id="r")) == ["CONTENT_CONFLICT"]
    assert await ledger.total() == 0


async def test_an_event_beyond_retention_cannot_be_reversed_and_nothing_is_remembered_of_the_try(
    ledger: Ledger,
) -> None:
    await ledger.reasons(ledger.event("a"), ledger.event("b"))
    ledger.drop_raw_event(1)
    reversals = [ledger.event("r", reversal_of="a"), ledger.event("r2", reversal_of="b")]
    assert await ledger.reasons(*reversals) == ["OUT_OF_RETENTION", "ACCEPTED"]
    assert await ledger.reasons(*reversals) == ["OUT_OF_RETENTION", "DUPLICATE"]
    assert await ledger.total() == 0


async def test_that_an_event_was_reversed_is_remembered_beyond_retention(ledger: Ledger) -> None:
    await ledger.reasons(ledger.event("a"), ledger.event("r", reversal_of="a"))
    ledger.drop_raw_event(1)
    ledger.drop_raw_event(2)
    assert await ledger.reasons(
        ledger.event("r", reversal_of="a"), ledger.event("r2", reversal_of="a"), ledger.event("r3", reversal_of="r")
    ) == ["DUPLICATE", "ALREADY_REVERSED", "ALREADY_REVERSED"]


async def test_a_reversal_still_says_what_it_takes_back_when_that_is_dropped(ledger: Ledger) -> None:
    event, reversal = ledger.event("a"), ledger.event("r", reversal_of="a")
    await ledger.reasons(event, reversal)
    ledger.drop_raw_event(1)
    (entry,) = await ledger.entries()
    assert (entry.sequence, entry.event, entry.reversed) == (2, reversal, event)


async def test_no_role_of_the_service_can_change_or_delete_what_was_recorded(
    ledger: Ledger, postgres: EmbeddedPostgres
) -> None:
    await ledger.reasons(ledger.event("a"), ledger.event("r", reversal_of="a"))
    with psycopg.connect(postgres.url) as owner:
        rows = owner.execute(
            "SELECT DISTINCT table_name, grantee, privilege_type FROM information_schema.role_table_grants"
            " WHERE table_schema = 'metering' AND grantee LIKE 'tollbook\\_metering\\_%'"
            " AND (table_name IN ('event_identities', 'reversals') OR table_name LIKE 'events%')"
            " AND privilege_type NOT IN ('SELECT', 'INSERT')"
        ).fetchall()
    assert rows == []


def test_nothing_in_the_database_deletes_or_changes_the_identity_of_an_event(
    postgres: EmbeddedPostgres, migrated: Callable[[str], dict[str, str]]
) -> None:
    """B5: no function, trigger, rule or cascade reaches identities, nor one that a service may call as the owner."""
    migrated("metering")
    with psycopg.connect(postgres.url) as owner:
        functions = owner.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'metering'::regnamespace"
            " AND prosrc ~* '(delete|update|truncate|drop)[^;]*(event_)?identities'"
        ).fetchall()
        automatic = owner.execute(
            "WITH identities AS (SELECT 'metering.event_identities'::regclass AS oid)"
            " SELECT tgname FROM pg_trigger JOIN identities ON tgrelid = identities.oid"
            " UNION ALL SELECT rulename FROM pg_rewrite JOIN identities ON ev_class = identities.oid"
            " UNION ALL SELECT conname FROM pg_constraint JOIN identities ON conrelid = identities.oid"
            "   WHERE contype = 'f'"
            " UNION ALL SELECT polname FROM pg_policy JOIN identities ON polrelid = identities.oid"
            "   WHERE polcmd IN ('d', 'w', '*') AND 'tollbook_metering_tenant'::regrole <> ALL (polroles)"
        ).fetchall()
    assert (functions, automatic) == ([], [])


async def test_the_writer_reads_events_of_the_organization_that_it_names_and_of_no_other(
    ledger: Ledger, migrated: Callable[[str], dict[str, str]]
) -> None:
    await ledger.reasons(ledger.event("a"))
    other = replace(ledger.event("a"), subject=Subject(organization_id=f"{ledger.organization_id}-other"))
    await ledger.reasons(other)
    with psycopg.connect(migrated("metering")["writer"]) as writer:
        assert writer.execute("SELECT count(*) FROM metering.events").fetchone() == (0,)
        writer.execute(set_organization(ledger.organization_id).encode())
        rows = writer.execute("SELECT DISTINCT organization_id FROM metering.events").fetchall()
        assert rows == [(ledger.organization_id,)]
        writer.rollback()
        assert writer.execute("SELECT count(*) FROM metering.events").fetchone() == (0,)


async def test_a_batch_of_many_organizations_with_reversals_leaves_the_writer_bound_to_none(
    ledger: Ledger, migrated: Callable[[str], dict[str, str]]
) -> None:
    database = Database(migrated("metering")["writer"], pool_size=1)
    try:
        writer = PostgresLedgerWriter(database)
        others = [Subject(organization_id=f"{ledger.organization_id}-{number}") for number in range(20)]
        batch = [
            replace(event, subject=subject)
            for subject in others
            for event in (ledger.event("a"), ledger.event("b"), ledger.event("r", reversal_of="a"))
        ]
        assert {outcome.status.value for outcome in await writer.append(batch[:2], now=NOW)} == {"ACCEPTED"}
        outcomes = await writer.append(batch, now=NOW)
        assert [outcome.sequence for outcome in outcomes] == [1, 2, 3] * 20
        async with database.transaction() as connection:
            setting = await connection.exec_driver_sql("SELECT current_setting('tollbook.organization_id', true)")
            assert setting.scalar_one() in (None, "")
    finally:
        await database.close()
    for subject in others:
        pages = [page async for page in ledger.reader.read(subject.organization_id, START)]
        assert [entry.sequence for page in pages for entry in page.entries] == [1, 2, 3]


async def test_a_reader_is_told_of_a_log_that_is_rewound_and_grows_again_between_two_pages(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_EVENTS", 2)
    await ledger.reasons(ledger.event("a"))
    await ledger.reasons(*map(ledger.event, "bcdef"))
    pages = ledger.reader.read(ledger.organization_id, START)
    assert [entry.event.id for entry in (await anext(pages)).entries] == ["a", "b"]
    ledger.rewind(1)
    await ledger.reasons(*map(ledger.event, "uvwxyz"))
    with pytest.raises(LogRewound):
        await anext(pages)
