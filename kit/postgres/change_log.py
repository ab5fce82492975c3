"""The per-organization change log that an owner of state keeps for its followers (see kit.feed).

Two tables per schema, made by `change_log_tables()` in a migration: `changes` (organization_id, sequence, commit_id,
body) and `change_heads`. An entry is written in the transaction of the change itself; locking the organization's head
row makes sequences gapless and in commit order, so a reader of `sequence > n` never misses an entry that commits late.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import LogRewound
from kit.feed import Change, Page, Position
from kit.head_watch import Look
from kit.postgres.heads import look_at_heads
from kit.postgres.row_security import allow_all, protect

PAGE_ENTRIES = 500


def change_log_tables(schema: str, *, tenant_role: str, fleet_role: str) -> str:
    """The statements that make the two tables: tenants append and read their own, the fleet role sees heads alone."""
    return f"""
        CREATE TABLE {schema}.changes (
            organization_id text NOT NULL, sequence bigint NOT NULL, commit_id text NOT NULL,
            kind text NOT NULL, body jsonb NOT NULL, create_time timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organization_id, sequence));
        CREATE TABLE {schema}.change_heads (
            organization_id text NOT NULL PRIMARY KEY, sequence bigint NOT NULL, commit_id text NOT NULL);
        {protect(f"{schema}.changes", tenant_role=tenant_role)}
        {protect(f"{schema}.change_heads", tenant_role=tenant_role)}
        {allow_all(f"{schema}.change_heads", role=fleet_role, command="SELECT")}
        GRANT SELECT, INSERT ON {schema}.changes TO {tenant_role};
        GRANT SELECT, INSERT, UPDATE ON {schema}.change_heads TO {tenant_role};
        GRANT SELECT ON {schema}.change_heads TO {fleet_role};
    """


class ChangeLog:
    """The change log of one schema."""

    def __init__(self, schema: str) -> None:
        self._schema = schema

    async def append(
        self, connection: AsyncConnection, organization_id: str, *, kind: str, body: Mapping[str, object]
    ) -> Position:
        """Writes the next entry, inside the caller's transaction, which must be bound to the organization. The body
        is JSON without floats. Locks the organization's head until the transaction ends.
        """
        commit_id = secrets.token_hex(8)
        head = text(
            f"INSERT INTO {self._schema}.change_heads AS heads VALUES (:organization_id, 1, :commit_id)"  # noqa: S608
            " ON CONFLICT (organization_id) DO UPDATE SET sequence = heads.sequence + 1, commit_id = :commit_id"
            " RETURNING sequence"
        )
        names = {"organization_id": organization_id, "commit_id": commit_id}
        sequence = (await connection.execute(head, names)).scalar_one()
        entry = text(
            f"INSERT INTO {self._schema}.changes (organization_id, sequence, commit_id, kind, body)"  # noqa: S608
            " VALUES (:organization_id, :sequence, :commit_id, :kind, CAST(:body AS jsonb))"
        )
        await connection.execute(entry, names | {"sequence": sequence, "kind": kind, "body": json.dumps(body)})
        return Position(sequence, commit_id)

    async def read(self, connection: AsyncConnection, organization_id: str, after: Position) -> Page[Change]:
        """The entries after a position, up to PAGE_ENTRIES. The transaction must be bound to the organization.
        Raises LogRewound when the position is not in this log.
        """
        rows = await connection.execute(
            text(
                f"SELECT sequence, commit_id, kind, body FROM {self._schema}.changes"  # noqa: S608
                " WHERE organization_id = :organization_id AND sequence >= :sequence ORDER BY sequence LIMIT :count"
            ),
            {"organization_id": organization_id, "sequence": after.sequence, "count": PAGE_ENTRIES + 1},
        )
        entries = [Change(Position(row.sequence, row.commit_id), row.kind, row.body) for row in rows]
        if after.sequence:
            if not entries or entries[0].position != after:
                raise LogRewound(sequence=after.sequence)
            entries = entries[1:]
        return Page(tuple(entries), entries[-1].position if entries else after)

    async def heads(self, connection: AsyncConnection, mark: str) -> Look:
        """As kit.head_watch.ReadHeads; for the fleet role."""
        return await look_at_heads(connection, f"{self._schema}.change_heads", mark)
