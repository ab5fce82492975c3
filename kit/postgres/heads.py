"""The heads of logs that a schema keeps, one row per organization: all of them, or those that moved since a look."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.feed import Head, Position
from kit.head_watch import Look


async def look_at_heads(connection: AsyncConnection, table: str, mark: str) -> Look:
    """Looks at a table of (organization_id, sequence, commit_id), in one statement; for a role that sees every row.

    The mark is the oldest transaction that was under way at the look. A row that is not visible yet was written by that
    one or a later one: so a row that commits late is never missed, whatever time it carries. Rows of transactions that
    were done by then may be seen again. A mark of another server, or of this one before it was started, sees every row:
    it counts other transactions (a lost failover, a restored backup), also where its number was reached again since.
    """
    server, _, oldest = mark.rpartition(" ")
    names = {"server": server, "oldest": oldest}
    rows = (await connection.execute(text(_LOOK.format(table=table)), names)).all()
    heads = [Head(row.organization_id, Position(row.sequence, row.commit_id)) for row in rows if row.organization_id]
    return Look(heads, rows[0].mark)


# The outer join answers the mark even when no head moved. Transaction numbers of rows (xmin) have 32 bits and wrap
# around, which age() minds: it counts back from the newest; of 0, which is no transaction, it is the largest number.
# A row from before a wrap-around may look young, and is seen once more than needed.
_LOOK = """
    SELECT concat(server, ' ', oldest) AS mark, heads.organization_id, heads.sequence, heads.commit_id
    FROM (SELECT CAST(extract(epoch FROM pg_postmaster_start_time()) AS text) AS server,
              pg_snapshot_xmin(pg_current_snapshot()) AS oldest) AS look
    LEFT JOIN {table} AS heads ON heads.sequence > 0
        AND (age(heads.xmin) <= age(xid(CAST(:oldest AS xid8))) OR server <> :server)
"""
