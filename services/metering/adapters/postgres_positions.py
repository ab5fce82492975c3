"""Where an organization's ledger stands, and begins, within a transaction that may read it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.feed import START, Position
from kit.postgres.database import Database
from services.metering.domain.retention import refuse_before


@asynccontextmanager
async def reading_events(database: Database, organization_id: str) -> AsyncIterator[AsyncConnection]:
    """A transaction that reads one instant of an organization, in which no raw event is dropped.

    The lock comes before the snapshot: else a partition could go between the two, and its horizon would not be seen.
    """
    async with database.transaction(organization_id=organization_id, snapshot=True) as connection:
        await connection.exec_driver_sql("LOCK TABLE ONLY metering.events IN ACCESS SHARE MODE")
        yield connection


async def horizon_of(connection: AsyncConnection, organization_id: str) -> Position:
    """The last position whose raw event is gone; START: all are there."""
    row = (await connection.execute(_HORIZON, {"organization_id": organization_id})).one_or_none()
    return START if row is None else Position(row.sequence, row.commit_id)


async def position_at(connection: AsyncConnection, organization_id: str, sequence: int | None) -> Position:
    """The head, or the position at a sequence if the ledger reaches that far. Raises OutOfRetention for one before the
    horizon: whose entry it is, nobody knows any more.
    """
    row = (await connection.execute(_HEAD, {"organization_id": organization_id})).one_or_none()
    if row is None:
        return START
    if sequence is None or sequence >= row.sequence:
        return Position(row.sequence, row.commit_id)
    horizon = Position(row.horizon_sequence, row.horizon_commit_id)
    refuse_before(horizon, sequence)
    if sequence == horizon.sequence:
        return horizon
    names = {"organization_id": organization_id, "sequence": sequence}
    return Position(sequence, (await connection.execute(_COMMIT_OF, names)).scalar_one())


_HEAD = text("""
    SELECT heads.sequence, heads.commit_id, coalesce(horizons.sequence, 0) AS horizon_sequence,
        coalesce(horizons.commit_id, '') AS horizon_commit_id
    FROM metering.ledger_heads AS heads LEFT JOIN metering.ledger_horizons AS horizons USING (organization_id)
    WHERE heads.organization_id = :organization_id
""")
_HORIZON = text("SELECT sequence, commit_id FROM metering.ledger_horizons WHERE organization_id = :organization_id")
_COMMIT_OF = text(
    "SELECT commit_id FROM metering.events WHERE organization_id = :organization_id AND sequence = :sequence"
)
