"""By when an invoice has to be paid."""

from __future__ import annotations

from alembic import op

revision = "billing_0012"
down_revision = "billing_0011"


def upgrade() -> None:
    """Adds the time."""
    # NULL: charged when it was finalized, as everything before this was.
    op.execute("ALTER TABLE billing.invoices ADD COLUMN due_time timestamptz CHECK (due_time >= finalize_time)")
