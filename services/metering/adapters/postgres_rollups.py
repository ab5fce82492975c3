"""Rollups in Postgres: they follow the ledger beside them, as the writer role bound to one organization at a time.

A follower like any other (kit.feed), but its feed hands over spans of sequences and not events: the database adds them
up where they lie. See migrations/0003_meters_and_rollups.py for what a row is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from sqlalchemy import text

from kit.errors import LogRewound
from kit.feed import Head, Page, Position
from kit.head_watch import HeadWatch
from kit.postgres.database import Database
from services.metering.adapters.bucket_sums import BUCKET, TABLES, adding_up_a_span
from services.metering.adapters.postgres_positions import horizon_of, position_at, reading_events
from services.metering.domain import limits

# Totals are exact however far behind rollups are, so they wait for a second's entries and add them up at once.
WATCH_EVERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Span:
    """Entries after one sequence up to another, which is included."""

    after: int
    upto: int


class RawEventsGone(Exception):
    """Raw events are missing that retention did not drop, so nothing was rolled up and nothing changed."""


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
        async with reading_events(self._writer, key) as connection:
            head = await position_at(connection, key, None)
            known = await position_at(connection, key, after.sequence)
        if known != after:
            raise LogRewound(sequence=after.sequence)
        while after.sequence < head.sequence:
            upto = min(head.sequence, after.sequence + limits.ROLLUP_SPAN_EVENTS)
            async with reading_events(self._writer, key) as connection:
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
                    if (await horizon_of(connection, key)).sequence > span.after:
                        return False  # dropped meanwhile: sealed totals have them
                    raise RawEventsGone(f"{key}: {count} events are left of {span}")
                await connection.execute(_ADD, names | {"bucket": BUCKET})
            moved = {"organization_id": key, "sequence": page.position.sequence, "commit_id": page.position.commit_id}
            await connection.execute(_MOVE_POSITION, moved)
            return True

    async def rebuild(self, key: str) -> None:
        """Makes the organization's rollups what was sealed, at the horizon, to go on from there. Raises RawEventsGone
        when the ledger does not go on from there.
        """
        async with self._writer.transaction(organization_id=key) as connection:
            names = {"organization_id": key}
            await connection.execute(_BEGIN_POSITION, names)
            await connection.execute(_LOCK_POSITION, names)
            first = (await connection.execute(_FIRST, names)).scalar_one()
            # After the events: these can only have been dropped since with their horizon moved.
            horizon = await horizon_of(connection, key)
            if first is not None and first != horizon.sequence + 1:
                raise RawEventsGone(f"{key}: the ledger goes on with {first} after {horizon.sequence}")
            begun = names | {"sequence": horizon.sequence, "commit_id": horizon.commit_id}
            for statement in (*_EMPTY, *_FILL, _MOVE_POSITION):
                await connection.execute(statement, begun)


_POSITION = text("SELECT sequence, commit_id FROM metering.rollup_positions WHERE organization_id = :organization_id")
_LOCK_POSITION = text(f"{_POSITION.text} FOR UPDATE")
_BEGIN_POSITION = text("""
    INSERT INTO metering.rollup_positions (organization_id, sequence, commit_id)
    VALUES (:organization_id, 0, '') ON CONFLICT (organization_id) DO NOTHING
""")
_MOVE_POSITION = text("""
    UPDATE metering.rollup_positions SET sequence = :sequence, commit_id = :commit_id
    WHERE organization_id = :organization_id
""")
_FIRST = text("SELECT min(sequence) FROM metering.events WHERE organization_id = :organization_id")
_COUNT = text("""
    SELECT count(*) FROM metering.events
    WHERE organization_id = :organization_id AND sequence > :after AND sequence <= :upto
""")


def _add(table: str, keys: tuple[str, ...], sums: tuple[str, ...], rows: str) -> str:
    """Adds rows to those that are kept under the same keys."""
    added = ", ".join(f"{name} = kept.{name} + excluded.{name}" for name in sums)
    return f"""
        INSERT INTO metering.{table} AS kept (organization_id, {", ".join((*keys, *sums))})
        SELECT :organization_id, added.* FROM ({rows}) AS added
        ON CONFLICT (organization_id, {", ".join(keys)}) DO UPDATE SET {added}
    """  # noqa: S608 - constants of ours


def _copy_sealed(name: str, keys: tuple[str, ...], sums: tuple[str, ...]) -> str:
    """What was sealed up to the horizon, of all spans together."""
    by, added = ", ".join(keys), ", ".join(f"sum({column})" for column in sums)
    return f"""
        INSERT INTO metering.{name.format(kind="rollup")} (organization_id, {", ".join((*keys, *sums))})
        SELECT organization_id, {by}, {added} FROM metering.{name.format(kind="sealed")}
        WHERE organization_id = :organization_id AND sequence <= :sequence GROUP BY organization_id, {by}
    """  # noqa: S608 - constants of ours


_ADD = text(adding_up_a_span("rollup", _add))
_EMPTY = [
    text(f"DELETE FROM metering.{name.format(kind='rollup')} WHERE organization_id = :organization_id")  # noqa: S608
    for name in TABLES
]
_FILL = [text(_copy_sealed(name, *columns)) for name, columns in TABLES.items()]
