"""Rollups in Postgres: they follow the ledger beside them, as the writer role bound to one organization at a time.

A follower like any other (kit.feed), but its feed hands over spans of sequences and not events: the database adds them
up where they lie. See migrations/0003_meters_and_rollups.py for what a row is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text

from kit.errors import LogRewound
from kit.feed import START, Head, Page, Position
from kit.head_watch import HeadWatch
from kit.postgres.database import Database
from services.metering.adapters.postgres_positions import position_at
from services.metering.adapters.usage_values import CALL_COLUMNS
from services.metering.domain import limits
from services.metering.domain.rollups import BUCKET_US

# Totals are exact however far behind rollups are, so they wait for a second's entries and add them up at once.
WATCH_EVERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Span:
    """Entries after one sequence up to another, which is included."""

    after: int
    upto: int


class RawEventsGone(Exception):
    """The raw events of a span are no longer all there, so it cannot be rolled up: what rollups hold is the record now,
    and nothing was changed.
    """


class LedgerSpans:
    """kit.feed.Feed of the service's own ledger, in spans."""

    def __init__(self, writer: Database, heads: HeadWatch) -> None:
        self._writer = writer
        self._heads = heads

    async def watch(self) -> AsyncIterator[Sequence[Head]]:
        """As kit.feed.Feed."""
        async with aclosing(self._heads.watch()) as watch:
            async for heads in watch:
                yield heads
                await asyncio.sleep(WATCH_EVERY_SECONDS)

    async def read(self, key: str, after: Position) -> AsyncIterator[Page[Span]]:
        """As kit.feed.Feed."""
        async with self._writer.transaction(organization_id=key, snapshot=True) as connection:
            head = await position_at(connection, key, None)
            known = await position_at(connection, key, after.sequence)
        if known != after:
            raise LogRewound(sequence=after.sequence)
        while after.sequence < head.sequence:
            upto = min(head.sequence, after.sequence + limits.ROLLUP_SPAN_EVENTS)
            async with self._writer.transaction(organization_id=key, snapshot=True) as connection:
                position = await position_at(connection, key, upto)
            yield Page((Span(after.sequence, position.sequence),), position)
            after = position


class PostgresRollups:
    """kit.feed.Effect that keeps the rollups of one organization, with its position in the same transaction."""

    def __init__(self, writer: Database) -> None:
        self._writer = writer

    async def position(self, key: str) -> Position | None:
        """As kit.feed.Effect."""
        async with self._writer.transaction(organization_id=key) as connection:
            row = (await connection.execute(_POSITION, {"organization_id": key})).one_or_none()
            return None if row is None else Position(row.sequence, row.commit_id)

    async def apply(self, key: str, after: Position, page: Page[Span]) -> bool:
        """As kit.feed.Effect. Raises RawEventsGone."""
        async with self._writer.transaction(organization_id=key) as connection:
            row = (await connection.execute(_LOCK_POSITION, {"organization_id": key})).one_or_none()
            if row is None or Position(row.sequence, row.commit_id) != after:
                return False
            for span in page.entries:
                names = {"organization_id": key, "after": span.after, "upto": span.upto}
                count = (await connection.execute(_COUNT, names)).scalar_one()
                if count != span.upto - span.after:
                    raise RawEventsGone(f"{key}: {count} events are left of {span}")
                await connection.execute(_ADD, names | {"bucket": _BUCKET})
            moved = {"organization_id": key, "sequence": page.position.sequence, "commit_id": page.position.commit_id}
            await connection.execute(_MOVE_POSITION, moved)
            return True

    async def rebuild(self, key: str) -> None:
        """Empties the organization's rollups, to begin from its first event. Raises RawEventsGone when that is gone."""
        async with self._writer.transaction(organization_id=key) as connection:
            names = {"organization_id": key, "sequence": START.sequence, "commit_id": START.commit_id}
            await connection.execute(_BEGIN_POSITION, names)
            await connection.execute(_LOCK_POSITION, names)
            if (await connection.execute(_FIRST, names)).scalar_one() not in (None, 1):
                raise RawEventsGone(f"{key}: the ledger does not begin with its first event")
            for statement in _EMPTY:
                await connection.execute(statement, names)
            await connection.execute(_MOVE_POSITION, names)


