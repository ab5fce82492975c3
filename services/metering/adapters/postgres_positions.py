"""Where an organization's ledger stands, within a transaction that may read it."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.feed import START, Position


async def position_at(connection: AsyncConnection, organization_id: str, sequence: int | None) -> Position:
    """The head, or the position at a sequence if the ledger reaches that far."""
    row = (await connection.execute(_HEAD, {"organization_id": organization_id})).one_or_none()
    if row is None:
        return START
    if sequence is None or sequence >= row.sequence:
        return Position(row.sequence, row.commit_id)
    if sequence == 0:
        return START
    names = {"organization_id": organization_id, "sequence": sequence}
    return Position(sequence, (await connection.execute(_COMMIT_OF, names)).scalar_one())


_HEAD = text("SELECT sequence, commit_id FROM metering.ledger_heads WHERE organization_id = :organization_id")
_COMMIT_OF = text(
    "SELECT commit_id FROM metering.events WHERE organization_id = :organization_id AND sequence = :sequence"
)
