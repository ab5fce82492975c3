"""Jobs: procrastinate's tables and functions, in billing's schema, for the fleet role."""

from __future__ import annotations

from alembic import op
from procrastinate import App
from procrastinate.testing import InMemoryConnector

revision = "billing_0002"
down_revision = "billing_0001"

FLEET = "tollbook_billing_fleet"


def upgrade() -> None:
    """Makes what procrastinate of the locked version needs. A newer one that changes it brings a revision with it."""
    # A job names rows by their ids and holds nothing of any organization.
    op.execute("SET LOCAL search_path TO billing")
    op.execute(App(connector=InMemoryConnector()).schema_manager.get_schema())
    op.execute("SET LOCAL search_path TO DEFAULT")
    for table in ("workers", "jobs", "periodic_defers", "events"):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON billing.procrastinate_{table} TO {FLEET}")
    op.execute(f"""
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA billing TO {FLEET};
    """)
