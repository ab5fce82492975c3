"""The volume of each ledger: the sum of the largest quantities of its events, without those that were taken back.

It moves with the head, under the same lock and in the same statement, and bounds every sum; see domain/volume.py. It
is numeric, because a ledger from before may hold more than a bigint.
"""

from __future__ import annotations

from alembic import op

revision = "metering_0006"
down_revision = "metering_0005"


def upgrade() -> None:
    """Adds the column, with the volume of what is recorded already. A reversal's row is negative."""
    op.execute("ALTER TABLE metering.ledger_heads ADD COLUMN volume numeric NOT NULL DEFAULT 0")
    # Row security that is forced hides every row from an owner who is no superuser, and nothing would be added up.
    tables = ("ledger_heads", "events")
    for table in tables:
        op.execute(f"ALTER TABLE metering.{table} NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        UPDATE metering.ledger_heads AS heads SET volume = recorded.volume
        FROM (
            SELECT events.organization_id, sum(
                CASE WHEN reversal_of_id IS NULL THEN 1 ELSE -1 END * coalesce((
                    SELECT max(abs(quantity)) FROM (
                        SELECT value::numeric AS quantity FROM jsonb_each_text(measurements)
                        UNION ALL
                        SELECT CASE key WHEN 'latency_ns' THEN trunc(value::numeric / 1000000) ELSE value::numeric END
                        FROM jsonb_each_text(provider_call) WHERE key LIKE 'tokens%' OR key = 'latency_ns'
                    ) AS counted
                ), 0)) AS volume
            FROM metering.events GROUP BY events.organization_id
        ) AS recorded
        WHERE recorded.organization_id = heads.organization_id
    """)
    for table in tables:
        op.execute(f"ALTER TABLE metering.{table} FORCE ROW LEVEL SECURITY")
