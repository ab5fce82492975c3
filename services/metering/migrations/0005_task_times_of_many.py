"""Reports of many organizations in one transaction.

What is remembered of tasks is to reports what identities are to events, so the writer reaches it in the same way: any
organization's. Named one by one, the organizations of a transaction would cost four statements each.
"""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import allow_all

revision = "metering_0005"
down_revision = "metering_0004"

TENANT, WRITER = "tollbook_metering_tenant", "tollbook_metering_writer"


def upgrade() -> None:
    """Opens the table to the writer; the tenant role keeps its policy, and has no grant."""
    op.execute(f"ALTER POLICY tenant ON metering.task_times TO {TENANT}")
    op.execute(allow_all("metering.task_times", role=WRITER))
