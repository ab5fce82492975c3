"""Provider calls that are taken back: rows that cancel out the call's own, at the same time, with every number negated.

Nothing is deleted: a page of the ledger only ever adds rows, so applying it needs no look at what is there, and prices
that are set later re-rate both rows of a pair alike.
"""

from __future__ import annotations

from alembic import op

revision = "analytics_0002"
down_revision = "analytics_0001"


def upgrade() -> None:
    """Lets costs go below zero, for calls that are taken back."""
    op.execute("""
        ALTER TABLE analytics.call_costs
            ADD COLUMN call_count smallint NOT NULL DEFAULT 1 CHECK (call_count IN (1, -1)),
            DROP CONSTRAINT call_costs_cost_femto_usd_check,
            DROP CONSTRAINT call_costs_baseline_femto_usd_check,
            ADD CHECK (cost_femto_usd * call_count >= 0),
            ADD CHECK (baseline_femto_usd * call_count >= 0);
        ALTER TABLE analytics.call_costs ALTER COLUMN call_count DROP DEFAULT;
        DROP INDEX analytics.call_costs_by_time;
        CREATE INDEX call_costs_by_time ON analytics.call_costs (organization_id, event_time)
            INCLUDE (provider, cost_femto_usd, baseline_femto_usd, call_count);
    """)
