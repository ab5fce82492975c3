"""How meters aggregate, and rollups: totals per quarter of an hour, kept in step with the ledger.

A rollup row adds up the events whose event_time is in its bucket: one measurement, or all fields of provider calls;
reversals are negated rows of the ledger, so they need no word here. Measurements are named and not meters, so a meter
that is created later finds its past rolled up. Totals of the whole organization stand in tables of their own: they are
asked for most, and are hundreds of times smaller. The position says which entries are in; it moves in the transaction
that adds them. All five tables can be emptied together at any time, and come back the same.
"""

from __future__ import annotations

from alembic import op

from kit.postgres.row_security import protect

revision = "metering_0003"
down_revision = "metering_0002"

TENANT, WRITER = "tollbook_metering_tenant", "tollbook_metering_writer"


def upgrade() -> None:
    """Widens the catalog of meters and makes the rollups."""
    op.execute(f"""
        ALTER TABLE metering.meters
            ADD COLUMN aggregation text NOT NULL DEFAULT 'SUM' CHECK (aggregation IN
                ('SUM', 'COUNT', 'MAX', 'LATEST', 'UNIQUE_COUNT', 'TIME_WEIGHTED_SUM')),
            ADD COLUMN value_source text NOT NULL DEFAULT 'MEASUREMENT',
            ADD COLUMN dimension text,
            ADD CHECK ((aggregation = 'UNIQUE_COUNT') = (dimension IS NOT NULL)),
            ADD CHECK ((value_source = 'DIMENSION') = (dimension IS NOT NULL));
        ALTER TABLE metering.meters ALTER COLUMN aggregation DROP DEFAULT, ALTER COLUMN value_source DROP DEFAULT;

        -- What was asked for under each caller's id, for retries.
        CREATE TABLE metering.meter_requests (
            request_id text PRIMARY KEY,
            content text NOT NULL);

        GRANT SELECT, INSERT ON metering.meters, metering.meter_requests TO {WRITER};
    """)
    # Sums are numeric: a thousand of the largest quantities would not fit a bigint, and a rollup must never get stuck.
    # The fill factor leaves room for the updates of the buckets of the hour within their pages.
    op.execute("""
        CREATE TABLE metering.rollup_positions (
            organization_id text PRIMARY KEY,
            sequence bigint NOT NULL CHECK (sequence >= 0),
            commit_id text NOT NULL);
    """)
    calls = """
        call_count bigint NOT NULL, latency_count bigint NOT NULL, latency_ms numeric NOT NULL,
        tokens_input_uncached numeric NOT NULL, tokens_cache_read numeric NOT NULL,
        tokens_cache_write numeric NOT NULL, tokens_output numeric NOT NULL, tokens_reasoning numeric NOT NULL
    """
    for prefix, parts in (
        ("rollup", ()),
        ("subject_rollup", ("project_id", "team_id", "user_id", "agent_id")),
    ):
        columns, keys = "".join(f"{part} text NOT NULL, " for part in parts), "".join(f", {part}" for part in parts)
        op.execute(f"""
            CREATE TABLE metering.{prefix}_measurements (
                organization_id text NOT NULL, measurement text NOT NULL, bucket_start timestamptz NOT NULL, {columns}
                quantity numeric NOT NULL, event_count bigint NOT NULL,
                PRIMARY KEY (organization_id, measurement, bucket_start{keys})
            ) WITH (fillfactor = 80);

            CREATE TABLE metering.{prefix}_calls (
                organization_id text NOT NULL, bucket_start timestamptz NOT NULL, {columns} {calls},
                PRIMARY KEY (organization_id, bucket_start{keys})
            ) WITH (fillfactor = 80);
        """)
    for table in (
        "rollup_positions",
        "rollup_measurements",
        "rollup_calls",
        "subject_rollup_measurements",
        "subject_rollup_calls",
    ):
        op.execute(protect(f"metering.{table}", tenant_role=TENANT))
        # The writer keeps them for the one organization that its transaction names.
        op.execute(f"""
            ALTER POLICY tenant ON metering.{table} TO {TENANT}, {WRITER};
            GRANT SELECT ON metering.{table} TO {TENANT};
            GRANT SELECT, INSERT, UPDATE, DELETE ON metering.{table} TO {WRITER};
        """)
