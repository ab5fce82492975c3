"""What followers have confirmed, in Postgres, as the writer role."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text

from kit.postgres.database import Database
from services.metering.domain.retention import Confirmation


class PostgresConfirmations:
    """Confirmations as the writer role, all organizations of a call in one statement."""

    def __init__(self, writer: Database) -> None:
        self._writer = writer

    async def confirm(self, follower: str, confirmations: Sequence[Confirmation], *, now: datetime) -> int:
        """As Confirmations."""
        names = {
            "follower": follower,
            "now": now,
            "organization_ids": [each.organization_id for each in confirmations],
            "sequences": [each.position.sequence for each in confirmations],
            "commit_ids": [each.position.commit_id for each in confirmations],
            "needed_from": [each.needed_from for each in confirmations],
        }
        async with self._writer.transaction() as connection:
            return (await connection.execute(_CONFIRM, names)).rowcount


# In order, so that two calls of one follower cannot wait for each other in a circle.
_CONFIRM = text("""
    INSERT INTO metering.confirmed_positions AS confirmed
        (organization_id, follower, sequence, needed_from, confirm_time)
    SELECT organization_id, :follower, said.sequence, said.needed_from, :now
    FROM unnest(CAST(:organization_ids AS text[]), CAST(:sequences AS bigint[]), CAST(:commit_ids AS text[]),
                CAST(:needed_from AS timestamptz[])) AS said (organization_id, sequence, commit_id, needed_from)
    JOIN metering.ledger_heads AS heads USING (organization_id)
    WHERE said.sequence < heads.sequence
        OR (said.sequence = heads.sequence AND said.commit_id IN ('', heads.commit_id))
    ORDER BY organization_id COLLATE "C"
    ON CONFLICT (organization_id, follower) DO UPDATE
    SET sequence = excluded.sequence, needed_from = excluded.needed_from, confirm_time = excluded.confirm_time
""")
