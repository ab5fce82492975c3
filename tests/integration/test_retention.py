"""Retention on Postgres and on the disk: what is kept of a week that goes, and what going does to everybody else."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from kit.clock import SystemClock
from kit.errors import OutOfRetention
from kit.feed import START, Follower, Position
from kit.head_watch import FROM_THE_START, HeadWatch
from kit.postgres.database import Database
from kit.postgres.embedded import EmbeddedPostgres
from kit.postgres.migrate import migrate
from services.metering.adapters.parquet_archive import ParquetArchive
from services.metering.adapters.postgres_confirmations import PostgresConfirmations
from services.metering.adapters.postgres_ledger import PostgresLedgerHeads, PostgresLedgerReader, PostgresLedgerWriter
from services.metering.adapters.postgres_old_weeks import PostgresOldWeeks
from services.metering.adapters.postgres_rollups import LedgerSpans, PostgresRollups, Span
from services.metering.adapters.postgres_usage import PostgresUsageReader
from services.metering.application.ports import Interval, RawRow
from services.metering.application.retire_weeks import Retired, RetireWeeks
from services.metering.domain import limits
from services.metering.domain.acceptance import Status
from services.metering.domain.errors import HeldReason
from services.metering.domain.events import UsageEvent
from services.metering.domain.retention import Confirmation
from services.metering.domain.usage_query import UsageQuery
from services.metering.domain.windows import Window
from tests.integration.rollup_tables import rollup_rows
from tests.old_weeks import OLD, WEEK, moment, old_weeks
from tests.usage_model import call, meter, reversal, usage

NEXT = OLD + WEEK
FILE = f"events_{OLD:%Y%m%d}.parquet"
PARTITION = f"metering.events_{OLD:%Y%m%d}"
ALL_ROLLUPS = (
    "TRUNCATE metering.rollup_positions, metering.rollup_measurements, metering.rollup_calls,"
    " metering.subject_rollup_measurements, metering.subject_rollup_calls"
)


ALWAYS = Window(None, None)


async def no_pause() -> None:
    return None


@dataclass
class House:
    """A ledger with its rollups, an organization that no other test uses, and its retention."""

    databases: dict[str, Database]
    owner: psycopg.Connection
    folder: Path
    organization_id: str

    @property
    def writer(self) -> PostgresLedgerWriter:
        return PostgresLedgerWriter(self.databases["writer"])

    @property
    def heads(self) -> PostgresLedgerHeads:
        return PostgresLedgerHeads(self.databases["fleet"])

    @property
    def weeks(self) -> PostgresOldWeeks:
        return PostgresOldWeeks(self.databases["fleet"], self.databases["writer"], self.heads)

    @property
    def follower(self) -> Follower[Span]:
        spans = LedgerSpans(self.databases["writer"], HeadWatch(self.heads.heads))
        return Follower("tests", spans, PostgresRollups(self.databases["writer"]))

    def event(self, name: str, at: datetime, quantity: int = 1, **more: Any) -> UsageEvent:
        return usage(name, at, {"api_calls": quantity}, organization_id=self.organization_id, **more)

    async def record(self, *events: UsageEvent, at: datetime) -> None:
        outcomes = await self.writer.append(events, now=at)
        assert {outcome.status for outcome in outcomes} == {Status.ACCEPTED}

    async def record_two_weeks_and_today(self) -> None:
        now = datetime.now(UTC)
        await self.record(
            *(self.event(f"a{number}", moment(minutes=7 * number), user=f"u{number % 3}") for number in range(40)),
            self.event("call", moment(hours=1), provider_call=call(output=7, latency_ns=5_000_000), agent="x"),
            reversal("undo", "a3", organization_id=self.organization_id),
            at=moment(hours=5),
        )
        await self.record(self.event("c", moment(NEXT, hours=1), 100), at=moment(NEXT, hours=1))
        await self.record(self.event("d", now - timedelta(hours=1), 1_000), at=now)

    async def confirm(self) -> None:
        for head in (await self.heads.heads(FROM_THE_START)).heads:
            said = [Confirmation(head.key, Position(head.position.sequence, ""), None)]
            confirmations = PostgresConfirmations(self.databases["writer"])
            await confirmations.confirm("billing", said, now=datetime.now(UTC))

    async def retire(self) -> Retired:
        retention = timedelta(days=90)
        archive = ParquetArchive(self.folder)
        retire_weeks = RetireWeeks(
            self.weeks, archive, SystemClock(), retention=retention, followers=["billing"], pause=no_pause
        )
        return await retire_weeks()

    async def catch_up(self) -> None:
        await self.follower.catch_up(self.organization_id)

    async def total(self, window: Window = ALWAYS) -> int:
        query = UsageQuery(meters=(meter("api_calls"),), windows=(window,))
        reader = PostgresUsageReader(self.databases["tenant"])
        answer = await reader.usage(self.organization_id, query, as_of_sequence=None)
        return sum(row.quantity for row in answer.rows)

    def rows(self) -> object:
        return rollup_rows(self.owner, self.organization_id)

    def one(self, query: str, *values: Any) -> Any:
        row = self.owner.execute(query.encode(), values).fetchone()
        return None if row is None else row[0]


@pytest.fixture
def owner(postgres: EmbeddedPostgres, migrated: Callable[[str], dict[str, str]]) -> Iterator[psycopg.Connection]:
    migrated("metering")
    with old_weeks(postgres.url, OLD, NEXT) as connection:
        yield connection


@pytest.fixture
async def house(
    migrated: Callable[[str], dict[str, str]], owner: psycopg.Connection, tmp_path: Path
) -> AsyncIterator[House]:
    async with AsyncExitStack() as resources:
        databases = {kind: Database(url) for kind, url in migrated("metering").items()}
        for database in databases.values():
            resources.push_async_callback(database.close)
        yield House(databases, owner, tmp_path / "archive", f"org-{uuid4().hex}")


# ---- the archive


async def test_every_row_of_a_week_is_in_its_file_as_it_was_stored(house: House) -> None:
    await house.record_two_weeks_and_today()
    query = f"SELECT * FROM {PARTITION} ORDER BY organization_id, sequence".encode()  # noqa: S608 - a constant
    stored = house.owner.execute(query)
    assert stored.description is not None
    names = [column.name for column in stored.description]
    rows = [dict(zip(names, row, strict=True)) for row in stored.fetchall()]
    await house.confirm()
    assert (await house.retire()).dropped == (OLD, NEXT)
    found = pq.read_table(house.folder / FILE).to_pylist()
    for row in found:
        for name in ("measurements", "provider_call", "labels"):
            row[name] = None if row[name] is None else json.loads(row[name])
    assert found == rows
    assert len(rows) == 42


async def test_the_digest_of_a_file_stands_beside_it_and_in_the_database(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    await house.retire()
    content = (house.folder / FILE).read_bytes()
    digest = hashlib.sha256(content)
    assert (house.folder / f"{FILE}.sha256").read_text() == f"{digest.hexdigest()}  {FILE}\n"
    recorded = house.owner.execute(
        "SELECT file_name, sha256, row_count, byte_count, detach_time <= drop_time FROM metering.archived_weeks"
        " WHERE week = %s",
        (OLD,),
    ).fetchone()
    assert recorded == (FILE, digest.digest(), 42, len(content), True)
    assert house.folder.stat().st_mode & 0o077 == 0
    assert (house.folder / FILE).stat().st_mode & 0o077 == 0


async def test_a_long_week_is_written_and_sealed_piece_by_piece(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEAL_SPAN_EVENTS", 9)
    monkeypatch.setattr(limits, "ARCHIVE_PAGE_EVENTS", 10)
    monkeypatch.setattr("services.metering.adapters.parquet_archive._GROUP_ROWS", 20)
    await house.record_two_weeks_and_today()
    before = await house.total()
    await house.confirm()
    assert (await house.retire()).dropped == (OLD, NEXT)
    file = pq.ParquetFile(house.folder / FILE)
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [20, 20, 2]
    assert file.read(["sequence"])["sequence"].to_pylist() == list(range(1, 43))
    spans = "SELECT count(*) FROM metering.sealed_spans WHERE organization_id = %s"
    assert house.one(spans, house.organization_id) == 6
    assert await house.total() == before


async def test_a_folder_that_cannot_be_written_holds_a_week_back(house: House, tmp_path: Path) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    (tmp_path / "file").write_bytes(b"")
    house.folder = tmp_path / "file" / "archive"
    retired = await house.retire()
    assert retired.held is not None
    assert retired.held.reason is HeldReason.ARCHIVE_FAILED
    assert await house.total() == 1_140


async def test_a_file_that_does_not_read_back_is_not_kept(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.metering.adapters.parquet_archive._GROUP_ROWS", 10)
    monkeypatch.setattr(limits, "ARCHIVE_PAGE_EVENTS", 10)
    await house.record_two_weeks_and_today()
    (share,) = await house.weeks.shares(OLD)

    async def rows_while_the_disk_goes_bad() -> AsyncIterator[Sequence[RawRow]]:
        for _ in range(20):  # more than is held back in buffers
            async for page in house.weeks.rows(OLD, share):
                yield page
        (partial,) = house.folder.iterdir()
        with partial.open("r+b") as file:
            file.seek(1_000)
            changed = bytes(255 - byte for byte in file.read(2_000))
            file.seek(1_000)
            file.write(changed)

    with pytest.raises(OSError, match="partial"):
        await ParquetArchive(house.folder).write(OLD, rows_while_the_disk_goes_bad())
    assert list(house.folder.iterdir()) == []


async def test_what_a_killed_process_left_in_the_folder_is_cleared_away(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    house.folder.mkdir()
    (house.folder / f".{FILE}.0123.partial").write_bytes(b"half")
    await house.retire()
    names = sorted(path.name for path in house.folder.iterdir())
    assert names == sorted(
        name
        for week in (OLD, NEXT)
        for name in (f"events_{week:%Y%m%d}.parquet", f"events_{week:%Y%m%d}.parquet.sha256")
    )


# ---- rollups and sealed totals


async def test_rollups_come_back_the_same_from_sealed_totals_and_the_events_that_are_left(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.catch_up()
    before, total = house.rows(), await house.total()
    await house.confirm()
    assert (await house.retire()).dropped == (OLD, NEXT)
    assert house.rows() == before
    house.owner.execute(ALL_ROLLUPS)
    assert await house.total() == total
    await house.catch_up()
    assert await house.total() == total
    await house.catch_up()
    assert house.rows() == before


async def test_rollups_that_fell_behind_the_horizon_come_back_whole(house: House) -> None:
    await house.record(house.event("a", moment(hours=1), 7), at=moment(hours=1))
    await house.catch_up()
    await house.record_two_weeks_and_today()
    total = await house.total()
    await house.confirm()
    assert (await house.retire()).dropped == (OLD, NEXT)
    assert await house.total() == total
    for _ in range(2):
        await house.catch_up()
    rolled_up = "SELECT sum(quantity) FROM metering.rollup_measurements WHERE organization_id = %s"
    assert house.one(rolled_up, house.organization_id) == total == await house.total()


async def test_totals_stay_what_they_are_while_a_week_is_sealed_and_not_yet_out(house: House) -> None:
    await house.record_two_weeks_and_today()
    before = await house.total()
    for share in await house.weeks.shares(OLD):
        await house.weeks.seal(OLD, share)
    assert await house.total() == before


async def test_nobody_but_the_owner_changes_what_is_sealed(
    house: House, migrated: Callable[[str], dict[str, str]]
) -> None:
    rows = house.owner.execute(
        "SELECT DISTINCT privilege_type FROM information_schema.role_table_grants WHERE table_schema = 'metering'"
        " AND grantee LIKE 'tollbook\\_metering\\_%' AND table_name LIKE '%sealed%'"
    ).fetchall()
    assert sorted(rows) == [("INSERT",), ("SELECT",)]
    for kind, url in migrated("metering").items():
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE metering.ledger_horizons SET sequence = 1")
        if kind != "fleet":
            with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT metering.detach_event_partition('2025-06-09', '{}')")


# ---- the owner's last look


async def test_a_week_that_holds_more_than_was_sealed_is_never_dropped(house: House) -> None:
    await house.record_two_weeks_and_today()
    for share in await house.weeks.shares(OLD):
        await house.weeks.seal(OLD, share)
    await house.confirm()
    house.owner.execute(
        f"""
        INSERT INTO metering.events SELECT (copied).* FROM (
            SELECT jsonb_populate_record(events, '{{"organization_id": "org-unheard-of"}}') AS copied
            FROM {PARTITION} AS events WHERE organization_id = %s LIMIT 1) AS one
        """.encode(),  # noqa: S608 - a constant
        (house.organization_id,),
    )
    for _ in range(2):
        retired = await house.retire()
        assert retired.dropped == ()
        assert retired.held is not None
        assert "does not hold what was sealed of org-unheard-of" in retired.held.detail
    forced = "SELECT relforcerowsecurity FROM pg_class WHERE oid = %s::regclass"
    assert house.one(forced, PARTITION) is True
    house.owner.execute(f"DELETE FROM {PARTITION} WHERE organization_id = 'org-unheard-of'".encode())  # noqa: S608
    assert (await house.retire()).dropped == (OLD, NEXT)


async def test_a_week_of_which_an_event_is_missing_is_held_back(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    house.owner.execute(
        "DELETE FROM metering.events WHERE organization_id = %s AND sequence = 5", (house.organization_id,)
    )
    retired = await house.retire()
    assert retired.held is not None
    assert retired.held.reason is HeldReason.OUT_OF_ORDER


async def test_a_week_that_is_no_prefix_of_a_ledger_is_held_back(house: House) -> None:
    """As clocks that disagree could make it before receive times were kept in order."""
    await house.record_two_weeks_and_today()
    await house.confirm()
    house.owner.execute(
        "UPDATE metering.events SET receive_time = %s WHERE organization_id = %s AND sequence = 5",
        (moment(NEXT), house.organization_id),
    )
    retired = await house.retire()
    assert retired.held is not None
    assert retired.held.reason is HeldReason.OUT_OF_ORDER


async def test_what_is_younger_than_the_database_allows_stays_whatever_the_caller_says(house: House) -> None:
    today = datetime.now(UTC).date()
    young = today - timedelta(days=today.weekday()) - 6 * WEEK
    house.owner.execute("SELECT metering.make_event_partition(%s)", (young,))
    young_ish = "SELECT metering.detach_event_partition(%s, '{}')"
    assert house.one(young_ish, today - timedelta(days=today.weekday())) == "the week is younger than 40 days"
    for week in (OLD, NEXT):
        house.owner.execute(f"DROP TABLE metering.events_{week:%Y%m%d}".encode())
    assert house.one(young_ish, young) == "it is not archived"


# ---- beside everybody else


async def test_a_reader_in_the_middle_holds_a_week_back_and_ingest_goes_on(house: House) -> None:
    """The lock is not waited for longer than those who come meanwhile can wait."""
    await house.record_two_weeks_and_today()
    await house.confirm()
    with psycopg.connect(house.owner.info.dsn, password=house.owner.info.password) as reader:
        reader.execute("SELECT count(*) FROM metering.events")
        retired = await house.retire()
        assert retired.dropped == ()
        assert retired.held is not None
        assert retired.held.reason is HeldReason.BUSY
        now = datetime.now(UTC)
        await house.record(house.event("meanwhile", now), at=now)
    assert (await house.retire()).dropped == (OLD, NEXT)
    assert await house.total() == 1_141


async def test_weeks_go_while_events_are_recorded_read_and_reversed_and_nothing_is_lost(house: House) -> None:
    """F7, the second half."""
    await house.record_two_weeks_and_today()
    before = await house.total()
    await house.confirm()
    stop = asyncio.Event()
    recorded = 0

    async def ingest(name: str) -> None:
        nonlocal recorded
        number = 0
        while not stop.is_set():
            now = datetime.now(UTC)
            events = [house.event(f"{name}-{number}-{each}", now) for each in range(20)]
            undo = reversal(f"undo {name}-{number}", f"{name}-{number}-0", organization_id=house.organization_id)
            await house.record(*events, at=now)
            await house.record(undo, at=now)
            number, recorded = number + 1, recorded + 19

    async def read() -> None:
        while not stop.is_set():
            # Beside those that are being recorded, nothing ever appears or disappears.
            assert await house.total(Window(None, 1_000_000 * int(moment(NEXT, days=7).timestamp()))) == before - 1_000

    async def follow() -> None:
        reader = PostgresLedgerReader(house.databases["tenant"])
        position = START
        while not stop.is_set():
            try:
                async for page in reader.read(house.organization_id, position):
                    position = page.position
            except OutOfRetention:
                totals = await reader.totals(house.organization_id, Interval(None, None), as_of_sequence=None)
                position = totals.position

    tasks = [asyncio.create_task(each) for each in (ingest("x"), ingest("y"), read(), follow())]
    dropped: tuple[Any, ...] = ()
    async with asyncio.timeout(60):
        while dropped != (OLD, NEXT):
            dropped += (await house.retire()).dropped
    stop.set()
    await asyncio.gather(*tasks)
    assert recorded
    assert await house.total() == before + recorded


async def test_of_two_processes_one_retires_and_the_other_finds_nothing_to_do(house: House) -> None:
    await house.record_two_weeks_and_today()
    await house.confirm()
    async with house.weeks.alone() as first, house.weeks.alone() as second:
        assert (first, second) == (True, False)
        assert await house.retire() == Retired(())
    assert (await house.retire()).dropped == (OLD, NEXT)


async def test_two_that_do_not_know_of_each_other_leave_one_file_and_the_same_totals(house: House) -> None:
    """The lock that keeps them apart goes with its connection; nothing depends on it."""
    await house.record_two_weeks_and_today()
    before = await house.total()
    await house.confirm()

    class Unaware(PostgresOldWeeks):
        def alone(self) -> Any:
            return self._fleet.holding(uuid4().hex)

    async def retire() -> Retired:
        weeks = Unaware(house.databases["fleet"], house.databases["writer"], house.heads)
        retention = timedelta(days=90)
        return await RetireWeeks(
            weeks, ParquetArchive(house.folder), SystemClock(), retention=retention, followers=[], pause=no_pause
        )()

    await asyncio.gather(retire(), retire())
    await retire()
    assert house.one("SELECT count(*) FROM metering.event_weeks WHERE week <= %s", NEXT) == 0
    digest = hashlib.sha256((house.folder / FILE).read_bytes()).digest()
    assert house.one("SELECT sha256 FROM metering.archived_weeks WHERE week = %s", OLD) == digest
    assert len(list(house.folder.glob("*.parquet"))) == 2
    assert await house.total() == before


async def test_rows_are_read_a_few_at_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ARCHIVE_PAGE_EVENTS", 10)
    await house.record_two_weeks_and_today()
    (share,) = await house.weeks.shares(OLD)
    pages: list[list[RawRow]] = [list(page) async for page in house.weeks.rows(OLD, share)]
    assert [len(page) for page in pages] == [10, 10, 10, 10, 2]


async def test_weeks_go_where_the_owner_is_no_superuser_and_row_security_holds_for_it_too(
    postgres: EmbeddedPostgres, migrated: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    """As on a hosted Postgres: the functions must see what they look at."""
    roles, name = migrated("metering"), f"plain_{uuid4().hex[:8]}"
    place = urlsplit(postgres.url)._replace(path=f"/{name}")
    owner_url = place._replace(netloc=f"{name}:plain@{place.hostname}:{place.port}").geturl()
    urls = {kind: urlsplit(url)._replace(path=f"/{name}").geturl() for kind, url in roles.items()}
    with psycopg.connect(postgres.url, autocommit=True) as superuser:
        identifier = sql.Identifier(name)
        superuser.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'plain'").format(identifier))
        for kind in roles:
            role = sql.Identifier(f"tollbook_metering_{kind}")
            superuser.execute(sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(role, identifier))
        superuser.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(identifier, identifier))
        try:
            migrate(owner_url, "metering", {kind: str(urlsplit(url).password) for kind, url in roles.items()})
            async with AsyncExitStack() as resources:
                databases = {kind: Database(url) for kind, url in urls.items()}
                for database in databases.values():
                    resources.push_async_callback(database.close)
                with psycopg.connect(owner_url, autocommit=True) as owner:
                    for week in (OLD, NEXT):
                        owner.execute("SELECT metering.make_event_partition(%s)", (week,))
                    house = House(databases, owner, tmp_path / "archive", "acme")
                    await house.record_two_weeks_and_today()
                    before = await house.total()
                    retired = await house.retire()
                    assert retired.held is not None
                    assert retired.held.reason is HeldReason.NOT_PASSED
                    await house.confirm()
                    assert await house.retire() == Retired((OLD, NEXT))
                    assert await house.total() == before
        finally:
            superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))
            superuser.execute(sql.SQL("DROP OWNED BY {}").format(identifier))
            superuser.execute(sql.SQL("DROP ROLE {}").format(identifier))
