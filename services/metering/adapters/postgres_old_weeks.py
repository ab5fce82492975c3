"""The weeks of raw events in Postgres, and how they go; see migrations/0007_retention.py.

The fleet role sees which weeks there are and asks the owner's functions to retire them; it never reads an event. What
is read, to be sealed and archived, is read as the writer role, bound to one organization at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime
from typing import Any

from psycopg.errors import LockNotAvailable
from sqlalchemy import text

from kit.errors import DependencyUnavailable
from kit.feed import Position
from kit.head_watch import FROM_THE_START
from kit.postgres.database import Database
from services.metering.adapters.bucket_sums import BUCKET, adding_up_a_span
from services.metering.adapters.postgres_positions import horizon_of
from services.metering.application.ports import ArchivedFile, LedgerHeads, RawRow, Weeks
from services.metering.domain import limits
from services.metering.domain.errors import HeldBack, HeldReason
from services.metering.domain.retention import WEEK, Confirmation, Share, start_of

# Counting a week of events takes longer than other statements may.
_DROP_TIMEOUT = "30min"


class PostgresOldWeeks:
    """OldWeeks over the partitions of events."""

    def __init__(self, fleet: Database, writer: Database, heads: LedgerHeads) -> None:
        self._fleet = fleet
        self._writer = writer
        self._heads = heads

    def alone(self) -> AbstractAsyncContextManager[bool]:
        """As OldWeeks."""
        return self._fleet.holding("metering.retire_weeks")

    async def weeks(self) -> Weeks:
        """As OldWeeks."""
        async with self._fleet.transaction() as connection:
            rows = (await connection.execute(_WEEKS)).all()
        kept, leaving = ([row.week for row in rows if row.is_attached is attached] for attached in (True, False))
        return Weeks(kept, leaving)

    async def shares(self, week: date) -> Sequence[Share]:
        """As OldWeeks."""
        heads = (await self._heads.heads(FROM_THE_START)).heads
        shares = [await self._share(week, head.key) for head in heads]
        return [share for share in shares if share is not None]

    async def _share(self, week: date, organization_id: str) -> Share | None:
        async with self._writer.transaction(organization_id=organization_id) as connection:
            names = _names(week, organization_id)
            row = (await connection.execute(_SHARE, names)).one()
            horizon = await horizon_of(connection, organization_id)
        if row.first is None:
            return None
        if row.first != horizon.sequence + 1:
            detail = f"{week}: {organization_id} goes on with {row.first} after {horizon.sequence}"
            raise HeldBack(HeldReason.OUT_OF_ORDER, detail)
        return Share(organization_id, horizon.sequence, row.last, row.last_event_time)

    async def confirmations(self) -> Mapping[tuple[str, str], Confirmation]:
        """As OldWeeks."""
        async with self._fleet.transaction() as connection:
            return {
                (row.follower, row.organization_id): Confirmation(
                    row.organization_id, Position(row.sequence, ""), row.needed_from
                )
                for row in await connection.execute(_CONFIRMATIONS)
            }

    async def seal(self, week: date, share: Share) -> None:
        """As OldWeeks, in spans: each is a transaction."""
        async with self._writer.transaction(organization_id=share.organization_id) as connection:
            names = {"organization_id": share.organization_id}
            after = (await connection.execute(_SEALED, names)).scalar_one() or 0
        while after < share.upto:
            upto = min(share.upto, after + limits.SEAL_SPAN_EVENTS)
            await self._seal_span(week, share, after, upto)
            after = upto

    async def _seal_span(self, week: date, share: Share, after: int, upto: int) -> None:
        names = _names(week, share.organization_id) | {"after": after, "upto": upto, "bucket": BUCKET}
        async with self._writer.transaction(organization_id=share.organization_id) as connection:
            span = (await connection.execute(_SPAN, names)).one()
            if span.event_count != upto - after:
                detail = f"{week}: {span.event_count} events of {share.organization_id} after {after} up to {upto}"
                raise HeldBack(HeldReason.OUT_OF_ORDER, detail)
            # Another process may have been faster: then its totals stand, and these are of the same events.
            if (await connection.execute(_ADD_SPAN, names | dict(span._mapping))).rowcount:  # noqa: SLF001 - public name
                await connection.execute(_SEAL, names)

    async def rows(self, week: date, share: Share) -> AsyncIterator[Sequence[RawRow]]:
        """As OldWeeks; a transaction for each page, so that none is long."""
        for after in range(share.after, share.upto, limits.ARCHIVE_PAGE_EVENTS):
            names = _names(week, share.organization_id)
            names |= {"after": after, "upto": min(share.upto, after + limits.ARCHIVE_PAGE_EVENTS)}
            async with self._writer.transaction(organization_id=share.organization_id) as connection:
                rows = (await connection.execute(_ROWS, names)).all()
            yield [row._asdict() for row in rows]

    async def archived(self, week: date) -> ArchivedFile | None:
        """As OldWeeks."""
        async with self._fleet.transaction() as connection:
            row = (await connection.execute(_ARCHIVED, {"week": week})).one_or_none()
        return None if row is None else ArchivedFile(row.file_name, bytes(row.sha256), row.row_count, row.byte_count)

    async def set_archived(self, week: date, file: ArchivedFile, *, now: datetime) -> None:
        """As OldWeeks."""
        names = {
            "week": week,
            "file_name": file.name,
            "sha256": file.sha256,
            "row_count": file.row_count,
            "byte_count": file.byte_count,
            "now": now,
        }
        async with self._fleet.transaction() as connection:
            await connection.execute(_SET_ARCHIVED, names)

    async def detach(self, week: date, followers: Sequence[str]) -> None:
        """As OldWeeks."""
        await self._retire(week, _DETACH, {"followers": list(followers)})

    async def drop(self, week: date) -> None:
        """As OldWeeks."""
        await self._retire(week, _DROP, {})

    async def _retire(self, week: date, statement: Any, more: Mapping[str, object]) -> None:
        try:
            async with self._fleet.transaction() as connection:
                await connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_DROP_TIMEOUT}'")
                problem = (await connection.execute(statement, {"week": week, **more})).scalar_one()
        except DependencyUnavailable as error:
            cause = error.__cause__
            if isinstance(getattr(cause, "orig", None), LockNotAvailable):
                raise HeldBack(HeldReason.BUSY, f"{week}: events are read or written") from error
            raise
        if problem is not None:
            raise HeldBack(HeldReason.REFUSED, f"{week}: {problem}")


def _names(week: date, organization_id: str) -> dict[str, Any]:
    start = start_of(week)
    return {"organization_id": organization_id, "week": week, "week_start": start, "week_end": start + WEEK}


def _keep_sealed(table: str, keys: tuple[str, ...], sums: tuple[str, ...], rows: str) -> str:
    return f"""
        INSERT INTO metering.{table} (organization_id, sequence, {", ".join((*keys, *sums))})
        SELECT :organization_id, CAST(:upto AS bigint), added.* FROM ({rows}) AS added
    """  # noqa: S608 - constants of ours


_WEEKS = text("SELECT week, is_attached FROM metering.event_weeks ORDER BY week")
_OF_WEEK = "organization_id = :organization_id AND receive_time >= :week_start AND receive_time < :week_end"
_SHARE = text(f"""
    SELECT min(sequence) AS first, max(sequence) AS last, max(event_time) AS last_event_time
    FROM metering.events WHERE {_OF_WEEK}