_BUCKET = timedelta(microseconds=BUCKET_US)

_POSITION = text("SELECT sequence, commit_id FROM metering.rollup_positions WHERE organization_id = :organization_id")
_LOCK_POSITION = text(f"{_POSITION.text} FOR UPDATE")
_BEGIN_POSITION = text("""
    INSERT INTO metering.rollup_positions (organization_id, sequence, commit_id)
    VALUES (:organization_id, :sequence, :commit_id) ON CONFLICT (organization_id) DO NOTHING
""")
_MOVE_POSITION = text("""
    UPDATE metering.rollup_positions SET sequence = :sequence, commit_id = :commit_id
    WHERE organization_id = :organization_id
""")
_FIRST = text("SELECT min(sequence) FROM metering.events WHERE organization_id = :organization_id")
_EMPTY = [
    text(f"DELETE FROM metering.{table} WHERE organization_id = :organization_id")  # noqa: S608 - constants of ours
    for table in ("rollup_measurements", "rollup_calls", "subject_rollup_measurements", "subject_rollup_calls")
]
_COUNT = text("""
    SELECT count(*) FROM metering.events
    WHERE organization_id = :organization_id AND sequence > :after AND sequence <= :upto
""")


def _add(table: str, keys: str, columns: Iterable[str], rows: str) -> str:
    """Adds rows to those that are kept under the same keys. rows: a SELECT of keys, then columns."""
    sums = ", ".join(f"{column} = kept.{column} + excluded.{column}" for column in columns)
    return f"""
        INSERT INTO metering.{table} AS kept (organization_id, {keys}, {", ".join(columns)})
        SELECT :organization_id, added.* FROM ({rows}) AS added
        ON CONFLICT (organization_id, {keys}) DO UPDATE SET {sums}
    """  # noqa: S608 - constants of ours


def _summed(keys: str, columns: Iterable[str], rows: str) -> str:
    sums = ", ".join(f"sum({column})" for column in columns)
    return f"SELECT {keys}, {sums} FROM {rows} GROUP BY {keys}"  # noqa: S608 - constants of ours


_SUBJECT = "project_id, team_id, user_id, agent_id"
_MEASURED = ("quantity", "event_count")
_call_sums = ", ".join(f"sum({value}) AS {column}" for column, value in CALL_COLUMNS.items())
# One pass over the events. Totals by subject come first, and those of the organization from them.
_ADD = text(f"""
    WITH entry AS MATERIALIZED (
        SELECT date_bin(CAST(:bucket AS interval), event_time, TIMESTAMPTZ '1970-01-01 00:00:00+00') AS bucket_start,
            {_SUBJECT}, measurements, provider_call, CASE WHEN reversal_of_id IS NULL THEN 1 ELSE -1 END AS direction
        FROM metering.events
        WHERE organization_id = :organization_id AND sequence > :after AND sequence <= :upto),
    measured AS MATERIALIZED (
        SELECT key AS measurement, bucket_start, {_SUBJECT},
            sum(CAST(value AS bigint)) AS quantity, sum(direction) AS event_count
        FROM entry CROSS JOIN LATERAL jsonb_each_text(measurements) GROUP BY key, bucket_start, {_SUBJECT}),
    called AS MATERIALIZED (
        SELECT bucket_start, {_SUBJECT}, {_call_sums}
        FROM entry WHERE provider_call IS NOT NULL GROUP BY bucket_start, {_SUBJECT}),
    kept_measured_by_subject AS ({
    _add("subject_rollup_measurements", f"measurement, bucket_start, {_SUBJECT}", _MEASURED, "SELECT * FROM measured")
}),
    kept_called_by_subject AS ({
    _add("subject_rollup_calls", f"bucket_start, {_SUBJECT}", CALL_COLUMNS, "SELECT * FROM called")
}),
    kept_measured AS ({
    _add(
        "rollup_measurements",
        "measurement, bucket_start",
        _MEASURED,
        _summed("measurement, bucket_start", _MEASURED, "measured"),
    )
})
    {_add("rollup_calls", "bucket_start", CALL_COLUMNS, _summed("bucket_start", CALL_COLUMNS, "called"))}
""")  # noqa: S608 - constants of ours
