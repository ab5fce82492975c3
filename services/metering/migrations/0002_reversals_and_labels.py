"""Reversals, labels and how tasks ended.

A reversal is a row of `events` like any other, with a sequence of its own. It stands at the time of what it takes back
and has that event's subject, labels, task outcome, provider call and reservation, with every quantity negated (the
measurements, and the tokens and latency of the call): so a sum over rows needs no word about reversals. What must not
see events that were taken back (a count, a maximum) leaves out both rows of each pair in `reversals`. A row stays
readable when that of its target is dropped.
"""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import allow_all, protect

revision = "metering_0002"
down_revision = "metering_0001"

TENANT, WRITER = "tollbook_metering_tenant", "tollbook_metering_writer"


def upgrade() -> None:
    """Adds the columns, and the memory of what was reversed."""
    op.execute("""
        ALTER TABLE metering.events
            ADD COLUMN task_outcome smallint NOT NULL DEFAULT 0,
            ADD COLUMN labels jsonb, -- NULL: none
            ADD COLUMN reversal_of_source text, -- both NULL: not a reversal
            ADD COLUMN reversal_of_id text,
            ADD CHECK ((reversal_of_source IS NULL) = (reversal_of_id IS NULL));

        -- Which sequences were taken back, by which; outlives the raw events, as identities do.
        CREATE TABLE metering.reversals (
            organization_id text NOT NULL,
            target_sequence bigint NOT NULL,
            sequence bigint NOT NULL CHECK (sequence > target_sequence),
            PRIMARY KEY (organization_id, target_sequence),
            UNIQUE (organization_id, sequence));
    """)
    op.execute(protect("metering.reversals", tenant_role=TENANT))
    for command in ("SELECT", "INSERT"):
        op.execute(allow_all("metering.reversals", role=WRITER, command=command))
    # What is to be reversed must be read. The writer sees events of the one organization that its transaction names.
    op.execute(f"""
        GRANT SELECT ON metering.reversals TO {TENANT};
        GRANT SELECT, INSERT ON metering.reversals TO {WRITER};
        ALTER POLICY tenant ON metering.events TO {TENANT}, {WRITER};
        GRANT SELECT ON metering.events TO {WRITER};
    """)
