"""What is remembered of each task: the stretches of time in which it was reported alive."""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import protect

revision = "metering_0004"
down_revision = "metering_0003"

WRITER = "tollbook_metering_writer"


def upgrade() -> None:
    """Makes the table; the writer keeps it, for the one organization that its transaction names."""
    op.execute("""
        CREATE TABLE metering.task_times (
            organization_id text NOT NULL,
            task_id text NOT NULL,
            begins_ms bigint[] NOT NULL, -- of the stretches, by time
            ends_ms bigint[] NOT NULL CHECK (cardinality(ends_ms) = cardinality(begins_ms)),
            total_ms bigint NOT NULL CHECK (total_ms >= 0),
            end_ms bigint, -- NULL: not ended
            is_trimmed boolean NOT NULL,
            -- Not update_time: what no update changes leaves the update within its page.
            create_time timestamptz NOT NULL,
            update_time timestamptz NOT NULL,
            PRIMARY KEY (organization_id, task_id)
        ) WITH (fillfactor = 80);
        CREATE INDEX task_times_by_age ON metering.task_times (organization_id, create_time);
    """)
    op.execute(protect("metering.task_times", tenant_role=WRITER))
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON metering.task_times TO {WRITER}")