""")  # noqa: S608 - constants of ours
_CONFIRMATIONS = text("SELECT follower, organization_id, sequence, needed_from FROM metering.confirmed_positions")
_SEALED = text("SELECT max(sequence) FROM metering.sealed_spans WHERE organization_id = :organization_id")
_SPAN = text(f"""
    SELECT count(*) AS event_count, min(event_time) AS first_event_time, max(event_time) AS last_event_time,
        (SELECT commit_id FROM metering.events WHERE {_OF_WEEK} AND sequence = :upto) AS commit_id
    FROM metering.events WHERE {_OF_WEEK} AND sequence > :after AND sequence <= :upto
""")  # noqa: S608 - constants of ours
_ADD_SPAN = text("""
    INSERT INTO metering.sealed_spans
        (organization_id, after_sequence, sequence, commit_id, week, first_event_time, last_event_time)
    VALUES (:organization_id, :after, :upto, :commit_id, :week, :first_event_time, :last_event_time)
    ON CONFLICT DO NOTHING
""")
_SEAL = text(adding_up_a_span("sealed", _keep_sealed))
_ROWS = text(f"""
    SELECT organization_id, sequence, commit_id, receive_time, source, id, event_time, event_time_nanos,
        project_id, team_id, user_id, agent_id, task_id, session_id, CAST(measurements AS text) AS measurements,
        CAST(provider_call AS text) AS provider_call, reservation_id, reservation_final, task_outcome,
        CAST(labels AS text) AS labels, reversal_of_source, reversal_of_id
    FROM metering.events WHERE {_OF_WEEK} AND sequence > :after AND sequence <= :upto ORDER BY sequence
""")  # noqa: S608 - constants of ours
_ARCHIVED = text("""
    SELECT file_name, sha256, row_count, byte_count FROM metering.archived_weeks WHERE week = :week
""")
_SET_ARCHIVED = text("""
    INSERT INTO metering.archived_weeks AS known (week, file_name, sha256, row_count, byte_count, archive_time)
    VALUES (:week, :file_name, :sha256, :row_count, :byte_count, :now)
    ON CONFLICT (week) DO UPDATE
    SET file_name = excluded.file_name, sha256 = excluded.sha256, row_count = excluded.row_count,
        byte_count = excluded.byte_count, archive_time = excluded.archive_time
    WHERE known.detach_time IS NULL
""")
_DETACH = text("SELECT metering.detach_event_partition(:week, CAST(:followers AS text[]))")
_DROP = text("SELECT metering.drop_event_partition(:week)")
